//! The duties of a healed cluster when nothing is wrong any more, and when only one thing is.
//!
//! After the faults of a drawn run, and once the cluster is in order:
//!
//! 1. **Quiet.** For some seconds no client asks anything. No leader changes, and cluster time goes
//!    on as real time does. Then every node answers a write, a read and a poll at the first attempt
//!    and within the deadline.
//! 2. **A follower that was away.** In one run of three, a follower is cut off for several election
//!    timeouts. When it is back, the leader stays (pre-vote, the dissertation §9.6).
//! 3. **Darkness.** In one run of four, three of the five nodes lose power or are killed, the
//!    leader among them. The others refuse writes and linearizable reads within the deadline. They
//!    know no leader that could have received a write, so they answer that nothing was changed
//!    (503), and not that the outcome is unknown (504). They answer stale reads.

use std::time::Duration;

use futures_util::future::join_all;
use hyper::StatusCode;
use rand::RngExt;
use serde_json::json;
use yakt::env::rt;
use yakt::node::REQUEST_DEADLINE;
use yakt::raft::NodeId;

use super::{NODES, Run};
use crate::disk::CrashMode;
use crate::env::SimEnv;
use crate::harness::Violation;
use crate::harness::client::{Answer, Client, NoAnswer, Request};
use crate::harness::cluster::{host, http};
use crate::harness::coverage::Site;

/// How long nothing happens.
const QUIET: Duration = Duration::from_secs(3);

/// How much later than a node's deadline an answer may come. This is the travel time of the request
/// and of the answer on the slowest link, and the traffic that waits for that link.
const ANSWER_SLACK: Duration = Duration::from_millis(500);

/// How far a span of cluster time may differ from real time, in thousandths of its length. Clocks
/// drift by 0.3, and a cluster that is ahead of its clocks slews by 0.5.
const TIME_ERROR_PER_MILLE: u32 = 10;

/// Further tolerance: the documented resolution of cluster time, 1 s, and a tick that is under way. It
/// is not the code's own constant, which may be wrong.
const TIME_SLACK: Duration = Duration::from_millis(1_200);

/// Election timeouts for which a follower is away: time for several elections that it cannot win.
const AWAY_TIMEOUTS: u32 = 8;

/// Election timeouts after which a returned follower would have deposed the leader.
const BACK_TIMEOUTS: u32 = 4;

/// Election timeouts after which the nodes that are left know that their leader is gone.
const DARK_TIMEOUTS: u32 = 8;

/// A request and its outcome.
#[derive(Debug)]
struct Asked {
    node: NodeId,
    request: Request,
    answer: Result<Answer, NoAnswer>,
    begun: rt::Instant<SimEnv>,
    ended: rt::Instant<SimEnv>,
}

impl Asked {
    /// Checks that it was answered with `status`, and in time.
    fn is_answered(&self, promise: &str, status: StatusCode) -> Result<(), Violation> {
        let took = self.ended - self.begun;
        let (node, method, path) = (self.node, &self.request.method, &self.request.path);
        match &self.answer {
            Ok(answer) if answer.status == status && took <= REQUEST_DEADLINE + ANSWER_SLACK => {
                Ok(())
            }
            Ok(answer) if answer.status == status => Err(Violation::liveness(format!(
                "deadline: node {node} answers {method} {path} after {took:?}"
            ))),
            other => Err(Violation::liveness(format!(
                "{promise}: node {node} answers {method} {path} with {other:?} after {took:?}, and not with {status}"
            ))),
        }
    }
}

impl Run {
    /// Checks that the healed cluster stays as it is, and how it behaves without a follower and
    /// without a majority.
    pub(super) async fn is_left_alone(&mut self) -> Result<(), Violation> {
        self.is_quiet().await?;
        if self.one_in(3) {
            self.misses_a_follower().await?;
        }
        if self.one_in(4) {
            self.goes_dark().await?;
        }
        Ok(())
    }

    async fn ask(&self, requests: Vec<(NodeId, Request)>) -> Vec<Asked> {
        let exchanges = self.cluster.exchanges().clone();
        let asked = self.cluster.world().start("quiet", move |env| async move {
            let ask = |(node, request): (NodeId, Request)| {
                let mut client = Client::new(env.clone()).noting(exchanges.clone());
                async move {
                    let begun = rt::now::<SimEnv>();
                    let answer = client.send(&http(node), &request).await;
                    Asked { node, request, answer, begun, ended: rt::now::<SimEnv>() }
                }
            };
            join_all(requests.into_iter().map(ask)).await
        });
        // An error means that the client was killed, and nothing kills it.
        asked.await.unwrap_or_default()
    }

    /// A poll, and the cluster time that it returned.
    async fn cluster_time(&mut self) -> Result<(Asked, Duration), Violation> {
        let node = self.rng.random_range(1..=NODES);
        let mut asked = self.ask(vec![(node, Request::get("/client_mgmt/0?mode=diff"))]).await;
        let poll = asked.pop().ok_or_else(|| Violation::liveness("service: a poll was lost"))?;
        poll.is_answered("availability", StatusCode::OK)?;
        let offset = poll.answer.as_ref().ok().and_then(|answer| answer.body["offset"].as_f64());
        let offset = offset.unwrap_or_default();
        Ok((poll, Duration::try_from_secs_f64(offset).unwrap_or_default()))
    }

    fn keeps_its_leader(&self, leaders: u64, promise: &str) -> Result<(), Violation> {
        if self.cluster.watch().leaders() == leaders {
            return Ok(());
        }
        Err(Violation::liveness(format!("stability: {promise}{}", self.cluster.beliefs())))
    }

    async fn is_quiet(&mut self) -> Result<(), Violation> {
        let leaders = self.cluster.watch().leaders();
        let (first, earlier) = self.cluster_time().await?;
        rt::sleep::<SimEnv>(QUIET).await;
        let (second, later) = self.cluster_time().await?;
        time_goes_on(&first, &second, later.saturating_sub(earlier))?;
        let ask = |node: NodeId| {
            let create = Request::post("/create_topic", json!({ "name": format!("quiet-{node}") }));
            let read = Request::get("/get_active_brokers");
            let poll = Request::get("/broker_mgmt/0?mode=diff");
            [(node, create), (node, read), (node, poll)]
        };
        for asked in self.ask((1..=NODES).flat_map(ask).collect()).await {
            let writes = asked.request.body.is_some();
            let status = if writes { StatusCode::CREATED } else { StatusCode::OK };
            asked.is_answered("availability", status)?;
        }
        self.keeps_its_leader(leaders, "a healthy cluster elected a new leader")
    }

    async fn misses_a_follower(&mut self) -> Result<(), Violation> {
        let leaders = self.cluster.watch().leaders();
        let leader = self.cluster.wait_for_leader().await?;
        let follower = (leader + self.rng.random_range(1..NODES) - 1) % NODES + 1;
        let others: Vec<_> = (1..=NODES).filter(|other| *other != follower).map(host).collect();
        let timeout = self.cluster.raft_options().election_timeout_max;
        let net = self.cluster.world().net().clone();
        for other in &others {
            net.block(other, &host(follower));
            net.block(&host(follower), other);
        }
        rt::sleep::<SimEnv>(timeout * AWAY_TIMEOUTS).await;
        for other in &others {
            net.unblock(other, &host(follower));
            net.unblock(&host(follower), other);
        }
        rt::sleep::<SimEnv>(timeout * BACK_TIMEOUTS).await;
        self.cluster.watch().coverage().fire(Site::FollowerBack);
        self.keeps_its_leader(leaders, "a follower that was away deposed the leader")?;
        self.cluster.settle(NODES).await
    }

    async fn goes_dark(&mut self) -> Result<(), Violation> {
        let leader = self.cluster.wait_for_leader().await?;
        let first = self.rng.random_range(1..NODES);
        let nth = |step: u64| (leader + step - 1) % NODES + 1;
        let second = if first == NODES - 1 { 1 } else { first + 1 };
        let felled = [leader, nth(first), nth(second)];
        let left: Vec<_> = (1..=NODES).filter(|node| !felled.contains(node)).collect();
        let by_power = self.one_in(2);
        for id in felled {
            if by_power {
                self.cluster.crash(id, CrashMode::LoseUnsynced);
            } else {
                self.cluster.kill(id);
            }
        }
        let timeout = self.cluster.raft_options().election_timeout_max;
        rt::sleep::<SimEnv>(timeout * DARK_TIMEOUTS).await;
        let ask = |node: &NodeId| {
            let create = Request::post("/create_topic", json!({ "name": format!("dark-{node}") }));
            let read = Request::get("/get_active_brokers");
            let stale = Request::get("/get_active_brokers?consistency=stale");
            [(*node, create), (*node, read), (*node, stale)]
        };
        for asked in self.ask(left.iter().flat_map(ask).collect()).await {
            let status = if asked.request.path.contains("stale") {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            asked.is_answered("without a majority", status)?;
        }
        self.cluster.watch().coverage().fire(Site::Darkness);
        for id in felled {
            self.cluster.start(id);
        }
        self.cluster.settle(NODES).await
    }
}

/// Checks that cluster time went on by about as much as real time between two polls.
fn time_goes_on(first: &Asked, second: &Asked, gained: Duration) -> Result<(), Violation> {
    let error = |span: Duration| span * TIME_ERROR_PER_MILLE / 1_000 + TIME_SLACK;
    let (least, most) = (second.begun - first.ended, second.ended - first.begun);
    if gained + error(least) < least {
        let what =
            format!("cluster time: it went on by {gained:?} in {least:?} of an idle cluster");
        return Err(Violation::liveness(what));
    }
    if gained > most + error(most) {
        let what = format!("cluster time: it went on by {gained:?} in {most:?} of an idle cluster");
        return Err(Violation::safety(what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::extract::Request as HttpRequest;
    use axum::middleware::{self, Next};
    use axum::response::{IntoResponse, Response};
    use hyper::Method;
    use yakt::node::Node;
    use yakt::raft::config::RaftOptions;

    use super::*;
    use crate::harness::check::Watch;
    use crate::harness::cluster::Cluster;
    use crate::harness::coverage::Coverage;
    use crate::harness::record::Recorder;
    use crate::harness::subject::{Service, Subject};
    use crate::runtime::simulate;
    use crate::world::{World, WorldConfig};

    /// The part of this file that a test checks.
    #[derive(Clone, Copy)]
    enum Part {
        Quiet,
        Follower,
        Darkness,
        /// A leader that is replaced while none should be.
        Leader,
    }

    /// The violation that `part` finds in five nodes with the router of `service`. Empty if there
    /// is none.
    fn found(part: Part, service: Service) -> String {
        let judged = simulate(1, move || async move {
            let world = World::new(WorldConfig::default());
            let watch =
                Watch::new(world.trace().clone(), Coverage::default(), Recorder::new(false));
            let cluster = Cluster::new(world, RaftOptions::default(), watch);
            let subject = Subject { service, ..Subject::default() };
            let mut run = Run::new(cluster.serving(subject));
            run.cluster.form(NODES).await?;
            match part {
                Part::Quiet => run.is_quiet().await,
                Part::Follower => run.misses_a_follower().await,
                Part::Darkness => run.goes_dark().await,
                Part::Leader => {
                    let leaders = run.cluster.watch().leaders();
                    let leader = run.cluster.wait_for_leader().await?;
                    if let Some(node) = run.cluster.node(leader) {
                        _ = node.transfer_leader(leader % NODES + 1).await;
                    }
                    run.keeps_its_leader(leaders, "a healthy cluster elected a new leader")
                }
            }
        });
        judged.err().map(|violation| violation.what).unwrap_or_default()
    }

    /// yakt's router, whose answers `change` alters.
    fn changed<C, F>(change: C) -> Service
    where
        C: Fn(Node<SimEnv>, Method, Response) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        Arc::new(move |node: Node<SimEnv>| {
            let (known, change) = (node.clone(), change.clone());
            let layer = move |request: HttpRequest, next: Next| {
                let (node, change) = (known.clone(), change.clone());
                async move {
                    let method = request.method().clone();
                    change(node, method, next.run(request).await).await
                }
            };
            yakt::http::router(node).layer(middleware::from_fn(layer))
        })
    }

    fn sound() -> Service {
        Subject::default().service
    }

    #[test]
    fn a_healthy_cluster_is_left_alone() {
        for part in [Part::Quiet, Part::Follower, Part::Darkness] {
            assert_eq!(found(part, sound()), "");
        }
    }

    #[test]
    fn a_late_and_a_refused_answer_of_a_healthy_node_are_caught() {
        let late = changed(|_, method, answer| async move {
            if method == Method::POST {
                rt::sleep::<SimEnv>(REQUEST_DEADLINE + 2 * ANSWER_SLACK).await;
            }
            answer
        });
        assert!(found(Part::Quiet, late).starts_with("deadline: node 1 answers POST"));
        let refused = changed(|node, _, answer| async move {
            match node.id() {
                4 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                _ => answer,
            }
        });
        assert!(found(Part::Quiet, refused).starts_with("availability: node 4 answers"));
    }

    #[test]
    fn a_new_leader_of_a_healthy_cluster_is_caught() {
        assert!(found(Part::Leader, sound()).starts_with("stability"));
    }

    #[test]
    fn cluster_time_that_stands_still_or_runs_is_caught() {
        let asked = |begun: u64| {
            let (node, request) = (1, Request::get("/client_mgmt/0"));
            let answer = Err(NoAnswer::Lost);
            let begun = rt::now::<SimEnv>() + Duration::from_secs(begun);
            Asked { node, request, answer, begun, ended: begun }
        };
        let gained = |seconds| {
            simulate(1, move || async move {
                time_goes_on(&asked(0), &asked(10), Duration::from_secs(seconds))
            })
        };
        assert_eq!(gained(10), Ok(()));
        assert!(gained(0).is_err() && gained(8).is_err() && gained(12).is_err());
    }

    #[test]
    fn an_unknown_outcome_of_what_was_never_sent_is_caught() {
        let unsure = changed(|_, method, answer| async move {
            let refused = answer.status() == StatusCode::SERVICE_UNAVAILABLE;
            let status = StatusCode::GATEWAY_TIMEOUT;
            if refused && method == Method::POST { status.into_response() } else { answer }
        });
        assert!(found(Part::Darkness, unsure).starts_with("without a majority: node"));
    }
}
