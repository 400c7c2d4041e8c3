//! Memory does not grow with the checkpoint.

mod common;

use common::*;
use criu_images::PAGE_SIZE;
use std::{fs, process::Command, time::Duration};

/// MiB; what the tool promises whatever the size.
const PROMISED: u64 = 200;

/// Runs a command to its end; its peak resident memory in MiB, as the kernel last told.
fn peak(command: &mut Command) -> u64 {
    let mut child = start(command, || true);
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) / 1024);
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    peak
}

/// Peaks of split, join and verify for a checkpoint of so many MiB.
fn measure(mib: u64) -> [u64; 3] {
    let dir = tempfile::tempdir().unwrap();
    // No page is like another: the worst case for what is remembered.
    let dump = large(dir.path(), mib * 256, |n| noise(n, 512).repeat(PAGE_SIZE as usize / 512));
    let (store, out) = (dir.path().join("store"), dir.path().join("out"));
    let split = peak(&mut split(&dump, &store));
    let join = peak(&mut join(store.to_str().unwrap(), &out));
    let verify = peak(strip().arg("verify").arg(&store));
    println!("{mib} MiB: split {split} MiB, join {join} MiB, verify {verify} MiB");
    [split, join, verify]
}

#[test]
fn a_large_checkpoint_needs_hardly_more_than_a_small_one() {
    let (small, large) = (measure(100), measure(800));
    assert!(large.iter().all(|peak| *peak < PROMISED), "{large:?}");
    // Remembered pages take 24 to 48 bytes each: 9 MiB for 800 MiB.
    assert!(large.iter().zip(small).all(|(large, small)| *large < small + 40), "{small:?} {large:?}");
}

/// The figures that were promised; takes a minute and 10 GB of disk.
#[test]
#[ignore = "a minute and 10 GB of disk: cargo test -p pageferry-strip --test memory -- --ignored --nocapture"]
fn three_hundred_megabytes_and_three_gigabytes() {
    for mib in [286, 2861] {
        assert!(measure(mib).iter().all(|peak| *peak < PROMISED));
    }
}
