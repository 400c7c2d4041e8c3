//! How a request gets its place.

use super::{Asked, Holder, Place, Places, SMALL};
use crate::{
    net::Activity,
    pace::Pace,
    problem::{Kind, Problem},
    routes::App,
};
use axum::extract::FromRequestParts;
use http::{header, request::Parts};
use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering::Relaxed},
};
use tokio::sync::OwnedSemaphorePermit;

/// What an answer is made of, hence how much memory it takes. Lengths are of the whole answer, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Size {
    /// Bytes of objects: a chunk that was read, and is sent as it is.
    Object(u64),
    /// Decoded pages: a chunk of stored bytes, a frame that is made of them, one that is being sent, and what is known about where
    /// the next ones are.
    Pages(u64),
    /// Decoded pages as text: the same, and the text of a page.
    Hexdump(u64),
    /// A list that is written while it is sent.
    List,
    /// What is written before it is sent.
    Whole(u64),
}

/// Chunks in which files are read, of the slowest way to read them.
const CHUNK: u64 = 256 << 10;
const FRAME: u64 = page_store::FRAME_BYTES;
/// Segments of a walk, at most.
const SEGMENTS: u64 = 192 << 10;
/// The text of a page: 256 lines of 79 characters.
const PAGE_TEXT: u64 = 20 << 10;
/// Buffers that every answer has.
const OVERHEAD: u64 = 16 << 10;

fn of_pages(len: u64) -> u64 {
    (len + FRAME).min(CHUNK) + (len + FRAME).min(2 * FRAME) + len.min(SEGMENTS)
}

impl Size {
    fn bytes(self) -> u64 {
        OVERHEAD
            + match self {
                Self::Object(len) => len.min(CHUNK),
                Self::Pages(len) => of_pages(len),
                Self::Hexdump(len) => of_pages(len) + PAGE_TEXT,
                Self::List => SEGMENTS,
                Self::Whole(len) => len,
            }
    }

    fn is_small(self) -> bool {
        match self {
            Self::Object(len) | Self::Pages(len) | Self::Hexdump(len) | Self::Whole(len) => len <= SMALL,
            Self::List => true,
        }
    }
}

/// The way of one request to its place.
#[derive(Debug)]
pub(crate) struct Admission {
    app: Arc<App>,
    connection: Arc<Activity>,
}

impl FromRequestParts<Arc<App>> for Admission {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Infallible> {
        // Without a connection there is nobody whom to wait for, as in a test of the router alone.
        let connection = parts.extensions.get::<Arc<Activity>>().cloned();
        let connection = connection.unwrap_or_else(|| Arc::new(Activity::new()));
        Ok(Self { app: app.clone(), connection })
    }
}

impl Admission {
    /// Room for an answer; a problem if there is none for too long.
    pub(crate) async fn place(&self, size: Size) -> Result<Place, Problem> {
        let places = &self.app.places;
        let pool = if size.is_small() { &places.small } else { &places.large };
        let holder = Holder { connection: self.connection.clone(), pace: Pace::default() };
        let told = match pool.ask(holder, size.bytes()) {
            Asked::Granted(place) => return Ok(place),
            Asked::Wait(told) => told,
        };
        self.app.metrics.queued.fetch_add(1, Relaxed);
        match tokio::time::timeout(places.patience, told).await {
            Ok(Ok(place)) => Ok(place),
            _ => {
                self.app.metrics.refused.fetch_add(1, Relaxed);
                Err(busy(places))
            }
        }
    }

    /// An encoder's share, if one is left.
    pub(crate) fn encoder(&self) -> Option<OwnedSemaphorePermit> {
        self.app.places.encoders.clone().try_acquire_owned().ok()
    }
}

fn busy(places: &Places) -> Problem {
    Problem::new(
        Kind::Busy,
        format!("All memory for answers was in use for {} seconds.", places.patience.as_secs()),
        "Try again in a second; a server that is often busy needs a larger --memory.",
    )
    .header(header::RETRY_AFTER, "1")
}
