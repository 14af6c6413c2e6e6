//! One cluster for all the tests that do it no harm.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::{Value, json};

use crate::client::Request;
use crate::cluster::Cluster;

/// A hold on the shared cluster. It starts with the first and stops with the last.
pub(crate) struct Shared(Arc<Cluster>);

impl Shared {
    pub(crate) fn new() -> Self {
        static CLUSTER: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut cluster = CLUSTER.lock().unwrap_or_else(PoisonError::into_inner);
        let held = cluster.upgrade().unwrap_or_else(|| {
            let started = Arc::new(crate::five());
            *cluster = Arc::downgrade(&started);
            started
        });
        Self(held)
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.0
    }

    /// A node that does not lead, as of now.
    pub(crate) fn follower(&self) -> SocketAddr {
        self.0.follower().http
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.show_logs();
        }
    }
}

/// A broker, producer or partition id that no other test uses. The server's own choice of producer ids
/// begins at 0.
pub(crate) fn fresh_id() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1_000_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A topic name or idempotency key that no other test uses.
pub(crate) fn fresh_name(what: &str) -> String {
    format!("{what}-{}", fresh_id())
}

/// A good registration of a new broker.
pub(crate) fn registration() -> Value {
    json!({"brokerId": fresh_id(), "brokerHost": "10.0.0.1", "brokerPort": "9092"})
}

/// Registers a new broker; its record's fields.
pub(crate) fn broker(addr: SocketAddr) -> Value {
    let record = Request::post("/register_broker", &registration()).ask(addr).expect(201);
    record["fields"].clone()
}

/// Creates a new topic; its record's fields.
pub(crate) fn topic(addr: SocketAddr) -> Value {
    let record =
        Request::post("/create_topic", &json!({"name": fresh_name("topic")})).ask(addr).expect(201);
    record["fields"].clone()
}
