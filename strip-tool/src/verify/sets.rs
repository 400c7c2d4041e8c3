//! Working sets: their digests, and every frame in them.

use super::Check;

pub(super) async fn check(check: &Check) {
    for entry in &check.store.manifest().working_sets {
        let name = &entry.object.object;
        let set = match check.store.working_set(entry).await {
            Ok(set) => set,
            Err(error) => {
                check.error(name, error);
                continue;
            }
        };
        check.meter.advance(entry.object.size);
        if set.frames.len() as u64 != entry.frames {
            let problem = format!("{} frames, but the manifest says {}", set.frames.len(), entry.frames);
            check.problem(name, "byte 8", problem);
        }
        for (frame, stored) in set.frames {
            match check.store.decode_frame(frame, stored).await {
                Ok(_) => check.found().good_frames += 1,
                // The error names the frame's place in its pack; here it is the copy that is bad.
                Err(error) => check.problem(name, format!("frame {}", frame.0), error.to_string()),
            }
        }
    }
}
