//! Working sets and traces: what is accepted is of this store, bounded, and read again as what it was.
//!
//! Input: `kind: u8`, then a working set (even) or a trace (odd).

#![no_main]

use libfuzzer_sys::fuzz_target;
use page_store::working_set::{MAX_SET_FRAMES, Trace, WorkingSet, merge};
use std::collections::HashSet;

const FRAMES: u64 = 5000;
const CHECKPOINT: &str = "c";

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    if kind % 2 == 0 {
        let Ok(set) = WorkingSet::parse("set", bytes.to_vec().into(), FRAMES) else { return };
        let numbers: HashSet<u64> = set.frames.iter().map(|(number, _)| number.0).collect();
        assert!(numbers.len() == set.frames.len() && set.frames.len() <= MAX_SET_FRAMES);
        assert!(numbers.iter().all(|number| *number < FRAMES));
        assert_eq!(set.to_bytes(), bytes);
        return;
    }
    let Ok(trace) = Trace::parse("trace", bytes, CHECKPOINT, FRAMES) else { return };
    assert!(trace.frames.iter().all(|frame| *frame < FRAMES));
    assert_eq!(Trace::parse("again", &trace.to_json(), CHECKPOINT, FRAMES).ok().as_ref(), Some(&trace));
    let merged = merge(&[trace.clone(), trace.clone()]);
    let kept = trace.frames.len().min(MAX_SET_FRAMES);
    assert_eq!(merged.iter().map(|frame| frame.0).collect::<Vec<_>>(), trace.frames[..kept]);
});
