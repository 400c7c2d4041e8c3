//! CRIU: whether it is there, new enough, and content with this machine.

use super::{Report, kernel::numbers};
use std::{
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};
use tokio::process::Command;

/// The oldest whose lazy restore we know to work on new kernels.
const OLDEST: (u32, u32) = (4, 1);
/// `criu check` takes less than a second.
const PATIENCE: Duration = Duration::from_secs(30);
/// Lines of what CRIU says that are passed on.
const MOST_LINES: usize = 6;

pub(super) async fn check(report: &mut Report, criu: &Path) {
    let name = criu.display();
    let install = "install CRIU 4.1 or newer, or name one with --criu";
    let text = match run(criu, &["--version"]).await {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => return report.fail("criu", format!("{name}: {error}"), install),
    };
    let version = text.lines().find_map(|line| line.strip_prefix("Version:")).map(str::trim).unwrap_or_default();
    match numbers(version) {
        Some(numbers) if numbers >= OLDEST => report.ok("criu", format!("{name}, version {version}")),
        Some(_) => report.fail("criu", format!("{name}, version {version}"), install),
        None => return report.fail("criu", format!("{name} does not tell a version: {}", said(&text)), install),
    }
    for (check, arguments, advice) in [
        (
            "criu-check",
            &["check"][..],
            "run as root (capabilities, above); else this CRIU does not know this kernel: use a newer one",
        ),
        (
            "criu-uffd",
            &["check", "--feature", "uffd-noncoop"],
            "CRIU cannot restore lazily here: see the checks of userfaultfd and capabilities",
        ),
    ] {
        let command = format!("criu {}", arguments.join(" "));
        match run(criu, arguments).await {
            Ok(output) if output.status.success() => report.ok(check, format!("{command}: passed")),
            Ok(output) => {
                let text = [output.stdout, output.stderr].concat();
                let said = said(&String::from_utf8_lossy(&text));
                report.fail(check, format!("{command}: {}\n{said}", output.status), advice);
            }
            Err(error) => report.fail(check, format!("{command}: {error}"), advice),
        }
    }
}

/// What has to be the same for registers to be restored, and what has to be for all that a program may have chosen by.
/// (Without `--cpu-cap`, `criu cpuinfo check` 4.2 passes whatever the image says.)
pub(super) const REGISTERS: &str = "--cpu-cap=fpu,ins";
pub(super) const ALL: &str = "--cpu-cap=cpu";

/// Whether CRIU finds that this processor is as the checkpoint in `images` says.
pub(super) async fn cpu_features(criu: &Path, images: &Path, what: &str) -> Result<(), String> {
    let images = images.display().to_string();
    match run(criu, &["cpuinfo", "check", what, "-D", &images]).await {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(said(&String::from_utf8_lossy(&[output.stdout, output.stderr].concat()))),
        Err(error) => Err(error),
    }
}

async fn run(criu: &Path, arguments: &[&str]) -> Result<Output, String> {
    let mut command = Command::new(criu);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(output) => output.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no end after {} s", PATIENCE.as_secs())),
    }
}

/// The last lines of it.
fn said(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(MOST_LINES)..].join("\n")
}
