//! What an object store's error means, and what to do about it.
//!
//! Providers tell by a status and a code in XML (S3: "Error responses" of its API reference; others use the same or similar words). The crate
//! hands on both as text.

use super::one_line;
use crate::{Error, Retry};
use object_store::Error as StoreError;
use std::time::Duration;

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    Reading,
    Writing,
    /// A put that depends on what is there.
    WritingIf,
}

/// How long to stay away from a store that says it is asked too much; they name no time.
const SLOW_DOWN: Duration = Duration::from_secs(1);
/// Longest text of a store's that is shown.
const SHOWN: usize = 300;

/// Turns an error of the crate into one of ours.
pub(crate) fn explain(object: String, doing: Doing, error: &StoreError) -> Error {
    let text = one_line(error);
    let what = |what: String| Error::Unsupported { object: object.clone(), what };
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let status = status(&text);
    if has(&["NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"]) {
        return what("there is no such bucket; make it, or check its name and the endpoint".into());
    }
    if has(&["RequestTimeTooSkewed"]) {
        return what("refused for the time of the request: set this machine's clock, it is off by too much".into());
    }
    if has(&[
        "AuthorizationHeaderMalformed",
        "PermanentRedirect",
        "IllegalLocationConstraint",
        "Received redirect without LOCATION",
    ]) {
        let region =
            between(&text, "<Region>", "</Region>").map(|region| format!(": it is {region}")).unwrap_or_default();
        return what(format!("the bucket is in another region{region}; set AWS_REGION"));
    }
    if has(&["SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidClientTokenId", "ExpiredToken", "InvalidToken"])
        || status == Some(401)
    {
        let code = between(&text, "<Code>", "</Code>").unwrap_or("401 Unauthorized");
        return what(format!(
            "wrong credentials ({code}); check those in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or their like)"
        ));
    }
    if has(&["169.254.169.254", "metadata.google.internal", "instance metadata", "task credentials"]) {
        return what(
            "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or their like, or AWS_SKIP_SIGNATURE=true for a public bucket"
                .into(),
        );
    }
    match error {
        StoreError::NotFound { .. } => return Error::NotFound { object },
        StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } => {
            return what("somebody else has put another one there meanwhile".into());
        }
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
            let verb = if doing == Doing::Reading { "read" } else { "write" };
            return what(format!("access denied: these credentials may not {verb} there; check the bucket's policy"));
        }
        StoreError::NotImplemented { .. } | StoreError::NotSupported { .. } if doing == Doing::WritingIf => {
            return no_condition(object);
        }
        _ => {}
    }
    match status {
        Some(403) => {
            let verb = if doing == Doing::Reading { "read" } else { "write" };
            what(format!("access denied: these credentials may not {verb} there; check the bucket's policy"))
        }
        Some(404) => Error::NotFound { object },
        Some(400 | 501) if doing == Doing::WritingIf => no_condition(object),
        Some(429 | 503) => {
            Error::Unavailable { object, problem: "asked too often (SlowDown)".into(), retry: Retry::After(SLOW_DOWN) }
        }
        Some(408 | 500..) => Error::unavailable(object, shown(&text)),
        Some(_) => what(shown(&text)),
        None if has(&["error sending request", "onnect", "dns error", "timed out"]) => {
            Error::Unavailable { object, problem: shown(&text), retry: Retry::Unreachable }
        }
        None => Error::unavailable(object, shown(&text)),
    }
}

fn no_condition(object: String) -> Error {
    let what = "the bucket does not know conditional puts, which keep two writers from mixing; if nobody else writes there, say --no-conditional-put";
    Error::Unsupported { object, what: what.into() }
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    Some(text.split_once(start)?.1.split_once(end)?.0)
}

/// The answer's status, if there was one.
fn status(text: &str) -> Option<u16> {
    text.split_once("status code: ")?.1.get(..3)?.parse().ok()
}

/// What a store's message says, without the parts that nobody reads.
fn shown(text: &str) -> String {
    let code = between(text, "<Code>", "</Code>");
    let message = between(text, "<Message>", "</Message>");
    match (code, message) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => text.chars().take(SHOWN).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(doing: Doing, text: &str) -> Error {
        explain("s3://bucket/x".into(), doing, &StoreError::Generic { store: "S3", source: text.into() })
    }

    #[test]
    fn each_tells_what_to_change() {
        let answer = |status: &str, code: &str| {
            format!(
                "Server returned non-2xx status code: {status}: <Error><Code>{code}</Code><Region>eu-west-1</Region></Error>"
            )
        };
        for (status, code, words) in [
            ("404 Not Found", "NoSuchBucket", "no such bucket"),
            ("403 Forbidden", "RequestTimeTooSkewed", "clock"),
            ("400 Bad Request", "AuthorizationHeaderMalformed", "it is eu-west-1; set AWS_REGION"),
            ("403 Forbidden", "SignatureDoesNotMatch", "wrong credentials (SignatureDoesNotMatch)"),
            ("403 Forbidden", "InvalidAccessKeyId", "wrong credentials"),
            ("403 Forbidden", "AccessDenied", "may not read there"),
        ] {
            let error = explained(Doing::Reading, &answer(status, code));
            assert!(error.to_string().contains(words) && !error.is_transient(), "{error}");
        }
        let error = explained(Doing::WritingIf, &answer("501 Not Implemented", "NotImplemented"));
        assert!(error.to_string().contains("--no-conditional-put"), "{error}");
    }

    #[test]
    fn what_may_pass_is_worth_another_attempt() {
        for (text, retry) in [
            (
                "Server returned non-2xx status code: 503 Slow Down: <Error><Code>SlowDown</Code></Error>",
                Retry::After(SLOW_DOWN),
            ),
            ("Server returned non-2xx status code: 500 Internal Server Error: ", Retry::Soon),
            ("error sending request for url (http://127.0.0.1:1/): client error (Connect)", Retry::Unreachable),
            ("error decoding response body", Retry::Soon),
        ] {
            let error = explained(Doing::Reading, text);
            assert!(error.is_transient() && error.retry() == retry, "{error:?}");
        }
    }
}
