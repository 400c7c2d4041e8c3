//! A CRIU that works on this kernel.
//!
//! The system's own when it passes `criu check`; else Debian's packages, unpacked with all their libraries under
//! `target/criu/<suite>` and started through their own dynamic loader. Debian 12's CRIU 3.17 fails on new kernels
//! ("Unexpected rt vDSO area bounds"); 4.1 (trixie) and 4.2 (sid) work.

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{apt::PrivateSuite, paths, run};

/// Newest first.
const SUITES: [&str; 2] = ["sid", "trixie"];

/// Starts CRIU with the libraries that it was built with, from wherever the folder lies.
const WRAPPER: &str = r#"#!/bin/sh
# Written by `cargo xtask setup`: Debian's CRIU with its own loader and libraries.
root=$(dirname "$(readlink -f "$0")")/root
for loader in "$root"/usr/lib*/ld-linux-*.so.[0-9] "$root"/usr/lib/ld-linux-*.so.[0-9]; do
    [ -e "$loader" ] && break
done
for libraries in "$root"/usr/lib/*-linux-gnu; do
    [ -d "$libraries" ] && break
done
exec "$loader" --library-path "$libraries" "$root/usr/sbin/criu" "$@"
"#;

/// Which CRIU to use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// What `target/criu/bin/criu` is, if it works; else the system's, if it works; else the newest that does.
    Any,
    /// The system's, or none.
    System,
    /// Debian's of this suite.
    Suite(&'static str),
}

impl FromStr for Choice {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match SUITES.iter().find(|suite| **suite == text) {
            Some(suite) => Ok(Self::Suite(suite)),
            None if text == "system" => Ok(Self::System),
            None => bail!("--criu takes system, {}; not {text:?}", SUITES.join(", ")),
        }
    }
}

/// Makes `target/criu/bin/criu` one that works, and gives its path.
pub(crate) fn setup(choice: Choice) -> Result<PathBuf> {
    let folder = paths::criu_dir()?;
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).with_context(|| bin.display().to_string())?;
    let used = bin.join("criu");
    if choice == Choice::Any && used.exists() && check(&used).is_ok() {
        run::have("criu", describe(&used));
        return Ok(used);
    }
    let found = match choice {
        Choice::System => system()?,
        Choice::Suite(suite) => from_suite(&folder, suite)?,
        Choice::Any => any(&folder)?,
    };
    run::link(&found, &used)?;
    run::have("criu", describe(&used));
    Ok(used)
}

fn any(folder: &Path) -> Result<PathBuf> {
    let mut failures = Vec::new();
    match system() {
        Ok(criu) => return Ok(criu),
        Err(error) => failures.push(format!("system: {error:#}")),
    }
    for suite in SUITES {
        match from_suite(folder, suite) {
            Ok(criu) => return Ok(criu),
            Err(error) => failures.push(format!("Debian {suite}: {error:#}")),
        }
    }
    Err(anyhow!("no CRIU works here:\n{}", failures.join("\n")))
}

fn system() -> Result<PathBuf> {
    let criu = run::which("criu").context("criu is not installed")?;
    check(&criu)?;
    Ok(criu)
}

fn from_suite(folder: &Path, suite: &str) -> Result<PathBuf> {
    let place = folder.join(suite);
    let wrapper = place.join("criu");
    if !wrapper.exists() {
        run::fetch("criu", format!("Debian {suite}'s package and its libraries, unpacked into {}", place.display()));
        // Made beside and renamed, so that an interrupted download is never taken for a CRIU.
        let new = folder.join(format!("{suite}.new.{}", std::process::id()));
        fs::create_dir_all(&new).with_context(|| new.display().to_string())?;
        let packages = PrivateSuite::new(suite, new.join("apt"));
        packages.unpack_closure(&["criu"], &new.join("root"))?;
        packages.remove()?;
        run::write_script(&new.join("criu"), WRAPPER)?;
        match fs::rename(&new, &place) {
            Ok(()) => {}
            // Another run was faster; its result is as good.
            Err(_) if wrapper.exists() => fs::remove_dir_all(&new)?,
            Err(error) => return Err(error).with_context(|| place.display().to_string()),
        }
    }
    check(&wrapper)?;
    Ok(wrapper)
}

/// The kernel does what CRIU needs, and userfaultfd's non-cooperative events are among it.
fn check(criu: &Path) -> Result<()> {
    for arguments in [&["check"][..], &["check", "--feature", "uffd-noncoop"]] {
        run::quiet(run::command(criu).args(arguments))
            .with_context(|| format!("{} does not work here (is this root?)", criu.display()))?;
    }
    Ok(())
}

fn describe(criu: &Path) -> String {
    let version = run::quiet(run::command(criu).arg("--version")).unwrap_or_default();
    let version = version.lines().next().unwrap_or("Version: ?").trim_start_matches("Version: ").to_owned();
    let real = fs::canonicalize(criu).unwrap_or_else(|_| criu.to_owned());
    format!("{version}, {}", real.display())
}

/// Reads `--criu X` out of an argument list.
pub(crate) fn choice_from(args: &[String]) -> Result<(Choice, Vec<String>)> {
    let mut rest = Vec::new();
    let mut choice = Choice::Any;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--criu" {
            choice = args.next().context("--criu needs a value")?.parse()?;
        } else {
            rest.push(arg.clone());
        }
    }
    Ok((choice, rest))
}
