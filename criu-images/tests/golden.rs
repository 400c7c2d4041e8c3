//! Real dumps of `tests/fixtures/program.c`, by CRIU 4.1 and 4.2.

mod common;

use common::{golden, open, page_bytes};
use criu_images::{Checkpoint, Machine, Mapping, PAGE_SIZE, PageAddr, PageAt, Stored, Task, TaskState, bits};

const BOTH: [&str; 2] = ["criu-4.1", "criu-4.2"];

fn anonymous_16(task: &Task) -> &Mapping {
    let memory = task.memory.as_ref().unwrap();
    memory.mappings.iter().find(|m| m.range.pages() == 16 && m.prot == 3 && first_word(task, m)).unwrap()
}

/// Two thread stacks have 16 pages as well, but none of them is written at the bottom.
fn first_word(task: &Task, mapping: &Mapping) -> bool {
    task.memory.as_ref().unwrap().runs.iter().any(|run| run.range.contains(mapping.range.start()))
}

fn named<'a>(task: &'a Task, name: &str, shared: bool) -> &'a Mapping {
    let mappings = &task.memory.as_ref().unwrap().mappings;
    mappings.iter().find(|m| m.name.as_deref().is_some_and(|n| n.ends_with(name)) && m.is_shared() == shared).unwrap()
}

fn at(checkpoint: &Checkpoint, task: &Task, mapping: &Mapping, page: u64) -> PageAddr {
    assert!(checkpoint.task(task.pid).is_some());
    mapping.range.start().checked_add(page).unwrap()
}

#[test]
fn the_tree() {
    for name in BOTH {
        let (_dir, dump) = golden(name);
        let checkpoint = open(&dump).unwrap();
        assert_eq!((checkpoint.image_version, checkpoint.machine().unwrap()), (2, Machine::X86_64));
        let [main, worker, dead] = &checkpoint.tasks[..] else { panic!("{name}: {} tasks", checkpoint.tasks.len()) };
        assert_eq!((main.comm.as_str(), main.state, main.threads.len()), ("program", TaskState::Alive, 3));
        assert_eq!((main.parent, main.threads[0]), (None, main.pid));
        assert_eq!((worker.comm.as_str(), worker.state, worker.threads.len()), ("worker", TaskState::Alive, 1));
        assert_eq!(worker.parent, Some(main.pid));
        assert_eq!((dead.state, dead.threads.len(), dead.parent), (TaskState::Dead, 0, Some(main.pid)));
        assert!(dead.memory.is_none());
        let addr = PageAddr::new(0x40_0000).unwrap();
        assert!(matches!(checkpoint.page_at(dead.pid, addr), Some(PageAt::NoMemory)));
    }
}

#[test]
fn private_memory_has_the_bytes_of_each_task() {
    for name in BOTH {
        let (_dir, dump) = golden(name);
        let checkpoint = open(&dump).unwrap();
        for (task, first, threads) in [(&checkpoint.tasks[0], 1, 7), (&checkpoint.tasks[1], 77, 0)] {
            let mapping = anonymous_16(task);
            assert!(mapping.can_be_lazy && mapping.is_private_anonymous());
            let byte =
                |page| page_bytes(&checkpoint, task.pid, at(&checkpoint, task, mapping, page).get()).map(|b| b[0]);
            assert_eq!(byte(0), Some(first), "{name}");
            assert_eq!((byte(3), byte(6), byte(12), byte(15)), (Some(4), Some(7), Some(13), Some(16)), "{name}");
            assert_eq!((byte(1).unwrap_or(0), byte(2).unwrap_or(0)), (threads, threads), "{name}");
            for never_written in [4, 9, 14] {
                let addr = at(&checkpoint, task, mapping, never_written);
                assert!(matches!(checkpoint.page_at(task.pid, addr), Some(PageAt::Zero { .. })), "{name}");
            }
        }
    }
}

#[test]
fn shared_memory_and_memfd_are_found_by_segment() {
    for name in BOTH {
        let (_dir, dump) = golden(name);
        let checkpoint = open(&dump).unwrap();
        assert_eq!(checkpoint.shared.len(), 2, "{name}");
        for task in &checkpoint.tasks[..2] {
            let byte = |m: &Mapping, page| {
                page_bytes(&checkpoint, task.pid, at(&checkpoint, task, m, page).get()).map(|b| b[0])
            };
            let shared = named(task, "/dev/zero (deleted)", true);
            assert_eq!((byte(shared, 0), byte(shared, 1), byte(shared, 5)), (Some(1), Some(2), Some(5)), "{name}");
            let hole = checkpoint.page_at(task.pid, at(&checkpoint, task, shared, 7));
            assert!(matches!(hole, Some(PageAt::Zero { .. })), "{name}");
            let notes = named(task, "/memfd:notes (deleted)", true);
            assert_eq!((byte(notes, 0), byte(notes, 1)), (None, Some(4)), "{name}");
            assert!(!shared.can_be_lazy && !notes.can_be_lazy);
        }
    }
}

#[test]
fn pages_of_files_are_in_the_file_unless_written() {
    for name in BOTH {
        let (_dir, dump) = golden(name);
        let checkpoint = open(&dump).unwrap();
        let task = &checkpoint.tasks[0];
        for (shared, pages) in [(false, [0, 2]), (true, [0, 1])] {
            let data = named(task, "/data", shared);
            for page in pages {
                match checkpoint.page_at(task.pid, at(&checkpoint, task, data, page)) {
                    Some(PageAt::File { mapping, offset }) => {
                        assert_eq!((mapping.range, offset), (data.range, page * PAGE_SIZE), "{name}");
                    }
                    other => panic!("{name}: page {page}: {other:?}"),
                }
            }
        }
        let written = at(&checkpoint, task, named(task, "/data", false), 1);
        let page = page_bytes(&checkpoint, task.pid, written.get()).unwrap();
        assert_eq!(&page[..2], b"\x03d", "{name}");
        assert!(matches!(checkpoint.page_at(task.pid, written), Some(PageAt::Private { lazy: false, .. })));
    }
}

#[test]
fn lazy_is_what_the_restorer_registers_less_argv_and_environment() {
    for name in BOTH {
        let (_dir, dump) = golden(name);
        let checkpoint = open(&dump).unwrap();
        let memory = checkpoint.tasks[0].memory.as_ref().unwrap();
        for run in &memory.runs {
            let mapping = memory.mappings.iter().find(|m| m.range.contains(run.range.start())).unwrap();
            assert!(run.range.end() <= mapping.range.end(), "{name}: {} straddles", run.range);
            let args = run.range.start().get() < memory.args_and_env.end && run.range.end() > memory.args_and_env.start;
            assert_eq!(run.lazy, mapping.can_be_lazy && !args, "{name}: {}", run.range);
            assert_eq!(run.marked_lazy, mapping.can_be_lazy, "{name}: {}", run.range);
            assert!(matches!(run.stored, Stored::Here { .. }));
        }
        let locked = memory.mappings.iter().find(|m| m.flags & bits::MAP_LOCKED != 0).unwrap();
        assert!(memory.runs.iter().any(|run| run.range == locked.range && !run.lazy), "{name}");
        let (lazy, eager): (Vec<_>, Vec<_>) = memory.runs.iter().partition(|run| run.lazy);
        let pages = |runs: &[&criu_images::PageRun]| runs.iter().map(|run| run.range.pages()).sum::<u64>();
        assert!(pages(&lazy) > 10 && pages(&eager) > 5, "{name}");
    }
}

#[test]
fn outside_and_special() {
    for name in BOTH {
        let (_dir, dump) = golden(name);
        let checkpoint = open(&dump).unwrap();
        let task = &checkpoint.tasks[0];
        let mappings = &task.memory.as_ref().unwrap().mappings;
        let low = checkpoint.page_at(task.pid, PageAddr::new(0).unwrap());
        let Some(PageAt::Unmapped { below: None, above: Some(above) }) = low else { panic!("{name}: {low:?}") };
        assert_eq!(above.range, mappings[0].range);
        let high = checkpoint.page_at(task.pid, PageAddr::new(PageAddr::LIMIT - PAGE_SIZE).unwrap());
        let Some(PageAt::Unmapped { below: Some(below), above: None }) = high else { panic!("{name}: {high:?}") };
        assert_eq!(below.range, mappings[mappings.len() - 1].range);
        let vvar = mappings.iter().find(|m| m.name.as_deref() == Some("[vvar]")).unwrap();
        assert!(matches!(checkpoint.page_at(task.pid, vvar.range.start()), Some(PageAt::Special { .. })), "{name}");
        for expected in ["[vdso]", "[heap]", "[stack]"] {
            assert!(mappings.iter().any(|m| m.name.as_deref() == Some(expected)), "{name}: {expected}");
        }
    }
}
