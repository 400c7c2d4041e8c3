//! Connections: taking them, watching them, ending them.
//!
//! ```text
//! listen      where they come from     accept     takes connections
//! connection  serves one               activity   what one does, for others to see
//! crowd       all of them, and who gives way when there are too many
//! patience    notes what its socket does          warden     ends those that do nothing, or too little
//! ```

mod accept;
mod activity;
mod connection;
mod crowd;
mod listen;
mod patience;
mod warden;

pub(crate) use accept::serve;
pub(crate) use activity::{Activity, Engaged};
pub(crate) use connection::Peer;
pub use listen::Address;
pub(crate) use listen::Listener;
