//! One client: it plays its plan, and keeps in mind what it needs to go on.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use yakt::env::rt;
use yakt::raft::NodeId;

use super::bad::{bad, reuse};
use super::plan::{Look, Operation, Way, What};
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
            topics: BTreeMap::new(),
            epochs: BTreeMap::new(),
            uuids: BTreeMap::new(),
            answered: Vec::new(),
        }
    }

    pub(super) async fn play(&mut self, operation: &Operation) {
        match &operation.what {
            What::Otherwise(way, what) => self.ask(operation, what, Some(*way)).await,
            what => self.ask(operation, what, None).await,
        }
    }

    async fn ask(&mut self, operation: &Operation, what: &What, way: Option<Way>) {
        let stale = if operation.stale { "?consistency=stale" } else { "" };
        match what {
            What::ReadTopic(topic) => {
                let path = format!("/get_topic_by_name/t{topic}{stale}");
                let answer = self.read(operation.node, path).await;
                self.note_topic(*topic, answer.as_ref());
            }
            What::ReadBroker(broker) => {
                let path = format!("/get_broker_by_id/{}{stale}", self.name(*broker, way));
                let answer = self.read(operation.node, path).await;
                self.note_broker(*broker, answer.as_ref());
            }
            What::ActiveBrokers => {
                self.read(operation.node, format!("/get_active_brokers{stale}")).await;
            }
            What::Poll { brokers, diff } => self.poll(operation, *brokers, *diff).await,
            What::Repeat(back) => {
                if let Some(request) = self.recent(*back).map(|answered| answered.request.clone()) {
                    self.send(operation.node, &request).await;
                }
            }
            What::Reuse(back) => {
                let recent = self.recent(*back).filter(|answered| answered.is_remembered);
                if let Some(key) = recent.and_then(|answered| answered.request.key.clone()) {
                    self.send(operation.node, &reuse(key)).await;
                }
            }
            What::Bad(which) => self.send(operation.node, &bad(*which)).await,
            What::Look(look) => self.send(operation.node, &Request::get(path(*look))).await,
            // One other way is enough for one request.
            What::Otherwise(..) => {}
            what => self.change(operation, what, way).await,
        }
    }

    /// Writes.
    async fn change(&mut self, operation: &Operation, what: &What, way: Option<Way>) {
        let Some(request) = self.write_of(what, way) else { return };
        let answer = self.write(operation, in_way(request, way)).await;
        match what {
            What::CreateTopic(topic) => self.note_topic(*topic, answer.as_ref()),
            What::RegisterBroker { broker, .. } | What::UpdateBroker { broker, .. } => {
                self.note_broker(*broker, answer.as_ref());
            }
            _ => {}
        }
    }

    /// The request that the write `what` is.
    fn write_of(&self, what: &What, way: Option<Way>) -> Option<Request> {
        Some(match what {
            What::CreateTopic(topic) => {
                Request::post("/create_topic", json!({ "name": format!("t{topic}") }))
            }
            What::CreatePartition { topic, number, replicas } => {
                let replicas: Vec<_> =
                    replicas.iter().map(|broker| self.reference(*broker, way)).collect();
                let uuid = self.topics.get(topic)?;
                let body =
                    json!({ "topicUUID": uuid, "partitionId": number, "replicas": replicas });
                Request::post("/create_partition", body)
            }
            What::RegisterBroker { broker, port } => {
                let body = json!({ "brokerId": broker, "brokerHost": "h", "brokerPort": port });
                Request::post("/register_broker", body)
            }
            What::UpdateBroker { broker, port, fenced, guarded } => {
                let mut body = json!({ "brokerId": self.reference(*broker, way) });
                if let Some(port) = port {
                    body["brokerPort"] = json!(port);
                }
                if let Some(fenced) = fenced {
                    body["brokerStatus"] = json!(if *fenced { "FENCED" } else { "ALIVE" });
                }
                if let Some(epoch) = self.epochs.get(broker).filter(|_| *guarded) {
                    body["epoch"] = json!(epoch);
                }
                Request::post("/update_broker", body)
            }
            What::CloseBroker(broker) => {
                let path = format!("/unregister_broker/{}", self.name(*broker, way));
                Request::post(path, Value::Null)
            }
            What::RegisterProducer(broker) => {
                let body = json!({ "brokerId": self.reference(*broker, way) });
                Request::post("/register_producer", body)
            }
            _ => return None,
        })
    }

    /// How a body refers to `broker`.
    fn reference(&self, broker: u32, way: Option<Way>) -> Value {
        let uuid = self.uuids.get(&broker).filter(|_| way == Some(Way::Uuid));
        uuid.map_or_else(|| json!(broker), |uuid| json!(uuid))
    }

    /// How a path refers to `broker`.
    fn name(&self, broker: u32, way: Option<Way>) -> String {
        let uuid = self.uuids.get(&broker).filter(|_| way == Some(Way::Uuid));
        uuid.cloned().unwrap_or_else(|| broker.to_string())
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

    async fn read(&mut self, node: NodeId, path: String) -> Option<Answer> {
        self.client.send(&http(node), &Request::get(path)).await.ok()
    }

    /// Sends what the history alone is to judge.
    async fn send(&mut self, node: NodeId, request: &Request) {
        drop(self.client.send(&http(node), request).await);
    }

    async fn poll(&mut self, operation: &Operation, brokers: bool, diff: bool) {
        let (kind, name) = if brokers { (0, "broker_mgmt") } else { (1, "client_mgmt") };
        let mut query = Vec::new();
        if diff {
            query.push("mode=diff");
        }
        if operation.stale {
            query.push("consistency=stale");
        }
        let path = format!("/{name}/{}?{}", self.offsets[kind], query.join("&"));
        let Some(answer) = self.read(operation.node, path).await else { return };
        let Some(offset) = answer.body["offset"].as_f64() else { return };
        let complete = answer.body["snapshot"] == "complete";
        self.cluster
            .watch()
            .coverage()
            .reach(Site::CompletePoll, complete && self.offsets[kind] > 0.0);
        // A stale answer may be from before the last one: following it back would be the client's own mistake.
        self.offsets[kind] = self.offsets[kind].max(offset);
    }

    /// The keyed write of `back` keyed writes ago, if that is recent enough to be remembered.
    fn recent(&self, back: u32) -> Option<&Answered> {
        let position = self.answered.len().checked_sub(back as usize + 1)?;
        let recent = |answered: &&Answered| rt::now::<SimEnv>() - answered.begun < REPEAT_AGE_MAX;
        self.answered.get(position).filter(recent)
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

/// `request` with another method, or with its body in an envelope, if that is the `way` and there is such a way.
fn in_way(request: Request, way: Option<Way>) -> Request {
    let path = request.path.as_str();
    let (method, record) = match path {
        "/update_broker" => (Method::PUT, "RegistrationChangeBrokerRecord"),
        "/register_broker" => (Method::POST, "RegisterBrokerRecord"),
        "/create_topic" => (Method::POST, "TopicRecord"),
        "/create_partition" => (Method::POST, "PartitionRecord"),
        "/register_producer" => (Method::POST, "ProducerIdsRecord"),
        _ => (Method::DELETE, ""),
    };
    match (way, &request.body) {
        (Some(Way::Method), _) => Request { method, ..request },
        (Some(Way::Envelope), Some(Value::Object(_))) => {
            let body = json!({ "type": "metadata", "name": record, "fields": request.body });
            Request { body: Some(body), ..request }
        }
        _ => request,
    }
}
