//! The programs at the size that tests use.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use pageferry_tests::{
    Checkpoint, Result, Split, Workdir,
    programs::{Gunicorn, Java, Node, Program, Redis, Sparse, Threads},
    split,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use std::{fs, path::Path};

/// Of the program "sparse": every so many pages one has content.
pub const SPARSE_STEP: usize = 64;

/// A checkpoint, split; the full dump is gone.
pub struct Scene {
    pub work: Workdir,
    pub checkpoint: Checkpoint,
    pub split: Split,
}

/// Of [`program`].
pub fn scene(name: &str, size: usize) -> Result<Scene> {
    let work = Workdir::new(name)?;
    let checkpoint = Checkpoint::take_boxed(&work, program(name, size))?;
    let split = split(&work, &checkpoint, &[])?;
    std::fs::remove_dir_all(&checkpoint.dir)?;
    Ok(Scene { work, checkpoint, split })
}

/// A program by name with so many keys, objects, items, or bytes per part.
pub fn program(name: &str, size: usize) -> Box<dyn Program> {
    match name {
        "redis" => Box::new(Redis { keys: size }),
        "gunicorn" => Box::new(Gunicorn { items: size }),
        "node" => Box::new(Node { objects: size }),
        "java" => Box::new(Java { objects: size }),
        "sparse" => Box::new(Sparse { bytes: size, step: SPARSE_STEP }),
        "threads" => Box::new(Threads { part_size: size }),
        other => panic!("no program is called {other}"),
    }
}

/// Each of them, large enough that memory is most of the dump.
pub fn all_programs() -> Vec<Box<dyn Program>> {
    vec![
        program("redis", 40_000),
        program("gunicorn", 20_000),
        program("node", 100_000),
        program("java", 100_000),
        program("threads", 1 << 20),
    ]
}

/// An authority, a pair for the server, one for clients, one that is no longer valid.
pub fn certificates(folder: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
    for (name, until) in [("server", 2200), ("client", 2200), ("past", 2001)] {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(until, 1, 1));
        let key = KeyPair::generate().unwrap();
        fs::write(folder.join(format!("{name}.pem")), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}
