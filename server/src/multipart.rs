//! `multipart/byteranges` (RFC 9110, section 14.6).

use crate::{
    problem::Problem,
    routes::read_object,
    served::{Object, Served},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use std::{ops::Range, sync::Arc};

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

    /// The body. One part is read after the other.
    pub(crate) fn body(
        self,
        served: Arc<Served>,
        name: &str,
    ) -> impl Stream<Item = Result<Bytes, Problem>> + Send + use<> {
        let tail = Bytes::from(self.tail());
        let name = name.to_owned();
        let parts = stream::iter(self.parts.into_iter().map(Ok::<_, Problem>)).and_then(move |(head, part)| {
            let (served, name) = (served.clone(), name.clone());
            async move {
                let bytes = read_object(&served, &name, part).await?;
                Ok(stream::once(async { Ok(Bytes::from(head)) }).chain(bytes))
            }
        });
        parts.try_flatten().chain(stream::once(async { Ok(tail) }))
    }
}
