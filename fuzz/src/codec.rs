//! One value's bytes, from the disk or the wire, decoded. For streams of them see [`frames`](crate::frames).
//!
//! The first byte says as what: see [`Kind`].

use serde::Serialize;
use serde::de::DeserializeOwned;
use yakt::codec::{decode_versioned, encode_versioned};
use yakt::env::TokioEnv;
use yakt::metadata::{Applied, Command, State};
use yakt::raft::network::message::{Call, Hello, Return};
use yakt::raft::storage::Identity;
use yakt::raft::{Ballot, LogEntry, SnapshotMeta};

/// What the bytes are taken for.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A snapshot's data.
    State,
    /// A row of the log.
    LogEntry,
    /// What a snapshot covers.
    SnapshotMeta,
    /// A vote on disk.
    Ballot,
    /// Whose directory it is.
    Identity,
    /// What a client asked for.
    Command,
    /// What became of it.
    Applied,
    /// The first frame of a connection.
    Hello,
    /// A question's frame.
    Call,
    /// An answer's frame.
    Return,
}

const KINDS: [Kind; 10] = [
    Kind::State,
    Kind::LogEntry,
    Kind::SnapshotMeta,
    Kind::Ballot,
    Kind::Identity,
    Kind::Command,
    Kind::Applied,
    Kind::Hello,
    Kind::Call,
    Kind::Return,
];

/// The input that makes [`run`] take `bytes` for a `kind`.
#[must_use]
pub fn input(kind: Kind, bytes: &[u8]) -> Vec<u8> {
    [&[kind as u8], bytes].concat()
}

/// Runs the target.
///
/// # Panics
///
/// When something is wrong.
pub fn run(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else { return };
    match KINDS[usize::from(kind) % KINDS.len()] {
        Kind::State => state(bytes),
        Kind::LogEntry => value::<LogEntry>(bytes),
        Kind::SnapshotMeta => value::<SnapshotMeta>(bytes),
        Kind::Ballot => value::<Ballot>(bytes),
        Kind::Identity => value::<Identity>(bytes),
        Kind::Command => value::<Command>(bytes),
        Kind::Applied => value::<Applied>(bytes),
        Kind::Hello => value::<Hello>(bytes),
        Kind::Call => value::<Call<TokioEnv>>(bytes),
        Kind::Return => value::<Return<TokioEnv>>(bytes),
    }
}

fn state(bytes: &[u8]) {
    let Ok(state) = State::decode(bytes) else { return };
    assert_eq!(state.encode(), bytes, "two encodings of one state");
    state.check_invariants().expect("a decoded state keeps its invariants");
}

/// Bytes that decode need not be the canonical ones; encoding what they mean gives those, once for all.
fn value<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(value) = decode_versioned::<T>(bytes) else { return };
    let canonical = encode_versioned(&value);
    let again: T = decode_versioned(&canonical).expect("what was encoded decodes");
    assert_eq!(encode_versioned(&again), canonical, "two encodings of one value");
}
