//! Consensus: openraft, with our log, our state machine and our network.
//!
//! How a command travels:
//!
//! 1. [`Node`](crate::node::Node) hands it to openraft on the leader, which appends it to the log:
//!    [`storage::LogStore`] remembers it in memory and queues it for the disk.
//! 2. At the same time openraft sends it to the followers through [`network::PeerClient`], pipelined over
//!    one connection each; their [`network::server`] feeds it to their openraft, which appends it too.
//! 3. Each node's [`storage::writer`] writes what is queued, in one record and with one sync, and only
//!    then tells openraft, which only then counts that node towards the majority (Raft §5.3).
//! 4. Once a majority has it, [`state_machine`] applies it, in log order, on every node; the leader's
//!    answer goes back to the caller.
//!
//! Reads do not enter the log: the leader proves that it still leads by hearing from a majority after
//! the read came in (Raft §6.4, read index), and the asked node waits until it has applied that far.

pub mod candidacy;
mod cluster_clock;
pub mod config;
pub mod guard;
pub mod network;
pub mod observe;
pub mod state_machine;
pub mod storage;
mod tally;
mod types;

pub use cluster_clock::ClusterClock;
pub use tally::Tally;
pub use types::{
    Ballot, CommittedLeader, EntryId, Leader, LogEntry, Membership, NodeId, Payload, Peer, Raft,
    Reply, SharedCommand, SnapshotMeta, Term, TypeConfig,
};
