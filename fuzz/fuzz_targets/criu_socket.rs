//! Bytes on the lazy-pages socket: whoever writes them, a message, "not yet" or an error comes of them.
//!
//! Input: `cut: u8`, where the first write ends, then the bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pageferry_agent::criu_socket::{Connection, Mail, Message};
use std::{io::Write, net::Shutdown, os::unix::net::UnixStream};

/// Reads to the end of what is there; whether anything may follow.
fn drain(connection: &mut Connection) -> bool {
    loop {
        match connection.try_read() {
            Ok(None) => return true,
            Ok(Some(Message::Task { .. })) => panic!("a task without a userfaultfd"),
            Ok(Some(Message::Closed)) | Err(_) => return false,
            Ok(Some(Message::DeadTask(pid))) => assert!(pid.get() <= criu_images::Pid::MAX),
            Ok(Some(Message::RestoreFinished)) => {}
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else { return };
    // The socket's buffer takes all of it.
    let bytes = &bytes[..bytes.len().min(16 << 10)];
    let (mut criu, agent) = UnixStream::pair().expect("sockets");
    let mut connection = Connection::new(agent, Mail::default()).expect("a connection");
    let (first, second) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    criu.write_all(first).expect("written");
    if drain(&mut connection) {
        criu.write_all(second).expect("written");
        if drain(&mut connection) {
            // Not dropped: whoever looks at /proc/<pid>/fd right then would keep it open.
            criu.shutdown(Shutdown::Both).expect("shut down");
            assert!(!drain(&mut connection), "it goes on after the end");
        }
    }
});
