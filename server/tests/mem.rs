//! `/pid/{pid}/mem`: HTTP's ranges are addresses.

mod common;

use common::{BIG, FILE, HEAP, P, Reply, Running, STACK, each, expected_range};

/// Where the highest mapping ends.
const END: u64 = STACK + 8 * P;

fn ask(server: &Running, range: &str) -> Reply {
    server.send("GET", "/pid/10/mem", &[&format!("Range: bytes={range}")])
}

#[test]
fn a_range_is_a_range_of_addresses() {
    each(|server| {
        let whole = expected_range(10, HEAP, 64);
        for (first, last) in
            [(0, 0), (0, 4095), (1, 4096), (100, 5000), (4095, 4096), (5 * P, 9 * P + 17), (0, 64 * P - 1)]
        {
            let reply = ask(server, &format!("{}-{}", HEAP + first, HEAP + last));
            assert_eq!(reply.status, 206);
            assert_eq!(reply.body, whole[first as usize..=last as usize]);
            let range = format!("bytes {}-{}/{END}", HEAP + first, HEAP + last);
            assert_eq!(reply.header("content-range"), Some(range.as_str()));
            assert_eq!(reply.header("content-length"), Some((last - first + 1).to_string().as_str()));
        }
        // The end of the address space, as any suffix; and what is clipped to it.
        let stack = expected_range(10, STACK, 8);
        for range in ["-5000".to_owned(), format!("{}-", END - 5000), format!("{}-99999999999999999999", END - 5000)] {
            assert_eq!(ask(server, &range).body, stack[stack.len() - 5000..], "{range}");
        }
    });
}

#[test]
fn several_ranges_are_several_parts() {
    each(|server| {
        let reply = ask(server, &format!("{}-{}, {}-{}, -3", HEAP + 10, HEAP + 19, FILE + 5 * P - 2, FILE + 5 * P + 1));
        assert_eq!(reply.status, 206);
        let boundary =
            reply.header("content-type").unwrap().strip_prefix("multipart/byteranges; boundary=").unwrap().to_owned();
        let mut wanted = Vec::new();
        let file = expected_range(10, FILE + 4 * P, 2);
        let stack = expected_range(10, STACK, 8);
        for (first, bytes) in [
            (HEAP + 10, expected_range(10, HEAP, 1)[10..20].to_vec()),
            (FILE + 5 * P - 2, file[P as usize - 2..P as usize + 2].to_vec()),
            (END - 3, stack[stack.len() - 3..].to_vec()),
        ] {
            let last = first + bytes.len() as u64 - 1;
            let head = format!(
                "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {first}-{last}/{END}\r\n\r\n"
            );
            wanted.extend(head.into_bytes());
            wanted.extend(bytes);
        }
        wanted.extend(format!("\r\n--{boundary}--\r\n").into_bytes());
        assert_eq!(String::from_utf8_lossy(&reply.body), String::from_utf8_lossy(&wanted));
    });
}

#[test]
fn holes_are_told_or_read_as_zeros() {
    each(|server| {
        let range = format!("{}-{}", HEAP + 64 * P - 10, HEAP + 64 * P + 9);
        let problem = ask(server, &range).problem(409, "holes");
        assert_eq!(problem["hole_pages"], 1, "{problem}");
        let reply = server.send("GET", "/pid/10/mem?holes=zero", &[&format!("Range: bytes={range}")]);
        assert_eq!((reply.status, reply.body), (206, vec![0; 20]));
        server.send("GET", "/pid/10/mem?holes=maybe", &[&format!("Range: bytes={range}")]).problem(400, "bad-query");
    });
}

#[test]
fn without_a_range_there_is_only_a_head() {
    each(|server| {
        let head = server.send("HEAD", "/pid/10/mem", &[]);
        assert_eq!((head.status, head.header("content-length")), (200, Some(END.to_string().as_str())));
        assert_eq!(head.header("accept-ranges"), Some("bytes"));
        // Ranges mean nothing to HEAD.
        assert_eq!(server.send("HEAD", "/pid/10/mem", &["Range: bytes=0-0"]).status, 200);
        for headers in [&[][..], &["Range: pages=0-1"], &["Range: bytes=0-0", "Range: bytes=1-1"]] {
            server.send("GET", "/pid/10/mem", headers).problem(413, "too-large");
        }
        let reply = server.send("GET", "/pid/20/mem", &[&format!("Range: bytes={BIG}-")]);
        assert_eq!(reply.status, 206);
        for (pid, status, kind) in [("30", 404, "no-memory"), ("99", 404, "no-such-task"), ("x", 400, "bad-pid")] {
            server.send("GET", &format!("/pid/{pid}/mem"), &["Range: bytes=0-0"]).problem(status, kind);
        }
    });
}

#[test]
fn what_cannot_be_had() {
    each(|server| {
        for range in [format!("{END}-"), "-0".into(), "5-3".into(), "x".into(), format!("{}-{}", END + 5, END + 7)] {
            let refused = ask(server, &range);
            refused.problem(416, "range-not-satisfiable");
            assert_eq!(refused.header("content-range"), Some(format!("bytes */{END}").as_str()));
        }
        // More than one answer may be.
        let reply = server.send("GET", "/pid/10/mem?holes=zero", &["Range: bytes=0-"]);
        reply.problem(413, "too-large");
    });
}

#[test]
fn conditions() {
    each(|server| {
        let range = format!("Range: bytes={}-{}", HEAP, HEAP + 9);
        let etag = server.send("GET", "/pid/10/mem", &[&range]).header("etag").unwrap().to_owned();
        assert!(etag.starts_with('"'), "{etag} is not strong");
        assert_eq!(server.send("GET", "/pid/10/mem", &[&range, &format!("If-None-Match: {etag}")]).status, 304);
        assert_eq!(server.send("GET", "/pid/10/mem", &[&range, &format!("If-Range: {etag}")]).status, 206);
        server.send("GET", "/pid/10/mem", &[&range, "If-Range: \"another\""]).problem(413, "too-large");
        server.send("GET", "/pid/10/mem", &[&range, "If-Match: \"another\""]).problem(412, "precondition-failed");
        let zeros = server.send("GET", "/pid/10/mem?holes=zero", &[&range]);
        assert_ne!(zeros.header("etag"), Some(etag.as_str()));
        let other = server.send("GET", "/pid/20/mem", &[&format!("Range: bytes={BIG}-{BIG}")]);
        assert_ne!(other.header("etag"), Some(etag.as_str()));
    });
}
