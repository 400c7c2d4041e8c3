//! A delivery against a server that answers as it was told to.

use super::*;
use crate::{
    cli::{Cli, Command},
    guard::Guarded,
};
use clap::Parser;
use std::{
    fs::{self, File},
    future::pending,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Instant,
};

const OK: &str = "201 Created\r\n";

/// Gives one answer after another: a status with header lines, `hang` for none, `close` for the end of the connection.
struct Fake {
    port: u16,
    /// Each as it came: its head, and its body.
    requests: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    fn start(answers: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let (answers, seen): (Vec<String>, _) = (answers.iter().map(|a| (*a).to_owned()).collect(), requests.clone());
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for answer in answers {
                let Ok((mut stream, _)) = listener.accept() else { return };
                seen.lock().unwrap().push(request(&stream));
                match answer.as_str() {
                    "hang" => open.push(stream),
                    "close" => {}
                    head => {
                        let body = if head.contains("json") {
                            r#"{"detail":"It says why.","next":"And what to do."}"#
                        } else {
                            ""
                        };
                        let head =
                            format!("HTTP/1.1 {head}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
                        let _ = stream.write_all(head.as_bytes());
                    }
                }
            }
            std::thread::sleep(Duration::from_secs(60));
        });
        Self { port, requests }
    }

    fn address(&self) -> String {
        format!("http://127.0.0.1:{}/checkpoints/redis/working-sets/main", self.port)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn request(stream: &TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let mut text = String::new();
    while reader.read_line(&mut text).unwrap() > 2 {}
    let length = text.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    text + std::str::from_utf8(&body).unwrap()
}

fn delivery(fake: &Fake, store: &str, options: &[&str]) -> Delivery {
    let words = ["pageferry-agent", "restore", store, "--record", &fake.address()];
    let Command::Restore(args) = Cli::try_parse_from(words.iter().chain(options)).unwrap().command else {
        unreachable!()
    };
    let stores = args.locations();
    Delivery::of(&args.pager, &stores).unwrap()
}

async fn sent(fake: &Fake, patience: Duration) -> Result<(), String> {
    let delivery = delivery(fake, "/srv/store", &[]);
    let address = delivery.open().unwrap();
    let sent = delivery.send(&address, Bytes::from_static(b"trace"), &[Duration::ZERO; 4], patience).await;
    sent.map_err(|error| error.to_string())
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_the_rest_is_final() {
    let minute = Duration::from_secs(60);
    let busy = "503 Service Unavailable\r\n";
    for answers in [
        &["200 OK\r\n"][..],
        &[OK],
        &[busy, "429 Too Many Requests\r\n", "500 Oops\r\n", "502 Bad Gateway\r\n", OK],
        &["close", "close", OK],
    ] {
        let fake = Fake::start(answers);
        sent(&fake, minute).await.unwrap();
        let requests = fake.requests();
        assert_eq!(requests.len(), answers.len(), "{answers:?}");
        let put = "PUT /checkpoints/redis/working-sets/main HTTP/1.1\r\n";
        assert!(requests.iter().all(|request| request.starts_with(put) && request.ends_with("\r\n\r\ntrace")));
    }
    for (answer, words) in [
        ("401 Unauthorized\r\n", "--record-token-file"),
        ("403 Forbidden\r\n", "scope working-sets"),
        (
            "404 Not Found\r\nContent-Type: application/problem+json\r\n",
            "HTTP 404 Not Found: It says why. And what to do; does a pageferry-server",
        ),
        ("405 Method Not Allowed\r\n", "pageferry-server"),
        ("413 Payload Too Large\r\n", "HTTP 413"),
        ("422 Unprocessable Entity\r\n", "HTTP 422"),
        ("501 Not Implemented\r\n", "pageferry-server"),
        ("302 Found\r\nLocation: /elsewhere?secret\r\n", "/elsewhere: give"),
        ("204 No Content\r\n", "HTTP 204"),
        ("200 OK\r\nContent-Type: text/html\r\n", "web page"),
    ] {
        let fake = Fake::start(&[answer, OK]);
        let error = sent(&fake, minute).await.unwrap_err();
        assert!(
            error.contains(words) && error.contains(&fake.address()) && !error.contains("secret"),
            "{answer}: {error}"
        );
        assert_eq!(fake.requests().len(), 1, "{answer}");
    }
}

#[tokio::test]
async fn there_are_five_attempts_however_they_fail() {
    for answer in ["503 Service Unavailable\r\n", "close", "hang"] {
        let fake = Fake::start(&[answer; 6]);
        let error = sent(&fake, Duration::from_millis(100)).await.unwrap_err();
        assert!(error.contains(&fake.address()), "{error}");
        assert_eq!(fake.requests().len(), 5, "{answer}");
    }
}

#[tokio::test]
async fn a_server_says_how_long_to_wait() {
    let fake = Fake::start(&["503 Service Unavailable\r\nRetry-After: 1\r\n", OK]);
    let start = Instant::now();
    sent(&fake, Duration::from_secs(60)).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    let seconds = Duration::from_secs;
    assert_eq!(pause_for(seconds(600), seconds(4)), LONGEST_PAUSE);
    assert_eq!(pause_for(Duration::ZERO, seconds(4)), seconds(4));
    assert_eq!(pause_for(seconds(7), seconds(4)), seconds(7));
}

#[tokio::test]
async fn a_token_goes_to_the_host_that_it_is_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("{name}-0123456789abcdef\n")).unwrap();
        path.display().to_string()
    };
    let (reader, recorder) = (file("reader"), file("recorder"));
    let fake = Fake::start(&[OK; 5]);
    let near = format!("http://127.0.0.1:{}/store", fake.port);
    let other_port = format!("http://127.0.0.1:{}/store", fake.port ^ 1);
    let store: &[&str] = &["--token-file", &reader];
    let own: &[&str] = &["--token-file", &reader, "--record-token-file", &recorder];
    let mirror = [store, &["--store", near.as_str()]].concat();
    for (place, options, token) in [
        (near.as_str(), store, Some("reader")),
        (near.as_str(), own, Some("recorder")),
        (other_port.as_str(), store, None),
        (other_port.as_str(), own, Some("recorder")),
        ("http://10.0.0.1/store", mirror.as_slice(), Some("reader")),
    ] {
        let delivery = delivery(&fake, place, options);
        let address = delivery.open().unwrap();
        delivery.send(&address, Bytes::new(), &[], Duration::from_secs(60)).await.unwrap();
        let request = fake.requests().pop().unwrap();
        let shown = request.lines().find_map(|line| line.strip_prefix("authorization: Bearer "));
        assert_eq!(
            shown.map(str::to_owned),
            token.map(|token| format!("{token}-0123456789abcdef")),
            "{place} {options:?}"
        );
    }
}

/// A recording that waits in a file.
fn kept(fake: &Fake) -> (tempfile::TempDir, PathBuf, Recording) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kept.trace");
    fs::write(&path, "trace").unwrap();
    let left = (path.clone(), File::open(&path).unwrap());
    let recording = Recording::left(RecordTo::Server(fake.address()), left, Guarded::by_nobody());
    (folder, path, recording)
}

#[tokio::test]
async fn the_file_is_there_until_the_server_has_the_recording() {
    let fake = Fake::start(&[OK]);
    let (_folder, path, recording) = kept(&fake);
    delivery(&fake, "/srv/store", &[]).deliver(&recording, pending(), false).await.unwrap();
    assert!(!path.exists() && fake.requests()[0].ends_with("trace"));
    // Nothing is left to be sent.
    delivery(&fake, "/srv/store", &[]).deliver(&recording, pending(), false).await.unwrap();
    assert_eq!(fake.requests().len(), 1);

    let fake = Fake::start(&["409 Conflict\r\nContent-Type: application/problem+json\r\n"]);
    let (_folder, path, recording) = kept(&fake);
    let error = delivery(&fake, "/srv/store", &[]).deliver(&recording, pending(), false).await.unwrap_err().to_string();
    for words in [&path.display().to_string(), "It says why.", "curl -T", "processes are whole", &fake.address()] {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "trace");
}

#[tokio::test]
async fn a_signal_ends_the_waiting_at_once() {
    let fake = Fake::start(&["hang"]);
    let (_folder, path, recording) = kept(&fake);
    let stop = async {
        sleep(Duration::from_millis(200)).await;
        15
    };
    let start = Instant::now();
    let error = delivery(&fake, "/srv/store", &[]).deliver(&recording, stop, false).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(error.downcast_ref::<Interrupted>().unwrap().signal, 15);
    assert!(error.to_string().contains(&path.display().to_string()) && path.exists(), "{error}");
}

#[tokio::test]
async fn an_agent_that_was_asked_to_stop_tries_once() {
    let fake = Fake::start(&["503 Service Unavailable\r\n", OK]);
    let (_folder, path, recording) = kept(&fake);
    delivery(&fake, "/srv/store", &[]).deliver(&recording, pending(), true).await.unwrap_err();
    assert!(path.exists());
    assert_eq!(fake.requests().len(), 1);
}
