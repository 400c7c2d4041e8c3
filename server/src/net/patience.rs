//! A connection that gives up on a peer that does nothing.
//!
//! hyper times out a slow request header, but neither a client that connects and sends nothing (while it finds out which version of
//! HTTP is spoken) nor one that stops reading its answer. Each would hold a place among the connections for ever.

use hyper::rt::{Read, ReadBufCursor, Write};
use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Sleep, sleep};

/// Wraps a connection.
pub(crate) struct Patience<T> {
    inner: T,
    /// For the first byte of all.
    first: Option<Pin<Box<Sleep>>>,
    /// For the next byte to be taken; set while one waits.
    stalled: Option<Pin<Box<Sleep>>>,
    stall: Duration,
}

impl<T> Patience<T> {
    /// Waits `first` for the peer to say anything, and `stall` for it to take anything.
    pub(crate) fn new(inner: T, first: Duration, stall: Duration) -> Self {
        Self { inner, first: Some(Box::pin(sleep(first))), stalled: None, stall }
    }

    /// An operation that moves bytes to the peer was polled.
    fn wrote<R>(&mut self, polled: Poll<io::Result<R>>, cx: &mut Context<'_>) -> Poll<io::Result<R>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let stall = self.stall;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(stall)));
        timer.as_mut().poll(cx).map(|()| Err(io::Error::new(ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl<T: Read + Unpin> Read for Patience<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if polled.is_ready() {
            self.first = None;
        }
        match &mut self.first {
            None => polled,
            Some(timer) => {
                timer.as_mut().poll(cx).map(|()| Err(io::Error::new(ErrorKind::TimedOut, "the client says nothing")))
            }
        }
    }
}

impl<T: Write + Unpin> Write for Patience<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.wrote(polled, cx)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Flushing a socket does nothing: it must not pass for progress.
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.wrote(polled, cx)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.wrote(polled, cx)
    }
}
