//! Counts and logs every request, until the last byte of its answer.

use crate::{
    access_log::Entry,
    auth::Caller,
    metrics::Metrics,
    net::{Activity, Engaged, Peer},
    problem::{Kind, Problem},
    request_id::{self, REQUEST_ID},
    routes::App,
};
use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{
    HeaderValue, Method, Uri, Version,
    header::{CONTENT_LENGTH, RETRY_AFTER, USER_AGENT},
};
use http_body::{Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Instant,
};

/// Set by handlers outside the router on their answers: the route that they stand in for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RouteLabel(pub(crate) &'static str);

/// The middleware around everything.
pub(crate) async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    // Clones of these only count references.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let uri = request.uri().clone();
    let request_id = request_id::of(request.headers());
    let noted = app.doors.access_log.is_some().then(|| Noted::new(&app, &request, began, &request_id));
    let connection = request.extensions().get::<Arc<Activity>>().cloned();
    let engaged = connection.map(|connection| Engaged::new(connection, request.version() >= Version::HTTP_2));
    let mut guard = InFlight::new(app.metrics.clone(), engaged);
    let mut response = match tokio::time::timeout(app.limits.answer, next.run(request)).await {
        Ok(response) => response,
        Err(_) => too_slow(&app).into_response(),
    };
    let stand_in = response.extensions().get::<RouteLabel>().map(|label| label.0);
    let route = route.as_ref().map(MatchedPath::as_str).or(stand_in).unwrap_or("unmatched");
    let status = response.status().as_u16();
    app.metrics.answered(&method, route, status);
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        name(&mut response, problem, &request_id);
    }
    response.headers_mut().insert(REQUEST_ID, request_id);
    if let Some(mut noted) = noted {
        noted.status = status;
        noted.caller = response.extensions_mut().remove::<Caller>();
        guard.noted = Some(noted);
    }
    let path = uri.path();
    tracing::debug!(%method, path, status, micros = began.elapsed().as_micros() as u64, "answered");
    let left = response.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    response.map(|inner| Body::new(Counted { inner, left, guard }))
}

/// Puts the request's name into a problem, so that whoever sends it on to us sends that along.
fn name(response: &mut Response, problem: Problem, request_id: &HeaderValue) {
    let body = problem.with("request_id", request_id.to_str().unwrap_or_default()).body();
    response.headers_mut().remove(CONTENT_LENGTH);
    *response.body_mut() = Body::from(body);
}

fn too_slow(app: &App) -> Problem {
    app.metrics.timed_out.fetch_add(1, Relaxed);
    Problem::new(
        Kind::TooSlow,
        format!("The answer did not begin within {} seconds.", app.limits.answer.as_secs()),
        "Try again in a second; if it stays so, look after the store that the server reads from.",
    )
    .header(RETRY_AFTER, "1")
}

/// What the access log says about a request when it is over.
struct Noted {
    app: Arc<App>,
    began: Instant,
    peer: String,
    method: Method,
    uri: Uri,
    request_id: HeaderValue,
    user_agent: Option<HeaderValue>,
    caller: Option<Caller>,
    status: u16,
    bytes: u64,
}

impl Noted {
    fn new(app: &Arc<App>, request: &Request, began: Instant, request_id: &HeaderValue) -> Self {
        let peer = match request.extensions().get::<Peer>() {
            Some(Peer(Some(peer))) => peer.to_string(),
            _ => "unix".to_owned(),
        };
        Self {
            app: app.clone(),
            began,
            peer,
            method: request.method().clone(),
            uri: request.uri().clone(),
            request_id: request_id.clone(),
            user_agent: request.headers().get(USER_AGENT).cloned(),
            caller: None,
            status: 0,
            bytes: 0,
        }
    }

    fn write(&self, whole: bool) {
        let Some(log) = &self.app.doors.access_log else { return };
        log.note(&Entry {
            peer: &self.peer,
            method: self.method.as_str(),
            path: self.uri.path(),
            status: self.status,
            bytes: self.bytes,
            whole,
            duration: self.began.elapsed(),
            request_id: self.request_id.to_str().unwrap_or_default(),
            token: self.caller.as_ref().map(|caller| &*caller.0),
            user_agent: self.user_agent.as_ref().and_then(|value| value.to_str().ok()),
        });
    }
}

struct InFlight {
    metrics: Arc<Metrics>,
    whole: bool,
    noted: Option<Noted>,
    /// Its connection is not idle while this is there.
    _engaged: Option<Engaged>,
}

impl InFlight {
    fn new(metrics: Arc<Metrics>, engaged: Option<Engaged>) -> Self {
        metrics.in_flight.fetch_add(1, Relaxed);
        // Until there is a body, nothing can be cut.
        Self { metrics, whole: true, noted: None, _engaged: engaged }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.in_flight.fetch_sub(1, Relaxed);
        if !self.whole {
            self.metrics.bodies_cut.fetch_add(1, Relaxed);
        }
        if let Some(noted) = &self.noted {
            noted.write(self.whole);
        }
    }
}

struct Counted {
    inner: Body,
    /// Bytes that the header promises and that are still to come. hyper asks for no more once it has them.
    left: Option<u64>,
    guard: InFlight,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                let len = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.guard.metrics.body_bytes.fetch_add(len, Relaxed);
                if let Some(noted) = &mut self.guard.noted {
                    noted.bytes += len;
                }
                self.left = self.left.map(|left| left.saturating_sub(len));
                self.guard.whole = self.left == Some(0) || self.inner.is_end_stream();
            }
            Some(Err(error)) => {
                tracing::debug!("body cut: {error}");
                self.guard.whole = false;
            }
            None => self.guard.whole = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
