//! Connections: taking them, watching them, ending them.
//!
//! ```text
//! accept      takes connections        crowd      all of them, and who gives way when there are too many
//! connection  serves one               activity   what one does, for others to see
//! patience    notes what its socket does          warden     ends those that do nothing, or too little
//! ```

mod accept;
mod activity;
mod connection;
mod crowd;
mod patience;
mod warden;

pub(crate) use accept::serve;
pub(crate) use activity::{Activity, Engaged};
