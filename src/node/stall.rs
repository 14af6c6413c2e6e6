//! A leader that cannot commit steps down.
//!
//! Raft's leader leads as long as its heartbeats are answered. Heartbeats are small. The path to
//! the followers may drop large packets (an MTU black hole), or the followers' disks may stand
//! still while their networks do not. No write succeeds for as long as that lasts, although a
//! majority without this leader may be healthy. So a leader that has appended entries and committed
//! none for [`STALL_LIMIT`]
//!
//! 1. says so in its log, and `/readyz` answers 503 on every node;
//! 2. is silent for up to [`REST`]: it sends no appends and does not stand for election. Its
//!    followers elect another leader after an election timeout, if a majority of them can;
//! 3. goes on as a follower of that leader. If none was elected, it tries again itself after its
//!    rest.
//!
//! This loses nothing: entries that are appended and not committed have an unknown outcome already.
//! The only voter of a cluster does not step down.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::LogIdOptionExt;
use openraft::async_runtime::watch::WatchReceiver;

use super::propose::leader;
use super::{Node, RETRY_PAUSE, Running};
use crate::env::{Env, rt};
use crate::raft::config::APPEND_DEADLINE;

/// How long a leader may append without committing: longer than two appends may take, so that it
/// waits for a follower that answers the second attempt.
pub(super) const STALL_LIMIT: Duration = Duration::from_secs(4);

const _: () = assert!(STALL_LIMIT.as_millis() > 2 * APPEND_DEADLINE.as_millis());

/// The same in heartbeat intervals, where these are long.
const STALL_HEARTBEATS: u32 = 20;

/// How long a leader that stepped down keeps out of elections. It is silent for as long, or until
/// another leader is elected.
const REST: Duration = Duration::from_secs(10);

/// The same time in election timeouts, for clusters with long timeouts. The followers wait out the
/// leader's lease and their own timeouts, and may have to vote more than once.
const REST_TIMEOUTS: u32 = 6;

/// Whether this node, as leader, commits the entries that it appends.
#[derive(Debug, Default)]
pub(super) struct Progress {
    stalled: AtomicBool,
}

impl Progress {
    /// False from the moment when a leader notices that it commits nothing until the end of its
    /// silence.
    pub(super) fn commits(&self) -> bool {
        !self.stalled.load(Ordering::Relaxed)
    }

    fn note(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
    }
}

/// The time since which a leadership has committed nothing although it had to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending<I> {
    term: u64,
    committed: Option<u64>,
    since: I,
}

impl<E: Env> Node<E> {
    /// Checks whether this node leads and commits nothing, and steps down if that lasts too long.
    /// `pending` is the result of the last check.
    pub(super) async fn check_progress(
        &self,
        running: &Running<E>,
        pending: &mut Option<Pending<rt::Instant<E>>>,
    ) {
        let found = self.pending(running);
        let (Some(found), Some(before)) = (found, *pending) else {
            *pending = found;
            return;
        };
        if (found.term, found.committed) != (before.term, before.committed) {
            *pending = Some(found);
            return;
        }
        let heartbeat = self.inner.options.raft.heartbeat_interval;
        let limit = STALL_LIMIT.max(heartbeat * STALL_HEARTBEATS);
        if rt::now::<E>() - before.since < limit {
            return;
        }
        *pending = None;
        tracing::warn!(
            term = found.term,
            committed = found.committed,
            "this leader has committed nothing for {limit:?}, although it appends: it steps down"
        );
        self.step_down(running).await;
    }

    fn pending(&self, running: &Running<E>) -> Option<Pending<rt::Instant<E>>> {
        let metrics = running.raft.metrics();
        let metrics = metrics.borrow_watched();
        let committed = metrics.local_committed.index();
        let voters = metrics.membership_config.membership().voter_ids().count();
        let leads = metrics.current_leader == Some(self.id());
        let is_pending = leads && voters > 1 && metrics.last_log_index > committed;
        is_pending.then(|| Pending { term: metrics.current_term, committed, since: rt::now::<E>() })
    }

    /// Lets the others elect another leader.
    async fn step_down(&self, running: &Running<E>) {
        self.inner.progress.note(true);
        running.network.be_silent(true);
        let rest = REST.max(self.inner.options.raft.election_timeout_max * REST_TIMEOUTS);
        running.candidacy.rest(rest);
        let succeeded = async {
            while leader(running) == Some(self.id()) {
                rt::sleep::<E>(RETRY_PAUSE).await;
            }
        };
        let succeeded = rt::timeout::<E, _>(rest, succeeded).await;
        running.network.be_silent(false);
        self.inner.progress.note(false);
        if succeeded.is_none() {
            tracing::warn!("no other node was elected; this one leads on");
        }
    }
}
