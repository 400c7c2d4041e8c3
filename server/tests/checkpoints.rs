//! Several checkpoints under one server.

mod common;

use common::{Fixture, HEAP, P, Running, eventually, expected_range};
use criu_images::{
    Checkpoint, ImageDir,
    testing::{Dump, Pages, Task},
};
use page_store::write::{LocalSink, Options, split};
use std::{fs, path::Path, sync::Arc};

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
        assert_eq!(server.send("HEAD", &path("pid"), &[]).status, 200);
    }
    server.get("/checkpoints/three/pid").problem(404, "no-such-checkpoint");
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
