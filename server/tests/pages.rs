//! Single pages, ranges, bulk requests: every byte, every source, every refusal.

mod common;

use common::*;

#[test]
fn a_page_from_every_source() {
    each(|server| {
        for (addr, source) in [
            (HEAP, "store"),
            (HEAP + 39 * P, "store"),
            (HEAP + 8 * P, "zero"),
            (HEAP + 40 * P, "zero"),
            (RESERVED + (1 << 41), "zero"),
            (FILE + 4 * P, "slim"),
            (SHARED, "zero"),
            (SHARED + 3 * P, "slim"),
            (STACK, "slim"),
            (STACK + 5 * P, "store"),
        ] {
            // Any byte of the page, with or without 0x.
            for text in [format!("{addr:x}"), format!("0x{:x}", addr + 1), format!("{:X}", addr + P - 1)] {
                let reply = server.get(&format!("/pid/10/page/{text}"));
                assert_eq!(reply.status, 200, "{text}: {}", reply.text());
                assert_eq!(reply.body, expected(10, addr).unwrap(), "{text}");
                assert_eq!(reply.header("x-page-address"), Some(&*format!("{addr:#x}")));
                assert_eq!(reply.header("x-page-source"), Some(source), "{text}");
                assert_eq!(reply.header("content-type"), Some("application/octet-stream"));
                assert_eq!(reply.header("vary"), Some("accept"));
            }
        }
    });
}

#[test]
fn a_page_that_is_not_there() {
    each(|server| {
        let page = |text: &str| server.get(&format!("/pid/10/page/{text}"));

        let problem = page(&format!("{:x}", HEAP + 64 * P)).problem(404, "unmapped");
        assert_eq!(problem["nearest"][0]["start"], format!("{HEAP:#x}"));
        assert_eq!(problem["nearest"][1]["start"], format!("{RESERVED:#x}"));
        assert_eq!(page("0").problem(404, "unmapped")["nearest"].as_array().unwrap().len(), 1);
        assert_eq!(page("7fffffffffff").problem(404, "unmapped")["nearest"].as_array().unwrap().len(), 1);

        let problem = page(&format!("{:x}", FILE + P)).problem(404, "page-in-file");
        assert_eq!((problem["file"].as_str(), problem["offset"].as_u64()), (Some("/usr/bin/prog"), Some(0x3000)));
        page(&format!("{VVAR:x}")).problem(404, "kernel-page");

        for text in [
            "ffffffffffffffff",
            "0xffff888000000000",
            "100000000000000",
            "11112222333344445555",
            "xyz",
            "0x",
            "-1",
            "%20",
            "1g",
        ] {
            page(text).problem(400, "bad-address");
        }
        page("%ff").problem(400, "bad-path");
        let problem = server.get(&format!("/pid/11/page/{HEAP:x}")).problem(404, "no-such-task");
        assert_eq!(problem["pids"], serde_json::json!([10, 20, 30]));
        assert!(server.get("/pid/21/page/0").problem(404, "no-such-task")["next"].as_str().unwrap().contains("20"));
        server.get("/pid/30/page/0").problem(404, "no-memory");
        for pid in ["0", "-1", "4194305", "99999999999999999999", "1.0", "init"] {
            server.get(&format!("/pid/{pid}/page/0")).problem(400, "bad-pid");
        }
        server.get(&format!("/pid/10/page/{HEAP:x}?format=xml")).problem(400, "bad-query");
    });
}

#[test]
fn a_page_in_other_forms() {
    each(|server| {
        let path = format!("/pid/10/page/{:x}", HEAP + P);

        let dump = server.send("GET", &path, &["Accept: text/plain"]);
        assert_eq!(dump.header("content-type"), Some("text/plain; charset=utf-8"));
        assert!(
            dump.text().starts_with(
                "0000000010001000  0a 00 00 00 00 00 00 00  00 10 00 10 00 00 00 00  |................|\n"
            )
        );
        assert_eq!(dump.body, server.get(&format!("{path}?format=hexdump")).body);

        let json = server.send("GET", &path, &["Accept: application/json"]).json();
        assert_eq!(json["address"], format!("{:#x}", HEAP + P));
        assert_eq!(json["source"], "store");
        assert_eq!(json["mapping"]["start"], format!("{HEAP:#x}"));

        // Each has a tag of its own, and the tag of one is not that of another.
        let raw = server.get(&path);
        let tag = raw.header("etag").unwrap().to_owned();
        assert!(tag.starts_with('"') && dump.header("etag") != Some(&*tag));
        let known = format!("If-None-Match: \"other\", {tag}");
        let reply = server.send("GET", &path, &[&known]);
        assert_eq!((reply.status, reply.body.len()), (304, 0));
        for name in ["etag", "vary", "cache-control", "x-page-source", "x-page-address"] {
            assert_eq!(reply.header(name), raw.header(name), "{name}");
        }
        assert_eq!(server.send("GET", &path, &["Accept: text/plain", &known]).status, 200);
        // Content, not place, makes the tag.
        let zero = |addr: u64| server.get(&format!("/pid/10/page/{addr:x}")).header("etag").unwrap().to_owned();
        assert_eq!(zero(HEAP + 8 * P), zero(RESERVED));

        let head = server.send("HEAD", &path, &[]);
        assert_eq!((head.status, head.header("content-length")), (200, Some("4096")));
        assert_eq!(head.header("etag"), Some(&*tag));
    });
}

#[test]
fn ranges() {
    each(|server| {
        for (pid, start, pages) in [
            (10, HEAP, 64),
            (10, HEAP + 7 * P, 1),
            (10, HEAP + 7 * P, 6),
            (10, HEAP + 38 * P, 4),
            (10, SHARED, 8),
            (10, FILE + 4 * P, 2),
            (10, STACK, 8),
            (20, BIG, BIG_PAGES),
            (20, BIG + 1000 * P, 333),
        ] {
            let range = format!("/pid/{pid}/pages/{start:x}-{:#x}", start + pages * P);
            let reply = server.get(&range);
            assert_eq!(reply.status, 200, "{range}");
            assert_eq!(reply.header("content-length"), Some(&*(pages * P).to_string()));
            assert_eq!(reply.header("x-page-address"), Some(&*format!("{start:#x}")));
            assert!(reply.body == expected_range(pid, start, pages), "{range}");

            let coded = server.send("GET", &range, &["Accept-Encoding: gzip, zstd"]);
            assert_eq!(coded.header("content-encoding"), Some("zstd"));
            assert_eq!(coded.header("vary"), Some("accept, accept-encoding"));
            assert!(zstd::decode_all(&coded.body[..]).unwrap() == reply.body, "{range}");
            assert_ne!(coded.header("etag"), reply.header("etag"));

            let tag = format!("If-None-Match: {}", reply.header("etag").unwrap());
            assert_eq!(server.send("GET", &range, &[&tag]).status, 304);
            let head = server.send("HEAD", &range, &[]);
            assert_eq!(head.header("content-length"), reply.header("content-length"));
        }
    });
}

#[test]
fn holes() {
    each(|server| {
        let path = format!("/pid/10/pages/{:x}-{:x}", FILE - P, FILE + 8 * P);
        let problem = server.get(&path).problem(409, "holes");
        assert_eq!(problem["hole_pages"], 7);
        assert_eq!(problem["present"][0]["range"], format!("{:#x}-{:#x}", FILE + 4 * P, FILE + 6 * P));
        let holes = problem["holes"].as_array().unwrap();
        let why: Vec<_> = holes.iter().map(|h| h["why"].as_str().unwrap()).collect();
        assert_eq!(why, ["unmapped", "file", "file"]);
        assert_eq!((holes[2]["file"].as_str(), holes[2]["offset"].as_u64()), (Some("/usr/bin/prog"), Some(0x8000)));

        let mut bytes = vec![0; 9 * P as usize];
        bytes[5 * P as usize..7 * P as usize].copy_from_slice(&expected_range(10, FILE + 4 * P, 2));
        assert!(server.get(&format!("{path}?holes=zero")).body == bytes);
        server.get(&format!("{path}?holes=error")).problem(409, "holes");
        server.get(&format!("{path}?holes=what")).problem(400, "bad-query");
        // Nothing at all, and a mapping of 4 TiB: both answered without going through every page.
        server.get("/pid/10/pages/1000-2000").problem(409, "holes");
    });
}

#[test]
fn ranges_that_are_none() {
    each(|server| {
        let range = |text: &str| server.get(&format!("/pid/10/pages/{text}"));
        for text in [
            "10000001-10002000",
            "10000000-10000fff",
            "10002000-10001000",
            "10000000-10000000",
            "10000000",
            "-",
            "a-b-c",
            "0-ffffffffffffffff",
        ] {
            range(text).problem(400, "bad-range");
        }
        let problem = range(&format!("{RESERVED:x}-{:x}", RESERVED + (1 << 30) + P)).problem(413, "too-large");
        assert_eq!(problem["limit_pages"], 1 << 18);
        range("0-100000000000000").problem(413, "too-large");
        server.get(&format!("/pid/30/pages/{HEAP:x}-{:x}", HEAP + P)).problem(404, "no-memory");
    });
}

/// What a bulk answer says: address, pages, kind, bytes.
fn records(body: &[u8]) -> Vec<(u64, u32, u8, Vec<u8>)> {
    let (magic, mut rest) = body.split_at(8);
    assert_eq!(magic, b"PFPAGES\x01");
    let mut records = Vec::new();
    loop {
        let (header, after) = rest.split_at(16);
        let address = u64::from_le_bytes(header[..8].try_into().unwrap());
        let pages = u32::from_le_bytes(header[8..12].try_into().unwrap());
        let kind = header[12];
        assert_eq!(header[13..], [0; 3]);
        if kind == 0 {
            let sent: u32 = records.iter().filter(|r: &&(_, _, u8, _)| r.2 == 1).map(|r| r.1).sum();
            assert_eq!((address, pages), (u64::from(sent), records.len() as u32));
            assert_eq!(after, blake3::hash(&body[..body.len() - 32]).as_bytes());
            return records;
        }
        let len = if kind == 1 { pages as usize * P as usize } else { 0 };
        let (bytes, after) = after.split_at(len);
        records.push((address, pages, kind, bytes.to_vec()));
        rest = after;
    }
}

#[test]
fn bulk() {
    each(|server| {
        // Not in order of address, one twice, one that is not there.
        let asked = [(HEAP + 6 * P, 4u64), (SHARED, 4), (FILE - P, 6), (HEAP + 6 * P, 4), (RESERVED, 100)];
        let body: Vec<_> = asked.iter().map(|(start, pages)| format!("{start:x}-{:x}", start + pages * P)).collect();
        let body = serde_json::to_string(&body).unwrap();
        let reply = server.post("/pid/10/pages", &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("content-type"), Some("application/vnd.pageferry.pages"));
        let all = records(&reply.body);
        let mut left = all.iter();
        for (start, pages) in asked {
            let mut at = start;
            while at < start + pages * P {
                let (address, pages, kind, bytes) = left.next().unwrap();
                assert_eq!(*address, at);
                for page in 0..u64::from(*pages) {
                    let here = at + page * P;
                    match (kind, expected(10, here)) {
                        (1, Some(expected)) => {
                            assert_eq!(bytes[(page * P) as usize..][..P as usize], expected, "{here:x}")
                        }
                        (2, Some(expected)) => assert_eq!(expected, vec![0; P as usize], "{here:x}"),
                        (3, None) => {}
                        other => panic!("{here:x}: {other:?}"),
                    }
                }
                at += u64::from(*pages) * P;
            }
            assert_eq!(at, start + pages * P, "a record goes beyond its range");
        }
        assert_eq!(left.next(), None);

        let headers = ["Content-Type: application/json; charset=utf-8", "Accept-Encoding: zstd"];
        let coded = request(server.address, "POST", "/pid/10/pages", &headers, body.as_bytes());
        assert_eq!(zstd::decode_all(&coded.body[..]).unwrap(), reply.body);

        let big = format!("[\"{BIG:x}-{:x}\"]", BIG + BIG_PAGES * P);
        let all = records(&server.post("/pid/20/pages", &big).body);
        assert!(all.iter().flat_map(|r| &r.3).eq(&expected_range(20, BIG, BIG_PAGES)));
    });
}

#[test]
fn bulk_requests_that_are_none() {
    each(|server| {
        let post = |body: &str| server.post("/pid/10/pages", body);
        for body in ["[]", "{}", "[1]", "[\"1000-2000\"", "null", "\"1000-2000\"", "[[\"1000\",\"2000\"]]", "\u{1}"] {
            post(body).problem(400, "bad-body");
        }
        assert_eq!(post("[\"1000-2000\",\"3000-2000\"]").problem(400, "bad-range")["range_number"], 1);
        let many = |count: usize, range: &str| serde_json::to_string(&vec![range; count]).unwrap();
        assert_eq!(post(&many(4097, "1000-2000")).problem(413, "too-large")["limit_ranges"], 4096);
        post(&many(2, "0-30000000")).problem(413, "too-large");
        assert_eq!(post(&many(4096, "10000000-10001000")).status, 200);
        post(&" ".repeat((256 << 10) + 1)).problem(413, "too-large");
        for media_type in ["Content-Type: text/plain", "X-No: type"] {
            request(server.address, "POST", "/pid/10/pages", &[media_type], b"[]").problem(415, "not-json");
        }
        server.post("/pid/11/pages", "[]").problem(404, "no-such-task");
        server.get("/pid/10/pages").problem(405, "method-not-allowed");
    });
}

#[test]
fn a_range_reads_like_hexdump() {
    let fixture = Fixture::new();
    let server = Running::start(&fixture.store());
    // Two pages with bytes, and two of zeros after them.
    let range = format!("/pid/10/pages/{:x}-{:x}", HEAP + 6 * P, HEAP + 10 * P);
    let text = server.send("GET", &range, &["Accept: text/plain"]);
    assert_eq!((text.status, text.header("content-type")), (200, Some("text/plain; charset=utf-8")));
    assert_eq!(text.text(), server.get(&format!("{range}?format=hexdump")).text());
    let tags = [text.header("etag"), server.get(&range).header("etag")].map(|tag| tag.unwrap().to_owned());
    assert_ne!(tags[0], tags[1]);
    let whole = text.text();
    let lines: Vec<&str> = whole.lines().collect();
    assert!(lines[0].starts_with(&format!("{:016x}  ", HEAP + 6 * P)), "{}", lines[0]);
    // What repeats is a star, over the border between pages.
    assert_eq!(lines[lines.len() - 2..], ["*", &format!("{:016x}", HEAP + 10 * P)]);
    assert!(!whole.contains(&format!("{:016x}", HEAP + 9 * P)), "{whole}");
    // Each of its pages has the same lines.
    let page = server.send("GET", &format!("/pid/10/page/{:x}", HEAP + 7 * P), &["Accept: text/plain"]);
    let page = page.text();
    let (of_page, _) = page.trim_end().rsplit_once('\n').unwrap();
    assert!(text.text().contains(of_page));
    let packed = server.send("GET", &range, &["Accept: text/plain", "Accept-Encoding: zstd"]);
    assert_eq!(packed.header("content-encoding"), Some("zstd"));
    assert_eq!(zstd::decode_all(&packed.body[..]).unwrap(), text.body);
    server.get(&format!("{range}?format=json")).problem(400, "bad-query");
}
