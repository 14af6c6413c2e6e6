//! Clients that write, read and poll, on hosts of their own, as planned or until they are told to stop.
//!
//! What they ask is in their [`plan`]; what they were told is in the cluster's [`Exchanges`](super::exchanges::Exchanges), for layer 3 to
//! judge. They keep only what they need to go on: the UUIDs and epochs that they were told, and the offset of
//! their last poll.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use yakt::env::rt;
use yakt::raft::NodeId;

use self::plan::{LEADER, Operation, Shape};
use self::session::Session;
use super::Violation;
use super::client::Client;
use super::cluster::Cluster;
use crate::env::SimEnv;
use crate::world::World;

pub(super) mod bad;
pub mod plan;
mod request;
mod session;
mod spice;

/// The host of the client that a subject brings along.
const VISITOR: &str = "visitor";

/// How often a pausing client looks whether it should stop.
const PAUSE_SLICE: Duration = Duration::from_millis(500);

/// How long the last operations may take once the clients were told to stop.
const STOP_LIMIT: Duration = Duration::from_mins(2);

/// Clients at work.
#[derive(Debug)]
pub struct Workload {
    world: World,
    stop: Arc<AtomicBool>,
    clients: Vec<madsim::task::JoinHandle<()>>,
}

/// The host of client number `client`, from 1.
#[must_use]
pub fn host(client: usize) -> String {
    format!("c{client}")
}

impl Workload {
    /// Starts `clients` clients that ask nodes 1 to `nodes` a steady mix of everything until they are stopped.
    #[must_use]
    pub fn start(cluster: &Cluster, clients: usize, nodes: NodeId) -> Self {
        let hour = Duration::from_hours(1).as_micros();
        let shape = Shape::steady(clients, u64::try_from(hour).unwrap_or(u64::MAX), nodes);
        let shape = Shape { operations_max: 20_000, ..shape };
        Self::play(cluster, shape.draw(&mut cluster.world().fork_rng()))
    }

    /// Starts one client for each plan.
    #[must_use]
    pub fn play(cluster: &Cluster, plans: Vec<Vec<Operation>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |(number, plan): (usize, Vec<Operation>)| {
            let (cluster, stop) = (cluster.clone(), Arc::clone(&stop));
            cluster.world().clone().start(&host(number), move |env| async move {
                let mut session = Session::new(number, env, cluster);
                let begun = rt::now::<SimEnv>();
                for operation in &plan {
                    let not_before = begun + Duration::from_micros(operation.not_before);
                    let early = not_before.saturating_duration_since(rt::now::<SimEnv>());
                    let mut pause = early.max(Duration::from_micros(operation.pause));
                    while !pause.is_zero() && !stop.load(Ordering::Relaxed) {
                        let slice = pause.min(PAUSE_SLICE);
                        rt::sleep::<SimEnv>(slice).await;
                        pause -= slice;
                    }
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let mut operation = operation.clone();
                    if operation.node == LEADER {
                        operation.node = session.leader();
                    }
                    session.play(&operation).await;
                }
            })
        };
        if let Some(visit) = cluster.subject().visit.clone() {
            let exchanges = cluster.exchanges().clone();
            drop(
                cluster
                    .world()
                    .start(VISITOR, move |env| visit(Client::new(env).noting(exchanges))),
            );
        }
        Self {
            world: cluster.world().clone(),
            clients: (1..).zip(plans).map(start).collect(),
            stop,
        }
    }

    /// Waits until every client has done all that it planned, at most `limit`.
    pub async fn finish(&mut self, limit: Duration) {
        let all = async {
            for client in &mut self.clients {
                // An error is the end of a client that was killed.
                drop(client.await);
            }
        };
        if rt::timeout::<SimEnv, _>(limit, all).await.is_some() {
            self.clients.clear();
        }
    }

    /// Tells the clients to stop after what they are at, and waits until they have.
    ///
    /// # Errors
    ///
    /// A liveness violation when one does not.
    pub async fn stop(&mut self) -> Result<(), Violation> {
        self.stop.store(true, Ordering::Relaxed);
        self.world.kill(VISITOR);
        for client in self.clients.drain(..) {
            let ended = rt::timeout::<SimEnv, _>(STOP_LIMIT, client).await;
            // An error is the end of a client that was killed.
            drop(ended.ok_or_else(|| Violation::liveness("a client waited for ever"))?);
        }
        Ok(())
    }
}
