//! Memory that is scattered page by page: more segments than the server keeps at a time.

mod common;

use common::*;
use criu_images::testing::{Dump, Pages, Task, page};

/// Every other page has bytes; then come as many pages without.
const WRITTEN: u64 = 10_000;

#[test]
fn every_page_is_found_and_none_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut task = Task::new(10).anonymous(HEAP, 4 * WRITTEN);
    for number in 0..WRITTEN {
        task = task.pages(Pages::here(HEAP + 2 * number * P, 1));
    }
    task.comm = "scattered".into();
    Dump::new().task(task).write(dir.path()).unwrap();
    let server = Running::start(dir.path());

    let pagemap = server.get("/pid/10/pagemap").json();
    let runs: Vec<_> = pagemap["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| (run["start"].as_str().unwrap(), run["pages"].as_u64().unwrap(), run["source"].as_str().unwrap()))
        .collect();
    assert_eq!(runs.len() as u64, 2 * WRITTEN);
    for (number, run) in runs.iter().enumerate() {
        let start = format!("{:#x}", HEAP + number as u64 * P);
        let last = number as u64 == 2 * WRITTEN - 1;
        let expected = match number % 2 {
            0 => (start.as_str(), 1, "store"),
            _ => (start.as_str(), if last { 2 * WRITTEN + 1 } else { 1 }, "zero"),
        };
        assert_eq!(*run, expected);
    }

    let bytes = server.get(&format!("/pid/10/pages/{HEAP:x}-{:x}", HEAP + 4 * WRITTEN * P)).body;
    assert_eq!(bytes.len() as u64, 4 * WRITTEN * P);
    for (number, held) in bytes.chunks(P as usize).enumerate() {
        let number = number as u64;
        let addr = HEAP + number * P;
        let expected = if number.is_multiple_of(2) && number < 2 * WRITTEN {
            page(10, addr, 0).to_vec()
        } else {
            vec![0; P as usize]
        };
        assert!(held == expected, "{addr:#x}");
    }
}
