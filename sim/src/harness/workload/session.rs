//! One client: it plays its plan, and keeps in mind what it needs to go on.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use yakt::env::rt;
use yakt::raft::NodeId;

use super::plan::{Operation, What};
use crate::env::SimEnv;
use crate::harness::client::{Answer, Client, NoAnswer, Request};
use crate::harness::cluster::{Cluster, http};
use crate::harness::coverage::Site;

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
            answered: Vec::new(),
        }
    }

    pub(super) async fn play(&mut self, operation: &Operation) {
        let stale = if operation.stale { "?consistency=stale" } else { "" };
        match &operation.what {
            What::CreateTopic(topic) => {
                let body = json!({ "name": format!("t{topic}") });
                let answer = self.write(operation, Request::post("/create_topic", body)).await;
                self.note_topic(*topic, answer.as_ref());
            }
            What::ReadTopic(topic) => {
                let path = format!("/get_topic_by_name/t{topic}{stale}");
                let answer = self.read(operation.node, path).await;
                self.note_topic(*topic, answer.as_ref());
            }
            What::CreatePartition { topic, number, replicas } => {
                let Some(uuid) = self.topics.get(topic) else { return };
                let body =
                    json!({ "topicUUID": uuid, "partitionId": number, "replicas": replicas });
                self.write(operation, Request::post("/create_partition", body)).await;
            }
            What::RegisterBroker { broker, port } => {
                let body = json!({ "brokerId": broker, "brokerHost": "h", "brokerPort": port });
                let answer = self.write(operation, Request::post("/register_broker", body)).await;
                self.note_epoch(*broker, answer.as_ref());
            }
            What::UpdateBroker { broker, port, fenced, guarded } => {
                let mut body = json!({ "brokerId": broker });
                if let Some(port) = port {
                    body["brokerPort"] = json!(port);
                }
                if let Some(fenced) = fenced {
                    body["brokerStatus"] = json!(if *fenced { "FENCED" } else { "ALIVE" });
                }
                if let Some(epoch) = self.epochs.get(broker).filter(|_| *guarded) {
                    body["epoch"] = json!(epoch);
                }
                let answer = self.write(operation, Request::post("/update_broker", body)).await;
                self.note_epoch(*broker, answer.as_ref());
            }
            What::CloseBroker(broker) => {
                let path = format!("/unregister_broker/{broker}");
                self.write(operation, Request::post(path, Value::Null)).await;
            }
            What::ReadBroker(broker) => {
                let path = format!("/get_broker_by_id/{broker}{stale}");
                let answer = self.read(operation.node, path).await;
                self.note_epoch(*broker, answer.as_ref());
            }
            What::ActiveBrokers => {
                self.read(operation.node, format!("/get_active_brokers{stale}")).await;
            }
            What::RegisterProducer(broker) => {
                let body = json!({ "brokerId": broker });
                self.write(operation, Request::post("/register_producer", body)).await;
            }
            What::Poll { brokers, diff } => self.poll(operation, *brokers, *diff).await,
            What::Repeat(back) => self.repeat(operation.node, *back).await,
            What::Bad(which) => {
                let _ = self.client.send(&http(operation.node), &bad(*which)).await;
            }
        }
    }

    fn note_topic(&mut self, topic: u32, answer: Option<&Answer>) {
        if let Some(uuid) = answer.and_then(|answer| answer.body["fields"]["topicUUID"].as_str()) {
            self.topics.insert(topic, uuid.to_owned());
        }
    }

    fn note_epoch(&mut self, broker: u32, answer: Option<&Answer>) {
        if let Some(epoch) = answer.and_then(|answer| answer.body["fields"]["epoch"].as_u64()) {
            self.epochs.insert(broker, epoch);
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
                    self.answered.push(Answered { request, begun });
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

    /// Sends a keyed write of a while ago again.
    async fn repeat(&mut self, node: NodeId, back: u32) {
        let position = self.answered.len().checked_sub(back as usize + 1);
        let Some(Answered { request, begun }) = position.and_then(|at| self.answered.get(at))
        else {
            return;
        };
        if rt::now::<SimEnv>() - *begun < REPEAT_AGE_MAX {
            let request = request.clone();
            let _ = self.client.send(&http(node), &request).await;
        }
    }
}

/// A request that breaks the contract.
fn bad(which: u8) -> Request {
    let request = match which {
        0 => Request::post("/create_topic", json!({ "name": "no spaces, please" })),
        1 => Request::post("/create_topic", json!({ "title": "x" })),
        2 => Request::post(
            "/register_broker",
            json!({ "brokerId": -1, "brokerHost": "h", "brokerPort": 1 }),
        ),
        3 => Request::post(
            "/register_broker",
            json!({ "brokerId": 1, "brokerHost": "h", "brokerPort": 70_000 }),
        ),
        4 => Request::get("/broker_mgmt/yesterday"),
        5 => Request::get("/client_mgmt/0?mode=backwards"),
        6 => Request::post("/get_active_brokers", Value::Null),
        _ => Request::post("/update_broker", json!(["not", "an", "object"])),
    };
    Request { is_bad: true, ..request }
}
