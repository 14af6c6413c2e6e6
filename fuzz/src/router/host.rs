//! A node that leads a cluster of its own, with something in it.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tower::ServiceExt as _;
use yakt::env::rt;
use yakt::metadata::{
    Change, CreatePartition, CreateTopic, LeaderChoice, RackId, RegisterBroker, RegisterProducer,
    SecurityProtocol, Timestamp, UnregisterBroker, Uuid,
};
use yakt::node::{ConnectionLimits, Node, NodeOptions, REQUEST_DEADLINE, RunError};
use yakt::raft::config::RaftOptions;

use crate::recovery::disk::Disk;
use crate::recovery::env::DiskEnv;

/// How often a node that starts is asked whether it serves. Time is virtual: it costs nothing.
const PAUSE: Duration = Duration::from_millis(10);

/// How long it may take, in virtual time.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Bytes of a file of the log: a new one is written whole, and the disk is in memory.
const LOG_FILE_BYTES: u64 = 64 << 10;

/// Brokers in the cluster; the last one is closed.
pub const BROKERS: u32 = 3;

/// The UUID of the broker or the topic of that number: of broker 1, and of the only topic, `…0001`.
pub fn uuid(number: u32) -> Uuid {
    Uuid::from_u128(u128::from(number))
}

/// What tells whether anything was written.
#[derive(Clone, Debug, PartialEq)]
struct Mark {
    stamp: Timestamp,
    last_log_index: Option<u64>,
    snapshot_index: Option<u64>,
}

/// A node, on a disk in memory and in a runtime whose time passes only when all wait.
pub struct Host {
    node: Node<DiskEnv>,
    running: JoinHandle<Result<(), RunError>>,
    router: Router,
    start: Mark,
    /// Last, so that the tasks go after what they serve.
    runtime: Runtime,
}

impl Host {
    /// Starts one, and fills it.
    pub fn start() -> Self {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let disk = Disk::default();
        let life = disk.boot();
        let options = NodeOptions {
            id: 1,
            raft_addr: "127.0.0.1:5010".into(),
            http_addr: "127.0.0.1:5011".into(),
            ensemble: Vec::new(),
            data: "memory".into(),
            raft: RaftOptions { log_segment_bytes: LOG_FILE_BYTES, ..RaftOptions::default() },
            observer: None,
            connections: ConnectionLimits::default(),
            instance: None,
        };
        let node = Node::new(DiskEnv { disk, life }, options);
        let runs = node.clone();
        let running = runtime.spawn(async move { runs.run().await });
        runtime.block_on(async {
            let ready = async {
                while !node.is_ready() {
                    rt::sleep::<DiskEnv>(PAUSE).await;
                }
            };
            rt::timeout::<DiskEnv, _>(START_LIMIT, ready).await.expect("a node of one leads");
            for change in contents() {
                let applied = node.propose(change, None, REQUEST_DEADLINE).await;
                applied.expect("it leads").outcome.expect("the contents are legal");
            }
        });
        let (router, start) = (yakt::http::router(node.clone()), mark(&node));
        Self { node, running, router, start, runtime }
    }

    /// The answer to `request`.
    pub fn ask(&self, request: Request<Body>) -> (StatusCode, HeaderMap, Bytes) {
        self.runtime.block_on(async {
            let response = self.router.clone().oneshot(request).await.expect("infallible");
            let (head, body) = response.into_parts();
            let body = body.collect().await.expect("the body is whole").to_bytes();
            (head.status, head.headers, body)
        })
    }

    /// Panics if the node has stopped or broken an invariant.
    pub fn check(&self) {
        assert!(!self.running.is_finished(), "the node has stopped");
        if self.has_written() {
            let image = self.node.image().expect("it has started");
            image.state.check_invariants().expect("every invariant holds");
        }
    }

    /// Whether any request was more than a question.
    pub fn has_written(&self) -> bool {
        mark(&self.node) != self.start
    }
}

fn mark(node: &Node<DiskEnv>) -> Mark {
    let image = node.image().expect("it has started");
    let metrics = node.raft().expect("it has started").metrics();
    let metrics = metrics.borrow_watched();
    Mark {
        stamp: image.state.last_stamp(),
        last_log_index: metrics.last_log_index,
        snapshot_index: metrics.snapshot.as_ref().map(openraft::LogId::index),
    }
}

/// Two live brokers and a closed one, a topic with a partition on the two, a range of producer ids.
fn contents() -> Vec<Change> {
    let broker = |number: u32| {
        Change::RegisterBroker(RegisterBroker {
            uuid: uuid(number),
            broker_id: number.try_into().expect("a legal id"),
            host: "host".parse().expect("a legal host"),
            port: "9092".parse().expect("a legal port"),
            security_protocol: SecurityProtocol::default(),
            rack_id: RackId::default(),
        })
    };
    let closed = UnregisterBroker { broker: uuid(BROKERS).into(), epoch: None };
    let mut changes: Vec<_> = (1..=BROKERS).map(broker).collect();
    changes.extend([
        Change::UnregisterBroker(closed),
        Change::CreateTopic(CreateTopic {
            uuid: uuid(1),
            name: "topic".parse().expect("a legal name"),
        }),
        Change::CreatePartition(CreatePartition {
            topic: uuid(1),
            partition_id: 0.try_into().expect("a legal id"),
            replicas: vec![uuid(1).into(), uuid(2).into()],
            isr: None,
            removing: Vec::new(),
            adding: Vec::new(),
            leader: LeaderChoice::Preferred,
        }),
        Change::RegisterProducer(RegisterProducer { broker: uuid(1).into(), producer_id: None }),
    ]);
    changes
}
