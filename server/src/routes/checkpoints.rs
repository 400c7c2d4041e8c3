//! `GET /checkpoints`, and everything below each of them.

use super::{Shared, not_modified, params::PathOf};
use crate::{net::Activity, problem::Problem};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header, request::Parts};
use std::{collections::HashMap, sync::Arc};
use tower::ServiceExt;

pub(super) async fn list(State(app): Shared, request: HeaderMap) -> Result<Response, Problem> {
    let list = app.checkpoints().await?.list(&app).await?;
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(header::ETAG, list.etag.header());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if list.etag.is_known_to(&request) {
        return Ok(not_modified(headers));
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok((headers, list.json).into_response())
}

/// Hands the request on to who answers for that checkpoint, as if the rest of the path were all of it.
pub(super) async fn below(
    State(app): Shared,
    PathOf(parameters): PathOf<HashMap<String, String>>,
    request: Request,
) -> Result<Response, Problem> {
    let name = parameters.get("checkpoint").map_or("", String::as_str);
    let checkpoints = app.checkpoints().await?;
    let (parts, body) = request.into_parts();
    // As it came: what is percent-encoded stays so.
    let rest = parts.uri.path().splitn(4, '/').nth(3).unwrap_or("");
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let answer = match checkpoints.router(&app, name).await {
        Ok(router) => Ok(hand_on(router, &parts, format!("/{rest}{query}"), body).await),
        Err(problem) => Err(problem),
    };
    if answer.as_ref().is_ok_and(|answer| answer.status() != StatusCode::NOT_FOUND) {
        return answer;
    }
    // A pack may outlive the store that it came with, for the sake of others.
    match checkpoints.sharer(&app, name, rest).await {
        Some(router) => Ok(hand_on(router, &parts, format!("/{name}/{rest}"), Body::empty()).await),
        None => answer,
    }
}

async fn hand_on(router: Router, parts: &Parts, uri: String, body: Body) -> Response {
    let mut inner = Request::new(body);
    *inner.uri_mut() = Uri::try_from(uri).unwrap_or(Uri::from_static("/"));
    (*inner.method_mut(), *inner.version_mut()) = (parts.method.clone(), parts.version);
    *inner.headers_mut() = parts.headers.clone();
    if let Some(connection) = parts.extensions.get::<Arc<Activity>>() {
        inner.extensions_mut().insert(connection.clone());
    }
    let mut answer = match router.oneshot(inner).await {
        Ok(answer) => answer,
        Err(never) => match never {},
    };
    answer.extensions_mut().clear();
    answer
}
