//! The programs that builds and tests need: taken from the system when they are there, else fetched.
//!
//! `target/programs/bin` gets one entry per program, so that tests need to look in one place only. Servers whose
//! packages would start a service (redis, nginx) are unpacked below `target/programs`, not installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{
    apt, paths,
    run::{self, command, fetch, have},
};

/// A program that comes with a Debian package.
struct Program {
    name: &'static str,
    /// The package that has it on both Debian and Ubuntu.
    package: &'static str,
    /// Arguments that make it print its version and end.
    version: &'static str,
    how: How,
}

enum How {
    /// The package is installed: it starts nothing.
    Install,
    /// The package is unpacked: installing it would start a service.
    Unpack,
}

const PROGRAMS: [Program; 10] = [
    Program { name: "zstd", package: "zstd", version: "--version", how: How::Install },
    Program { name: "ip", package: "iproute2", version: "-V", how: How::Install },
    Program { name: "node", package: "nodejs", version: "--version", how: How::Install },
    Program { name: "javac", package: "default-jdk-headless", version: "--version", how: How::Install },
    Program { name: "java", package: "default-jdk-headless", version: "--version", how: How::Install },
    Program { name: "redis-server", package: "redis-server", version: "--version", how: How::Unpack },
    Program { name: "wrk", package: "wrk", version: "-v", how: How::Install },
    Program { name: "nginx", package: "nginx", version: "-v", how: How::Unpack },
    // A test runs its own; where the machine has none, installing it starts nothing.
    Program { name: "systemd", package: "systemd", version: "--version", how: How::Install },
    Program { name: "varnishd", package: "varnish", version: "-V", how: How::Unpack },
];

/// A program from PyPI, each in an environment of its own.
struct PythonProgram {
    name: &'static str,
    /// Pinned: a new release must not break an old commit.
    version: &'static str,
}

const PYTHON_PROGRAMS: [PythonProgram; 4] = [
    PythonProgram { name: "gunicorn", version: "23.0.0" },
    // Version 4 generates invalid requests as well, and knows OpenAPI 3.1.
    PythonProgram { name: "schemathesis", version: "4.32.5" },
    PythonProgram { name: "openapi-python-client", version: "0.29.1" },
    // Its package brings the compiled program.
    PythonProgram { name: "typos", version: "1.52.0" },
];

/// A program from the Rust registry, built once.
struct RustProgram {
    name: &'static str,
    /// Pinned: a new release must not break an old commit, nor ask for a newer compiler.
    version: &'static str,
    features: &'static str,
    /// Tests need it to be there, measurements need it to be fast.
    optimised: bool,
}

/// A real S3 server on a folder. It builds in two minutes.
const S3: RustProgram = RustProgram { name: "s3s-fs", version: "0.14.1", features: "binary", optimised: false };

/// A distributed object store, which builds in twenty.
const GARAGE: RustProgram = RustProgram { name: "garage", version: "2.5.0", features: "sqlite", optimised: false };

/// Whose interpreter becomes `bin/python3`.
const PYTHON_FROM: &str = "gunicorn";

/// Everything but libclang and CRIU.
pub(crate) fn setup() -> Result<()> {
    setup_those(|_| true)
}

/// Garage, for those who ask for it.
pub(crate) fn setup_garage() -> Result<()> {
    GARAGE.setup(&paths::programs_dir()?.join("bin"))
}

/// What is measured against, where what the tests have is too slow for that.
pub(crate) fn setup_optimised() -> Result<()> {
    RustProgram { optimised: true, ..S3 }.setup(&paths::programs_dir()?.join("bin"))
}

/// What it takes to checkpoint one program.
pub(crate) fn setup_for(program: &str) -> Result<()> {
    let needed: &[&str] = match program {
        "redis" => &["ip", "redis-server"],
        // It is started by a Python script, with the interpreter that gunicorn's environment brings.
        "node" => &["ip", "node", "gunicorn"],
        "java" => &["ip", "java", "javac"],
        _ => &["ip", "gunicorn"],
    };
    setup_those(|name| needed.contains(&name))
}

fn setup_those(needed: impl Fn(&str) -> bool) -> Result<()> {
    let bin = paths::programs_dir()?.join("bin");
    fs::create_dir_all(&bin).with_context(|| bin.display().to_string())?;
    for program in PROGRAMS.iter().filter(|program| needed(program.name)) {
        program.setup(&bin)?;
    }
    for program in PYTHON_PROGRAMS.iter().filter(|program| needed(program.name)) {
        program.setup(&bin)?;
    }
    if needed(S3.name) {
        S3.setup(&bin)?;
    }
    Ok(())
}

impl Program {
    fn setup(&self, bin: &Path) -> Result<()> {
        let entry = bin.join(self.name);
        if !self.works(&entry) {
            if let Some(system) = run::which(self.name).filter(|system| self.works(system)) {
                run::link(&system, &entry)?;
            } else {
                self.get(&entry)?;
            }
        }
        let real = fs::canonicalize(&entry).with_context(|| entry.display().to_string())?;
        have(self.name, real.display());
        Ok(())
    }

    fn works(&self, path: &Path) -> bool {
        // A JVM takes half a second to say its version, and wrk fails after it has; that the file is there has to do.
        if self.name.starts_with("java") || self.name == "wrk" {
            return path.exists();
        }
        path.exists() && run::succeeds(command(path).arg(self.version))
    }

    fn get(&self, entry: &Path) -> Result<()> {
        match self.how {
            How::Install => {
                fetch(self.name, format!("apt-get install {}", self.package));
                apt::install(&[self.package])?;
                let system = run::which(self.name)
                    .with_context(|| format!("package {} brought no {}", self.package, self.name))?;
                run::link(&system, entry)?;
            }
            How::Unpack => {
                let root = paths::programs_dir()?.join(self.package);
                let shown = root.display();
                fetch(self.name, format!("package {} with its libraries, unpacked into {shown}", self.package));
                apt::unpack_missing(&[self.package], &root)?;
                let folders = ["usr/bin", "usr/sbin"].map(|folder| root.join(folder).join(self.name));
                let file = folders.iter().find(|file| file.exists());
                let file = file.with_context(|| format!("package {} holds no {}", self.package, self.name))?;
                run::write_script(entry, &wrapper(&root, file))?;
            }
        }
        ensure!(self.works(entry), "{0} does not start: try `{0} {1}`", entry.display(), self.version);
        Ok(())
    }
}

/// A script that starts a program with the libraries that were unpacked beside it.
fn wrapper(root: &Path, file: &Path) -> String {
    let library = root.join("usr/lib");
    let below = fs::read_dir(&library).into_iter().flatten().flatten().map(|entry| entry.path());
    let triplets = below.filter(|path| path.to_string_lossy().ends_with("-linux-gnu"));
    let folders = triplets.chain([library.clone()]).map(|path| path.display().to_string());
    format!(
        "#!/bin/sh\n# Written by `cargo xtask setup`.\nLD_LIBRARY_PATH='{}' exec '{}' \"$@\"\n",
        folders.collect::<Vec<_>>().join(":"),
        file.display()
    )
}

impl PythonProgram {
    fn setup(&self, bin: &Path) -> Result<()> {
        let place = paths::programs_dir()?.join(format!("{}-{}", self.name, self.version));
        let done = place.join("complete");
        if !done.exists() {
            fetch(self.name, format!("{} {} from PyPI, into {}", self.name, self.version, place.display()));
            let _ = fs::remove_dir_all(&place);
            let venv = |python: &str| run::quiet(command(python).args(["-m", "venv"]).arg(&place));
            if venv("python3").is_err() {
                // No Python at all, or Debian's, which comes without venv.
                apt::install(&["python3", "python3-venv"])?;
                let _ = fs::remove_dir_all(&place);
                // By its path: what the search path finds first may be the one that has just failed.
                venv("/usr/bin/python3")?;
            }
            let requirement = format!("{}=={}", self.name, self.version);
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", &requirement];
            run::quiet(command(place.join("bin/python3")).args(pip))?;
            fs::write(&done, "")?;
        }
        let file = place.join("bin").join(self.name);
        ensure!(file.exists(), "{} is missing; remove {} and try again", file.display(), place.display());
        run::link(&file, &bin.join(self.name))?;
        if self.name == PYTHON_FROM {
            // The interpreter itself, past any shim: tests checkpoint plain Python programs too.
            run::link(&fs::canonicalize(place.join("bin/python3"))?, &bin.join("python3"))?;
        }
        have(self.name, format!("{}, {}", self.version, place.display()));
        Ok(())
    }
}

impl RustProgram {
    fn setup(&self, bin: &Path) -> Result<()> {
        let programs = paths::programs_dir()?;
        let suffix = if self.optimised { "-optimised" } else { "" };
        let place = programs.join(format!("{}-{}{suffix}", self.name, self.version));
        let file = place.join("bin").join(self.name);
        if !file.exists() {
            fetch(self.name, format!("cargo install {} {}, into {}", self.name, self.version, place.display()));
            let build = programs.join(format!("{}{suffix}-build", self.name));
            let mut cargo = command("cargo");
            cargo.args(["install", self.name, "--version", self.version, "--features", self.features, "--locked"]);
            if !self.optimised {
                cargo.arg("--debug");
            }
            cargo.args(["--quiet", "--root"]).arg(&place).arg("--target-dir").arg(&build);
            run::quiet(&mut cargo)?;
            let _ = fs::remove_dir_all(&build);
        }
        run::link(&file, &bin.join(format!("{}{suffix}", self.name)))?;
        have(self.name, format!("{}, {}", self.version, place.display()));
        Ok(())
    }
}

/// libclang: `userfaultfd-sys` runs bindgen, which loads it.
pub(crate) fn setup_libclang() -> Result<()> {
    if find_libclang().is_none() {
        fetch("libclang", "apt-get install libclang-dev (bindgen needs it for the userfaultfd header)");
        apt::install(&["libclang-dev"])?;
    }
    let found = find_libclang().context("libclang-dev is installed, yet there is no libclang*.so* to be found")?;
    have("libclang", found.display());
    Ok(())
}

/// Looks where bindgen looks (clang-sys, `build/common.rs`).
fn find_libclang() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("LIBCLANG_PATH").map(PathBuf::from).into_iter().collect();
    let subfolders = |folder: &str| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    folders.extend(subfolders("/usr/lib").filter(|path| path.to_string_lossy().ends_with("-linux-gnu")));
    folders
        .extend(subfolders("/usr/lib").filter(|path| path.to_string_lossy().contains("/llvm-")).map(|p| p.join("lib")));
    folders.push("/usr/lib64".into());
    let is_libclang = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // `libclang.so`, `libclang-14.so.1`; not `libclang-cpp.so.14`.
        let rest = name.strip_prefix("libclang").unwrap_or_default();
        let version = rest.strip_prefix('-').unwrap_or_default();
        rest.starts_with(".so") || version.contains(".so") && version.starts_with(|c: char| c.is_ascii_digit())
    };
    folders.iter().flat_map(fs::read_dir).flatten().flatten().map(|entry| entry.path()).find(is_libclang)
}

/// rustfmt and clippy, which a minimal toolchain lacks.
pub(crate) fn setup_toolchain() -> Result<()> {
    for (tool, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if !run::succeeds(command("cargo").args([tool, "--version"])) {
            fetch(component, format!("rustup component add {component}"));
            run::quiet(command("rustup").args(["component", "add", component]))?;
        }
        have(component, "part of the Rust toolchain");
    }
    Ok(())
}
