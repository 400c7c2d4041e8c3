//! Every command, ended by every signal at any moment: what it had begun is gone or will be, what was there before is untouched, and the
//! same command again succeeds with the same bytes.
//!
//! Moments are spread over the time that an uninterrupted run takes: `PAGEFERRY_TRIAL_COUNT` of them for each command and signal,
//! placed by `PAGEFERRY_TRIAL_SEED`.

mod common;

use common::*;
use criu_images::{
    PAGE_SIZE,
    testing::{Dump, Pages, Task},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use page_store::{FrameNumber, Manifest, working_set::Trace};
use std::{
    fs,
    hash::{BuildHasher, RandomState},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Whole,
    /// By itself, because of a signal; or before it had done anything.
    Stopped,
    Killed,
}

fn ended(output: &Output, signal: Signal) -> Ended {
    let said = said(output);
    match (output.status.code(), output.status.signal()) {
        (Some(0), _) => Ended::Whole,
        (Some(code), _) if signal != Signal::SIGKILL && code == 128 + signal as i32 => {
            assert!(said.lines().count() == 1 && said.contains("stopped; nothing was left behind"), "{said}");
            Ended::Stopped
        }
        (None, Some(number)) if number == signal as i32 => {
            // One that is killed may have said already that it is done.
            assert!(signal == Signal::SIGKILL || said.is_empty(), "{said}");
            if signal == Signal::SIGKILL { Ended::Killed } else { Ended::Stopped }
        }
        _ => panic!("{signal}: {}: {said}", output.status),
    }
}

/// A folder with a checkpoint, its store, and a folder for temporary files that has to stay empty.
struct Scene {
    dir: tempfile::TempDir,
    dump: PathBuf,
    store: PathBuf,
}

impl Scene {
    /// Noise to be packed, and shared memory, which stays in the slim dump.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let dump = dir.path().join("dump");
        let task = Task::new(1).anonymous(0x10_0000, 3000).pages(Pages::here(0x10_0000, 3000));
        Dump::new().task(task).shared(3, vec![Pages::here(0, 1000)]).write(&dump).unwrap();
        fs::write(dump.join("pages-1.img"), noise(1, 3000 * PAGE_SIZE as usize)).unwrap();
        fs::write(dump.join("pages-2.img"), noise(2, 1000 * PAGE_SIZE as usize)).unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        let store = dir.path().join("store");
        succeed(&mut split(&dump, &store));
        let joined = dir.path().join("joined");
        succeed(&mut join(store.to_str().unwrap(), &joined));
        assert_same(&dump, &joined);
        fs::remove_dir_all(joined).unwrap();
        Self { dir, dump, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Nothing but what the scene has, and `more`.
    fn holds(&self, more: &[&str]) -> bool {
        let mut expected: Vec<&str> = ["dump", "store", "tmp"].iter().chain(more).copied().collect();
        expected.sort_unstable();
        names(self.dir.path()) == expected
    }

    /// Interrupts `command`; before each run `reset` makes everything as it was, after it `check` looks.
    fn trial(&self, command: impl Fn() -> Command, reset: impl Fn(), check: impl Fn(Ended)) {
        let count = setting("PAGEFERRY_TRIAL_COUNT").unwrap_or(20) as u32;
        let seed = setting("PAGEFERRY_TRIAL_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
        println!("PAGEFERRY_TRIAL_SEED={seed} PAGEFERRY_TRIAL_COUNT={count}");
        let tmp = self.path("tmp");
        let command = || {
            let mut command = command();
            command.env("TMPDIR", &tmp).stdout(Stdio::piped()).stderr(Stdio::piped());
            command
        };
        let mut random = u64::to_le_bytes(seed).to_vec();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
            reset();
            let began = Instant::now();
            succeed(&mut command());
            let duration = began.elapsed();
            check(Ended::Whole);
            let mut seen = [0; 3];
            for n in 0..count {
                reset();
                random = blake3::hash(&random).as_bytes().to_vec();
                let within = f64::from(random[0]) / 256.0;
                let moment = duration.mul_f64((f64::from(n) + within) / f64::from(count));
                let child = command().spawn().unwrap();
                std::thread::sleep(moment);
                // It may have ended, but is not reaped: the number is still its own.
                kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
                let ended = ended(&child.wait_with_output().unwrap(), signal);
                seen[ended as usize] += 1;
                let after = format!("{signal} after {moment:?} of {duration:?}: {ended:?}");
                let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    assert_eq!(names(&tmp), [""; 0]);
                    check(ended);
                }));
                assert!(checked.is_ok(), "{after}");
            }
            let [whole, stopped, killed] = seen;
            println!(
                "trial: {:?} interrupted | {signal} over {duration:.0?}: {whole} whole, {stopped} stopped, {killed} killed | seed {seed}",
                command().get_args().next().unwrap_or_default()
            );
            assert!(duration < Duration::from_secs(60), "the trial is meant for runs of less than a second");
        }
    }
}

fn remove(path: &Path) {
    if path.exists() {
        fs::remove_dir_all(path).unwrap();
    }
}

#[test]
fn split_to_a_new_store_and_slim_dump() {
    let scene = Scene::new();
    let (store, slim, reference) = (scene.path("new"), scene.path("slim"), scene.path("reference"));
    succeed(split(&scene.dump, &scene.path("other")).arg("--slim").arg(&reference));
    remove(&scene.path("other"));
    let command = || {
        let mut split = split(&scene.dump, &store);
        split.arg("--slim").arg(&slim);
        split
    };
    let reset = || [&store, &slim].map(|path| remove(path)).into_iter().collect();
    let whole = || {
        assert!(scene.holds(&["new", "reference", "slim"]), "{:?}", names(scene.dir.path()));
        assert_same(&store, &scene.store);
        assert_same(&slim, &reference);
    };
    scene.trial(command, reset, |ended| {
        if ended == Ended::Stopped {
            assert!(scene.holds(&["reference"]), "{:?}", names(scene.dir.path()));
        }
        let committed = store.join("checkpoint.json").exists();
        if slim.exists() {
            assert_same(&slim, &reference);
        }
        if ended == Ended::Whole {
            return whole();
        }
        if committed {
            // Killed while it cleared up after itself.
            assert!(ended == Ended::Killed && slim.exists());
            succeed(strip().arg("verify").arg(&store));
            return;
        }
        // Killed between the two: it says so, and is whole.
        remove(&slim);
        succeed(&mut command());
        whole();
    });
}

#[test]
fn split_in_the_place_of_another_store() {
    let scene = Scene::new();
    let (store, old, small) = (scene.path("new"), scene.path("old"), varied(scene.dir.path()));
    succeed(&mut split(&small, &old));
    let (before, after) = (snapshot(&old), snapshot(&scene.store));
    let command = || {
        let mut split = split(&scene.dump, &store);
        split.arg("--replace");
        split
    };
    let reset = || {
        remove(&store);
        succeed(Command::new("cp").arg("-a").arg(&old).arg(&store));
    };
    scene.trial(command, reset, |ended| {
        let now = snapshot(&store);
        match ended {
            Ended::Whole => assert!(now == after),
            Ended::Stopped => assert!(now == before),
            Ended::Killed => {
                // One of the two, whole; and what is left over.
                let whole = |one: &Snapshot| one.iter().all(|(name, file)| now.get(name) == Some(file));
                assert!(whole(&before) || whole(&after));
                succeed(strip().arg("verify").arg(&store));
            }
        }
        succeed(&mut command());
        assert_same(&store, &scene.store);
    });
}

#[test]
fn joining() {
    let scene = Scene::new();
    let out = scene.path("out");
    let command = || join(scene.store.to_str().unwrap(), &out);
    let before = snapshot(&scene.store);
    scene.trial(
        command,
        || remove(&out),
        |ended| {
            if ended == Ended::Stopped {
                assert!(scene.holds(&[]), "{:?}", names(scene.dir.path()));
            }
            if !out.exists() {
                assert_ne!(ended, Ended::Whole);
                succeed(&mut command());
                assert!(scene.holds(&["out"]), "{:?}", names(scene.dir.path()));
            }
            assert_same(&scene.dump, &out);
            assert!(snapshot(&scene.store) == before);
        },
    );
}

#[test]
fn verifying() {
    let scene = Scene::new();
    let command = || {
        let mut verify = strip();
        verify.arg("verify").arg(&scene.store);
        verify
    };
    let before = snapshot(&scene.store);
    scene.trial(
        command,
        || (),
        |_| {
            assert!(scene.holds(&[]) && snapshot(&scene.store) == before);
        },
    );
    succeed(&mut command());
}

#[test]
fn adding_a_working_set() {
    let scene = Scene::new();
    let (store, reference, trace) = (scene.path("new"), scene.path("reference"), scene.path("trace"));
    let manifest = Manifest::parse("m", &fs::read(scene.store.join("checkpoint.json")).unwrap()).unwrap();
    let frames = (0..manifest.packs[0].frames).map(FrameNumber).collect();
    fs::write(&trace, Trace::new(&manifest.checkpoint_id, frames).to_json()).unwrap();
    let add = |store: &Path| {
        let mut add = strip();
        add.arg("working-set").arg(store).arg("--trace").arg(&trace);
        add
    };
    let reset = || {
        remove(&store);
        succeed(Command::new("cp").arg("-a").arg(&scene.store).arg(&store));
    };
    reset();
    succeed(&mut add(&store));
    fs::rename(&store, &reference).unwrap();
    let (before, after) = (snapshot(&scene.store), snapshot(&reference));
    scene.trial(
        || add(&store),
        reset,
        |ended| {
            let now = snapshot(&store);
            match ended {
                Ended::Whole => assert!(now == after),
                Ended::Stopped => assert!(now == before),
                Ended::Killed => {
                    let of = |one: &Snapshot| now.get("checkpoint.json") == one.get("checkpoint.json");
                    assert!(of(&before) || of(&after));
                    succeed(strip().arg("verify").arg(&store));
                }
            }
            succeed(&mut add(&store));
            assert_same(&store, &reference);
        },
    );
}
