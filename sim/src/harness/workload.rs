//! Clients that write and read, on hosts of their own, until they are told to stop.
//!
//! Each client makes topics with names of its own, counts up the epoch of a broker of its own, registers producers,
//! reads what any client was told, and polls for changes. It talks to a random node each time. Half of its
//! writes carry an `Idempotency-Key` and are retried until they are answered; the other half are tried
//! once, and leave a question when no answer comes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use rand::{Rng, RngExt};
use serde_json::{Value, json};
use yakt::env::rt;
use yakt::raft::NodeId;

use super::Violation;
use super::client::{Answer, Client, NoAnswer, Request};
use super::cluster::{Cluster, http};
use super::history::History;
use crate::env::SimEnv;
use crate::rng::SeededRng;

/// Times that a keyed write is tried before its outcome is left open.
const KEYED_TRIES_MAX: usize = 8;

/// Longest pause between two operations of a client, in microseconds.
const PAUSE_MICROS_MAX: u64 = 60_000;

/// How long the last operations may take once the clients were told to stop.
const STOP_LIMIT: Duration = Duration::from_mins(2);

/// Clients at work.
pub struct Workload {
    history: History,
    stop: Arc<AtomicBool>,
    clients: Vec<madsim::task::JoinHandle<()>>,
}

impl Workload {
    /// Starts `clients` clients that talk to nodes 1 to `nodes`.
    #[must_use]
    pub fn start(cluster: &Cluster, clients: u64, nodes: NodeId) -> Self {
        let (history, stop) = (History::default(), Arc::new(AtomicBool::new(false)));
        let start = |id| {
            let (history, stop) = (history.clone(), Arc::clone(&stop));
            let rng = cluster.world().fork_rng();
            cluster.world().start(&format!("c{id}"), move |env| async move {
                let client = Client::new(env);
                let mut work = Work {
                    id,
                    client,
                    rng,
                    nodes,
                    history,
                    serial: 0,
                    offset: 0,
                    known: BTreeSet::new(),
                    answered: Vec::new(),
                    closed: Vec::new(),
                };
                work.run(&stop).await;
            })
        };
        let clients = (1..=clients).map(start).collect();
        Self { history, stop, clients }
    }

    /// What they were told.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Tells the clients to stop after what they are at, and waits until they have.
    ///
    /// # Errors
    ///
    /// A liveness violation when one does not.
    pub async fn stop(&mut self) -> Result<(), Violation> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            let ended = rt::timeout::<SimEnv, _>(STOP_LIMIT, client).await;
            ended.ok_or_else(|| Violation::liveness("a client waited for ever"))?.ok();
        }
        Ok(())
    }
}

struct Work {
    id: u64,
    client: Client,
    rng: SeededRng,
    nodes: NodeId,
    history: History,
    serial: u64,
    /// The offset of the last poll, in microseconds.
    offset: u64,
    /// The topics that polls have shown, kept up by diffs alone.
    known: BTreeSet<String>,
    /// Keyed writes that succeeded, with their answers.
    answered: Vec<(Request, Answer)>,
    /// Brokers that were closed: UUID and stamp of the closing.
    closed: Vec<(String, u64)>,
}

fn micros(seconds: &Value) -> Option<u64> {
    yakt::metadata::Timestamp::from_seconds_f64(seconds.as_f64()?)
        .map(yakt::metadata::Timestamp::micros)
}

/// A topic's name as a fact.
fn topic_fact(name: &str) -> String {
    format!("topic {name}")
}

impl Work {
    async fn run(&mut self, stop: &AtomicBool) {
        self.register_broker().await;
        while !stop.load(Ordering::Relaxed) {
            match self.rng.random_range(0..12) {
                10 => self.repeat().await,
                11 => self.come_and_go().await,
                0..4 => self.create_topic().await,
                4 => self.update_broker().await,
                5 => self.register_producer().await,
                6 | 7 => self.read_topic().await,
                8 => self.read_broker().await,
                _ => self.poll().await,
            }
            let pause = Duration::from_micros(self.rng.random_range(0..PAUSE_MICROS_MAX));
            rt::sleep::<SimEnv>(pause).await;
        }
    }

    fn addr(&mut self) -> String {
        http(self.rng.random_range(1..=self.nodes))
    }

    /// Sends a write: keyed ones again and again, at another node each time.
    async fn write(&mut self, request: Request) -> Option<Answer> {
        self.serial += 1;
        let keyed = self.rng.random_bool(0.5);
        let tries = if keyed { KEYED_TRIES_MAX } else { 1 };
        let request =
            if keyed { request.keyed(format!("c{}-{}", self.id, self.serial)) } else { request };
        for _ in 0..tries {
            let addr = self.addr();
            match self.client.send(&addr, &request).await {
                Ok(answer) if answer.status.is_success() || answer.status.is_client_error() => {
                    self.history.answered();
                    if keyed && answer.status.is_success() {
                        self.answered.push((request, answer.clone()));
                    }
                    return Some(answer);
                }
                // Nothing was done, or nobody knows.
                Ok(_) | Err(NoAnswer::NotSent | NoAnswer::Lost) => {
                    rt::sleep::<SimEnv>(Duration::from_millis(self.rng.random_range(1..50))).await;
                }
            }
        }
        None
    }

    /// Sends a keyed write of long ago again: the answer must be the one that it got then.
    async fn repeat(&mut self) {
        if self.answered.is_empty() {
            return;
        }
        let (request, first) = self.answered[self.rng.random_range(0..self.answered.len())].clone();
        let addr = self.addr();
        let Ok(again) = self.client.send(&addr, &request).await else { return };
        if !again.status.is_server_error() && again != first {
            self.history.report(format!("{request:?} was answered {first:?}, and later {again:?}"));
        }
    }

    /// Registers a broker and closes it again, for the diffs to tell.
    async fn come_and_go(&mut self) {
        let id = 100_000 * self.id + self.serial;
        let body = json!({ "brokerId": id, "brokerHost": "h", "brokerPort": 9092 });
        let Some(answer) = self.write(Request::post("/register_broker", body)).await else {
            return;
        };
        let Some(uuid) = answer.body["fields"]["internalUUID"].as_str() else { return };
        let path = format!("/unregister_broker/{id}");
        let Some(answer) = self.write(Request::post(path, json!({}))).await else { return };
        if let Some(stamp) =
            micros(&answer.body["timestamp"]).filter(|_| answer.status.is_success())
        {
            self.closed.push((uuid.to_owned(), stamp));
        }
    }

    /// Sends a linearizable read.
    async fn read(&mut self, path: String) -> Option<Answer> {
        let addr = self.addr();
        let answer = self.client.send(&addr, &Request::get(path)).await.ok()?;
        let answered = answer.status.is_success() || answer.status == StatusCode::NOT_FOUND;
        answered.then(|| {
            self.history.answered();
            answer
        })
    }

    async fn create_topic(&mut self) {
        let name = format!("t{}-{}", self.id, self.serial + 1);
        let fact = topic_fact(&name);
        self.history.attempt_fact(&fact);
        let Some(answer) =
            self.write(Request::post("/create_topic", json!({ "name": name }))).await
        else {
            return;
        };
        match (answer.status, answer.body["fields"]["topicUUID"].as_str()) {
            (StatusCode::CREATED, Some(uuid)) => self.history.told_fact(&fact, uuid, true),
            _ => {
                self.history
                    .report(format!("creating {fact}, a new name, was answered {answer:?}"));
            }
        }
    }

    fn broker_fact(&self) -> String {
        format!("broker {}", self.id)
    }

    async fn register_broker(&mut self) {
        let fact = self.broker_fact();
        self.history.attempt_fact(&fact);
        let body = json!({ "brokerId": self.id, "brokerHost": "h", "brokerPort": 9092 });
        if let Some(answer) = self.write(Request::post("/register_broker", body)).await
            && let Some(uuid) = answer.body["fields"]["internalUUID"].as_str()
        {
            self.history.told_fact(&fact, uuid, true);
        }
    }

    fn epoch_counter(id: u64) -> String {
        format!("epoch of broker {id}")
    }

    async fn update_broker(&mut self) {
        let counter = Self::epoch_counter(self.id);
        let begun = rt::now::<SimEnv>();
        self.history.attempt_count(&counter);
        let body = json!({ "brokerId": self.id, "brokerPort": self.rng.random_range(1..=65_535) });
        let Some(answer) = self.write(Request::post("/update_broker", body)).await else { return };
        match (answer.status, answer.body["fields"]["epoch"].as_u64()) {
            (StatusCode::OK, Some(epoch)) => {
                self.history.acknowledged_count(&counter);
                self.history.told_count(&counter, epoch, begun);
            }
            (StatusCode::NOT_FOUND, _) => {} // its registration is still open
            _ => {
                self.history.report(format!("updating broker {} was answered {answer:?}", self.id));
            }
        }
    }

    async fn register_producer(&mut self) {
        let counter = producer_counter(self.id);
        self.history.attempt_count(&counter);
        let answer =
            self.write(Request::post("/register_producer", json!({ "brokerId": self.id }))).await;
        let Some(answer) = answer else { return };
        match (answer.status, answer.body["fields"]["producerId"].as_u64()) {
            (StatusCode::CREATED, Some(id)) => {
                self.history.acknowledged_count(&counter);
                let fact = format!("producer {id}");
                self.history.attempt_fact(&fact);
                // Two registrations must never get one id.
                self.history.told_fact(
                    &fact,
                    &format!("client {} request {}", self.id, self.serial),
                    true,
                );
            }
            (StatusCode::NOT_FOUND, _) => {} // the broker's registration is still open
            _ => self.history.report(format!("registering a producer was answered {answer:?}")),
        }
    }

    async fn read_topic(&mut self) {
        let facts = self.history.acknowledged_facts();
        let names: Vec<_> =
            facts.iter().filter_map(|(name, _)| name.strip_prefix("topic ")).collect();
        // Mostly a recent one: what was just acknowledged is what a stale leader does not know.
        let back =
            (self.rng.next_u64().trailing_zeros() as usize).min(names.len().saturating_sub(1));
        let Some(name) =
            names.len().checked_sub(back + 1).map(|position| names[position].to_owned())
        else {
            return;
        };
        let begun = rt::now::<SimEnv>();
        let Some(answer) = self.read(format!("/get_topic_by_name/{name}")).await else { return };
        match answer.body["fields"]["topicUUID"].as_str() {
            Some(uuid) => self.history.told_fact(&topic_fact(&name), uuid, false),
            None => self.history.told_absent(&topic_fact(&name), begun),
        }
    }

    async fn read_broker(&mut self) {
        let counters = self.history.counters();
        let epochs =
            counters.iter().filter_map(|(name, _, _)| name.strip_prefix("epoch of broker "));
        let ids: Vec<_> = epochs.filter_map(|id| id.parse::<u64>().ok()).collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.rng.random_range(0..ids.len())];
        let begun = rt::now::<SimEnv>();
        let Some(answer) = self.read(format!("/get_broker_by_id/{id}")).await else { return };
        match answer.body["fields"]["epoch"].as_u64() {
            Some(epoch) => self.history.told_count(&Self::epoch_counter(id), epoch, begun),
            None => self.history.told_absent(&format!("broker {id}"), begun),
        }
    }

    /// Follows the changes by diffs, and checks that nothing was missed whenever a whole snapshot comes.
    async fn poll(&mut self) {
        let begun = rt::now::<SimEnv>();
        let mode = if self.rng.random_bool(0.8) { "?mode=diff" } else { "" };
        let seconds = yakt::metadata::Timestamp::from_micros(self.offset).seconds_f64();
        let Some(answer) = self.read(format!("/client_mgmt/{seconds}{mode}")).await else { return };
        let kind = answer.body["snapshot"].as_str().unwrap_or_default().to_owned();
        let Some(offset) = micros(&answer.body["offset"]) else {
            return self
                .history
                .report(format!("a poll was answered without an offset: {answer:?}"));
        };
        self.history.told_poll(begun, self.offset, offset, &kind);
        if kind == "diff" {
            let deleted = answer.body["deleted"].to_string();
            for (uuid, stamp) in &self.closed {
                let due = (self.offset < *stamp) && (*stamp <= offset);
                if due != deleted.contains(uuid.as_str()) {
                    self.history.report(format!(
                        "broker {uuid} closed at {stamp}: deleted={} in a diff from {} to {offset}",
                        !due, self.offset
                    ));
                }
            }
        }
        let part = if kind == "diff" { "upserted" } else { "records" };
        for (name, stamp) in topics(&answer.body[part]) {
            let new = stamp > self.offset;
            if !new && kind == "diff" {
                self.history
                    .report(format!("topic {name} of {stamp} is in a diff since {}", self.offset));
            }
            if self.known.insert(name.clone()) && !new {
                self.history.report(format!(
                    "a poller at {} had missed topic {name} of {stamp}",
                    self.offset
                ));
            }
        }
        self.offset = offset;
    }
}

/// The counter of the producers of client `id`.
fn producer_counter(id: u64) -> String {
    format!("producers of broker {id}")
}

/// Whether `value` is the number that `text` says.
fn is_number(value: &Value, text: &str) -> bool {
    value.as_u64().is_some_and(|number| text.parse() == Ok(number))
}

/// The topics in a snapshot or diff: name and stamp.
fn topics(records: &Value) -> impl Iterator<Item = (String, u64)> {
    let topics = records["TopicRecord"].as_array().map(Vec::as_slice).unwrap_or_default();
    topics.iter().filter_map(|topic| {
        Some((topic["fields"]["name"].as_str()?.to_owned(), micros(&topic["timestamp"])?))
    })
}

/// Reads everything from every node, and checks it against what the clients were told: acknowledged writes are
/// there exactly once, and nothing is there that nobody asked for.
///
/// # Errors
///
/// What does not fit, or that a node does not answer.
pub async fn verify(
    client: &mut Client,
    history: &History,
    nodes: NodeId,
) -> Result<(), Violation> {
    for node in 1..=nodes {
        for consistency in ["linearizable", "stale"] {
            let path = format!("/broker_mgmt/0?consistency={consistency}");
            let answer = client.send(&http(node), &Request::get(path)).await;
            let unanswered =
                || Violation::liveness(format!("node {node} does not answer a {consistency} read"));
            let answer =
                answer.ok().filter(|answer| answer.status.is_success()).ok_or_else(unanswered)?;
            compare(history, &answer.body["records"]).map_err(|what| {
                Violation::safety(format!("node {node}, {consistency} read: {what}"))
            })?;
        }
    }
    history.violation().map_or(Ok(()), Err)
}

fn compare(history: &History, records: &Value) -> Result<(), String> {
    let list = |name: &str| records[name].as_array().map(Vec::as_slice).unwrap_or_default();
    for (fact, value) in history.acknowledged_facts() {
        let times = if let Some(name) = fact.strip_prefix("topic ") {
            let same = |topic: &&Value| {
                topic["fields"]["name"] == name && topic["fields"]["topicUUID"] == *value
            };
            list("TopicRecord").iter().filter(same).count()
        } else if let Some(id) = fact.strip_prefix("broker ") {
            let same = |broker: &&Value| {
                is_number(&broker["fields"]["brokerId"], id)
                    && broker["fields"]["internalUUID"] == *value
            };
            list("RegisterBrokerRecord").iter().filter(same).count()
        } else if let Some(id) = fact.strip_prefix("producer ") {
            let same = |producer: &&Value| is_number(&producer["fields"]["producerId"], id);
            list("ProducerIdsRecord").iter().filter(same).count()
        } else {
            return Err(format!("nobody knows how to look for {fact}"));
        };
        if times != 1 {
            return Err(format!("{fact} ({value}) was acknowledged, and is there {times} times"));
        }
    }
    for (topic, _) in topics(records) {
        if !history.attempted_fact(&topic_fact(&topic)) {
            return Err(format!("topic {topic} is there, and nobody asked for it"));
        }
    }
    for (counter, acknowledged, attempts) in history.counters() {
        let stands = if let Some(id) = counter.strip_prefix("epoch of broker ") {
            let mut brokers = list("RegisterBrokerRecord").iter();
            let broker = brokers.find(|broker| is_number(&broker["fields"]["brokerId"], id));
            broker.map_or(0, |broker| broker["fields"]["epoch"].as_u64().unwrap_or_default())
        } else if let Some(id) = counter.strip_prefix("producers of broker ") {
            let mut brokers = list("RegisterBrokerRecord").iter();
            let broker = brokers.find(|broker| is_number(&broker["fields"]["brokerId"], id));
            let uuid = broker.map(|broker| &broker["fields"]["internalUUID"]);
            list("ProducerIdsRecord")
                .iter()
                .filter(|producer| Some(&producer["fields"]["brokerId"]) == uuid)
                .count() as u64
        } else {
            return Err(format!("nobody knows how to read {counter}"));
        };
        if stands < acknowledged || stands > attempts {
            let what = format!(
                "{counter} is {stands} after {acknowledged} acknowledged of {attempts} attempted"
            );
            return Err(what);
        }
    }
    Ok(())
}
