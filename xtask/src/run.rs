//! Running commands, and saying so.

use std::{
    ffi::OsStr,
    io::IsTerminal,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How much of a failed command's output goes into the error.
const OUTPUT_TAIL_LINES: usize = 25;

/// A command without standard input: nothing that xtask starts may wait for a keyboard.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// Runs a command that may write to the terminal; an error when it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{status}: {}", shown(command));
    }
    Ok(())
}

/// Runs a command quietly; an error with the end of its output when it fails.
pub(crate) fn quiet(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {}", shown(command)))?;
    if !output.status.success() {
        bail!("{}: {}\n{}", output.status, shown(command), tail(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a command can be started and succeeds.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// The command as one would type it, without apt's long options.
fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    let mut arguments = command.get_args().map(OsStr::to_string_lossy);
    while let Some(argument) = arguments.next() {
        match argument.as_ref() {
            "-o" => drop(arguments.next()),
            _ => words.push(argument),
        }
    }
    words.join(" ")
}

fn tail(output: &Output) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(OUTPUT_TAIL_LINES);
    lines[from..].join("\n")
}

/// Runs one named step and prints how long it took.
pub(crate) fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("{} {name}", bold("==>"));
    let start = Instant::now();
    let result = work().with_context(|| name.to_owned());
    let verdict = if result.is_ok() { green("ok") } else { red("failed") };
    eprintln!("    {verdict} {name}, {}", seconds(start.elapsed()));
    result
}

/// One thing that is there.
pub(crate) fn have(name: &str, what: impl std::fmt::Display) {
    eprintln!("    {} {name:<14} {what}", green("have"));
}

/// One thing that has to be fetched.
pub(crate) fn fetch(name: &str, how: impl std::fmt::Display) {
    eprintln!("    {} {name:<14} {how}", bold("get "));
}

/// `1.23 s`.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// Writes a file and makes it executable.
pub(crate) fn write_script(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let write = || {
        // Never written in place: another run may be executing it.
        let new = path.with_extension(format!("new.{}", std::process::id()));
        std::fs::write(&new, text)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755))?;
        std::fs::rename(&new, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Makes `link` point to `to`, replacing what it was.
pub(crate) fn link(to: &Path, link: &Path) -> Result<()> {
    if std::fs::read_link(link).is_ok_and(|now| now == to) {
        return Ok(());
    }
    let make = || {
        let new = link.with_extension(format!("new.{}", std::process::id()));
        std::os::unix::fs::symlink(to, &new)?;
        std::fs::rename(&new, link)
    };
    make().with_context(|| format!("cannot link {} to {}", link.display(), to.display()))
}

/// Where a program is: the search path, then the folders that root's path often lacks.
pub(crate) fn which(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn colour(code: u8, text: &str) -> String {
    if std::io::stderr().is_terminal() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

pub(crate) fn bold(text: &str) -> String {
    colour(1, text)
}

pub(crate) fn green(text: &str) -> String {
    colour(32, text)
}

pub(crate) fn red(text: &str) -> String {
    colour(31, text)
}
