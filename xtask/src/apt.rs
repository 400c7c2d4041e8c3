//! Debian packages: installed, or unpacked into a folder without touching the system.
//!
//! Signatures are checked by apt, always: every private source is signed by Debian's own archive keyring.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::run::{command, fetch, quiet};

/// Where Debian and Ubuntu keep Debian's archive keys; newer releases use the first name.
const KEYRINGS: [&str; 2] =
    ["usr/share/keyrings/debian-archive-keyring.pgp", "usr/share/keyrings/debian-archive-keyring.gpg"];

/// Index files that nobody reads here, tens of MB.
const SKIPPED_INDEXES: [&str; 3] = ["DEP-11", "Contents-deb", "Translations"];

fn apt_get() -> Command {
    let mut apt = command("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
    apt.args(["-q", "-o", "DPkg::Lock::Timeout=300", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3"]);
    apt
}

/// Installs packages in the system. For those that start no service and cannot live elsewhere.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let install = || quiet(apt_get().args(["install", "-y", "--no-install-recommends"]).args(packages));
    if install().is_err() {
        // Most often the package lists are missing (a container image) or old.
        quiet(apt_get().arg("update"))?;
        install().with_context(|| format!("apt-get install {} failed; is this run as root?", packages.join(" ")))?;
    }
    Ok(())
}

/// Downloads packages and what they need and the system lacks, and unpacks all that into `root`.
/// Nothing is installed: no service is started, no user made, no file outside `root` written.
pub(crate) fn unpack_missing(packages: &[&str], root: &Path) -> Result<()> {
    let debs = root.with_extension("debs");
    fs::create_dir_all(debs.join("partial")).with_context(|| debs.display().to_string())?;
    let archives = format!("Dir::Cache::archives={}", debs.display());
    let download = || {
        let options = ["install", "-y", "--no-install-recommends", "--download-only", "-o", &archives];
        quiet(apt_get().args(options).args(packages))
    };
    if download().is_err() {
        quiet(apt_get().arg("update"))?;
        download()?;
    }
    unpack(&debs, root)?;
    fs::remove_dir_all(&debs).with_context(|| debs.display().to_string())
}

/// One package by itself, from the system's own sources, unpacked into `root`.
fn unpack_one(package: &str, root: &Path) -> Result<()> {
    let debs = root.with_extension("debs");
    fs::create_dir_all(&debs).with_context(|| debs.display().to_string())?;
    let download = || quiet(apt_get().args(["download", package]).current_dir(&debs));
    if download().is_err() {
        quiet(apt_get().arg("update"))?;
        download()?;
    }
    unpack(&debs, root)?;
    fs::remove_dir_all(&debs).with_context(|| debs.display().to_string())
}

fn unpack(debs: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(root).with_context(|| root.display().to_string())?;
    let mut found = false;
    for entry in fs::read_dir(debs).with_context(|| debs.display().to_string())? {
        let deb = entry?.path();
        if deb.extension().is_some_and(|extension| extension == "deb") {
            quiet(command("dpkg").arg("-x").arg(&deb).arg(root))?;
            found = true;
        }
    }
    ensure!(found, "apt downloaded nothing into {}", debs.display());
    Ok(())
}

/// A Debian suite that the system does not use, seen through a private apt: own source list, own state, no package
/// installed. What it downloads is therefore complete, down to libc.
pub(crate) struct PrivateSuite {
    suite: String,
    folder: PathBuf,
}

impl PrivateSuite {
    /// `folder` is for apt's own files and goes away with [`PrivateSuite::remove`].
    pub(crate) fn new(suite: &str, folder: PathBuf) -> Self {
        Self { suite: suite.to_owned(), folder }
    }

    /// Downloads packages with all that they depend on, and unpacks them into `root`.
    pub(crate) fn unpack_closure(&self, packages: &[&str], root: &Path) -> Result<()> {
        for part in ["state/lists/partial", "cache/archives/partial"] {
            let path = self.folder.join(part);
            fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        }
        fs::write(self.folder.join("status"), "")?;
        self.update()?;
        let options = ["install", "-y", "--no-install-recommends", "--download-only"];
        quiet(self.apt_get().args(options).args(packages))?;
        unpack(&self.folder.join("cache/archives"), root)
    }

    pub(crate) fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.folder).with_context(|| self.folder.display().to_string())
    }

    /// Reads the suite's package list, signed by the system's Debian keyring; when that does not know the suite's key
    /// yet, by the newest keyring that the system's own sources offer, which apt checks with the system's keys.
    fn update(&self) -> Result<()> {
        let mirror = debian_mirror(&self.folder)?;
        let update = |keyring: &Path| -> Result<()> {
            let source = format!(
                "Types: deb\nURIs: {mirror}\nSuites: {}\nComponents: main\nSigned-By: {}\n",
                self.suite,
                keyring.display()
            );
            fs::write(self.folder.join("suite.sources"), source)?;
            // Without this, apt calls a list that it could not read a warning.
            quiet(self.apt_get().args(["update", "-o", "APT::Update::Error-Mode=any"]))?;
            Ok(())
        };
        match keyring_below(Path::new("/")).map(|keyring| update(&keyring)) {
            Some(Ok(())) => return Ok(()),
            Some(Err(error)) if !is_unknown_key(&error) => return Err(error),
            Some(Err(_)) => {
                fetch("keyring", "the system's does not know the suite's key; a newer debian-archive-keyring")
            }
            None => fetch("keyring", "debian-archive-keyring, from the system's own sources"),
        }
        let root = self.folder.join("keyring");
        unpack_one("debian-archive-keyring", &root)?;
        let keyring = keyring_below(&root).context("debian-archive-keyring holds no keyring")?;
        update(&keyring)
    }

    fn apt_get(&self) -> Command {
        let mut apt = apt_get();
        let folder = self.folder.display();
        apt.arg("-o").arg(format!("Dir::Etc::sourcelist={folder}/suite.sources"));
        apt.args(["-o", "Dir::Etc::sourceparts=/dev/null"]);
        apt.args(["-o", "Dir::Etc::preferences=/dev/null", "-o", "Dir::Etc::preferencesparts=/dev/null"]);
        apt.arg("-o").arg(format!("Dir::State={folder}/state"));
        apt.arg("-o").arg(format!("Dir::State::status={folder}/status"));
        apt.arg("-o").arg(format!("Dir::Cache={folder}/cache"));
        for index in SKIPPED_INDEXES {
            apt.arg("-o").arg(format!("Acquire::IndexTargets::deb::{index}::DefaultEnabled=false"));
        }
        apt
    }
}

/// Whether apt failed because a signature was made with a key that the keyring lacks (gpgv's words, and sqv's).
fn is_unknown_key(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    ["NO_PUBKEY", "Missing key", "is not signed"].iter().any(|words| text.contains(words))
}

fn keyring_below(root: &Path) -> Option<PathBuf> {
    KEYRINGS.iter().map(|keyring| root.join(keyring)).find(|keyring| keyring.is_file())
}

/// The address of a Debian mirror: the one that this system's apt uses; on a Debian derivative, the one that its
/// package `debootstrap` would install Debian from.
fn debian_mirror(scratch: &Path) -> Result<String> {
    if let Ok(mirror) = std::env::var("PAGEFERRY_DEBIAN_MIRROR") {
        return Ok(mirror);
    }
    let uris = quiet(apt_get().args(["update", "--print-uris"]))?;
    if let Some(mirror) = mirror_in_uris(&uris) {
        return Ok(mirror);
    }
    let root = scratch.join("debootstrap");
    unpack_one("debootstrap", &root)?;
    let script = root.join("usr/sbin/debootstrap");
    let text = fs::read_to_string(&script).with_context(|| script.display().to_string())?;
    match text.lines().find_map(|line| line.strip_prefix("DEF_MIRROR=")) {
        Some(mirror) => Ok(mirror.trim_matches('"').to_owned()),
        None => bail!("no Debian mirror found; set PAGEFERRY_DEBIAN_MIRROR to the address of one"),
    }
}

/// Finds `…/debian` in lines like `'http://host/debian/dists/bookworm/InRelease' name 0`.
fn mirror_in_uris(uris: &str) -> Option<String> {
    let bases = uris.lines().filter_map(|line| line.strip_prefix('\'')?.split_once("/dists/"));
    bases.map(|(base, _)| base).find(|base| base.ends_with("/debian")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::mirror_in_uris;

    #[test]
    fn finds_the_main_archive_only() {
        let uris = "\
'http://mirror.example/debian-security/dists/bookworm-security/InRelease' a 0 \n\
'https://other.example/apt/dists/stable/InRelease' b 0 \n\
'http://mirror.example/debian/dists/bookworm/InRelease' c 0 \n";
        assert_eq!(mirror_in_uris(uris).as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(mirror_in_uris("'http://mirror.example/ubuntu/dists/noble/InRelease' a 0"), None);
    }
}
