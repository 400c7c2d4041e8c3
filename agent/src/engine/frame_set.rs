//! A set of frames: one bit each, 8 KiB for 4 GiB of memory.

use page_store::FrameNumber;

/// Frames below a limit.
#[derive(Debug, Default)]
pub(super) struct FrameSet {
    words: Vec<u64>,
}

impl FrameSet {
    /// All frames below `count`.
    pub(super) fn all(count: u64) -> Self {
        let mut words = vec![u64::MAX; (count / 64) as usize];
        if !count.is_multiple_of(64) {
            words.push((1 << (count % 64)) - 1);
        }
        Self { words }
    }

    pub(super) fn contains(&self, frame: FrameNumber) -> bool {
        self.words.get((frame.0 / 64) as usize).is_some_and(|word| word >> (frame.0 % 64) & 1 == 1)
    }

    pub(super) fn remove(&mut self, frame: FrameNumber) {
        if let Some(word) = self.words.get_mut((frame.0 / 64) as usize) {
            *word &= !(1 << (frame.0 % 64));
        }
    }

    /// The first member from `frame` on; after the last one, the first of all.
    pub(super) fn next(&self, frame: FrameNumber) -> Option<FrameNumber> {
        self.first_from(frame.0).or_else(|| self.first_from(0)).map(FrameNumber)
    }

    fn first_from(&self, from: u64) -> Option<u64> {
        let first = (from / 64) as usize;
        let here = self.words.get(first)? & (u64::MAX << (from % 64));
        let rest = self.words.iter().copied().enumerate().skip(first + 1);
        let (at, word) = std::iter::once((first, here)).chain(rest).find(|(_, word)| *word != 0)?;
        Some(at as u64 * 64 + u64::from(word.trailing_zeros()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn is_a_set(count in 0..300u64, steps in prop::collection::vec((0..320u64, any::<bool>()), 0..400)) {
            let mut set = FrameSet::all(count);
            let mut model: BTreeSet<u64> = (0..count).collect();
            for (frame, remove) in steps {
                if remove {
                    set.remove(FrameNumber(frame));
                    model.remove(&frame);
                }
                prop_assert_eq!(set.contains(FrameNumber(frame)), model.contains(&frame));
                let next = model.range(frame..).next().or(model.first()).copied();
                prop_assert_eq!(set.next(FrameNumber(frame)), next.map(FrameNumber));
            }
        }
    }
}
