//! Behind a cache, many restores cost the store's host what one does.

mod common;

use std::{fs, thread};

use anyhow::ensure;
use common::{Scene, scene};
use pageferry_tests::{Cache, CacheKind, Cell, Checkpoint, Result, Trial, Workdir, agent_restore, http};

/// Restores that run at the same time: as many as a machine with two cores gets done.
const AT_ONCE: u64 = 8;

/// Returns the summary.
fn restore(work: &Workdir, checkpoint: &Checkpoint, url: &str, number: u64) -> Result<serde_json::Value> {
    let cell = Cell::new()?;
    let images = work.path().join(format!("images-{number}"));
    let output = agent_restore(&cell, url, &images, &["--json"], &[])?;
    checkpoint.check(&cell)?;
    fs::remove_dir_all(images)?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn many_cost_what_one_does(kind: CacheKind) -> Result<()> {
    let trial = Trial::new("agents behind a cache", 10);
    let Scene { work, checkpoint, split } = scene("redis", 5_000)?;
    let cache = Cache::start(kind, &work, work.path())?;
    let url = cache.url("store");
    thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|worker| {
                let numbers = (worker..trial.count).step_by(AT_ONCE as usize);
                let (work, checkpoint, url) = (&work, &checkpoint, &url);
                scope.spawn(move || {
                    numbers.into_iter().try_for_each(|number| restore(work, checkpoint, url, number).map(drop))
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a restore panicked"))
    })?;
    let requests = cache.requests()?;
    let (manifests, objects): (Vec<_>, Vec<_>) =
        requests.iter().partition(|(what, _)| what.contains("checkpoint.json"));
    assert!(!manifests.is_empty() && objects.len() >= 3, "{requests:?}");
    for (object, count) in &objects {
        ensure!(**count == 1, "{object} was fetched {count} times: {requests:#?}");
    }
    // Whole objects, or a piece for each MiB begun.
    let mut expected = 0;
    for folder in ["index", "packs", "slim"] {
        for entry in fs::read_dir(split.store.join(folder))? {
            let size = entry?.metadata()?.len();
            expected += if kind == CacheKind::Varnish { 1 } else { size.div_ceil(1 << 20) };
        }
    }
    assert_eq!(objects.len() as u64, expected, "{requests:#?}");
    trial.report(&format!(
        "{kind:?}: {} restores, all right; {expected} objects or pieces, each fetched once",
        trial.count
    ));
    Ok(())
}

#[test]
fn nginx_fetches_each_piece_once() -> Result<()> {
    many_cost_what_one_does(CacheKind::Nginx)
}

#[test]
fn varnish_fetches_each_object_once() -> Result<()> {
    many_cost_what_one_does(CacheKind::Varnish)
}

/// What a cache has kept from a time when its host was broken is asked for again.
#[test]
fn what_a_cache_keeps_may_be_wrong() -> Result<()> {
    for kind in [CacheKind::Nginx, CacheKind::Varnish] {
        let Scene { work, checkpoint, split } = scene("redis", 5_000)?;
        let packs = || {
            Ok::<_, std::io::Error>(
                fs::read_dir(split.store.join("packs"))?.filter_map(|entry| Some(entry.ok()?.path())),
            )
        };
        let good: Vec<_> = packs()?.map(|path| Ok((fs::read(&path)?, path))).collect::<Result<_>>()?;
        let cache = Cache::start(kind, &work, work.path())?;
        for (bytes, path) in &good {
            // One byte in each frame of some size.
            let bad: Vec<_> =
                bytes.iter().enumerate().map(|(at, byte)| if at % 8192 == 100 { byte ^ 1 } else { *byte }).collect();
            // In place: the cache may compare the time of the change.
            fs::write(path, &bad)?;
            let name = format!("/{}", path.strip_prefix(work.path())?.display());
            let ask = || Ok::<_, anyhow::Error>(http::get_with(cache.port(), &name, &[])?.body);
            assert!(ask()? == bad, "{name} came otherwise");
            fs::write(path, bytes)?;
            assert!(ask()? == bad, "{name} is not kept");
        }
        let summary = restore(&work, &checkpoint, &cache.url("store"), 0)?;
        assert!(summary["digest_failures"].as_u64() > Some(0), "{summary}");
    }
    Ok(())
}
