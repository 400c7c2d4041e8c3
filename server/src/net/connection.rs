//! One connection, from its first byte to its end.

use super::{
    activity::{Activity, End},
    crowd::Place,
    patience::Patience,
};
use crate::limits::{HEAD_BYTES, HEADERS, HTTP2_STREAMS, Limits, RESET_STREAMS, SEND_BUFFER, UNSENT, UPLOAD_WINDOW};
use axum::{Router, body::Body};
use http::Request;
use hyper::{body::Incoming, service::Service};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use std::{pin::pin, sync::Arc};
use tokio::net::TcpStream;

/// How HTTP is spoken.
pub(super) fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // How long a header may take is the warden's business, which knows an idle connection from a slow one.
        .header_read_timeout(None)
        .max_headers(HEADERS)
        .max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.stall)
        .keep_alive_timeout(limits.stall)
        .max_concurrent_streams(HTTP2_STREAMS)
        .max_pending_accept_reset_streams(RESET_STREAMS)
        .max_local_error_reset_streams(RESET_STREAMS)
        .max_header_list_size(HEAD_BYTES as u32)
        .initial_stream_window_size(UPLOAD_WINDOW)
        .initial_connection_window_size(UPLOAD_WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    builder
}

/// Serves a connection until it ends, or is told to.
pub(super) async fn serve(builder: &auto::Builder<TokioExecutor>, socket: TcpStream, app: Router, place: Place) {
    // Without it, the second packet of a small answer waits for the client's delayed acknowledgement: 40 ms a fault.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!("TCP_NODELAY: {error}");
    }
    // The kernel would take up to 4 MiB (net.ipv4.tcp_wmem) for a client that does not read.
    if let Err(error) = socket2::SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT) {
        tracing::debug!("TCP_NOTSENT_LOWAT: {error}");
    }
    let activity = &place.activity;
    let io = Patience::new(TokioIo::new(socket), activity.clone());
    let service = Labelled { inner: TowerToHyperService::new(app), activity: activity.clone() };
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut told = None;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!("connection: {error}");
                }
                return;
            }
            how = activity.told(told) => match how {
                End::Politely => connection.as_mut().graceful_shutdown(),
                End::Now => return,
            }
        }
        told = Some(End::Politely);
    }
}

/// Tells every request which connection it came by.
struct Labelled {
    inner: TowerToHyperService<Router>,
    activity: Arc<Activity>,
}

impl Service<Request<Incoming>> for Labelled {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.activity.clone());
        self.inner.call(request)
    }
}
