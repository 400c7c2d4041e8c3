//! Numbers and tables as people read them.

use std::fmt::Write;

/// `1.5 MB`: decimal units, as disks and networks count.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1000.0;
    let mut unit = 0;
    // 999.95 would be shown as 1000.0.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `134,766`
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// How many times smaller `small` is than `large`.
pub(crate) fn ratio(large: u64, small: u64) -> f64 {
    if small == 0 { 0.0 } else { large as f64 / small as f64 }
}

/// Columns, each as wide as it needs; `right` says which are aligned to the right.
pub(crate) fn table(rows: &[Vec<String>], right: &[bool]) -> String {
    let width = |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..right.len()).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for ((cell, width), right) in row.iter().zip(&widths).zip(right) {
            let written = if *right { write!(line, "{cell:>width$}  ") } else { write!(line, "{cell:<width$}  ") };
            debug_assert!(written.is_ok(), "a string takes everything");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let shown = [0, 999, 1000, 1500, 999_949, 999_950, 552_000_000, u64::MAX].map(bytes);
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "1.5 kB", "999.9 kB", "1.0 MB", "552.0 MB", "18446.7 PB"]);
        assert_eq!(
            [0, 7, 999, 1000, 134_766, 1_000_000].map(count),
            ["0", "7", "999", "1,000", "134,766", "1,000,000"]
        );
        assert_eq!((ratio(10, 4), ratio(10, 0)), (2.5, 0.0));
    }

    #[test]
    fn columns() {
        let rows = [vec!["pid".into(), "name".into()], vec!["7".into(), "redis-server".into()]];
        assert_eq!(table(&rows, &[true, false]), "pid  name\n  7  redis-server\n");
    }
}
