//! Links that drop large packets, and hosts that refuse connections in one direction.
//!
//! Neither stops a heartbeat, so a leader behind such a link goes on leading. It must notice that
//! it commits nothing. A follower that does not reach its leader must not call itself ready. A
//! client asks each node for that throughout a run (`probe`).

use std::time::Duration;

use yakt::env::rt;
use yakt::raft::NodeId;

use super::Target;
use super::play::Stage;
use crate::env::SimEnv;
use crate::harness::Violation;
use crate::harness::cluster::host;
use crate::harness::coverage::Site;

/// How long an otherwise undisturbed cluster may take no write while large packets of its leader
/// are dropped. This is 4 s until the leader notices, an election, and a few attempts of 3 s.
const BLACK_HOLE_LIMIT: Duration = Duration::from_secs(20);

/// Heartbeat intervals that are added to it: a leader notices after 20, and an election takes up to
/// 15.
const BLACK_HOLE_HEARTBEATS: u64 = 40;

/// Pause between two attempts to write.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(500);

impl Stage {
    fn others(&self, id: NodeId) -> impl Iterator<Item = NodeId> + use<> {
        (1..=self.cluster.size()).filter(move |other| *other != id)
    }

    /// Writes of more than `bytes` bytes from node `id` to the other nodes vanish for `length`
    /// milliseconds.
    pub(super) async fn black_hole(&self, id: NodeId, bytes: u64, length: u64) {
        let (begun, bytes) = (rt::now::<SimEnv>(), usize::try_from(bytes).unwrap_or(usize::MAX));
        self.note("network", Some(id), || format!("packets over {bytes} bytes vanish"));
        for other in self.others(id) {
            self.world().net().drop_larger(&host(id), &host(other), bytes);
        }
        if self.cluster.leader() == Some(id) {
            self.expect_writes(id).await;
        }
        let until = self.over.min(begun + Duration::from_millis(length));
        rt::sleep::<SimEnv>(until.saturating_duration_since(rt::now::<SimEnv>())).await;
        for other in self.others(id) {
            self.world().net().carry_large(&host(id), &host(other));
        }
        self.note("heal", Some(id), || "packets of any size arrive".to_owned());
    }

    /// Reports a violation if no node other than `leader` takes a write in time, unless something
    /// else is wrong too.
    async fn expect_writes(&self, leader: NodeId) {
        let heartbeats = self.settings.heartbeat_millis * BLACK_HOLE_HEARTBEATS;
        let limit = BLACK_HOLE_LIMIT + Duration::from_millis(heartbeats);
        let (lives, deadline) = (self.cluster.lives(), rt::now::<SimEnv>() + limit);
        for at in self.others(leader).collect::<Vec<_>>().into_iter().cycle() {
            let written = self.write_long(at).await.ok().flatten().is_some();
            let disturbed = self.is_over()
                || !self.cluster.is_undisturbed(Some(leader))
                || self.cluster.lives() != lives;
            if disturbed {
                return;
            }
            if written {
                let gave_way = self.cluster.leader().is_some_and(|now| now != leader);
                self.cluster.watch().coverage().reach(Site::BlackHole, gave_way);
                return;
            }
            if rt::now::<SimEnv>() >= deadline {
                let what = format!(
                    "availability: node {leader} leads, large packets from it vanish, and for {limit:?} no \
                     write succeeds{}",
                    self.cluster.beliefs()
                );
                return self.cluster.watch().report(Violation::liveness(what));
            }
            rt::sleep::<SimEnv>(ATTEMPT_INTERVAL).await;
        }
    }

    /// The leader, or every other node, refuses the connections of node `id` for `length`
    /// milliseconds. The node's present connections to them end.
    pub(super) async fn refuse(&self, id: NodeId, by_all: bool, length: u64) {
        let leader = self.resolve(Target::Leader);
        let refusing: Vec<_> = self.others(id).filter(|other| by_all || *other == leader).collect();
        self.note("network", Some(id), || format!("its connections are refused by {refusing:?}"));
        for other in &refusing {
            self.world().net().refuse(&host(id), &host(*other));
            self.world().net().reset_connections(&host(id), &host(*other));
        }
        self.last(length).await;
        let follows = id != leader && self.cluster.leader() == Some(leader);
        self.cluster.watch().coverage().reach(Site::RefusedOneWay, follows);
        for other in &refusing {
            self.world().net().admit(&host(id), &host(*other));
        }
        self.note("heal", Some(id), || "its connections are taken again".to_owned());
    }
}
