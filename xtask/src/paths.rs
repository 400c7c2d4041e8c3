//! Where things lie. Everything that xtask fetches goes below the target directory.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The repository.
pub(crate) fn repo() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}

/// The target directory that this very program was built into, whatever `CARGO_TARGET_DIR` or a config file says.
pub(crate) fn target() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("where is this program?")?;
    let target = exe.parent().and_then(Path::parent);
    Ok(target.with_context(|| format!("{} lies in no target directory", exe.display()))?.to_path_buf())
}

/// `target/criu`: a folder per Debian suite, and `bin/criu`, the one that is used.
pub(crate) fn criu_dir() -> Result<PathBuf> {
    Ok(target()?.join("criu"))
}

/// `target/programs`: what the tests checkpoint and compare with; `bin/` holds one entry per program.
pub(crate) fn programs_dir() -> Result<PathBuf> {
    Ok(target()?.join("programs"))
}

/// A program by name, from `target/programs/bin`.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    Ok(programs_dir()?.join("bin").join(name))
}
