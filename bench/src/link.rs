//! What lies between a store and an agent.

use std::time::Duration;

use pageferry_tests::Speed;

/// A link with a name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Link {
    /// `None`: the loopback device as it is.
    pub(crate) speed: Option<Speed>,
}

/// CRIU's own daemons need minutes from here on: they are timed until the first reply, once.
const FAR: Duration = Duration::from_millis(50);

const fn link(millis: u64, rate: Option<f64>) -> Link {
    Link { speed: Some(Speed { round_trip: Duration::from_millis(millis), rate }) }
}

pub(crate) const LOOPBACK: Link = Link { speed: None };
/// One data centre.
pub(crate) const NEAR: Link = link(1, Some(1e9));
/// Two data centres of one region.
pub(crate) const REGION: Link = link(10, Some(1e9));
/// Another part of the continent, over a line that others use too.
pub(crate) const CONTINENT: Link = link(50, Some(200e6));

impl Link {
    /// Those that are measured where nobody says which.
    pub(crate) const DEFAULT: [Self; 4] = [LOOPBACK, NEAR, REGION, CONTINENT];

    /// Every distance at every rate.
    pub(crate) fn all() -> Vec<Self> {
        let rates = [None, Some(1e9), Some(200e6)];
        let far = [1, 10, 50].into_iter().flat_map(|millis| rates.map(|rate| link(millis, rate)));
        std::iter::once(LOOPBACK).chain([Some(1e9), Some(200e6)].map(|rate| link(0, rate))).chain(far).collect()
    }

    /// `10ms/1gbit`, `50ms`, `loopback`: as people type it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || "give loopback, or a round trip and perhaps a rate, such as 10ms/1gbit or 50ms/200mbit".to_owned();
        if text == "loopback" {
            return Ok(LOOPBACK);
        }
        let (trip, rate) = text.split_once('/').map_or((text, None), |(trip, rate)| (trip, Some(rate)));
        let millis = trip.strip_suffix("ms").and_then(|n| n.parse().ok()).filter(|n| *n <= 10_000).ok_or_else(wrong)?;
        let rate = match rate {
            None => None,
            Some(rate) => {
                let (number, unit) = rate.split_at_checked(rate.len().saturating_sub(4)).ok_or_else(wrong)?;
                let unit = [("gbit", 1e9), ("mbit", 1e6)].into_iter().find(|(name, _)| *name == unit);
                let number = number.parse::<u32>().ok().filter(|number| *number > 0);
                Some(f64::from(number.ok_or_else(wrong)?) * unit.ok_or_else(wrong)?.1)
            }
        };
        Ok(link(millis, rate))
    }

    /// For people.
    pub(crate) fn name(&self) -> String {
        match self.speed {
            None => "loopback".to_owned(),
            Some(Speed { round_trip, rate }) => {
                let rate = match rate {
                    None => "unlimited".to_owned(),
                    Some(rate) if rate >= 1e9 => format!("{} Gbit/s", rate / 1e9),
                    Some(rate) => format!("{} Mbit/s", rate / 1e6),
                };
                format!("{} ms, {rate}", round_trip.as_millis())
            }
        }
    }

    /// Whether CRIU's own daemons take so long that only their first reply is waited for.
    pub(crate) fn is_far(&self) -> bool {
        self.speed.is_some_and(|speed| speed.round_trip >= FAR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_typed_and_named() {
        assert_eq!(Link::parse("loopback"), Ok(LOOPBACK));
        assert_eq!(Link::parse("10ms/1gbit"), Ok(REGION));
        assert_eq!(Link::parse("50ms/200mbit"), Ok(CONTINENT));
        assert_eq!(Link::parse("7ms").map(|link| link.name()), Ok("7 ms, unlimited".to_owned()));
        assert_eq!(CONTINENT.name(), "50 ms, 200 Mbit/s");
        for bad in ["", "10", "ms", "10ms/", "10ms/0gbit", "10ms/1tbit", "10ms/gbit", "10ms/é"] {
            assert!(Link::parse(bad).is_err(), "{bad}");
        }
    }
}
