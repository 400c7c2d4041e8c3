//! A node cache: whether its folder can be one, and its disk holds as much as it may take.
//!
//! A restore does without a cache where there can be none; only a folder of another use, or of somebody else, stops it.

use super::{Report, size};
use crate::cache::{CacheArgs, PATIENCE, apart};
use page_store::{CachePlace, Error, MIN_CACHE_BYTES};
use std::path::Path;

pub(super) async fn check(report: &mut Report, args: &CacheArgs) {
    let Some(folder) = args.cache_dir.clone() else { return };
    let looked = folder.clone();
    match apart(PATIENCE, move || CachePlace::look(&looked)).await {
        Some(Ok(place)) => {
            found(report, &folder, &place);
            written(report, &folder, &place);
            disk(report, &place);
            room(report, &place, args.cache_size);
        }
        Some(Err(error @ Error::Unsupported { .. })) => report.fail(
            "cache-folder",
            error.to_string(),
            "give --cache-dir a folder that is empty or does not exist, owned by the user that the agent runs as",
        ),
        Some(Err(error)) => report.warn(
            "cache-folder",
            error.to_string(),
            "restores go on without a cache: name a folder of this machine that this user can read and write",
        ),
        None => report.warn(
            "cache-folder",
            format!("{}: the disk has not answered after {} s", folder.display(), PATIENCE.as_secs()),
            "restores go on without a cache: find out what the disk waits for (dmesg), or name a folder on another one",
        ),
    }
}

fn found(report: &mut Report, folder: &Path, place: &CachePlace) {
    let folder = folder.display();
    report.ok(
        "cache-folder",
        match (&place.made_in, place.is_cache) {
            (Some(parent), _) => format!("{folder} does not exist; it will be made, below {}", parent.display()),
            (None, true) => format!("{folder} is a node cache, {} in it", size(place.used)),
            (None, false) => format!("{folder} is empty, and can become a node cache"),
        },
    );
}

/// Whether files can be made, written and locked there.
fn written(report: &mut Report, folder: &Path, place: &CachePlace) {
    let path = place.made_in.as_deref().unwrap_or(folder).display();
    match (&place.write, &place.lock) {
        (Err(error), _) if place.is_cache => report.warn(
            "cache-files",
            format!("{path}: cannot be written to: {error}"),
            "what is in the cache is used, nothing is added: make it writable for this user, or make room",
        ),
        (Err(error), _) => report.warn(
            "cache-files",
            format!("{path}: cannot be written to: {error}"),
            "restores go on without a cache: make it writable for this user, or name another folder",
        ),
        (Ok(()), Err(error)) => report.warn(
            "cache-files",
            format!("{path}: files cannot be locked (flock): {error}"),
            "nothing will be added to the cache: name a folder on a disk of this machine",
        ),
        (Ok(()), Ok(())) if !place.keeps_modes => report.warn(
            "cache-files",
            format!("{path}: a new file is not its owner's alone (mode 600)"),
            "others could read the memory of processes: name a folder on a file system with owners and modes",
        ),
        (Ok(()), Ok(())) => report.ok("cache-files", "can be written and locked, and are their owner's alone"),
    }
}

fn disk(report: &mut Report, place: &CachePlace) {
    match place.file_system {
        None => report.ok("cache-disk", "none of the network, or of memory"),
        Some(name @ ("tmpfs" | "ramfs")) => report.warn(
            "cache-disk",
            format!("{name}: the cache takes memory"),
            "it is gone when the machine starts again: name a folder on a disk, unless that is meant",
        ),
        Some(name) => report.warn(
            "cache-disk",
            format!("{name}: may be as far away as a store"),
            "a cache gains nothing there: name a folder on a disk of this machine",
        ),
    }
}

/// Whether the disk has what the cache may take.
fn room(report: &mut Report, place: &CachePlace, limit: u64) {
    let all = place.used.saturating_add(place.free);
    let detail =
        format!("{} free, --cache-size is {}, {} of it in use", size(place.free), size(limit), size(place.used));
    if place.has_no_inodes {
        return report.warn(
            "cache-room",
            "the file system has no room for another file (inodes)",
            "remove files there, or name another disk",
        );
    }
    match all {
        _ if limit <= all => report.ok("cache-room", detail),
        ..MIN_CACHE_BYTES => report.warn(
            "cache-room",
            detail,
            format!("make room there, or name another disk: a cache takes at least {}", size(MIN_CACHE_BYTES)),
        ),
        _ => report.warn(
            "cache-room",
            detail,
            // Some of it is for others.
            format!(
                "a full disk adds nothing to the cache: make room, or give --cache-size {}M or less",
                all / 10 * 9 / 1_000_000
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    fn place() -> CachePlace {
        CachePlace {
            is_cache: true,
            made_in: None,
            used: 1 << 30,
            free: 9 << 30,
            has_no_inodes: false,
            file_system: None,
            write: Ok(()),
            lock: Ok(()),
            keeps_modes: true,
        }
    }

    fn report(check: impl FnOnce(&mut Report)) -> (Outcome, String) {
        let mut report = Report { checks: Vec::new(), prints: false, quiet: true };
        check(&mut report);
        let check = &report.checks[0];
        (check.outcome, check.advice.clone().unwrap_or_default())
    }

    #[test]
    fn room_is_what_is_free_and_what_the_cache_has_already() {
        let of = |place: CachePlace, limit: u64| report(|report| room(report, &place, limit));
        assert_eq!(of(place(), 10 << 30).0, Outcome::Ok);
        let (outcome, advice) = of(place(), 11 << 30);
        assert!(outcome == Outcome::Warn && advice.contains("--cache-size 9663M"), "{advice}");
        let (outcome, advice) = of(CachePlace { used: 0, free: 1 << 20, ..place() }, 10 << 30);
        assert!(outcome == Outcome::Warn && advice.contains("16.0 MiB"), "{advice}");
        assert_eq!(of(CachePlace { has_no_inodes: true, ..place() }, 1 << 30).0, Outcome::Warn);
    }

    #[test]
    fn what_is_not_as_it_should_be_has_advice() {
        let error = || Err(std::io::ErrorKind::ReadOnlyFilesystem.into());
        for (place, words) in [
            (CachePlace { write: error(), ..place() }, "nothing is added"),
            (CachePlace { write: error(), is_cache: false, ..place() }, "without a cache"),
            (CachePlace { lock: error(), ..place() }, "disk of this machine"),
            (CachePlace { keeps_modes: false, ..place() }, "owners and modes"),
        ] {
            let (outcome, advice) = report(|report| written(report, Path::new("/cache"), &place));
            assert!(outcome == Outcome::Warn && advice.contains(words), "{advice}");
        }
        for name in ["NFS", "tmpfs"] {
            let (outcome, advice) = report(|report| disk(report, &CachePlace { file_system: Some(name), ..place() }));
            assert!(outcome == Outcome::Warn && !advice.is_empty());
        }
    }
}
