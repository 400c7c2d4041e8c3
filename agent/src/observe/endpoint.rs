//! The endpoint: a socket, three answers.
//!
//! It runs on the command's own thread, not on one of those that bring pages, and answers one request per connection, so that clients
//! that stay or stall hold few places, and those not for long.

use super::metrics;
use crate::status::{Status, Summary, TaskMissing};
use anyhow::{Context, Result};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
    serve::Listener,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde::Serialize;
use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    task::JoinHandle,
};

/// A scraper, a health check, somebody with curl: each needs one.
const MOST_CONNECTIONS: usize = 8;
/// From the connection to the last byte of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How an address says that it is a path.
const UNIX: &str = "unix:";

/// Serves until dropped.
pub(crate) struct Endpoint {
    task: JoinHandle<()>,
    /// A socket of ours, to be removed.
    path: Option<PathBuf>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(path) = &self.path {
            // Whoever removed it before did what was to be done.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Listens on `address`, if one is given. To be called on a runtime, before anything is restored: an address that cannot be had is an error.
pub(crate) fn endpoint(address: Option<&str>, status: &Arc<Status>) -> Result<Option<Endpoint>> {
    let Some(address) = address else { return Ok(None) };
    let router = router(status.clone());
    Ok(Some(match address.strip_prefix(UNIX) {
        Some(path) => {
            let path = PathBuf::from(path);
            let listener = bind_path(&path).with_context(|| format!("cannot listen on {address} for --metrics"))?;
            Endpoint { task: tokio::spawn(serve(listener, router, PATIENCE)), path: Some(path) }
        }
        None => {
            let listener = bind_port(address).with_context(|| {
                format!(
                    "cannot listen on {address} for --metrics (another port, or port 0 for any that is free, may do)"
                )
            })?;
            tracing::info!("metrics on http://{}/metrics", listener.local_addr()?);
            Endpoint { task: tokio::spawn(serve(listener, router, PATIENCE)), path: None }
        }
    }))
}

fn bind_port(address: &str) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// A socket that nobody listens on is what an agent that was killed has left: it is replaced. Anything else stays.
fn bind_path(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match UnixStream::connect(path) {
            Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused && is_socket(path) => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)
            }
            _ => Err(error),
        },
        bound => bound,
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

async fn serve<L: Listener>(mut listener: L, router: Router, patience: Duration) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    while let Ok(place) = places.clone().acquire_owned().await {
        // It deals with errors itself: waits a second, tries again.
        let (socket, _) = listener.accept().await;
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).keep_alive(false);
            match tokio::time::timeout(patience, builder.serve_connection(TokioIo::new(socket), service)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!("metrics: {error}"),
                Err(_) => tracing::debug!("metrics: a client took longer than {patience:?}"),
            }
            drop(place);
        });
    }
}

fn router(status: Arc<Status>) -> Router {
    Router::new()
        .route("/metrics", get(prometheus))
        .route("/status", get(tell))
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(|| async { (StatusCode::NOT_FOUND, "here are /metrics, /status and /healthz\n") })
        .with_state(status)
}

async fn prometheus(State(status): State<Arc<Status>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::text(&status))
}

/// What the command prints at its end, as it stands now.
#[derive(Serialize)]
struct Told {
    #[serde(flatten)]
    summary: Summary,
    outage: bool,
    tasks: Vec<TaskMissing>,
}

async fn tell(State(status): State<Arc<Status>>) -> impl IntoResponse {
    Json(Told { summary: status.summary(), outage: status.outage.load(Relaxed), tasks: status.tasks.rows() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

    fn status() -> Arc<Status> {
        Arc::new(Status::new(Instant::now()))
    }

    async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn answers_on_a_socket_that_goes_away_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let address = format!("unix:{}", path.display());
        let status = status();
        status.faults.store(7, Relaxed);
        let endpoint = endpoint(Some(&address), &status).unwrap();
        let ask = async |what| get(tokio::net::UnixStream::connect(&path).await.unwrap(), what).await;
        assert!(ask("/metrics").await.contains("\npageferry_agent_faults_total 7\n"));
        assert!(ask("/healthz").await.ends_with("\r\n\r\nok\n"));
        let told = ask("/status").await;
        let told: serde_json::Value = serde_json::from_str(told.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!((&told["faults"], &told["outage"]), (&7.into(), &false.into()));
        assert!(ask("/").await.starts_with("HTTP/1.1 404 "));
        drop(endpoint);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn an_address_in_use_is_an_error_that_names_it() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let error = endpoint(Some(&address), &status()).err().unwrap();
        assert!(format!("{error:#}").contains(&address), "{error:#}");
        assert!(endpoint(None, &status()).unwrap().is_none());
    }

    #[tokio::test]
    async fn only_a_socket_that_nobody_serves_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let address = format!("unix:{}", path.display());
        let living = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(endpoint(Some(&address), &status()).is_err());
        drop(living);
        drop(endpoint(Some(&address), &status()).unwrap());
        std::fs::write(&path, "precious").unwrap();
        assert!(endpoint(Some(&address), &status()).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    /// As many clients as there are places, none of which says anything: the next one is served all the same.
    #[tokio::test]
    async fn silent_clients_lose_their_places() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = bind_path(&path).unwrap();
        tokio::spawn(serve(listener, router(status()), Duration::from_millis(50)));
        let mut silent = Vec::new();
        for _ in 0..MOST_CONNECTIONS {
            silent.push(tokio::net::UnixStream::connect(&path).await.unwrap());
        }
        let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        assert!(get(stream, "/healthz").await.ends_with("ok\n"));
    }
}
