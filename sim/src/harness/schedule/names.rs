//! Names stop resolving for a while, and a leader dies meanwhile.
//!
//! Open connections go on, so a cluster whose leader lives notices little. An election must work
//! without a name service: nodes that have run for a while remember each other's addresses.

use std::time::Duration;

use yakt::env::rt;
use yakt::raft::NodeId;

use super::Target;
use super::play::Stage;
use crate::env::SimEnv;
use crate::harness::Violation;
use crate::harness::cluster::host;
use crate::harness::coverage::Site;

/// How long names must have resolved before the outage for its election to be judged. Every 5 s, a
/// node looks up the names again that did not resolve.
const RESOLVED: Duration = Duration::from_secs(8);

/// How long a cluster with a leader must have been undisturbed before the outage for its election to
/// be judged: a node looks up the names of new members at once.
const SETTLED: Duration = Duration::from_secs(1);

/// How long an otherwise undisturbed cluster may be without a leader after the old one died, at
/// least. A cluster with long heartbeats may take [`ELECTION_TIMEOUTS`] instead.
const ELECTION_LIMIT: Duration = Duration::from_secs(10);

/// Longest election timeouts in which a leader is elected: the first one, and several elections that
/// no candidate wins.
const ELECTION_TIMEOUTS: u32 = 8;

/// Pause between two looks at the cluster.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

impl Stage {
    /// Lookups fail on every node, or hang. With `kill`, the leader is killed after `gap`, and
    /// stays down until the outage ends.
    pub(super) async fn fail_names(&self, hangs: bool, kill: bool, gap: u64, length: u64) {
        let before = self.cluster.lives();
        let resolved = (1..=self.cluster.size()).all(|id| {
            self.world().net().names_resolve_for(&host(id)).is_some_and(|time| time >= RESOLVED)
        });
        let settled = kill && self.is_undisturbed_for(SETTLED, None).await;
        let is_judged = resolved && settled && self.cluster.lives() == before;
        for id in 1..=self.cluster.size() {
            self.world().net().fail_names(&host(id), hangs);
        }
        self.note("network", None, || {
            format!("names do not resolve for {length} ms, hang: {hangs}")
        });
        let until = self.over.min(rt::now::<SimEnv>() + Duration::from_millis(length));
        let mut victim = None;
        if kill {
            self.last(gap).await;
            let leader = self.resolve(Target::Leader);
            self.cluster.hold(leader);
            self.cluster.kill(leader);
            victim = Some(leader);
            // A node that starts during the outage knows no address.
            let survivors = before.into_iter().filter(|(id, _)| *id != leader);
            if is_judged && self.cluster.lives() == survivors.collect() {
                self.expect_election(leader).await;
            }
        }
        rt::sleep::<SimEnv>(until.saturating_duration_since(rt::now::<SimEnv>())).await;
        for id in 1..=self.cluster.size() {
            self.world().net().restore_names(&host(id));
        }
        self.note("heal", None, || "names resolve again".to_owned());
        if let Some(victim) = victim {
            self.cluster.release(victim);
        }
    }

    /// Reports a violation if no node leads after `victim`, unless something else is wrong too.
    async fn expect_election(&self, victim: NodeId) {
        let lives = self.cluster.lives();
        let timeout = self.cluster.raft_options().election_timeout_max;
        let limit = ELECTION_LIMIT.max(timeout * ELECTION_TIMEOUTS);
        let undisturbed = self.is_undisturbed_for(limit, Some(victim)).await;
        let elected = self.cluster.leader().is_some();
        self.cluster.watch().coverage().reach(Site::NamelessElection, elected);
        if undisturbed && !elected && self.cluster.lives() == lives {
            let what = format!(
                "names: {limit:?} after node {victim} died, nobody leads while names do not resolve{}",
                self.cluster.beliefs()
            );
            self.cluster.watch().report(Violation::liveness(what));
        }
    }

    /// Waits for `duration`, and returns whether all of it passed. Stops earlier
    ///
    /// - if something disturbs the nodes other than `victim`;
    /// - with a `victim`, if there is a leader again; without one, if there is no leader;
    /// - if the run's time is over.
    async fn is_undisturbed_for(&self, duration: Duration, victim: Option<NodeId>) -> bool {
        let deadline = rt::now::<SimEnv>() + duration;
        while rt::now::<SimEnv>() < deadline {
            // A leader is expected before the kill, and ends the wait after it.
            let is_as_before = victim.is_none() == self.cluster.leader().is_some();
            if self.is_over() || !is_as_before || !self.cluster.is_undisturbed(victim) {
                return false;
            }
            rt::sleep::<SimEnv>(LOOK_INTERVAL).await;
        }
        !self.is_over()
    }
}
