//! Serves the pages of a CRIU checkpoint over HTTP.
//!
//! ```text
//! routes/        what is served where; each file is one endpoint        problem    every error, with what to do next
//! address        the grammar of pids, addresses, ranges                 range_header, conditional, negotiate, multipart
//! segment, walk  where the bytes of any range are                       content    the bytes themselves, a frame at a time
//! framing        the answer to a bulk request                           coding     zstd content coding
//! checkpoints    those of a folder, opened as they are asked for
//! served         the open checkpoint                                    frame_cache, metrics, limits
//! places/        the memory that answers may take                       observe    counts and logs every answer
//! net/           connections: which, how many, how long               pace       patience with clients that take their time
//! auth/, tls/    who may come in, and how                             reload     files that change while the server runs
//! doors          all of this for one server                           access_log, request_id
//! ```
//!
//! A page is in the store (lazy ones), in the slim dump (the others), or zero; [`Server`] serves them all alike. Nothing that it
//! holds grows with the checkpoint but the index and the lists of mappings: bodies are made while they are sent, a frame at a
//! time, and only when the connection has room for more.

#![forbid(unsafe_code)]

mod access_log;
pub mod address;
mod auth;
mod checkpoints;
mod coding;
mod conditional;
mod content;
mod cors;
mod doors;
mod frame_cache;
pub mod framing;
mod hexdump;
pub mod limits;
mod metrics;
mod multipart;
mod negotiate;
mod net;
mod observe;
mod pace;
mod places;
mod problem;
pub mod range_header;
mod reload;
mod request_id;
mod routes;
mod segment;
mod served;
mod server;
mod shared_packs;
mod tls;
mod walk;

pub use access_log::AccessLog;
pub use auth::Tokens;
pub use cors::Origin;
pub use doors::Doors;
pub use net::Address;
pub use routes::{ROUTES, Route};
pub use server::{Opened, Server};
pub use tls::{Tls, TlsFiles};

/// The contract, as it is served: `openapi.yaml`.
pub const OPENAPI: &str = include_str!("../../openapi.yaml");
