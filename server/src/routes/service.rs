//! What is said about the server itself.

use super::{Shared, not_ready};
use crate::{
    metrics::Moment,
    problem::{Problem, explain_all},
};
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::header;

const TEXT: &str = "text/plain; charset=utf-8";

fn text(content_type: &'static str, body: impl IntoResponse) -> Response {
    ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache")], body).into_response()
}

pub(super) async fn front(State(app): Shared) -> Response {
    let examples = if app.is_ready() {
        match app.served().await {
            Ok(served) => crate::server::examples(&served, "http://this-server"),
            Err(_) => "  curl http://this-server/checkpoints\n".to_owned(),
        }
    } else {
        "The checkpoint is still being opened.\n".to_owned()
    };
    let body = format!(
        "Pageferry {}: a CRIU checkpoint, page by page.\n\n{examples}\n\
         /pid            the tasks\n/store/checkpoint.json   the page store (pageferry-agent restore http://this-server/store)\n\
         /checkpoints    all of them, each with the same below /checkpoints/<name>\n\
         /openapi.yaml   everything that is served here\n/problems       what can be wrong\n/metrics        for Prometheus\n",
        env!("CARGO_PKG_VERSION")
    );
    text(TEXT, body)
}

pub(super) async fn healthz() -> Response {
    text(TEXT, "ok\n")
}

pub(super) async fn readyz(State(app): Shared) -> Result<Response, Problem> {
    match app.is_ready() {
        true => Ok(text(TEXT, "ready\n")),
        false => Err(not_ready()),
    }
}

pub(super) async fn metrics(State(app): Shared) -> Response {
    let moment = Moment { ready: app.is_ready(), reserved: app.places.used(), waiting: app.places.waiting() as u64 };
    text("text/plain; version=0.0.4; charset=utf-8", app.metrics.text(moment))
}

pub(super) async fn openapi() -> Response {
    // RFC 9512.
    text("application/yaml", crate::OPENAPI)
}

pub(super) async fn problems() -> Response {
    text(TEXT, explain_all())
}
