use super::*;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::io::{IoSlice, Write};

fn pair() -> (UnixStream, Connection) {
    let (criu, agent) = UnixStream::pair().unwrap();
    (criu, Connection::new(agent, Mail::default()).unwrap())
}

fn send_fds(socket: &UnixStream, fds: &[i32]) {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&[7])], control, MsgFlags::empty(), None).unwrap();
}

fn a_userfaultfd() -> userfaultfd::Uffd {
    userfaultfd::UffdBuilder::new().close_on_exec(true).create().expect("userfaultfd(2): this test needs root")
}

#[test]
fn a_restore_comes_in_pieces() {
    let (mut criu, mut agent) = pair();
    assert!(agent.try_read().unwrap().is_none());
    criu.write_all(&5i32.to_ne_bytes()[..3]).unwrap();
    assert!(agent.try_read().unwrap().is_none());
    criu.write_all(&5i32.to_ne_bytes()[3..]).unwrap();
    assert!(agent.try_read().unwrap().is_none());
    send_fds(&criu, &[a_userfaultfd().as_raw_fd()]);
    criu.write_all(&(-7i32).to_ne_bytes()).unwrap();
    criu.write_all(&6i32.to_ne_bytes()).unwrap();
    send_fds(&criu, &[a_userfaultfd().as_raw_fd()]);
    criu.write_all(&RESTORE_FINISHED.to_ne_bytes()).unwrap();
    let pid = |n| Pid::new(n).unwrap();
    assert!(matches!(agent.try_read().unwrap(), Some(Message::Task { pid: p, .. }) if p == pid(5)));
    assert!(matches!(agent.try_read().unwrap(), Some(Message::DeadTask(p)) if p == pid(7)));
    assert!(matches!(agent.try_read().unwrap(), Some(Message::Task { pid: p, .. }) if p == pid(6)));
    assert!(matches!(agent.try_read().unwrap(), Some(Message::RestoreFinished)));
    assert!(agent.try_read().unwrap().is_none());
    drop(criu);
    assert!(matches!(agent.try_read().unwrap(), Some(Message::Closed)));
}

#[test]
fn what_is_not_criu_is_told_so() {
    for word in [0, 1 << 23, i32::MAX, i32::MIN, -(1 << 23)] {
        let (mut criu, mut agent) = pair();
        criu.write_all(&word.to_ne_bytes()).unwrap();
        let error = agent.try_read().unwrap_err().to_string();
        assert!(error.contains("does not speak"), "{error}");
    }
    let (mut criu, mut agent) = pair();
    criu.write_all(&[1, 2]).unwrap();
    drop(criu);
    assert!(agent.try_read().unwrap_err().to_string().contains("inside a message"));
}

#[test]
fn a_task_needs_exactly_one_userfaultfd() {
    let file = File::open("/dev/null").unwrap();
    let fd = file.as_raw_fd();
    for (fds, message) in [
        (&[][..], "task 5: expected one descriptor with the message, got none"),
        (&[fd, fd], "task 5: expected one descriptor with the message, got more"),
        (&[fd; 9], "task 5: expected one descriptor with the message, got more"),
        (&[fd], "task 5: expected a userfaultfd, got a descriptor of /dev/null"),
    ] {
        let (mut criu, mut agent) = pair();
        criu.write_all(&5i32.to_ne_bytes()).unwrap();
        send_fds(&criu, fds);
        assert_eq!(agent.try_read().unwrap_err().to_string(), message);
    }
    let (mut criu, mut agent) = pair();
    criu.write_all(&5i32.to_ne_bytes()).unwrap();
    drop(criu);
    assert_eq!(agent.try_read().unwrap_err().to_string(), "task 5: the connection was closed");
}

#[test]
fn one_pager_per_work_directory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SOCKET_NAME);
    let first = LazyPagesSocket::bind(dir.path()).unwrap();
    let criu = UnixStream::connect(&path).unwrap();
    assert!(matches!(LazyPagesSocket::bind(dir.path()), Err(Error::InUse(p)) if p == path));
    // The look for another pager was not taken for CRIU.
    let mut connection = first.accept(Mail::default()).unwrap();
    assert!(connection.try_read().unwrap().is_none());
    drop(criu);
    assert!(matches!(connection.try_read().unwrap(), Some(Message::Closed)));
    drop(first);
    assert!(!path.exists());
}

#[test]
fn a_leftover_is_replaced_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SOCKET_NAME);
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let socket = LazyPagesSocket::bind(dir.path()).unwrap();
    // Somebody replaces ours; then it is not ours to remove.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    drop(socket);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert!(matches!(LazyPagesSocket::bind(dir.path()), Err(Error::NotASocket(_))));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    let error = LazyPagesSocket::bind(&dir.path().join("nowhere")).unwrap_err().to_string();
    assert!(error.contains("nowhere") && error.contains("opening the work directory"), "{error}");
}

#[test]
fn a_path_longer_than_a_socket_address() {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("d".repeat(100)).join("e".repeat(100));
    fs::create_dir_all(&dir).unwrap();
    let socket = LazyPagesSocket::bind(&dir).unwrap();
    // CRIU connects by the bare name, from inside.
    let here = File::open(&dir).unwrap();
    let criu = UnixStream::connect(name_in(&here)).unwrap();
    let mut connection = socket.accept(Mail::default()).unwrap();
    drop(criu);
    assert!(matches!(connection.try_read().unwrap(), Some(Message::Closed)));
    assert_eq!(fs::metadata(dir.join(SOCKET_NAME)).unwrap().mode() & 0o777, 0o600);
}

/// What an agent took off the connection is found by the next one, wherever the first was killed.
#[test]
fn a_message_that_was_read_and_not_dealt_with_is_left_to_the_next_agent() {
    let pid = |n| Pid::new(n).unwrap();
    let (mut criu, agent) = UnixStream::pair().unwrap();
    let mail = Mail::default();
    let next = |last| {
        let left = mail.resume(last).map(crate::uffd::duplicate_for_test);
        Connection::resume(agent.try_clone().unwrap(), mail.clone(), left).unwrap()
    };
    criu.write_all(&5i32.to_ne_bytes()).unwrap();
    // The pid was read, its descriptor had not come.
    assert!(next(None).try_read().unwrap().is_none());
    let sent = a_userfaultfd();
    send_fds(&criu, &[sent.as_raw_fd()]);
    // Both were read, and nothing was noted.
    let mut first = next(None);
    let Some(Message::Task { mail: number, uffd, .. }) = first.try_read().unwrap() else { panic!("a task") };
    assert!(
        matches!(next(None).try_read().unwrap(), Some(Message::Task { pid: p, mail, .. }) if p == pid(5) && mail == number)
    );
    // It was noted, but the message was still there.
    assert_eq!(first.last_mail(), Some(number));
    assert!(next(Some(number)).try_read().unwrap().is_none());
    drop(uffd);
    // The next message has another number, though its descriptor may have the same.
    criu.write_all(&6i32.to_ne_bytes()).unwrap();
    send_fds(&criu, &[sent.as_raw_fd()]);
    assert!(
        matches!(next(Some(number)).try_read().unwrap(), Some(Message::Task { pid: p, mail, .. }) if p == pid(6) && mail > number)
    );
}
