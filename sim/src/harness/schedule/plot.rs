//! Faults in several steps, each of which waits for the one before: histories that chance alone hardly ever makes.
//!
//! Every one of them was added because a planted bug survived without it (see `sim/bugs`).

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use madsim::task::JoinHandle;
use openraft::async_runtime::watch::WatchReceiver;
use serde_json::json;
use yakt::env::rt;
use yakt::node::Node;
use yakt::raft::NodeId;

use super::cut::links;
use super::operator::Operator;
use super::play::Stage;
use super::strike::REMOVAL_LIMIT;
use super::{Cut, Target};
use crate::env::SimEnv;
use crate::harness::client::{Client, Request};
use crate::harness::cluster::{host, http};
use crate::harness::coverage::Site;

/// How long the disk of a node takes that falls on its return, at most.
const RETURN_DISK_MILLIS: u64 = 60;

/// After so long nobody works on a request to join any more.
const FORGET_MILLIS: u64 = 1_500;

/// How long a node that was outrun is given to catch up.
const CATCH_UP_MILLIS: u64 = 2_000;

/// Bytes of a long topic name; the limit is 249.
const LONG_NAME_BYTES: usize = 240;

/// How far answers that are late by the same time may be apart.
const LATE_SPREAD: Duration = Duration::from_millis(1);

/// How often, and after which pause, a client looks at a node that does not answer.
const LOOKS_MAX: usize = 20;
/// See [`LOOKS_MAX`].
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// Writes to a lame duck at most.
const DUCK_WRITES_MAX: usize = 200;

/// How many of them are looked for once it is back.
const DUCK_LOOKS_MAX: usize = 8;

/// How long a membership is waited for.
const SEES_LIMIT_MILLIS: u64 = 3_000;

/// Heartbeats that a successor is waited for: some twenty elections.
const PATIENCE_HEARTBEATS: u32 = 200;

impl Stage {
    /// Lets a leader go on alone, then its successor, until there is a third. Each is asked by a crowd when it is
    /// alone, so that both logs end in what nobody else has.
    ///
    /// The third leader finds out where the first one's log stops being like its own. Most of the time it learns of
    /// an entry that is missing there; to be refused for one that is *another*, it must begin to look in the midst of
    /// them, which it does once it has purged its log that far (`purged`), or when the log is young.
    pub(super) async fn contest(&self, spans: (u64, u64), crowd: u64, purged: bool) {
        let former = self.resolve(Target::Leader);
        self.part(former);
        let mut crowds = vec![self.crowd(former, crowd)];
        let successor = self.succeeded(former).await;
        self.last(spans.0).await;
        // Somebody else again may lead by now.
        let successor = self.cluster.leader().filter(|leader| *leader != former).or(successor);
        if let Some(successor) = successor {
            // Fewer than the former leader holds, so that its log reaches beyond what is purged.
            crowds.push(self.crowd(successor, crowd / 2));
            self.last(2 * self.settings.heartbeat_millis).await;
            if purged {
                self.purge_all_but(former).await;
            }
            self.part(successor);
            self.succeeded(successor).await;
            self.last(spans.1).await;
        }
        self.rejoin(former);
        if let Some(successor) = successor {
            self.rejoin(successor);
        }
        for crowd in crowds {
            drop(crowd.await);
        }
    }

    /// Lets the answers to a leader's appends be under way for long. Meanwhile it is asked for a write every so often,
    /// so that each answer which arrives lets it send something new; then nobody hears it any more. Its successor takes
    /// a write, which is looked for at the former leader while those answers come in: they are older than the question,
    /// and must not prove anything.
    pub(super) async fn belated(&self, latency: u64, writes: u64, gap: u64) {
        let former = self.resolve(Target::Leader);
        self.note("network", Some(former), || format!("hears answers {latency} ms late"));
        let others: Vec<_> =
            (1..=self.cluster.size()).filter(|other| *other != former).map(host).collect();
        for other in &others {
            let late = Duration::from_millis(latency);
            self.world().net().set_latency(other, &host(former), late..late + LATE_SPREAD);
        }
        let mut crowds = Vec::new();
        for _ in 0..writes {
            crowds.push(self.crowd(former, 1));
            self.last(gap).await;
        }
        self.note("network", Some(former), || "is heard no more".to_owned());
        for other in &others {
            self.world().net().block(&host(former), other);
        }
        let successor = self.succeeded(former).await;
        self.cluster.watch().coverage().reach(Site::ReadAtDeposed, successor.is_some());
        if let Some(successor) = successor {
            crowds.push(self.write_and_look((successor, former)));
        }
        self.last(latency).await;
        for other in &others {
            self.world().net().unblock(&host(former), other);
            self.world().net().reset_latency(other, &host(former));
        }
        self.note("heal", Some(former), || "is heard again, and hears in time".to_owned());
        for crowd in crowds {
            drop(crowd.await);
        }
    }

    /// Leaves a node alone until the others have purged what it lacks, and somebody leads who has only a snapshot for
    /// it (a leader keeps what a follower is being sent). When it is back, the node begins a snapshot of its own, and is
    /// sent theirs meanwhile, on a disk so slow that either may be written first; and is killed.
    pub(super) async fn outrun(&self, id: NodeId, (away, back): (u64, u64), disk: u64) {
        self.part(id);
        self.last(away).await;
        self.purge_all_but(id).await;
        let leader = self.resolve(Target::Leader);
        let others = (1..=self.cluster.size()).filter(|other| ![id, leader].contains(other));
        if let Some(next) = others.min() {
            self.operator.transfer(next).await;
        }
        // Once the faults are over nothing is broken any more: nobody would mend it. Having waited for the operator's turn
        // until then, this slowed the disk and waited for a turn again; the operator was replacing a node, which needed the
        // vote of the one with the slow disk, whose syncs took longer than a vote may (swarm, seed 1795812544).
        if self.is_over() {
            return self.rejoin(id);
        }
        self.begin_slow_disk(id, disk);
        self.rejoin(id);
        self.last(back).await;
        self.operator.snapshot(id).await;
        self.last(CATCH_UP_MILLIS).await;
        self.kill(id, 0).await;
        self.end_slow_disk(id);
    }

    /// Kills a node that has just come back, again and again. Its disk is slow meanwhile, so that what it has heard and
    /// what it has written are far apart. With `unheard`, its leader cannot reach it while it is up, and nobody
    /// remembers that it asked when it is back: the cluster may have let it in half-way, and it knows nothing of that.
    pub(super) async fn fall_on_return(&self, id: NodeId, again: Vec<u64>, unheard: bool) {
        if again.is_empty() || self.is_over() {
            return;
        }
        self.begin_slow_disk(id, RETURN_DISK_MILLIS);
        for up in again {
            let deaf_to = self.resolve(Target::Leader);
            if unheard {
                self.note("network", Some(id), || format!("cannot hear n{deaf_to}"));
                self.world().net().block(&host(deaf_to), &host(id));
            }
            self.last(up).await;
            self.kill(id, if unheard { FORGET_MILLIS } else { 0 }).await;
            if unheard {
                self.world().net().unblock(&host(deaf_to), &host(id));
            }
        }
        self.end_slow_disk(id);
    }

    /// Has node `id` removed, and kills the leader when the node knows of that and the rest does not follow from it yet.
    /// Only the node can talk to all others, so it is elected. It completes its own removal, leads on for a moment, as it
    /// may, and is killed then. Since the others cannot talk to each other, nobody follows it; when it is back it holds the
    /// ballot that made it the leader, and must not take itself for one.
    pub(super) async fn lame_duck(&self, id: NodeId, gap: u64, after: u64) {
        let leader = self.resolve(Target::Leader);
        if leader == id {
            return;
        }
        self.cluster.expect_removal(id);
        let number = self.next_crowd();
        // Once, and of this leader: asked again, the node would hand over instead of completing it.
        let exchanges = self.cluster.exchanges().clone();
        let removing = self.world().start(&format!("crowd{number}"), move |env| async move {
            drop(
                Client::new(env)
                    .noting(exchanges)
                    .send(&http(leader), &Operator::removal(id))
                    .await,
            );
        });
        if self.sees(id, |configs| configs.len() > 1).await {
            self.note("network", Some(id), || "is the only one whom all others hear".to_owned());
            let others: Vec<_> =
                (1..=self.cluster.size()).filter(|other| ![id, leader].contains(other)).collect();
            let pairs = || {
                let pairs = others.iter().flat_map(|a| others.iter().map(move |b| (*a, *b)));
                pairs.filter(|(a, b)| a != b)
            };
            for (a, b) in pairs() {
                self.world().net().block(&host(a), &host(b));
            }
            self.cluster.hold(leader);
            self.cluster.kill(leader);
            self.succeeded(leader).await;
            let stage = self.clone();
            let writing = madsim::task::spawn(async move {
                let mut writes = Vec::new();
                while writes.len() < DUCK_WRITES_MAX && stage.cluster.leader() == Some(id) {
                    writes.push(stage.write(id));
                    stage.last(gap).await;
                }
                writes
            });
            let is_out =
                |configs: &[BTreeSet<NodeId>]| configs.iter().all(|set| !set.contains(&id));
            let completed = self.sees(id, is_out).await;
            self.last(after).await;
            self.kill(id, 0).await;
            self.cluster.watch().coverage().reach(Site::LameDuck, completed);
            let written = join_all(writing.await.unwrap_or_default()).await;
            let acknowledged: Vec<_> =
                written.into_iter().filter_map(Result::ok).flatten().collect();
            // What it acknowledged last is what it is most likely not to know of any more.
            let looks = acknowledged.into_iter().rev().take(DUCK_LOOKS_MAX);
            join_all(looks.map(|name| self.look(id, name))).await;
            for (a, b) in pairs() {
                self.world().net().unblock(&host(a), &host(b));
            }
            self.cluster.release(leader);
            self.note("heal", Some(id), || "all hear each other again".to_owned());
        }
        drop(removing.await);
    }

    /// Waits until the last membership in the log of node `id` is as `wanted`; not for long.
    async fn sees(&self, id: NodeId, wanted: impl Fn(&[BTreeSet<NodeId>]) -> bool) -> bool {
        let now_as_wanted = || {
            let node = self.cluster.node(id)?;
            let metrics = node.raft()?.metrics();
            let metrics = metrics.borrow_watched();
            Some(wanted(metrics.membership_config.membership().get_joint_config()))
        };
        for _ in 0..SEES_LIMIT_MILLIS {
            if now_as_wanted() == Some(true) {
                return true;
            }
            self.last(1).await;
        }
        false
    }

    /// Lets node `id` be the only voter, and take a snapshot that says so. Once there are others again, it loses its disk,
    /// and whoever takes up its id is sent that snapshot: it must not take itself for the voter of old.
    pub(super) async fn namesake(&self, id: NodeId, grown: u64, down: u64) {
        let deadline = self.over.min(rt::now::<SimEnv>() + REMOVAL_LIMIT);
        let others: Vec<_> = (1..=self.cluster.size()).filter(|other| *other != id).collect();
        let mut removed = Vec::new();
        for other in &others {
            // Whoever is removed last is needed for that.
            let killed = Some(other) != others.last();
            if self.operator.remove(*other, killed, deadline).await {
                removed.push((*other, killed));
            }
        }
        self.operator.snapshot(id).await;
        for (other, killed) in removed {
            self.return_removed(other, killed);
        }
        self.last(grown).await;
        // Alone, it would take the cluster with it.
        if self.voters() > 2 {
            self.lose(id, down).await;
        }
    }

    /// How many voters there are, as the leader knows.
    fn voters(&self) -> usize {
        let voters = |node: Node<SimEnv>| {
            let metrics = node.raft()?.metrics();
            let metrics = metrics.borrow_watched();
            Some(metrics.membership_config.membership().voter_ids().count())
        };
        let leader = self.cluster.leader().and_then(|leader| self.cluster.node(leader));
        leader.and_then(voters).unwrap_or(0)
    }

    /// So many clients ask node `id` for a write each, all at once.
    pub(super) fn crowd(&self, id: NodeId, size: u64) -> JoinHandle<()> {
        let (number, exchanges) = (self.next_crowd(), self.cluster.exchanges().clone());
        self.world().start(&format!("crowd{number}"), move |env| async move {
            let ask = |nth| {
                let mut client = Client::new(env.clone()).noting(exchanges.clone());
                async move {
                    let body = json!({ "name": format!("crowd{number}-{nth}") });
                    // Whatever came of it is noted.
                    drop(client.send(&http(id), &Request::post("/create_topic", body)).await);
                }
            };
            join_all((0..size).map(ask)).await;
        })
    }

    /// A client writes at a node. Yields the name of the new topic if the write was acknowledged.
    pub(super) fn write(&self, at: NodeId) -> JoinHandle<Option<String>> {
        self.write_padded(at, 0)
    }

    /// The same, with a name about as long as names get.
    pub(super) fn write_long(&self, at: NodeId) -> JoinHandle<Option<String>> {
        self.write_padded(at, LONG_NAME_BYTES)
    }

    fn write_padded(&self, at: NodeId, width: usize) -> JoinHandle<Option<String>> {
        let (number, exchanges) = (self.next_crowd(), self.cluster.exchanges().clone());
        self.world().start(&format!("crowd{number}"), move |env| async move {
            let name = format!("crowd{number:-<width$}");
            let mut client = Client::new(env).noting(exchanges);
            write(&mut client, at, &name).await.then_some(name)
        })
    }

    /// A client looks at a node for what another wrote.
    pub(super) fn look(&self, at: NodeId, name: String) -> JoinHandle<()> {
        let (number, exchanges) = (self.next_crowd(), self.cluster.exchanges().clone());
        let over = self.over;
        self.world().start(&format!("crowd{number}"), move |env| async move {
            look(&mut Client::new(env).noting(exchanges), at, &name, over).await;
        })
    }

    /// A client writes at one node, and then looks for what it wrote at another.
    fn write_and_look(&self, (writes_at, looks_at): (NodeId, NodeId)) -> JoinHandle<()> {
        let (number, exchanges) = (self.next_crowd(), self.cluster.exchanges().clone());
        let over = self.over;
        self.world().start(&format!("crowd{number}"), move |env| async move {
            let (mut client, name) = (Client::new(env).noting(exchanges), format!("crowd{number}"));
            if write(&mut client, writes_at, &name).await {
                look(&mut client, looks_at, &name, over).await;
            }
        })
    }

    async fn purge_all_but(&self, id: NodeId) {
        for other in (1..=self.cluster.size()).filter(|other| *other != id) {
            self.operator.snapshot(other).await;
        }
    }

    fn part(&self, id: NodeId) {
        self.note("network", Some(id), || "is left alone".to_owned());
        for (from, to) in links(Cut::Alone, id, self.cluster.size()) {
            self.world().net().block(&host(from), &host(to));
        }
    }

    fn rejoin(&self, id: NodeId) {
        self.note("heal", Some(id), || "is alone no more".to_owned());
        for (from, to) in links(Cut::Alone, id, self.cluster.size()) {
            self.world().net().unblock(&host(from), &host(to));
        }
    }

    /// Waits until another than `former` leads, at most for some elections; says who.
    async fn succeeded(&self, former: NodeId) -> Option<NodeId> {
        for _ in 0..PATIENCE_HEARTBEATS {
            let successor = self.cluster.leader().filter(|leader| *leader != former);
            if successor.is_some() {
                return successor;
            }
            self.last(self.settings.heartbeat_millis).await;
        }
        None
    }
}

/// Creates a topic; whether that was acknowledged.
async fn write(client: &mut Client, at: NodeId, name: &str) -> bool {
    let request = Request::post("/create_topic", json!({ "name": name }));
    client.send(&http(at), &request).await.is_ok_and(|answer| answer.status.is_success())
}

/// Looks for a topic until there is an answer, or the time of the faults is over. Whoever waits for this may hold a node down,
/// without which nobody can answer: with each refusal taking a request's whole deadline, a cluster of four voters, one of
/// them rotten, waited for the fourth until the run failed (swarm, seed 4000006977).
async fn look(client: &mut Client, at: NodeId, name: &str, over: rt::Instant<SimEnv>) {
    let request = Request::get(format!("/get_topic_by_name/{name}"));
    for _ in 0..LOOKS_MAX {
        let answer = client.send(&http(at), &request).await;
        let answered = answer.is_ok_and(|answer| !answer.status.is_server_error());
        if answered || rt::now::<SimEnv>() >= over {
            break;
        }
        rt::sleep::<SimEnv>(LOOK_PAUSE).await;
    }
}
