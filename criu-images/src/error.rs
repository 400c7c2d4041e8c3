//! One error for everything that can be wrong with a checkpoint.

use std::{fmt::Display, io};

/// Result of reading or editing images.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong, in which file, at which place, and what to do where there is something to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read or written.
    #[error("{file}: {source}")]
    Io {
        /// Path, as the user would type it.
        file: String,
        /// The system's error.
        source: io::Error,
    },
    /// The bytes are not what CRIU writes: truncated, flipped, lengths that lie.
    #[error("{file}: {place}: {problem}")]
    Corrupt {
        /// Path, as the user would type it.
        file: String,
        /// Where in it: `byte 17`, `entry 3`.
        place: String,
        /// What is wrong there.
        problem: String,
    },
    /// Well formed, but something that this reader does not know or that cannot be restored lazily.
    #[error("{file}: {what} (this reader knows the images of CRIU 3.x to 4.2)")]
    Unsupported {
        /// Path, as the user would type it.
        file: String,
        /// What it is, by name.
        what: String,
    },
}

impl Error {
    pub(crate) fn io(file: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { file: file.into(), source: source.into() }
    }

    pub(crate) fn corrupt(file: impl Into<String>, place: impl Display, problem: impl Display) -> Self {
        Self::Corrupt { file: file.into(), place: place.to_string(), problem: problem.to_string() }
    }

    pub(crate) fn unsupported(file: impl Into<String>, what: impl Display) -> Self {
        Self::Unsupported { file: file.into(), what: what.to_string() }
    }
}
