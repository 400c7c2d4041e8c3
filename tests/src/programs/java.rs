//! A JVM with a heap of objects.

use std::{path::Path, process::Command};

use anyhow::Result;

use super::{CommandLine, Program, State, http_state};
use crate::{http, tools};

const PORT: u16 = 8100;

/// An HTTP server over `objects` objects of about 150 bytes, on a JVM with up to 512 MB of heap.
pub struct Java {
    /// How many.
    pub objects: usize,
}

impl Program for Java {
    fn name(&self) -> &'static str {
        "java"
    }

    fn describe(&self) -> String {
        format!("a Java HTTP server over {} objects", self.objects)
    }

    fn port(&self) -> u16 {
        PORT
    }

    fn command(&self, folder: &Path) -> Result<CommandLine> {
        let mut javac = Command::new(tools::program("javac")?);
        tools::run(javac.arg("-d").arg(folder).arg(tools::asset("JavaApp.java")))?;
        // The perf data file would be gone at restore.
        let mut args = ["-XX:-UsePerfData", "-Xmx512m", "-cp"].map(str::to_owned).to_vec();
        args.extend([folder.display().to_string(), "JavaApp".to_owned(), PORT.to_string(), self.objects.to_string()]);
        Ok(CommandLine { program: tools::program("java")?, args, env: Vec::new() })
    }

    fn ready(&self) -> Result<()> {
        http::get(PORT, "/").map(drop)
    }

    fn items(&self) -> usize {
        self.objects
    }

    fn reply(&self, item: usize) -> Result<String> {
        http::get(PORT, &format!("/item/{item}"))
    }

    fn state(&self) -> Result<State> {
        http_state(PORT, self.objects)
    }
}
