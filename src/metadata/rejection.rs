//! Why a command changed nothing.
//!
//! A rejection is an answer like any other: it was agreed on, every node gives the same one, and it is
//! remembered for retries.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A command that was applied and changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// What a program looks at. Stable across releases.
    pub code: RejectionCode,
    /// What a person reads.
    pub message: String,
}

impl Rejection {
    pub(super) fn new(code: RejectionCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// What sort of refusal this is.
    pub const fn kind(&self) -> RejectionKind {
        self.code.kind()
    }
}

/// The sort of a refusal; decides the HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectionKind {
    /// The command names a thing that does not exist.
    NotFound,
    /// The command contradicts what exists.
    Conflict,
    /// The command contradicts itself.
    Invalid,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $kind:ident;)*) => {
        /// Why a command was refused. The texts are part of the API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum RejectionCode {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl RejectionCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The name on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// What sort of refusal this is.
            pub const fn kind(self) -> RejectionKind {
                match self { $(Self::$name => RejectionKind::$kind),* }
            }
        }
    };
}

codes! {
    /// No broker has that id or UUID.
    UnknownBroker = "unknown_broker", NotFound;
    /// No topic has that UUID.
    UnknownTopic = "unknown_topic", NotFound;
    /// A live broker has that id.
    DuplicateBroker = "duplicate_broker", Conflict;
    /// A UUID drawn for something new is taken. Draw another.
    DuplicateUuid = "duplicate_uuid", Conflict;
    /// A topic has that name.
    DuplicateTopic = "duplicate_topic", Conflict;
    /// The topic has a partition of that number.
    DuplicatePartition = "duplicate_partition", Conflict;
    /// A producer has that id.
    DuplicateProducer = "duplicate_producer", Conflict;
    /// Every producer id is taken.
    ProducerIdsExhausted = "producer_ids_exhausted", Conflict;
    /// The broker is closed, and closed is for good.
    BrokerClosed = "broker_closed", Conflict;
    /// A fenced broker was named as in sync.
    BrokerFenced = "broker_fenced", Conflict;
    /// The broker has another epoch than the sender believed.
    StaleEpoch = "stale_epoch", Conflict;
    /// A broker cannot get that status.
    IllegalStatus = "illegal_status", Conflict;
    /// The idempotency key was used with another request.
    IdempotencyKeyReused = "idempotency_key_reused", Conflict;
    /// The replicas repeat a broker or are too many.
    InvalidReplicas = "invalid_replicas", Invalid;
    /// The ISR repeats a broker or has one that is no replica.
    InvalidIsr = "invalid_isr", Invalid;
    /// The leader is not in the ISR.
    InvalidLeader = "invalid_leader", Invalid;
    /// The removing or adding replicas repeat a broker or have one that is no replica.
    InvalidReassignment = "invalid_reassignment", Invalid;
}

impl fmt::Display for RejectionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
