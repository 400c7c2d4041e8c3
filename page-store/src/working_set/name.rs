//! Names of working sets.

/// Characters of a name.
const LONGEST: usize = 64;

/// An error that says what a name is, unless this is one: it is part of an address.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=LONGEST).contains(&name.len()) && name.bytes().all(is_good) {
        return Ok(());
    }
    Err(format!("no name for a working set: use 1 to {LONGEST} letters, digits, dots, dashes and underscores"))
}
