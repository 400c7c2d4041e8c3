//! `--record`: where a recording goes, and that it is not lost on the way there.
//!
//! ```text
//! engine::record ──write──► a file that the user named
//!                      └──► a file of our own ──PUT──► a server      (delivery)
//! ```
//! What a server is to have is in a file before it is sent, and stays there until the server has said that it has it: an agent may be killed, a
//! server may refuse. The file is in TMPDIR, not in the folder of the restore, which ends with it. Its descriptor is in the guard's header, so that
//! whoever comes after an agent that was killed finds it.

mod delivery;

pub(crate) use delivery::Delivery;
pub use delivery::Interrupted;

use crate::guard::{Guarded, Word};
use anyhow::{Context, Result};
use page_store::{HttpAddress, working_set::check_name};
use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

/// Characters of the checkpoint's id in the name of a file: enough to tell one from another.
const ID_SHOWN: usize = 12;
/// Files of the same checkpoint and pid: what earlier agents with this pid have left.
const MOST_LEFT: usize = 100;

/// Where a recording goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordTo {
    /// A file.
    File(PathBuf),
    /// The address of a working set, at a server that takes some.
    Server(String),
}

impl RecordTo {
    /// From the command line.
    pub(crate) fn parse(word: OsString) -> Result<Self, String> {
        let Some(text) = word.to_str().filter(|text| text.contains("://")) else { return Ok(Self::File(word.into())) };
        if !(text.starts_with("http://") || text.starts_with("https://")) {
            return Err("takes a file, or the http(s):// address of a working set at a server; \
                        `pageferry-strip working-set` adds a file to a store anywhere"
                .into());
        }
        let path = HttpAddress::path_of(text).map_err(|error| error.to_string())?;
        let [.., folder, set] = path.as_slice() else { return Err(wrong_address()) };
        if folder != "working-sets" {
            return Err(wrong_address());
        }
        check_name(set).map_err(|error| format!("{set:?} is {error}"))?;
        Ok(Self::Server(text.into()))
    }
}

fn wrong_address() -> String {
    "the address has to end in /working-sets/NAME, as in http://HOST:PORT/checkpoints/CHECKPOINT/working-sets/NAME"
        .into()
}

/// Takes a recording once it is over. Cloning it shares it.
#[derive(Clone, Debug)]
pub(crate) struct Recording {
    to: RecordTo,
    guarded: Guarded,
    kept: Arc<Mutex<Option<Kept>>>,
}

/// A recording that a server has not taken yet.
#[derive(Debug)]
pub(crate) enum Kept {
    /// In a file. It is open so that its descriptor tells another agent where it is.
    File(PathBuf, File),
    /// Where no file could be made, for this reason.
    Memory(Vec<u8>, io::Error),
}

impl Recording {
    pub(crate) fn new(to: RecordTo, guarded: Guarded) -> Self {
        Self { to, guarded, kept: Arc::default() }
    }

    /// One that an agent before has made and not delivered.
    pub(crate) fn left(to: RecordTo, (path, file): (PathBuf, File), guarded: Guarded) -> Self {
        Self { to, guarded, kept: Arc::new(Mutex::new(Some(Kept::File(path, file)))) }
    }

    /// It is over: `trace` is all of it.
    pub(crate) fn write(&self, checkpoint_id: &str, trace: Vec<u8>) -> Result<()> {
        match &self.to {
            RecordTo::File(file) => {
                write_whole(file, &trace).with_context(|| format!("writing the trace {}", file.display()))?;
                tracing::info!("the recording is in {}", file.display());
            }
            RecordTo::Server(_) => {
                let folder = std::env::temp_dir();
                let kept = match keep(&folder, checkpoint_id, &trace, |file| self.guarded.keep(Word::Recording, file)) {
                    Ok((path, file)) => {
                        tracing::debug!("the recording is in {} until the server has it", path.display());
                        Kept::File(path, file)
                    }
                    Err(error) => {
                        self.guarded.let_go(Word::Recording);
                        tracing::warn!(
                            "the recording cannot be kept in {}: {error}; it is lost if the server does not take it (TMPDIR names another place)",
                            folder.display()
                        );
                        Kept::Memory(trace, error)
                    }
                };
                *self.kept.lock().unwrap_or_else(|e| e.into_inner()) = Some(kept);
            }
        }
        Ok(())
    }

    /// Whether it is over, and waits to be sent.
    pub(crate) fn is_made(&self) -> bool {
        self.kept.lock().unwrap_or_else(|e| e.into_inner()).is_some()
    }

    /// The restore has failed: it is not sent, and stays where it is.
    pub(crate) fn stays(&self) {
        let Some(kept) = self.take() else { return };
        if let Kept::File(path, _) = &kept {
            tracing::warn!("the recording is in {}; it is not sent, as the restore has failed", path.display());
        }
        kept.stays();
    }

    /// What a server is to have.
    fn take(&self) -> Option<Kept> {
        self.kept.lock().unwrap_or_else(|e| e.into_inner()).take()
    }

    /// The server has it.
    fn delivered(&self, kept: Kept) {
        if let Kept::File(path, file) = kept {
            // First the file: whoever comes after an agent that is killed here finds none, and says nothing.
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!("removing {}, which the server has: {error}", path.display());
            }
            self.guarded.let_go(Word::Recording);
            drop(file);
        }
    }
}

impl Kept {
    /// It is not delivered. Its descriptor stays open to the end: the guard's header names it, and the number must not be another's.
    fn stays(self) {
        std::mem::forget(self);
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        match self {
            Self::File(path, file) => {
                // By its descriptor: whatever has the name by now, this is what was recorded.
                let read = || -> io::Result<Vec<u8>> {
                    let (mut file, mut bytes) = (file, Vec::new());
                    file.rewind()?;
                    file.read_to_end(&mut bytes)?;
                    Ok(bytes)
                };
                read().with_context(|| format!("reading the recording {}", path.display()))
            }
            Self::Memory(bytes, _) => Ok(bytes.clone()),
        }
    }
}

/// Where recordings of this checkpoint are while they are delivered, for messages.
pub(crate) fn pattern(checkpoint_id: &str) -> String {
    std::env::temp_dir().join(format!("{}*.trace", prefix(checkpoint_id))).display().to_string()
}

fn prefix(checkpoint_id: &str) -> String {
    let id: String = checkpoint_id.chars().filter(char::is_ascii_alphanumeric).take(ID_SHOWN).collect();
    format!("pageferry-recording-{id}-")
}

/// Makes the file, for its owner only. It is `known` before it has its name, so that there is no moment in which it is lost.
fn keep(folder: &Path, checkpoint_id: &str, trace: &[u8], known: impl Fn(&File)) -> io::Result<(PathBuf, File)> {
    let mut growing = growing(folder, trace)?;
    known(growing.as_file());
    let name = format!("{}{}", prefix(checkpoint_id), std::process::id());
    for number in 0..MOST_LEFT {
        let number = if number == 0 { String::new() } else { format!("-{number}") };
        let path = folder.join(format!("{name}{number}.trace"));
        match growing.persist_noclobber(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => growing = error.file,
            Err(error) => return Err(error.error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// The file appears whole or not at all.
fn write_whole(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    growing(folder, bytes)?.persist(file)?;
    Ok(())
}

/// Under a name of its own, mode 0600.
fn growing(folder: &Path, bytes: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    let mut growing = tempfile::NamedTempFile::new_in(folder)?;
    growing.write_all(bytes)?;
    growing.as_file().sync_all()?;
    Ok(growing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_address_is_checked_before_anything_begins() {
        let parse = |text: &str| RecordTo::parse(text.into());
        assert_eq!(parse("/tmp/trace"), Ok(RecordTo::File("/tmp/trace".into())));
        assert_eq!(parse("trace"), Ok(RecordTo::File("trace".into())));
        for good in [
            "http://127.0.0.1:8080/checkpoints/redis/working-sets/main",
            "https://host/working-sets/a-b_c.1",
            "http://[::1]/some/where/working-sets/x?a=b",
        ] {
            assert_eq!(parse(good), Ok(RecordTo::Server(good.into())));
        }
        for (bad, words) in [
            ("http://host/checkpoints/redis/store", "/working-sets/NAME"),
            ("http://host/", "/working-sets/NAME"),
            ("http://host/working-sets", "/working-sets/NAME"),
            ("http://host/working-sets/", "no name"),
            ("http://host/working-sets/a%2Fb", "no name"),
            ("http://host/working-sets/a b", "no name"),
            ("http://user:secret@host/working-sets/a", "token"),
            ("http:///working-sets/a", "/working-sets/NAME"),
            ("s3://bucket/working-sets/a", "http(s)://"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(words) && !error.contains("secret"), "{bad}: {error}");
        }
        assert!(parse(&format!("http://host/working-sets/{}", "a".repeat(65))).is_err());
    }

    #[test]
    fn a_recording_is_kept_whole_for_its_owner_beside_what_others_left() {
        let folder = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        for text in ["one", "two", "three"] {
            let (path, _) = keep(folder.path(), "0123456789abcdef", text.as_bytes(), |_| {}).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            paths.push(path);
        }
        let pid = std::process::id();
        assert!(paths[0].ends_with(format!("pageferry-recording-0123456789ab-{pid}.trace")), "{paths:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "no temporary file is left");
        assert!(keep(&folder.path().join("nowhere"), "id", b"", |_| {}).is_err());
    }
}
