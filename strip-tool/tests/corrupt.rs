//! A store with something wrong in it: `verify` names it, `join` writes nothing.

mod common;

use common::*;
use std::{fs, path::Path};

/// `verify` must fail and name `object`; `join` must fail too if `join_sees` it, and must in no case write something else than
/// what there was.
fn check(dump: &Path, store: &Path, object: &str, join_sees: bool) {
    let said = fail(strip().arg("verify").arg(store));
    assert!(said.contains(object), "verify does not name {object}:\n{said}");
    let parent = store.parent().unwrap();
    let before = names(parent);
    let out = parent.join("joined");
    let output = join(store.to_str().unwrap(), &out).output().unwrap();
    match output.status.code() {
        Some(0) => {
            assert!(!join_sees, "join does not see that {object} is bad");
            assert_same(dump, &out);
            fs::remove_dir_all(&out).unwrap();
        }
        Some(1) => assert_eq!(names(parent), before, "join left something"),
        code => panic!("{code:?}: {}", common::said(&output)),
    }
}

/// Changes a file for the time of a check.
fn with(path: &Path, change: impl FnOnce(&mut Vec<u8>), check: impl FnOnce()) {
    let good = fs::read(path).unwrap();
    let mut bad = good.clone();
    change(&mut bad);
    fs::write(path, bad).unwrap();
    check();
    fs::write(path, good).unwrap();
}

fn file_name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[test]
fn bits_flipped_everywhere() {
    let (_dir, dump, store) = varied_store();
    for folder in ["index", "packs", "slim"] {
        for object in objects(&store, folder) {
            let len = fs::metadata(&object).unwrap().len() as usize;
            for place in [0, 5, len / 3, len / 2, len - len / 5, len - 1] {
                // The seek table, at the end of a pack, is for zstd's tools; join does not read it.
                let join_sees = folder != "packs" || place < len / 2 + 1;
                with(&object, |b| b[place] ^= 0x10, || check(&dump, &store, file_name(&object), join_sees));
            }
        }
    }
}

#[test]
fn objects_cut_short_grown_empty_and_gone() {
    let (_dir, dump, store) = varied_store();
    for folder in ["index", "packs", "slim"] {
        for object in objects(&store, folder) {
            let name = file_name(&object).to_owned();
            with(&object, |b| b.truncate(b.len() / 2), || check(&dump, &store, &name, true));
            with(&object, |b| b.truncate(b.len() - 1), || check(&dump, &store, &name, folder != "packs"));
            with(&object, |b| b.clear(), || check(&dump, &store, &name, true));
            with(&object, |b| b.push(0), || check(&dump, &store, &name, false));
            let away = object.with_extension("away");
            fs::rename(&object, &away).unwrap();
            check(&dump, &store, &name, true);
            fs::rename(&away, &object).unwrap();
        }
    }
    succeed(strip().arg("verify").arg(&store));
}

#[test]
fn a_frame_that_is_bad_is_named_with_its_place() {
    let (_dir, _dump, store) = varied_store();
    let pack = &objects(&store, "packs")[0];
    with(
        pack,
        |b| b[20] ^= 1,
        || {
            let said = fail(strip().arg("verify").arg(&store));
            assert!(said.contains("frame 0 (bytes 0.."), "{said}");
        },
    );
}

#[test]
fn a_manifest_that_lies() {
    let (_dir, dump, store) = varied_store();
    let manifest = store.join("checkpoint.json");
    let good: serde_json::Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    type Lie<'a> = &'a dyn Fn(&mut serde_json::Value);
    let lies: [(&str, Lie<'_>); 9] = [
        ("format", &|m| m["format"] = "something".into()),
        ("version", &|m| m["version"] = 2.into()),
        ("id", &|m| m["checkpoint_id"] = "00".repeat(32).into()),
        ("index digest", &|m| m["index"][0]["blake3"] = "11".repeat(32).into()),
        ("pack size", &|m| m["packs"][0]["size"] = 10.into()),
        ("lazy pages", &|m| m["tasks"][0]["lazy_pages"] = 1.into()),
        ("task gone", &|m| drop(m["tasks"].as_array_mut().unwrap().pop())),
        ("zero pages", &|m| m["totals"]["zero_pages"] = 3.into()),
        ("a task's slim pages", &|m| m["tasks"][0]["slim_pages"] = 4000.into()),
    ];
    for (what, lie) in lies {
        let mut bad = good.clone();
        lie(&mut bad);
        with(
            &manifest,
            |b| *b = bad.to_string().into_bytes(),
            || {
                println!("{what}");
                check(&dump, &store, "checkpoint", false);
            },
        );
    }
    for cut in [0, 1, 100] {
        with(&manifest, |b| b.truncate(cut), || check(&dump, &store, "checkpoint.json", true));
    }
}

#[test]
fn two_stores_mixed_up() {
    let (dir, dump, store) = varied_store();
    // The same memory, another environment: same packs and index, another slim dump.
    let other = dir.path().join("other");
    fs::write(dump.join("dump.log"), "another run\n").unwrap();
    succeed(&mut split(&dump, &other));
    let (ours, theirs) = (&objects(&store, "slim")[0], &objects(&other, "slim")[0]);
    with(ours, |b| *b = fs::read(theirs).unwrap(), || check(&dump, &store, file_name(ours), true));
}
