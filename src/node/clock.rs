//! Cluster time, as the leader reads it.
//!
//! Every command carries the proposing leader's reading, and the state machine turns it into a stamp that
//! is greater than every stamp before (see [`crate::metadata`]). A reading is the larger of
//!
//! - this machine's wall clock, so that stamps are the time of day when clocks are right, and
//! - the node's reckoning of how far cluster time has gone on since the last stamps
//!   ([`ClusterClock`](crate::raft::ClusterClock)), so that a leader whose clock is behind its
//!   predecessor's goes on from there instead of standing still until its clock has caught up. While
//!   cluster time is ahead of the wall clock, it runs a little slow, and so meets the clock again.
//!
//! # Wrong clocks
//!
//! Cluster time never goes back, so a wrong clock must not move it in the first place:
//!
//! - A wall clock beyond [`CLOCK_MAX_MICROS`] (the year 2106) is invalid. Its reading is ignored and
//!   reported.
//! - A wall clock that is more than [`CLOCK_LEAD_MAX`] ahead of the clocks of a majority of the voters is
//!   taken for wrong, and counts as that majority's clock. The leader asks the voters for their clocks
//!   whenever it proves its leadership (see [`leadership`](super::leadership)). Until a majority has
//!   answered, cluster time goes on by its reckoning alone: with a lead of its own over that, each of
//!   several fast clocks could take it one step further. (Found by simulation: swarm, seed 5200000024.)
//!
//! What remains: a majority of wrong clocks moves cluster time. `yakt_cluster_time_ahead_seconds` shows
//! how far cluster time is ahead of a node's own clock. The cluster works on all the same, since ages are
//! differences of cluster time; only the absolute times in records are wrong, until the clocks have
//! caught up with them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::env::{Env, rt};
use crate::metadata::{Timestamp, limits::CLOCK_MAX_MICROS};
use crate::quiet::Quiet;
use crate::raft::state_machine::Image;
use crate::raft::{NodeId, Term};

/// How far a leader's clock may be ahead of a majority of the voters' before it is taken for wrong. NTP
/// keeps clocks within milliseconds; a minute leaves room for machines without it.
pub const CLOCK_LEAD_MAX: Duration = Duration::from_mins(1);

/// The clocks of the voters, as this leader was told them.
#[derive(Debug)]
pub(super) struct Clocks<I> {
    told: Mutex<Told<I>>,
}

#[derive(Debug)]
struct Told<I> {
    /// The term of the leadership that asked.
    term: Term,
    /// Each voter's wall clock, and when it was told.
    clocks: BTreeMap<NodeId, (Timestamp, I)>,
    /// Lines about a wrong clock.
    lines: Quiet<I>,
}

impl<I> Default for Clocks<I> {
    fn default() -> Self {
        let told = Told { term: 0, clocks: BTreeMap::new(), lines: Quiet::default() };
        Self { told: Mutex::new(told) }
    }
}

impl<I: openraft::Instant> Clocks<I> {
    /// Notes that `voter`'s wall clock showed `clock` at `at`, for the leader of `term`.
    pub(super) fn note(&self, term: Term, voter: NodeId, clock: Timestamp, at: I) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.term != term {
            told.term = term;
            told.clocks.clear();
        }
        told.clocks.insert(voter, (clock, at));
    }

    /// The latest time that the clocks of a majority of `voters` have reached, `own` among them.
    /// `None` if less than a majority is known.
    fn majority(
        &self,
        term: Term,
        voters: &[NodeId],
        own: (NodeId, Timestamp),
        now: I,
    ) -> Option<Timestamp> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut clocks: Vec<_> = voters
            .iter()
            .filter_map(|voter| {
                if *voter == own.0 {
                    return Some(own.1);
                }
                let (clock, at) = told.clocks.get(voter).filter(|_| told.term == term)?;
                Some(after(*clock, now.saturating_duration_since(*at)))
            })
            .collect();
        clocks.sort_unstable_by(|a, b| b.cmp(a));
        clocks.get(voters.len() / 2).copied()
    }

    /// Notes a reading of a wrong clock. Returns the number of earlier ones without a line, if a
    /// line is due.
    fn note_wrong(&self, now: I) -> Option<u64> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).lines.note(now)
    }
}

fn after(clock: Timestamp, elapsed: Duration) -> Timestamp {
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    Timestamp::from_micros(clock.micros().saturating_add(micros))
}

/// This machine's wall clock.
pub(super) fn wall<E: Env>(env: &E) -> Timestamp {
    let micros = u64::try_from(env.wall_clock().as_micros()).unwrap_or(u64::MAX);
    Timestamp::from_micros(micros)
}

/// Cluster time now, if `node` leads `term`.
pub(super) fn reading<E: Env>(
    env: &E,
    node: NodeId,
    term: Term,
    image: &Image<rt::Instant<E>>,
    clocks: &Clocks<rt::Instant<E>>,
) -> Timestamp {
    let now = rt::now::<E>();
    let reckoned = image.clock.reading(now);
    let wall = wall(env);
    let voters: Vec<_> = image.membership.membership().voter_ids().collect();
    let valid = |clock: Timestamp| clock.micros() <= CLOCK_MAX_MICROS;
    let majority = clocks.majority(term, &voters, (node, wall), now).filter(|clock| valid(*clock));
    let limit = majority.map(|majority| after(majority, CLOCK_LEAD_MAX));
    if valid(wall) && limit.is_some_and(|limit| wall <= limit) {
        return reckoned.max(wall);
    }
    if (limit.is_some() || !valid(wall))
        && let Some(unwritten) = clocks.note_wrong(now)
    {
        tracing::error!(
            unwritten,
            clock = %wall,
            cluster_time = %reckoned,
            "this node's clock is ahead of a majority's by more than {CLOCK_LEAD_MAX:?}, or invalid; cluster time does not \
             follow it: check the clocks"
        );
    }
    reckoned.max(majority.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use openraft::Instant as _;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn the_majority_s_clock_is_what_a_majority_has_reached() {
        let now = openraft_rt_tokio::TokioInstant::now();
        let clocks = Clocks::default();
        let majority = |own| clocks.majority(3, &[1, 2, 3], (1, at(own)), now);
        assert_eq!(majority(1_000), None, "no majority is known");
        clocks.note(3, 2, at(100), now);
        assert_eq!(majority(1_000), Some(at(100)));
        clocks.note(3, 3, at(110), now);
        assert_eq!(majority(1_000), Some(at(110)));
        assert_eq!(majority(5), Some(at(100)));
        let later = now + Duration::from_secs(7);
        assert_eq!(clocks.majority(3, &[1, 2, 3], (1, at(1_000)), later), Some(at(117)));
        assert_eq!(clocks.majority(4, &[1, 2, 3], (1, at(1_000)), now), None, "another term");
        assert_eq!(clocks.majority(4, &[1], (1, at(9)), now), Some(at(9)), "the only voter");
    }
}
