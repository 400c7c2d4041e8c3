//! What an HTTP backend makes of hosts that fail in the middle of something: deadlines, pauses, bodies that go on elsewhere.

mod common;

use common::http::*;
use page_store::{Backend, Deadlines, Error, HttpBackend, Result, Retry, read_range};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::Notify;

const LEN: usize = 300_000;
/// Where the first answer breaks: late enough for the rest to be asked for at once.
const CUT: usize = 200_000;

fn object() -> Vec<u8> {
    (0..LEN as u32).map(|i| (i % 251) as u8).collect()
}

/// What is asked of a host, request by request.
type Asked = Arc<Mutex<Vec<Request>>>;

/// A host that answers the n-th request (from 0) so.
async fn host(answer: impl Fn(usize, &Request) -> Answer + Send + Sync + 'static) -> (HttpBackend, Asked) {
    let asked = Asked::default();
    let noted = Arc::clone(&asked);
    let server = serve(move |request| {
        let mut noted = noted.lock().unwrap();
        noted.push(request.clone());
        answer(noted.len() - 1, &request)
    });
    (HttpBackend::new(&server.await.url).unwrap(), asked)
}

/// The object or a range of it under `etag`; `sent` bytes of the body come, then the connection closes.
fn cut(request: &Request, etag: &str, sent: usize) -> Answer {
    let (first, end) = request.range.unwrap_or((0, LEN));
    let end = end.min(LEN);
    let status = match request.range {
        Some(_) => format!("206 Partial Content\r\nContent-Range: bytes {first}-{}/{LEN}", end - 1),
        None => "200 OK".into(),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: {etag}\r\n\r\n", end - first);
    Answer::raw(&head, &object()[first..end.min(first + sent)])
}

/// Both ways to read all of it.
async fn whole(backend: &HttpBackend, by_range: bool) -> Result<bytes::Bytes> {
    match by_range {
        true => read_range(backend, "x", 0..LEN as u64).await,
        false => backend.get("x", LEN as u64).await,
    }
}

#[tokio::test]
async fn a_body_that_breaks_goes_on_where_it_broke() {
    for by_range in [false, true] {
        let (backend, asked) = host(|n, r| cut(r, "\"a\"", if n == 0 { CUT } else { LEN })).await;
        assert_eq!(whole(&backend, by_range).await.unwrap(), object());
        let asked = asked.lock().unwrap();
        assert_eq!(asked.len(), 2);
        assert_eq!(asked[1].range, Some((CUT, LEN)));
        assert!(asked[1].headers.contains(&"if-range: \"a\"".into()), "{:?}", asked[1]);
    }
}

/// The object is the same only under the same strong ETag: nothing is put together of two.
#[tokio::test]
async fn a_body_does_not_go_on_with_another_object() {
    for by_range in [false, true] {
        // It changed; the host minds If-Range, or does not.
        for minds in [true, false] {
            let (backend, asked) = host(move |n, r| match n {
                0 => cut(r, "\"a\"", CUT),
                _ if minds => cut(&Request { range: None, ..r.clone() }, "\"b\"", LEN),
                _ => cut(r, "\"b\"", LEN),
            })
            .await;
            assert!(whole(&backend, by_range).await.unwrap_err().is_transient());
            assert_eq!(asked.lock().unwrap().len(), 2);
        }
        // Nobody can tell.
        for etag in ["W/\"a\"", "a"] {
            let (backend, asked) = host(move |_, r| cut(r, etag, CUT)).await;
            assert!(whole(&backend, by_range).await.unwrap_err().is_transient());
            assert_eq!(asked.lock().unwrap().len(), 1);
        }
        // Another range than the one that is missing.
        let (backend, _) = host(|n, r| match n {
            0 => cut(r, "\"a\"", CUT),
            _ => cut(&Request { range: Some((CUT - 1, LEN)), ..r.clone() }, "\"a\"", LEN),
        })
        .await;
        assert!(whole(&backend, by_range).await.unwrap_err().is_transient());
    }
}

/// Who cuts everything short is asked again by whoever needs the bytes, after a pause, not here for ever.
#[tokio::test]
async fn a_host_that_brings_little_is_not_asked_on_and_on() {
    let (backend, asked) = host(|_, r| cut(r, "\"a\"", 1000)).await;
    assert!(whole(&backend, false).await.unwrap_err().is_transient());
    assert_eq!(asked.lock().unwrap().len(), 1);
}

/// A host that ignores Range sends the whole pack, which is kept while it comes; it goes on too where it breaks.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_download_goes_on_where_it_broke() {
    let (backend, asked) = host(|n, r| match n {
        0 => cut(&Request { range: None, ..r.clone() }, "\"a\"", CUT),
        _ => cut(r, "\"a\"", LEN),
    })
    .await;
    assert_eq!(read_range(&backend, "x", 10..LEN as u64 - 10).await.unwrap(), object()[10..LEN - 10]);
    assert_eq!(read_range(&backend, "x", 0..1000).await.unwrap(), object()[..1000]);
    assert_eq!(asked.lock().unwrap()[1].range, Some((CUT, LEN)));
}

#[tokio::test]
async fn the_pause_that_a_host_asks_for_is_told() {
    for (status, headers, retry) in [
        ("503 Service Unavailable", &["Retry-After: 7"][..], Retry::After(Duration::from_secs(7))),
        ("429 Too Many Requests", &["Retry-After: 0"][..], Retry::After(Duration::ZERO)),
        ("429 Too Many Requests", &[][..], Retry::Soon),
    ] {
        let (backend, _) = host(move |_, _| Answer::new(status, headers, b"")).await;
        for by_range in [false, true] {
            let error = whole(&backend, by_range).await.unwrap_err();
            assert!(error.is_transient());
            assert_eq!(error.retry(), retry, "{status} {headers:?}");
        }
    }
    let error = whole(&HttpBackend::new("http://127.0.0.1:1").unwrap(), false).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Unreachable, "{error}");
}

#[tokio::test]
async fn a_part_that_nobody_asked_for_is_refused() {
    let (backend, _) = host(|_, r| cut(&Request { range: Some((0, 100)), ..r.clone() }, "\"a\"", LEN)).await;
    let error = whole(&backend, false).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("206"), "{error}");
}

/// Each step has a deadline of its own.
#[tokio::test]
async fn a_host_that_falls_silent_is_given_up() {
    let never = Arc::new(Notify::new());
    // Before the head; in the middle of it; in the middle of the body; in the body of an error.
    for (held, says) in [(LEN + 1000, "no answer"), (LEN + 20, "no answer"), (1000, "nothing more came")] {
        let never = never.clone();
        let (backend, _) = host(move |_, r| {
            let answer = file_answer(Some(object()), r.range);
            let held = held.min(answer.bytes.len());
            answer.hold(held, &never)
        })
        .await;
        let short = Duration::from_millis(150);
        let backend = backend.with_deadlines(Deadlines { first_byte: short, stall: short, ..Deadlines::default() });
        let backend = backend.unwrap();
        for by_range in [false, true] {
            let error = whole(&backend, by_range).await.unwrap_err();
            assert!(error.is_transient() && error.to_string().contains(says), "{error}");
        }
    }
}

/// A connection that the host closed while it was idle is no failure.
#[tokio::test]
async fn an_idle_connection_that_is_closed_is_not_used() {
    let (backend, asked) = host(|_, r| Answer { close: true, ..file_answer(Some(object()), r.range) }).await;
    for _ in 0..20 {
        assert_eq!(whole(&backend, true).await.unwrap(), object());
    }
    assert_eq!(asked.lock().unwrap().len(), 20);
}

#[tokio::test]
async fn an_object_that_is_not_there_is_no_outage() {
    let (backend, _) = host(|_, _| Answer::new("404 Not Found", &["Retry-After: 5"], b"")).await;
    assert!(matches!(whole(&backend, true).await, Err(Error::NotFound { .. })));
}

/// Caches must not answer again with what was wrong; nor ever with the one name that changes.
#[tokio::test]
async fn what_was_wrong_is_read_past_caches() {
    let (backend, asked) = host(|_, r| file_answer(Some(object()), r.range)).await;
    let past_caches = async |backend: &dyn Backend, object: &str| {
        let by_range = read_range(backend, object, 0..10).await.unwrap();
        assert_eq!(by_range.len(), 10);
        backend.get(object, LEN as u64).await.unwrap();
        let asked = asked.lock().unwrap();
        let mut both = asked[asked.len() - 2..].iter().map(|request| {
            let has = |header: &str| request.headers.contains(&header.to_owned());
            assert_eq!(has("cache-control: no-cache"), has("pragma: no-cache"));
            has("pragma: no-cache")
        });
        let first = both.next().unwrap();
        assert_eq!(both.next(), Some(first));
        first
    };
    assert!(!past_caches(&backend, "packs/x").await);
    backend.fresh().forget("packs/x", &(0..10));
    assert!(past_caches(&backend, "packs/x").await && past_caches(&*backend.fresh(), "packs/x").await);
    assert!(!past_caches(&backend, "packs/y").await);
    assert!(past_caches(&backend, page_store::MANIFEST_NAME).await);
}

/// Every object of a store: a copy in a cache is wrong, the original is right.
#[tokio::test]
async fn a_store_behind_a_cache_that_is_wrong_is_read_at_the_second_attempt() {
    let (_dir, _, store) = common::made();
    let wrong = Arc::new(Mutex::new(0));
    let count = wrong.clone();
    let server = serve(move |request| {
        let mut bytes = std::fs::read(store.join(&request.path[1..])).unwrap();
        if !request.headers.contains(&"cache-control: no-cache".to_owned()) {
            *count.lock().unwrap() += 1;
            bytes.iter_mut().step_by(1000).for_each(|byte| *byte ^= 1);
        }
        file_answer(Some(bytes), request.range)
    })
    .await;
    let store = page_store::Store::open(&server.url).await.unwrap();
    assert!(matches!(store.slim().await, Err(Error::Corrupt { .. })));
    store.slim().await.unwrap();
    assert!(matches!(store.load_index().await, Err(Error::Corrupt { .. })));
    store.load_index().await.unwrap();
    assert!(matches!(store.read_frame(page_store::FrameNumber(0)).await, Err(Error::Corrupt { .. })));
    store.read_frame(page_store::FrameNumber(0)).await.unwrap();
    assert_eq!(*wrong.lock().unwrap(), 3);
}
