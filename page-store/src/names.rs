//! Names that may be joined to a folder or an address without leaving it.

/// Longest name that is accepted, in bytes.
pub(crate) const MAX_NAME: usize = 4096;

/// Whether `name` is relative, '/'-separated, and stays below where it begins: no empty, `.` or `..` component, no control
/// character, no backslash.
pub(crate) fn is_safe(name: &str) -> bool {
    name.len() <= MAX_NAME
        && !name.chars().any(|c| c.is_control() || c == '\\')
        && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Whether a symbolic link called `name` may point to `target`: relative, and inside the same tree.
pub(crate) fn is_safe_link(name: &str, target: &str) -> bool {
    if target.is_empty() || target.len() > MAX_NAME || target.starts_with('/') || target.chars().any(char::is_control) {
        return false;
    }
    // Folders between the root of the tree and the link. A target may climb that many, and must not climb after descending:
    // a link to a link could then lead out.
    let mut depth = name.split('/').count() - 1;
    let mut descended = false;
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if descended || depth == 0 => return false,
            ".." => depth -= 1,
            _ => descended = true,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "packs/00.pack", "a b/c", ".pageferry/checkpoint-id", "a..b/..c"] {
            assert!(is_safe(good), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a\0b", "a\nb", "a\\b", &"x".repeat(5000)] {
            assert!(!is_safe(bad), "{bad}");
        }
    }

    #[test]
    fn links() {
        for (name, target) in [("parent", ".pageferry/tripwire"), ("a/b", "../c"), ("a", "./b"), ("a/b/c", "../../d")] {
            assert!(is_safe_link(name, target), "{name} -> {target}");
        }
        for (name, target) in
            [("a", ".."), ("a", "../b"), ("a/b", "../../c"), ("a", "/etc"), ("a", ""), ("a/b", "c/../../../d")]
        {
            assert!(!is_safe_link(name, target), "{name} -> {target}");
        }
    }
}
