//! The server against `openapi.yaml`: every route is documented, everything documented exists, and answers are as documented.

mod common;

use common::{openapi::*, *};
use pageferry_server::{
    Doors, ROUTES,
    limits::{Limits, MAX_PAGES, MAX_RANGES},
};
use serde_json::Value;
use std::collections::BTreeSet;

const METHODS: [&str; 8] = ["get", "head", "post", "put", "patch", "delete", "options", "trace"];

#[test]
fn router_and_document_name_the_same_routes() {
    let document = document();
    let documented: BTreeSet<_> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| METHODS.iter().filter(|m| item.get(**m).is_some()).map(move |m| (path.clone(), *m)))
        .collect();
    let routed: BTreeSet<_> = ROUTES
        .iter()
        .flat_map(|route| {
            METHODS.iter().filter(|m| route.methods.contains(&&*m.to_uppercase())).map(|m| (route.path.to_owned(), *m))
        })
        .collect();
    assert_eq!(documented, routed);
}

#[test]
fn limits_are_as_documented() {
    let document = document();
    let body = &document["paths"]["/pid/{pid}/pages"]["post"]["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(body["maxItems"], MAX_RANGES);
    let example = &document["components"]["responses"]["TooLarge"]["content"]["application/problem+json"]["example"];
    assert_eq!(example["limit_pages"], MAX_PAGES);
    let text = document["info"]["description"].as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    let limits = Limits::default();
    for words in [
        format!("within {} seconds of its first byte", limits.header.as_secs()),
        format!("a body within {}", limits.stall.as_secs()),
        format!("closed after {} seconds", limits.idle.as_secs()),
        format!("cut off after {} seconds", limits.stall.as_secs()),
        format!("begin within {} seconds", limits.answer.as_secs()),
    ] {
        assert!(text.contains(&words), "{words}: {text}");
    }
    // Every reason to come again is explained where the status is.
    let unavailable = document["components"]["responses"]["Unavailable"]["description"].as_str().unwrap();
    let fixture = Fixture::new();
    let problems = Running::start(&fixture.store()).get("/problems").text();
    for kind in problems.lines().filter_map(|line| line.strip_prefix('#')?.strip_suffix("  503")) {
        assert!(unavailable.contains(&format!("`{kind}`")), "{kind}");
    }
}

/// The table is what the router was made from; this is what the router does.
#[test]
fn the_router_answers_what_the_table_says() {
    let fixture = Fixture::new();
    let server = Running::start(&fixture.store());
    for route in ROUTES {
        let path = concrete(route.path);
        for method in METHODS.map(str::to_uppercase) {
            let reply = server.send(&method, &path, &[]);
            assert_eq!(reply.status != 405, route.methods.contains(&&*method), "{method} {path}: {}", reply.status);
            assert_ne!(reply.status, 404, "{method} {path}");
        }
    }
}

/// What the fixture's store is called.
const NAME: &str = "store";

fn concrete(path: &str) -> String {
    let range = format!("{HEAP:x}-{:x}", HEAP + P);
    path.replace("{pid}", "10")
        .replace("{address}", &format!("{HEAP:x}"))
        .replace("{range}", &range)
        .replace("{object}", "checkpoint.json")
        .replace("{checkpoint}", NAME)
        .replace("{path}", "pid")
        .replace("{set}", "main")
}

const SET: &str = "/working-sets/{set}";
const SET_OF: &str = "/checkpoints/{checkpoint}/working-sets/{set}";

/// One request for every status that can be had from outside, with what the document says about it: the status, the headers that have to
/// be there, the media type.
#[test]
fn answers_are_as_documented() {
    let document = document();
    let fixture = Fixture::new();
    let server = Running::start(&fixture.store());
    let page = "/pid/{pid}/page/{address}";
    let pages = "/pid/{pid}/pages/{range}";
    let object = "/store/{object}";
    let mem = "/pid/{pid}/mem";
    let under = "/checkpoints/{checkpoint}/{path}";
    let none_match = "If-None-Match: *";
    let first = format!("Range: bytes={HEAP}-{HEAP}");
    let two = format!("Range: bytes={HEAP}-{HEAP},{0}-{0}", HEAP + 5);
    let unmapped = "Range: bytes=4096-4096";
    let requests: &[(&str, &str, &[&str], u16)] = &[
        (page, "", &[], 200),
        (page, "", &["Accept: text/plain"], 200),
        (page, "", &["Accept: application/json"], 200),
        (page, "", &[none_match], 304),
        ("/checkpoints", "", &[none_match], 304),
        ("/pid", "", &[none_match], 304),
        ("/pid/{pid}", "", &[none_match], 304),
        ("/pid/{pid}/maps", "", &[none_match], 304),
        ("/pid/{pid}/pagemap", "", &[none_match], 304),
        (page, "?format=no", &[], 400),
        (page, "/pid/10/page/1000", &[], 404),
        (pages, "", &[], 200),
        (pages, "", &["Accept-Encoding: zstd"], 200),
        (pages, "", &["Accept: text/plain"], 200),
        (pages, "", &[none_match], 304),
        (pages, "?holes=no", &[], 400),
        (pages, "/pid/11/pages/1000-2000", &[], 404),
        (pages, "/pid/10/pages/1000-2000", &[], 409),
        (pages, "/pid/10/pages/0-100000000000000", &[], 413),
        (mem, "", &["Range: pages=0-1"], 413),
        (mem, "", &[&first], 206),
        (mem, "", &[&two], 206),
        (mem, "", &[none_match], 304),
        (mem, "?holes=no", &[], 400),
        (mem, "/pid/11/mem", &[], 404),
        (mem, "", &[unmapped], 409),
        (mem, "", &["If-Match: \"x\""], 412),
        (mem, "", &["Range: bytes=-0"], 416),
        (under, "", &[], 200),
        (under, &format!("/checkpoints/{NAME}/pid/10/maps"), &["Accept: text/plain"], 200),
        (under, &format!("/checkpoints/{NAME}/store/checkpoint.json"), &["Range: bytes=0-1"], 206),
        (under, &format!("/checkpoints/{NAME}/store/checkpoint.json"), &["Range: bytes=0-1,5-6"], 206),
        (under, &format!("/checkpoints/{NAME}/store/checkpoint.json"), &[none_match], 304),
        (under, &format!("/checkpoints/{NAME}/store/checkpoint.json"), &["If-Match: \"x\""], 412),
        (under, &format!("/checkpoints/{NAME}/store/checkpoint.json"), &["Range: bytes=-0"], 416),
        (under, &format!("/checkpoints/{NAME}/pid/x"), &[], 400),
        (under, &format!("/checkpoints/{NAME}/pid/11"), &[], 404),
        (under, &format!("/checkpoints/{NAME}/pid/10/pages"), &[], 405),
        (under, &format!("/checkpoints/{NAME}/pid/10/pages/1000-2000"), &[], 409),
        (under, &format!("/checkpoints/{NAME}/pid/10/pages/0-100000000000000"), &[], 413),
        (under, "/checkpoints/another/pid", &[], 404),
        (object, "", &[], 200),
        (object, "", &["Range: bytes=0-1"], 206),
        (object, "", &["Range: bytes=0-1,5-6"], 206),
        (object, "", &[none_match], 304),
        (object, "/store/%ff", &[], 400),
        (object, "/store/packs/0.pack", &[], 404),
        (object, "", &["If-Match: \"x\""], 412),
        (object, "", &["Range: bytes=-0"], 416),
        ("/pid/{pid}", "/pid/x", &[], 400),
        ("/pid/{pid}", "/pid/11", &[], 404),
        ("/pid/{pid}/maps", "", &["Accept: text/plain"], 200),
        ("/pid/{pid}/maps", "/pid/x/maps", &[], 400),
        ("/pid/{pid}/maps", "/pid/30/maps", &[], 404),
        ("/pid/{pid}/pagemap", "?range=x", &[], 400),
        ("/pid/{pid}/pagemap", "/pid/30/pagemap", &[], 404),
    ];
    let mut seen = BTreeSet::new();
    let mut check = |route: &str, path: &str, headers: &[&str], status: u16| {
        for method in ["GET", "HEAD"] {
            // HEAD knows no ranges.
            let status = if method == "HEAD" && headers.iter().any(|h| h.starts_with("Range")) { 200 } else { status };
            let reply = server.send(method, path, headers);
            assert_eq!(reply.status, status, "{method} {path} {headers:?}");
            compare(&document, route, &method.to_lowercase(), &reply);
            seen.insert((route.to_owned(), method.to_lowercase(), status.to_string()));
        }
    };
    // All of an address space is too much.
    for route in ROUTES.iter().filter(|r| r.methods.contains(&"GET") && r.path != mem) {
        check(route.path, &concrete(route.path), &[], 200);
    }
    for (route, path, headers, status) in requests {
        let path = if path.starts_with('/') { (*path).to_owned() } else { concrete(route) + path };
        check(route, &path, headers, *status);
    }

    let (bulk, below) = ("/pid/{pid}/pages", "/checkpoints/{checkpoint}/pid/{pid}/pages");
    for (path, media_type, body, status) in [
        ("/pid/10/pages", "application/json", "[\"1000-2000\"]".to_owned(), 200),
        ("/pid/10/pages", "application/json", "[\"1000-2001\"]".to_owned(), 400),
        ("/pid/11/pages", "application/json", "[\"1000-2000\"]".to_owned(), 404),
        ("/pid/10/pages", "application/json", "[\"0-100000000000000\"]".to_owned(), 413),
        ("/pid/10/pages", "text/plain", "[\"1000-2000\"]".to_owned(), 415),
    ] {
        for (route, path) in [(bulk, path.to_owned()), (below, format!("/checkpoints/{NAME}{path}"))] {
            let headers = [&*format!("Content-Type: {media_type}")];
            let reply = request(server.address, "POST", &path, &headers, body.as_bytes());
            assert_eq!(reply.status, status, "POST {body}");
            compare(&document, route, "post", &reply);
            seen.insert((route.to_owned(), "post".to_owned(), status.to_string()));
        }
    }

    // A folder of checkpoints has no short paths.
    let doors = Doors { allow_working_sets: true, ..Doors::default() };
    let folder = Running::behind(fixture.dir.path(), Limits::default(), doors);
    for method in ["GET", "HEAD"] {
        let reply = folder.send(method, "/pid", &[]);
        assert_eq!(reply.status, 404);
        compare(&document, "/pid", &method.to_lowercase(), &reply);
        seen.insert(("/pid".to_owned(), method.to_lowercase(), "404".to_owned()));
    }

    let id = folder.get("/checkpoints/store/pid").json()["checkpoint_id"].as_str().unwrap().to_owned();
    let trace =
        format!("{{\"format\": \"pageferry-trace\", \"version\": 1, \"checkpoint_id\": \"{id}\", \"frames\": [0]}}");
    let doors = Doors { allow_working_sets: true, ..Doors::default() };
    let [one, raw] =
        ["store", "dump"].map(|name| Running::behind(&fixture.dir.path().join(name), Limits::default(), doors.clone()));
    for (route, server, path, body, status) in [
        (SET_OF, &folder, "/checkpoints/store/working-sets/main", trace.clone(), 201),
        (SET_OF, &folder, "/checkpoints/store/working-sets/a%20b", trace.clone(), 400),
        (SET_OF, &folder, "/checkpoints/none/working-sets/main", trace.clone(), 404),
        (SET_OF, &folder, "/checkpoints/dump/working-sets/main", trace.clone(), 409),
        (SET_OF, &folder, "/checkpoints/store/working-sets/main", String::new(), 413),
        (SET_OF, &folder, "/checkpoints/store/working-sets/main", trace.replace("[0]", "[999999]"), 422),
        (SET, &one, "/working-sets/main", trace.clone(), 201),
        (SET, &one, "/working-sets/a%20b", trace.clone(), 400),
        (SET, &folder, "/working-sets/main", trace.clone(), 404),
        (SET, &raw, "/working-sets/main", trace.clone(), 409),
        (SET, &one, "/working-sets/main", String::new(), 413),
        (SET, &one, "/working-sets/main", trace.replace("[0]", "[999999]"), 422),
    ] {
        // It is refused before it is sent.
        let headers: &[&str] = if body.is_empty() { &["Content-Length: 4194305"] } else { &[] };
        let reply = request(server.address, "PUT", path, headers, body.as_bytes());
        assert_eq!(reply.status, status, "PUT {path}: {}", reply.text());
        compare(&document, route, "put", &reply);
        seen.insert((route.to_owned(), "put".to_owned(), status.to_string()));
    }

    // What is documented and was not seen needs a broken store, a slow client, or a server that is not ready.
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in METHODS.iter().filter(|m| item.get(**m).is_some()) {
            for status in item[method]["responses"].as_object().unwrap().keys() {
                let hard = ["401", "403", "408", "500", "503"].contains(&&**status);
                let key = (path.clone(), (*method).to_owned(), status.clone());
                assert!(hard || seen.contains(&key), "documented but not tried: {key:?}");
            }
        }
    }
}

fn compare(document: &Value, route: &str, method: &str, reply: &Reply) {
    let what = format!("{method} {route} {}", reply.status);
    let response = &document["paths"][route][method]["responses"][reply.status.to_string()];
    assert!(response.is_object(), "{what} is not documented");
    let response = resolve(document, response);
    for (name, header) in response["headers"].as_object().into_iter().flatten() {
        let header = resolve(document, header);
        match reply.header(name) {
            None => assert_ne!(header["required"], true, "{what}: {name} is missing"),
            Some(value) => {
                let schema = &header["schema"];
                if let Some(constant) = schema["const"].as_str() {
                    assert_eq!(value, constant, "{what}: {name}");
                }
                if let Some(known) = schema["enum"].as_array() {
                    assert!(known.iter().any(|k| k == value), "{what}: {name}: {value}");
                }
            }
        }
    }
    if method != "head" && reply.status != 304 {
        let media_type = reply.header("content-type").unwrap_or_default().split(';').next().unwrap();
        assert!(response["content"].get(media_type).is_some(), "{what}: {media_type} is not documented");
    }
}

#[test]
fn the_document_holds_together() {
    let document = document();
    let mut references = 0;
    walk(&document, &mut |value| {
        if value["$ref"].is_string() {
            resolve(&document, value);
            references += 1;
        }
    });
    assert!(references > 100);
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    // Every problem that the server knows has a name that the schema allows, and the page that explains them has it.
    let fixture = Fixture::new();
    let server = Running::start(&fixture.store());
    let page = server.get("/problems").text();
    for kind in ["unmapped", "page-in-file", "holes", "no-such-task", "too-large", "store-damaged"] {
        assert!(page.contains(&format!("#{kind} ")), "{kind}");
        assert!(pageferry_server::OPENAPI.contains(kind) || kind == "store-damaged", "{kind}");
    }
}

fn walk(value: &Value, visit: &mut impl FnMut(&Value)) {
    visit(value);
    match value {
        Value::Object(members) => members.values().for_each(|v| walk(v, visit)),
        Value::Array(members) => members.iter().for_each(|v| walk(v, visit)),
        _ => {}
    }
}
