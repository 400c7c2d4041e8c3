use super::*;
use futures::{FutureExt, TryStreamExt};
use std::sync::atomic::AtomicU64;

fn spool(
    file: File,
    total: Option<u64>,
    body: impl futures::Stream<Item = Result<Bytes, String>> + Send + 'static,
) -> Spool {
    Spool::begin(file, Arc::default(), total, body.boxed(), Arc::default())
}

/// Reads from the spool alone.
async fn read(spool: &Spool, range: Range<u64>) -> Result<Vec<u8>> {
    let unasked = |rest| panic!("{rest:?} was asked for");
    let chunks: Vec<Bytes> = spool.clone().read("x".into(), range, unasked).try_collect().await?;
    Ok(chunks.concat())
}

/// Chunks of a MiB, without end; and how many were taken.
fn endless() -> (impl futures::Stream<Item = Result<Bytes, String>> + Send, Arc<AtomicU64>) {
    let taken = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&taken);
    let chunk = Bytes::from(vec![7; 1 << 20]);
    let body = stream::repeat_with(move || {
        count.fetch_add(1, Relaxed);
        Ok(chunk.clone())
    });
    (body, taken)
}

#[tokio::test]
async fn a_body_without_end_takes_no_more_than_its_share() {
    let file = tempfile::tempfile().unwrap();
    let (body, taken) = endless();
    let first = stream::iter([Ok(Bytes::from_static(b"first"))]);
    let spool = spool(file.try_clone().unwrap(), None, first.chain(body));
    assert_eq!(read(&spool, MAX_SPOOL - 10..MAX_SPOOL).await.unwrap(), [7; 10]);
    assert_eq!(read(&spool, 3..7).await.unwrap(), *b"st\x07\x07");
    assert_eq!((file.metadata().unwrap().len(), taken.load(Relaxed)), (MAX_SPOOL, MAX_SPOOL >> 20));
    assert!(spool.is_live() && !spool.may_have(&(0..MAX_SPOOL + 1)));
}

#[tokio::test]
async fn a_download_that_nobody_can_read_stops() {
    let (body, taken) = endless();
    drop(spool(tempfile::tempfile().unwrap(), None, body));
    tokio::task::yield_now().await;
    assert_eq!(taken.load(Relaxed), 1);
}

#[tokio::test]
async fn a_full_disk_leaves_the_rest_to_the_host() {
    let unwritable = Arc::new(AtomicBool::new(false));
    let full = File::options().read(true).write(true).open("/dev/full").unwrap();
    let spool = Spool::begin(full, Arc::default(), None, endless().0.boxed(), Arc::clone(&unwritable));
    let ask = |rest: Range<u64>| {
        assert_eq!(rest, 5..8);
        async { Ok(stream::iter([Ok(Bytes::from_static(b"abc"))]).boxed()) }.boxed()
    };
    let chunks: Vec<Bytes> = spool.clone().read("x".into(), 5..8, ask).try_collect().await.unwrap();
    assert_eq!(chunks.concat(), b"abc");
    assert!(unwritable.load(Relaxed) && !spool.is_live());
}

#[tokio::test]
async fn ends_that_come_too_soon() {
    let body = || stream::iter([Ok(Bytes::from_static(b"hello"))]);
    let file = || tempfile::tempfile().unwrap();
    // Without a length only a reader can tell.
    let open = spool(file(), None, body());
    assert_eq!(read(&open, 0..5).await.unwrap(), *b"hello");
    assert!(open.is_live());
    let error = read(&open, 3..6).await.unwrap_err();
    assert_eq!(error.to_string(), "x: bytes 3-5: 2 bytes came, 3 were asked for");
    assert!(error.is_transient() && !open.is_live());
    let error = read(&open, 8..9).await.unwrap_err();
    assert_eq!(error.to_string(), "x: bytes 8-8: 0 bytes came, 1 were asked for");

    let lied = spool(file(), Some(6), body());
    assert_eq!(read(&lied, 5..6).await.unwrap_err().to_string(), "x: ends after 5 bytes");
    let broken = spool(file(), Some(6), body().chain(stream::iter([Err("the connection broke".into())])));
    let error = read(&broken, 0..6).await.unwrap_err();
    assert!(error.is_transient() && error.to_string() == "x: the connection broke", "{error}");
    // What is there can be read all the same.
    assert_eq!(read(&broken, 0..5).await.unwrap(), *b"hello");
    assert!(!lied.is_live() && !broken.is_live());
}
