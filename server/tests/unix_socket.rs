//! Sockets that are no ports.

mod common;

use common::{client, program::*, *};
use std::{
    fs,
    io::Write,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::Command,
};

fn get(socket: &Path, path: &str) -> Reply {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    client::read(stream, "GET").unwrap()
}

#[test]
fn a_unix_socket_from_beginning_to_end() {
    let fixture = Fixture::new();
    let socket = fixture.dir.path().join("socket");
    // What a server that was killed has left.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let listen = format!("unix:{}", socket.display());
    let mut program = Program::start(&fixture.store(), &["--listen", &listen]);
    assert_eq!(program.message[0], format!("listening on {listen}"));
    assert_eq!(get(&socket, "/pid").status, 200);
    assert_eq!(get(&socket, "/pid/10/page/10000000").body, expected(10, HEAP).unwrap());
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    let second = Command::new(PROGRAM).arg(fixture.store()).args(["--listen", &listen]).output().unwrap();
    assert!(!second.status.success());
    let error = String::from_utf8(second.stderr).unwrap();
    assert!(error.contains("another server listens there"), "{error}");
    assert_eq!(get(&socket, "/pid").status, 200, "the second one took nothing away");
    program.signal("TERM");
    assert!(program.child.wait().unwrap().success());
    assert!(!socket.exists());
}

#[test]
fn a_file_is_left_alone() {
    let fixture = Fixture::new();
    let file = fixture.dir.path().join("precious");
    fs::write(&file, "data").unwrap();
    let listen = format!("unix:{}", file.display());
    let output = Command::new(PROGRAM).arg(fixture.store()).args(["--listen", &listen]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("not a socket"));
    assert_eq!(fs::read(&file).unwrap(), b"data");
    let output = Command::new(PROGRAM).arg(fixture.store()).args(["--listen", "systemd"]).output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("passed no socket"));
}

#[test]
fn several_at_once() {
    let fixture = Fixture::new();
    let socket = fixture.dir.path().join("socket");
    let listen = format!("unix:{}", socket.display());
    let program = Program::start(&fixture.store(), &["--listen", "127.0.0.1:0", "--listen", &listen, "--json"]);
    assert_eq!(program.get("/pid").status, 200);
    assert_eq!(get(&socket, "/pid").status, 200);
}
