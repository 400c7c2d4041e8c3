//! The static mirror: byte for byte what is on disk, with ranges and validators as RFC 9110 has them.

mod common;

use common::*;
use std::fs;

const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// The first pack: its name and its bytes.
fn a_pack(fixture: &Fixture) -> (String, Vec<u8>) {
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(fixture.store().join("checkpoint.json")).unwrap()).unwrap();
    let name = manifest["packs"][0]["object"].as_str().unwrap().to_owned();
    let bytes = fs::read(fixture.store().join(&name)).unwrap();
    (name, bytes)
}

#[test]
fn every_object_byte_for_byte() {
    let fixture = Fixture::new();
    let server = Running::start(&fixture.store());
    let mut files = 0;
    for folder in ["", "index", "packs", "slim", "working-sets"] {
        for entry in
            fs::read_dir(fixture.store().join(folder)).into_iter().flatten().flatten().filter(|e| e.path().is_file())
        {
            let name = entry.path().strip_prefix(fixture.store()).unwrap().display().to_string();
            let bytes = fs::read(entry.path()).unwrap();
            // The bare address of the server is the address of a store too.
            for path in [format!("/store/{name}"), format!("/{name}")] {
                let reply = server.get(&path);
                assert_eq!(reply.status, 200, "{path}");
                assert!(reply.body == bytes, "{path}");
                assert_eq!(reply.header("accept-ranges"), Some("bytes"));
                let cache = if name == "checkpoint.json" { "no-cache" } else { IMMUTABLE };
                assert_eq!(reply.header("cache-control"), Some(cache), "{path}");
                let tag = reply.header("etag").unwrap();
                if name != "checkpoint.json" {
                    assert_eq!(tag, format!("\"{}\"", blake3::hash(&bytes)));
                }
                let head = server.send("HEAD", &path, &[]);
                assert_eq!((head.status, head.header("content-length")), (200, reply.header("content-length")));
                let known = server.send("GET", &path, &[&format!("If-None-Match: W/{tag}")]);
                assert_eq!(
                    (known.status, known.header("etag"), known.header("cache-control")),
                    (304, Some(tag), Some(cache))
                );
            }
            files += 1;
        }
    }
    assert!(files >= 4, "{files}");
}

#[test]
fn only_what_the_manifest_names() {
    let fixture = Fixture::new();
    fs::write(fixture.store().join("packs/other.pack"), "secret").unwrap();
    let server = Running::start(&fixture.store());
    for name in [
        "packs/other.pack",
        "packs",
        "packs/",
        "..%2F..%2Fetc%2Fpasswd",
        "../dump/pstree.img",
        "%2e%2e/dump/pstree.img",
        "a",
    ] {
        assert_eq!(server.get(&format!("/store/{name}")).problem(404, "no-such-object")["status"], 404);
        assert_eq!(server.get(&format!("/{name}")).status, 404);
    }
    let (name, _) = a_pack(&fixture);
    for path in [format!("/store/{name}"), format!("/{name}")] {
        let reply = server.send("DELETE", &path, &[]);
        reply.problem(405, "method-not-allowed");
        assert_eq!(reply.header("allow"), Some("GET,HEAD"));
    }
}

#[test]
fn single_ranges() {
    let fixture = Fixture::new();
    let server = Running::start(&fixture.store());
    let (name, bytes) = a_pack(&fixture);
    let (path, size) = (format!("/store/{name}"), bytes.len());
    let huge = "99999999999999999999999";
    for (range, start, end) in [
        ("bytes=0-0".to_owned(), 0, 1),
        ("bytes=100-70099".to_owned(), 100, 70_100),
        (format!("bytes={}-", size - 5), size - 5, size),
        ("bytes=-7".to_owned(), size - 7, size),
        (format!("bytes=-{huge}"), 0, size),
        (format!("bytes=5-{huge}"), 5, size),
        // Together they are one.
        ("bytes=0-9, 5-19,20-29".to_owned(), 0, 30),
        // Only one of them can be had.
        (format!("bytes={size}-{huge},3-4"), 3, 5),
    ] {
        let reply = server.send("GET", &path, &[&format!("Range: {range}")]);
        assert_eq!(reply.status, 206, "{range}");
        assert_eq!(reply.header("content-range"), Some(&*format!("bytes {start}-{}/{size}", end - 1)), "{range}");
        assert_eq!(reply.header("content-length"), Some(&*(end - start).to_string()));
        assert!(reply.body == bytes[start..end], "{range}");
        // Ranges are for GET only.
        let head = server.send("HEAD", &path, &[&format!("Range: {range}")]);
        assert_eq!((head.status, head.header("content-range")), (200, None));
    }
    for range in ["bytes=-0", &format!("bytes={size}-"), "bytes=9-3", "bytes=x", "bytes", "bytes=", "bytes=1-2-3"] {
        let reply = server.send("GET", &path, &[&format!("Range: {range}")]);
        reply.problem(416, "range-not-satisfiable");
        assert_eq!(reply.header("content-range"), Some(&*format!("bytes */{size}")), "{range}");
    }
    for ignored in [&["Range: pages=0-1"][..], &["Range: bytes=0-1", "Range: bytes=3-4"]] {
        let reply = server.send("GET", &path, ignored);
        assert_eq!((reply.status, reply.body.len()), (200, size));
    }
}

#[test]
fn many_ranges() {
    let fixture = Fixture::new();
    let server = Running::start(&fixture.store());
    let (name, bytes) = a_pack(&fixture);
    let size = bytes.len();
    let reply = server.send("GET", &format!("/store/{name}"), &["Range: bytes=500-999, -3, 0-0,2-299999"]);
    assert_eq!((reply.status, reply.header("content-range")), (206, None));
    let boundary = reply.header("content-type").unwrap().strip_prefix("multipart/byteranges; boundary=").unwrap();
    // 500-999 and 2-299999 overlap; the place of the first counts.
    let mut rest = &reply.body[..];
    for (start, end) in [(2, 300_000), (size - 3, size), (0, 1)] {
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {start}-{}/{size}\r\n\r\n",
            end - 1
        );
        rest = rest.strip_prefix(head.as_bytes()).unwrap_or_else(|| panic!("{start}-{end}"));
        rest = rest.strip_prefix(&bytes[start..end]).unwrap();
    }
    assert_eq!(rest, format!("\r\n--{boundary}--\r\n").as_bytes());

    let json = fs::read(fixture.store().join("checkpoint.json")).unwrap();
    let reply = server.send("GET", "/store/checkpoint.json", &["Range: bytes=1-2,5-6"]);
    assert!(
        reply.text().contains(&format!("Content-Type: application/json\r\nContent-Range: bytes 1-2/{}", json.len()))
    );
    let reply = server.send("GET", "/store/checkpoint.json", &["Range: bytes=1-20"]);
    assert_eq!((reply.status, &reply.body[..]), (206, &json[1..21]));
}

#[test]
fn validators_and_ranges_together() {
    let fixture = Fixture::new();
    let server = Running::start(&fixture.store());
    let (name, bytes) = a_pack(&fixture);
    let path = format!("/store/{name}");
    let tag = format!("\"{}\"", blake3::hash(&bytes));
    let send = |headers: &[&str]| server.send("GET", &path, headers).status;
    let range = "Range: bytes=0-9";
    assert_eq!(send(&[range, &format!("If-Range: {tag}")]), 206);
    assert_eq!(send(&[range, &format!("If-Range: W/{tag}")]), 200);
    assert_eq!(send(&[range, "If-Range: \"other\""]), 200);
    assert_eq!(send(&[range, "If-Range: Wed, 21 Oct 2015 07:28:00 GMT"]), 200);
    // Where it does not match, the range does not even have to make sense.
    assert_eq!(send(&["Range: bytes=-0", "If-Range: \"other\""]), 200);
    assert_eq!(send(&[range, &format!("If-Match: {tag}")]), 206);
    assert_eq!(send(&[range, "If-Match: *"]), 206);
    server.send("GET", &path, &[range, "If-Match: \"other\""]).problem(412, "precondition-failed");
    assert_eq!(send(&[range, &format!("If-None-Match: {tag}")]), 304);
    assert_eq!(send(&[range, "If-None-Match: \"other\""]), 206);
    assert_eq!(send(&[range, "If-None-Match: *"]), 304);
}

#[test]
fn a_raw_checkpoint_is_a_store_too() {
    let fixture = Fixture::new();
    let server = Running::start(&fixture.dump());
    let manifest = server.get("/store/checkpoint.json").json();
    let [index, packs] = ["index", "packs"].map(|list| manifest[list].as_array().unwrap().clone());
    for object in index.iter().chain(&packs).chain([&manifest["slim"]]) {
        let (name, size) = (object["object"].as_str().unwrap(), object["size"].as_u64().unwrap());
        let reply = server.get(&format!("/store/{name}"));
        assert_eq!((reply.status, reply.body.len() as u64), (200, size), "{name}");
        assert_eq!(blake3::hash(&reply.body).to_hex().as_str(), object["blake3"], "{name}");
        assert_eq!(reply.header("cache-control"), Some(IMMUTABLE));
        let part = server.send("GET", &format!("/{name}"), &["Range: bytes=100-199"]);
        assert!((part.status, &part.body[..]) == (206, &reply.body[100..200]), "{name}");
    }
}

#[test]
fn a_server_of_a_server() {
    let fixture = Fixture::new();
    let first = Running::start(&fixture.store());
    let second = Running::start(std::path::Path::new(&format!("http://{}/store", first.address)));
    for path in [
        format!("/pid/10/pages/{HEAP:x}-{:x}", HEAP + 64 * P),
        format!("/pid/20/page/{BIG:x}"),
        "/checkpoint.json".into(),
    ] {
        let (first, second) = (first.get(&path), second.get(&path));
        assert_eq!((first.status, first.header("etag")), (second.status, second.header("etag")));
        assert!(first.body == second.body, "{path}");
    }
    // It goes on answering, with a problem, when the store behind it is gone.
    drop(first);
    let reply = second.get(&format!("/pid/20/page/{:x}", BIG + 4000 * P));
    reply.problem(503, "store-unavailable");
    assert_eq!(reply.header("retry-after"), Some("1"));
    second.get(&format!("/store/{}", a_pack(&fixture).0)).problem(503, "store-unavailable");
}

#[test]
fn a_damaged_store() {
    let fixture = Fixture::new();
    let (name, bytes) = a_pack(&fixture);
    let server = Running::start(&fixture.store());
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2..].iter_mut().for_each(|byte| *byte ^= 1);
    fs::write(fixture.store().join(&name), &flipped).unwrap();
    let last = format!("{:x}", BIG + (BIG_PAGES - 1) * P);
    server.get(&format!("/pid/20/page/{last}")).problem(500, "store-damaged");
    // A range begins well; it must not end as if it were whole.
    let range = format!("/pid/20/pages/{BIG:x}-{:x}", BIG + BIG_PAGES * P);
    let cut = common::client::open(server.address, "GET", &range, &[], b"");
    assert!(common::client::read(cut, "GET").is_err());
    let body = format!("[\"{BIG:x}-{:x}\"]", BIG + BIG_PAGES * P);
    let json = ["Content-Type: application/json", "Accept-Encoding: zstd"];
    let cut = common::client::open(server.address, "POST", "/pid/20/pages", &json, body.as_bytes());
    assert!(common::client::read(cut, "POST").is_err());
    let metrics = server.get("/metrics").text();
    assert!(metrics.contains("pageferry_http_bodies_cut_total 2\n"), "{metrics}");
    fs::remove_file(fixture.store().join(&name)).unwrap();
    let reply = Running::start(&fixture.store()).get(&format!("/store/{name}"));
    // No path of this machine in the answer.
    assert!(!reply.problem(500, "store-damaged").to_string().contains(fixture.dir.path().to_str().unwrap()));
}
