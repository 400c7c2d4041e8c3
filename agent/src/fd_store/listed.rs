//! What systemd has kept for this start: `LISTEN_FDS` and its like (sd_listen_fds(3)).

use super::Role;
use crate::uffd::place;
use anyhow::{Context, Result, ensure};
use std::os::fd::RawFd;

/// The first of them; the others follow without a gap.
const FIRST: RawFd = 3;

/// Their numbers now, and their names.
pub(super) fn names() -> Result<Vec<(RawFd, String)>> {
    let text = |variable| std::env::var(variable).unwrap_or_default();
    if text("LISTEN_PID") != std::process::id().to_string() {
        return Ok(Vec::new());
    }
    parse(&text("LISTEN_FDS"), &text("LISTEN_FDNAMES"))
}

pub(super) fn parse(count: &str, names: &str) -> Result<Vec<(RawFd, String)>> {
    let count: usize = count.parse().context("LISTEN_FDS is not a number")?;
    let names: Vec<_> = names.split(':').filter(|name| !name.is_empty()).collect();
    ensure!(names.len() == count, "LISTEN_FDS is {count}, but LISTEN_FDNAMES has {} names", names.len());
    Ok((FIRST..).zip(names.into_iter().map(str::to_owned)).collect())
}

/// Moves those of ours to the numbers in their names. The header's number, if it is among them; then there is something to go on with.
pub(super) fn put_in_place(listed: &[(RawFd, String)]) -> Result<Option<RawFd>> {
    let ours: Vec<_> = listed.iter().filter_map(|(at, name)| Some((*at, number(name)?))).collect();
    place(&ours).context("moving what systemd has kept to where it belongs")?;
    let is_header = |name: &str| name.ends_with(&format!(".{}", Role::Header));
    Ok(listed.iter().filter(|(_, name)| is_header(name)).find_map(|(_, name)| number(name)))
}

/// The number in a name of ours.
pub(super) fn number(name: &str) -> Option<RawFd> {
    let (number, _) = name.strip_prefix("fd")?.split_once('.')?;
    number.parse().ok().filter(|number| *number > 2)
}
