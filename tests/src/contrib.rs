//! The files that operators are given, as tests run them: with other ports, folders and binaries, and no other change.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

/// A file of `contrib/`, with some of its words replaced, each of which it must have.
pub(crate) fn contrib(name: &str, words: &[(&str, &str)]) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib").join(name);
    let mut text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    for (from, to) in words {
        ensure!(text.contains(from), "{} has no {from}", path.display());
        text = text.replace(from, to);
    }
    Ok(text)
}
