//! What goes in comes out, and nothing else is believed.

use super::*;
use crate::{
    Digest, FRAME_PAGES, FrameInfo, FrameNumber, IndexObject, Location, Manifest, ObjectRef, PackEncoding, PackObject,
    PageNumber, Run, SlimObject, TaskEntry, Totals,
};
use criu_images::{PAGE_SIZE, PageAddr, PageRange};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn object(name: &str, size: u64) -> ObjectRef {
    ObjectRef { object: name.into(), size, blake3: String::new() }
}

/// A manifest that fits these packs and parts; only what [`PartBounds`] looks at is true in it.
fn manifest(tasks: u32, packs: Vec<PackObject>, parts: &[EncodedPart]) -> Manifest {
    let task = |pid| TaskEntry {
        pid,
        parent: None,
        comm: "t".into(),
        threads: vec![pid],
        state: "alive".into(),
        lazy_pages: 0,
        slim_pages: 0,
    };
    Manifest {
        format: "pageferry-store".into(),
        version: 1,
        page_size: PAGE_SIZE,
        frame_pages: FRAME_PAGES,
        checkpoint_id: String::new(),
        image_version: 2,
        tasks: (1..=tasks).map(task).collect(),
        index: parts
            .iter()
            .map(|part| IndexObject {
                object: object("index", part.bytes.len() as u64),
                frames: part.frames,
                first_task: part.first_task,
                first_address: part.first_address,
            })
            .collect(),
        packs,
        slim: SlimObject { object: object("slim", 0), unpacked: 0, tripwire: true },
        totals: Totals::default(),
        working_sets: Vec::new(),
    }
}

/// Content of one page: `None` for zeros.
type Memory = BTreeMap<(u32, u64), Option<u64>>;

/// What a checkpoint might be: a few tasks, runs here and there, some zero, some shared, some new.
#[derive(Debug, Clone)]
struct Made {
    tasks: u32,
    runs: Vec<(u32, Run)>,
    frames: Vec<FrameInfo>,
    packs: Vec<PackObject>,
    memory: Memory,
}

#[derive(Debug, Clone, Copy)]
enum Content {
    Zero,
    New,
    Again(prop::sample::Index),
}

fn made() -> impl Strategy<Value = Made> {
    let content = prop_oneof![
        2 => Just(Content::Zero),
        5 => Just(Content::New),
        2 => any::<prop::sample::Index>().prop_map(Content::Again),
    ];
    let gap = prop_oneof![4 => Just(0u64), 3 => 1u64..40, 1 => 1u64 << 20..1 << 30];
    let run = (0u32..8, gap, 1u64..80, content);
    (1u32..5, prop::collection::vec(run, 0..60), 1u64..9).prop_map(|(tasks, steps, frames_per_pack)| {
        let (mut task, mut index) = (0u32, 16u64);
        let mut next_page = 0u64;
        let (mut runs, mut memory) = (Vec::new(), Memory::new());
        for (step, gap, pages, content) in steps {
            if step == 0 && task + 1 < tasks {
                (task, index) = (task + 1, 16);
            }
            index += gap;
            // A pack's last frame may be short: the model's frames are full but for the very last, which is cut below.
            let location = match content {
                Content::Zero => Location::Zero,
                Content::New => {
                    let page = PageNumber(next_page);
                    next_page += pages;
                    Location::Page(page)
                }
                Content::Again(at) if next_page >= pages => {
                    Location::Page(PageNumber(at.index((next_page - pages + 1) as usize) as u64))
                }
                Content::Again(_) => Location::Zero,
            };
            for i in 0..pages {
                let page = match location {
                    Location::Page(page) => Some(page.0 + i),
                    Location::Zero => None,
                };
                memory.insert((task, (index + i) * PAGE_SIZE), page);
            }
            let range = PageRange::new(PageAddr::new(index * PAGE_SIZE).unwrap(), pages).unwrap();
            runs.push((task, Run { range, location }));
            index += pages;
        }
        let (mut frames, mut packs) = (Vec::new(), Vec::<PackObject>::new());
        for number in 0..next_page.div_ceil(FRAME_PAGES) {
            if number % frames_per_pack == 0 {
                packs.push(PackObject { object: object("pack", 0), encoding: PackEncoding::Zstd, frames: 0 });
            }
            let at = packs.len() as u32 - 1;
            let pack = packs.last_mut().unwrap();
            let stored_len = 100 + (number * 7919 % 65_000) as u32;
            let offset = pack.object.size + number % 3;
            pack.object.size = offset + u64::from(stored_len);
            pack.frames += 1;
            let pages = (next_page - number * FRAME_PAGES).min(FRAME_PAGES) as u8;
            let digest = Digest::of(&number.to_le_bytes());
            frames.push(FrameInfo { pack: at, offset, stored_len, pages, digest });
        }
        Made { tasks, runs, frames, packs, memory }
    })
}

impl Made {
    /// Encodes, with frames `lag` behind the runs (or before them).
    fn encode(&self, lag: usize) -> Vec<EncodedPart> {
        let mut builder = IndexBuilder::new(self.tasks);
        let mut frames = self.frames.iter();
        for (i, &(task, run)) in self.runs.iter().enumerate() {
            builder.push_run(task, run).unwrap();
            if i >= lag {
                frames.by_ref().take(3).for_each(|&f| builder.push_frame(f).unwrap());
            }
        }
        frames.for_each(|&f| builder.push_frame(f).unwrap());
        builder.finish().unwrap()
    }

    fn decode(&self, parts: &[EncodedPart]) -> Vec<IndexPart> {
        let manifest = manifest(self.tasks, self.packs.clone(), parts);
        let decode = |(at, part): (usize, &EncodedPart)| {
            IndexPart::decode("index", &part.bytes, &PartBounds::of(&manifest, at).unwrap()).unwrap()
        };
        parts.iter().enumerate().map(decode).collect()
    }
}

fn pages_of(task: u32, runs: impl Iterator<Item = Run>) -> Memory {
    let page = |run: Run, i| match run.location {
        Location::Page(page) => Some(page.0 + i),
        Location::Zero => None,
    };
    runs.flat_map(|run| {
        (0..run.range.pages()).map(move |i| ((task, run.range.start().get() + i * PAGE_SIZE), page(run, i)))
    })
    .collect()
}

fn everything() -> PageRange {
    PageRange::from_bytes(0, PageAddr::LIMIT).unwrap()
}

proptest! {
    #[test]
    fn lookup_equals_a_naive_map(made in made(), lag in 0usize..60, from in 0u64..4000, pages in 1u64..300) {
        let parts = made.encode(lag);
        prop_assert!(parts.len() <= 1);
        let decoded = made.decode(&parts);
        for task in 0..made.tasks {
            let found = pages_of(task, decoded.iter().flat_map(|p| p.runs(task, everything())));
            let wanted: Memory = made.memory.range((task, 0)..(task + 1, 0)).map(|(k, v)| (*k, *v)).collect();
            prop_assert_eq!(found, wanted);
            let window = PageRange::new(PageAddr::new(from * PAGE_SIZE).unwrap(), pages).unwrap();
            let found = pages_of(task, decoded.iter().flat_map(|p| p.runs(task, window)));
            let wanted: Memory =
                made.memory.range((task, window.start().get())..(task, window.end())).map(|(k, v)| (*k, *v)).collect();
            prop_assert_eq!(found, wanted);
        }
        for (number, frame) in (0..).zip(&made.frames) {
            prop_assert_eq!(decoded[0].frame(FrameNumber(number)), Some(*frame));
        }
        let past = FrameNumber(made.frames.len() as u64);
        prop_assert_eq!(decoded.first().and_then(|p| p.frame(past)), None);
    }

    #[test]
    fn order_of_pushes_does_not_matter(made in made(), lag in 0usize..60) {
        prop_assert_eq!(made.encode(lag), made.encode(0));
    }

    /// Flips in the plain columns, behind zstd and the digest: what a hostile store could hold.
    #[test]
    fn flipped_columns_do_no_harm(made in made(), at: prop::sample::Index, bit in 0u8..8) {
        for (position, part) in made.encode(0).iter_mut().enumerate() {
            let manifest = manifest(made.tasks, made.packs.clone(), std::slice::from_ref(part));
            let mut plain = zstd::decode_all(&part.bytes[HEADER_LEN..]).unwrap();
            let at = at.index(plain.len());
            plain[at] ^= 1 << bit;
            part.bytes.truncate(HEADER_LEN);
            part.bytes.extend(zstd::bulk::compress(&plain, 1).unwrap());
            let bounds = PartBounds::of(&manifest, position).unwrap();
            if let Ok(part) = IndexPart::decode("index/x.idx", &part.bytes, &bounds) {
                // Still a possible index. Every lookup must hold together.
                for task in 0..made.tasks {
                    let mut end = 0;
                    for run in part.runs(task, everything()) {
                        prop_assert!(run.range.start().get() >= end);
                        end = run.range.end();
                    }
                }
            }
        }
    }
}

/// Truncation at every byte, a flip of every bit: an error that names the object, or (never, zstd sees to most) a sound part.
#[test]
fn damaged_objects_are_refused_by_name() {
    let made = small();
    let parts = made.encode(0);
    let manifest = manifest(made.tasks, made.packs.clone(), &parts);
    let bounds = PartBounds::of(&manifest, 0).unwrap();
    let whole = &parts[0].bytes;
    let refused = |bytes: &[u8]| match IndexPart::decode("index/x.idx", bytes, &bounds) {
        Ok(_) => false,
        Err(e) => {
            assert!(e.to_string().starts_with("index/x.idx: "), "{e}");
            true
        }
    };
    assert!(!refused(whole));
    (0..whole.len()).for_each(|len| assert!(refused(&whole[..len]), "cut at {len}"));
    assert!(refused(&[whole, &b"x"[..]].concat()));
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let refused = refused(&bytes);
        assert!(refused || bit >= HEADER_LEN * 8, "header, bit {bit}");
    }
}

fn run(first: u64, pages: u64, location: Location) -> Run {
    Run { range: PageRange::new(PageAddr::new(first * PAGE_SIZE).unwrap(), pages).unwrap(), location }
}

fn frame(number: u64, per_pack: u64) -> FrameInfo {
    let offset = number % per_pack * 1000;
    let pack = (number / per_pack) as u32;
    FrameInfo { pack, offset, stored_len: 1000, pages: 16, digest: Digest::of(&number.to_le_bytes()) }
}

fn packs(frames: u64, per_pack: u64) -> Vec<PackObject> {
    (0..frames.div_ceil(per_pack))
        .map(|i| {
            let frames = (frames - i * per_pack).min(per_pack);
            PackObject { object: object("pack", frames * 1000), encoding: PackEncoding::Zstd, frames }
        })
        .collect()
}

fn small() -> Made {
    let page = |n| Location::Page(PageNumber(n));
    let runs = vec![
        (0, run(16, 10, page(0))),
        (0, run(30, 5, Location::Zero)),
        (1, run(16, 4, page(3))),
        (1, run(20, 22, page(10))),
        (1, run(1 << 40, 1, Location::Zero)),
    ];
    let frames = (0..2).map(|n| frame(n, 1)).collect();
    Made { tasks: 3, runs, frames, packs: packs(2, 1), memory: Memory::new() }
}

#[test]
fn refuses_runs_and_frames_out_of_order() {
    let mut builder = IndexBuilder::new(2);
    builder.push_run(1, run(50, 10, Location::Zero)).unwrap();
    for (task, bad) in
        [(1, run(59, 1, Location::Zero)), (0, run(70, 1, Location::Zero)), (2, run(80, 1, Location::Zero))]
    {
        assert!(builder.push_run(task, bad).is_err());
    }
    builder.push_frame(frame(5, 10)).unwrap();
    assert!(builder.push_frame(frame(5, 10)).is_err());
    builder.push_frame(FrameInfo { pages: 3, ..frame(6, 10) }).unwrap();
    assert!(builder.push_frame(frame(7, 10)).is_err(), "behind a short frame comes a new pack");
    builder.push_run(1, run(100, 40, Location::Page(PageNumber(0)))).unwrap();
    assert!(builder.finish().is_err(), "names pages without a frame");
}

/// 10 GiB in one task, then another that shares all of it: parts are cut at 4 GiB, handed out as they fill.
#[test]
fn a_large_checkpoint_is_cut_into_parts() {
    let frames = 10 * MAX_PART_FRAMES / 4;
    let mut builder = IndexBuilder::new(2);
    let mut parts = Vec::new();
    for number in 0..frames {
        // Frames lag 300 behind runs, as they do behind compressing threads.
        builder.push_run(0, run(number * 17, 16, Location::Page(PageNumber(number * 16)))).unwrap();
        if number >= 300 {
            builder.push_frame(frame(number - 300, 1000)).unwrap();
        }
        parts.extend(builder.take_part());
    }
    assert_eq!(parts.len(), 2, "finished parts do not wait for the end");
    (frames - 300..frames).for_each(|number| builder.push_frame(frame(number, 1000)).unwrap());
    builder.push_run(1, run(1000, frames * 16, Location::Page(PageNumber(0)))).unwrap();
    parts.extend(builder.finish().unwrap());
    assert_eq!(parts.iter().map(|p| p.frames).collect::<Vec<_>>(), [65536, 65536, frames - 2 * 65536]);
    assert_eq!(parts[1].first_address, 65536 * 17 * PAGE_SIZE);

    let manifest = manifest(2, packs(frames, 1000), &parts);
    let decode =
        |at: usize| IndexPart::decode("part", &parts[at].bytes, &PartBounds::of(&manifest, at).unwrap()).unwrap();
    let decoded: Vec<_> = (0..3).map(decode).collect();
    assert_eq!(decoded[1].frame(FrameNumber(65536 + 5)), Some(frame(65536 + 5, 1000)));
    assert_eq!(decoded[1].frame(FrameNumber(65535)), None);
    let second: Vec<_> = decoded[2].runs(1, everything()).collect();
    assert_eq!(second, [run(1000, frames * 16, Location::Page(PageNumber(0)))]);
    // A part that is taken for another is refused.
    assert!(IndexPart::decode("part", &parts[0].bytes, &PartBounds::of(&manifest, 1).unwrap()).is_err());
}

/// One run over three parts is cut where parts end; runs past a part's cap go to the next.
#[test]
fn runs_are_cut_at_parts() {
    let frames = 2 * MAX_PART_FRAMES + 10;
    let mut builder = IndexBuilder::new(1);
    (0..frames).for_each(|n| builder.push_frame(frame(n, 100_000)).unwrap());
    builder.push_run(0, run(100, frames * 16, Location::Page(PageNumber(0)))).unwrap();
    let parts = builder.finish().unwrap();
    let manifest = manifest(1, packs(frames, 100_000), &parts);
    let counts: Vec<_> = (0..parts.len())
        .map(|at| IndexPart::decode("part", &parts[at].bytes, &PartBounds::of(&manifest, at).unwrap()).unwrap())
        .map(|part| (part.run_count(), part.frame_count() as u64))
        .collect();
    assert_eq!(counts, [(1, 65536), (1, 65536), (1, 10)]);

    let mut builder = IndexBuilder::new(1);
    let runs = MAX_PART_RUNS + 5;
    for i in 0..runs {
        let location = if i % 2 == 0 { Location::Zero } else { Location::Page(PageNumber(i % 160)) };
        builder.push_run(0, run(i * 2, 1, location)).unwrap();
    }
    (0..10).for_each(|n| builder.push_frame(frame(n, 100)).unwrap());
    let parts = builder.finish().unwrap();
    assert_eq!(parts.iter().map(|p| p.frames).collect::<Vec<_>>(), [10, 0]);
    assert_eq!(parts[1].first_address, MAX_PART_RUNS * 2 * PAGE_SIZE);
}

/// The figure of the design: 1 GiB of pages, runs as scattered as a prefork tree's, in under 512 KiB.
#[test]
fn an_index_of_a_gigabyte_is_small() {
    let frames = 16384;
    let mut builder = IndexBuilder::new(4);
    let (mut address, mut page) = (0u64, 0u64);
    while page < frames * 16 {
        let noise = u64::from(Digest::of(&page.to_le_bytes()).0[0]);
        let pages = (1 + noise % 40).min(frames * 16 - page);
        address += noise / 100;
        builder.push_run(0, run(address, pages, Location::Page(PageNumber(page)))).unwrap();
        (address, page) = (address + pages, page + pages);
        if noise % 5 == 0 {
            builder.push_run(0, run(address, 3, Location::Zero)).unwrap();
            address += 3;
        }
    }
    let mut offset = 0;
    for number in 0..frames {
        let digest = Digest::of(&number.to_le_bytes());
        let stored_len = 12_000 + u32::from(digest.0[1]) * 64 + u32::from(digest.0[2]) % 64;
        builder.push_frame(FrameInfo { pack: 0, offset, stored_len, pages: 16, digest }).unwrap();
        offset += u64::from(stored_len);
    }
    let parts = builder.finish().unwrap();
    assert_eq!(parts.len(), 1);
    let size = parts[0].bytes.len();
    println!("index of 1 GiB: {size} bytes");
    assert!(size < 400 << 10, "{size} bytes");
}
