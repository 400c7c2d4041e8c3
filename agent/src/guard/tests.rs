//! Wherever an agent is killed, the ledger and the records that it has left say what it knew.

use super::{
    header::{Header, Word},
    journal::{self, Journal, Record},
    ledger::{Known, Ledger},
};
use crate::{
    address_space::apply,
    engine::ProcessId,
    fd_store::FdStore,
    images::Layout,
    uffd::{Event, SharedMemory},
};
use criu_images::{PageAddr, PageRange, Pid};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn range(start: u64, pages: u64) -> PageRange {
    PageRange::new(PageAddr::new(start * 4096).unwrap(), pages).unwrap()
}

fn pid(number: u32) -> Pid {
    Pid::new(number).unwrap()
}

fn layout() -> Layout {
    Layout {
        name: "7 (test)".into(),
        task: 0,
        registered: vec![range(0, 64), range(100, 64)],
        missing: vec![range(0, 32), range(100, 50)],
        first: vec![range(3, 1)],
        wiped: vec![range(5, 2)],
    }
}

fn beginning() -> Ledger {
    Ledger { layouts: [(pid(7), layout())].into(), next_process: 2, ..Ledger::default() }
}

/// What the next agent reads.
fn left(header: &Header) -> Ledger {
    let fd = header.fd_of(Word::Journal).unwrap();
    let fd = crate::uffd::duplicate_for_test(fd);
    let (ledger, records) = journal::read(&SharedMemory::open(fd).unwrap()).unwrap();
    ledger.replayed(records).unwrap()
}

fn message(event: &Event) -> [u64; 4] {
    match *event {
        Event::Fault { addr } => [0x12, 0, addr, 0],
        Event::Fork { fd } => [0x13, fd as u64, 0, 0],
        Event::Remap { from, to, len } => [0x14, from, to, len],
        Event::Remove { start, end } => [0x15, start, end, 0],
        Event::Unmap { start, end } => [0x16, start, end, 0],
    }
}

#[derive(Clone, Debug)]
enum Step {
    Event(u64, Event),
    Installed(u64, PageRange),
    Settled(u64),
    Released(u64),
    NewJournal,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let page = || (0u64..200).prop_map(|page| page * 4096);
    let span = || (0u64..180, 1u64..40).prop_map(|(start, pages)| (start * 4096, (start + pages) * 4096));
    let event = prop_oneof![
        page().prop_map(|addr| Event::Fault { addr }),
        Just(Event::Fork { fd: 0 }),
        (page(), page(), 1u64..30).prop_map(|(from, to, pages)| Event::Remap { from, to, len: pages * 4096 }),
        span().prop_map(|(start, end)| Event::Remove { start, end }),
        span().prop_map(|(start, end)| Event::Unmap { start, end }),
    ];
    let step = prop_oneof![
        8 => (0u64..4, event).prop_map(|(id, event)| Step::Event(id, event)),
        4 => (0u64..4, 0u64..180, 1u64..20).prop_map(|(id, start, pages)| Step::Installed(id, range(start, pages))),
        2 => (0u64..4).prop_map(Step::Settled),
        1 => (0u64..4).prop_map(Step::Released),
        1 => Just(Step::NewJournal),
    ];
    proptest::collection::vec(step, 0..60)
}

/// A ledger, to be compared.
fn content(ledger: &Ledger) -> (BTreeMap<ProcessId, (i32, String)>, u64, bool) {
    let processes = ledger.processes.iter().map(|(id, known)| {
        let Known { fd, name, space, registered, first, wiped } = known;
        (*id, (*fd, format!("{name} {space:?} {registered} {first:?} {wiped:?}")))
    });
    (processes.collect(), ledger.next_process, ledger.restored)
}

proptest! {
    /// After every step, what is left is what the agent knows.
    #[test]
    fn what_is_left_is_what_the_agent_knew(steps in steps()) {
        let header = Header::create().unwrap();
        let mut model = beginning();
        let journal = Journal::begin(&header, &model, &FdStore::default()).unwrap();
        journal.note(Record::Adopted { pid: pid(7), fd: 50, mail: 0 });
        let task = Known::task(model.layouts.remove(&pid(7)).unwrap(), 50);
        model.processes.insert(ProcessId(2), task);
        (model.next_process, model.last_mail) = (3, Some(0));
        journal.note(Record::Restored);
        model.restored = true;
        model.processes.get_mut(&ProcessId(2)).unwrap().registered = true;
        for step in steps {
            match step {
                Step::Event(id, event) => {
                    let id = ProcessId(id + 2);
                    let child_fd = 51 + model.next_process as i32;
                    let event = if let Event::Fork { .. } = event { Event::Fork { fd: child_fd } } else { event };
                    let Some(known) = model.processes.get_mut(&id) else { continue };
                    journal.note(Record::Reading(id));
                    journal.note(Record::Event(message(&event)));
                    apply(&mut known.space, &event);
                    if let Event::Fork { fd } = event {
                        let child = known.child(fd);
                        model.processes.insert(ProcessId(model.next_process), child);
                        model.next_process += 1;
                    }
                }
                Step::Installed(id, range) => {
                    let Some(known) = model.processes.get_mut(&ProcessId(id + 2)) else { continue };
                    known.space.installed(range);
                    journal.note(Record::Installed(ProcessId(id + 2), range));
                }
                Step::Settled(id) => {
                    let Some(known) = model.processes.get_mut(&ProcessId(id + 2)) else { continue };
                    known.space.settle();
                    journal.note(Record::Settled(ProcessId(id + 2)));
                }
                Step::Released(id) => {
                    model.processes.remove(&ProcessId(id + 2));
                    journal.note(Record::Released(ProcessId(id + 2)));
                }
                Step::NewJournal => journal.begin_anew(&model).unwrap(),
            }
            prop_assert_eq!(content(&left(&header)), content(&model));
        }
    }
}

#[test]
fn what_is_wiped_on_fork_does_not_come_to_a_child() {
    let mut parent = Known::task(layout(), 50);
    parent.space.remap(range(4, 4), PageAddr::new(300 * 4096).unwrap());
    let child = parent.child(51);
    assert!(parent.space.lacks(range(5, 2)) && !child.space.lacks(range(5, 2)));
    assert!(child.space.lacks(range(4, 1)) && child.space.lacks(range(7, 1)));
    assert!(!child.child(52).space.lacks(range(5, 2)));
}

#[test]
fn a_journal_that_fills_up_asks_for_another_in_time() {
    let header = Header::create().unwrap();
    let ledger = beginning();
    let journal = Journal::begin(&header, &ledger, &FdStore::default()).unwrap();
    let mut records = 0u64;
    while !journal.is_half_full() {
        // Neighbours would be one record.
        journal.note(Record::Installed(ProcessId(2), range(records * 2, 1)));
        records += 1;
    }
    assert!(records > 10_000);
    journal.begin_anew(&ledger).unwrap();
    assert!(!journal.is_half_full());
    (0..records).for_each(|at| journal.note(Record::Installed(ProcessId(2), range(at, 1))));
    assert!(!journal.is_half_full(), "neighbours are one record");
}

#[test]
fn memory_that_is_no_journal_is_refused() {
    let memory = SharedMemory::create(c"test", 100).unwrap();
    assert!(journal::read(&memory).is_err());
    let header = Header::create().unwrap();
    let journal = Journal::begin(&header, &beginning(), &FdStore::default()).unwrap();
    journal.note(Record::Adopted { pid: pid(9), fd: 5, mail: 0 });
    let fd = header.fd_of(Word::Journal).unwrap();
    let fd = crate::uffd::duplicate_for_test(fd);
    let (ledger, records) = journal::read(&SharedMemory::open(fd).unwrap()).unwrap();
    let error = ledger.replayed(records).unwrap_err().to_string();
    assert!(error.contains("task 9"), "{error}");
}
