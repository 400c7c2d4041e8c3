//! How much one request, and one server, takes on.

use std::time::Duration;

/// Pages in one range or one bulk request: 1 GiB. It is streamed, so this bounds how long one answer may take, not memory.
pub const MAX_PAGES: u64 = (1 << 30) / criu_images::PAGE_SIZE;
/// Ranges in one bulk request.
pub const MAX_RANGES: usize = 4096;
/// Bytes in the body of a bulk request: [`MAX_RANGES`] of the longest ranges there are, with room for white space.
pub const MAX_BODY: usize = 256 << 10;

/// What a server does about its connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; more wait in the listen queue.
    pub connections: usize,
    /// For a request's header to arrive, and for an idle connection to stay open.
    pub header: Duration,
    /// For a client to take any byte of an answer, or to send any byte of a body that we wait for.
    pub stall: Duration,
    /// For the checkpoint to be opened while a request waits for it; then it is answered with 503.
    pub opening: Duration,
    /// For running answers to finish when the server is told to stop.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Each that does not read holds one chunk of a file, 256 KiB: 128 MiB until `stall` if none of them reads.
            connections: 512,
            // Longer than the pause between two faults of an idle process, or each costs a connection.
            header: Duration::from_secs(60),
            stall: Duration::from_secs(60),
            // Less than any client's own patience.
            opening: Duration::from_secs(10),
            grace: Duration::from_secs(30),
        }
    }
}

/// Unsent bytes that a connection (a stream, in HTTP/2) holds before its body is asked for no more: one frame.
pub(crate) const SEND_BUFFER: usize = 64 << 10;
/// Requests at once on one HTTP/2 connection.
pub(crate) const HTTP2_STREAMS: u32 = 32;
