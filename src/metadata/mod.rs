//! The metadata: which brokers, topics, partitions and producers exist, as a pure state machine.
//!
//! A [`Command`] goes into [`State::apply`], which changes the [`State`] and says what became of the
//! command: a stamp, and a [`Record`] or a [`Rejection`]. That is all. Nothing in here does I/O, reads a
//! clock, draws a random number or computes with floats, so five nodes that apply the same commands in
//! the same order hold byte-identical states (compare [`State::digest`]).
//!
//! | where | what |
//! |---|---|
//! | [`Command`], [`Change`] | what goes in |
//! | [`Applied`], [`Record`], [`Rejection`] | what comes out |
//! | [`State`] | what is remembered, its views, diffs and snapshots |
//! | [`Timestamp`], [`snapshot_kind`] | cluster time and the ten-minute rule |
//! | [`limits`] | every limit |
//! | the rest | values that were checked when they were parsed |
//!
//! Two views of the state are served: the *live image* (brokers that are not closed, topics,
//! partitions, producers) and the *complete metadata* (closed brokers and registration changes too).
//!
//! Left out: who may send a command and in which order they come (Raft's business), request bodies
//! (HTTP's), and everything that the ten endpoints have no call for: heartbeats, replicas that catch up
//! and re-enter an ISR, deleting topics.

mod broker;
mod command;
mod id;
pub mod limits;
mod record;
mod rejection;
mod state;
mod text;
mod time;

pub use uuid::Uuid;

pub use self::broker::{BrokerRef, BrokerStatus};
pub use self::command::{
    Change, Command, CreatePartition, CreateTopic, IdempotencyKey, LeaderChoice, RegisterBroker,
    RegisterProducer, UnregisterBroker, UpdateBroker,
};
pub use self::id::{BrokerId, Epoch, PartitionId, ProducerId};
pub use self::record::{
    Fields, PartitionRecord, ProducerIdsRecord, Record, RegisterBrokerRecord,
    RegistrationChangeBrokerRecord, Stamped, TopicRecord,
};
pub use self::rejection::{Rejection, RejectionCode, RejectionKind};
pub use self::state::{
    Applied, Audience, Changes, DeletedBroker, Diff, HistoryId, Image, InvalidHistoryId, Outcome,
    Position, Records, State,
};
pub use self::text::{Host, InvalidValue, Port, RackId, SecurityProtocol, TopicName};
pub use self::time::{SnapshotKind, Timestamp, snapshot_kind};
