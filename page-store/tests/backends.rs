//! One suite that every backend must pass; then what hosts get wrong.

mod common;

use common::{http::*, *};
use futures::{StreamExt, future::join_all};
use page_store::{
    Backend, Error, HttpBackend, HttpLook, LocalBackend, Look, MANIFEST_NAME, Manifest, Result, Store,
    raw::RawCheckpoint, read_range,
};
use std::{
    fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

/// Objects that a backend must have, with their bytes.
type Objects = Vec<(String, Vec<u8>)>;

fn objects_of(dir: &Path) -> Objects {
    MemoryBackend::load(dir, 0).objects.into_iter().collect()
}

async fn conformance(backend: Arc<dyn Backend>, objects: &Objects) {
    suite(&*backend, objects).await;
    suite(&*backend.fresh(), objects).await;
    let names_it = |object: &str, e: Error| {
        assert!(e.to_string().starts_with(&backend.describe(object)), "{e}, not {}", backend.describe(object));
    };
    for missing in ["packs/none.pack", "nothing", "index"] {
        match backend.get(missing, 100).await {
            Err(Error::NotFound { object }) => assert_eq!(object, backend.describe(missing)),
            other => assert!(missing == "index" && other.is_err(), "{other:?}"),
        }
        names_it(missing, read_range(&*backend, missing, 0..5).await.unwrap_err());
    }
    for outside in ["../checkpoint.json", "/etc/passwd", "packs/../../x", "", "packs//x", "a\0b"] {
        assert!(backend.get(outside, 1 << 20).await.is_err(), "{outside}");
        assert!(read_range(&*backend, outside, 0..1).await.is_err(), "{outside}");
    }
}

async fn suite(backend: &dyn Backend, objects: &Objects) {
    for (name, bytes) in objects {
        let len = bytes.len() as u64;
        assert_eq!(backend.get(name, len).await.unwrap(), bytes);
        let too_large = backend.get(name, len - 1).await.unwrap_err();
        assert!(matches!(too_large, Error::Corrupt { .. }), "{too_large}");
        assert!(too_large.to_string().starts_with(&backend.describe(name)), "{too_large}");

        let ranges = [0..len, 0..1, len - 1..len, len / 3..len / 2 + 1, len / 2..len, 1..len.min(70_000)];
        let read = ranges.iter().map(|range| read_range(backend, name, range.clone()));
        for (range, read) in ranges.iter().zip(join_all(read).await) {
            assert_eq!(read.unwrap(), bytes[range.start as usize..range.end as usize], "{name} {range:?}");
        }
        let look = backend.look(name, len - 1).await.unwrap();
        assert!(look.size.is_none_or(|size| size == len), "{look:?}");
        match backend.look(name, len).await {
            Err(error) => assert!(error.to_string().starts_with(&backend.describe(name)), "{error}"),
            // A host that tells neither a length nor where a part ends: only the whole body would.
            Ok(look) => assert!(look.size.is_none() && look.http.is_some_and(|http| !http.honours_range), "{look:?}"),
        }
        // Chunks come in order and are not empty.
        let mut body = backend.get_range(name, 0..len).await.unwrap();
        let mut at = 0;
        while let Some(chunk) = body.next().await.transpose().unwrap() {
            assert!(!chunk.is_empty() && bytes[at..].starts_with(&chunk));
            at += chunk.len();
        }
        assert_eq!(at, bytes.len());

        #[allow(clippy::reversed_empty_ranges)]
        for outside in [0..len + 1, len..len + 1, len + 10..len + 20, len - 1..u64::MAX, 0..0, 5..3, u64::MAX..u64::MAX]
        {
            let error = read_range(backend, name, outside.clone()).await.expect_err(&format!("{outside:?}"));
            assert!(error.to_string().starts_with(&backend.describe(name)), "{error}");
        }
    }
    let (name, bytes) = &objects[0];
    let many = (0..64).map(|i| read_range(backend, name, i % bytes.len() as u64..bytes.len() as u64));
    for (i, read) in join_all(many).await.into_iter().enumerate() {
        assert_eq!(read.unwrap(), bytes[i % bytes.len()..]);
    }
}

#[tokio::test]
async fn a_look_says_how_a_host_answers() {
    for honours_range in [true, false] {
        let server = serve(move |request| file_answer(Some(vec![7; 5000]), request.range.filter(|_| honours_range)));
        let backend = HttpBackend::new(&server.await.url).unwrap();
        let look = backend.look("x", 4999).await.unwrap();
        let http = HttpLook { version: "HTTP/1.1", honours_range };
        assert_eq!(look, Look { size: Some(5000), http: Some(http) });
        assert!(matches!(backend.look("x", 5000).await, Err(Error::Corrupt { .. })));
    }
}

#[tokio::test]
async fn local() {
    let (_dir, _, store) = made();
    conformance(Arc::new(LocalBackend::new(&store)), &objects_of(&store)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http() {
    let (_dir, _, store) = made();
    let server = serve_dir(&store).await;
    for base in ["/some/prefix", "/some/prefix/", "/some/prefix/checkpoint.json", "/some/prefix#x"] {
        let backend = HttpBackend::new(&format!("{}{base}", server.url)).unwrap();
        conformance(Arc::new(backend), &objects_of(&store)).await;
    }
}

/// By links, each with a query that the host wants to see. An object without a link is one that nobody can ask for.
#[tokio::test(flavor = "multi_thread")]
async fn http_by_links() {
    let (folder, _, store) = made();
    let dir = store.clone();
    let server = serve(move |request| match request.path.strip_suffix("?sig=x") {
        Some(path) => file_answer(fs::read(dir.join(&path[1..])).ok(), request.range),
        None => Answer::new("403 Forbidden", &[], b""),
    })
    .await;
    let objects = objects_of(&store);
    let links = objects.iter().map(|(name, _)| (name.clone(), format!("{}/{name}?sig=x", server.url).into()));
    let links = serde_json::json!({
        "pageferry_links": 1, "store": "s3://bucket/app", "expires": "2020-01-31T18:00:00Z",
        "objects": links.collect::<serde_json::Map<_, _>>(),
    });
    let file = folder.path().join("app.links");
    fs::write(&file, links.to_string()).unwrap();
    let store = Store::open(&format!("links:{}", file.display())).await.unwrap();
    suite(&**store.backend(), &objects).await;
    suite(&*store.backend().fresh(), &objects).await;
}

/// Hosts that ignore Range, with and without a length.
#[tokio::test(flavor = "multi_thread")]
async fn http_without_range() {
    let (_dir, _, store) = made();
    for with_length in [true, false] {
        let dir = store.clone();
        let server = serve(move |request| match fs::read(dir.join(&request.path[1..])) {
            Ok(bytes) if !with_length => Answer::raw("HTTP/1.1 200 OK\r\n\r\n", &bytes),
            bytes => file_answer(bytes.ok(), None),
        })
        .await;
        conformance(Arc::new(HttpBackend::new(&server.url).unwrap()), &objects_of(&store)).await;
    }
}

#[tokio::test]
async fn raw() {
    let dir = folder();
    let checkpoint = dir.path().join("checkpoint");
    dump(&checkpoint);
    let raw = RawCheckpoint::open(&checkpoint).unwrap();
    let json = raw.get(MANIFEST_NAME, 1 << 20).await.unwrap();
    let manifest = Manifest::parse("x", &json).unwrap();
    let pages = |i| fs::read(checkpoint.join(format!("pages-{i}.img"))).unwrap();
    let mut objects = vec![(MANIFEST_NAME.to_owned(), json.to_vec())];
    for (pack, bytes) in manifest.packs.iter().zip([pages(1), pages(2)]) {
        assert_eq!(pack.object.blake3, blake3::hash(&bytes).to_hex().as_str());
        objects.push((pack.object.object.clone(), bytes));
    }
    for object in manifest.index.iter().map(|p| &p.object).chain([&manifest.slim.object]) {
        let bytes = raw.get(&object.object, object.size).await.unwrap();
        assert_eq!((bytes.len() as u64, blake3::hash(&bytes).to_hex().as_str()), (object.size, &*object.blake3));
        objects.push((object.object.clone(), bytes.to_vec()));
    }
    conformance(Arc::new(raw), &objects).await;
}

/// Connections are kept, and a fresh backend has its own.
#[tokio::test]
async fn http_connections() {
    let server = serve(|r| file_answer(Some(vec![7; 1000]), r.range)).await;
    let backend = HttpBackend::new(&server.url).unwrap();
    for i in 0..10 {
        read_range(&backend, "x", i..500).await.unwrap();
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    let fresh = backend.fresh();
    for i in 0..10 {
        read_range(&*fresh, "x", i..500).await.unwrap();
        read_range(&backend, "x", i..500).await.unwrap();
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn http_requests_say_who_asks_and_for_plain_bytes() {
    let server = serve(|r| {
        assert!(r.headers.contains(&"accept-encoding: identity".into()), "{r:?}");
        assert!(r.headers.iter().any(|h| h.starts_with("user-agent: pageferry/")), "{r:?}");
        assert_eq!(r.path, "/a%20b/packs/x%3Fy?sig=s%2Fecret");
        file_answer(Some(vec![7; 10]), r.range)
    })
    .await;
    let base = format!("{}/a%20b/?sig=s%2Fecret", server.url.replace("http://", "http://me:password@"));
    let backend = HttpBackend::new(&base).unwrap();
    backend.get("packs/x?y", 10).await.unwrap();
    assert_eq!(backend.describe("packs/x?y"), format!("{}/a%20b/packs/x?y", server.url));
}

/// What a host answers to `bytes=100-199` of an object of 1000 bytes, and what that is: bytes, or an error that may be tried again or not.
async fn asked(answer: impl Fn(Request) -> Answer + Send + Sync + 'static) -> Result<usize> {
    let server = serve(answer).await;
    let backend = HttpBackend::new(&server.url).unwrap();
    let read = read_range(&backend, "packs/x.pack", 100..200).await;
    match &read {
        Ok(bytes) => assert_eq!(bytes[..], object()[100..200]),
        Err(e) => assert!(e.to_string().starts_with(&format!("{}/packs/x.pack: ", server.url)), "{e}"),
    }
    read.map(|bytes| bytes.len())
}

fn object() -> Vec<u8> {
    (0..1000u32).map(|i| (i % 251) as u8).collect()
}

fn partial(head: &'static str, body: Vec<u8>) -> impl Fn(Request) -> Answer {
    move |_| Answer::raw(&format!("HTTP/1.1 206 Partial Content\r\n{head}\r\n\r\n"), &body)
}

#[tokio::test]
async fn hosts_that_work() {
    let good = object()[100..200].to_vec();
    // The whole object, as one body, chunked, and without length.
    assert_eq!(asked(|_| Answer::new("200 OK", &[], &object())).await.unwrap(), 100);
    let whole = |head: &str| Answer::raw(&format!("HTTP/1.1 200 OK\r\n{head}\r\n"), &object());
    assert_eq!(asked(move |_| whole("")).await.unwrap(), 100);
    // Lengths in other ways.
    assert_eq!(
        asked(partial("Content-Range: bytes 100-199/*\r\nContent-Length: 100", good.clone())).await.unwrap(),
        100
    );
    assert_eq!(asked(partial("Content-Range: bytes 100-199/1000", good.clone())).await.unwrap(), 100);
    let chunked = [b"64\r\n", &good[..], b"\r\n0\r\n\r\n"].concat();
    let head = "Content-Range: bytes 100-199/1000\r\nTransfer-Encoding: chunked\r\nContent-Encoding: identity";
    assert_eq!(asked(partial(head, chunked)).await.unwrap(), 100);
    // Redirects.
    let moved = |r: Request| match r.path.as_str() {
        "/packs/x.pack" => Answer::new("302 Found", &["Location: /elsewhere"], b""),
        _ => file_answer(Some(object()), r.range),
    };
    assert_eq!(asked(moved).await.unwrap(), 100);
}

#[tokio::test]
async fn hosts_that_fail_for_now() {
    let good = object()[100..200].to_vec();
    type Script = Box<dyn Fn(Request) -> Answer + Send + Sync>;
    let cases: Vec<(&str, Script)> = vec![
        ("another range", Box::new(partial("Content-Range: bytes 101-200/1000\r\nContent-Length: 100", good.clone()))),
        (
            "a shorter range",
            Box::new(partial("Content-Range: bytes 100-198/1000\r\nContent-Length: 99", good[1..].to_vec())),
        ),
        ("no Content-Range", Box::new(partial("Content-Length: 100", good.clone()))),
        (
            "Content-Range unreadable",
            Box::new(partial("Content-Range: bytes 100-\r\nContent-Length: 100", good.clone())),
        ),
        (
            "a total that is too small",
            Box::new(partial("Content-Range: bytes 100-199/150\r\nContent-Length: 100", good.clone())),
        ),
        (
            "a length that lies",
            Box::new(partial("Content-Range: bytes 100-199/1000\r\nContent-Length: 101", good.clone())),
        ),
        ("cut off", Box::new(partial("Content-Range: bytes 100-199/1000\r\nContent-Length: 100", good[..40].to_vec()))),
        ("short without length", Box::new(partial("Content-Range: bytes 100-199/1000", good[..40].to_vec()))),
        ("long without length", Box::new(partial("Content-Range: bytes 100-199/1000", object()))),
        ("several parts", Box::new(partial("Content-Type: multipart/byteranges; boundary=x", good.clone()))),
        ("whole but short", Box::new(|_| Answer::new("200 OK", &[], &object()[..150]))),
        ("whole, short, no length", Box::new(|_| Answer::raw("HTTP/1.1 200 OK\r\n\r\n", &object()[..150]))),
        ("nothing", Box::new(|_| Answer::raw("", b""))),
        ("not HTTP", Box::new(|_| Answer::raw("SSH-2.0-OpenSSH_9.2\r\n", b""))),
        ("416", Box::new(|_| file_answer(Some(vec![0; 50]), Some((100, 200))))),
        ("429", Box::new(|_| Answer::new("429 Too Many Requests", &[], b""))),
        (
            "500",
            Box::new(|_| Answer::new("500 Internal Server Error", &["Content-Type: text/plain"], b"out of cheese")),
        ),
        ("503", Box::new(|_| Answer::new("503 Service Unavailable", &[], b""))),
    ];
    for (what, answer) in cases {
        let error = asked(answer).await.expect_err(what);
        assert!(error.is_transient(), "{what}: {error}");
        assert!(
            what != "500" || error.to_string().ends_with("HTTP 500 Internal Server Error: out of cheese"),
            "{error}"
        );
    }
    let gone = HttpBackend::new("http://127.0.0.1:1").unwrap();
    let error = read_range(&gone, "x", 0..5).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().starts_with("http://127.0.0.1:1/x: cannot connect: "), "{error}");
}

#[tokio::test]
async fn hosts_that_are_not_page_stores() {
    let html =
        |status: &'static str| move |_| Answer::new(status, &["Content-Type: text/html; charset=utf-8"], b"<html>");
    let error = asked(html("200 OK")).await.unwrap_err();
    assert!(error.to_string().ends_with("is this a page store?"), "{error}");
    assert!(!error.is_transient());
    assert!(matches!(asked(html("404 Not Found")).await.unwrap_err(), Error::NotFound { .. }));
    assert!(matches!(asked(html("410 Gone")).await.unwrap_err(), Error::NotFound { .. }));
    for status in [
        "400 Bad Request",
        "401 Unauthorized",
        "403 Forbidden",
        "405 Method Not Allowed",
        "204 No Content",
        "304 Not Modified",
    ] {
        let error = asked(html(status)).await.unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
    let gzip =
        partial("Content-Encoding: gzip\r\nContent-Range: bytes 100-199/1000\r\nContent-Length: 100", vec![0; 100]);
    let error = asked(gzip).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("turn compression off"), "{error}");
    let round = asked(|_| Answer::new("302 Found", &["Location: /packs/x.pack"], b"")).await.unwrap_err();
    assert!(!round.is_transient() && round.to_string().ends_with("redirects: too many"), "{round}");
    let tls =
        asked(|_| Answer::new("301 Moved Permanently", &["Location: https://127.0.0.1:1/x"], b"")).await.unwrap_err();
    assert!(
        tls.to_string().ends_with("redirects: to https://127.0.0.1:1/x; give the https:// address instead"),
        "{tls}"
    );
    for bad in ["ftp://x/y", "http://", "not an address", "s3://bucket/x"] {
        assert!(matches!(HttpBackend::new(bad), Err(Error::Unsupported { .. })), "{bad}");
    }
}

/// A body that never ends is not collected.
#[tokio::test]
async fn a_small_object_that_is_large_is_refused() {
    let server = serve(|_| Answer::raw("HTTP/1.1 200 OK\r\n\r\n", &vec![b' '; 5 << 20])).await;
    let backend = HttpBackend::new(&server.url).unwrap();
    assert!(matches!(backend.get(MANIFEST_NAME, 1 << 20).await, Err(Error::Corrupt { .. })));
}

/// Only regular files are objects: opening a fifo would hang.
#[tokio::test]
async fn local_files_of_other_kinds() {
    let dir = folder();
    rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    fs::create_dir(dir.path().join("dir")).unwrap();
    let backend = LocalBackend::new(dir.path());
    for name in ["fifo", "dir"] {
        assert!(matches!(backend.get(name, 10).await, Err(Error::Unsupported { .. })));
        assert!(matches!(read_range(&backend, name, 0..1).await, Err(Error::Unsupported { .. })));
    }
    // A file that became shorter.
    fs::write(dir.path().join("file"), [0; 100]).unwrap();
    read_range(&backend, "file", 50..100).await.unwrap();
    fs::File::options().write(true).open(dir.path().join("file")).unwrap().set_len(70).unwrap();
    assert!(matches!(read_range(&backend, "file", 50..100).await, Err(Error::Corrupt { .. })));
}
