//! How much one request, and one server, takes on.

use std::time::Duration;

/// Pages in one range or one bulk request: 1 GiB. It is streamed, so this bounds how long one answer may take, not memory.
pub const MAX_PAGES: u64 = (1 << 30) / criu_images::PAGE_SIZE;
/// Ranges in one bulk request.
pub const MAX_RANGES: usize = 4096;
/// Bytes in the body of a bulk request: [`MAX_RANGES`] of the longest ranges there are, with room for white space.
pub const MAX_BODY: usize = 256 << 10;

/// What a server does about its clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once. One more takes the place of the one that has been without a request for the longest; if every one has
    /// a request, it waits.
    pub connections: usize,
    /// For a request's header to arrive, from its first byte on.
    pub header: Duration,
    /// For a connection without a request to stay open.
    pub idle: Duration,
    /// For a client that takes nothing of its answer, or less than 16 KiB/s; and for the body of a request to arrive.
    pub stall: Duration,
    /// The same, while others wait for the place that such a client holds.
    pub hurry: Duration,
    /// For an answer to begin.
    pub answer: Duration,
    /// For a request to wait for room in memory; then it is answered with 503.
    pub queue: Duration,
    /// For the checkpoint to be opened while a request waits for it; then it is answered with 503.
    pub opening: Duration,
    /// For running answers to finish when the server is told to stop.
    pub grace: Duration,
    /// Bytes of memory for decoded frames that are kept and for answers on their way.
    pub memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // An idle one costs some 12 KiB, one that sends requests without end and takes no answer 30 to 40 KiB (measured): 12 to
            // 40 MiB if all of them are like that.
            connections: 1024,
            // A header fits into one packet: this is for a network that loses several.
            header: Duration::from_secs(15),
            // Longer than the pause between two faults of an idle process, or each costs a connection.
            idle: Duration::from_secs(90),
            stall: Duration::from_secs(60),
            // A lost packet is sent again after 200 ms, and once more after 400.
            hurry: Duration::from_secs(1),
            // An agent asks elsewhere, or again, after less.
            answer: Duration::from_secs(60),
            queue: Duration::from_secs(10),
            // Less than any client's own patience.
            opening: Duration::from_secs(10),
            grace: Duration::from_secs(30),
            // With some 10 MiB for everything else, the server stays below 64 MiB.
            memory: 48 << 20,
        }
    }
}

impl Limits {
    /// Least memory: a few frames, and one answer at a time.
    pub const LEAST_MEMORY: u64 = 4 << 20;
}

/// Bytes of a request's header over HTTP/1, and of a list of headers over HTTP/2: twice what the longest `Range` that is answered
/// needs. More is a bare 431.
pub(crate) const HEAD_BYTES: usize = 16 << 10;
/// Lines of a request's header. More is a bare 431.
pub(crate) const HEADERS: usize = 64;
/// Unsent bytes that a stream of HTTP/2 holds before its body is asked for no more: one frame.
pub(crate) const SEND_BUFFER: usize = 64 << 10;
/// Requests at once on one HTTP/2 connection.
pub(crate) const HTTP2_STREAMS: u32 = 32;
/// Streams that a client may take back before we have looked at them, and that it may break: more is no client but an attack
/// (CVE-2023-44487), and the connection ends.
pub(crate) const RESET_STREAMS: usize = 64;
/// Bytes that a client may send over HTTP/2 before they are read: it never has to send more than [`MAX_BODY`].
pub(crate) const UPLOAD_WINDOW: u32 = 64 << 10;
/// Bytes that wait in the kernel behind what is on the network already. More does not make anything faster.
pub(crate) const UNSENT: u32 = 128 << 10;

/// File descriptors that are not connections: packs that are kept open, the slim dump, logs, the runtime.
const OTHER_FILES: u64 = 256;

/// Raises the limit on open files as far as it goes. Gives how many connections it has room for.
pub fn raise_open_files() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!("the limit on open files stays as it is: {error}");
        }
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files.saturating_sub(OTHER_FILES).max(16)).unwrap_or(usize::MAX)
}
