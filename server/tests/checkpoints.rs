//! Several checkpoints under one server.

mod common;

use common::{Fixture, HEAP, P, Running, eventually, expected_range};
use criu_images::{
    Checkpoint, ImageDir,
    testing::{Dump, Pages, Task},
};
use page_store::write::{LocalSink, Options, split};
use pageferry_server::{Doors, limits::Limits};
use std::{fs, io::Write, path::Path, sync::Arc, time::Duration};

/// A store of one task with this pid.
fn store(at: &Path, pid: u32) {
    let dump = tempfile::tempdir().unwrap();
    let task = Task::new(pid).anonymous(HEAP, 16).pages(Pages::here(HEAP, 16));
    Dump::new().task(task).write(dump.path()).unwrap();
    let images = Checkpoint::open(Arc::new(ImageDir::open(dump.path()).unwrap())).unwrap();
    let _ = fs::remove_dir_all(at);
    split(&images, &LocalSink::create(at, false).unwrap(), &Options::default(), &()).unwrap();
}

fn names(server: &Running) -> Vec<String> {
    let json = server.get("/checkpoints").json();
    json["checkpoints"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_has_what_the_short_paths_have() {
    let folder = tempfile::tempdir().unwrap();
    store(&folder.path().join("one"), 11);
    store(&folder.path().join("two"), 12);
    fs::create_dir(folder.path().join("neither")).unwrap();
    let server = Running::start(folder.path());
    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(names(&server), ["one", "two"]);
    let rows = server.get("/checkpoints").json();
    assert_eq!(rows["checkpoints"][0]["tasks"][0]["pid"], 11, "{rows}");

    for (name, pid) in [("one", 11u32), ("two", 12)] {
        let path = |rest: &str| format!("/checkpoints/{name}/{rest}");
        assert_eq!(server.get(&path("pid")).json()["tasks"][0]["pid"], pid);
        let page = server.get(&path(&format!("pid/{pid}/page/{HEAP:x}")));
        assert_eq!((page.status, page.body.len()), (200, P as usize));
        assert_eq!(page.body, criu_images::testing::page(u64::from(pid), HEAP, 0));
        let part = server.send("GET", &path("store/checkpoint.json"), &["Range: bytes=0-9"]);
        assert_eq!((part.status, part.body.len()), (206, 10));
        assert_eq!(server.get(&path("checkpoint.json")).status, 200, "the address of a store");
        let posted = server.post(&path(&format!("pid/{pid}/pages")), &format!("[\"{HEAP:x}-{:x}\"]", HEAP + P));
        assert_eq!(posted.status, 200, "{}", posted.text());
        // What is wrong is told as it is by the short paths.
        server.get(&path("pid/99")).problem(404, "no-such-task");
        server.get(&path("nothing/here")).problem(404, "no-such-path");
        // What is about the server is not about a checkpoint.
        server.get(&path("metrics")).problem(404, "no-such-path");
        assert_eq!(server.send("HEAD", &path("pid"), &[]).status, 200);
    }
    server.get("/checkpoints/three/pid").problem(404, "no-such-checkpoint");
    server.get("/checkpoints/a%3fb/pid").problem(404, "no-such-checkpoint");
    server.get("/checkpoints/..%2fone/pid").problem(404, "no-such-checkpoint");
    server.get("/checkpoints/neither/pid").problem(404, "no-such-checkpoint");
    server.get("/pid").problem(404, "no-such-path");
    server.get("/checkpoint.json").problem(404, "no-such-path");
}

#[test]
fn they_come_change_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::start(folder.path());
    assert!(names(&server).is_empty());
    let one = folder.path().join("one");
    server.get("/checkpoints/one/pid").problem(404, "no-such-checkpoint");
    store(&one, 11);
    // Who asks for it need not wait until it is listed.
    assert_eq!(server.get("/checkpoints/one/pid").json()["tasks"][0]["pid"], 11);
    eventually(|| names(&server) == ["one"]);
    store(&one, 12);
    eventually(|| server.get("/checkpoints/one/pid").json()["tasks"][0]["pid"] == 12);
    fs::remove_dir_all(&one).unwrap();
    eventually(|| server.get("/checkpoints/one/pid").status == 404);
    eventually(|| names(&server).is_empty());
}

#[test]
fn one_that_is_broken_is_told_and_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    store(&folder.path().join("good"), 11);
    store(&folder.path().join("damaged"), 12);
    let slim = fs::read_dir(folder.path().join("damaged/slim")).unwrap().next().unwrap().unwrap().path();
    fs::write(slim, "nothing").unwrap();
    fs::create_dir(folder.path().join("broken")).unwrap();
    fs::write(folder.path().join("broken/checkpoint.json"), "{").unwrap();
    let server = Running::start(folder.path());
    let rows = server.get("/checkpoints").json();
    assert!(rows["checkpoints"][0]["problem"].is_string(), "{rows}");
    assert_eq!(names(&server), ["broken", "damaged", "good"]);
    for name in ["broken", "damaged"] {
        server.get(&format!("/checkpoints/{name}/pid")).problem(500, "store-damaged");
    }
    assert_eq!(server.get("/checkpoints/good/pid").status, 200);
}

/// A raw checkpoint of one task with this pid.
fn raw(at: &Path, pid: u32) {
    let task = Task::new(pid).anonymous(HEAP, 16).pages(Pages::here(HEAP, 16));
    let _ = fs::remove_dir_all(at);
    Dump::new().task(task).write(at).unwrap();
}

#[test]
fn raw_ones_come_change_and_go_too() {
    let folder = tempfile::tempdir().unwrap();
    store(&folder.path().join("split"), 11);
    raw(&folder.path().join("dump"), 12);
    // A slim dump is neither.
    let slim = folder.path().join("slim");
    raw(&slim, 16);
    fs::create_dir(slim.join(".pageferry")).unwrap();
    fs::write(slim.join(".pageferry/checkpoint-id"), "").unwrap();
    let server = Running::start(folder.path());
    assert_eq!(names(&server), ["dump", "split"]);
    server.get("/checkpoints/slim/pid").problem(404, "no-such-checkpoint");
    let row = server.get("/checkpoints").json()["checkpoints"][0].clone();
    assert_eq!((&row["raw"], &row["tasks"][0]["pid"], &row["dumped_bytes"]), (&true.into(), &12.into(), &65536.into()));
    assert_eq!(server.get("/checkpoints/dump/pid").json()["tasks"][0]["pid"], 12);
    raw(&folder.path().join("dump"), 13);
    eventually(|| server.get("/checkpoints/dump/pid").json()["tasks"][0]["pid"] == 13);
    // It is split in place of itself, and then goes.
    store(&folder.path().join("dump"), 14);
    eventually(|| server.get("/checkpoints/dump/pid").json()["tasks"][0]["pid"] == 14);
    raw(&folder.path().join("dump"), 15);
    eventually(|| server.get("/checkpoints/dump/pid").json()["tasks"][0]["pid"] == 15);
    fs::remove_dir_all(folder.path().join("dump")).unwrap();
    eventually(|| server.get("/checkpoints/dump/pid").status == 404);
    eventually(|| names(&server) == ["split"]);
}

#[test]
fn a_folder_of_raw_ones_only() {
    let folder = tempfile::tempdir().unwrap();
    raw(&folder.path().join("dump"), 12);
    fs::write(folder.path().join("notes.txt"), "").unwrap();
    let server = Running::start(folder.path());
    assert_eq!(server.get("/checkpoints/dump/pid").json()["tasks"][0]["pid"], 12);
}

#[test]
fn what_is_open_stays_whatever_others_ask_for_and_whatever_becomes_of_its_disk() {
    let folder = tempfile::tempdir().unwrap();
    let one = folder.path().join("one");
    store(&one, 11);
    let server = Running::start(folder.path());
    let is_served = || server.get("/checkpoints/one/pid").json()["tasks"][0]["pid"] == 11;
    assert!(is_served());
    // It could not be opened again.
    fs::remove_dir_all(one.join("slim")).unwrap();
    for n in 0..20 {
        server.get(&format!("/checkpoints/no-{n}/pid")).problem(404, "no-such-checkpoint");
    }
    assert!(is_served());
    fs::write(one.join("checkpoint.json"), "{").unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    assert!(is_served(), "a look that fails tells nothing");
}

#[test]
fn one_that_cannot_be_opened_takes_nobodys_place() {
    let folder = tempfile::tempdir().unwrap();
    // As many as are open at once.
    let pids: Vec<u32> = (100..108).collect();
    pids.iter().for_each(|pid| store(&folder.path().join(format!("c{pid}")), *pid));
    let broken = folder.path().join("broken");
    store(&broken, 11);
    fs::remove_dir_all(broken.join("slim")).unwrap();
    let server = Running::start(folder.path());
    let is_served = |pid: &u32| server.get(&format!("/checkpoints/c{pid}/pid")).status == 200;
    assert!(pids.iter().all(is_served));
    // None of them could be opened again.
    pids.iter().for_each(|pid| fs::remove_dir_all(folder.path().join(format!("c{pid}/slim"))).unwrap());
    for _ in 0..10 {
        assert_ne!(server.get("/checkpoints/broken/pid").status, 200);
    }
    assert!(pids.iter().all(is_served));
}

#[test]
fn a_folder_that_is_away_for_a_while_is_listed_as_it_was() {
    let outside = tempfile::tempdir().unwrap();
    let (folder, away) = (outside.path().join("stores"), outside.path().join("away"));
    fs::create_dir(&folder).unwrap();
    store(&folder.join("one"), 11);
    let server = Running::start(&folder);
    assert_eq!(names(&server), ["one"]);
    fs::rename(&folder, &away).unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(names(&server), ["one"]);
    fs::rename(&away, &folder).unwrap();
    store(&folder.join("two"), 12);
    eventually(|| names(&server) == ["one", "two"]);
}

#[test]
fn the_list_is_sent_when_it_changed() {
    let folder = tempfile::tempdir().unwrap();
    store(&folder.path().join("one"), 11);
    store(&folder.path().join(".hidden"), 12);
    store(&folder.path().join("100%"), 13);
    let server = Running::start(folder.path());
    let list = server.get("/checkpoints");
    assert_eq!(list.header("cache-control"), Some("no-cache"));
    let etag = format!("If-None-Match: {}", list.header("etag").unwrap());
    assert_eq!(server.send("GET", "/checkpoints", &[&etag]).status, 304);
    let rows = list.json()["checkpoints"].clone();
    assert_eq!(rows.as_array().unwrap().len(), 2, "{rows}");
    assert!(rows[0]["name"] == "100%" && rows[0]["problem"].as_str().unwrap().contains("name"), "{rows}");
    store(&folder.path().join("two"), 14);
    eventually(|| server.send("GET", "/checkpoints", &[&etag]).status == 200);
}

/// More than are open at once.
#[test]
fn many_take_turns() {
    let folder = tempfile::tempdir().unwrap();
    let pids: Vec<u32> = (100..130).collect();
    pids.iter().for_each(|pid| store(&folder.path().join(format!("c{pid}")), *pid));
    let server = Running::start(folder.path());
    assert_eq!(names(&server).len(), pids.len());
    for _ in 0..2 {
        for pid in &pids {
            let page = server.get(&format!("/checkpoints/c{pid}/pid/{pid}/page/{HEAP:x}"));
            assert_eq!(page.body, criu_images::testing::page(u64::from(*pid), HEAP, 0));
        }
    }
}

#[test]
fn a_single_one_has_a_name_too() {
    let fixture = Fixture::new();
    // The last part of its path that is not `store`, which is what addresses of servers end with.
    let server = Running::start(&fixture.dump());
    assert_eq!(names(&server), ["dump"]);
    let short = server.get(&format!("/pid/10/pages/{HEAP:x}-{:x}", HEAP + 4 * P));
    let long = server.get(&format!("/checkpoints/dump/pid/10/pages/{HEAP:x}-{:x}", HEAP + 4 * P));
    assert_eq!((&short.body, short.header("etag")), (&long.body, long.header("etag")));
    assert_eq!(long.body, expected_range(10, HEAP, 4));
    server.get("/checkpoints/other/pid").problem(404, "no-such-checkpoint");
}

fn put(server: &Running, path: &str, trace: &str) -> common::Reply {
    common::request(server.address, "PUT", path, &[], trace.as_bytes())
}

/// A recording of the first frame.
fn trace(id: &str) -> String {
    format!("{{\"format\": \"pageferry-trace\", \"version\": 1, \"checkpoint_id\": \"{id}\", \"frames\": [0]}}")
}

fn id(manifest: &common::Reply) -> String {
    manifest.json()["checkpoint_id"].as_str().unwrap().to_owned()
}

/// The names of the working sets that a `checkpoint.json` names, each of which is there below `at`.
fn sets(server: &Running, at: &str) -> Vec<String> {
    let sets = server.get(&format!("{at}/checkpoint.json")).json()["working_sets"].clone();
    let sets = sets.as_array().unwrap();
    for set in sets {
        let object = server.get(&format!("{at}/{}", set["object"].as_str().unwrap()));
        assert_eq!((object.status, object.body.len() as u64), (200, set["size"].as_u64().unwrap()));
    }
    let mut names: Vec<_> = sets.iter().map(|set| set["name"].as_str().unwrap().to_owned()).collect();
    names.sort_unstable();
    names
}

fn taking() -> Doors {
    Doors { allow_working_sets: true, ..Doors::default() }
}

#[test]
fn what_a_restore_recorded_is_there_for_the_next() {
    let folder = tempfile::tempdir().unwrap();
    store(&folder.path().join("one"), 11);
    let many = Running::hosting(folder.path(), Some("one"), Limits::default(), taking());
    let before = many.get("/checkpoints/one/store/checkpoint.json");
    let trace = trace(&id(&before));
    // Two at once: both are there in the end.
    std::thread::scope(|scope| {
        for path in ["/checkpoints/one/working-sets/first", "/working-sets/second"] {
            let (server, trace) = (&many, &trace);
            scope.spawn(move || {
                let added = put(server, path, trace);
                assert_eq!(added.status, 201, "{}", added.text());
                assert_eq!(added.json()["frames"], 1);
            });
        }
    });
    let after = many.get("/checkpoints/one/store/checkpoint.json");
    assert_ne!(before.header("etag"), after.header("etag"));
    assert_eq!(sets(&many, "/checkpoints/one/store"), ["first", "second"]);
    assert_eq!(sets(&many, "/store"), ["first", "second"]);
    // A server of the store alone takes them as well, and serves them from then on, by both of its addresses.
    let one = Running::behind(&folder.path().join("one"), Limits::default(), taking());
    std::thread::scope(|scope| {
        for path in ["/checkpoints/one/working-sets/third", "/working-sets/fourth"] {
            let (server, trace) = (&one, &trace);
            scope.spawn(move || assert_eq!(put(server, path, trace).status, 201));
        }
    });
    for at in ["/checkpoints/one/store", "/store", "/checkpoints/one", ""] {
        assert_eq!(sets(&one, at), ["first", "fourth", "second", "third"]);
    }
    put(&one, "/checkpoints/two/working-sets/third", &trace).problem(404, "no-such-checkpoint");
    for (body, words) in [
        ("{}", "not a trace"),
        (&trace.replace(&id(&before), "another"), "another checkpoint"),
        (&trace.replace("[0]", "[0, 0]"), "twice"),
    ] {
        for (server, path) in [(&many, "/checkpoints/one/working-sets/fifth"), (&one, "/working-sets/fifth")] {
            let refused = put(server, path, body).problem(422, "bad-trace");
            assert!(refused["detail"].as_str().unwrap().contains(words), "{refused}");
        }
    }
}

#[test]
fn who_goes_away_before_it_is_added_has_it_added_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    store(&folder.path().join("one"), 11);
    let server = Running::behind(&folder.path().join("one"), Limits::default(), taking());
    let trace = trace(&id(&server.get("/store/checkpoint.json")));
    let head = format!("PUT /working-sets/main HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{trace}", trace.len());
    // Who is gone before the request is read has asked for nothing: that may be so the first times.
    for patience in 0.. {
        let mut gone = std::net::TcpStream::connect(server.address).unwrap();
        gone.write_all(head.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(patience));
        drop(gone);
        std::thread::sleep(Duration::from_millis(100));
        if sets(&server, "/store") == ["main"] {
            break;
        }
        assert!(patience < 50, "it is never added");
    }
}

#[test]
fn working_sets_are_taken_only_where_that_was_said() {
    let folder = tempfile::tempdir().unwrap();
    store(&folder.path().join("one"), 11);
    raw(&folder.path().join("dump"), 12);
    let server = Running::start(folder.path());
    put(&server, "/checkpoints/one/working-sets/main", "{}").problem(409, "read-only");
    assert_eq!(server.send("GET", "/checkpoints/one/working-sets/main", &[]).status, 405);
    let one = Running::behind(&folder.path().join("dump"), Limits::default(), taking());
    put(&one, "/working-sets/main", "{}").problem(409, "read-only");
}

#[test]
fn a_folder_can_have_one_for_the_short_paths() {
    let folder = tempfile::tempdir().unwrap();
    store(&folder.path().join("one"), 11);
    let server = Running::hosting(folder.path(), Some("two"), Limits::default(), Doors::default());
    assert_eq!(server.get("/readyz").status, 200);
    // It may come later, change, and go.
    server.get("/pid").problem(404, "no-such-checkpoint");
    store(&folder.path().join("two"), 12);
    assert_eq!(server.get("/pid").json()["tasks"][0]["pid"], 12);
    for (short, long) in [
        ("/store/checkpoint.json".to_owned(), "/checkpoints/two/store/checkpoint.json".to_owned()),
        ("/checkpoint.json".to_owned(), "/checkpoints/two/checkpoint.json".to_owned()),
        (
            format!("/pid/12/pages/{HEAP:x}-{:x}", HEAP + P),
            format!("/checkpoints/two/pid/12/pages/{HEAP:x}-{:x}", HEAP + P),
        ),
        ("/pid".to_owned(), "/checkpoints/two/pid".to_owned()),
    ] {
        let (short, long) = (server.get(&short), server.get(&long));
        assert_eq!((short.status, &short.body), (200, &long.body));
    }
    assert_eq!(server.get("/checkpoints/one/pid").json()["tasks"][0]["pid"], 11);
    assert_eq!(names(&server), ["one", "two"]);
    let tag = server.get("/pid").header("etag").unwrap().to_owned();
    store(&folder.path().join("two"), 13);
    eventually(|| server.get("/pid").json()["tasks"][0]["pid"] == 13);
    assert_ne!(server.get("/pid").header("etag"), Some(&*tag));
    fs::remove_dir_all(folder.path().join("two")).unwrap();
    eventually(|| server.get("/pid").status == 404);
}

#[test]
fn one_that_takes_long_goes_on_being_opened_when_nobody_waits() {
    let folder = tempfile::tempdir().unwrap();
    let task = Task::new(11).anonymous(HEAP, 4096).pages(Pages::here(HEAP, 4096));
    Dump::new().task(task).write(&folder.path().join("dump")).unwrap();
    let limits = Limits { opening: Duration::ZERO, ..Limits::default() };
    let server = Running::hosting(folder.path(), Some("dump"), limits, Doors::default());
    let told = server.get("/checkpoints/dump/pid");
    assert_eq!(told.header("retry-after"), Some("1"));
    told.problem(503, "not-ready");
    eventually(|| server.get("/checkpoints/dump/pid").status == 200);
    assert_eq!(server.get("/pid").status, 200);
}

#[test]
fn what_is_wrong_is_told_to_all_who_wait() {
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("dump");
    let task = Task::new(11).anonymous(HEAP, 4096).pages(Pages::here(HEAP, 4096));
    Dump::new().task(task).write(&dump).unwrap();
    fs::write(dump.join("pages-1.img"), "short").unwrap();
    let server = Running::start(folder.path());
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| drop(server.get("/checkpoints/dump/pid").problem(500, "store-damaged")));
        }
    });
    Dump::new().task(Task::new(12).anonymous(HEAP, 16).pages(Pages::here(HEAP, 16))).write(&dump).unwrap();
    assert_eq!(server.get("/checkpoints/dump/pid").json()["tasks"][0]["pid"], 12);
}
