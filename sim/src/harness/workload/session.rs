//! One client: it plays its plan, and keeps in mind what it needs to go on.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use yakt::env::rt;
use yakt::raft::NodeId;

use super::bad::{bad, misrouted, reuse, revive};
use super::plan::{Look, Operation, Way, What};
use super::request::{self, Known, elsewhere, in_way, long_name};
use crate::env::SimEnv;
use crate::harness::client::{Answer, Client, NoAnswer, Request};
use crate::harness::cluster::{Cluster, http};
use crate::harness::coverage::Site;
use crate::harness::exchanges::is_without_effect;

/// Times that a keyed write is sent before its outcome is left open. With the client's patience this stays far
/// below the ten minutes for which keys are remembered.
const KEYED_TRIES_MAX: usize = 8;

/// How old a keyed write may be that is repeated: keys are remembered for ten minutes of cluster time, and
/// clocks that are minutes ahead take cluster time ahead with them.
const REPEAT_AGE_MAX: Duration = Duration::from_mins(1);

/// How old a keyed write must be for its key to be forgotten, whatever cluster time was like. Keys
/// are remembered for ten minutes; the rest is for the time that a cluster without a leader does
/// not count.
const FORGOTTEN_AGE_MIN: Duration = Duration::from_mins(14);

/// Seconds by which an offset of another cluster is ahead.
const FOREIGN_AHEAD_SECONDS: f64 = 3_600.0;

/// Requests of a bulk that are under way at the same time.
const BULK_WIDTH: u32 = 24;

/// Bytes of names that make a state a large one.
const LARGE_BYTES: usize = 900_000;

/// Pause before a keyed write is sent again, at another node.
const RETRY_PAUSE: Duration = Duration::from_millis(25);

/// A keyed write that was answered.
struct Answered {
    request: Request,
    begun: rt::Instant<SimEnv>,
    /// Whether the cluster decided it, so that it knows the key.
    is_remembered: bool,
}

pub(super) struct Session {
    number: usize,
    client: Client,
    cluster: Cluster,
    serial: u64,
    /// The offset of the last poll of each kind, in seconds.
    offsets: [f64; 2],
    /// The history that each of these offsets belongs to, once there is one.
    histories: [Option<String>; 2],
    /// The UUIDs of the topics that it was told of.
    topics: BTreeMap<u32, String>,
    /// The last epoch of each broker that it was told of.
    epochs: BTreeMap<u32, u64>,
    /// The last internal UUID of each broker that it was told of.
    uuids: BTreeMap<u32, String>,
    answered: Vec<Answered>,
}

impl Session {
    pub(super) fn new(number: usize, env: SimEnv, cluster: Cluster) -> Self {
        let client = Client::new(env).noting(cluster.exchanges().clone());
        Self {
            number,
            client,
            cluster,
            serial: 0,
            offsets: [0.0; 2],
            histories: [None, None],
            topics: BTreeMap::new(),
            epochs: BTreeMap::new(),
            uuids: BTreeMap::new(),
            answered: Vec::new(),
        }
    }

    pub(super) async fn play(&mut self, operation: &Operation) {
        let (mut what, mut ways) = (&operation.what, Vec::new());
        while let What::Otherwise(way, same) = what {
            ways.push(*way);
            what = same;
        }
        self.ask(operation, what, &ways).await;
    }

    async fn ask(&mut self, operation: &Operation, what: &What, ways: &[Way]) {
        let stale = if operation.stale { "?consistency=stale" } else { "" };
        match what {
            What::ReadTopic(topic) => {
                let path = format!("/get_topic_by_name/t{topic}{stale}");
                let answer = self.read(operation.node, path, ways).await;
                self.note_topic(*topic, answer.as_ref());
            }
            What::ReadBroker(broker) => {
                let name = Told { session: self, by_uuid: is_by_uuid(ways) }.name(*broker);
                let path = format!("/get_broker_by_id/{name}{stale}");
                let answer = self.read(operation.node, path, ways).await;
                self.note_broker(*broker, answer.as_ref());
            }
            What::ActiveBrokers => {
                self.read(operation.node, format!("/get_active_brokers{stale}"), ways).await;
            }
            What::Poll { brokers, diff } => self.poll(operation, (*brokers, *diff), ways).await,
            What::Repeat(back) => {
                if let Some(request) = self.recent(*back).map(|answered| answered.request.clone()) {
                    // A key belongs to the path and the body, so another method makes the same
                    // request.
                    let is_other = ways.contains(&Way::Method);
                    let request = if is_other { in_way(request, Way::Method) } else { request };
                    self.send(operation.node, &request).await;
                }
            }
            What::Reuse(back) => {
                let recent = self.recent(*back).filter(|answered| answered.is_remembered);
                if let Some(key) = recent.and_then(|answered| answered.request.key.clone()) {
                    self.send(operation.node, &reuse(key, *back)).await;
                }
            }
            What::Misroute(back) => {
                let recent = self.recent(*back).filter(|answered| answered.is_remembered);
                if let Some(other) = recent.and_then(|answered| elsewhere(&answered.request)) {
                    self.send(operation.node, &misrouted(other)).await;
                }
            }
            What::Revive => self.revive(operation.node).await,
            What::Bulk { first, count } => self.bulk(operation.node, *first, *count).await,
            What::Bad(which) => self.send(operation.node, &bad(*which)).await,
            What::Look(look) => self.send(operation.node, &Request::get(path(*look))).await,
            what => self.change(operation, what, ways).await,
        }
    }

    /// Writes.
    async fn change(&mut self, operation: &Operation, what: &What, ways: &[Way]) {
        let told = Told { session: self, by_uuid: is_by_uuid(ways) };
        let Some(request) = request::of(what, &told) else { return };
        let request = ways.iter().fold(request, |request, way| in_way(request, *way));
        let answer = self.write(operation, request).await;
        match what {
            What::CreateTopic(topic) => self.note_topic(*topic, answer.as_ref()),
            What::RegisterBroker { broker, .. }
            | What::UpdateBroker { broker, .. }
            | What::Enlist { broker, .. }
            | What::Alter { broker, .. } => {
                self.note_broker(*broker, answer.as_ref());
            }
            _ => {}
        }
    }

    fn note_topic(&mut self, topic: u32, answer: Option<&Answer>) {
        if let Some(uuid) = answer.and_then(|answer| answer.body["fields"]["topicUUID"].as_str()) {
            self.topics.insert(topic, uuid.to_owned());
        }
    }

    fn note_broker(&mut self, broker: u32, answer: Option<&Answer>) {
        let Some(answer) = answer else { return };
        let fields = &answer.body["fields"];
        if let Some(epoch) = fields["epoch"].as_u64() {
            self.epochs.insert(broker, epoch);
        }
        if let Some(uuid) = fields["internalUUID"].as_str() {
            self.uuids.insert(broker, uuid.to_owned());
        }
    }

    /// Sends a write: a keyed one again and again, at another node each time.
    async fn write(&mut self, operation: &Operation, request: Request) -> Option<Answer> {
        self.serial += 1;
        if !operation.keyed {
            return self.client.send(&http(operation.node), &request).await.ok();
        }
        let begun = rt::now::<SimEnv>();
        let request = request.keyed(format!("c{}-{}", self.number, self.serial));
        let mut node = operation.node;
        let mut unknown = false;
        for _ in 0..KEYED_TRIES_MAX {
            match self.client.send(&http(node), &request).await {
                Ok(answer) if answer.status.is_success() || answer.status.is_client_error() => {
                    if unknown {
                        self.cluster
                            .watch()
                            .coverage()
                            .reach(Site::KeyedRetry, answer.status.is_success());
                    }
                    let is_remembered = !is_without_effect(answer.status);
                    self.answered.push(Answered { request, begun, is_remembered });
                    return Some(answer);
                }
                Ok(_) | Err(NoAnswer::NotSent) => {}
                Err(NoAnswer::Lost) => unknown = true,
            }
            if operation.once {
                break;
            }
            rt::sleep::<SimEnv>(RETRY_PAUSE).await;
            node = self.next_node(node);
        }
        None
    }

    /// Who leads, as far as anybody does.
    pub(super) fn leader(&self) -> NodeId {
        self.cluster.leader().unwrap_or(1)
    }

    fn next_node(&self, node: NodeId) -> NodeId {
        node % self.cluster.size() + 1
    }

    async fn read(&mut self, node: NodeId, path: String, ways: &[Way]) -> Option<Answer> {
        let request = Request::get(path);
        let request = ways.iter().fold(request, |request, way| in_way(request, *way));
        self.client.send(&http(node), &request).await.ok()
    }

    /// Sends the first key that is surely forgotten with another request, which is a new change
    /// then.
    async fn revive(&mut self, node: NodeId) {
        let is_old = |answered: &Answered| {
            answered.is_remembered && rt::now::<SimEnv>() - answered.begun > FORGOTTEN_AGE_MIN
        };
        let Some(place) = self.answered.iter().position(is_old) else { return };
        let Answered { request, .. } = self.answered.remove(place);
        let Some(key) = request.key else { return };
        let answer = self.client.send(&http(node), &revive(key)).await;
        let revived = answer.is_ok_and(|answer| answer.status.is_success());
        self.cluster.watch().coverage().reach(Site::KeyRevived, revived);
    }

    /// Creates many topics, [`BULK_WIDTH`] at a time, over as many connections.
    async fn bulk(&mut self, node: NodeId, first: u32, count: u16) {
        let lanes = (0..BULK_WIDTH).map(|lane| {
            let exchanges = self.cluster.exchanges().clone();
            let mut client = Client::new(self.client.env().clone()).noting(exchanges);
            let topics = (first..first + u32::from(count)).skip(lane as usize);
            let topics: Vec<_> = topics.step_by(BULK_WIDTH as usize).collect();
            async move {
                let mut bytes = 0;
                for topic in topics {
                    let name = long_name(topic);
                    let length = name.len();
                    let request = Request::post("/create_topic", json!({ "name": name }));
                    let answer = client.send(&http(node), &request).await;
                    // Most of a record is its name.
                    bytes += if answer.is_ok_and(|it| it.status.is_success()) { length } else { 0 };
                }
                bytes
            }
        });
        let bytes: usize = join_all(lanes).await.into_iter().sum();
        self.cluster.watch().coverage().reach(Site::LargeState, bytes >= LARGE_BYTES);
    }

    /// Sends what the history alone is to judge.
    async fn send(&mut self, node: NodeId, request: &Request) {
        drop(self.client.send(&http(node), request).await);
    }

    async fn poll(&mut self, operation: &Operation, (brokers, diff): (bool, bool), ways: &[Way]) {
        let (kind, name) = if brokers { (0, "broker_mgmt") } else { (1, "client_mgmt") };
        let mut query = Vec::new();
        if diff {
            query.push("mode=diff".to_owned());
            // A client that applies diffs has to know that they are of the same history.
            let history = self.histories[kind].as_ref();
            query.extend(history.map(|history| format!("history={history}")));
        }
        if operation.stale {
            query.push("consistency=stale".to_owned());
        }
        let ahead = if ways.contains(&Way::Foreign) { FOREIGN_AHEAD_SECONDS } else { 0.0 };
        let path = format!("/{name}/{}?{}", self.offsets[kind] + ahead, query.join("&"));
        let Some(answer) = self.read(operation.node, path, ways).await else { return };
        let Some(offset) = answer.body["offset"].as_f64() else { return };
        let complete = answer.body["snapshot"] == "complete";
        self.cluster
            .watch()
            .coverage()
            .reach(Site::CompletePoll, complete && self.offsets[kind] > 0.0);
        // A stale answer may be from before the last one: following it back would be the client's own mistake.
        if offset >= self.offsets[kind] {
            self.offsets[kind] = offset;
            self.histories[kind] = answer.body["history"].as_str().map(str::to_owned);
        }
    }

    /// The keyed write of `back` keyed writes ago, if that is recent enough to be remembered.
    fn recent(&self, back: u32) -> Option<&Answered> {
        let position = self.answered.len().checked_sub(back as usize + 1)?;
        let recent = |answered: &&Answered| rt::now::<SimEnv>() - answered.begun < REPEAT_AGE_MAX;
        self.answered.get(position).filter(recent)
    }
}

/// A session's knowledge, and how it refers to brokers.
struct Told<'a> {
    session: &'a Session,
    by_uuid: bool,
}

fn is_by_uuid(ways: &[Way]) -> bool {
    ways.contains(&Way::Uuid) || ways.contains(&Way::InternalUuid)
}

impl Known for Told<'_> {
    fn reference(&self, broker: u32) -> Value {
        let uuid = self.session.uuids.get(&broker).filter(|_| self.by_uuid);
        uuid.map_or_else(|| json!(broker), |uuid| json!(uuid))
    }

    fn name(&self, broker: u32) -> String {
        let uuid = self.session.uuids.get(&broker).filter(|_| self.by_uuid);
        uuid.cloned().unwrap_or_else(|| broker.to_string())
    }

    fn epoch(&self, broker: u32) -> Option<u64> {
        self.session.epochs.get(&broker).copied()
    }

    fn topic(&self, topic: u32) -> Option<String> {
        self.session.topics.get(&topic).cloned()
    }
}

const fn path(look: Look) -> &'static str {
    match look {
        Look::Cluster => "/cluster",
        Look::Healthy => "/healthz",
        Look::Ready => "/readyz",
        Look::Metrics => "/metrics",
        Look::Openapi => "/openapi.json",
    }
}
