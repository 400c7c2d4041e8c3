//! Tells over HTTP what a restore does: `/metrics`, `/status`, `/healthz`. Reads [`Status`](crate::status::Status), and nothing of the engine's.

mod endpoint;
mod metrics;
mod text;

pub(crate) use endpoint::{Endpoint, endpoint};
