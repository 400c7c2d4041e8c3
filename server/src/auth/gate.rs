//! In front of every route: lets through whoever may come, and says to the others what they lack.

use super::Scope;
use crate::{
    problem::{Kind, Problem},
    routes::App,
};
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, header};
use std::sync::Arc;

/// Who asked: the name of the token, for the access log. Set on answers.
#[derive(Clone, Debug)]
pub(crate) struct Caller(pub(crate) Arc<str>);

/// The middleware of a server that is closed to somebody.
pub(crate) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let caller = match admit(&app, &request) {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    let mut response = next.run(request).await;
    keep_private(response.headers_mut());
    if let Some(caller) = caller {
        response.extensions_mut().insert(caller);
    }
    response
}

fn admit(app: &App, request: &Request) -> Result<Option<Caller>, Problem> {
    let (Some(tokens), Some(scope)) = (&app.doors.tokens, Scope::required(request.method(), request.uri().path()))
    else {
        return Ok(None);
    };
    let token = bearer(request.headers())?;
    let Some((known, number)) = tokens.find(token) else {
        return Err(Problem::new(
            Kind::Unauthorized,
            "The token is not one that this server knows; it may have been replaced.",
            "Ask whoever runs the server for a token that is valid now.",
        )
        .header(header::WWW_AUTHENTICATE, "Bearer realm=\"pageferry\", error=\"invalid_token\""));
    };
    let entry = &known[number];
    if !entry.allows(scope) {
        let name = scope.name();
        let challenge = format!("Bearer realm=\"pageferry\", error=\"insufficient_scope\", scope=\"{name}\"");
        return Err(Problem::new(
            Kind::WrongScope,
            format!("The token of {} does not have the scope {name:?}.", entry.name),
            format!("Use a token with this scope, or add {name} to the second word of its line in the server's --token-file."),
        )
        .with("scope", name)
        .header(header::WWW_AUTHENTICATE, challenge));
    }
    Ok(Some(Caller(entry.name.clone())))
}

/// The token of a request.
fn bearer(headers: &HeaderMap) -> Result<&[u8], Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value.as_bytes(),
        _ => return Err(missing()),
    };
    let (scheme, token) = value.split_at_checked("Bearer ".len()).ok_or_else(missing)?;
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return Err(missing());
    }
    Ok(token.trim_ascii())
}

fn missing() -> Problem {
    Problem::new(
        Kind::Unauthorized,
        "This server answers only requests that come with a token.",
        "Send `Authorization: Bearer TOKEN`; pageferry-agent and pageferry-strip do with --token-file or PAGEFERRY_TOKEN.",
    )
    .header(header::WWW_AUTHENTICATE, "Bearer realm=\"pageferry\"")
}

/// `public` has every cache on the way keep an answer for whoever asks next, with or without a token.
fn keep_private(headers: &mut HeaderMap) {
    let Some(value) = headers.get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok()) else { return };
    if let Some(rest) = value.strip_prefix("public")
        && let Ok(value) = HeaderValue::try_from(format!("private{rest}"))
    {
        headers.insert(header::CACHE_CONTROL, value);
    }
}
