//! Connections: taking them, watching them, ending them.

mod accept;
mod patience;

pub(crate) use accept::serve;
