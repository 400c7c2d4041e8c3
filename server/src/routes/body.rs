//! Bodies of requests: so long, so soon, and no longer or later.

use crate::{
    address,
    problem::{Kind, Problem},
};
use axum::body::{Body, Bytes, to_bytes};
use http::{HeaderMap, header};
use std::time::Duration;

/// An error unless the request says that its body is JSON.
pub(super) fn is_json(request: &HeaderMap) -> Result<(), Problem> {
    let media_type = request.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let essence = if essence.is_empty() { "of no type".to_owned() } else { address::quoted(essence) };
    let next = "Send Content-Type: application/json, with curl: -H 'Content-Type: application/json'.";
    Err(Problem::new(Kind::NotJson, format!("The body is {essence}."), next))
}

/// All of a body, of at most so many bytes.
pub(super) async fn read(request: &HeaderMap, body: Body, most: usize, patience: Duration) -> Result<Bytes, Problem> {
    let too_large =
        || Problem::new(Kind::TooLarge, format!("The body has more than {most} bytes."), "Send less at once.");
    let length = request.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > most as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(patience, to_bytes(body, most)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error))
            if std::error::Error::source(&error).is_some_and(|e| e.is::<http_body_util::LengthLimitError>()) =>
        {
            Err(too_large())
        }
        Ok(Err(error)) => Err(Problem::new(Kind::BadBody, format!("The body broke off: {error}."), "Send it again.")),
        Err(_) => Err(Problem::new(
            Kind::SlowBody,
            format!("The body was not there after {} seconds.", patience.as_secs()),
            "Send it again, at once.",
        )
        .header(header::CONNECTION, "close")),
    }
}
