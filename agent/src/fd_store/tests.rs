//! What goes to systemd, and in which order.

use super::{FdStore, Role, listed};
use crate::engine::ProcessId;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::{
    fs::File,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixDatagram,
    },
};

/// A store, and what systemd has of it.
fn store() -> (FdStore, UnixDatagram, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    (FdStore::to(path.as_os_str(), ["fd90.header".to_owned(), "fd91.p7".to_owned()].into()).unwrap(), socket, folder)
}

fn receive(socket: &UnixDatagram) -> Option<(String, Option<OwnedFd>)> {
    let (mut text, mut space) = ([0; 4096], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Some((String::from_utf8(text[..message.bytes].to_vec()).unwrap(), fd))
}

#[test]
fn a_descriptor_goes_with_its_number_and_role() {
    let (store, socket, _folder) = store();
    let file = File::open("/dev/null").unwrap();
    let number = file.as_raw_fd();
    assert!(store.put(file.as_fd(), Role::Process(ProcessId(7))));
    assert!(store.put(file.as_fd(), Role::Process(ProcessId(7))), "once is enough");
    store.remove(number, Role::Process(ProcessId(7)));
    let (text, fd) = receive(&socket).unwrap();
    assert_eq!(text, format!("FDSTORE=1\nFDPOLL=0\nFDNAME=fd{number}.p7"));
    assert!(fd.is_some());
    let (text, fd) = receive(&socket).unwrap();
    assert_eq!(text, format!("FDSTOREREMOVE=1\nFDNAME=fd{number}.p7"));
    assert!(fd.is_none() && receive(&socket).is_none());
}

#[test]
fn what_the_socket_has_no_room_for_comes_later_and_in_order() {
    let (store, socket, _folder) = store();
    let file = File::open("/dev/null").unwrap();
    let mut count = 0;
    while store.put(file.as_fd(), Role::Process(ProcessId(count))) {
        count += 1;
    }
    // Of two more, one is taken back before anything has gone.
    store.put(file.as_fd(), Role::Process(ProcessId(count + 1)));
    store.remove(file.as_raw_fd(), Role::Process(ProcessId(count)));
    assert!(!store.flush());
    let mut texts = Vec::new();
    let mut done = false;
    while !done {
        done = store.flush();
        texts.extend(std::iter::from_fn(|| receive(&socket)).map(|(text, fd)| (text, fd.is_some())));
    }
    let expected = (0..=count + 1).map(|id| (format!("p{id}"), true)).chain([(format!("p{count}"), false)]);
    let got = texts.into_iter().map(|(text, fd)| (text.rsplit_once('.').unwrap().1.to_owned(), fd));
    assert!(got.eq(expected));
}

#[test]
fn what_an_earlier_run_left_and_nobody_needs_is_removed() {
    let (store, socket, _folder) = store();
    assert!(store.lacks(91, Role::Process(ProcessId(8))) && !store.lacks(91, Role::Process(ProcessId(7))));
    store.ready();
    let texts: Vec<_> = std::iter::from_fn(|| receive(&socket)).map(|(text, _)| text).collect();
    assert_eq!(texts, ["FDSTOREREMOVE=1\nFDNAME=fd90.header", "FDSTOREREMOVE=1\nFDNAME=fd91.p7", "READY=1"]);
}

#[test]
fn a_run_with_nothing_left_to_do_is_ready_before_it_ends() {
    let (store, socket, _folder) = store();
    socket.set_nonblocking(false).unwrap();
    let systemd = std::thread::spawn(move || {
        let texts = std::iter::from_fn(|| receive(&socket)).map(|(text, _)| text);
        texts.take_while(|text| text != "BARRIER=1").collect::<Vec<_>>()
    });
    store.is_over();
    let texts = systemd.join().unwrap();
    let removed = ["FDSTOREREMOVE=1\nFDNAME=fd91.p7", "FDSTOREREMOVE=1\nFDNAME=fd90.header", "STOPPING=1"];
    assert!(texts[0].starts_with("READY=1\n") && texts[1..] == removed, "{texts:?}");
}

#[test]
fn names_that_do_not_fit_the_descriptors_are_refused() {
    assert_eq!(listed::parse("2", "fd9.header:other").unwrap(), [(3, "fd9.header".into()), (4, "other".into())]);
    assert!(listed::parse("2", "fd9.header").is_err() && listed::parse("x", "").is_err());
    assert_eq!(listed::number("fd12.p7"), Some(12));
    for other in ["fd2.p7", "fd.p7", "12.p7", "fd-5.p7", "fd12", "listen"] {
        assert_eq!(listed::number(other), None, "{other}");
    }
}
