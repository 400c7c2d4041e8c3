//! A real distributed object store, Garage, as a cluster of one.

use std::{fs, process::Command, thread, time::Duration};

use anyhow::{Context, Result};

use crate::{Daemon, Workdir, free_port, tools};

/// Garage, with one bucket and a key for it.
pub struct Garage {
    _daemon: Daemon,
    environment: [(&'static str, String); 4],
}

impl Garage {
    /// Its bucket.
    pub const BUCKET: &'static str = "checkpoints";

    /// Starts it, lays out the cluster, makes bucket and key.
    pub fn start(work: &Workdir) -> Result<Self> {
        let folder = work.folder("garage")?;
        let (api, rpc) = (free_port()?, free_port()?);
        let shown = folder.display();
        // A secret of this cluster of one; nobody else can reach it.
        let secret = "5f".repeat(32);
        let config = folder.join("garage.toml");
        fs::write(
            &config,
            format!(
                "metadata_dir = \"{shown}/meta\"\ndata_dir = \"{shown}/data\"\ndb_engine = \"sqlite\"\nreplication_factor = 1\n\
                 rpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\nrpc_secret = \"{secret}\"\n\
                 [s3_api]\ns3_region = \"garage\"\napi_bind_addr = \"127.0.0.1:{api}\"\nroot_domain = \".s3.garage\"\n"
            ),
        )?;
        let program = tools::program("garage")?;
        let garage = |arguments: &[&str]| -> Result<String> {
            let mut command = Command::new(&program);
            command.arg("-c").arg(&config).args(arguments);
            Ok(tools::text(&tools::run(&mut command)?.stdout))
        };
        let mut server = Command::new(&program);
        server.arg("-c").arg(&config).arg("server");
        let mut daemon = Daemon::start("garage", &server, &folder.join("log"), None)?;
        daemon.wait_for_port(rpc)?;
        let node = crate::eventually(|| {
            let id = garage(&["node", "id", "-q"])?;
            Ok(id.split('@').next().context("no node")?.trim().to_owned())
        })?;
        crate::eventually(|| garage(&["layout", "assign", "-z", "here", "-c", "10G", &node]))?;
        garage(&["layout", "apply", "--version", "1"])?;
        daemon.wait_for_port(api)?;
        // The layout takes a moment to be that of the whole cluster.
        thread::sleep(Duration::from_millis(200));
        crate::eventually(|| garage(&["bucket", "create", Self::BUCKET]))?;
        let key = garage(&["key", "create", "tests"])?;
        let field = |name: &str| -> Result<String> {
            let line =
                key.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name} in {key}"))?;
            Ok(line.split_whitespace().next_back().context("an empty field")?.to_owned())
        };
        garage(&["bucket", "allow", "--read", "--write", "--owner", Self::BUCKET, "--key", "tests"])?;
        let environment = [
            ("AWS_ACCESS_KEY_ID", field("Key ID")?),
            ("AWS_SECRET_ACCESS_KEY", field("Secret key")?),
            ("AWS_REGION", "garage".to_owned()),
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{api}")),
        ];
        Ok(Self { _daemon: daemon, environment })
    }

    /// The address of a place in its bucket.
    pub fn url(&self, path: &str) -> String {
        format!("s3://{}/{path}", Self::BUCKET)
    }

    /// A command with what it needs to be let in.
    pub fn let_in(&self, mut command: Command) -> Command {
        command.envs(self.environment.clone());
        command
    }
}
