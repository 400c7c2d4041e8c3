//! A checkpoint of a real program, and what `pageferry-strip split` makes of it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::{
    Cell, Workdir, eventually,
    programs::{Program, State},
    tools,
};

/// The pid of a checkpoint's first task: far above what a fresh cell gives to CRIU and other helpers, so that it is free
/// at restore.
pub const ROOT_PID: i32 = 10_000;

/// Time for a program to notice that the connections of the last check are closed: CRIU refuses open ones.
const SETTLE: Duration = Duration::from_millis(300);

/// A full dump of a program that no longer runs.
pub struct Checkpoint {
    /// The images.
    pub dir: PathBuf,
    program: Box<dyn Program>,
    expected: State,
    command_lines: CommandLines,
}

/// `cmdline` and `environ` of each task by pid. A dead task has neither.
type CommandLines = BTreeMap<i32, (Vec<u8>, Vec<u8>)>;

impl Checkpoint {
    /// Starts a program, notes its whole state, dumps it, which ends it. Files go below `work`, the images to `dump`.
    pub fn take(work: &Workdir, program: impl Program + 'static) -> Result<Self> {
        Self::take_boxed(work, Box::new(program))
    }

    /// [`Checkpoint::take`], for a program chosen at run time.
    pub fn take_boxed(work: &Workdir, program: Box<dyn Program>) -> Result<Self> {
        let running = Running::start(work, program)?;
        running.dump(&work.folder("dump")?, &[])
    }

    /// The program that it is of.
    pub fn program(&self) -> &dyn Program {
        self.program.as_ref()
    }

    /// The program's whole state before the dump.
    pub fn expected(&self) -> &State {
        &self.expected
    }

    /// The restored program in `cell` is what it was, to the last byte that it can tell.
    pub fn check(&self, cell: &Cell) -> Result<()> {
        let state =
            cell.inside(|| self.program.state()).with_context(|| format!("restored {}", self.program.name()))?;
        for (question, expected) in &self.expected {
            let answer = state.get(question);
            if answer != Some(expected) {
                bail!("restored {}: {question}\nwas {expected}\nnow {answer:?}", self.program.name());
            }
        }
        if state.len() != self.expected.len() {
            bail!("restored {} has more to say: {:?}", self.program.name(), state.keys());
        }
        Ok(())
    }

    /// Every task in `cell` shows the command line and the environment that it had, and there are as many.
    pub fn check_command_lines(&self, cell: &Cell) -> Result<()> {
        let now = command_lines(cell)?;
        let pids = |lines: &CommandLines| lines.keys().copied().collect::<Vec<_>>();
        ensure!(pids(&now) == pids(&self.command_lines), "tasks {:?}, not {:?}", pids(&now), pids(&self.command_lines));
        for (pid, (cmdline, environ)) in &self.command_lines {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\0', " ");
            ensure!(now[pid].0 == *cmdline, "/proc/{pid}/cmdline is {:?}, not {:?}", text(&now[pid].0), text(cmdline));
            ensure!(now[pid].1 == *environ, "/proc/{pid}/environ is {:?}, not {:?}", text(&now[pid].1), text(environ));
        }
        Ok(())
    }

    /// The restored program in `cell` answers one request.
    pub fn first_reply(&self, cell: &Cell) -> Result<String> {
        cell.inside(|| self.program.first_reply()).with_context(|| format!("restored {}", self.program.name()))
    }
}

/// A program that runs in a cell and can be dumped.
pub struct Running {
    cell: Cell,
    program: Box<dyn Program>,
    expected: State,
    command_lines: CommandLines,
}

impl Running {
    /// Starts a program and waits until it is full and ready.
    pub fn start(work: &Workdir, program: Box<dyn Program>) -> Result<Self> {
        let cell = Cell::new()?;
        let folder = work.folder("program")?;
        let line = program.command(&folder)?;
        cell.start(ROOT_PID, &line.program, &line.args, &line.env, &folder)?;
        eventually(|| match cell.proc(ROOT_PID).join("exe").exists() {
            true => cell.inside(|| program.ready()).map(Ok),
            // It will never be ready.
            false => Ok(Err(anyhow!("it has ended"))),
        })?
        .with_context(|| format!("{} {}", line.program.display(), line.args.join(" ")))?;
        cell.inside(|| program.fill())?;
        let expected = cell.inside(|| program.state())?;
        std::thread::sleep(SETTLE);
        let command_lines = command_lines(&cell)?;
        Ok(Self { cell, program, expected, command_lines })
    }

    /// The namespaces that it runs in.
    pub fn cell(&self) -> &Cell {
        &self.cell
    }

    /// Dumps the program, which ends it.
    pub fn dump(self, dir: &Path, options: &[&str]) -> Result<Checkpoint> {
        self.criu("dump", dir, options)?;
        let Self { program, expected, command_lines, .. } = self;
        Ok(Checkpoint { dir: dir.to_path_buf(), program, expected, command_lines })
    }

    /// Dumps the program, which runs on.
    pub fn snapshot(&self, dir: &Path) -> Result<()> {
        self.criu("dump", dir, &["--leave-running"])
    }

    /// The program.
    pub fn program(&self) -> &dyn Program {
        self.program.as_ref()
    }

    /// `criu pre-dump`: the memory only, and the program runs on. For parent chains.
    pub fn pre_dump(&self, dir: &Path, options: &[&str]) -> Result<()> {
        self.criu("pre-dump", dir, options)
    }

    fn criu(&self, action: &str, dir: &Path, options: &[&str]) -> Result<()> {
        // Logs lie outside the images: those are compared byte for byte.
        let log = dir.with_extension("log");
        let mut criu = self.cell.command(tools::criu()?);
        criu.args([action, "--shell-job", "-v2", "-t", &ROOT_PID.to_string(), "-D"]).arg(dir);
        criu.arg("-o").arg(&log).args(options);
        tools::run(&mut criu).with_context(|| std::fs::read_to_string(&log).unwrap_or_default()).map(drop)
    }
}

/// Of all tasks of the program in a cell.
fn command_lines(cell: &Cell) -> Result<CommandLines> {
    let mut lines = CommandLines::new();
    for pid in cell.pids()?.into_iter().filter(|pid| *pid >= ROOT_PID) {
        let read = |name: &str| std::fs::read(cell.proc(pid).join(name)).with_context(|| format!("/proc/{pid}/{name}"));
        lines.insert(pid, (read("cmdline")?, read("environ").unwrap_or_default()));
    }
    Ok(lines)
}

/// What `pageferry-strip split` makes.
pub struct Split {
    /// The page store.
    pub store: PathBuf,
    /// The slim dump.
    pub slim: PathBuf,
}

/// Splits a checkpoint into `store` and `slim` below `work`.
pub fn split(work: &Workdir, checkpoint: &Checkpoint, options: &[&str]) -> Result<Split> {
    let split = Split { store: work.path().join("store"), slim: work.path().join("slim") };
    let mut strip = Command::new(tools::binary("pageferry-strip")?);
    strip.arg("split").arg(&checkpoint.dir).arg("--store").arg(&split.store).arg("--slim").arg(&split.slim);
    tools::run(strip.args(options))?;
    Ok(split)
}
