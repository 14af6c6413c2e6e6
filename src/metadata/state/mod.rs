//! The state, and how a command changes it.
//!
//! Every map in here is persistent (imbl): cloning a [`State`] copies a handful of pointers, so a reader
//! or a snapshot keeps a frozen image while the next command is applied. A command costs by what it
//! touches, not by what exists, but for one in as many changes of partitions as there are partitions, which clears away
//! what these left behind (`index`).
//!
//! # What is kept
//!
//! For good: the latest record of every topic, partition and producer, of every broker that was ever registered, closed or
//! not, and every change of a registration. A complete answer has all of these (see [`view`]), and whoever was away for
//! longer than ten minutes gets one. Nothing else has to be kept for the ten-minute rule: a diff tells what things are now
//! and not what they were, so what a record was before is dropped when it changes, and the index of changes has one
//! entry a thing, and no more outdated ones than there are partitions (and a thousand). There are no tombstones: a closed
//! broker's record says that it is closed. Outcomes are remembered for
//! [`IDEMPOTENCY_RETENTION`](super::limits::IDEMPOTENCY_RETENTION).

use std::sync::Arc;

use imbl::{OrdMap, OrdSet, Vector};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::history::History;
use self::index::Index;
use self::outcomes::{Outcomes, Recall};
use self::placements::{Brokers, Partitions};
use self::topics::Topics;
use super::limits::{CLOCK_MAX_MICROS, IDEMPOTENCY_ENTRIES_MAX};
use super::{
    BrokerId, Change, Command, PartitionId, ProducerId, ProducerIdsRecord, Record,
    RegisterBrokerRecord, RegistrationChangeBrokerRecord, Rejection, RejectionCode, Stamped,
    Timestamp, TopicRecord,
};

mod brokers;
mod history;
mod index;
mod invariants;
mod outcomes;
mod packed;
mod partitions;
mod placements;
mod producers;
mod snapshot;
mod topics;
mod view;

pub use self::history::{HistoryId, InvalidHistoryId, Position};
pub use self::view::{Audience, Changes, DeletedBroker, Diff, Image, Records};

/// What became of a command: the record it made, nothing (a [`Change::Tick`]), or why not.
pub type Outcome = Result<Option<Record>, Rejection>;

/// The answer to a command. Crosses the wire when a follower forwarded the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The command's place in cluster time. Later than every earlier command's, whatever their
    /// outcome.
    pub stamp: Timestamp,
    /// What became of it. For a retry (see [`IdempotencyKey`](super::IdempotencyKey)) what became of
    /// the first attempt: the record's own timestamp is that attempt's.
    pub outcome: Outcome,
}

type BrokerEntry = Arc<Stamped<RegisterBrokerRecord>>;
type TopicEntry = Arc<Stamped<TopicRecord>>;
type ProducerEntry = Arc<Stamped<ProducerIdsRecord>>;
type RegistrationChangeEntry = Arc<Stamped<RegistrationChangeBrokerRecord>>;

/// A partition's topic and its number there.
type PartitionKey = (Uuid, PartitionId);

/// The replicated metadata.
///
/// # Invariants
///
/// Asserted where a command could break them, checked as a whole by
/// [`check_invariants`](Self::check_invariants):
///
/// - Broker ids are unique among live brokers, UUIDs among all incarnations; every incarnation but the
///   latest of an id is closed.
/// - Epochs and partition epochs only grow, a broker's across incarnations too.
/// - A partition names an existing topic; topic names are unique.
/// - Topics and partitions stand in the order in which they were created, which is how they are numbered.
/// - A partition's replicas are distinct, its ISR, removing and adding replicas are among them, and its
///   leader is in the ISR.
/// - A fenced or closed broker is in no ISR and leads nothing.
/// - A partition that awaits a broker has an empty ISR, and the broker is one of its replicas and
///   fenced or closed. A partition whose ISR became empty awaits one.
/// - A producer's broker epoch was the broker's epoch when the producer was registered.
/// - Stamps strictly increase from command to command; no record is younger than the last stamp.
#[derive(Clone, Debug, Default)]
pub struct State {
    last_stamp: Timestamp,
    /// The leaderships that this state comes from: see [`history`].
    history: History,
    /// The latest incarnation of each id, live or closed.
    brokers: Brokers,
    /// Closed incarnations whose id was registered again.
    former_brokers: OrdMap<Uuid, BrokerEntry>,
    /// In log order.
    registration_changes: Vector<RegistrationChangeEntry>,
    topics: Topics,
    partitions: Partitions,
    /// Partitions without an ISR, under the broker that left it last. See [`partitions`].
    awaited: OrdSet<(BrokerId, PartitionKey)>,
    producers: OrdMap<ProducerId, ProducerEntry>,
    /// Where the search for a free producer id begins: no id below it is free.
    producer_id_next: u32,
    outcomes: Outcomes,
    /// Derived from the above, kept out of snapshots and rebuilt from them.
    index: Index,
}

/// States are equal that a snapshot cannot tell apart.
impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.encode() == other.encode()
    }
}

impl State {
    /// The state before the first command.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cluster time as of the last applied command.
    pub const fn last_stamp(&self) -> Timestamp {
        self.last_stamp
    }

    /// Applies the next command of the log.
    ///
    /// Never fails for a reason another node would not see, and never panics on any command: what does
    /// not fit is an [`Outcome`] like any other.
    pub fn apply(&mut self, command: &Command) -> Applied {
        let stamp = self.advance(command.clock);
        self.outcomes.prune(stamp);
        let Some(key) = &command.idempotency else {
            return Applied { stamp, outcome: self.change(stamp, &command.change) };
        };
        let outcome = match self.outcomes.recall(stamp, key) {
            Recall::Known(outcome) => outcome,
            Recall::Reused => Err(Rejection::new(
                RejectionCode::IdempotencyKeyReused,
                "this idempotency key was sent with a different request",
            )),
            Recall::Unknown => {
                let outcome = self.change(stamp, &command.change);
                self.outcomes.remember(stamp, key, &outcome, IDEMPOTENCY_ENTRIES_MAX);
                outcome
            }
        };
        Applied { stamp, outcome }
    }

    /// Moves cluster time to `clock`, or by the least step when that lies behind, or beyond
    /// [`CLOCK_MAX_MICROS`]. A clock beyond that limit is broken. Cluster time never goes back, so one
    /// command with such a reading would otherwise stop it for good.
    ///
    /// Rejected commands and ticks take a stamp too: "every later command has a later stamp" then needs
    /// no exception, and an offset handed out at any moment stays behind all that follows it.
    fn advance(&mut self, clock: Timestamp) -> Timestamp {
        let is_valid = clock.micros() <= CLOCK_MAX_MICROS;
        let clock = if is_valid { clock } else { Timestamp::ZERO };
        let stamp = clock.max(self.last_stamp.next());
        assert!(stamp > self.last_stamp, "cluster time stood still at {stamp}");
        self.history.note(self.last_stamp, stamp);
        self.last_stamp = stamp;
        stamp
    }

    fn change(&mut self, stamp: Timestamp, change: &Change) -> Outcome {
        let record = match change {
            Change::Tick => return Ok(None),
            Change::RegisterBroker(change) => self.register_broker(stamp, change),
            Change::UpdateBroker(change) => self.update_broker(stamp, change),
            Change::UnregisterBroker(change) => self.unregister_broker(stamp, change),
            Change::CreateTopic(change) => self.create_topic(stamp, change),
            Change::CreatePartition(change) => self.create_partition(stamp, change),
            Change::RegisterProducer(change) => self.register_producer(stamp, change),
        };
        record.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(state: &mut State, clock: u64) -> u64 {
        let clock = Timestamp::from_micros(clock);
        state.apply(&Command { clock, idempotency: None, change: Change::Tick }).stamp.micros()
    }

    #[test]
    fn stamps_follow_the_clock_but_never_back_and_never_to_an_invalid_one() {
        let mut state = State::new();
        assert_eq!(tick(&mut state, 1_000), 1_000);
        assert_eq!(tick(&mut state, 1_000), 1_001);
        assert_eq!(tick(&mut state, 3), 1_002);
        assert_eq!(tick(&mut state, 5_000), 5_000);
        assert_eq!(tick(&mut state, u64::MAX), 5_001);
        assert_eq!(tick(&mut state, CLOCK_MAX_MICROS + 1), 5_002);
        assert_eq!(tick(&mut state, 6_000), 6_000);
        assert_eq!(tick(&mut state, CLOCK_MAX_MICROS), CLOCK_MAX_MICROS);
        assert_eq!(tick(&mut state, 7_000), CLOCK_MAX_MICROS + 1);
    }
}
