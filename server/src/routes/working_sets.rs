//! `PUT /working-sets/{set}`, and the same below `/checkpoints/{checkpoint}`: what a restore has recorded makes the next one fast, wherever that is.

use super::{App, Shared, body, checkpoints, method_not_allowed, objects, params::PathOf};
use crate::{
    address::quoted,
    places::Admission,
    problem::{Kind, Problem},
};
use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use page_store::working_set::check_name;
use serde_json::json;
use std::{collections::HashMap, sync::Arc};

/// Bytes of a recording: some hundred thousand frames. What a set can have of them is less.
const MOST_BYTES: usize = 4 << 20;

/// The objects of a store are served at the root, too, and those of working sets have names such as these paths. Nothing else can be read here.
pub(super) async fn object(
    State(app): Shared,
    admission: Admission,
    PathOf(set): PathOf<String>,
    method: Method,
    request: HeaderMap,
) -> Result<Response, Problem> {
    if !reads(&method) {
        return Err(method_not_allowed(method).await);
    }
    let served = &app.served().await?;
    let name = format!("working-sets/{set}");
    let Some(object) = served.objects.get(&name) else { return Err(method_not_allowed(method).await) };
    let mut answer = objects::answer(served, &admission, &name, object, &method, &request).await?;
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET,HEAD,PUT"));
    Ok(answer)
}

/// The same below the name of a checkpoint, and below what is none.
pub(super) async fn object_below(
    app: Shared,
    path: PathOf<HashMap<String, String>>,
    request: Request,
) -> Result<Response, Problem> {
    let method = request.method().clone();
    if reads(&method) {
        let answer = checkpoints::below(app, path, request).await.into_response();
        if answer.status() != StatusCode::NOT_FOUND {
            return Ok(answer);
        }
    }
    Err(method_not_allowed(method).await)
}

fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

pub(super) async fn put(
    State(app): Shared,
    PathOf(set): PathOf<String>,
    request: HeaderMap,
    sent: Body,
) -> Result<Response, Problem> {
    add(&app, None, set, &request, sent).await
}

pub(super) async fn put_below(
    State(app): Shared,
    PathOf((name, set)): PathOf<(String, String)>,
    request: HeaderMap,
    sent: Body,
) -> Result<Response, Problem> {
    add(&app, Some(name), set, &request, sent).await
}

async fn add(
    app: &Arc<App>,
    name: Option<String>,
    set: String,
    request: &HeaderMap,
    sent: Body,
) -> Result<Response, Problem> {
    if !app.doors.take_working_sets() {
        return Err(Problem::new(
            Kind::ReadOnly,
            "This server takes no working sets.",
            "Start it with --token-file, and a token that has the scope working-sets; or with --allow-working-sets.",
        ));
    }
    check_name(&set).map_err(|error| {
        Problem::new(Kind::BadPath, format!("{} is {error}.", quoted(&set)), "Put such a name at the end of the path.")
    })?;
    let trace = body::read(request, sent, MOST_BYTES, app.limits.stall).await?;
    let added = app.checkpoints().await?.add_working_set(app, name, set, trace).await?;
    let answer = json!({ "name": added.name, "object": added.object.object, "frames": added.frames, "bytes": added.object.size });
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}
