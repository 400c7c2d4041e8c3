//! Traces: what one restore demanded.

use crate::{Error, FrameNumber, Result, working_set::MAX_SET_FRAMES};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};

const FORMAT: &str = "pageferry-trace";
const VERSION: u32 = 1;
/// Most frames of a trace: 64 GiB of memory.
pub const MAX_TRACE_FRAMES: usize = 1 << 20;

/// A recording, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    format: String,
    version: u32,
    /// The store it was recorded with.
    pub checkpoint_id: String,
    /// Frames in first-touch order.
    pub frames: Vec<u64>,
}

impl Trace {
    /// A recording of a restore from the store `checkpoint_id`.
    pub fn new(checkpoint_id: &str, frames: Vec<FrameNumber>) -> Self {
        let frames = frames.into_iter().map(|frame| frame.0).collect();
        Self { format: FORMAT.into(), version: VERSION, checkpoint_id: checkpoint_id.into(), frames }
    }

    /// Parses and checks; `name` is for messages. Refused: a trace of another store than `checkpoint_id`, which has `frame_count` frames.
    pub fn parse(name: &str, json: &[u8], checkpoint_id: &str, frame_count: u64) -> Result<Self> {
        let corrupt = |place: String, problem: String| Error::Corrupt { object: name.into(), place, problem };
        let trace: Self = serde_json::from_slice(json).map_err(|e| {
            corrupt(format!("line {} column {}", e.line(), e.column()), format!("not a trace of pageferry-agent: {e}"))
        })?;
        if trace.format != FORMAT || trace.version != VERSION {
            let what = format!("{:?} version {}, not {FORMAT:?} version {VERSION}", trace.format, trace.version);
            return Err(Error::Unsupported { object: name.into(), what });
        }
        if trace.checkpoint_id != checkpoint_id {
            let what = format!(
                "recorded with another checkpoint, {}; this store is {checkpoint_id}",
                trace.checkpoint_id.chars().take(64).collect::<String>()
            );
            return Err(Error::Unsupported { object: name.into(), what });
        }
        if trace.frames.len() > MAX_TRACE_FRAMES {
            return Err(corrupt("frames".into(), format!("more than {MAX_TRACE_FRAMES}")));
        }
        let mut seen = HashSet::new();
        for (at, frame) in trace.frames.iter().enumerate() {
            if *frame >= frame_count || !seen.insert(frame) {
                let problem = format!("frame {frame} is there twice, or not in the store, which has {frame_count}");
                return Err(corrupt(format!("frames[{at}]"), problem));
            }
        }
        Ok(trace)
    }

    /// The bytes of the file.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec(self).expect("strings and numbers");
        json.push(b'\n');
        json
    }
}

/// What several restores have in common: frames that at least half of them demanded, by their mean rank, as many as a set can have.
pub fn merge(traces: &[Trace]) -> Vec<FrameNumber> {
    let mut ranks: HashMap<u64, (usize, usize)> = HashMap::new();
    for trace in traces {
        for (rank, frame) in trace.frames.iter().enumerate() {
            let (times, sum) = ranks.entry(*frame).or_default();
            *times += 1;
            *sum += rank;
        }
    }
    let half = traces.len().div_ceil(2);
    let mut kept: Vec<_> = ranks.into_iter().filter(|(_, (times, _))| *times >= half).collect();
    // Means compared without division: a/b < c/d if a*d < c*b.
    kept.sort_by(|(a, (a_times, a_sum)), (b, (b_times, b_sum))| {
        (a_sum * b_times).cmp(&(b_sum * a_times)).then(a.cmp(b))
    });
    kept.truncate(MAX_SET_FRAMES);
    kept.into_iter().map(|(frame, _)| FrameNumber(frame)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(frames: &[u64]) -> Trace {
        Trace::new("id", frames.iter().copied().map(FrameNumber).collect())
    }

    #[test]
    fn a_trace_is_read_back_and_a_strange_one_refused() {
        let json = trace(&[3, 1]).to_json();
        assert_eq!(Trace::parse("t", &json, "id", 4).unwrap(), trace(&[3, 1]));
        assert!(Trace::parse("t", &json, "other", 4).is_err());
        assert!(Trace::parse("t", &json, "id", 3).is_err());
        assert!(Trace::parse("t", &trace(&[1, 1]).to_json(), "id", 4).is_err());
        for end in 0..json.len() - 1 {
            assert!(Trace::parse("t", &json[..end], "id", 4).is_err(), "{end}");
        }
    }

    #[test]
    fn a_trace_of_a_million_frames_is_read_and_one_of_more_refused() {
        let most = MAX_TRACE_FRAMES as u64;
        let all = |count| Trace::new("id", (0..count).map(FrameNumber).collect()).to_json();
        assert_eq!(merge(&[Trace::parse("t", &all(most), "id", most).unwrap()]).len(), MAX_SET_FRAMES);
        assert!(Trace::parse("t", &all(most + 1), "id", most + 1).is_err());
    }

    #[test]
    fn merging_keeps_what_half_of_them_have_in_the_order_of_mean_ranks() {
        let merged = merge(&[trace(&[5, 1, 2]), trace(&[1, 5, 9]), trace(&[1, 2])]);
        assert_eq!(merged, [1, 5, 2].map(FrameNumber));
        assert_eq!(merge(&[trace(&[4, 2])]), [4, 2].map(FrameNumber));
        assert_eq!(merge(&[]), []);
    }
}
