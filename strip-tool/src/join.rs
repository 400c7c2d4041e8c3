//! `join`: the full checkpoint again, byte for byte.

mod frames;
mod pages;

use crate::{
    Meter, Stop, human,
    output::{OutputDir, sync_tree},
    retry::{open_store, with_retries},
};
use anyhow::{Context, Result, bail};
use criu_images::{
    ImageSource, PAGE_SIZE,
    slim::{Content, OriginalFile, original_files},
};
use frames::FrameReader;
use page_store::{SlimDump, Store};
use pages::PagesWriter;
use serde::Serialize;
use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

/// What to join, and where to.
#[derive(Debug, Clone)]
pub struct JoinOptions {
    /// Path or address of the store.
    pub store: String,
    /// Where the checkpoint is to be: a folder that is empty or does not exist.
    pub out: PathBuf,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct JoinReport {
    /// The checkpoint.
    pub checkpoint: PathBuf,
    /// Its identity in the store.
    pub checkpoint_id: String,
    /// How many files.
    pub files: usize,
    /// Bytes in them.
    pub bytes: u64,
    /// Wall-clock time.
    pub seconds: f64,
}

impl fmt::Display for JoinReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (files, bytes) = (human::count(self.files as u64), human::bytes(self.bytes));
        let speed = human::bytes((self.bytes as f64 / self.seconds) as u64);
        writeln!(f, "{}: {files} files, {bytes}, {:.2} s, {speed}/s", self.checkpoint.display(), self.seconds)
    }
}

/// Bytes that a file gathers before they are written.
const BUFFER: usize = 256 << 10;

/// Joins a store. The checkpoint appears whole, when every byte of it was verified and is on disk; after an error, or when
/// stopped, nothing of it is left.
pub async fn join(options: &JoinOptions, meter: &Meter, stop: &Stop) -> Result<JoinReport> {
    stop.or(run(options, meter)).await
}

async fn run(options: &JoinOptions, meter: &Meter) -> Result<JoinReport> {
    let began = Instant::now();
    let out = OutputDir::create(&options.out)?;
    let store = open_store(&options.store).await?;
    let slim = Arc::new(with_retries(&store, || store.slim()).await?);
    let mut files = original_files(slim.clone())?;
    // In the order of the store's pages, so that frames are read once, one after another. Links come last: nothing is
    // written through one.
    files.sort_by_key(|file| match &file.content {
        Content::Dir => (0, 0),
        Content::Copy { .. } => (1, 0),
        Content::Pages { pid, .. } => (2, store.manifest().task_position(*pid).unwrap_or(0)),
        Content::Symlink { .. } => (3, 0),
    });
    let bytes = files.iter().map(|file| len(&file.content)).sum();
    meter.begin("join", bytes);
    let root = out.path();
    fs::create_dir(&root).with_context(|| root.display().to_string())?;
    let mut frames = FrameReader::new(store.clone());
    for file in &files {
        let path = root.join(&file.name);
        let made = make(file, &path, &slim, &store, &mut frames, meter).await;
        let needs = human::bytes(bytes);
        made.with_context(|| format!("cannot make {} ({needs} in all)", options.out.join(&file.name).display()))?;
    }
    sync_tree(&root).with_context(|| root.display().to_string())?;
    out.finish()?;
    meter.end();
    Ok(JoinReport {
        checkpoint: options.out.clone(),
        checkpoint_id: store.manifest().checkpoint_id.clone(),
        files: files.len(),
        bytes,
        seconds: began.elapsed().as_secs_f64(),
    })
}

fn len(content: &Content) -> u64 {
    match content {
        Content::Dir | Content::Symlink { .. } => 0,
        Content::Copy { len, .. } | Content::Pages { len, .. } => *len,
    }
}

async fn make(
    file: &OriginalFile,
    path: &Path,
    slim: &SlimDump,
    store: &Store,
    frames: &mut FrameReader,
    meter: &Meter,
) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match &file.content {
        Content::Dir => fs::create_dir_all(path)?,
        Content::Symlink { target } => symlink(target, path)?,
        Content::Copy { member, len, mode } => {
            let mut out = Output::create(path, *mode)?;
            copy(slim, member, 0, *len, &mut out, meter).await?;
            out.finish()?;
        }
        Content::Pages { pid, len, mode, pieces } => {
            let mut out = Output::create(path, *mode)?;
            let mut writer = PagesWriter { slim, store, frames, meter, pid: *pid, name: &file.name };
            for piece in pieces {
                writer.write(piece, &mut out).await?;
            }
            let written = out.finish()?;
            if written != *len {
                bail!("{written} bytes, but it should have {len}");
            }
        }
    }
    Ok(())
}

/// Copies a part of a member of the slim dump. Shared memory is in there, which may be large: it pauses for whoever wants to stop.
async fn copy(slim: &SlimDump, member: &str, offset: u64, len: u64, out: &mut impl Write, meter: &Meter) -> Result<()> {
    let Some(file) = slim.open(member)? else { bail!("the slim dump has no {member}") };
    let mut buffer = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(BUFFER)];
    let mut done = 0;
    while done < len {
        let take = usize::try_from(len - done).unwrap_or(usize::MAX).min(buffer.len());
        file.read_exact_at(&mut buffer[..take], offset + done)?;
        out.write_all(&buffer[..take])?;
        done += take as u64;
        meter.advance(take as u64);
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// A file being written.
struct Output {
    file: BufWriter<File>,
    mode: u32,
    written: u64,
}

impl Output {
    fn create(path: &Path, mode: u32) -> io::Result<Self> {
        // Its permissions may not let it be written to: they come at the end.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Self { file: BufWriter::with_capacity(BUFFER, file), mode, written: 0 })
    }

    /// On disk, and how long.
    fn finish(self) -> io::Result<u64> {
        let file = self.file.into_inner().map_err(|e| e.into_error())?;
        file.set_permissions(fs::Permissions::from_mode(self.mode))?;
        file.sync_all()?;
        Ok(self.written)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

const _: () = assert!((BUFFER as u64).is_multiple_of(PAGE_SIZE));
