//! YAKt: the metadata quorum of a Kafka-like cluster.
//!
//! Five nodes agree, through Raft, on which brokers, topics, partitions and producers exist, and serve
//! that over HTTP. The whole node (network, time, disk, randomness) is generic over one parameter,
//! [`Env`](env::Env), and runs unchanged on two of them:
//!
//! - [`TokioEnv`](env::TokioEnv): real sockets, the system clock, a file. What the `yakt` binary runs.
//! - `yakt_sim::SimEnv`, in the package `yakt-sim`: a simulated network, disk and clock for a cluster in
//!   one process, in which a seed number decides everything that happens. What the tests run. This
//!   library never links it.
//!
//! # A map of the code
//!
//! | module | what it is |
//! |---|---|
//! | [`server`] | a whole server: a node and its HTTP API |
//! | [`http`] | the endpoints: requests parsed into changes and reads, answers rendered, errors as problems |
//! | [`node`] | one member: start and stop, joining, proposing, reading, what only a leader does |
//! | [`raft`] | openraft instantiated: storage (a journal and a redb file), network (framed postcard), state machine |
//! | [`metadata`] | the replicated state machine: a pure function from state and command to state and outcome |
//! | [`codec`] | bytes that outlive a process: a format version and postcard |
//! | [`env`](mod@env) | the only door to the outside: network, clock, disk, randomness, tasks |
//! | [`quiet`] | a rate limit for log lines that repeat |
//!
//! Dependencies point one way: `http -> node -> raft -> metadata`, and whatever touches the outside
//! `-> env`. `metadata` depends on nothing but `codec`, does no I/O, reads no clock and draws no
//! randomness: every id and timestamp in it was chosen by the proposer and travels inside the command.
//!
//! A write enters at [`http::router`], becomes a [`metadata::Change`], goes through [`node::Node::propose`]
//! to the leader and through [`raft`] to a majority's disks, and comes back as the
//! [`metadata::Applied`] that [`metadata::State::apply`] made of it. A read goes through
//! [`node::Node::read`], which makes sure that this node has applied all that was committed when it was
//! asked. Begin there, or with the [`env`](mod@env) that all of it stands on.
//!
//! Nothing outside `env` may call tokio's runtime, `std::time`, `std::fs` or a random number generator:
//! `clippy.toml` has the list, and the compiler keeps it.

pub mod codec;
pub mod env;
pub mod http;
pub mod metadata;
pub mod node;
pub mod quiet;
pub mod raft;
pub mod server;
