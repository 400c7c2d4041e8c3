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

/// Longest name of a store that others share packs of.
const MAX_SIBLING: usize = 128;
/// Words that servers of a store give a meaning of their own, where a store beside it would be called so.
const TAKEN: [&str; 7] = ["checkpoints", "index", "packs", "pid", "slim", "store", "working-sets"];

/// Whether a store may be called so when stores beside it share its packs: letters, digits, `.`, `_`, `-`, not beginning with a dot, so
/// that it is the same in a path, in an address and in the key of an object store.
pub(crate) fn is_sibling(name: &str) -> bool {
    (1..=MAX_SIBLING).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !name.starts_with('.')
        && !TAKEN.contains(&name)
}

/// The name of a pack of the store `sibling`, as a store beside it names it.
pub(crate) fn in_sibling(sibling: &str, pack: &str) -> String {
    format!("../{sibling}/{pack}")
}

/// The sibling, and the object's name there, if this names a pack of a store beside this one.
pub(crate) fn shared(name: &str) -> Option<(&str, &str)> {
    let (sibling, object) = name.strip_prefix("../")?.split_once('/')?;
    let digest = object.strip_prefix("packs/")?.strip_suffix(".pack")?;
    (is_sibling(sibling) && is_digest(digest)).then_some((sibling, object))
}

/// Whether this is a digest as names have it: 64 lower-case hex digits.
pub(crate) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a store may name an object so: below itself, or a pack of a store beside it.
pub(crate) fn is_object(name: &str) -> bool {
    is_safe(name) || shared(name).is_some()
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
    fn packs_of_siblings() {
        let pack = format!("packs/{}.pack", "0a".repeat(32));
        assert_eq!(shared(&in_sibling("app-1.2_x", &pack)), Some(("app-1.2_x", pack.as_str())));
        assert!(is_object(&in_sibling("app", &pack)) && is_object(&pack) && !is_safe(&in_sibling("app", &pack)));
        let long = "x".repeat(129);
        for sibling in ["", ".", "..", ".app", "a b", "a%2fb", "a/b", "store", "pid", "packs", "checkpoints", &long] {
            assert_eq!(shared(&in_sibling(sibling, &pack)), None, "{sibling}");
        }
        for object in ["packs/x.pack", "index/0a.idx", "packs/../packs/x.pack", "checkpoint.json", ""] {
            assert!(!is_object(&in_sibling("app", object)), "{object}");
        }
        assert!(!is_object(&format!("../../app/{pack}")) && !is_object(&format!("a/../app/{pack}")));
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
