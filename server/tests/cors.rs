//! Pages of other origins: only those that were named, and only when some were.

mod common;

use common::{Fixture, Running};
use pageferry_server::{Doors, Origin, Tokens, limits::Limits};
use std::{fs, sync::Arc};

const PAGE: &str = "Origin: https://debug.example.com";
const STRANGER: &str = "Origin: https://elsewhere.example.com";

fn doors() -> Doors {
    Doors { cors: vec![Origin::parse("https://debug.example.com").unwrap()], ..Doors::default() }
}

#[test]
fn nobody_is_allowed_unless_named() {
    let fixture = Fixture::new();
    let server = Running::start(&fixture.dump());
    assert_eq!(server.send("GET", "/pid", &[PAGE]).header("access-control-allow-origin"), None);
    assert_eq!(server.send("OPTIONS", "/pid", &[PAGE, "Access-Control-Request-Method: GET"]).status, 405);
}

#[test]
fn a_page_that_was_named_may_read_and_what() {
    let fixture = Fixture::new();
    let server = Running::behind(&fixture.dump(), Limits::default(), doors());
    for path in ["/pid", "/store/checkpoint.json", "/pid/99", "/nothing"] {
        let answer = server.send("GET", path, &[PAGE]);
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://debug.example.com"), "{path}");
        let exposed = answer.header("access-control-expose-headers").unwrap();
        assert!(exposed.contains("etag") && exposed.contains("x-page-source"), "{path}: {exposed}");
        let vary = answer.header("vary").unwrap_or_default().to_lowercase();
        assert!(vary.contains("origin"), "a cache must not hand it to others: {path}: {vary}");
        assert_eq!(server.send("GET", path, &[STRANGER]).header("access-control-allow-origin"), None);
        let vary = server.send("GET", path, &[]).header("vary").unwrap_or_default().to_lowercase();
        assert!(vary.contains("origin"), "{path}: {vary}");
    }
}

/// A browser asks without the token whether it may send one.
#[test]
fn asking_first_needs_no_token() {
    let fixture = Fixture::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    fs::write(&file, "debug read 0123456789abcdef0123456789abcdef\n").unwrap();
    let tokens = Some(Arc::new(Tokens::read(&file).unwrap()));
    let server = Running::behind(&fixture.dump(), Limits::default(), Doors { tokens, ..doors() });
    let ask = ["Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization,range"];
    let allowed = server.send("OPTIONS", "/pid/10/mem", &[&[PAGE], &ask[..]].concat());
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://debug.example.com"));
    let headers = allowed.header("access-control-allow-headers").unwrap();
    assert!(headers.contains("authorization") && headers.contains("range"), "{headers}");
    assert_eq!(allowed.header("access-control-max-age"), Some("86400"));
    let refused = server.send("OPTIONS", "/pid/10/mem", &[&[STRANGER], &ask[..]].concat());
    assert_eq!(refused.header("access-control-allow-origin"), None);
    // The page may read why it was refused, and what it asked for with the token.
    let without = server.send("GET", "/pid", &[PAGE]);
    assert_eq!((without.status, without.header("access-control-allow-origin").is_some()), (401, true));
    let token = "Authorization: Bearer 0123456789abcdef0123456789abcdef";
    assert_eq!(server.send("GET", "/pid", &[PAGE, token]).status, 200);
}
