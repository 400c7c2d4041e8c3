//! One error for everything that can be wrong with a store.

use std::time::Duration;

/// Result of reading or writing a store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong, in which object, at which place, and what to do where there is something to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The object is not there (a file that does not exist, HTTP 404 or 410).
    #[error("{object}: not found")]
    NotFound {
        /// Path or URL.
        object: String,
    },
    /// The object could not be had just now: connection, timeout, a status such as 503, a short body. Worth trying again.
    #[error("{object}: {problem}")]
    Unavailable {
        /// Path or URL.
        object: String,
        /// What happened.
        problem: String,
        /// When to try again.
        retry: Retry,
    },
    /// A file of this machine could not be read or written.
    #[error("{object}: {source}")]
    Io {
        /// Path.
        object: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The bytes are not what they should be: digest, length, structure.
    #[error("{object}: {place}: {problem}")]
    Corrupt {
        /// Path or URL.
        object: String,
        /// Where in it.
        place: String,
        /// What is wrong there.
        problem: String,
    },
    /// Well formed, but not what this reader knows: a newer format, a host that is not a page store.
    #[error("{object}: {what}")]
    Unsupported {
        /// Path or URL.
        object: String,
        /// What it is, and what to do.
        what: String,
    },
    /// The store has no such task.
    #[error("no task {0} in this checkpoint")]
    NoSuchTask(criu_images::Pid),
    /// Something is wrong with the checkpoint itself.
    #[error(transparent)]
    Images(#[from] criu_images::Error),
}

/// What a failure says about the next attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// Nothing: as soon as the caller sees fit.
    #[default]
    Soon,
    /// Nobody answered there, not even to refuse the request: what else is asked from this host will fail as well.
    Unreachable,
    /// The host asked for so long a pause (`Retry-After`).
    After(Duration),
}

impl Error {
    /// A temporary file failed: it has no name, so its folder is told, and how to have another.
    pub(crate) fn temporary_file(source: std::io::Error) -> Self {
        let folder = tempfile::env::temp_dir();
        Self::Io { object: format!("temporary file in {} (TMPDIR names another folder)", folder.display()), source }
    }

    /// An object that could not be had just now.
    pub fn unavailable(object: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Unavailable { object: object.into(), problem: problem.into(), retry: Retry::Soon }
    }

    /// What the failure says about the next attempt.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unavailable { retry, .. } => *retry,
            _ => Retry::Soon,
        }
    }

    /// Whether the same request may succeed later or elsewhere.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Corrupt { .. })
    }
}
