//! `openapi.yaml`, as far as tests look into it.

use serde_json::Value;

pub fn document() -> Value {
    serde_norway::from_str(pageferry_server::OPENAPI).expect("openapi.yaml is YAML")
}

/// Follows a `$ref`, if that is what it is.
pub fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => {
            let pointer = reference.strip_prefix('#').expect("references stay in the document");
            resolve(document, document.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere")))
        }
        None => value,
    }
}
