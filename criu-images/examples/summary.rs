//! Prints what a checkpoint directory holds: `cargo run -p criu-images --example summary DIR`.

use criu_images::{Checkpoint, ImageDir, Stored};
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: summary DIR")?;
    let checkpoint = Checkpoint::open(Arc::new(ImageDir::open(dir)?))?;
    println!("image version {}", checkpoint.image_version);
    for task in &checkpoint.tasks {
        println!(
            "pid {} ({}) {:?}, {} threads, parent {:?}",
            task.pid,
            task.comm,
            task.state,
            task.threads.len(),
            task.parent
        );
        let Some(memory) = &task.memory else { continue };
        for mapping in &memory.mappings {
            let name = mapping.name.as_deref().unwrap_or("");
            println!(
                "  {} prot {:x} flags {:x} status {:x} {name}",
                mapping.range, mapping.prot, mapping.flags, mapping.status
            );
            for run in memory.runs.iter().filter(|run| mapping.range.contains(run.range.start())) {
                let lazy = if run.lazy { "lazy" } else { "eager" };
                let place = match run.stored {
                    Stored::Here { file, offset } => {
                        format!("{} at {offset:#x}", checkpoint.pages_files[file.0 as usize].name())
                    }
                    Stored::Elsewhere => "elsewhere".into(),
                };
                println!(
                    "    {} {:>6} pages {lazy:5} (marked lazy: {}) {place}",
                    run.range,
                    run.range.pages(),
                    run.marked_lazy
                );
            }
        }
    }
    for segment in &checkpoint.shared {
        println!("shared {}: {:?}", segment.shmid, segment.runs);
    }
    Ok(())
}
