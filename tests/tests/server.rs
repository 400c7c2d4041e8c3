//! `pageferry-server` on checkpoints of real programs: what it says is what the process holds.

mod common;

use std::{fs, fs::File, os::unix::fs::FileExt, path::Path, process::Command, sync::Arc};

use common::{Scene, program, scene};
use criu_images::{ImageDir, PAGE_SIZE};
use pageferry_tests::{
    Cell, Checkpoint, Host, Pager, Result, Workdir, assert_same_files, criu_restore, http, split, tools,
};

#[test]
fn every_page_is_the_one_in_the_process() -> Result<()> {
    let work = Workdir::new("server")?;
    let checkpoint = Checkpoint::take_boxed(&work, program("threads", 1 << 18))?;
    let split = split(&work, &checkpoint, &[])?;
    let cell = Cell::new()?;
    criu_restore(&cell, &checkpoint.dir, &work.folder("restore")?, &["--leave-stopped"])?;
    for served in [&split.store, &checkpoint.dir] {
        let host = Host::server(&work, served)?;
        assert_eq!(http::get_with(host.port(), "/healthz", &[])?.status, 200);
        let pages = compare_pages(&host, &checkpoint.dir, &cell)?;
        println!("{}: {pages} pages are the same", served.display());
    }
    Ok(())
}

/// Asks for ranges, and for some pages one by one; counts pages.
fn compare_pages(host: &Host, dir: &Path, cell: &Cell) -> Result<u64> {
    let images = criu_images::Checkpoint::open(Arc::new(ImageDir::open(dir)?))?;
    let mut compared = 0;
    for task in &images.tasks {
        let Some(memory) = &task.memory else { continue };
        let pid = task.pid.get();
        let mem = File::open(cell.proc(i32::try_from(pid)?).join("mem"))?;
        for run in &memory.runs {
            let (start, end) = (run.range.start().get(), run.range.end());
            let mut held = vec![0; usize::try_from(end - start)?];
            mem.read_exact_at(&mut held, start)?;
            let reply = http::get_with(host.port(), &format!("/pid/{pid}/pages/{start:x}-{end:x}"), &[])?;
            assert_eq!(reply.status, 200, "{start:x}-{end:x}: {}", reply.text());
            same(pid, start, &reply.body, &held);
            let reply = http::get_with(host.port(), &format!("/pid/{pid}/page/0x{:x}", start + 7), &[])?;
            assert_eq!(reply.status, 200, "{start:x}: {}", reply.text());
            same(pid, start, &reply.body, &held[..PAGE_SIZE as usize]);
            compared += run.range.pages() + 1;
        }
    }
    Ok(compared)
}

/// The same but for what the kernel itself writes (`struct rseq`).
fn same(pid: u32, start: u64, served: &[u8], held: &[u8]) {
    assert_eq!(served.len(), held.len(), "task {pid} at {start:#x}");
    let pages = served.chunks(PAGE_SIZE as usize).zip(held.chunks(PAGE_SIZE as usize));
    for (n, (served, held)) in pages.enumerate() {
        let other = served.iter().zip(held).filter(|(served, held)| served != held).count();
        assert!(other <= 32, "task {pid} at {:#x}: {other} bytes differ", start + n as u64 * PAGE_SIZE);
    }
}

#[test]
fn it_mirrors_the_store_byte_for_byte() -> Result<()> {
    let work = Workdir::new("mirror")?;
    let checkpoint = Checkpoint::take_boxed(&work, program("redis", 5_000))?;
    let split = split(&work, &checkpoint, &[])?;
    let host = Host::server(&work, &split.store)?;
    let mirror = work.folder("mirror")?;
    for folder in ["", "index", "packs", "slim"] {
        let to = mirror.join(folder);
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(split.store.join(folder))?.flatten().filter(|entry| entry.path().is_file()) {
            let name = Path::new(folder).join(entry.file_name());
            let reply = http::get_with(host.port(), &format!("/store/{}", name.display()), &[])?;
            assert_eq!(reply.status, 200, "{}", name.display());
            fs::write(mirror.join(&name), &reply.body)?;
            let range = http::get_with(host.port(), &format!("/store/{}", name.display()), &["Range: bytes=10-19"])?;
            assert_eq!((range.status, &range.body[..]), (206, &reply.body[10..20]), "{}", name.display());
        }
        if !folder.is_empty() {
            assert_same_files(&split.store.join(folder), &to)?;
        }
    }
    // A mirror is a store like any other.
    let mut verify = Command::new(tools::binary("pageferry-strip")?);
    tools::run(verify.arg("verify").arg(&mirror))?;
    Ok(())
}

#[test]
fn zstd_reads_packs() -> Result<()> {
    let work = Workdir::new("zstd")?;
    let checkpoint = Checkpoint::take_boxed(&work, program("redis", 5_000))?;
    let split = split(&work, &checkpoint, &[])?;
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(split.store.join("checkpoint.json"))?)?;
    let mut plain = 0;
    for entry in fs::read_dir(split.store.join("packs"))? {
        let mut zstd = Command::new(tools::program("zstd")?);
        let output = tools::run(zstd.args(["-d", "-c", "-q"]).arg(entry?.path()))?;
        plain += output.stdout.len() as u64;
    }
    assert_eq!(manifest["totals"]["stored_pages"].as_u64(), Some(plain / PAGE_SIZE), "{manifest}");
    Ok(())
}

/// A server of a folder: `store` is what our one is called in it.
#[test]
fn one_of_several_checkpoints_is_restored() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("redis", 5_000)?;
    fs::create_dir(work.path().join("broken"))?;
    fs::write(work.path().join("broken/checkpoint.json"), "{")?;
    let host = Host::server(&work, work.path())?;
    let listed = http::get(host.port(), "/checkpoints")?;
    assert!(listed.contains("redis-server") && listed.contains("problem"), "{listed}");
    let url = format!("http://127.0.0.1:{}/checkpoints/store/store", host.port());
    let cell = Cell::new()?;
    let pager = Pager::start(&url, &split.slim, &work.folder("pager")?, &[])?;
    criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
    checkpoint.check(&cell)?;
    pager.finish()?;
    checkpoint.check(&cell)
}
