//! One connection, from its first byte to its end.

use super::{
    activity::{Activity, End},
    crowd::Place,
    listen::Socket,
    patience::Patience,
};
use crate::{
    limits::{HEAD_BYTES, HEADERS, HTTP2_STREAMS, Limits, RESET_STREAMS, SEND_BUFFER, UNSENT, UPLOAD_WINDOW},
    metrics::Metrics,
    tls::Tls,
};
use axum::{Router, body::Body};
use http::Request;
use hyper::{body::Incoming, service::Service};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use std::{
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

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

/// A connection that has a place.
pub(super) struct Arrived {
    pub(super) socket: Socket,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) app: Router,
    pub(super) place: Place,
    /// For a handshake.
    pub(super) patience: Duration,
}

/// Who is at the other end; `None` on a unix socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) Option<SocketAddr>);

/// Serves a connection until it ends, or is told to.
pub(super) async fn serve(builder: &auto::Builder<TokioExecutor>, arrived: Arrived, metrics: &Metrics) {
    let Arrived { socket, tls, app, place, patience } = arrived;
    let (socket, peer) = match socket {
        Socket::Unix(socket) => return speak(builder, socket, app, &place, Peer(None)).await,
        Socket::Tcp(socket, peer) => (socket, Peer(Some(peer))),
    };
    // Without it, the second packet of a small answer waits for the client's delayed acknowledgement: 40 ms a fault.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!("TCP_NODELAY: {error}");
    }
    // The kernel would take up to 4 MiB (net.ipv4.tcp_wmem) for a client that does not read.
    if let Err(error) = socket2::SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT) {
        tracing::debug!("TCP_NOTSENT_LOWAT: {error}");
    }
    match tls {
        None => speak(builder, socket, app, &place, peer).await,
        Some(tls) => {
            if let Some(socket) = shake_hands(&tls, socket, &place, patience, metrics).await {
                speak(builder, socket, app, &place, peer).await;
            }
        }
    }
}

/// TLS begins; the connection is idle meanwhile, and gives way as such. One that does not come to an end is a header that does not.
async fn shake_hands(
    tls: &Tls,
    socket: TcpStream,
    place: &Place,
    patience: Duration,
    metrics: &Metrics,
) -> Option<TlsStream<TcpStream>> {
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(patience, tls.acceptor().accept(socket)) => shaken,
        _ = place.activity.told(None) => return None,
    };
    match shaken {
        Ok(Ok(socket)) => return Some(socket),
        Ok(Err(error)) => {
            metrics.ended.handshake.fetch_add(1, Relaxed);
            tracing::debug!("TLS: {error}");
        }
        Err(_) => {
            metrics.ended.slow_header.fetch_add(1, Relaxed);
            tracing::debug!("TLS: no handshake in time");
        }
    }
    None
}

async fn speak<S>(builder: &auto::Builder<TokioExecutor>, socket: S, app: Router, place: &Place, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = &place.activity;
    let io = Patience::new(TokioIo::new(socket), activity.clone());
    let service = Labelled { inner: TowerToHyperService::new(app), activity: activity.clone(), peer };
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
    peer: Peer,
}

impl Service<Request<Incoming>> for Labelled {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.activity.clone());
        request.extensions_mut().insert(self.peer);
        self.inner.call(request)
    }
}
