//! Leaves a full dump of programs in a folder, to try tools on, and says beside each how to restore and check it:
//! `cargo run -p pageferry-tests --example samples -- FOLDER [small] [NAME...]`. `small` makes them a tenth of the size.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use pageferry_tests::{
    Checkpoint, ROOT_PID, Running, Workdir,
    programs::{Gunicorn, Java, Node, Program, Redis, Threads},
};

fn main() -> Result<()> {
    let target = PathBuf::from(std::env::args().nth(1).context("usage: samples FOLDER [small]")?);
    let mut names: Vec<_> = std::env::args().skip(2).collect();
    let small = names.first().is_some_and(|word| word == "small");
    let scale = if small { 10 } else { 1 };
    names.drain(..usize::from(small));
    let programs: [Box<dyn Program>; 5] = [
        Box::new(Threads { part_size: (4 << 20) / scale }),
        Box::new(Redis { keys: 200_000 / scale }),
        Box::new(Node { objects: 300_000 / scale }),
        Box::new(Gunicorn { items: 250_000 / scale }),
        Box::new(Java { objects: 1_000_000 / scale }),
    ];
    for program in programs.into_iter().filter(|program| names.is_empty() || names.iter().any(|n| n == program.name()))
    {
        let name = program.name();
        let place = target.join(name);
        // The program's own files (class files, the application) are needed at restore.
        let work = Workdir::at(&place)?;
        let _ = fs::remove_dir_all(place.join("dump"));
        let port = program.port();
        let checkpoint = Running::start(&work, program)?.dump(&work.folder("dump")?, &[])?;
        fs::write(place.join("README"), readme(port, &checkpoint))?;
        println!("{}: {} MB", place.display(), pageferry_tests::folder_size(&place.join("dump"))? / 1_000_000);
    }
    Ok(())
}

fn readme(port: u16, checkpoint: &Checkpoint) -> String {
    let expected: String =
        checkpoint.expected().iter().map(|(question, answer)| format!("{question}: {answer}\n")).collect();
    format!(
        "dump/ is a full dump of `criu dump --shell-job`; the first task has pid {ROOT_PID}. To restore and ask it:\n\n\
         unshare -p -m -n -f --mount-proc sh -c 'ip link set lo up; mount -t tmpfs tmpfs /dev/shm;\n\
         criu restore -d --shell-job -D dump -W /tmp -o restore.log && curl -s 127.0.0.1:{port}/state'\n\n\
         (redis: redis-cli, or printf \"DBSIZE\\r\\nQUIT\\r\\n\" | nc 127.0.0.1 {port}.) What it answers:\n\n{expected}"
    )
}
