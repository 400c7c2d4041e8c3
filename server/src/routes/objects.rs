//! `GET /store/{object}`: the store byte for byte, as any static host would serve it.

use super::{Shared, bytes, no_such_path, not_modified, params::PathOf};
use crate::{
    address::quoted,
    multipart,
    observe::RouteLabel,
    places::{Admission, Size},
    problem::{Kind, Problem},
    range_header::{self, Asked},
    served::{Object, Served},
};
use axum::{
    body::{Body, Bytes},
    extract::State,
    response::{IntoResponse, Response},
};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use page_store::MANIFEST_NAME;
use std::{ops::Range, sync::Arc};

pub(super) async fn object(
    State(app): Shared,
    admission: Admission,
    PathOf(name): PathOf<String>,
    method: Method,
    request: HeaderMap,
) -> Result<Response, Problem> {
    let served = &app.served().await?;
    match served.objects.get(&name) {
        Some(object) => answer(served, &admission, &name, object, &method, &request).await,
        None => Err(Problem::new(
            Kind::NoSuchObject,
            format!("The store has no object {}.", quoted(&name)),
            "GET /store/checkpoint.json names every object of the store, and only those are served.",
        )),
    }
}

/// What no route takes. The store is served at the root as well, so that the bare address of a server is the address of a store; and beside
/// `/store` are the packs that it shares with stores beside it.
pub(super) async fn at_the_root(
    State(app): Shared,
    admission: Admission,
    method: Method,
    uri: Uri,
    request: HeaderMap,
) -> Result<Response, Problem> {
    let path = uri.path().trim_start_matches('/');
    let served = &app.served().await?;
    let shared = || served.objects.get_key_value(&format!("../{path}"));
    let Some((name, object)) = served.objects.get_key_value(path).or_else(shared) else {
        return Err(no_such_path(uri.path()));
    };
    let answer = match method {
        Method::GET | Method::HEAD => answer(served, &admission, name, object, &method, &request).await,
        _ => Err(Problem::new(Kind::MethodNotAllowed, format!("{method} is not known here."), "Use GET or HEAD.")
            .header(header::ALLOW, "GET,HEAD")),
    };
    let mut answer = answer.unwrap_or_else(IntoResponse::into_response);
    answer.extensions_mut().insert(RouteLabel("/store/{object}"));
    Ok(answer)
}

pub(super) async fn answer(
    served: &Arc<Served>,
    admission: &Admission,
    name: &str,
    object: &Object,
    method: &Method,
    request: &HeaderMap,
) -> Result<Response, Problem> {
    let immutable = name != MANIFEST_NAME;
    // Room for all that an answer has: a map that grows is built twice.
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::ETAG, object.etag.header());
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static(if immutable { "public, max-age=31536000, immutable" } else { "no-cache" }),
    );
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if object.etag.is_refused_by(request) {
        return Err(Problem::new(
            Kind::PreconditionFailed,
            format!("{name} is {} now.", object.etag.header().to_str().unwrap_or_default()),
            "Begin again with GET /store/checkpoint.json.",
        ));
    }
    if object.etag.is_known_to(request) {
        return Ok(not_modified(headers));
    }

    // Ranges are defined for GET only (RFC 9110, section 14.2); two Range headers are no Range header at all.
    let mut ranges = request.get_all(header::RANGE).iter();
    let range = match (ranges.next(), ranges.next()) {
        (Some(range), None) if method == Method::GET && object.etag.allows_range(request) => range.to_str().ok(),
        _ => None,
    };
    let asked = range.map_or(Asked::Whole, |range| range_header::parse(range, object.size));
    let (status, content_type, length, body) = match asked {
        Asked::Whole => {
            let body =
                if method == Method::HEAD { Body::empty() } else { whole(served, admission, name, object).await? };
            (StatusCode::OK, Some(HeaderValue::from_static(object.content_type)), object.size, body)
        }
        Asked::Parts(parts) => match <[Range<u64>; 1]>::try_from(parts) {
            Ok([part]) => {
                let value = format!("bytes {}-{}/{}", part.start, part.end - 1, object.size);
                headers.extend(HeaderValue::try_from(value).ok().map(|v| (header::CONTENT_RANGE, v)));
                let length = part.end - part.start;
                let place = admission.place(Size::Object(length)).await?;
                let body = bytes::body(place, read(served, name, part).await?);
                (StatusCode::PARTIAL_CONTENT, Some(HeaderValue::from_static(object.content_type)), length, body)
            }
            Err(parts) => {
                let parts = multipart::Parts::new(parts, object);
                let (content_type, length) = (HeaderValue::try_from(parts.content_type()).ok(), parts.length());
                let place = admission.place(Size::Object(length)).await?;
                let (served, name) = (served.clone(), name.to_owned());
                let read = move |part| {
                    let (served, name) = (served.clone(), name.clone());
                    async move { read(&served, &name, part).await }
                };
                let body = bytes::body(place, parts.body(read));
                (StatusCode::PARTIAL_CONTENT, content_type, length, body)
            }
        },
        Asked::Unsatisfiable(why) => {
            return Err(Problem::new(
                Kind::RangeNotSatisfiable,
                format!("{name} has {} bytes, and {why}.", object.size),
                "Ask for bytes=first-last with both below that size, for bytes=-length, or for everything.",
            )
            .header(header::CONTENT_RANGE, format!("bytes */{}", object.size)));
        }
    };
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.extend(content_type.map(|v| (header::CONTENT_TYPE, v)));
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

async fn whole(served: &Arc<Served>, admission: &Admission, name: &str, object: &Object) -> Result<Body, Problem> {
    Ok(match (name, object.size) {
        (MANIFEST_NAME, _) => Body::from(served.manifest_json.clone()),
        (_, 0) => Body::empty(),
        (_, size) => {
            let place = admission.place(Size::Object(size)).await?;
            bytes::body(place, read(served, name, 0..size).await?)
        }
    })
}

/// The bytes of a part, as the store's backend reads them: a chunk at a time, when the connection has room for it.
async fn read(
    served: &Served,
    name: &str,
    part: Range<u64>,
) -> Result<BoxStream<'static, Result<Bytes, Problem>>, Problem> {
    if name == MANIFEST_NAME {
        let ends = (usize::try_from(part.start), usize::try_from(part.end));
        let bytes = match ends {
            (Ok(start), Ok(end)) if start <= end && end <= served.manifest_json.len() => {
                served.manifest_json.slice(start..end)
            }
            _ => Bytes::new(),
        };
        return Ok(futures::stream::once(async { Ok(bytes) }).boxed());
    }
    let stream = served.store.backend().get_range(name, part).await?;
    Ok(stream.map_err(Problem::from).boxed())
}
