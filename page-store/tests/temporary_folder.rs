//! No room for temporary files: what a host that ignores Range sends is used as it comes. One test alone in its process, because
//! the folder is the process's.

mod common;

use common::http::*;
use page_store::{HttpBackend, read_range};
use std::{path::Path, sync::atomic::Ordering};

#[tokio::test]
async fn a_host_that_ignores_range_and_no_temporary_folder() {
    tempfile::env::override_temp_dir(Path::new("/nonexistent")).unwrap();
    let object: Vec<u8> = (0..1000u32).map(|i| (i % 251) as u8).collect();
    let served = object.clone();
    let server = serve(move |_| file_answer(Some(served.clone()), None)).await;
    let backend = HttpBackend::new(&server.url).unwrap();
    for i in 0..10 {
        let read = read_range(&backend, "x", i * 100..i * 100 + 50).await.unwrap();
        assert_eq!(read, object[i as usize * 100..][..50]);
    }
    assert_eq!(server.requests.load(Ordering::Relaxed), 10);
}
