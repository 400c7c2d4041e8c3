//! What is asked, and whether it held.

use serde::Serialize;

use crate::stats::Samples;

/// Bytes.
pub(crate) const MIB: f64 = 1_048_576.0;

/// Dumped pages that `split` takes in at the default level, on two cores.
pub(crate) const SPLIT_MB_PER_SECOND: f64 = 300.0;
/// `split` to an object store, against the slower of compressor and link.
pub(crate) const UPLOAD: f64 = 1.2;
/// Memory of `split`, whatever the size of the checkpoint.
pub(crate) const SPLIT_MIB: f64 = 200.0;
/// Memory of the agent while 1 GB is restored.
pub(crate) const AGENT_MIB: f64 = 64.0;
/// Memory of the server meanwhile.
pub(crate) const SERVER_MIB: f64 = 64.0;
/// Size of the index of 1 GB.
pub(crate) const INDEX_KIB: f64 = 512.0;
/// Dumped pages against all that is stored, by subject.
const STORED: [(&str, f64); 4] = [("node", 6.0), ("java", 4.0), ("redis", 2.3), ("gunicorn", 15.0)];

/// One line of the table.
#[derive(Serialize)]
pub(crate) struct Figure {
    /// What.
    pub(crate) name: String,
    /// In words, with the unit.
    pub(crate) asked: String,
    /// In words, with the unit.
    pub(crate) measured: String,
    /// Whether it held.
    pub(crate) verdict: Verdict,
    /// Ours, then what it is compared with.
    pub(crate) samples: Vec<Samples>,
}

/// Whether a figure held.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// It did.
    Held,
    /// It did not.
    NotHeld,
    /// Nothing but its measurement was asked.
    Shown,
    /// It could not be measured.
    Failed,
}

impl Verdict {
    /// For the table.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::NotHeld => "**not held**",
            Self::Shown => "shown",
            Self::Failed => "**failed**",
        }
    }
}

impl Figure {
    /// The median must not exceed `asked`.
    pub(crate) fn at_most(name: String, asked: f64, unit: &str, samples: Samples) -> Self {
        let measured = samples.with_spread(unit, 1);
        let held = samples.median() <= asked;
        Self { name, asked: format!("≤ {asked} {unit}"), measured, verdict: verdict(held), samples: vec![samples] }
    }

    /// The median must reach `asked`.
    pub(crate) fn at_least(name: String, asked: f64, unit: &str, samples: Samples) -> Self {
        let measured = samples.with_spread(unit, if asked < 100.0 { 2 } else { 0 });
        let held = samples.median() >= asked;
        Self { name, asked: format!("≥ {asked} {unit}"), measured, verdict: verdict(held), samples: vec![samples] }
    }

    /// The largest sample must stay below `asked`.
    pub(crate) fn below(name: String, asked: f64, unit: &str, samples: Samples) -> Self {
        let measured = samples.with_spread(unit, 1);
        let held = samples.max() < asked;
        Self { name, asked: format!("< {asked} {unit}"), measured, verdict: verdict(held), samples: vec![samples] }
    }

    /// Our median may be `asked` times theirs.
    pub(crate) fn no_later(name: String, asked: f64, unit: &str, ours: Samples, theirs: Samples) -> Self {
        let (our, their) = (ours.median(), theirs.median());
        let decimals = if their < 10.0 { 2 } else { 0 };
        let measured = format!("{our:.decimals$} {unit}; {their:.decimals$} {unit} ({:.2}×)", our / their);
        let held = our / their <= asked;
        Self { name, asked: format!("≤ {asked}×"), measured, verdict: verdict(held), samples: vec![ours, theirs] }
    }

    /// Their median must be at least `asked` times ours.
    pub(crate) fn sooner(name: String, asked: f64, unit: &str, ours: Samples, theirs: Samples) -> Self {
        let (our, their) = (ours.median(), theirs.median());
        let measured = format!("{our:.0} {unit}; CRIU {their:.0} {unit}: {:.1}× sooner", their / our);
        let held = their / our >= asked;
        let asked = format!("{asked}× sooner than CRIU's own");
        Self { name, asked, measured, verdict: verdict(held), samples: vec![ours, theirs] }
    }

    /// Nothing is asked of it.
    pub(crate) fn shown(name: String, unit: &str, samples: Samples) -> Self {
        let measured = samples.with_spread(unit, 1);
        Self { name, asked: "-".into(), measured, verdict: Verdict::Shown, samples: vec![samples] }
    }

    /// Nothing was measured.
    pub(crate) fn failed(name: String, error: &anyhow::Error) -> Self {
        let measured = error.to_string().lines().next().unwrap_or_default().to_owned();
        Self { name, asked: "-".into(), measured, verdict: Verdict::Failed, samples: Vec::new() }
    }
}

/// Stored size of a subject, if something is asked of it. `ratio` is dumped bytes per stored byte.
pub(crate) fn stored(subject: &str, ratio: f64) -> Option<Figure> {
    let (_, asked) = STORED.iter().find(|(name, _)| *name == subject)?;
    Some(Figure {
        name: format!("{subject}: stored size against dumped size"),
        asked: format!("≤ 1/{asked}"),
        measured: format!("1/{ratio:.2}"),
        verdict: verdict(ratio >= *asked),
        samples: vec![Samples::from_iter([ratio])],
    })
}

fn verdict(held: bool) -> Verdict {
    if held { Verdict::Held } else { Verdict::NotHeld }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_held_by_its_median_or_by_its_worst_sample() {
        let samples = || Samples::from_iter([200.0, 310.0, 320.0]);
        assert!(Figure::at_least("rate".into(), 300.0, "MB/s", samples()).verdict == Verdict::Held);
        assert!(Figure::below("memory".into(), 315.0, "MiB", samples()).verdict == Verdict::NotHeld);
        assert!(Figure::below("memory".into(), 320.5, "MiB", samples()).verdict == Verdict::Held);
    }

    #[test]
    fn nothing_measured_is_never_held() {
        assert!(Figure::at_least("rate".into(), 0.0, "MB/s", Samples::default()).verdict == Verdict::NotHeld);
        assert!(Figure::below("memory".into(), 1.0, "MiB", Samples::default()).verdict == Verdict::NotHeld);
        let nothing = Figure::sooner("reply".into(), 0.0, "ms", Samples::default(), Samples::default());
        assert!(nothing.verdict == Verdict::NotHeld);
    }
}
