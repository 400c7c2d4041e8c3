//! `zstd` content coding (RFC 8878), made while the body is sent.

use crate::problem::{Problem, damaged};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use std::io::Write;
use tokio::sync::OwnedSemaphorePermit;
use zstd::stream::write::Encoder;

/// The client waits for it: the lowest level, which is the only one that is faster than the network.
const LEVEL: i32 = 1;
/// Matches are found 128 KiB back. Page content repeats within 64 KiB or not at all (DESIGN.md), and this bounds what each
/// encoder and decoder holds.
const WINDOW_LOG: u32 = 17;
/// Compressed at a time, on a thread that may be kept busy.
const BATCH: usize = 128 << 10;

struct State<S> {
    input: S,
    /// For as long as there is an encoder.
    _permit: OwnedSemaphorePermit,
    encoder: Option<Encoder<'static, Vec<u8>>>,
}

/// The same bytes as one zstd frame with a checksum, so that a cut body is noticed.
pub(crate) fn zstd<S>(
    input: S,
    permit: OwnedSemaphorePermit,
) -> Result<impl Stream<Item = Result<Bytes, Problem>> + Send, Problem>
where
    S: Stream<Item = Result<Bytes, Problem>> + Send + Unpin,
{
    let encoder = Some(encoder().map_err(|_| damaged())?);
    Ok(stream::try_unfold(State { input, _permit: permit, encoder }, |mut state| async move {
        // Gone once it is finished.
        while let Some(mut encoder) = state.encoder.take() {
            let (mut batch, mut size, mut last) = (Vec::new(), 0, false);
            while size < BATCH {
                let Some(bytes) = state.input.next().await.transpose()? else {
                    last = true;
                    break;
                };
                size += bytes.len();
                batch.push(bytes);
            }
            let work = tokio::task::spawn_blocking(move || {
                batch.iter().try_for_each(|bytes| encoder.write_all(bytes))?;
                if last {
                    return Ok::<_, std::io::Error>((encoder.finish()?, None));
                }
                Ok((std::mem::take(encoder.get_mut()), Some(encoder)))
            });
            let (output, encoder) = work.await.map_err(|_| damaged())?.map_err(|_| damaged())?;
            state.encoder = encoder;
            if !output.is_empty() {
                return Ok(Some((Bytes::from(output), state)));
            }
        }
        Ok(None)
    }))
}

fn encoder() -> std::io::Result<Encoder<'static, Vec<u8>>> {
    let mut encoder = Encoder::new(Vec::new(), LEVEL)?;
    encoder.window_log(WINDOW_LOG)?;
    encoder.include_checksum(true)?;
    Ok(encoder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permit() -> OwnedSemaphorePermit {
        std::sync::Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap()
    }

    #[tokio::test]
    async fn comes_out_as_it_went_in() {
        for pages in [0, 1, 31, 32, 33, 200] {
            let plain: Vec<u8> = (0..pages * 4096u32).map(|i| (i / 7 % 251) as u8).collect();
            let input = stream::iter(plain.chunks(4096).map(|c| Ok(Bytes::copy_from_slice(c))).collect::<Vec<_>>());
            let parts: Vec<Bytes> = zstd(input, permit()).unwrap().map(|part| part.unwrap()).collect().await;
            assert!(parts.iter().all(|p| !p.is_empty()));
            assert_eq!(zstd::decode_all(&parts.concat()[..]).unwrap(), plain, "{pages}");
        }
    }

    #[tokio::test]
    async fn an_error_cuts_it() {
        let input = stream::iter(vec![Ok(Bytes::from_static(&[7; 4096])), Err(damaged())]);
        let parts: Vec<_> = zstd(input, permit()).unwrap().collect().await;
        assert!(parts.last().is_some_and(|p| p.is_err()));
    }
}
