//! One pack: its bytes, its frames, its seek table.

use super::{Check, Error, PackEncoding};
use crate::retry::Retries;
use bytes::{Buf, BytesMut};
use criu_images::PAGE_SIZE;
use futures::StreamExt;
use page_store::{Digest, FrameInfo, pack::SeekTable};
use std::sync::Arc;
use zstd::bulk::Decompressor;

/// Checks the pack at `position`; its frames too, if they are known.
pub(super) async fn check(check: Arc<Check>, position: usize, frames: Option<Vec<FrameInfo>>) {
    let Some(pack) = check.store.manifest().packs.get(position) else { return };
    let object = &pack.object;
    let mut retries = Retries::new(&check.store);
    loop {
        match read(&check, position, frames.as_deref()).await {
            // What was found before the connection broke is found again.
            Err(e @ Error::Unavailable { .. }) if retries.another(&e).await => {}
            Err(e) => return check.error(&object.object, e),
            Ok(findings) => {
                check.found().good_frames += findings.good_frames;
                for (place, problem) in findings.problems {
                    check.problem(&object.object, place, problem);
                }
                check.check_digest(object, findings.digest);
                return check.check_end(object).await;
            }
        }
    }
}

/// What a pack came to.
struct Findings {
    good_frames: u64,
    problems: Vec<(String, String)>,
    digest: blake3::Hash,
}

async fn read(check: &Check, position: usize, frames: Option<&[FrameInfo]>) -> Result<Findings, Error> {
    let pack = &check.store.manifest().packs[position];
    let first_number: u64 = check.store.manifest().packs[..position].iter().map(|pack| pack.frames).sum();
    let mut findings = Findings { good_frames: 0, problems: Vec::new(), digest: blake3::hash(&[]) };
    let mut body = check.store.backend().get_range(&pack.object.object, 0..pack.object.size).await?;
    let mut hasher = blake3::Hasher::new();
    let mut decoder = Decompressor::new().map_err(|source| Error::Io { object: "zstd".into(), source })?;
    let mut waiting = frames.unwrap_or_default().iter().zip(first_number..).peekable();
    let mut table = SeekTable::default();
    // Bytes from `at` on that no frame has taken yet.
    let mut arrived = BytesMut::new();
    let mut at = 0u64;
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        hasher.update(&chunk);
        check.meter.advance(chunk.len() as u64);
        if frames.is_none() {
            continue;
        }
        arrived.extend_from_slice(&chunk);
        while let Some((frame, number)) =
            waiting.next_if(|(f, _)| f.offset + u64::from(f.stored_len) <= at + arrived.len() as u64)
        {
            let end = frame.offset + u64::from(frame.stored_len);
            let place = format!("frame {number} (bytes {}..{end})", frame.offset);
            if frame.offset != at {
                findings
                    .problems
                    .push((place.clone(), format!("begins elsewhere than at byte {at}, where the one before it ends")));
                if frame.offset < at {
                    continue;
                }
                arrived.advance((frame.offset - at) as usize);
            }
            let stored = arrived.split_to(frame.stored_len as usize);
            at = end;
            let plain_len = u32::from(frame.pages) * PAGE_SIZE as u32;
            table.push(frame.stored_len, plain_len);
            match check_frame(&mut decoder, pack.encoding, &stored, frame, plain_len as usize) {
                Ok(()) => findings.good_frames += 1,
                Err(problem) => findings.problems.push((place, problem)),
            }
        }
    }
    if frames.is_some() {
        if let Some((frame, number)) = waiting.next() {
            let problem =
                format!("ends at byte {}, behind the end of the pack", frame.offset + u64::from(frame.stored_len));
            findings.problems.push((format!("frame {number}"), problem));
        } else if let Some(problem) = trailer_problem(pack.encoding, &arrived, &table) {
            findings.problems.push((format!("seek table (byte {at} on)"), problem));
        }
    }
    findings.digest = hasher.finalize();
    Ok(findings)
}

fn check_frame(
    decoder: &mut Decompressor<'_>,
    encoding: PackEncoding,
    stored: &[u8],
    frame: &FrameInfo,
    plain_len: usize,
) -> Result<(), String> {
    let decoded;
    let plain = match encoding {
        PackEncoding::Plain => stored,
        PackEncoding::Zstd => {
            decoded = decoder.decompress(stored, plain_len).map_err(|e| e.to_string())?;
            &decoded
        }
    };
    if plain.len() != plain_len {
        return Err(format!("{} bytes, not {plain_len}", plain.len()));
    }
    match Digest::of(plain) {
        digest if digest == frame.digest => Ok(()),
        digest => Err(format!("its digest is {digest}, the index says {}", frame.digest)),
    }
}

fn trailer_problem(encoding: PackEncoding, trailer: &[u8], table: &SeekTable) -> Option<String> {
    let expected = match encoding {
        PackEncoding::Zstd => table.encode(),
        PackEncoding::Plain => Vec::new(),
    };
    if trailer.len() != expected.len() {
        return Some(format!("{} bytes, but {} frames need {}", trailer.len(), table.frames().len(), expected.len()));
    }
    (trailer != expected).then(|| "does not say what the frames are".into())
}
