//! The command line: what is refused, what is printed, exit codes.

mod common;

use common::*;
use std::fs;

#[test]
fn every_command_shows_an_example() {
    for command in ["split", "join", "verify", "inspect"] {
        let help = succeed(strip().args([command, "--help"]));
        assert!(help.contains(&format!("pageferry-strip {command} ")) && help.contains("Example"), "{help}");
    }
    assert!(succeed(strip().arg("--version")).starts_with("pageferry-strip "));
    assert_eq!(strip().arg("split").output().unwrap().status.code(), Some(2));
}

#[test]
fn logs_can_be_json() {
    let output = strip().args(["verify", "/nowhere/at/all", "--log-format", "json"]).output().unwrap();
    assert!(!output.status.success());
    let lines: Vec<serde_json::Value> =
        output.stderr.split_inclusive(|b| *b == b'\n').map(|line| serde_json::from_slice(line).unwrap()).collect();
    let last = lines.last().expect("an error is logged");
    assert_eq!(last["level"], "ERROR");
    assert!(last["fields"]["message"].as_str().unwrap().contains("/nowhere/at/all"), "{last}");
}

#[test]
fn folders_that_are_not_ours_stay_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let dump = varied(dir.path());
    let before = snapshot(&dump);
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("letter"), "dear").unwrap();
    assert!(fail(&mut split(&dump, &home)).contains("letter"));
    assert!(fail(split(&dump, &home).arg("--replace")).contains("letter"));
    fs::rename(home.join("letter"), home.join("checkpoint.json")).unwrap();
    assert!(fail(split(&dump, &home).arg("--replace")).contains("not the manifest of a page store"));
    assert_eq!(names(&home), ["checkpoint.json"]);
    assert!(fail(&mut split(&dump, &home.join("checkpoint.json"))).contains("checkpoint.json"));
    // Into the checkpoint itself.
    fail(&mut split(&dump, &dump.join("store")));
    fail(split(&dump, &dir.path().join("store")).arg("--slim").arg(dump.join("slim")));
    fail(split(&dump, &dir.path().join("store")).arg("--slim").arg(dir.path().join("store/slim")));
    fail(split(&dump, &dir.path().join("store")).arg("--slim").arg(&home));
    assert!(snapshot(&dump) == before && !dir.path().join("store").exists());
}

#[test]
fn a_store_is_replaced_only_when_told_to() {
    let (dir, dump, store) = varied_store();
    let before = snapshot(&store);
    assert!(fail(&mut split(&dump, &store)).contains("--replace"));
    assert!(snapshot(&store) == before);
    let other = noisy(dir.path(), 100);
    succeed(split(&other, &store).arg("--replace"));
    succeed(strip().arg("verify").arg(&store));
    let after = snapshot(&store);
    // Three objects and the manifest; nothing of the old one is left.
    assert_eq!(after.values().filter(|(kind, ..)| *kind == 'f').count(), 4);
    assert!(
        before
            .keys()
            .filter(|name| name.contains('.'))
            .all(|name| name == "checkpoint.json" || !after.contains_key(name))
    );
}

#[test]
fn what_is_not_a_checkpoint_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let refuse = |what: &str, expected: &str| {
        let path = dir.path().join(what);
        let said = fail(&mut split(&path, &store));
        assert!(said.contains(expected), "{what}: {said}");
        assert!(!store.exists());
    };
    refuse("nowhere", "not a directory");
    fs::create_dir_all(dir.path().join("folder/checkpoint")).unwrap();
    refuse("folder", "no inventory.img");
    fs::write(dir.path().join("folder/checkpoint/inventory.img"), "").unwrap();
    refuse("folder", "folder/checkpoint");
    refuse("folder/checkpoint", "inventory.img");
    let dump = varied(dir.path());
    let slim = dir.path().join("slim");
    succeed(split(&dump, &dir.path().join("made")).arg("--slim").arg(&slim));
    let refuse_again = |what: &str, expected: &str| {
        let said = fail(&mut split(&dir.path().join(what), &store));
        assert!(said.contains(expected) && !store.exists(), "{what}: {said}");
    };
    refuse_again("slim", "slim dump");
    fs::write(dump.join("pages-1.img"), "short").unwrap();
    refuse_again("varied", "pages-1.img");
}

#[test]
fn addresses() {
    let dir = tempfile::tempdir().unwrap();
    let dump = varied(dir.path());
    let output = split(&dump, "http://example.net/store".as_ref()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let url = format!("file://{}/store", dir.path().display());
    succeed(&mut split(&dump, url.as_ref()));
    succeed(strip().args(["verify", &url]));
    for bad in ["http://127.0.0.1:1/", "gopher://x/", "/nowhere/at/all", "/tmp"] {
        fail(strip().args(["verify", bad]));
        fail(strip().args(["inspect", bad]));
        fail(&mut join(bad, &dir.path().join("out")));
    }
}

#[test]
fn results_are_json_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (dump, store) = (varied(dir.path()), dir.path().join("store"));
    let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
    let split = json(succeed(split(&dump, &store).arg("--json")));
    let verify = json(succeed(strip().args(["--json", "verify"]).arg(&store)));
    let inspect = json(succeed(strip().args(["inspect", "--json"]).arg(&store)));
    let before = json(succeed(strip().args(["inspect", "--json"]).arg(&dump)));
    let join = json(succeed(join(store.to_str().unwrap(), &dir.path().join("out")).arg("--json")));
    assert_eq!(verify["ok"], true);
    for report in [&verify, &inspect, &before, &join] {
        assert_eq!(report["checkpoint_id"], split["checkpoint_id"]);
    }
    assert_eq!((&inspect["kind"], &before["kind"]), (&"store".into(), &"checkpoint".into()));
    assert_eq!((&inspect["sizes"], &inspect["tasks"]), (&before["sizes"], &before["tasks"]));
    assert_eq!(split["dumped"], inspect["sizes"]["dumped"]);
    assert_eq!(inspect["tasks"].as_array().unwrap().len(), 4);
    assert_eq!(inspect["tasks"][1]["threads"].as_array().unwrap().len(), 3);

    fs::write(&objects(&store, "index")[0], "x").unwrap();
    let output = strip().args(["verify", "--json"]).arg(&store).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let bad = json(String::from_utf8(output.stdout).unwrap());
    assert_eq!(bad["ok"], false);
    assert!(bad["problems"][0]["object"].as_str().unwrap().ends_with(".idx"), "{bad}");
}

#[test]
fn quiet_is_quiet() {
    let (dir, _dump, store) = varied_store();
    let output = join(store.to_str().unwrap(), &dir.path().join("out")).arg("-q").output().unwrap();
    assert_eq!(said(&output), "");
    assert!(output.status.success());
}

#[test]
fn bare_names_are_folders_here() {
    let dir = tempfile::tempdir().unwrap();
    varied(dir.path());
    let run = |arguments: &str| succeed(strip().args(arguments.split(' ')).current_dir(dir.path()));
    run("split varied --store store --slim slim");
    run("split varied --store store --replace");
    run("verify store");
    run("inspect varied");
    run("join store --out joined");
    assert_same(&dir.path().join("varied"), &dir.path().join("joined"));
    assert_eq!(names(dir.path()), ["joined", "slim", "store", "varied"]);
}
