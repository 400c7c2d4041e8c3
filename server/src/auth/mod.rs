//! Who may ask for what.
//!
//! ```text
//! tokens   the file of tokens, read again when it changes        gate   the middleware in front of every route
//! ```

mod gate;
mod tokens;

pub(crate) use gate::{Caller, guard};
pub use tokens::Tokens;

use http::Method;

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everything that a checkpoint holds.
    Read,
    /// Handing in a recorded working set.
    WorkingSets,
    /// The server's own figures.
    Metrics,
}

impl Scope {
    pub(crate) const ALL: [Self; 3] = [Self::Read, Self::WorkingSets, Self::Metrics];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::WorkingSets => "working-sets",
            Self::Metrics => "metrics",
        }
    }

    /// What a request needs; `None` if anybody may send it. A path that has no row here needs `read`: a new route is closed until
    /// somebody opens it.
    pub(crate) fn required(method: &Method, path: &str) -> Option<Self> {
        match path {
            // Balancers and orchestrators ask these, and they say nothing about anybody's memory.
            "/healthz" | "/readyz" => None,
            "/metrics" => Some(Self::Metrics),
            _ if *method == Method::PUT && path.contains("/working-sets/") => Some(Self::WorkingSets),
            _ => Some(Self::Read),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_of_routes() {
        let of = |method: Method, path| Scope::required(&method, path);
        assert_eq!(of(Method::GET, "/healthz"), None);
        assert_eq!(of(Method::GET, "/metrics"), Some(Scope::Metrics));
        assert_eq!(of(Method::PUT, "/checkpoints/redis/working-sets/first"), Some(Scope::WorkingSets));
        assert_eq!(of(Method::GET, "/checkpoints/redis/working-sets/first"), Some(Scope::Read));
        for path in ["/", "/openapi.yaml", "/healthz/", "//healthz", "/store/checkpoint.json", "/whatever", "/metrics/"]
        {
            assert_eq!(of(Method::GET, path), Some(Scope::Read), "{path}");
        }
    }
}
