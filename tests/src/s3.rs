//! A real S3 server: s3s-fs, on a folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{Daemon, Workdir, free_port, tools};

const ACCESS_KEY: &str = "pageferry";
const SECRET_KEY: &str = "not so secret";

/// The server, with one bucket.
pub struct S3 {
    _daemon: Daemon,
    port: u16,
    root: PathBuf,
}

impl S3 {
    /// Its bucket.
    pub const BUCKET: &'static str = "checkpoints";

    /// Starts it.
    pub fn start(work: &Workdir) -> Result<Self> {
        Self::start_program(work, "s3s-fs")
    }

    /// Starts the one that is built for speed, which only `cargo xtask bench` has.
    pub fn start_optimised(work: &Workdir) -> Result<Self> {
        Self::start_program(work, "s3s-fs-optimised")
    }

    fn start_program(work: &Workdir, program: &str) -> Result<Self> {
        let root = work.folder("s3")?;
        fs::create_dir_all(root.join(Self::BUCKET))?;
        let port = free_port()?;
        let mut server = Command::new(tools::program(program)?);
        server.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--access-key", ACCESS_KEY]);
        server.args(["--secret-key", SECRET_KEY]).arg(&root);
        let mut daemon = Daemon::start("s3s-fs", &server, &work.path().join("s3.log"), None)?;
        daemon.wait_for_port(port)?;
        Ok(Self { _daemon: daemon, port, root })
    }

    /// The address of a place in its bucket.
    pub fn url(&self, path: &str) -> String {
        format!("s3://{}/{path}", Self::BUCKET)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What a client needs in its environment.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        environment(self.port)
    }

    /// The bucket's folder.
    pub fn folder(&self) -> PathBuf {
        self.root.join(Self::BUCKET)
    }

    /// One of our tools, with what it needs to be let in.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(tools::binary(program)?);
        command.envs(self.environment());
        Ok(command)
    }

    /// Whether an object is there.
    pub fn has(&self, object: &Path) -> bool {
        self.folder().join(object).exists()
    }
}

/// What a client of an S3 server on this machine needs in its environment.
pub fn environment(port: u16) -> [(&'static str, String); 4] {
    [
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
    ]
}
