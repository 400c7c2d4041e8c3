//! Links files: whatever is in one, it is links or an error, no link is in the error, and what is written is read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use page_store::Links;
use std::path::Path;

/// In what is parsed, it stands in every query.
const SECRET: &str = "X-Secret";

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    // Half of them are whole but for one thing.
    let whole = format!(
        r#"{{"pageferry_links": 1, "store": "s3://b/a", "expires": "2026-01-31T18:00:00Z",
           "objects": {{"checkpoint.json": "https://h/a?{SECRET}", {}}}}}"#,
        text
    );
    for json in [text.as_bytes(), whole.as_bytes()] {
        match Links::parse(Path::new("f"), json) {
            Ok(links) => {
                let written = links.to_json().expect("what was parsed can be written");
                assert!(Links::parse(Path::new("f"), &written).expect("and read again") == links);
                assert!(!format!("{links:?}").contains(SECRET) || text.contains(SECRET));
            }
            Err(error) => assert!(!error.to_string().contains(SECRET) || text.contains(SECRET)),
        }
    }
});
