//! Writes a slim dump as one object: a tar, zstd-compressed, the same bytes for the same checkpoint.

use crate::names;
use criu_images::slim::{Entry, SlimSink, checkpoint_id_member};
use std::io::{self, Read, Write};
use tar::{EntryType, Header};
use zstd::zstd_safe::CParameter;

/// zstd's level: a slim dump is small, and where it is not (shared memory) its pages are like any others.
const LEVEL: i32 = 3;
/// Bytes that a compressing thread takes at once. zstd would take 8 MiB; a slim dump seldom has so many, and memory is bounded.
const JOB_BYTES: u32 = 1 << 20;
/// Compressing threads at most. One is enough for determinism (zstd: the result does not depend on how many there are, only
/// on whether there are any).
const MAX_THREADS: usize = 4;

/// zstd's window, as a power of two: what a reader has to set aside. What level 3 takes anyway.
pub(crate) const WINDOW_LOG: u32 = 21;
/// Bytes in a tar block.
pub(crate) const BLOCK: usize = 512;
/// A name or link target that is longer than its field comes first, as content of a member of this name (GNU tar).
pub(crate) const LONG_NAME_MEMBER: &str = "././@LongLink";

/// Takes the members of a slim dump and writes the object to `W`.
///
/// ```
/// # use page_store::slim_writer::SlimArchiveWriter;
/// # use criu_images::slim::{Entry, SlimSink};
/// let mut slim = SlimArchiveWriter::new(Vec::new())?;
/// slim.put("inventory.img", &Entry::File { len: 4, mode: 0o644 }, &mut &b"\x16\x31\x31\x58"[..])?;
/// let archive = slim.finish(["00".repeat(32)])?;
/// assert_eq!((archive.checkpoint_id.len(), archive.unpacked), (64, 4 + 65));
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct SlimArchiveWriter<W: Write> {
    out: zstd::Encoder<'static, W>,
    identity: blake3::Hasher,
    unpacked: u64,
}

/// A slim dump that was written.
#[derive(Debug)]
pub struct SlimArchive<W> {
    /// What it was written to.
    pub out: W,
    /// For the manifest's `checkpoint_id`.
    pub checkpoint_id: String,
    /// For the manifest's `slim.unpacked`: bytes of content of all members.
    pub unpacked: u64,
}

impl<W: Write> SlimArchiveWriter<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> io::Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS));
        let mut out = zstd::Encoder::new(out, LEVEL)?;
        out.set_parameter(CParameter::NbWorkers(threads as u32))?;
        out.set_parameter(CParameter::JobSize(JOB_BYTES))?;
        out.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
        out.include_checksum(true)?;
        let mut identity = blake3::Hasher::new();
        identity.update(b"pageferry checkpoint 1\n");
        Ok(Self { out, identity, unpacked: 0 })
    }

    /// Ends the archive with its [`checkpoint_id_member`] (64 hex digits and a newline): the identity of the slim dump together with these parts of an index
    /// (`blake3` of each, in order).
    pub fn finish(mut self, index_digests: impl IntoIterator<Item = impl AsRef<str>>) -> io::Result<SlimArchive<W>> {
        for digest in index_digests {
            self.identity.update(format!("index {}\n", digest.as_ref()).as_bytes());
        }
        let checkpoint_id = self.identity.finalize().to_hex().to_string();
        let content = format!("{checkpoint_id}\n");
        let entry = Entry::File { len: content.len() as u64, mode: 0o644 };
        self.member(checkpoint_id_member(), &entry, &mut content.as_bytes())?;
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(SlimArchive { unpacked: self.unpacked, out: self.out.finish()?, checkpoint_id })
    }

    /// Writes a member; returns the digest of its content.
    fn member(&mut self, name: &str, entry: &Entry, content: &mut dyn Read) -> io::Result<blake3::Hash> {
        let mut header = Header::new_gnu();
        let (kind, mode, len, target) = match entry {
            Entry::Dir => (EntryType::Directory, 0o755, 0, None),
            Entry::File { len, mode } => (EntryType::Regular, mode & 0o7777, *len, None),
            Entry::Symlink { target } => (EntryType::Symlink, 0o777, 0, Some(target)),
        };
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(len);
        self.name_field(&mut header, EntryType::GNULongName, name)?;
        if let Some(target) = target {
            self.name_field(&mut header, EntryType::GNULongLink, target)?;
        }
        finish_header(&mut header);
        self.out.write_all(header.as_bytes())?;
        let digest = self.content(content, len)?;
        self.unpacked += len;
        Ok(digest)
    }

    /// Puts a name or target into its 100 bytes of the header, or into a member before it.
    fn name_field(&mut self, header: &mut Header, long: EntryType, value: &str) -> io::Result<()> {
        let Some(gnu) = header.as_gnu_mut() else { return Err(io::ErrorKind::InvalidInput.into()) };
        let field = if long == EntryType::GNULongLink { &mut gnu.linkname } else { &mut gnu.name };
        let fits = value.len().min(field.len());
        field[..fits].copy_from_slice(&value.as_bytes()[..fits]);
        if fits == value.len() {
            return Ok(());
        }
        let mut before = Header::new_gnu();
        before.set_path(LONG_NAME_MEMBER)?;
        before.set_entry_type(long);
        before.set_mode(0o644);
        before.set_size(value.len() as u64 + 1);
        finish_header(&mut before);
        self.out.write_all(before.as_bytes())?;
        self.out.write_all(value.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(value.len() as u64 + 1)
    }

    fn content(&mut self, content: &mut dyn Read, len: u64) -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(256 << 10)];
        let mut left = len;
        while left > 0 {
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            content.read_exact(&mut buffer[..take])?;
            hasher.update(&buffer[..take]);
            self.out.write_all(&buffer[..take])?;
            left -= take as u64;
        }
        self.pad(len)?;
        Ok(hasher.finalize())
    }

    fn pad(&mut self, len: u64) -> io::Result<()> {
        let over = (len % BLOCK as u64) as usize;
        self.out.write_all(&[0; BLOCK][..(BLOCK - over) % BLOCK])
    }
}

/// What does not differ between members: nobody's, and never changed.
fn finish_header(header: &mut Header) {
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
}

impl<W: Write> SlimSink for SlimArchiveWriter<W> {
    fn put(&mut self, name: &str, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?}: {why}")));
        if !names::is_safe(name) {
            return refuse("not a name that a slim dump can hold");
        }
        if name == checkpoint_id_member() {
            return refuse("reserved");
        }
        if let Entry::Symlink { target } = entry
            && !names::is_safe_link(name, target)
        {
            return refuse(&format!("the link leads out of the dump, to {target:?}"));
        }
        let digest = self.member(name, entry, content)?;
        // One line for each member; names have no line breaks.
        let line = match entry {
            Entry::Dir => format!("dir {name}\n"),
            Entry::File { len, mode } => format!("file {:o} {len} {} {name}\n", mode & 0o7777, digest.to_hex()),
            Entry::Symlink { target } => format!("link {name}\n to {target}\n"),
        };
        self.identity.update(line.as_bytes());
        Ok(())
    }
}
