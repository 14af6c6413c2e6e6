//! Clients that write all the time, remember what they were told, and hold the cluster to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Request;
use crate::cluster::{Cluster, wait_for};

/// How often a write with an idempotency key is repeated while its outcome is unknown.
const ATTEMPTS_MAX: u32 = 20;

/// Pause after a write that did not succeed.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What a writer knows of a topic that it tried to create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// 201: it is there.
    Created,
    /// 504, or no answer: it may be there.
    Unknown,
    /// 503, or no connection: it is not there.
    Refused,
}

/// What writers know, by topic name.
pub(crate) type Ledger = BTreeMap<String, Told>;

/// Writers at work.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    created: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Ledger>>,
}

impl Writers {
    /// Starts a writer at each of `addrs`. Each gives its topics names of its own that begin with `prefix`,
    /// and every other one an idempotency key.
    pub(crate) fn start(prefix: &str, addrs: &[SocketAddr]) -> Self {
        let (stop, created) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let thread = |(number, &addr): (usize, &SocketAddr)| {
            let (stop, created) = (Arc::clone(&stop), Arc::clone(&created));
            let prefix = format!("{prefix}-{number}");
            std::thread::spawn(move || write_until(&stop, &created, &prefix, addr))
        };
        let threads = addrs.iter().enumerate().map(thread).collect();
        Self { stop, created, threads }
    }

    /// Waits until `count` more writes have succeeded.
    pub(crate) fn wait_for_progress(&self, count: usize) {
        let goal = self.created.load(Ordering::Relaxed) + count;
        wait_for("writes succeed", || (self.created.load(Ordering::Relaxed) >= goal).then_some(()));
    }

    /// Stops them; what they know.
    pub(crate) fn finish(mut self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        let threads = std::mem::take(&mut self.threads);
        threads.into_iter().flat_map(|thread| thread.join().expect("a writer")).collect()
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn write_until(stop: &AtomicBool, created: &AtomicUsize, prefix: &str, addr: SocketAddr) -> Ledger {
    let mut ledger = Ledger::new();
    while !stop.load(Ordering::Relaxed) {
        let name = format!("{prefix}-{}", ledger.len());
        let told = if ledger.len().is_multiple_of(2) {
            create(addr, &name, None)
        } else {
            create_surely(addr, &name)
        };
        match told {
            Told::Created => drop(created.fetch_add(1, Ordering::Relaxed)),
            Told::Unknown | Told::Refused => std::thread::sleep(RETRY_PAUSE),
        }
        ledger.insert(name, told);
    }
    ledger
}

/// Tries to create a topic, again and again under one key while the outcome is unknown.
fn create_surely(addr: SocketAddr, name: &str) -> Told {
    let mut told = Told::Refused;
    for _ in 0..ATTEMPTS_MAX {
        match create(addr, name, Some(name)) {
            Told::Created => return Told::Created,
            // A refusal is about this attempt; an earlier one may have succeeded.
            Told::Refused if told == Told::Refused => return Told::Refused,
            Told::Unknown | Told::Refused => told = Told::Unknown,
        }
        std::thread::sleep(RETRY_PAUSE);
    }
    told
}

/// Tries to create a topic once.
///
/// # Panics
///
/// On an answer that a new name with a key of its own cannot have, a conflict above all: it would mean that
/// a node made the change twice.
pub(crate) fn create(addr: SocketAddr, name: &str, key: Option<&str>) -> Told {
    let mut request = Request::post("/create_topic", &json!({"name": name}));
    if let Some(key) = key {
        request = request.key(key);
    }
    match request.send(addr) {
        Ok(response) => match response.status {
            201 => Told::Created,
            503 => Told::Refused,
            504 => Told::Unknown,
            status => panic!("{status} for the new topic {name} at {addr}: {}", response.text()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Told::Refused,
        Err(_) => Told::Unknown,
    }
}

/// Reads every topic, linearizably and stale, from every running node, and compares it with what the
/// writers were told.
///
/// # Panics
///
/// When a created topic is missing, a refused one is there, or any is there twice.
pub(crate) fn assert_kept(cluster: &Cluster, ledger: &Ledger) {
    for node in cluster.up() {
        // A stale read may show less than other nodes were told, but never less than this node has shown: so
        // it is asked second.
        for query in ["", "?consistency=stale"] {
            let found = wait_for("a node answers a read", || topics(node.http, query));
            let of = format!("of node {}{query}", node.id);
            for (name, told) in ledger {
                let copies = found.get(name).copied().unwrap_or(0);
                match told {
                    Told::Created => assert_eq!(copies, 1, "{name} was created; copies {of}"),
                    Told::Unknown => assert!(copies <= 1, "{name} has {copies} copies {of}"),
                    Told::Refused => assert_eq!(copies, 0, "{name} was refused; copies {of}"),
                }
            }
        }
    }
}

/// How often each topic name is in the node's metadata; `None` if it does not answer.
pub(crate) fn topics(addr: SocketAddr, query: &str) -> Option<BTreeMap<String, usize>> {
    let response = Request::get(&format!("/client_mgmt/0{query}")).send(addr).ok()?;
    let answer: Value = (response.status == 200).then(|| response.json())?;
    let mut topics = BTreeMap::new();
    for record in answer["records"]["TopicRecord"].as_array().expect("a list of topics") {
        *topics
            .entry(record["fields"]["name"].as_str().expect("a name").to_owned())
            .or_default() += 1;
    }
    Some(topics)
}
