//! Where the programs are that tests run. What is missing is an error that says how to get it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

/// The folder of the profile that this test was built with: `target/debug`. Our binaries lie there.
fn profile() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("where is this program?")?;
    let folder = exe.parent().context("this program lies in no folder")?;
    // Tests lie one folder deeper than binaries.
    let deeper = folder.ends_with("deps") || folder.ends_with("examples");
    let folder = if deeper { folder.parent().unwrap_or(folder) } else { folder };
    Ok(folder.to_path_buf())
}

/// The target directory.
pub fn target() -> Result<PathBuf> {
    let profile = profile()?;
    Ok(profile.parent().with_context(|| format!("{} lies in no target directory", profile.display()))?.to_path_buf())
}

/// One of our own binaries.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = profile()?.join(name);
    ensure!(
        path.exists(),
        "{} is not built: run `cargo build --workspace --bins` or `cargo xtask test`",
        path.display()
    );
    Ok(path)
}

/// One of our own binaries, which hears Ctrl-C whoever starts the tests: a shell's `&` has it ignored, and then it stays so.
pub fn interruptible(name: &str) -> Result<Command> {
    let mut env = Command::new("env");
    env.arg("--default-signal=INT,TERM").arg(binary(name)?);
    Ok(env)
}

/// A program that `cargo xtask setup` found or fetched.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = target()?.join("programs/bin").join(name);
    ensure!(path.exists(), "{} is missing: run `cargo xtask setup`", path.display());
    Ok(path)
}

/// CRIU: `PAGEFERRY_CRIU`, else the one that `cargo xtask setup` found or fetched.
pub fn criu() -> Result<PathBuf> {
    ensure!(nix::unistd::geteuid().is_root(), "this test runs CRIU, which needs root");
    if let Some(path) = std::env::var_os("PAGEFERRY_CRIU") {
        return Ok(path.into());
    }
    let path = target()?.join("criu/bin/criu");
    ensure!(path.exists(), "{} is missing: run `cargo xtask setup`", path.display());
    Ok(path)
}

/// A source file of a program that tests checkpoint.
pub fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name)
}

/// Runs a command to its end; an error with all that it wrote when it fails.
pub fn run(command: &mut Command) -> Result<Output> {
    let output = output(command)?;
    if !output.status.success() {
        bail!("{} from {command:?}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    }
    Ok(output)
}

/// Runs a command to its end, however it ends.
pub fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))
}

/// What a program wrote.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
