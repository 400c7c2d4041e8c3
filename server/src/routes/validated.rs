//! Entity tags for what follows from the checkpoint and the request alone, and is not asked for often enough to be hashed by its bytes.

use super::{App, not_modified};
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use page_store::{Digest, MANIFEST_NAME};
use std::sync::Arc;

use crate::conditional::ETag;

/// The middleware around such routes. The tag is strong: the same checkpoint, path, query, content type and version of the server give the
/// same bytes.
pub(super) async fn tag(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let conditions = request.headers().clone();
    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let served = match app.served().await {
        Ok(served) => served,
        Err(problem) => return problem.into_response(),
    };
    let mut response = next.run(request).await;
    // The short paths may have another checkpoint by now: then it is not known which of them the answer is about.
    let is_sure = response.status() == StatusCode::OK && app.served().await.is_ok_and(|now| Arc::ptr_eq(&served, &now));
    let checkpoint = served.objects.get(MANIFEST_NAME).filter(|_| is_sure).map(|object| object.etag.header());
    let Some(checkpoint) = checkpoint else { return response };
    let mut seed = Vec::new();
    let content_type = response.headers().get(header::CONTENT_TYPE);
    for part in [checkpoint.as_bytes(), env!("CARGO_PKG_VERSION").as_bytes(), path.as_bytes()]
        .into_iter()
        .chain(content_type.map(|value| value.as_bytes()))
    {
        seed.extend_from_slice(part);
        seed.push(0);
    }
    let etag = ETag::strong(Digest::of(&seed));
    response.headers_mut().insert(header::ETAG, etag.header());
    if !etag.is_known_to(&conditions) {
        return response;
    }
    let kept = [header::ETAG, header::CACHE_CONTROL, header::VARY];
    let kept = kept.into_iter().filter_map(|name| Some((name.clone(), response.headers().get(&name)?.clone())));
    not_modified(kept.collect::<HeaderMap>())
}
