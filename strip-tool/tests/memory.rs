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

#[test]
fn split_and_join_stay_small() {
    let mut peaks = Vec::new();
    for mib in [100, 800] {
        let dir = tempfile::tempdir().unwrap();
        // No page is like another: the worst case for what is remembered.
        let dump = large(dir.path(), mib * 256, |n| {
            let mut page = noise(n, 512).repeat(8);
            page.truncate(PAGE_SIZE as usize);
            page
        });
        let (store, out) = (dir.path().join("store"), dir.path().join("out"));
        let split = peak(&mut split(&dump, &store));
        let join = peak(&mut join(store.to_str().unwrap(), &out));
        let verify = peak(strip().arg("verify").arg(&store));
        println!("{mib} MiB: split {split} MiB, join {join} MiB, verify {verify} MiB");
        peaks.push((split, join, verify));
    }
    for (split, join, verify) in &peaks {
        assert!([split, join, verify].into_iter().all(|peak| *peak < PROMISED), "{peaks:?}");
    }
    // Remembered pages take 24 to 48 bytes each: 9 MiB for 800 MiB.
    assert!(peaks[1].0 < peaks[0].0 + 40 && peaks[1].1 < peaks[0].1 + 40, "{peaks:?}");
}
