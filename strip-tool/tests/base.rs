//! Checkpoints that share packs: split, verified, joined, copied, replaced and removed, none to the harm of another.

mod common;

use common::{http::Host, *};
use criu_images::PAGE_SIZE;
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// A folder with stores in it, each of a later state of one program: three hundred pages more of it changed each time.
struct Stores(TempDir);

impl Stores {
    fn new(states: u64) -> Self {
        let stores = Self(tempfile::tempdir().unwrap());
        for n in 0..states {
            let base = n.checked_sub(1).map(|before| stores.store(before));
            stores.split(n, &stores.store(n), base.as_deref());
        }
        stores
    }

    fn store(&self, n: u64) -> PathBuf {
        self.0.path().join(format!("stores/app-{n}"))
    }

    /// The checkpoint of state `n`: 12 MB that do not compress, which are two packs of a store without a base.
    fn dump(&self, n: u64) -> PathBuf {
        let folder = self.0.path().join(format!("state-{n}"));
        let dump = folder.join("large");
        if !dump.exists() {
            let dump = large(&folder, 4000, |page| noise(page % 3000, PAGE_SIZE as usize));
            let pages = fs::File::options().write(true).open(dump.join("pages-1.img")).unwrap();
            for page in (0..n).flat_map(|n| n * 300..n * 300 + 300) {
                pages.write_all_at(&noise(1 << 32 | page, PAGE_SIZE as usize), page * PAGE_SIZE).unwrap();
            }
        }
        dump
    }

    fn split(&self, n: u64, store: &Path, base: Option<&Path>) -> Value {
        let mut command = split(&self.dump(n), store);
        command.args(base.map(|base| format!("--base={}", base.display()))).arg("--json");
        serde_json::from_str(&succeed(&mut command)).unwrap()
    }

    fn is_whole(&self, n: u64, store: &str) {
        let verified: Value = serde_json::from_str(&succeed(strip().args(["verify", store, "--json"]))).unwrap();
        assert_eq!(verified["ok"], true, "{verified}");
        let out = tempfile::tempdir().unwrap();
        succeed(&mut join(store, &out.path().join("joined")));
        assert_same(&self.dump(n), &out.path().join("joined"));
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn rm(store: &Path) -> Value {
    serde_json::from_str(&succeed(strip().args(["rm", text(store), "--json"]))).unwrap()
}

#[test]
fn only_what_changed_is_stored_and_everything_is_read() {
    let stores = Stores::new(2);
    // The third of a chain names the packs of both.
    let report = stores.split(2, &stores.store(2), Some(&stores.store(1)));
    let packs = |field: &str| report[field].as_u64().unwrap();
    assert!((300 * PAGE_SIZE..330 * PAGE_SIZE).contains(&packs("packs")), "{report}");
    assert!(packs("shared") > 3300 * PAGE_SIZE, "{report}");
    assert_eq!(packs("distinct"), 3600 * PAGE_SIZE, "{report}");
    let host = Host::start(&stores.0.path().join("stores"), 0);
    for n in 0..3 {
        stores.is_whole(n, text(&stores.store(n)));
        stores.is_whole(n, &format!("{}app-{n}/", host.url));
    }
    // By a path that says nothing of where it is, and by a link from elsewhere.
    let link = stores.0.path().join("current");
    std::os::unix::fs::symlink(stores.store(2), &link).unwrap();
    stores.is_whole(2, text(&link));
    succeed(strip().current_dir(stores.store(2)).args(["verify", "."]));
    let listed = succeed(strip().args(["list", text(&stores.0.path().join("stores"))]));
    assert_eq!(listed.matches(", shares ").count(), 2, "{listed}");
}

#[test]
fn what_others_share_stays_until_the_last_of_them_goes() {
    let stores = Stores::new(3);
    let would: Value =
        serde_json::from_str(&succeed(strip().args(["rm", text(&stores.store(0)), "--dry-run", "--json"]))).unwrap();
    let removed = rm(&stores.store(0));
    assert_eq!((&removed["kept"], &removed["objects"]), (&would["kept"], &would["objects"]));
    assert_eq!(removed["kept"], 2, "{removed}");
    assert_eq!(names(&stores.store(0)), ["packs"]);
    // A base that is gone leaves what was made of it whole, and can be taken for no base again.
    stores.is_whole(1, text(&stores.store(1)));
    let said = fail(split(&stores.dump(0), &stores.store(9)).arg("--base").arg(stores.store(0)));
    assert!(said.contains("neither a page store"), "{said}");
    rm(&stores.store(1));
    assert_eq!(names(&stores.store(0)), ["packs"]);
    stores.is_whole(2, text(&stores.store(2)));
    rm(&stores.store(2));
    assert_eq!(names(&stores.0.path().join("stores")), [""; 0]);
}

#[test]
fn a_store_that_is_replaced_keeps_what_others_share() {
    let stores = Stores::new(2);
    succeed(split(&stores.dump(3), &stores.store(0)).arg("--replace"));
    stores.is_whole(3, text(&stores.store(0)));
    stores.is_whole(1, text(&stores.store(1)));
    // A new store in the place of one that was removed, too.
    rm(&stores.store(0));
    stores.split(0, &stores.store(0), None);
    stores.is_whole(1, text(&stores.store(1)));
    // Once nobody needs it, it goes.
    succeed(split(&stores.dump(2), &stores.store(0)).arg("--replace"));
    assert_eq!(objects(&stores.store(0), "packs").len(), 4);
    rm(&stores.store(1));
    assert_eq!(objects(&stores.store(0), "packs").len(), 2);
    stores.is_whole(2, text(&stores.store(0)));
}

#[test]
fn a_store_may_be_replaced_by_one_that_shares_with_what_shares_with_it() {
    let stores = Stores::new(2);
    succeed(split(&stores.dump(2), &stores.store(0)).arg("--replace").arg("--base").arg(stores.store(1)));
    stores.is_whole(2, text(&stores.store(0)));
    stores.is_whole(1, text(&stores.store(1)));
}

#[test]
fn a_copy_stands_alone() {
    let stores = Stores::new(2);
    let copy = stores.0.path().join("copy");
    succeed(strip().args(["copy", text(&stores.store(1)), text(&copy)]));
    fs::remove_dir_all(stores.0.path().join("stores")).unwrap();
    stores.is_whole(1, text(&copy));
    let manifest = fs::read_to_string(copy.join("checkpoint.json")).unwrap();
    assert!(manifest.contains("\"version\": 1,") && !manifest.contains("../"), "{manifest}");
}

#[test]
fn a_base_that_cannot_be_one() {
    let stores = Stores::new(1);
    let split_on = |base: &Path| {
        let said = fail(split(&stores.dump(0), &stores.store(5)).arg("--base").arg(base));
        assert!(!stores.store(5).exists(), "{said}");
        said
    };
    let elsewhere = stores.0.path().join("elsewhere");
    stores.split(0, &elsewhere, None);
    assert!(split_on(&elsewhere).contains("in one folder"));
    assert!(split_on(&stores.store(7)).contains("app-7"));
    assert!(split_on(&stores.store(5)).contains("cannot be its own base"));
    let odd = stores.0.path().join("stores/odd name");
    stores.split(0, &odd, None);
    assert!(split_on(&odd).contains("cannot share packs"));
    let pack = &objects(&stores.store(0), "packs")[0];
    fs::File::options().write(true).open(pack).unwrap().write_all_at(b"rotten", 70_000).unwrap();
    let said = split_on(&stores.store(0));
    assert!(said.contains(text(pack)) && said.contains("frame"), "{said}");
}

#[test]
fn nothing_is_removed_while_it_cannot_be_told_who_needs_it() {
    let stores = Stores::new(2);
    let manifest = stores.store(1).join("checkpoint.json");
    let whole = fs::read_to_string(&manifest).unwrap();
    // One of a later version still says what it needs.
    fs::write(&manifest, whole.replace("\"version\": 2", "\"version\": 7")).unwrap();
    assert_eq!(rm(&stores.store(0))["kept"], 2);
    fs::write(&manifest, whole).unwrap();
    stores.is_whole(1, text(&stores.store(1)));
    // One that cannot be read says nothing.
    let stores = Stores::new(2);
    let manifest = stores.store(1).join("checkpoint.json");
    fs::remove_file(&manifest).unwrap();
    fs::create_dir(&manifest).unwrap();
    let before = snapshot(&stores.store(0));
    let said = fail(strip().args(["rm", text(&stores.store(0))]));
    assert!(said.contains("mend or remove that one first") && said.contains("app-1"), "{said}");
    assert!(before == snapshot(&stores.store(0)));
}

/// `rm` cannot see a store that is not there yet.
#[test]
fn a_base_that_goes_while_it_is_shared_is_noticed() {
    let stores = Stores::new(1);
    let (dump, store) = (noisy(&stores.0.path().join("noise"), 30_000), stores.store(5));
    let mut command = split(&dump, &store);
    // The base has been read, and a pack is done; half a second is left to go.
    let ready = || store.join("packs").exists();
    let slim = stores.0.path().join("slim");
    let child = start(command.arg("--base").arg(stores.store(0)).arg("--slim").arg(&slim), ready);
    rm(&stores.store(0));
    let output = child.wait_with_output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("removed or replaced meanwhile"), "{said}");
    assert!(!store.exists() && !slim.exists(), "{said}");
}
