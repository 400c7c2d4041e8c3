//! Reads a slim dump's object: a zstd-compressed tar, member by member, into a file of contents only.

use crate::{
    Error, Result, names,
    slim_writer::{BLOCK, WINDOW_LOG},
};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, BufWriter, Read, Seek, Write},
};
use tar::{EntryType, Header};

/// Most members: ten for each of the tasks that a manifest may have.
const MAX_MEMBERS: usize = 10 << 16;
/// The checksum in a header, which counts as spaces in its own sum.
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MemberKind {
    /// A folder.
    Dir,
    /// A regular file.
    File {
        /// Of its first byte in the file of contents.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Permission bits.
        mode: u32,
    },
    /// A link inside the dump.
    Symlink {
        /// Relative.
        target: String,
    },
}

/// Members by name, sorted.
#[derive(Debug, Default)]
pub(super) struct Members(BTreeMap<String, MemberKind>);

impl Members {
    pub(super) fn get(&self, name: &str) -> Option<&MemberKind> {
        self.0.get(name)
    }
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &MemberKind)> {
        self.0.iter()
    }
    /// Whether anything lies in the folder `name`.
    pub(super) fn has_below(&self, name: &str) -> bool {
        let folder = format!("{name}/");
        self.0.range(folder.clone()..).next().is_some_and(|(first, _)| first.starts_with(&folder))
    }
}

/// The folder that a link leads to; both were checked by [`names::is_safe_link`].
pub(super) fn resolve(name: &str, target: &str) -> String {
    let mut path: Vec<&str> = name.split('/').collect();
    path.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                path.pop();
            }
            part => path.push(part),
        }
    }
    path.join("/")
}

/// Unpacks `archive` (its name is for messages) into an unlinked temporary file; an error if contents are not `unpacked` bytes together.
pub(super) fn index(archive: &str, bytes: File, unpacked: u64) -> Result<(File, Members)> {
    let temporary = Error::temporary_file;
    let mut bytes = bytes;
    bytes.rewind().map_err(temporary)?;
    let content = tempfile::tempfile().map_err(temporary)?;
    let damaged = |e: std::io::Error| corrupt(archive, "archive".into(), e.to_string());
    let mut decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(128 << 10, bytes)).map_err(damaged)?;
    decoder.window_log_max(WINDOW_LOG).map_err(damaged)?;
    let mut reader = TarReader {
        archive,
        input: decoder,
        content: BufWriter::with_capacity(128 << 10, content),
        written: 0,
        unpacked,
        members: BTreeMap::new(),
    };
    while reader.member()? {}
    if reader.written != unpacked {
        let problem = format!("{} bytes of content, but the manifest says {unpacked}", reader.written);
        return Err(corrupt(archive, "end".into(), problem));
    }
    reader.check_folders()?;
    let content = reader.content.into_inner().map_err(|e| temporary(e.into_error()))?;
    Ok((content, Members(reader.members)))
}

fn corrupt(archive: &str, place: String, problem: impl Into<String>) -> Error {
    Error::Corrupt { object: archive.into(), place, problem: problem.into() }
}

struct TarReader<'a, R> {
    archive: &'a str,
    input: R,
    content: BufWriter<File>,
    written: u64,
    unpacked: u64,
    members: BTreeMap<String, MemberKind>,
}

impl<R: Read> TarReader<'_, R> {
    fn corrupt(&self, problem: impl Into<String>) -> Error {
        corrupt(self.archive, format!("member {}", self.members.len()), problem)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.input.read_exact(buffer).map_err(|e| self.corrupt(e.to_string()))
    }

    fn header(&mut self) -> Result<Header> {
        let mut block = [0; BLOCK];
        self.fill(&mut block)?;
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block);
        if block == [0; BLOCK] {
            return Ok(header);
        }
        let sum = |(at, byte): (usize, &u8)| u32::from(if CHECKSUM.contains(&at) { b' ' } else { *byte });
        let sum: u32 = block.iter().enumerate().map(sum).sum();
        match header.cksum() {
            Ok(stored) if stored == sum => Ok(header),
            _ => Err(self.corrupt("the header's checksum is wrong")),
        }
    }

    /// Reads one member with the long names before it; `false` at the end.
    fn member(&mut self) -> Result<bool> {
        let (mut long_name, mut long_target) = (None, None);
        let (header, kind) = loop {
            let header = self.header()?;
            if header.as_bytes() == &[0; BLOCK] {
                self.end()?;
                return Ok(false);
            }
            match header.entry_type() {
                EntryType::GNULongName => long_name = Some(self.long(&header)?),
                EntryType::GNULongLink => long_target = Some(self.long(&header)?),
                kind => break (header, kind),
            }
        };
        let short =
            |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| self.corrupt("a name that is not UTF-8"));
        let name = match long_name {
            Some(name) => name,
            None => short(&header.path_bytes())?,
        };
        let target = match long_target {
            Some(target) => target,
            None => short(&header.link_name_bytes().unwrap_or_default())?,
        };
        let name = name.strip_suffix('/').filter(|_| kind.is_dir()).unwrap_or(&name).to_owned();
        if !names::is_safe(&name) {
            return Err(self.corrupt(format!("{name:?} is not a name that a slim dump can hold")));
        }
        if self.members.len() == MAX_MEMBERS {
            return Err(self.corrupt(format!("more than {MAX_MEMBERS}")));
        }
        let len = header.entry_size().map_err(|e| self.corrupt(e.to_string()))?;
        let member = match kind {
            EntryType::Regular => {
                let mode = header.mode().map_err(|e| self.corrupt(e.to_string()))? & 0o7777;
                let offset = self.copy(len)?;
                MemberKind::File { offset, len, mode }
            }
            EntryType::Directory if len == 0 => MemberKind::Dir,
            EntryType::Symlink if len == 0 => {
                if !names::is_safe_link(&name, &target) {
                    return Err(self.corrupt(format!("{name} is a link that leads out of the dump, to {target:?}")));
                }
                MemberKind::Symlink { target }
            }
            _ => return Err(self.corrupt(format!("{name} is neither a file, nor a folder, nor a link"))),
        };
        match self.members.insert(name.clone(), member) {
            Some(_) => Err(self.corrupt(format!("{name} is there twice"))),
            None => Ok(true),
        }
    }

    /// The content of a member that holds a name.
    fn long(&mut self, header: &Header) -> Result<String> {
        let len = header.entry_size().ok().and_then(|len| usize::try_from(len).ok());
        let len = len.filter(|&len| (1..=names::MAX_NAME + 1).contains(&len));
        let len = len.ok_or_else(|| self.corrupt("a name of impossible length"))?;
        let mut bytes = vec![0; len.next_multiple_of(BLOCK)];
        self.fill(&mut bytes)?;
        bytes.truncate(len - 1);
        String::from_utf8(bytes).map_err(|_| self.corrupt("a name that is not UTF-8"))
    }

    /// Copies content; returns where it begins.
    fn copy(&mut self, len: u64) -> Result<u64> {
        let offset = self.written;
        if len > self.unpacked - offset {
            return Err(self.corrupt(format!("more content than the {} bytes of the manifest", self.unpacked)));
        }
        let mut buffer = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(128 << 10)];
        let mut left = len;
        while left > 0 {
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            self.fill(&mut buffer[..take])?;
            let written = self.content.write_all(&buffer[..take]);
            written.map_err(Error::temporary_file)?;
            left -= take as u64;
        }
        self.written += len;
        let padding = (BLOCK - (len % BLOCK as u64) as usize) % BLOCK;
        self.fill(&mut [0; BLOCK][..padding])?;
        Ok(offset)
    }

    /// A second empty block, then nothing.
    fn end(&mut self) -> Result<()> {
        let mut block = [1; BLOCK];
        self.fill(&mut block)?;
        let more = self.input.read(&mut [0; 1]).map_err(|e| self.corrupt(e.to_string()))?;
        if block != [0; BLOCK] || more != 0 {
            return Err(self.corrupt("something follows the end of the archive"));
        }
        Ok(())
    }

    /// No member may lie below another that is not a folder: it would be written through a link.
    fn check_folders(&self) -> Result<()> {
        for name in self.members.keys() {
            for (at, _) in name.match_indices('/') {
                if !matches!(self.members.get(&name[..at]), None | Some(MemberKind::Dir)) {
                    let problem = format!("lies below {}, which is not a folder", &name[..at]);
                    return Err(corrupt(self.archive, format!("member {name}"), problem));
                }
            }
        }
        Ok(())
    }
}
