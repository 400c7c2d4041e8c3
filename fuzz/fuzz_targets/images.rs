//! Image files of a checkpoint, replaced by whatever the fuzzer likes: opening it, asking for pages, making it slim and
//! listing the original again must end in an answer or an error.
//!
//! Input: `pages: u8`, then replacements `{image: u8, length: u16 LE, bytes}`, or, if the upper bit of `image` is set, changes
//! `{image: u8, offset: u16 LE, length: u8, bytes}`, which keep what is around them.

#![no_main]

use criu_images::{
    Checkpoint, Error, ImageSource, PAGE_SIZE, PageAddr, PagesFile, Result, Stored,
    slim::{self, Entry, SlimSink},
    testing::{Dump, LAZY, PARENT, PRESENT, Pages, Task},
};
use libfuzzer_sys::fuzz_target;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    sync::{Arc, LazyLock},
};

type Images = BTreeMap<String, Vec<u8>>;

/// A small checkpoint with a parent and a shared segment; the parent's images are called `parent/...`.
static BASE: LazyLock<Images> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let task = Task::new(1).anonymous(0x10_0000, 8);
    let old = Dump::new().task(task.clone().pages(Pages::here(0x10_0000, 3)));
    old.write(&dir.path().join("parent")).expect("written");
    let lazy = Pages::new(0x10_4000, 1, PRESENT | LAZY);
    let new = Dump::new().task(task.pages(Pages::new(0x10_0000, 3, PARENT)).pages(lazy));
    let new = new.task(Task { state: 2, ppid: 1, ..Task::new(2) }).shared(7, vec![Pages::here(0x1000, 1)]);
    new.write(dir.path()).expect("written");
    let mut images = Images::new();
    for folder in ["", "parent/"] {
        for item in fs::read_dir(dir.path().join(folder)).expect("a folder").flatten() {
            let name = format!("{folder}{}", item.file_name().to_string_lossy());
            if name.ends_with(".img") {
                images.insert(name, fs::read(item.path()).expect("a file"));
            }
        }
    }
    images
});

/// Bytes for every pages file: a slice of one file without holes.
static PAGES: LazyLock<Arc<File>> = LazyLock::new(|| {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(&vec![7; 1024 * PAGE_SIZE as usize]).expect("written");
    Arc::new(file)
});

struct Memory {
    images: Arc<Images>,
    prefix: &'static str,
    /// Of a pages file that was replaced.
    pages: u64,
}

impl ImageSource for Memory {
    fn describe(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
    fn names(&self) -> Result<Vec<String>> {
        let own = self.images.keys().filter_map(|name| name.strip_prefix(self.prefix));
        Ok(own.filter(|name| !name.starts_with("parent/")).map(str::to_owned).collect())
    }
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.images.get(&self.describe(name)).cloned())
    }
    fn open(&self, name: &str) -> Result<Option<PagesFile>> {
        let Some(image) = self.images.get(&self.describe(name)) else { return Ok(None) };
        let len = match image.len() as u64 {
            _ if !name.starts_with("pages-") => {
                let mut file = tempfile::tempfile().expect("a temporary file");
                file.write_all(image).expect("written");
                return Ok(Some(PagesFile::new(self.describe(name), Arc::new(file), 0, image.len() as u64)));
            }
            0 => self.pages * PAGE_SIZE,
            len => len.min(1024 * PAGE_SIZE),
        };
        Ok(Some(PagesFile::new(self.describe(name), PAGES.clone(), 0, len)))
    }
    fn parent(&self) -> Result<Option<Box<dyn ImageSource>>> {
        let has = self.prefix.is_empty() && self.images.keys().any(|name| name.starts_with("parent/"));
        let parent = Memory { images: self.images.clone(), prefix: "parent/", pages: self.pages };
        Ok(has.then(|| Box::new(parent) as _))
    }
}

/// Takes a slim dump as images.
#[derive(Default)]
struct Sink(Images);

impl SlimSink for Sink {
    fn put(&mut self, name: &str, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        if let Entry::File { len, .. } = entry {
            assert_eq!(bytes.len() as u64, *len, "{name}");
            self.0.insert(name.to_owned(), bytes);
        }
        Ok(())
    }
}

fn images(mut input: &[u8]) -> Memory {
    let mut images = BASE.clone();
    let names: Vec<String> = images.keys().cloned().collect();
    let pages = input.first().copied().unwrap_or(0).into();
    input = input.get(1..).unwrap_or(&[]);
    while let [which, low, high, rest @ ..] = input {
        let number = usize::from(u16::from_le_bytes([*low, *high]));
        let name = &names[usize::from(*which & 0x7f) % names.len()];
        if which & 0x80 == 0 {
            let (bytes, rest) = rest.split_at(number.min(rest.len()));
            images.insert(name.clone(), bytes.to_vec());
            input = rest;
        } else if let ([len, rest @ ..], Some(image)) = (rest, images.get_mut(name)) {
            let (bytes, rest) = rest.split_at(usize::from(*len).min(rest.len()));
            let at = number % (image.len() + 1);
            image.resize(image.len().max(at + bytes.len()), 0);
            image[at..at + bytes.len()].copy_from_slice(bytes);
            input = rest;
        } else {
            break;
        }
    }
    Memory { images: Arc::new(images), prefix: "", pages }
}

fn check(checkpoint: &Checkpoint) {
    let private = checkpoint.tasks.iter().filter_map(|task| task.memory.as_ref());
    for runs in private.map(|m| &m.runs).chain(checkpoint.shared.iter().map(|s| &s.runs)) {
        assert!(runs.windows(2).all(|pair| pair[0].range.end() <= pair[1].range.start().get()));
        for run in runs {
            if let Stored::Here { file, offset } = run.stored {
                assert!(offset + run.range.bytes() <= checkpoint.pages_files[file.0 as usize].len());
            }
        }
    }
    for task in &checkpoint.tasks {
        for addr in [0, 0x10_0000, 0x10_4000, PageAddr::LIMIT - PAGE_SIZE] {
            let addr = PageAddr::new(addr).expect("a page");
            assert!(checkpoint.page_at(task.pid, addr).is_some());
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Ok(checkpoint) = Checkpoint::open(Arc::new(images(input))) else { return };
    check(&checkpoint);
    let mut sink = Sink::default();
    match slim::write(&checkpoint, false, &mut sink) {
        Ok(()) => {}
        Err(Error::Unsupported { .. } | Error::Corrupt { .. }) => return,
        Err(e) => panic!("{e}"),
    }
    // What was written opens again and fits together. Its pages files keep their lengths, if not their bytes.
    let slim = Memory { images: Arc::new(sink.0), prefix: "", pages: 0 };
    let source: Arc<dyn ImageSource> = Arc::new(slim);
    check(&Checkpoint::open(source.clone()).expect("a slim dump that we wrote opens"));
    slim::original_files(source).expect("a slim dump that we wrote has an original");
});
