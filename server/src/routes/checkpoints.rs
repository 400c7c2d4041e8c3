//! `GET /checkpoints`, and everything below each of them.

use super::{Shared, params::PathOf};
use crate::{net::Activity, problem::Problem};
use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{Uri, header};
use serde_json::json;
use std::{collections::HashMap, sync::Arc};
use tower::ServiceExt;

pub(super) async fn list(State(app): Shared) -> Result<Response, Problem> {
    let rows = app.checkpoints()?.list(&app).await?;
    Ok(([(header::CACHE_CONTROL, "no-cache")], Json(json!({ "checkpoints": *rows }))).into_response())
}

/// Hands the request on to who answers for that checkpoint, as if the rest of the path were all of it.
pub(super) async fn below(
    State(app): Shared,
    PathOf(parameters): PathOf<HashMap<String, String>>,
    request: Request,
) -> Result<Response, Problem> {
    let name = parameters.get("checkpoint").map_or("", String::as_str);
    let router = app.checkpoints()?.router(&app, name).await?;
    let (parts, body) = request.into_parts();
    // As it came: what is percent-encoded stays so.
    let rest = parts.uri.path().splitn(4, '/').nth(3).unwrap_or("");
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut inner = Request::new(body);
    *inner.uri_mut() = Uri::try_from(format!("/{rest}{query}")).unwrap_or(Uri::from_static("/"));
    (*inner.method_mut(), *inner.version_mut(), *inner.headers_mut()) = (parts.method, parts.version, parts.headers);
    if let Some(connection) = parts.extensions.get::<Arc<Activity>>() {
        inner.extensions_mut().insert(connection.clone());
    }
    let mut answer = match router.oneshot(inner).await {
        Ok(answer) => answer,
        Err(never) => match never {},
    };
    answer.extensions_mut().clear();
    Ok(answer)
}
