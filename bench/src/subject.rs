//! The checkpoints that are measured.

use pageferry_tests::programs::{Gunicorn, Java, Memory, Node, Program, Redis};

use crate::{
    cli::Measurement::{self, Distance, Fault, Growth, Index, Large, Peaks, Restore, Serve, Size, Split, Upload},
    synthetic,
};

/// A program that is started, filled, dumped, and what is measured of the dump.
pub(crate) struct Subject {
    /// One word, for rows and `--only`.
    pub(crate) name: &'static str,
    /// Makes the program.
    pub(crate) program: fn() -> Box<dyn Program>,
    /// What is measured of it.
    pub(crate) measurements: &'static [Measurement],
    /// Left out with `--quick`.
    pub(crate) large: bool,
}

/// All of them. The sizes are those that the figures speak of: 300 MB, 1 GB, 3 GB of dumped pages; for the other programs
/// what they take with a few hundred thousand objects.
pub(crate) fn all() -> [Subject; 9] {
    let subject = |name, program, measurements| Subject { name, program, measurements, large: false };
    [
        subject("redis", || Box::new(Redis { keys: 217_000 }), &[Split, Size, Restore, Distance, Serve]),
        subject("node", || Box::new(Node { objects: 300_000 }), &[Size, Restore, Distance]),
        subject("gunicorn", || Box::new(Gunicorn { items: 250_000 }), &[Size, Restore, Distance]),
        subject("java", || Box::new(Java { objects: 1_000_000 }), &[Size, Restore, Distance]),
        subject("redis-1gb", || Box::new(Redis { keys: 740_000 }), &[Index, Peaks, Upload]),
        // The index of a tree that shares pages has more runs to list than that of one large process.
        subject("gunicorn-1gb", || Box::new(Gunicorn { items: 485_000 }), &[Index]),
        Subject {
            name: "redis-3gb",
            program: || Box::new(Redis { keys: 2_170_000 }),
            measurements: &[Split],
            large: true,
        },
        subject("twins", synthetic::twins, &[Fault]),
        Subject {
            name: "memory-4gb",
            program: || Box::new(Memory { bytes: 4_000_000_000 / 4096 * 4096, twin: false }),
            measurements: &[Large, Growth],
            large: true,
        },
    ]
}

/// A tenth of `memory-4gb`.
pub(crate) fn small_memory() -> Subject {
    let program = || -> Box<dyn Program> { Box::new(Memory { bytes: 400_000_000 / 4096 * 4096, twin: false }) };
    Subject { name: "memory-0.4gb", program, measurements: &[], large: false }
}

/// Two processes with the same 64 MiB.
pub(crate) const TWINS: Memory = Memory { bytes: 64 << 20, twin: true };
