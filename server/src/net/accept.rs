//! The accept loop.

use super::patience::Patience;
use crate::{
    limits::{HTTP2_STREAMS, Limits, SEND_BUFFER},
    metrics::Metrics,
};
use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use std::{
    future::Future,
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{net::TcpListener, sync::Semaphore};

/// The pause after a failed accept: it doubles up to the second.
const BACK_OFF: [Duration; 2] = [Duration::from_millis(5), Duration::from_secs(1)];

/// Serves `app` until `stop` is done, then lets running answers finish. Gives the number of connections that had to be cut.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Router,
    limits: Limits,
    metrics: Arc<Metrics>,
    stop: impl Future<Output = ()>,
) -> u64 {
    let builder = Arc::new(builder(limits));
    let places = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut stop = pin!(stop);
    let mut back_off = BACK_OFF[0];
    loop {
        // A place first: whoever finds none waits in the kernel's queue, not in our memory.
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accepted => accepted,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) if is_about_one_connection(&error) => continue,
            Err(error) => {
                // Out of file descriptors or memory: trying at once would only burn what is left.
                metrics.accept_errors.fetch_add(1, Relaxed);
                tracing::warn!("accept: {error}; next try in {back_off:?}");
                tokio::select! {
                    () = &mut stop => break,
                    () = tokio::time::sleep(back_off) => {}
                }
                back_off = (back_off * 2).min(BACK_OFF[1]);
                continue;
            }
        };
        back_off = BACK_OFF[0];
        // Without it, the second packet of a small answer waits for the client's delayed acknowledgement: 40 ms a fault.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!("TCP_NODELAY: {error}");
        }
        metrics.accepted.fetch_add(1, Relaxed);
        metrics.connections.fetch_add(1, Relaxed);
        let io = Patience::new(TokioIo::new(socket), limits.header, limits.stall);
        let service = TowerToHyperService::new(app.clone());
        let connection = builder.serve_connection(io, service).into_owned();
        let connection = graceful.watch(connection);
        let metrics = metrics.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("connection: {error}");
            }
            metrics.connections.fetch_sub(1, Relaxed);
            drop(place);
        });
    }
    drop(listener);
    match tokio::time::timeout(limits.grace, graceful.shutdown()).await {
        Ok(()) => 0,
        Err(_) => metrics.connections.load(Relaxed),
    }
}

fn builder(limits: Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.header).max_buf_size(SEND_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.stall)
        .keep_alive_timeout(limits.stall)
        .max_concurrent_streams(HTTP2_STREAMS)
        .max_send_buf_size(SEND_BUFFER);
    builder
}

/// The client was gone before it was accepted: nothing is wrong here.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::ConnectionAborted | K::ConnectionReset | K::ConnectionRefused | K::Interrupted)
}
