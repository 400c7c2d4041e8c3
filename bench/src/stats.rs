//! Samples of one quantity.

use serde::Serialize;

/// What was measured, run by run.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// One more run.
    pub(crate) fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// Another quantity, sample by sample.
    pub(crate) fn map(&self, of: impl Fn(f64) -> f64) -> Self {
        self.0.iter().copied().map(of).collect()
    }

    /// How many runs.
    pub(crate) fn runs(&self) -> usize {
        self.0.len()
    }

    /// The middle one; the mean of the two in the middle for an even number of them. NaN of none.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
        match (sorted.get(low), sorted.get(high)) {
            (Some(low), Some(high)) => (low + high) / 2.0,
            _ => f64::NAN,
        }
    }

    /// The smallest.
    pub(crate) fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::min)
    }

    /// The largest.
    pub(crate) fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::max)
    }

    /// `median unit`, or a dash.
    pub(crate) fn median_with(&self, unit: &str, decimals: usize) -> String {
        match self.runs() {
            0 => "-".to_owned(),
            _ => format!("{:.decimals$} {unit}", self.median()).trim_end().to_owned(),
        }
    }

    /// `median unit (smallest–largest)`.
    pub(crate) fn with_spread(&self, unit: &str, decimals: usize) -> String {
        let Self(samples) = self;
        let median = format!("{:.decimals$} {unit}", self.median());
        match samples.len() {
            0 => "-".to_owned(),
            1 => median,
            _ => format!("{median} ({:.decimals$}–{:.decimals$})", self.min(), self.max()),
        }
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::Samples;

    #[test]
    fn the_median_of_odd_and_even_numbers() {
        assert_eq!(Samples(vec![3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Samples(vec![4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert!(Samples::default().median().is_nan());
    }

    #[test]
    fn the_spread_is_shown_where_there_is_one() {
        assert_eq!(Samples(vec![0.5]).with_spread("s", 2), "0.50 s");
        assert_eq!(Samples(vec![0.5, 0.25, 1.0]).with_spread("s", 2), "0.50 s (0.25–1.00)");
        assert_eq!(Samples::default().with_spread("s", 2), "-");
    }
}
