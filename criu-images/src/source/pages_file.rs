//! A file that is read in place.

use crate::{Error, Result};
use nix::{errno::Errno, unistd::Whence, unistd::lseek};
use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

/// A file, or a slice of an archive, that is read in place by position.
#[derive(Debug, Clone)]
pub struct PagesFile {
    name: String,
    file: Arc<File>,
    base: u64,
    len: u64,
}

impl PagesFile {
    /// `len` bytes of `file` from byte `base`; `name` is for messages.
    pub fn new(name: String, file: Arc<File>, base: u64, len: u64) -> Self {
        Self { name, file, base, len }
    }
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }
    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Name for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Fills `buf` from byte `offset`; an error if the file ends before.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        let from = end.and_then(|_| self.base.checked_add(offset));
        let from = from.ok_or_else(|| Error::io(&self.name, std::io::ErrorKind::UnexpectedEof))?;
        self.file.read_exact_at(buf, from).map_err(|e| Error::io(&self.name, e))
    }

    /// Byte of the first hole (blocks never written, or punched out), if there is one and the file system tells.
    ///
    /// CRIU writes its pages files without holes; `--auto-dedup` and `criu dedup` punch them.
    pub fn first_hole(&self) -> Result<Option<u64>> {
        if self.len == 0 {
            return Ok(None);
        }
        let base = i64::try_from(self.base).map_err(|_| Error::io(&self.name, Errno::EOVERFLOW))?;
        match lseek(&*self.file, base, Whence::SeekHole) {
            Ok(hole) => Ok((hole as u64).checked_sub(self.base).filter(|at| *at < self.len)),
            // A file system or device without SEEK_HOLE.
            Err(Errno::EINVAL | Errno::ESPIPE | Errno::EOPNOTSUPP) => Ok(None),
            Err(e) => Err(Error::io(&self.name, e)),
        }
    }

    /// All of it, from the beginning, as a stream.
    pub fn reader(&self) -> PagesReader {
        PagesReader { file: self.clone(), at: 0, end: self.len }
    }

    /// `len` bytes from byte `offset`, as a stream that fails if the file ends before.
    pub fn slice(&self, offset: u64, len: u64) -> PagesReader {
        PagesReader { file: self.clone(), at: offset, end: offset.saturating_add(len) }
    }
}

/// Part of a [`PagesFile`] as a stream; it reads by position and shares no cursor.
#[derive(Debug)]
pub struct PagesReader {
    file: PagesFile,
    at: u64,
    end: u64,
}

impl std::io::Read for PagesReader {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let len = buf.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        if len == 0 {
            return Ok(0);
        }
        let short =
            || std::io::Error::new(std::io::ErrorKind::UnexpectedEof, format!("{} became shorter", self.file.name));
        if self.end > self.file.len {
            return Err(short());
        }
        match self.file.file.read_at(&mut buf[..len], self.file.base + self.at)? {
            0 => Err(short()),
            n => {
                self.at += n as u64;
                Ok(n)
            }
        }
    }
}
