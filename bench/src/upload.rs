//! `pageferry-strip split` straight to an object store, against what the slower of link and compressor allows.

use std::{fs, process::Command};

use anyhow::{Context, Result};
use pageferry_tests::{S3, SlowLink, folder_size, s3, tools};

use crate::{
    figures::{self, Figure},
    link::{CONTINENT, Link, REGION},
    measured,
    report::Outcome,
    run::{Bench, Scene},
    split::read_all,
    stats::Samples,
};

/// Splits a checkpoint in turn to a folder and, over each link, to an S3 server of this machine, which has the same cores.
pub(crate) fn measure(bench: &Bench, scene: &Scene) -> Result<Outcome> {
    let server = S3::start_optimised(&scene.work)?;
    let stored = folder_size(&scene.split()?.store)? as f64;
    let mut outcome = Outcome::default();
    for link in [REGION, CONTINENT] {
        let over_link = link.name();
        let [mut local, mut remote, mut least]: [Samples; 3] = Default::default();
        for run in 0..bench.runs(scene.subject) {
            let folder = scene.work.folder(&format!("upload-{run}"))?;
            let compressor = split(bench, scene, &folder.join("store").display().to_string(), &[])?;
            fs::remove_dir_all(&folder)?;
            let url = format!("upload-{run}");
            let seconds = over(bench, scene, &server, link, &url)?;
            fs::remove_dir_all(server.folder().join(&url))?;
            let wire = link.speed.and_then(|speed| speed.rate).map_or(0.0, |rate| stored * 8.0 / rate);
            local.push(compressor);
            remote.push(seconds);
            least.push(compressor.max(wire));
            scene.say(&format!(
                "upload {}, {over_link}: {seconds:.2} s; compressor {compressor:.2} s, link {wire:.2} s",
                run + 1
            ));
        }
        let name = scene.subject.name;
        let title =
            format!("upload of {:.0} MB stored ({name}), {over_link}, against the slower of both", stored / 1e6);
        outcome.rows.push(vec![
            name.to_owned(),
            over_link,
            format!("{:.1}", stored / 1e6),
            remote.with_spread("s", 2),
            local.with_spread("s", 2),
            format!("{:.2} s", least.median()),
        ]);
        outcome.figures.push(Figure::no_later(title, figures::UPLOAD, "s", remote, least));
    }
    Ok(outcome)
}

fn over(bench: &Bench, scene: &Scene, server: &S3, link: Link, url: &str) -> Result<f64> {
    let speed = link.speed.context("a link that is none")?;
    let near = SlowLink::to(server.port(), speed)?;
    split(bench, scene, &server.url(url), &s3::environment(near.port()))
}

/// Seconds that it takes.
fn split(bench: &Bench, scene: &Scene, store: &str, environment: &[(&'static str, String)]) -> Result<f64> {
    let mut strip = Command::new(tools::binary("pageferry-strip")?);
    strip.arg("split").arg(&scene.checkpoint.dir).args(["--store", store]).envs(environment.iter().cloned());
    read_all(&scene.checkpoint.dir)?;
    bench.quiet.wait()?;
    Ok(measured::run(&strip, &scene.work.path().join("upload.log"))?.wall)
}
