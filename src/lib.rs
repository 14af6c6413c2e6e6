//! YAKt
pub mod codec;
pub mod env;
pub mod http;
pub mod metadata;
pub mod node;
pub mod raft;
pub mod server;
