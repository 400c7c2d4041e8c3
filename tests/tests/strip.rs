//! What `pageferry-strip` makes of dumps of real programs.

mod common;

use std::{fs, path::Path, process::Command, time::Instant};

use common::{all_programs, program};
use pageferry_tests::{
    Cell, Checkpoint, CriuPager, Result, Workdir, assert_same_files, criu_restore, folder_size, split, tools,
};

fn strip(arguments: &[&str], paths: &[&Path]) -> Result<std::process::Output> {
    let mut strip = Command::new(tools::binary("pageferry-strip")?);
    tools::output(strip.args(arguments).args(paths))
}

#[test]
fn join_gives_back_every_file_and_the_slim_dump_is_small() -> Result<()> {
    for program in all_programs() {
        let name = program.name();
        let work = Workdir::new(name)?;
        let checkpoint = Checkpoint::take_boxed(&work, program)?;
        let split = split(&work, &checkpoint, &[])?;
        let verified = strip(&["verify"], &[&split.store])?;
        assert!(verified.status.success(), "{name}: {}", tools::text(&verified.stderr));
        let inspected = strip(&["inspect", "--json"], &[&split.store])?;
        assert!(inspected.status.success(), "{name}: {}", tools::text(&inspected.stderr));
        serde_json::from_slice::<serde_json::Value>(&inspected.stdout)?;

        let (full, slim) = (folder_size(&checkpoint.dir)?, folder_size(&split.slim)?);
        let stored = folder_size(&split.store)?;
        println!("{name}: dump {full}, slim {slim}, store {stored} bytes, {:.1} to 1", full as f64 / stored as f64);
        assert!(slim < full / 4, "{name}: the slim dump has {slim} of {full} bytes");
        assert!(stored < full / 2, "{name}: the store has {stored} of {full} bytes");

        let joined = work.path().join("joined");
        let join = strip(&["join"], &[&split.store, Path::new("--out"), &joined])?;
        assert!(join.status.success(), "{name}: {}", tools::text(&join.stderr));
        assert_same_files(&checkpoint.dir, &joined)?;
    }
    Ok(())
}

#[test]
fn a_joined_checkpoint_restores_with_criu_alone() -> Result<()> {
    let work = Workdir::new("joined")?;
    let checkpoint = Checkpoint::take_boxed(&work, program("threads", 1 << 20))?;
    let split = split(&work, &checkpoint, &[])?;
    fs::remove_dir_all(&checkpoint.dir)?;
    let joined = work.path().join("joined");
    assert!(strip(&["join"], &[&split.store, Path::new("--out"), &joined])?.status.success());
    let cell = Cell::new()?;
    criu_restore(&cell, &joined, &work.folder("restore")?, &[])?;
    checkpoint.check(&cell)
}

#[test]
fn without_tripwire_criu_restores_by_its_own_daemons() -> Result<()> {
    for (name, size) in [("redis", 10_000), ("gunicorn", 5_000), ("threads", 1 << 20)] {
        let work = Workdir::new("no-tripwire")?;
        let checkpoint = Checkpoint::take_boxed(&work, program(name, size))?;
        let split = split(&work, &checkpoint, &["--no-tripwire"])?;
        let folder = work.folder("restore")?;
        let pager = CriuPager::start(&checkpoint.dir, &split.slim, &folder)?;
        let cell = Cell::new()?;
        criu_restore(&cell, &split.slim, &folder, &["--lazy-pages"])?;
        checkpoint.check(&cell)?;
        pager.finish()?;
        checkpoint.check(&cell)?;
    }
    Ok(())
}

#[test]
fn the_tripwire_ends_a_restore_without_lazy_pages() -> Result<()> {
    let work = Workdir::new("tripwire")?;
    let checkpoint = Checkpoint::take_boxed(&work, program("gunicorn", 5_000))?;
    let split = split(&work, &checkpoint, &[])?;
    let folder = work.folder("restore")?;
    let cell = Cell::new()?;
    let start = Instant::now();
    let error = criu_restore(&cell, &split.slim, &folder, &[]).expect_err("a slim dump holds no memory");
    assert!(start.elapsed().as_secs() < 10, "it took {:?}", start.elapsed());
    let error = format!("{error:#}");
    assert!(error.contains("parent pagemap"), "{error}");
    assert!(fs::metadata(folder.join("restore.log"))?.len() < 1 << 20, "the log must not run away");
    Ok(())
}

#[test]
fn an_existing_folder_is_not_touched() -> Result<()> {
    let work = Workdir::new("existing")?;
    let checkpoint = Checkpoint::take_boxed(&work, program("threads", 1 << 16))?;
    let split = split(&work, &checkpoint, &[])?;
    let joined = work.folder("joined")?;
    fs::write(joined.join("mine"), "precious")?;
    let join = strip(&["join"], &[&split.store, Path::new("--out"), &joined])?;
    assert!(!join.status.success());
    assert_eq!(fs::read_to_string(joined.join("mine"))?, "precious");
    assert_eq!(fs::read_dir(&joined)?.count(), 1);
    Ok(())
}

#[test]
fn names_without_a_folder_are_in_the_current_one() -> Result<()> {
    let work = Workdir::new("relative")?;
    let checkpoint = Checkpoint::take_boxed(&work, program("threads", 1 << 16))?;
    for arguments in [
        &["split", "dump", "--store", "store", "--slim", "slim"][..],
        &["verify", "store"],
        &["join", "store", "--out", "joined"],
    ] {
        let mut strip = Command::new(tools::binary("pageferry-strip")?);
        tools::run(strip.args(arguments).current_dir(work.path()))?;
    }
    assert_same_files(&checkpoint.dir, &work.path().join("joined"))
}
