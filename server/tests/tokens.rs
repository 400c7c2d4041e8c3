//! Who gets an answer from a server with tokens, and what the others are told.

mod common;

use common::{client, program::*, *};
use std::{fs, io::Read, path::Path, process::Command};

const READER: &str = "reader-0123456789abcdef";
const SCRAPER: &str = "scraper-0123456789abcdef";
const NEXT: &str = "next-0123456789abcdef0";

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

fn status(program: &Program, path: &str, headers: &[&str]) -> u16 {
    client::request(program.address, "GET", path, headers, b"").status
}

/// In place of the old file at once, as orchestrators do it.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

#[test]
fn scopes() {
    let fixture = Fixture::new();
    let file = fixture.dir.path().join("tokens");
    fs::write(&file, format!("agents read {READER}\nprometheus metrics {SCRAPER}\n")).unwrap();
    let log = fixture.dir.path().join("access.log");
    let (file, log_name) = (file.to_str().unwrap(), log.to_str().unwrap());
    let program = Program::start(&fixture.store(), &["--token-file", file, "--access-log", log_name, "-v"]);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(status(&program, path, &[]), 200, "{path}");
    }
    let (reader, scraper) = (bearer(READER), bearer(SCRAPER));
    for path in ["/", "/pid", "/store/checkpoint.json", "/checkpoint.json", "/openapi.yaml", "/nothing", "/pid/10/maps"]
    {
        let reply = client::request(program.address, "GET", path, &[], b"");
        reply.problem(401, "unauthorized");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"pageferry\""));
        let reply = client::request(program.address, "GET", path, &[&scraper, "X-Request-Id: abc"], b"");
        let problem = reply.problem(403, "wrong-scope");
        assert_eq!((problem["scope"].as_str(), problem["request_id"].as_str()), (Some("read"), Some("abc")));
        assert!(reply.header("www-authenticate").unwrap().contains("insufficient_scope"));
        assert_eq!(status(&program, path, &[&reader]), if path == "/nothing" { 404 } else { 200 }, "{path}");
    }
    assert_eq!(status(&program, "/metrics", &[&reader]), 403);
    assert_eq!(status(&program, "/metrics", &[&scraper]), 200);
    for wrong in [
        bearer(&READER[1..]),
        bearer(&format!("{READER}x")),
        bearer(""),
        format!("Authorization: Basic {READER}"),
        "Authorization: B".to_owned(),
        format!("X-Token: {READER}"),
        format!("{reader}\r\n{reader}"),
    ] {
        assert_eq!(status(&program, "/pid", &[&wrong]), 401, "{wrong}");
    }
    assert_eq!(status(&program, "/pid", &[&format!("authorization: bearer {READER}")]), 200);
    assert_eq!(status(&program, &format!("/pid?token={READER}"), &[]), 401);
    // A cache on the way must not answer for us.
    let pack = client::request(program.address, "GET", "/store/checkpoint.json", &[&reader], b"").json();
    let pack = format!("/store/{}", pack["packs"][0]["object"].as_str().unwrap());
    let reply = client::request(program.address, "GET", &pack, &[&reader], b"");
    assert_eq!(reply.header("cache-control"), Some("private, max-age=31536000, immutable"));

    program.signal("TERM");
    let mut program = program;
    program.child.wait().unwrap();
    let mut said = String::new();
    program.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let noted = fs::read_to_string(&log).unwrap();
    assert!(noted.contains(" abc - ") && noted.contains(" agents ") && noted.contains(" prometheus "), "{noted}");
    for text in [said, noted] {
        assert!(!text.contains("0123456789abcdef"), "a token in a log: {text}");
    }
}

#[test]
fn tokens_change_while_it_runs() {
    let fixture = Fixture::new();
    let path = fixture.dir.path().join("tokens");
    fs::write(&path, format!("agents read {READER}\n")).unwrap();
    let program = Program::start(&fixture.store(), &["--token-file", path.to_str().unwrap()]);
    let (old, new) = (bearer(READER), bearer(NEXT));
    assert_eq!((status(&program, "/pid", &[&old]), status(&program, "/pid", &[&new])), (200, 401));
    // Both for a while, then the new one alone; the second time without waiting for a look.
    replace(&path, &format!("agents read {READER}\nagents read {NEXT}\n"));
    eventually(|| status(&program, "/pid", &[&new]) == 200);
    assert_eq!(status(&program, "/pid", &[&old]), 200);
    replace(&path, &format!("agents read {NEXT}\n"));
    program.signal("HUP");
    eventually(|| status(&program, "/pid", &[&old]) == 401);
    assert_eq!(status(&program, "/pid", &[&new]), 200);
    // A mistake changes nothing, and is told.
    replace(&path, &format!("agents read {NEXT}\nagents everything {READER}\n"));
    program.signal("HUP");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(status(&program, "/pid", &[&new]), 200);
    fs::remove_file(&path).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(status(&program, "/pid", &[&new]), 200);
    let mut program = program;
    program.signal("TERM");
    program.child.wait().unwrap();
    let mut said = String::new();
    program.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("tokens:2: ") && said.contains("that were known stay"), "{said}");
    assert!(!said.contains("0123456789abcdef"), "{said}");
}

#[test]
fn what_is_refused_at_start() {
    let fixture = Fixture::new();
    let file = fixture.dir.path().join("tokens");
    fs::write(&file, "# nothing\nagents read short\n").unwrap();
    let (store, file) = (fixture.store(), file.to_str().unwrap());
    let fails = |arguments: &[&str], words: &[&str]| {
        let output = Command::new(PROGRAM).arg(&store).args(arguments).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && words.iter().all(|word| error.contains(word)), "{arguments:?}: {error}");
    };
    fails(&["--listen", "127.0.0.1:0", "--token-file", file], &["tokens:2: ", "openssl rand"]);
    fails(&["--listen", "127.0.0.1:0", "--token-file", "/nowhere/tokens"], &["/nowhere/tokens"]);
    let hint = ["--token-file", "--tls-client-ca", "--insecure-public"];
    for public in ["0.0.0.0:0", "[::]:0"] {
        fails(&["--listen", public], &hint);
        fails(&["--listen", "127.0.0.1:0", "--listen", public], &hint);
    }
    let open = Program::start(&store, &["--listen", "0.0.0.0:0", "--insecure-public"]);
    let address = ([127, 0, 0, 1], open.address.port()).into();
    assert_eq!(client::request(address, "GET", "/pid", &[], b"").status, 200);
}

#[test]
fn requests_have_names() {
    let fixture = Fixture::new();
    let server = Running::start(&fixture.store());
    let own = server.get("/pid");
    let id = own.header("x-request-id").unwrap().to_owned();
    assert_ne!(server.get("/pid").header("x-request-id"), Some(&*id));
    assert_eq!(server.send("GET", "/pid", &["X-Request-Id: trace-1"]).header("x-request-id"), Some("trace-1"));
    assert_ne!(server.send("GET", "/pid", &["X-Request-Id: a b"]).header("x-request-id"), Some("a b"));
    let problem = server.send("GET", "/pid/x", &["X-Request-Id: trace-2"]).problem(400, "bad-pid");
    assert_eq!(problem["request_id"], "trace-2");
}

#[test]
fn the_access_log_is_opened_again() {
    let fixture = Fixture::new();
    let log = fixture.dir.path().join("access.log");
    let program = Program::start(&fixture.store(), &["--access-log", log.to_str().unwrap(), "--log-format", "json"]);
    let lines = || fs::read_to_string(&log).unwrap_or_default();
    status(&program, "/pid?secret=1", &["User-Agent: a\"b", "X-Request-Id: one"]);
    eventually(|| lines().contains("\"one\""));
    let line: serde_json::Value = serde_json::from_str(lines().lines().next().unwrap()).unwrap();
    assert_eq!((line["path"].as_str(), line["status"].as_u64()), (Some("/pid"), Some(200)));
    assert_eq!((line["user_agent"].as_str(), line["whole"].as_bool()), (Some("a\"b"), Some(true)));
    assert!(
        line["bytes"].as_u64().unwrap() > 100 && line["peer"].as_str().unwrap().starts_with("127.0.0.1:"),
        "{line}"
    );
    fs::rename(&log, fixture.dir.path().join("access.log.1")).unwrap();
    program.signal("HUP");
    eventually(|| log.exists());
    status(&program, "/pid", &["X-Request-Id: two"]);
    eventually(|| lines().contains("\"two\"") && !lines().contains("\"one\""));
}
