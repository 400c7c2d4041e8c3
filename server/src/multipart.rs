//! `multipart/byteranges` (RFC 9110, section 14.6).

use crate::{problem::Problem, served::Object};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use std::ops::Range;

/// An answer of several parts.
pub(crate) struct Parts {
    parts: Vec<(String, Range<u64>)>,
    boundary: String,
}

impl Parts {
    /// `parts` lie in the object and are not empty.
    pub(crate) fn new(parts: Vec<Range<u64>>, object: &Object) -> Self {
        // No object can hold its own digest.
        let digest: String = object
            .etag
            .header()
            .to_str()
            .unwrap_or_default()
            .chars()
            .filter(char::is_ascii_hexdigit)
            .take(40)
            .collect();
        let boundary = format!("pageferry-{digest}");
        let head = |part: &Range<u64>| {
            format!(
                "\r\n--{boundary}\r\nContent-Type: {}\r\nContent-Range: bytes {}-{}/{}\r\n\r\n",
                object.content_type,
                part.start,
                part.end - 1,
                object.size
            )
        };
        Self { parts: parts.into_iter().map(|part| (head(&part), part)).collect(), boundary }
    }

    /// For the `Content-Type` header.
    pub(crate) fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// For the `Content-Length` header.
    pub(crate) fn length(&self) -> u64 {
        let parts = self.parts.iter().map(|(head, part)| head.len() as u64 + (part.end - part.start));
        parts.sum::<u64>() + self.tail().len() as u64
    }

    fn tail(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }

    /// The body. One part is read after the other, by `read`.
    pub(crate) fn body<F, R, S>(self, read: F) -> impl Stream<Item = Result<Bytes, Problem>> + Send + use<F, R, S>
    where
        F: Fn(Range<u64>) -> R + Send + 'static,
        R: Future<Output = Result<S, Problem>> + Send + 'static,
        S: Stream<Item = Result<Bytes, Problem>> + Send + 'static,
    {
        let tail = Bytes::from(self.tail());
        let parts = stream::iter(self.parts.into_iter().map(Ok::<_, Problem>)).and_then(move |(head, part)| {
            let bytes = read(part);
            async move { Ok(stream::once(async { Ok(Bytes::from(head)) }).chain(bytes.await?)) }
        });
        parts.try_flatten().chain(stream::once(async { Ok(tail) }))
    }
}
