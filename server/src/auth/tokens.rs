//! The file of tokens. What is kept of a token is its hash: neither a log nor a core dump has more.

use super::Scope;
use crate::reload::Watched;
use anyhow::{Context, Result, bail};
use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

/// Shorter ones can be guessed: 16 characters of base64 are 96 bits.
const SHORTEST: usize = 16;
/// A header line has to hold it.
const LONGEST: usize = 1024;
/// More is not a file of tokens.
const MAX_FILE: u64 = 1 << 20;

/// The tokens that a server knows, as its file had them when it was last right.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    known: RwLock<Arc<Vec<Entry>>>,
    watched: Watched,
}

/// One line of the file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Arc<str>,
    scopes: Vec<Scope>,
    hash: blake3::Hash,
}

impl Entry {
    pub(super) fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}

impl Tokens {
    /// Reads the file: lines `NAME SCOPE[,SCOPE] TOKEN`, and comments that begin with `#`.
    pub fn read(path: &Path) -> Result<Self> {
        let watched = Watched::new([path.to_owned()], MAX_FILE);
        let text = watched.read()?.remove(0);
        let known = parse(path, &text)?;
        warn_if_open(path);
        Ok(Self { path: path.to_owned(), known: RwLock::new(Arc::new(known)), watched })
    }

    /// Reads the file again if it is another one by now. One with a mistake changes nothing.
    pub(crate) fn reload(&self) {
        let Some(read) = self.watched.changed() else { return };
        match read.and_then(|mut texts| parse(&self.path, &texts.remove(0))) {
            Ok(known) => {
                tracing::warn!("{}: read again, {} tokens", self.path.display(), known.len());
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
            }
            Err(error) => tracing::error!("{error:#}; the tokens that were known stay"),
        }
    }

    /// The line that a token is on. How long this takes depends on the number of lines alone.
    pub(super) fn find(&self, token: &[u8]) -> Option<(Arc<Vec<Entry>>, usize)> {
        let hash = blake3::hash(token);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut found = None;
        for (number, entry) in known.iter().enumerate() {
            // This comparison takes the same time whatever the hashes are.
            if entry.hash == hash {
                found = Some(number);
            }
        }
        found.map(|number| (known, number))
    }
}

/// A message names the line, never the token on it.
fn parse(path: &Path, text: &[u8]) -> Result<Vec<Entry>> {
    let mut known: Vec<Entry> = Vec::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let place = || format!("{}:{}", path.display(), number + 1);
        let line = std::str::from_utf8(line).with_context(|| format!("{}: not UTF-8", place()))?.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = entry(line).with_context(place)?;
        if let Some(same) = known.iter().position(|other| other.hash == entry.hash) {
            bail!("{}: this token is that of {:?} already; give each its own", place(), known[same].name);
        }
        known.push(entry);
    }
    if known.is_empty() {
        bail!("{}: has no token; a line is NAME SCOPE[,SCOPE] TOKEN, for instance: agents read ...", path.display());
    }
    Ok(known)
}

fn entry(line: &str) -> Result<Entry> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [name, scopes, token] = words[..] else {
        bail!("{} words, but a line is NAME SCOPE[,SCOPE] TOKEN", words.len());
    };
    if name.len() > 64 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-@".contains(&b)) {
        bail!("the name has to be up to 64 letters, digits and ._-@ (it goes into the access log)");
    }
    let scopes = scopes.split(',').map(|word| {
        let known = Scope::ALL.into_iter().find(|scope| scope.name() == word);
        // What stands here may be the token, if somebody mixed up the words.
        known.context("the second word has to be one or several of read, working-sets, metrics, with commas in between")
    });
    let scopes = scopes.collect::<Result<_>>()?;
    if token.len() < SHORTEST || token.len() > LONGEST {
        bail!(
            "the token has {} characters, not {SHORTEST} to {LONGEST}; `openssl rand -hex 32` makes one",
            token.len()
        );
    }
    let body = token.trim_end_matches('=');
    if !body.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b)) {
        bail!(
            "a token has letters, digits and -._~+/ only, and = at its end (RFC 6750); `openssl rand -hex 32` makes one"
        );
    }
    Ok(Entry { name: name.into(), scopes, hash: blake3::hash(token.as_bytes()) })
}

fn warn_if_open(path: &Path) {
    let mode = path.metadata().map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o004 != 0 {
        tracing::warn!("{0} can be read by everybody on this machine; chmod 640 {0}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "0123456789abcdef0123456789abcdef";

    fn parsed(text: &str) -> Result<Vec<Entry>> {
        parse(Path::new("/etc/tokens"), text.as_bytes())
    }

    #[test]
    fn what_a_line_may_be() {
        let text = format!("# comment\n\n agents\tread  {GOOD}\r\nprometheus metrics,read {GOOD}==\n");
        let known = parsed(&text).unwrap();
        assert_eq!(known.iter().map(|entry| &*entry.name).collect::<Vec<_>>(), ["agents", "prometheus"]);
        assert!(known[0].allows(Scope::Read) && !known[0].allows(Scope::Metrics));
        assert!(known[1].allows(Scope::Metrics) && !known[1].allows(Scope::WorkingSets));
    }

    #[test]
    fn a_mistake_is_named_by_its_line_and_without_the_token() {
        for (line, words) in [
            (format!("agents {GOOD}"), "2 words"),
            (format!("agents {GOOD} read"), "second word"),
            (format!("agents read,write {GOOD}"), "second word"),
            (format!("agents read {GOOD} more"), "4 words"),
            ("agents read secret".to_owned(), "16 to 1024"),
            (format!("agents read {GOOD}§"), "RFC 6750"),
            (format!("a\"b read {GOOD}"), "the name"),
            (format!("again read {GOOD}"), "\"first\" already"),
        ] {
            let error = format!("{:#}", parsed(&format!("first read {GOOD}\n{line}\n")).unwrap_err());
            assert!(error.starts_with("/etc/tokens:2: ") && error.contains(words), "{line}: {error}");
            assert!(!error.contains("0123456789") && !error.contains("secret"), "{error}");
        }
        assert!(format!("{:#}", parsed("# nobody\n").unwrap_err()).contains("has no token"));
    }
}
