//! The duties that a node performs unasked: some of them always, most of them while it leads.

use std::convert::Infallible;
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft_rt::Select2;

use super::join::ADMIT_LIMIT;
use super::propose::{leader, term};
use super::{Node, Running};
use crate::env::{Env, rt};

/// How far cluster time may fall behind in a cluster in which nothing happens and nobody asks.
///
/// A stale read takes its time from the last command that its node applied, so an idle cluster needs one
/// now and then (KRaft writes a no-op record for the same reason, every 500 ms by default). Linearizable
/// reads do not depend on it: see [`TIME_RESOLUTION`](super::read::TIME_RESOLUTION).
pub(super) const IDLE_TICK: Duration = Duration::from_secs(5);

/// How often a leader looks whether a duty is due.
const ROUND: Duration = Duration::from_millis(500);

/// Pause between two surveys of the voters' clocks. Linearizable reads survey them too.
const SURVEY_PAUSE: Duration = Duration::from_secs(5);

impl<E: Env> Node<E> {
    pub(super) async fn duties(&self, running: &Running<E>) -> Infallible {
        let (leading, peers) = (Box::pin(self.lead(running)), Box::pin(self.watch_peers(running)));
        match E::Runtime::select2(leading, peers).await {
            Select2::First(never) | Select2::Second(never) => match never {},
        }
    }

    async fn lead(&self, running: &Running<E>) -> Infallible {
        let mut surveyed = None;
        loop {
            rt::sleep::<E>(ROUND).await;
            if leader(running) != Some(self.id()) {
                continue;
            }
            self.leave_joint_membership(running).await;
            let (term, now) = (term(running), rt::now::<E>());
            if surveyed.is_none_or(|(of, at)| of != term || now - at >= SURVEY_PAUSE) {
                // The answers of the voters carry their clocks.
                if self.prove_leadership(running, ROUND).await.is_some() {
                    surveyed = Some((term, now));
                }
            }
            let last = running.images.borrow().state.last_stamp();
            if self.cluster_time(running).saturating_since(last) >= IDLE_TICK {
                // Whether it succeeded shows in the next round.
                let _ = self.tick().await;
            }
        }
    }

    /// Watches over this node's leadership (see `stall`). Compares its metadata with that of every
    /// new leader: a linearizable read does that.
    pub(super) async fn watch_progress(&self, running: &Running<E>) -> Infallible {
        let mut pending = None;
        let mut compared = None;
        loop {
            rt::sleep::<E>(ROUND).await;
            self.check_progress(running, &mut pending).await;
            let leadership = leader(running).map(|leader| (term(running), leader));
            if leadership.is_some() && leadership != compared {
                let read = rt::timeout::<E, _>(ROUND, self.barrier(running)).await;
                compared = read.flatten().and(leadership);
            }
        }
    }

    async fn leave_joint_membership(&self, running: &Running<E>) {
        let Ok(_one_at_a_time) = self.inner.membership.try_lock() else { return };
        let completed = Box::pin(self.complete_change(running));
        // Whether it succeeded shows in the next round.
        let _ = rt::timeout::<E, _>(ADMIT_LIMIT, completed).await;
    }
}
