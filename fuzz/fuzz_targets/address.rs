//! Pids, addresses, ranges and `Range` headers as a client may write them: what is accepted is in user space and in bounds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pageferry_server::{address, range_header};

fuzz_target!(|input: (&str, u64)| {
    let (text, len) = input;
    let _ = address::pid(text);
    if let Ok(page) = address::page(text) {
        assert!(page.get() < criu_images::PageAddr::LIMIT);
    }
    if let Ok(range) = address::range(text) {
        assert!(range.end() <= criu_images::PageAddr::LIMIT && range.pages() > 0);
    }
    let _ = range_header::parse(text, len);
});
