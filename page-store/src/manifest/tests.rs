//! A manifest comes back as it was, or is refused with the place that is wrong.

use super::*;
use serde_json::{Value, json};

fn hex(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn sample() -> Value {
    json!({
        "format": "pageferry-store",
        "version": 1,
        "page_size": 4096,
        "frame_pages": 16,
        "checkpoint_id": hex('a'),
        "image_version": 2,
        "tasks": [
            {"pid": 7, "comm": "redis-server", "threads": [7, 8], "state": "alive", "lazy_pages": 40, "slim_pages": 3},
            {"pid": 9, "parent": 7, "comm": "sh", "threads": [], "state": "dead", "lazy_pages": 0, "slim_pages": 0},
        ],
        "index": [{
            "object": format!("index/{}.idx", hex('b')), "size": 100, "blake3": hex('b'),
            "frames": 3, "first_task": 0, "first_address": 4096,
        }],
        "packs": [
            {"object": format!("packs/{}.pack", hex('c')), "size": 9000, "blake3": hex('c'), "encoding": "zstd", "frames": 1},
            {"object": format!("packs/{}.pack", hex('d')), "size": 69632, "blake3": hex('d'), "encoding": "plain", "frames": 2},
        ],
        "slim": {
            "object": format!("slim/{}.tar.zst", hex('e')), "size": 500, "blake3": hex('e'), "unpacked": 9, "tripwire": true,
        },
        "totals": {
            "dumped_pages": 43, "lazy_pages": 40, "zero_pages": 7, "stored_pages": 33, "distinct_pages": 33,
            "pack_bytes": 78632,
        },
        "working_sets": [],
    })
}

fn parse(value: &Value) -> Result<Manifest> {
    Manifest::parse("there/checkpoint.json", &serde_json::to_vec(value).unwrap())
}

#[test]
fn comes_back_the_same() {
    let manifest = parse(&sample()).unwrap();
    let json = manifest.to_json().unwrap();
    assert!(json.starts_with(b"{\n  \"format\": \"pageferry-store\",\n  \"version\": 1,\n") && json.ends_with(b"}\n"));
    let again = Manifest::parse("x", &json).unwrap();
    assert_eq!(again, manifest);
    assert_eq!(again.to_json().unwrap(), json);
    assert_eq!(serde_json::from_slice::<Value>(&json).unwrap(), sample());
    assert_eq!(manifest.task_position(Pid::new(9).unwrap()), Some(1));
}

#[test]
fn what_an_older_reader_may_skip_is_skipped() {
    let mut value = sample();
    value["note"] = json!("added later");
    value["tasks"][0]["uid"] = json!(0);
    parse(&value).unwrap();
}

#[test]
fn each_lie_is_named() {
    let cases = [
        ("/page_size", json!(65536), "65536"),
        ("/frame_pages", json!(0), "0 to a frame"),
        ("/format", json!("pageferry"), "format"),
        ("/version", json!(3), "newer pageferry"),
        ("/version", json!(1u64 << 40), "newer pageferry"),
        ("/version", json!(-1), "is this a page store"),
        ("/checkpoint_id", json!("x"), "checkpoint_id"),
        ("/checkpoint_id", json!(hex('A')), "checkpoint_id"),
        ("/tasks/1/pid", json!(7), "tasks[1]: pid 7 is there twice"),
        ("/tasks/1/pid", json!(0), "tasks[1]: 0 is not a pid"),
        ("/tasks/0/pid", json!(1u64 << 32), "line 1"),
        ("/tasks/0/threads/1", json!(5_000_000), "tasks[0]"),
        ("/tasks/1/parent", json!(0), "tasks[1]"),
        ("/tasks/0/lazy_pages", json!(41), "totals: lazy_pages"),
        ("/tasks/0/lazy_pages", json!(-1), "line 1"),
        ("/index/0/object", json!("index/../../etc/passwd"), "index[0]"),
        ("/index/0/object", json!(format!("packs/{}.pack", hex('b'))), "index[0]"),
        ("/index/0/blake3", json!(hex('f')), "index[0]"),
        ("/index/0/size", json!(1u64 << 40), "index[0]: 1099511627776 bytes are too many"),
        ("/index/0/frames", json!(65537), "index[0]"),
        ("/index/0/frames", json!(2), "packs: other frames than in the index"),
        ("/index/0/first_task", json!(2), "index[0]"),
        ("/index/0/first_address", json!(4097), "index[0]"),
        ("/index/0/first_address", json!(1u64 << 57), "index[0]"),
        ("/packs/0/object", json!("/etc/passwd"), "packs[0]"),
        ("/packs/0/object", json!("http://elsewhere/x"), "packs[0]"),
        ("/packs/0/encoding", json!("gzip"), "gzip"),
        ("/packs/0/frames", json!(0), "packs[0]"),
        ("/packs/0/frames", json!(u64::MAX), "packs[0]"),
        ("/packs/1/frames", json!(3), "packs[1]"),
        ("/packs/1/size", json!(69633), "packs[1]"),
        ("/slim/object", json!("slim/x.tar.zst"), "slim"),
        ("/slim/size", json!("500"), "line 1"),
        ("/totals/pack_bytes", json!(1), "totals"),
        ("/totals/zero_pages", json!(41), "totals"),
        ("/totals/stored_pages", json!(49), "totals"),
        ("/totals/stored_pages", json!(17), "totals"),
        ("/totals/distinct_pages", json!(34), "totals"),
    ];
    for (pointer, lie, says) in cases {
        let mut value = sample();
        *value.pointer_mut(pointer).unwrap() = lie.clone();
        let message = parse(&value).expect_err(pointer).to_string();
        assert!(message.starts_with("there/checkpoint.json: ") && message.contains(says), "{pointer} {lie}: {message}");
    }
}

#[test]
fn sums_do_not_overflow() {
    let mut value = sample();
    value["packs"][0]["size"] = json!(u64::MAX);
    value["packs"][0]["frames"] = json!(u64::MAX);
    value["packs"][1]["size"] = json!(!4095u64);
    assert!(parse(&value).is_err());
    value["tasks"][0]["lazy_pages"] = json!(u64::MAX);
    value["tasks"][1]["lazy_pages"] = json!(u64::MAX);
    assert!(parse(&value).is_err());
}

#[test]
fn damaged_text_never_panics() {
    let json = parse(&sample()).unwrap().to_json().unwrap();
    for len in 0..json.len() - 1 {
        assert!(Manifest::parse("x", &json[..len]).unwrap_err().to_string().starts_with("x: "));
    }
    for bit in 0..json.len() * 8 {
        let mut json = json.clone();
        json[bit / 8] ^= 1 << (bit % 8);
        if let Err(e) = Manifest::parse("x", &json) {
            assert!(e.to_string().starts_with("x: "), "{e}");
        }
    }
    let deep = "[".repeat(100_000);
    assert!(Manifest::parse("x", format!("{{\"format\": {deep}").as_bytes()).is_err());
}

#[test]
fn a_writer_cannot_write_what_cannot_be_read() {
    let mut manifest = parse(&sample()).unwrap();
    manifest.packs[0].object.object = "packs/x.pack".into();
    let message = manifest.to_json().unwrap_err().to_string();
    assert!(message.starts_with("checkpoint.json being written: packs[0]: "), "{message}");
}

/// The sample, its first pack shared with a store beside it.
fn sharing() -> Value {
    let mut value = sample();
    value["version"] = json!(2);
    value["packs"][0]["object"] = json!(format!("../app-1/packs/{}.pack", hex('c')));
    value
}

#[test]
fn packs_of_a_store_beside_it() {
    let manifest = parse(&sharing()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&manifest.to_json().unwrap()).unwrap(), sharing());
    let pack = format!("packs/{}.pack", hex('c'));
    assert_eq!(manifest.packs[0].object.sibling(), Some(("app-1", pack.as_str())));
    assert_eq!(manifest.own_objects().count() + 1, manifest.objects().count());
    assert_eq!(serde_json::to_value(manifest.standalone()).unwrap(), sample());
}

#[test]
fn nothing_else_beside_it_can_be_named() {
    let (c, d) = (hex('c'), hex('d'));
    let cases = [
        ("/version", json!(1), "version"),
        ("/packs/0/object", json!(format!("../../packs/{c}.pack")), "packs[0]"),
        ("/packs/0/object", json!(format!("../../a/packs/{c}.pack")), "packs[0]"),
        ("/packs/0/object", json!(format!("../.ssh/packs/{c}.pack")), "packs[0]"),
        ("/packs/0/object", json!(format!("../app/packs/{d}.pack")), "packs[0] in app"),
        ("/packs/0/object", json!(format!("../app/index/{c}.idx")), "packs[0]"),
        ("/packs/0/object", json!(format!("../app/packs/../{c}.pack")), "packs[0]"),
        ("/packs/0/object", json!(format!("packs/{c}.pack")), "version"),
        ("/packs/1/object", json!(format!("../app/packs/{d}.pack")), "packs[1]: a raw checkpoint"),
        ("/slim/object", json!(format!("../app/slim/{}.tar.zst", hex('e'))), "slim"),
        ("/index/0/object", json!(format!("../app/index/{}.idx", hex('b'))), "index[0]"),
    ];
    for (pointer, lie, says) in cases {
        let mut value = sharing();
        *value.pointer_mut(pointer).unwrap() = lie.clone();
        let message = parse(&value).expect_err(pointer).to_string();
        assert!(message.contains(says), "{pointer} {lie}: {message}");
    }
}
