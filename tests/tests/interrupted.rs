//! `pageferry-agent restore`, ended at any moment or out of room: the process is not there, or it is there, complete and right; nothing is
//! left in TMPDIR, and the same command again restores it.
//!
//! Moments are spread over the time of an uninterrupted run, as many for each signal as [`Trial`] says.

mod common;

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Instant,
};

use anyhow::ensure;
use common::{Scene, scene};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pageferry_tests::{Cell, ROOT_PID, Result, Trial, eventually, tools};

/// One command, to be run in one cell after another.
struct Restore<'a> {
    scene: &'a Scene,
    tmp: PathBuf,
}

impl Restore<'_> {
    /// The command, and the file that is there once CRIU was started.
    fn command(&self, cell: &Cell) -> Result<(Command, PathBuf)> {
        let work = self.scene.work.path();
        let (enter, criu, started) = (work.join("enter"), work.join("criu"), work.join("criu-was-started"));
        if started.exists() {
            fs::remove_file(&started)?;
        }
        cell.entering(&tools::criu()?, &enter)?;
        fs::copy(&enter, &criu)?;
        fs::write(&criu, format!("#!/bin/sh\n: > '{}'\nexec '{}' \"$@\"\n", started.display(), enter.display()))?;
        let mut agent = tools::interruptible("pageferry-agent")?;
        agent.arg("restore");
        // So slow that pages are missing for about as long as everything else takes.
        agent.arg(&self.scene.split.store).args(["--quiet", "--limit-rate", "20M", "--criu"]).arg(&criu);
        agent.args(["--", "--shell-job"]).env("TMPDIR", &self.tmp);
        agent.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok((agent, started))
    }

    fn left_over(&self) -> Result<Vec<String>> {
        let names = fs::read_dir(&self.tmp)?.map(|item| Ok(item?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    /// The process is there, and all of it.
    fn whole(&self, cell: &Cell) -> Result<()> {
        self.scene.checkpoint.check(cell)?;
        let others: Vec<_> = cell.pids()?.into_iter().filter(|pid| *pid != 1 && *pid < ROOT_PID).collect();
        assert!(others.is_empty(), "{others:?} are left of the restore");
        assert!(self.left_over()?.is_empty(), "{:?}", self.left_over()?);
        Ok(())
    }

    /// Nothing is there.
    fn nothing(&self, cell: &Cell) -> Result<()> {
        assert_eq!(cell.pids()?, [1]);
        Ok(())
    }

    fn uninterrupted(&self) -> Result<()> {
        let cell = Cell::new()?;
        let output = self.command(&cell)?.0.output()?;
        assert!(output.status.success(), "{}: {}", output.status, said(&output));
        self.whole(&cell)
    }
}

fn said(output: &Output) -> String {
    tools::text(&output.stdout) + &tools::text(&output.stderr)
}

#[test]
fn a_restore_that_is_told_to_stop_at_any_moment() -> Result<()> {
    let scene = scene("threads", 1 << 20)?;
    let restore = Restore { tmp: scene.work.folder("tmp")?, scene: &scene };
    let mut trial = Trial::new("restore interrupted", 20);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let began = Instant::now();
        restore.uninterrupted()?;
        let duration = began.elapsed();
        let mut seen = [0; 3];
        for n in 0..trial.count {
            let step = duration.div_f64(trial.count as f64);
            let moment = step.mul_f64(n as f64) + trial.moment_within(step);
            let cell = Cell::new()?;
            let (mut command, criu_started) = restore.command(&cell)?;
            let agent = command.spawn()?;
            std::thread::sleep(moment);
            kill(Pid::from_raw(i32::try_from(agent.id())?), signal)?;
            let output = agent.wait_with_output()?;
            let context = format!("{signal} after {moment:?} of {duration:?}: {}: {}", output.status, said(&output));
            let ended = match (output.status.code(), output.status.signal()) {
                (Some(0), _) => restore.whole(&cell).map(|()| 0),
                (Some(code), _) if code == 128 + signal as i32 => {
                    assert!(said(&output).contains("nothing was restored"), "{context}");
                    assert_eq!(said(&output).lines().count(), 1, "{context}");
                    assert!(restore.left_over()?.is_empty() && !criu_started.exists(), "{context}");
                    restore.nothing(&cell).map(|()| 1)
                }
                // Before it could catch any.
                (None, Some(number)) if number == signal as i32 && signal != Signal::SIGKILL => {
                    assert!(restore.left_over()?.is_empty() && !criu_started.exists(), "{context}");
                    restore.nothing(&cell).map(|()| 1)
                }
                (None, Some(9)) if signal == Signal::SIGKILL => {
                    // What becomes of memory that CRIU has handed over by then is another test's matter.
                    if criu_started.exists() { Ok(2) } else { restore.nothing(&cell).map(|()| 2) }
                }
                _ => panic!("{context}"),
            };
            seen[ended.map_err(|error| error.context(context))?] += 1;
            cell.end();
        }
        let [whole, not_begun, killed] = seen;
        trial.report(&format!("{signal} over {duration:.0?}: {whole} whole, {not_begun} not begun, {killed} killed"));
        // And what the killed ones left is gone.
        restore.uninterrupted()?;
    }
    Ok(())
}

/// A small file system.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn mount(at: &'a Path, options: &str) -> Result<Self> {
        tools::run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "pageferry-test"]).arg(at))?;
        Ok(Self(at))
    }

    fn remount(&self, options: &str) -> Result<()> {
        tools::run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.0)).map(drop)
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        // Processes of a cell that ends right now may still have it.
        let unmounted = Command::new("umount").arg("--lazy").arg(self.0).status();
        assert!(std::thread::panicking() || unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_restore_without_room() -> Result<()> {
    let scene = scene("threads", 1 << 18)?;
    let restore = Restore { tmp: scene.work.folder("tmp")?, scene: &scene };
    let sizes = [4, 64, 300, 700, 1200, 2000, 3000, 4000].map(|kib| format!("size={kib}k,nr_inodes=10k"));
    let inodes = [1, 2, 3, 5, 20, 60].map(|inodes| format!("size=100m,nr_inodes={inodes}"));
    let mut refused = 0;
    for options in sizes.into_iter().chain(inodes).chain(["ro".into()]) {
        let disk = Disk::mount(&restore.tmp, &options)?;
        let cell = Cell::new()?;
        let output = restore.command(&cell)?.0.output()?;
        let context = format!("{options}: {}: {}", output.status, said(&output));
        // The last of it is CRIU's log, which CRIU can do without.
        match output.status.code() {
            Some(0) => restore.whole(&cell).map_err(|error| error.context(context))?,
            Some(1) => {
                refused += 1;
                // CRIU's helpers take a moment to go.
                eventually(|| {
                    let pids = cell.pids()?;
                    ensure!(pids == [1], "{pids:?} are left: {context}");
                    Ok(())
                })?;
                assert!(restore.left_over()?.is_empty(), "{context}");
                let place = said(&output).contains(&restore.tmp.display().to_string());
                let clear = said(&output).contains("disk is full") || said(&output).contains("Read-only");
                assert!(place && clear && !said(&output).contains("panicked"), "{context}");
            }
            _ => panic!("{context}"),
        }
        drop(cell);
        disk.remount("rw,size=100m,nr_inodes=10k")?;
        restore.uninterrupted()?;
    }
    println!("{refused} of 15 were refused");
    assert!(refused >= 8, "disks too large to be of use here: {refused} of 15 were refused");
    Ok(())
}
