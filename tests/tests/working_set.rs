//! Working sets: recorded from one restore, added to the store, replayed by the next.

mod common;

use std::{collections::HashSet, fs, path::Path, process::Command};

use common::program;
use pageferry_tests::{
    Cell, Checkpoint, Host, Pager, Result, Split, Workdir, compare_memory, criu_restore, split, tools,
};

/// Restores, asks for the first reply, and lets the agent end; gives what it says at its end.
fn restored(
    work: &Workdir,
    checkpoint: &Checkpoint,
    split: &Split,
    name: &str,
    options: &[&str],
) -> Result<serde_json::Value> {
    let host = Host::server(work, &split.store)?;
    let cell = Cell::new()?;
    let pager = Pager::start(&host.url(), &split.slim, &work.folder(name)?, &[&["--json"], options].concat())?;
    criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
    checkpoint.first_reply(&cell)?;
    let log = pager.finish()?;
    checkpoint.check(&cell)?;
    let summary = log.lines().rfind(|line| line.starts_with('{')).unwrap_or_default();
    Ok(serde_json::from_str(summary)?)
}

fn add(split: &Split, trace: &Path, name: &str) -> Result<Command> {
    let mut strip = Command::new(tools::binary("pageferry-strip")?);
    strip.arg("working-set").arg(&split.store).arg("--trace").arg(trace).args(["--name", name]);
    Ok(strip)
}

/// What a trace has.
fn frames(trace: &Path) -> Result<HashSet<u64>> {
    let trace: serde_json::Value = serde_json::from_slice(&fs::read(trace)?)?;
    Ok(serde_json::from_value(trace["frames"].clone())?)
}

fn number(summary: &serde_json::Value, name: &str) -> u64 {
    summary[name].as_u64().unwrap_or_else(|| panic!("{name} in {summary}"))
}

#[test]
fn what_one_restore_recorded_the_next_has_at_once() -> Result<()> {
    for (name, size) in [("node", 100_000), ("gunicorn", 20_000)] {
        let work = Workdir::new("working-set")?;
        let checkpoint = Checkpoint::take_boxed(&work, program(name, size))?;
        let split = split(&work, &checkpoint, &[])?;
        let trace = work.path().join("trace");
        let record = ["--record", &trace.display().to_string(), "--record-settle", "0.5"].map(str::to_owned);
        let record: Vec<_> = record.iter().map(String::as_str).collect();
        let recorded = restored(&work, &checkpoint, &split, "record", &record)?;
        assert_eq!(number(&recorded, "pages_missing"), 0, "the rest follows when the recording is over");
        let first = frames(&trace)?;

        let objects_before = fs::read_dir(split.store.join("packs"))?.count();
        tools::run(&mut add(&split, &trace, "first-reply")?)?;
        assert_eq!(fs::read_dir(split.store.join("packs"))?.count(), objects_before);
        tools::run(Command::new(tools::binary("pageferry-strip")?).arg("verify").arg(&split.store))?;

        let replayed = restored(&work, &checkpoint, &split, "replay", &[])?;
        assert!(number(&replayed, "pages_by_working_set") > 0, "{replayed}");
        let without = restored(&work, &checkpoint, &split, "without", &["--working-set", "none"])?;
        assert_eq!(number(&without, "pages_by_working_set"), 0, "{without}");

        // What a set or a request brings without being asked for never faults: a recording goes without.
        restored(&work, &checkpoint, &split, "again", &record)?;
        let again = frames(&trace)?;
        let both = first.intersection(&again).count();
        assert!(2 * both > first.len().max(again.len()), "{both} in common of {} and {}", first.len(), again.len());

        // Every byte, with the set in it.
        let cell = Cell::new()?;
        let pager = Pager::start(&split.store.display().to_string(), &split.slim, &work.folder("compare")?, &[])?;
        criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages", "--leave-stopped"])?;
        pager.finish()?;
        assert!(compare_memory(&checkpoint.dir, &cell)? > 0);

        // A set that is damaged costs time only.
        let set = fs::read_dir(split.store.join("working-sets"))?.next().expect("there is one")?.path();
        let mut bytes = fs::read(&set)?;
        bytes.truncate(bytes.len() / 2);
        fs::write(&set, bytes)?;
        let damaged = restored(&work, &checkpoint, &split, "damaged", &[])?;
        assert_eq!(number(&damaged, "pages_by_working_set"), 0, "{damaged}");
        let verify = tools::output(Command::new(tools::binary("pageferry-strip")?).arg("verify").arg(&split.store))?;
        assert!(!verify.status.success());
    }
    Ok(())
}

#[test]
fn a_trace_of_another_checkpoint_and_a_broken_one_are_refused_and_change_nothing() -> Result<()> {
    let work = Workdir::new("working-set-refused")?;
    let checkpoint = Checkpoint::take_boxed(&work, program("threads", 1 << 20))?;
    let split = split(&work, &checkpoint, &[])?;
    let manifest = split.store.join("checkpoint.json");
    let before = fs::read(&manifest)?;
    let trace = work.path().join("trace");
    let other = serde_json::json!({
        "format": "pageferry-trace", "version": 1, "checkpoint_id": "0".repeat(64), "frames": [0],
    });
    for (content, words) in [
        (other.to_string(), "recorded with another checkpoint"),
        ("{\"format\": \"pageferry-tr".to_owned(), "line 1 column"),
        (String::new(), "line 1 column"),
    ] {
        fs::write(&trace, content)?;
        let refused = tools::output(&mut add(&split, &trace, "set")?)?;
        assert!(!refused.status.success());
        let said = tools::text(&refused.stderr);
        assert!(said.contains(words) && said.contains("trace"), "{said}");
        assert!(fs::read(&manifest)? == before);
        assert_eq!(fs::read_dir(split.store.join("working-sets")).map_or(0, Iterator::count), 0);
    }
    Ok(())
}
