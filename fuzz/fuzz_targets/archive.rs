//! Slim dumps whose tar headers are whole, checksums included, and whose names, links, types and sizes are not to be trusted: unpacking
//! ends in a folder or in an error, and writes nothing beside that folder.

#![no_main]

mod common;

use common::{BASE, Memory, RUNTIME, replace};
use criu_images::slim::checkpoint_id_member;
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};
use page_store::{MANIFEST_NAME, Store};
use std::{fs, path::Path, sync::Arc};

const BLOCK: usize = 512;

#[derive(Arbitrary, Debug)]
enum Name {
    Bytes(Vec<u8>),
    Parts { absolute: bool, parts: Vec<Part>, slash: bool },
}

#[derive(Arbitrary, Debug)]
enum Part {
    Up,
    Here,
    Empty,
    One,
    Two,
    Parent,
    Long(u8),
}

#[derive(Debug)]
enum Size {
    Right,
    Of(u64),
    /// A size in the octal field as it stands there.
    Field([u8; 12]),
}

/// Sizes are right more often than not, or little would come behind the first member.
impl<'a> Arbitrary<'a> for Size {
    fn arbitrary(input: &mut arbitrary::Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(match u8::arbitrary(input)? % 8 {
            1 => Self::Of(input.arbitrary()?),
            2 => Self::Field(input.arbitrary()?),
            _ => Self::Right,
        })
    }
}

#[derive(Arbitrary, Debug)]
struct Member {
    name: Name,
    target: Name,
    kind: u8,
    mode: u32,
    size: Size,
    content: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
struct Archive {
    members: Vec<Member>,
    /// At most one thing is wrong with the archive as a whole, and mostly none, so that members are what counts.
    wrong: Wrong,
}

#[derive(Arbitrary, Debug)]
enum Wrong {
    Nothing,
    NothingEither,
    NorHere,
    /// It does not say which store it belongs to.
    Nameless,
    Endless,
    Unpacked(u64),
    Trailing(Vec<u8>),
}

impl Member {
    /// File, link, folder, long name, long target; now and then anything.
    fn entry_type(&self) -> u8 {
        [b'0', b'2', b'5', b'L', b'K'].get(usize::from(self.kind % 6)).copied().unwrap_or(self.kind)
    }
}

impl Name {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Parts { absolute, parts, slash } => {
                let text = |part: &Part| match part {
                    Part::Up => "..".into(),
                    Part::Here => ".".into(),
                    Part::Empty => String::new(),
                    Part::One => "a".into(),
                    Part::Two => "b".into(),
                    Part::Parent => "parent".into(),
                    Part::Long(n) => "x".repeat((*n).into()),
                };
                let path = parts.iter().map(text).collect::<Vec<_>>().join("/");
                format!("{}{path}{}", if *absolute { "/" } else { "" }, if *slash { "/" } else { "" }).into_bytes()
            }
        }
    }
}

fn octal(field: &mut [u8], number: u64) {
    let digits = format!("{number:0width$o}", width = field.len() - 1);
    let digits = &digits.as_bytes()[digits.len() + 1 - field.len()..];
    field[..digits.len()].copy_from_slice(digits);
}

fn member(tar: &mut Vec<u8>, name: &[u8], target: &[u8], kind: u8, mode: u32, size: &Size, content: &[u8]) {
    let mut header = [0; BLOCK];
    header[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
    octal(&mut header[100..108], (mode & 0o7777).into());
    match size {
        Size::Right => octal(&mut header[124..136], content.len() as u64),
        Size::Of(size) => octal(&mut header[124..136], *size),
        Size::Field(field) => header[124..136].copy_from_slice(field),
    }
    header[156] = kind;
    header[157..157 + target.len().min(100)].copy_from_slice(&target[..target.len().min(100)]);
    header[257..263].copy_from_slice(b"ustar\0");
    header[148..156].fill(b' ');
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut header[148..155], sum);
    tar.extend(header);
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
}

fn tar(archive: &Archive, id: &str) -> Vec<u8> {
    let mut tar = Vec::new();
    for one in &archive.members {
        let Member { name, target, mode, size, content, .. } = one;
        let kind = one.entry_type();
        // Links and folders have no content, or are refused at once.
        let content = if matches!(kind, b'2' | b'5') { &[] } else { &content[..] };
        member(&mut tar, &name.bytes(), &target.bytes(), kind, *mode, size, content);
    }
    if !matches!(archive.wrong, Wrong::Nameless) {
        member(&mut tar, checkpoint_id_member().as_bytes(), b"", b'0', 0o644, &Size::Right, id.as_bytes());
    }
    if !matches!(archive.wrong, Wrong::Endless) {
        tar.extend([0; 2 * BLOCK]);
    }
    if let Wrong::Trailing(bytes) = &archive.wrong {
        tar.extend(bytes);
    }
    tar
}

fn names(folder: &Path) -> Vec<String> {
    let items = fs::read_dir(folder).expect("a folder").flatten();
    items.map(|item| item.file_name().to_string_lossy().into_owned()).collect()
}

fuzz_target!(|archive: Archive| {
    let (mut objects, mut manifest) = BASE.clone();
    let tar = tar(&archive, &manifest.checkpoint_id);
    // Long names are no content.
    let files = archive.members.iter().filter(|member| member.entry_type() == b'0');
    let contents = files.map(|member| member.content.len() as u64).sum::<u64>();
    manifest.slim.unpacked = match archive.wrong {
        Wrong::Unpacked(bytes) => bytes,
        Wrong::Nameless => contents,
        _ => contents + manifest.checkpoint_id.len() as u64,
    };
    replace(&mut objects, &mut manifest.slim.object, zstd::bulk::compress(&tar, 1).expect("compressed"));
    let Ok(json) = manifest.to_json() else { return };
    objects.insert(MANIFEST_NAME.into(), json);
    RUNTIME.block_on(async {
        let Ok(store) = Store::from_backend(Arc::new(Memory(objects))).await else { return };
        let Ok(slim) = store.slim().await else { return };
        let outer = tempfile::tempdir().expect("a folder");
        match slim.unpack(&outer.path().join("out")) {
            Ok(()) => assert_eq!(names(outer.path()), ["out"]),
            Err(_) => assert_eq!(names(outer.path()), [""; 0]),
        }
    });
});
