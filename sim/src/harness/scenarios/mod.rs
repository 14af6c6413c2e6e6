//! What goes wrong when. Each scenario is a file; each ends in `Run::finish`.

use std::ops::Range;
use std::pin::Pin;
use std::time::Duration;

use hyper::StatusCode;
use rand::{Rng, RngExt};
use serde_json::json;
use yakt::env::rt;
use yakt::raft::NodeId;
use yakt::raft::config::RaftOptions;

use super::client::{Client, Request};
use super::cluster::{Cluster, RECOVERY_LIMIT, http};
use super::history::History;
use super::workload::{Workload, verify};
use super::{Summary, Verdict, Violation};
use crate::disk::CrashMode;
use crate::env::SimEnv;
use crate::rng::SeededRng;
use crate::world::{World, WorldConfig};

mod elect_write_read;
mod elections;
mod growth;
mod leader_kills;
mod partitions;
mod snapshot_catch_up;
mod ten_minutes;
mod total_crash;

/// The size of the clusters that scenarios run.
pub const NODES: NodeId = 5;

type Outcome = Pin<Box<dyn Future<Output = Result<Run, Violation>>>>;

/// Something to live through.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    play: fn(Run) -> Outcome,
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! scenarios {
    ($($name:ident: $about:literal;)*) => {
        /// Every scenario.
        pub const ALL: &[Scenario] = &[
            $(Scenario { name: stringify!($name), about: $about, play: |run| Box::pin($name::play(run)) }),*
        ];
    };
}

scenarios! {
    elect_write_read: "five nodes elect a leader; every node takes writes and shows them";
    leader_kills: "the leader is killed or loses power, again and again, under load";
    partitions: "the leader is cut off, the cluster split, links go one way, a bridge remains; then all heals";
    ten_minutes: "the ten-minute rule to the microsecond, across leader changes and clocks minutes apart";
    total_crash: "all nodes lose power at once, in the middle of writes, and recover from their disks";
    snapshot_catch_up: "a node that was away past the log's purge point catches up by snapshot";
    elections: "nodes die in the middle of elections, and the new leader in its first moment";
    growth: "a cluster grows from one node to five while its leaders die";
}

/// The scenario called `name`.
#[must_use]
pub fn find(name: &str) -> Option<Scenario> {
    ALL.iter().copied().find(|scenario| scenario.name == name)
}

impl Scenario {
    /// Plays it with the present simulation's seed, and says how it ended; `world` is what it was played in.
    pub async fn play(self, world: World) -> Verdict {
        let started = rt::now::<SimEnv>();
        let trace = world.trace().clone();
        let rng = world.fork_rng();
        let run = (self.play)(Run {
            cluster: Cluster::new(world, RaftOptions::default()),
            rng,
            operations: 0,
        })
        .await?;
        Ok(Summary {
            operations: run.operations,
            leaders: run.cluster.safety().leaders(),
            trace_hash: trace.hash(),
            trace_events: trace.events(),
            virtual_time: rt::now::<SimEnv>() - started,
        })
    }
}

/// A world for a scenario.
#[must_use]
pub fn world(trace_lines: bool) -> World {
    World::new(WorldConfig { trace_lines, ..WorldConfig::default() })
}

/// A scenario being played.
pub struct Run {
    /// The cluster.
    pub cluster: Cluster,
    /// For the scenario's own choices.
    pub rng: SeededRng,
    /// Client operations that were answered.
    pub operations: u64,
}

impl Run {
    /// The same run with a cluster of other settings, before anything was started.
    fn with_options(self, options: RaftOptions) -> Self {
        Self { cluster: Cluster::new(self.cluster.world().clone(), options), ..self }
    }

    /// Lets a random time pass, in milliseconds.
    async fn pause(&mut self, millis: Range<u64>) {
        let millis = self.rng.random_range(millis);
        rt::sleep::<SimEnv>(Duration::from_millis(millis)).await;
    }

    /// Whether to do something that happens once in `n` times.
    fn one_in(&mut self, n: u64) -> bool {
        self.rng.next_u64().is_multiple_of(n)
    }

    /// Ends the process of `id`: `kill -9` or a power failure.
    fn fell(&mut self, id: NodeId) {
        if self.one_in(2) { self.cluster.kill(id) } else { self.cluster.crash(id, CrashMode::Any) }
    }

    /// Mends everything, waits for order, and checks all that was promised to the clients.
    async fn finish(mut self, mut workload: Workload) -> Result<Self, Violation> {
        let world = self.cluster.world().clone();
        world.net().heal();
        let running = self.cluster.running();
        for id in (1..=NODES).filter(|id| !running.contains(id)) {
            self.cluster.start(id);
        }
        self.cluster.settle_under_load(NODES).await?;
        workload.stop().await?;
        self.cluster.settle(NODES).await?;
        let history = workload.history().clone();
        self.serves_again(&history).await?;
        self.cluster.settle(NODES).await?;
        let checker = world.start("checker", move |env| async move {
            let mut client = Client::new(env);
            let verified = verify(&mut client, &history, NODES).await;
            (verified, history)
        });
        let (verified, history) =
            checker.await.map_err(|_| Violation::liveness("the checker did not end"))?;
        verified?;
        self.cluster.safety().violation().map_or(Ok(()), Err)?;
        self.operations += history.operations();
        Ok(self)
    }

    /// Every node of a healed cluster takes a write.
    async fn serves_again(&mut self, history: &History) -> Result<(), Violation> {
        let history = history.clone();
        let last_words = self.cluster.world().start("checker", move |env| async move {
            let mut client = Client::new(env);
            for node in 1..=NODES {
                let name = format!("last-{node}");
                let fact = format!("topic {name}");
                history.attempt_fact(&fact);
                let request = Request::post("/create_topic", json!({ "name": name })).keyed(name);
                let deadline = rt::now::<SimEnv>() + RECOVERY_LIMIT;
                loop {
                    match client.send(&http(node), &request).await {
                        Ok(answer) if answer.status == StatusCode::CREATED => {
                            let uuid =
                                answer.body["fields"]["topicUUID"].as_str().unwrap_or_default();
                            history.told_fact(&fact, uuid, true);
                            break;
                        }
                        answer if rt::now::<SimEnv>() > deadline => {
                            return Err(Violation::liveness(format!(
                                "healed node {node} takes no write: {answer:?}"
                            )));
                        }
                        _ => rt::sleep::<SimEnv>(Duration::from_millis(100)).await,
                    }
                }
            }
            Ok(())
        });
        last_words.await.map_err(|_| Violation::liveness("the checker did not end"))?
    }
}
