//! Raft's network: length-prefixed postcard frames over the environment's byte streams.
//!
//! - One connection carries numbered requests and their answers; answers may overtake each other, except
//!   those of `AppendEntries`, which are handled in the order in which they were sent.
//! - The first frame says who calls whom in which cluster, and in which version of this protocol. A
//!   connection that reached the wrong node, or another cluster's, is refused before it does harm.
//! - Frames are bounded by [`FRAME_BYTES_MAX`](super::config::FRAME_BYTES_MAX), snapshots travel in chunks.
//! - Every request has a deadline. When one passes and nothing at all has come since the request, the
//!   connection is given up: a half-open connection must not be waited on twice.
//!
//! - [`names`] resolves and remembers names; [`health`] records which peers answer.
//!
//! Memory is bounded whatever strangers send: see `inbox`, `entrance` and `receiving`.
//!
//! [`client`] is the calling side and what openraft sends through; [`server`] the answering side;
//! [`message`] what they say; [`frame`] how it is cut into bytes.

mod ask;
pub mod client;
mod entrance;
pub mod frame;
pub mod health;
mod inbox;
mod linger;
pub mod message;
mod moves;
pub mod names;
mod peer;
mod pipeline;
mod receiving;
pub mod server;

pub use ask::ask;
pub use client::{CallError, Channel};
pub use inbox::HELLO_BYTES_MAX;
pub use moves::Moves;
pub use names::Names;
pub use peer::{Network, PeerClient};
