//! The harness itself: each program survives a plain dump and a plain restore, so that what fails elsewhere is ours.

mod common;

use common::{all_programs, program};
use pageferry_tests::{Cell, Checkpoint, CriuPager, Result, Workdir, assert_same_files, criu_restore};

#[test]
fn every_program_survives_criu_alone() -> Result<()> {
    for program in all_programs() {
        let work = Workdir::new("eager")?;
        let checkpoint = Checkpoint::take_boxed(&work, program)?;
        let cell = Cell::new()?;
        criu_restore(&cell, &checkpoint.dir, &work.folder("restore")?, &[])?;
        checkpoint.check(&cell)?;
    }
    Ok(())
}

#[test]
fn a_check_notices_another_program() -> Result<()> {
    let (work, other) = (Workdir::new("right")?, Workdir::new("wrong")?);
    let right = Checkpoint::take_boxed(&work, program("node", 20_000))?;
    let wrong = Checkpoint::take_boxed(&other, program("node", 20_001))?;
    let cell = Cell::new()?;
    criu_restore(&cell, &wrong.dir, &work.folder("restore")?, &[])?;
    assert!(right.check(&cell).is_err());
    assert!(assert_same_files(&right.dir, &wrong.dir).is_err());
    Ok(())
}

#[test]
fn criu_restores_remotely_from_its_own_lazy_dump() -> Result<()> {
    let work = Workdir::new("criu-remote")?;
    let checkpoint = Checkpoint::take_boxed(&work, program("redis", 5_000))?;
    let folder = work.folder("restore")?;
    // A full dump read as a slim one: its lazy entries are present, and CRIU's daemons do not mind.
    let pager = CriuPager::start(&checkpoint.dir, &checkpoint.dir, &folder)?;
    let cell = Cell::new()?;
    criu_restore(&cell, &checkpoint.dir, &folder, &["--lazy-pages"])?;
    checkpoint.check(&cell)?;
    pager.finish().map(drop)
}
