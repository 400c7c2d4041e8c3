//! Parameters of requests, with problems in place of axum's own rejections.

use crate::{
    address,
    problem::{Kind, Problem},
};
use axum::{
    extract::{FromRequestParts, Path, RawPathParams},
    http::request::Parts,
};
use criu_images::Pid;

/// The parameters of the path, percent-decoded: `Path` with our kind of error.
pub(super) struct PathOf<T>(pub(super) T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned + Send> FromRequestParts<S> for PathOf<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let undecodable = |detail: String| {
            Problem::new(Kind::BadPath, detail, "Percent-encode UTF-8 only; no path of this server needs it.")
        };
        let error = match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => return Ok(Self(value)),
            Err(error) => error,
        };
        // The raw parameters say more shortly what is wrong.
        RawPathParams::from_request_parts(parts, state).await.map_err(|e| undecodable(e.to_string()))?;
        Err(undecodable(error.to_string()))
    }
}

pub(super) fn pid(text: &str) -> Result<Pid, Problem> {
    address::pid(text).map_err(|e| Problem::malformed(Kind::BadPid, e))
}

/// A query, as `name=value` pairs.
pub(super) struct Query(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(pairs)) => Ok(Self(pairs)),
            Err(error) => Err(Problem::new(Kind::BadQuery, error.to_string(), "Write the query as name=value pairs.")),
        }
    }
}

impl Query {
    /// The value of a parameter. Said twice, the first counts.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that knows only these.
    pub(super) fn one_of<'a>(&self, name: &str, known: &[&'a str]) -> Result<Option<&'a str>, Problem> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match known.iter().find(|k| **k == value) {
            Some(known) => Ok(Some(known)),
            None => Err(Problem::new(
                Kind::BadQuery,
                format!("{name} cannot be {}.", address::quoted(value)),
                format!("{name} is one of: {}.", known.join(", ")),
            )),
        }
    }
}
