//! A store: whether it answers and how, whether all of it is there, and whether what it holds can be restored here.

use super::{
    Report, criu, size,
    system::{AGENT_MEMORY, OWN_DESCRIPTORS, available, descriptor_limit, memory_limit, pid_max},
};
use crate::cli::DoctorArgs;
use criu_images::{Checkpoint, ImageSource, PAGE_SIZE};
use futures::{StreamExt, stream};
use page_store::{Error, FrameNumber, HttpVersion, MANIFEST_NAME, Manifest, ObjectRef, SlimDump, Store};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// Requests that the latency is taken from.
const SAMPLES: usize = 5;
/// A fault waits for a request: with more than this a service is seldom usable until its memory has come.
const FAR: Duration = Duration::from_millis(100);
/// Objects that are looked at at once.
const LOOKS_AT_ONCE: usize = 8;
/// Objects that are named in a message.
const MOST_NAMED: usize = 5;
/// Larger slim dumps are not downloaded only to be looked at.
const MOST_SLIM: u64 = 64 << 20;

pub(super) async fn check(report: &mut Report, location: &str, args: &DoctorArgs) {
    let http = if args.http2 { HttpVersion::Http2 } else { HttpVersion::Http1 };
    let opened = async { Store::open_by(location, args.access.options(http)?).await };
    let store = match opened.await {
        Ok(store) => store,
        Err(error) => return not_opened(report, location, &error),
    };
    let manifest = store.manifest();
    report.ok("store", format!("{location} answers"));
    let programs: Vec<_> = manifest.tasks.iter().take(4).map(|task| format!("{} {}", task.pid, task.comm)).collect();
    let more = if manifest.tasks.len() > programs.len() { ", ..." } else { "" };
    let tasks = match manifest.tasks.len() {
        1 => "1 task".to_owned(),
        tasks => format!("{tasks} tasks"),
    };
    report.ok(MANIFEST_NAME, format!("checkpoint {}, {tasks}: {}{more}", manifest.checkpoint_id, programs.join(", ")));
    host(report, &store).await;
    objects(report, &store).await;
    content(report, &store).await;
    if let Some(slim) = slim(report, &store).await {
        machine(report, slim, &args.criu).await;
    }
    pids(report, manifest);
    room(report, manifest);
    cost(report, manifest);
}

fn not_opened(report: &mut Report, location: &str, error: &Error) {
    match error {
        Error::Corrupt { .. } => report.fail(
            MANIFEST_NAME,
            error.to_string(),
            "copy the store again, checkpoint.json last; `pageferry-strip verify` tells whether the original is whole",
        ),
        Error::NotFound { .. } => report.fail(
            "store",
            error.to_string(),
            format!("give the folder or address below which {MANIFEST_NAME} is (of pageferry-server: http://HOST:PORT/store)"),
        ),
        Error::Unsupported { what, .. } if what.contains("pageferry-strip presign") => {
            report.fail("store", error.to_string(), "have a new links file made where the bucket's credentials are, and put it in place of this one");
        }
        Error::Unsupported { what, .. } if what.contains("HTTP 401") => {
            report.fail("store", error.to_string(), "ask for a token that is valid now, and give it with --token-file or PAGEFERRY_TOKEN");
        }
        Error::Unsupported { what, .. } if what.contains("HTTP 403") => report.fail(
            "store",
            error.to_string(),
            "use a token with the scope read (--token-file), or credentials that may read the bucket",
        ),
        Error::Unavailable { problem, .. } if problem.contains("ertificate") => {
            report.fail("store", error.to_string(), "see --tls-ca, --tls-client-cert and --tls-client-key");
        }
        Error::Unavailable { .. } => {
            report.fail("store", error.to_string(), "is the host up, the port right, and no firewall or proxy in between?");
        }
        _ => report.fail("store", error.to_string(), format!("{location} must be a page store or a checkpoint directory")),
    }
}

/// How the host answers, and how fast.
async fn host(report: &mut Report, store: &Store) {
    let manifest = store.manifest();
    let biggest = manifest.objects().max_by_key(|object| object.size).unwrap_or(&manifest.slim.object);
    let mut times = Vec::new();
    let mut answer = None;
    for _ in 0..SAMPLES {
        let asked = Instant::now();
        match store.backend().look(&biggest.object, biggest.size.saturating_sub(1)).await {
            Ok(look) => answer = look.http,
            // The check of objects says what is wrong.
            Err(error) => return tracing::debug!(%error, "no answer to take a time from"),
        }
        times.push(asked.elapsed());
    }
    times.sort_unstable();
    let Some(answer) = answer else { return };
    report.ok("http", answer.version);
    match answer.honours_range {
        true => report.ok("range", "the host sends only what is asked for"),
        false => report.warn(
            "range",
            "the host ignores Range: each object is downloaded as a whole, to a temporary file",
            "turn on range requests for these files, or use another host (any object store, nginx, pageferry-server)",
        ),
    }
    let (median, longest) = (times[SAMPLES / 2], times[SAMPLES - 1]);
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let detail = format!("median of {SAMPLES} small requests {}, longest {}", ms(median), ms(longest));
    match median <= FAR {
        true => report.ok("latency", detail),
        false => report.warn(
            "latency",
            detail,
            "a fault waits as long: use a nearer host or a CDN, and a working set (pageferry-strip working-set)",
        ),
    }
}

/// Whether everything that is named is there, as large as it should be.
async fn objects(report: &mut Report, store: &Store) {
    let all: Vec<_> = store.manifest().objects().filter(|object| object.size > 0).cloned().collect();
    let (count, bytes) = (all.len(), all.iter().map(|object| object.size).sum());
    let looks = stream::iter(all).map(|object| look(store, object)).buffer_unordered(LOOKS_AT_ONCE);
    let mut wrong: Vec<String> = looks.filter_map(|problem| async { problem }).collect().await;
    wrong.sort_unstable();
    if wrong.is_empty() {
        return report.ok("objects", format!("all {count} are there, {}", size(bytes)));
    }
    let more = wrong.len().saturating_sub(MOST_NAMED);
    let mut lines = vec![format!("{} of {count} are not as they should be:", wrong.len())];
    lines.extend(wrong.into_iter().take(MOST_NAMED));
    lines.extend((more > 0).then(|| format!("and {more} more")));
    report.fail(
        "objects",
        lines.join("\n"),
        "copy them from the original again; `pageferry-strip verify` checks every byte",
    );
}

async fn look(store: &Store, object: ObjectRef) -> Option<String> {
    match store.backend().look(&object.object, object.size - 1).await {
        Ok(look) if look.size.is_none_or(|size| size == object.size) => None,
        Ok(look) => {
            let name = store.backend().describe(&object.object);
            Some(format!("{name}: {} bytes, not {}", look.size.unwrap_or_default(), object.size))
        }
        Err(error) => Some(error.to_string()),
    }
}

/// Whether the index can be read, and a frame, to the last byte.
async fn content(report: &mut Report, store: &Store) {
    let advice = "copy the store again; `pageferry-strip verify` checks every byte of it";
    if let Err(error) = store.load_index().await {
        return report.fail("index", error.to_string(), advice);
    }
    report.ok("index", "read, its digest is right");
    if store.frame_count() == 0 {
        return;
    }
    match store.read_frame(FrameNumber(0)).await {
        Ok(_) => report.ok("frame", "the first one is what its digest says"),
        Err(error) => report.fail("frame", error.to_string(), advice),
    }
}

async fn slim(report: &mut Report, store: &Store) -> Option<SlimDump> {
    let object = &store.manifest().slim.object;
    if object.size > MOST_SLIM {
        report.ok(
            "slim-dump",
            format!("{}, not downloaded: what it says of the processor is not checked", size(object.size)),
        );
        return None;
    }
    match store.slim().await {
        Ok(slim) => {
            report.ok("slim-dump", format!("{}, its digest is right", size(object.size)));
            Some(slim)
        }
        Err(error) => {
            report.fail("slim-dump", error.to_string(), "copy the store again");
            None
        }
    }
}

/// Whether this machine has the processor that the checkpoint is of.
async fn machine(report: &mut Report, slim: SlimDump, criu: &Path) {
    let has_cpuinfo = slim.read("cpuinfo.img").ok().flatten().is_some();
    let here = std::env::consts::ARCH;
    match Checkpoint::open(Arc::new(slim.clone())).and_then(|checkpoint| checkpoint.machine()) {
        Ok(machine) if machine.name() == here => report.ok("machine", here),
        Ok(machine) => {
            let detail = format!("the checkpoint is of {}, this machine is {here}", machine.name());
            return report.fail("machine", detail, format!("restore it on a machine of {}", machine.name()));
        }
        Err(error) => {
            return report.fail(
                "machine",
                error.to_string(),
                "make the checkpoint again with a CRIU that we read (4.1, 4.2)",
            );
        }
    }
    if !has_cpuinfo {
        return report
            .ok("cpu-features", "the checkpoint has no cpuinfo.img; CRIU compares what it needs when it restores");
    }
    let folder = match unpacked(&slim) {
        Ok(folder) => folder,
        Err(error) => return report.fail("cpu-features", error, "free some room in the temporary folder"),
    };
    let images = folder.path().join("slim");
    if let Err(error) = criu::cpu_features(criu, &images, criu::REGISTERS).await {
        return report.fail(
            "cpu-features",
            format!("criu cpuinfo check {}:\n{error}", criu::REGISTERS),
            "restore it on a processor with the same registers as the one that it was made on",
        );
    }
    match criu::cpu_features(criu, &images, criu::ALL).await {
        Ok(()) => report.ok("cpu-features", "as they were"),
        Err(error) => report.warn(
            "cpu-features",
            format!("criu cpuinfo check {}:\n{error}", criu::ALL),
            "a program that has chosen instructions which this processor lacks gets SIGILL; more features than before do no harm",
        ),
    }
}

fn unpacked(slim: &SlimDump) -> Result<tempfile::TempDir, String> {
    let folder = tempfile::Builder::new().prefix("pageferry-").tempdir().map_err(|error| error.to_string())?;
    slim.unpack(&folder.path().join("slim")).map_err(|error| error.to_string())?;
    Ok(folder)
}

/// Whether every id that the restore takes is free.
fn pids(report: &mut Report, manifest: &Manifest) {
    let mut ids: Vec<u32> =
        manifest.tasks.iter().flat_map(|task| task.threads.iter().copied().chain([task.pid])).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.first() == Some(&1) {
        return report.ok("pids", "the checkpoint brings a pid namespace of its own");
    }
    let namespace = "restore in a pid namespace of its own (unshare -p -m -n -f --mount-proc)";
    if let (Some(highest), Some(max)) = (ids.last(), pid_max())
        && *highest >= max
    {
        let detail = format!("it needs {highest}, kernel.pid_max is {max}");
        return report.fail("pids", detail, format!("sysctl kernel.pid_max=4194304, or {namespace}"));
    }
    // Thread ids have an entry too, though no listing shows it.
    let taken: Vec<_> = ids.iter().filter(|id| Path::new(&format!("/proc/{id}")).exists()).collect();
    if taken.is_empty() {
        return report.ok("pids", format!("all {} that it needs are free in this pid namespace", ids.len()));
    }
    let named: Vec<_> = taken.iter().take(MOST_NAMED).map(|id| format!("{id} ({})", comm(**id))).collect();
    report.fail(
        "pids",
        format!("{} of {} are taken: {}", taken.len(), ids.len(), named.join(", ")),
        format!("end these processes, or {namespace}"),
    );
}

fn comm(id: u32) -> String {
    std::fs::read_to_string(format!("/proc/{id}/comm")).map_or("?".into(), |name| name.trim().to_owned())
}

/// Whether descriptors and memory suffice.
fn room(report: &mut Report, manifest: &Manifest) {
    let (needed, limit) = (OWN_DESCRIPTORS + 2 * manifest.tasks.len() as u64, descriptor_limit());
    match needed <= limit {
        true => report.ok("descriptors", format!("up to {needed} are needed, {limit} may be had")),
        false => report.fail(
            "descriptors",
            format!("up to {needed} are needed, {limit} may be had"),
            format!("ulimit -Hn {needed}; children that processes fork meanwhile take one each as well"),
        ),
    }
    let needed = manifest.totals.dumped_pages * PAGE_SIZE + AGENT_MEMORY;
    let limits = [("the memory cgroup allows", memory_limit()), ("this machine has available", available())];
    let least = limits.into_iter().filter_map(|(what, limit)| Some((limit?, what))).min();
    match least {
        Some((limit, what)) if limit < needed => report.warn(
            "memory-needed",
            format!("{} with the agent once all has come; {what} {}", size(needed), size(limit)),
            "--complete never fetches only what is touched; else give it more memory",
        ),
        Some((limit, what)) => {
            report.ok(
                "memory-needed",
                format!("{} with the agent once all has come; {what} {}", size(needed), size(limit)),
            );
        }
        None => report.ok("memory-needed", format!("{} with the agent once all has come", size(needed))),
    }
}

/// What a restore downloads.
fn cost(report: &mut Report, manifest: &Manifest) {
    let index: u64 = manifest.index.iter().map(|part| part.object.size).sum();
    let set = manifest.working_sets.last().map_or(0, |set| set.object.size);
    let start = manifest.slim.object.size + index;
    let set_text = if set > 0 { format!(", working set {}", size(set)) } else { String::new() };
    report.ok(
        "cost",
        format!(
            "{} before it runs (slim dump {}, index {}{set_text}), {} of packs at most after that",
            size(start + set),
            size(manifest.slim.object.size),
            size(index),
            size(manifest.totals.pack_bytes)
        ),
    );
}
