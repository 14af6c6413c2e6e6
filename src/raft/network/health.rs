//! Which peers answer: one record per peer, and few lines in the log.
//!
//! A leader calls a dead follower dozens of times a second. Instead of a line for each attempt:
//!
//! - one warning when a peer becomes unreachable, with the reason;
//! - while it stays so, one line a minute with the number of failed attempts;
//! - one line when it answers again.
//!
//! A peer that comes and goes gets at most one warning a minute, and a line about its return only
//! after a warning.
//!
//! A record holds the outcomes of *this* node's own calls. A leader calls every member all the
//! time. A follower seldom calls others, so it asks the peers that it takes for unreachable every
//! few seconds (`node::peers`). It may not know that a peer is gone if it has no reason to call
//! that peer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::moves::Moves;
use crate::env::{Env, rt};
use crate::metadata::Timestamp;
use crate::raft::types::NodeId;

/// Shortest time between two warnings about one peer: 1,440 lines a day for a peer that stays away.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);

/// Characters of a reason that are kept. A misdirected peer writes its own reason.
const REASON_CHARS_MAX: usize = 300;

/// A peer that does not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreachable {
    /// When the first attempt failed, by the wall clock of the node that reports it.
    pub since: Timestamp,
    /// Seconds since then, by the monotonic clock of that node.
    pub seconds: u64,
    /// Attempts that failed since then.
    pub failures: u64,
    /// Why the last one failed.
    pub reason: String,
}

/// The records of all peers. Clones share them.
pub struct Health<E: Env> {
    env: E,
    moves: Moves,
    peers: Arc<Mutex<BTreeMap<NodeId, PeerHealth<E>>>>,
}

impl<E: Env> Clone for Health<E> {
    fn clone(&self) -> Self {
        Self { env: self.env.clone(), moves: self.moves.clone(), peers: Arc::clone(&self.peers) }
    }
}

impl<E: Env> Health<E> {
    /// Every peer counts as reachable until a call fails.
    #[must_use]
    pub fn new(env: E, moves: Moves) -> Self {
        Self { env, moves, peers: Arc::default() }
    }

    /// The record of `peer`.
    #[must_use]
    pub fn peer(&self, peer: NodeId) -> PeerHealth<E> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let record = peers.entry(peer).or_insert_with(|| PeerHealth {
            env: self.env.clone(),
            moves: self.moves.clone(),
            peer,
            shared: Arc::default(),
        });
        record.clone()
    }

    /// The state of `peer`, if it is unreachable.
    #[must_use]
    pub fn unreachable(&self, peer: NodeId) -> Option<Unreachable> {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.get(&peer)?.unreachable()
    }

    /// Forgets the peers that are not among `members`: they are not called, so they never answer.
    pub fn retain(&self, members: &BTreeSet<NodeId>) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|peer, _| members.contains(peer));
    }
}

/// The record of one peer. Clones share it.
pub struct PeerHealth<E: Env> {
    env: E,
    moves: Moves,
    peer: NodeId,
    shared: Arc<Shared<E>>,
}

impl<E: Env> Clone for PeerHealth<E> {
    fn clone(&self) -> Self {
        Self {
            env: self.env.clone(),
            moves: self.moves.clone(),
            peer: self.peer,
            shared: Arc::clone(&self.shared),
        }
    }
}

struct Shared<E: Env> {
    /// Whether `record` has an outage. Every answer reads this flag, and few need the lock.
    is_unreachable: AtomicBool,
    record: Mutex<Record<rt::Instant<E>>>,
}

impl<E: Env> Default for Shared<E> {
    fn default() -> Self {
        let record = Record { outage: None, warned: None };
        Self { is_unreachable: AtomicBool::new(false), record: Mutex::new(record) }
    }
}

impl<E: Env> PeerHealth<E> {
    /// The peer answered.
    pub fn reached(&self) {
        if !self.shared.is_unreachable.load(Ordering::Acquire) {
            return;
        }
        let line = {
            let mut record = self.shared.record.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.is_unreachable.store(false, Ordering::Release);
            record.reached(rt::now::<E>())
        };
        if let Some(Line { lasted, failures, .. }) = line {
            tracing::info!(peer = self.peer, ?lasted, failures, "a peer answers again");
        }
    }

    /// A call to the peer at `addr` failed, or another node answered it, for this reason. A move of
    /// the peer to `addr` is forgotten.
    pub fn failed(&self, addr: &str, reason: &str) {
        self.moves.failed(self.peer, addr);
        let line = {
            let mut record = self.shared.record.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.is_unreachable.store(true, Ordering::Release);
            record.failed(rt::now::<E>(), self.env.wall_clock(), reason)
        };
        match line {
            Some(Line { failures: 1, .. }) => {
                tracing::warn!(peer = self.peer, %addr, %reason, "a peer is unreachable");
            }
            Some(Line { lasted, failures }) => tracing::warn!(
                peer = self.peer,
                %addr,
                %reason,
                ?lasted,
                failures,
                "a peer is still unreachable"
            ),
            None => {}
        }
    }

    /// The peer's state, if it is unreachable.
    #[must_use]
    pub fn unreachable(&self) -> Option<Unreachable> {
        let record = self.shared.record.lock().unwrap_or_else(PoisonError::into_inner);
        let outage = record.outage.as_ref()?;
        let micros = u64::try_from(outage.since.as_micros()).unwrap_or(u64::MAX);
        let lasted = openraft::Instant::saturating_duration_since(&rt::now::<E>(), outage.begun);
        Some(Unreachable {
            since: Timestamp::from_micros(micros),
            seconds: lasted.as_secs(),
            failures: outage.failures,
            reason: outage.reason.clone(),
        })
    }
}

/// The outage of a peer, if there is one, and the warnings about the peer that were written.
struct Record<I> {
    outage: Option<Outage<I>>,
    /// When the last warning was written, about this outage or an earlier one.
    warned: Option<I>,
}

struct Outage<I> {
    begun: I,
    /// The wall clock when the outage began.
    since: Duration,
    failures: u64,
    reason: String,
    /// Whether a warning about this outage was written.
    warned: bool,
}

/// A line to write.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    /// How long the outage has lasted.
    lasted: Duration,
    /// Attempts that failed in it.
    failures: u64,
}

impl<I: openraft::Instant> Record<I> {
    /// Notes a failed attempt. Returns the warning to write, if one is due.
    fn failed(&mut self, now: I, wall_clock: Duration, reason: &str) -> Option<Line> {
        let outage = self.outage.get_or_insert_with(|| Outage {
            begun: now,
            since: wall_clock,
            failures: 0,
            reason: String::new(),
            warned: false,
        });
        outage.failures += 1;
        outage.reason = reason.chars().take(REASON_CHARS_MAX).collect();
        if self.warned.is_some_and(|at| now.saturating_duration_since(at) < WARNING_INTERVAL) {
            return None;
        }
        self.warned = Some(now);
        outage.warned = true;
        let lasted = now.saturating_duration_since(outage.begun);
        Some(Line { lasted, failures: outage.failures })
    }

    /// Notes an answer. Returns the line to write, if there was a warning.
    fn reached(&mut self, now: I) -> Option<Line> {
        let outage = self.outage.take().filter(|outage| outage.warned)?;
        let lasted = now.saturating_duration_since(outage.begun);
        Some(Line { lasted, failures: outage.failures })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::TokioEnv;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn an_outage_of_an_hour_has_a_line_a_minute_and_one_at_its_end() {
        let begun = rt::now::<TokioEnv>();
        let mut record = Record { outage: None, warned: None };
        let mut lines = Vec::new();
        // Ten attempts a second.
        for attempt in 0..36_000 {
            let at = begun + attempt * (SECOND / 10);
            lines.extend(record.failed(at, Duration::ZERO, "refused"));
        }
        assert_eq!(lines.len(), 60);
        assert_eq!(lines[0], Line { lasted: Duration::ZERO, failures: 1 });
        assert_eq!(lines[1], Line { lasted: 60 * SECOND, failures: 601 });
        let back = record.reached(begun + 3_600 * SECOND);
        assert_eq!(back, Some(Line { lasted: 3_600 * SECOND, failures: 36_000 }));
        assert_eq!(record.reached(begun + 3_601 * SECOND), None, "said once");
    }

    #[tokio::test]
    async fn a_peer_that_comes_and_goes_has_at_most_two_lines_a_minute() {
        let begun = rt::now::<TokioEnv>();
        let mut record = Record { outage: None, warned: None };
        let mut lines = 0;
        for second in 0..600 {
            let at = begun + second * SECOND;
            lines += usize::from(record.failed(at, Duration::ZERO, "reset").is_some());
            lines += usize::from(record.reached(at + SECOND / 2).is_some());
        }
        assert_eq!(lines, 20);
    }

    #[tokio::test]
    async fn a_record_shows_since_when_why_and_how_often() {
        let health = Health::new(TokioEnv, Moves::default());
        let peer = health.peer(3);
        peer.reached();
        assert_eq!(health.unreachable(3), None);
        let before = Timestamp::from_micros(
            u64::try_from(TokioEnv.wall_clock().as_micros()).expect("this century"),
        );
        peer.failed("host:1", "refused");
        health.peer(3).failed("host:1", &"r".repeat(10_000));
        let seen = health.unreachable(3).expect("it failed twice");
        assert!(seen.since >= before && seen.seconds < 60, "{seen:?}");
        assert_eq!((seen.failures, seen.reason.len()), (2, REASON_CHARS_MAX));
        assert_eq!(health.unreachable(4), None);
        peer.reached();
        assert_eq!(health.unreachable(3), None);

        peer.failed("host:1", "refused");
        health.retain(&BTreeSet::from([4]));
        assert_eq!(health.unreachable(3), None, "it is no member any more");
    }
}
