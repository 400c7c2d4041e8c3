//! Where and with what was measured. Nothing that names the machine.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};
use pageferry_tests::tools;
use serde::Serialize;

/// What a reader needs to compare figures with their own.
#[derive(Serialize)]
pub(crate) struct Machine {
    date: String,
    commit: String,
    cores: usize,
    processor: String,
    memory_gib: f64,
    kernel: String,
    file_system: String,
    criu: String,
    programs: Vec<String>,
}

impl Machine {
    /// Looks.
    pub(crate) fn look() -> Result<Self> {
        let memory = field("/proc/meminfo", "MemTotal")?;
        let memory: f64 = memory.trim_end_matches(" kB").parse().context("MemTotal")?;
        Ok(Self {
            date: said(Command::new("date").args(["-u", "+%Y-%m-%d"]), |text| text.to_owned()),
            commit: commit(),
            cores: std::thread::available_parallelism()?.get(),
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(|_| "unknown".to_owned()),
            memory_gib: memory / 1_048_576.0,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            file_system: said(Command::new("df").arg("--output=fstype").arg(tools::target()?), |text| {
                text.lines().last().unwrap_or_default().to_owned()
            }),
            criu: said(Command::new(tools::criu()?).arg("--version"), |text| {
                text.lines().next().unwrap_or_default().trim_start_matches("Version: ").to_owned()
            }),
            programs: programs(),
        })
    }

    /// A list.
    pub(crate) fn markdown(&self) -> String {
        let Self { date, commit, cores, processor, memory_gib, kernel, file_system, criu, programs } = self;
        format!(
            "* {date}, {commit}\n* {cores} cores ({processor}), {memory_gib:.1} GiB of memory, {file_system}\n\
             * Linux {kernel}, CRIU {criu}\n* {}\n",
            programs.join(", ")
        )
    }
}

/// The versions of what is checkpointed.
fn programs() -> Vec<String> {
    const PROGRAMS: [(&str, &str); 5] = [
        ("redis-server", "--version"),
        ("node", "--version"),
        ("gunicorn", "--version"),
        ("python3", "--version"),
        ("java", "-version"),
    ];
    let version = |(name, option)| match tools::program(name) {
        Ok(program) => format!("{name} {}", said(Command::new(program).arg(option), version_in)),
        Err(_) => format!("{name} (missing)"),
    };
    PROGRAMS.into_iter().map(version).collect()
}

/// The first thing in a text that looks like a version.
fn version_in(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && !".+-".contains(c));
    let mut words = words.map(|word| word.trim_start_matches('v'));
    let version = words.find(|word| word.contains('.') && word.starts_with(|first: char| first.is_ascii_digit()));
    version.unwrap_or("?").to_owned()
}

/// The commit, and whether the files are as in it (but for the results themselves).
fn commit() -> String {
    let git = || {
        let mut git = Command::new("git");
        git.arg("-C").arg(Path::new(env!("CARGO_MANIFEST_DIR")));
        git
    };
    let commit = said(git().args(["rev-parse", "--short", "HEAD"]), |text| format!("commit {text}"));
    let changed =
        said(git().args(["status", "--porcelain", "--", ":/", ":!/bench/RESULTS.md"]), |text| text.to_owned());
    if changed.is_empty() { commit } else { commit + " with changes" }
}

/// What a command prints, read by `read`; nothing if it does not work.
fn said(command: &mut Command, read: impl FnOnce(&str) -> String) -> String {
    let output = tools::output(command);
    // java prints its version to standard error.
    output.map(|output| read((tools::text(&output.stdout) + &tools::text(&output.stderr)).trim())).unwrap_or_default()
}

/// A field of a file like /proc/meminfo.
fn field(file: &str, name: &str) -> Result<String> {
    let text = fs::read_to_string(file).with_context(|| file.to_owned())?;
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = fields.find(|(field, _)| field.trim() == name).with_context(|| format!("{file} has no {name}"))?;
    Ok(value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::version_in;

    #[test]
    fn versions_as_programs_say_them() {
        assert_eq!(version_in("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0"), "7.0.15");
        assert_eq!(version_in("v22.1.0"), "22.1.0");
        assert_eq!(version_in("openjdk version \"17.0.13\" 2024-10-15"), "17.0.13");
        assert_eq!(version_in("gunicorn (version 23.0.0)"), "23.0.0");
        assert_eq!(version_in("no number"), "?");
    }
}
