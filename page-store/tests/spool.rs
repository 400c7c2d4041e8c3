//! Hosts that ignore Range: each object is downloaded once and read from there.

mod common;

use common::http::*;
use futures::{StreamExt, future::join_all};
use page_store::{Backend, HttpBackend, Result, read_range};
use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, sync::Notify, time::timeout};

const LEN: u64 = 3 << 20;
const HALF: u64 = LEN / 2;
/// Longer than anything takes here that does not wait for the host.
const A_WHILE: Duration = Duration::from_millis(300);

fn object() -> Vec<u8> {
    (0..LEN as u32 / 4).flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect()
}

fn whole() -> Answer {
    file_answer(Some(object()), None)
}

/// A host that answers the n-th request for `/object` (from 1) so, and all others with the whole; and how many there were.
async fn host(answer: impl Fn(usize) -> Answer + Send + Sync + 'static) -> (HttpBackend, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let server = serve(move |request| match request.path.as_str() {
        "/object" => answer(count.fetch_add(1, Relaxed) + 1),
        _ => whole(),
    });
    (HttpBackend::new(&server.await.url).unwrap(), requests)
}

async fn check(backend: &dyn Backend, range: Range<u64>) -> Result<()> {
    let bytes = read_range(backend, "object", range.clone()).await?;
    assert_eq!(bytes, object()[range.start as usize..range.end as usize], "{range:?}");
    Ok(())
}

/// Ranges all over the object, some of them across its middle.
fn ranges() -> impl Iterator<Item = Range<u64>> {
    (0..32).map(|i| i * LEN / 32..(i * LEN / 32 + 300_000).min(LEN))
}

async fn check_all(backend: &HttpBackend) {
    let backends: [Arc<dyn Backend>; 3] = [Arc::new(backend.clone()), backend.fresh(), backend.fresh().fresh()];
    let reads = ranges().zip(backends.iter().cycle()).map(|(range, backend)| check(&**backend, range));
    join_all(reads).await.into_iter().for_each(|read| read.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_download_serves_all_ranges_everywhere() {
    let (backend, requests) = host(|_| {
        // Time enough for the others to ask as well.
        std::thread::sleep(A_WHILE / 3);
        whole()
    })
    .await;
    // The host becomes known by another object.
    read_range(&backend, "other", 5..10).await.unwrap();
    check_all(&backend).await;
    assert_eq!(requests.load(Relaxed), 1);
    check(&backend, 0..LEN).await.unwrap();
    check_all(&backend).await;
    assert_eq!(requests.load(Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_nobody_knows_yet() {
    let (backend, requests) = host(|_| whole()).await;
    check_all(&backend).await;
    let first = requests.load(Relaxed);
    assert!((1..=ranges().count()).contains(&first));
    check_all(&backend).await;
    assert_eq!(requests.load(Relaxed), first);
}

#[tokio::test]
async fn bytes_are_handed_out_before_the_object_is_complete() {
    let signal = Arc::new(Notify::new());
    let rest = Arc::clone(&signal);
    let (backend, requests) = host(move |_| whole().hold(HALF as usize, &rest)).await;
    check(&backend, 1000..70_000).await.unwrap();
    check(&backend, HALF - 1000..HALF).await.unwrap();
    let mut late = std::pin::pin!(check(&backend, LEN - 1000..LEN));
    assert!(timeout(A_WHILE, &mut late).await.is_err());
    // One that lies across has its first bytes.
    let mut across = backend.get_range("object", HALF - 10..HALF + 10).await.unwrap();
    assert_eq!(across.next().await.unwrap().unwrap(), object()[HALF as usize - 10..HALF as usize]);
    assert!(timeout(A_WHILE, across.next()).await.is_err());
    signal.notify_one();
    late.await.unwrap();
    assert_eq!(across.next().await.unwrap().unwrap(), object()[HALF as usize..HALF as usize + 10]);
    assert!(across.next().await.is_none());
    assert_eq!(requests.load(Relaxed), 1);
}

#[tokio::test]
async fn the_download_goes_on_without_its_reader() {
    let signal = Arc::new(Notify::new());
    let rest = Arc::clone(&signal);
    let (backend, requests) = host(move |_| whole().hold(HALF as usize, &rest)).await;
    drop(backend.get_range("object", LEN - 10..LEN).await.unwrap());
    signal.notify_one();
    check(&backend.clone(), 0..LEN).await.unwrap();
    assert_eq!(requests.load(Relaxed), 1);
}

#[tokio::test]
async fn a_body_that_is_cut_in_half() {
    let signal = Arc::new(Notify::new());
    let cut = Arc::clone(&signal);
    let (backend, requests) = host(move |request| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n");
        match request {
            1 => Answer::raw(&head, &object()[..HALF as usize]).hold(1000, &cut),
            _ => whole(),
        }
    })
    .await;
    check(&backend, 0..HALF - 1000).await.unwrap();
    // All of these wait when it happens.
    let reads = [HALF - 1000..HALF, HALF - 10..HALF + 10, LEN - 1..LEN].map(|range| check(&backend, range));
    let [before, across, after] = reads;
    let (before, across, after, ()) = tokio::join!(before, across, after, async {
        tokio::time::sleep(A_WHILE).await;
        signal.notify_one();
    });
    before.unwrap();
    for error in [across.unwrap_err(), after.unwrap_err()] {
        assert!(error.is_transient() && error.to_string().starts_with(&backend.describe("object")), "{error}");
    }
    assert_eq!(requests.load(Relaxed), 1);
    check_all(&backend).await;
    assert_eq!(requests.load(Relaxed), 2);
}

/// Where there is no length, only who misses bytes can tell.
#[tokio::test]
async fn a_body_without_length_that_is_cut_in_half() {
    let (backend, requests) = host(|request| {
        let bytes = object();
        let sent = if request == 1 { HALF } else { LEN };
        Answer::raw("HTTP/1.1 200 OK\r\n\r\n", &bytes[..sent as usize])
    })
    .await;
    check(&backend, 0..HALF).await.unwrap();
    let error = check(&backend, HALF - 10..HALF + 10).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(requests.load(Relaxed), 1);
    check_all(&backend).await;
    assert_eq!(requests.load(Relaxed), 2);
}

/// The runtime with the download goes away; a waiting reader in another one is told, and a new one succeeds.
#[test]
fn a_runtime_that_ends_takes_its_downloads_along() {
    let (hosts, first, second) = (Runtime::new().unwrap(), Runtime::new().unwrap(), Runtime::new().unwrap());
    let (backend, requests) = hosts.block_on(host(|request| match request {
        1 => whole().hold(HALF as usize, &Arc::default()),
        _ => whole(),
    }));
    let other = backend.fresh();
    first.block_on(check(&backend, 0..1000)).unwrap();
    let (reader, waiting) = (Arc::clone(&other), other.clone());
    let waits = second.spawn(async move { check(&*reader, LEN - 10..LEN).await });
    second.block_on(async { assert!(timeout(A_WHILE, check(&*waiting, LEN - 10..LEN)).await.is_err()) });
    let began = Instant::now();
    drop(first);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let error = second.block_on(waits).unwrap().unwrap_err();
    assert!(error.is_transient() && error.to_string().ends_with("the download was stopped"), "{error}");
    second.block_on(check(&*other, LEN - 10..LEN)).unwrap();
    assert_eq!(requests.load(Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_honours_range_is_asked_each_time() {
    let server = serve(|request| {
        assert!(request.range.is_some());
        file_answer(Some(object()), request.range)
    })
    .await;
    let backend = HttpBackend::new(&server.url).unwrap();
    check_all(&backend).await;
    check_all(&backend).await;
    assert_eq!(server.requests.load(Relaxed), 2 * ranges().count());
}

/// Balancers and caches: some answers are whole, some are not. What came whole is used.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_ignores_range_now_and_then() {
    let count = AtomicUsize::new(0);
    let server = serve(move |request| match count.fetch_add(1, Relaxed) {
        0..5 => file_answer(Some(object()), request.range),
        5 => whole(),
        _ => Answer::new("503 Service Unavailable", &[], b""),
    })
    .await;
    let backend = HttpBackend::new(&server.url).unwrap();
    for range in ranges().take(6) {
        check(&backend, range).await.unwrap();
    }
    check_all(&backend).await;
    assert_eq!(server.requests.load(Relaxed), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_as_it_should_be_is_downloaded_anew() {
    let (backend, requests) = host(|_| whole()).await;
    check(&backend, 5..HALF).await.unwrap();
    check(&backend, HALF..LEN).await.unwrap();
    assert_eq!(requests.load(Relaxed), 1);
    backend.fresh().forget("object", &(0..1));
    check(&backend, 5..HALF).await.unwrap();
    assert_eq!(requests.load(Relaxed), 2);
}
