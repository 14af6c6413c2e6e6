//! The HTTP API: ten endpoints of the original system, and a few about the node and its cluster.
//!
//! [`router`] gives an axum [`Router`] whose handlers do no I/O of their own: they parse a request into
//! a [`Change`](crate::metadata::Change) or a read, ask the [`Node`], and render the answer. [`server`]
//! runs it over any environment's byte streams.
//!
//! Rules for all endpoints:
//!
//! - any node takes any request; what the leader must decide is passed on to it;
//! - reads are linearizable, or with `?consistency=stale` from what the asked node has applied;
//! - a request is answered within [`REQUEST_DEADLINE`](crate::node::REQUEST_DEADLINE) or a little more;
//! - errors are [`Problem`]s with stable codes.
//!
//! # Connections
//!
//! A node serves up to [`ConnectionLimits::http`](crate::node::ConnectionLimits::http) ordinary
//! connections, and one client address has at most half of them. Idle connections therefore lock
//! out no other client:
//!
//! 1. A connection beyond these limits gets one of [`RESERVED_CONNECTIONS`] slots, which last for
//!    one request. The client has one second to send it. `/healthz`, `/readyz`, `/metrics` and
//!    `/cluster…` are served. Any other request is answered 503 with the code `overloaded` and
//!    `Retry-After`.
//! 2. A connection beyond the reserved slots gets the same 503 before it sends a request, and is
//!    closed.
//!
//! No connection waits without an answer. An ordinary one may be idle for 30 s.
//!
//! Left out: IPv6 clients with many addresses count once for each address.
//!
//! | file | endpoints |
//! |---|---|
//! | `brokers` | `/register_broker` `/update_broker` `/unregister_broker/{id}` `/get_active_brokers` `/get_broker_by_id/{id}` |
//! | `topics` | `/create_topic` `/get_topic_by_name/{name}` `/create_partition` |
//! | `producers` | `/register_producer` |
//! | `mgmt` | `/broker_mgmt/{offset}` `/client_mgmt/{offset}` |
//! | `cluster` | `/cluster` `/cluster/nodes/{id}` `/cluster/leader` `/cluster/snapshot` `/healthz` `/readyz` |
//! | `metrics` | `/metrics` |
//! | `openapi` | `/openapi.json` |

use axum::http::{Method, Uri};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Extension, Router, middleware};

use crate::env::Env;
use crate::node::Node;
use turns::Turns;

mod body;
mod brokers;
mod cluster;
mod extract;
mod host;
mod json;
mod metrics;
mod mgmt;
mod openapi;
mod overload;
mod problem;
mod producers;
pub mod server;
mod slots;
mod topics;
mod turns;
mod write;

pub use cluster::INSTANCE_HEADER;
pub use problem::Problem;

/// Bytes of a request's body at most. The largest legal request, a partition with 64 replicas named by UUID
/// in five lists, has about 13,000.
pub const BODY_BYTES_MAX: usize = 64 << 10;

const _: () =
    assert!(BODY_BYTES_MAX < crate::raft::config::ENTRY_BYTES_MAX, "a body becomes an entry");

/// Bytes of a request's head at most.
pub const HEAD_BYTES_MAX: usize = 16 << 10;

/// Connections beyond the ordinary ones that are served one request each: enough for the probes,
/// operators and programs that watch one node.
pub const RESERVED_CONNECTIONS: usize = 64;

/// Connections beyond the reserved ones that are refused at the same time. A refusal lasts up to a
/// second. Further connections are refused without a wait.
pub const FAREWELLS_MAX: usize = 64;

/// Every endpoint, answered by `node`.
pub fn router<E: Env>(node: Node<E>) -> Router {
    let empty = Router::new();
    routes::<E>()
        .into_iter()
        .fold(empty, |router, (path, methods)| router.route(path, methods))
        .method_not_allowed_fallback(no_such_method)
        .fallback(no_such_path)
        .layer(Extension(Turns::default()))
        .layer(middleware::from_fn(host::check))
        .with_state(node)
}

/// Every path, and who answers which method there. A list, so that a test can hold `openapi.json` to it.
fn routes<E: Env>() -> [(&'static str, MethodRouter<Node<E>>); 19] {
    [
        ("/register_broker", post(brokers::register::<E>)),
        ("/update_broker", post(brokers::update::<E>).put(brokers::update::<E>)),
        (
            "/unregister_broker/{broker_id}",
            delete(brokers::unregister::<E>).post(brokers::unregister::<E>),
        ),
        ("/get_active_brokers", get(brokers::active::<E>)),
        ("/get_broker_by_id/{broker_id}", get(brokers::by_id::<E>)),
        ("/create_topic", post(topics::create::<E>)),
        ("/get_topic_by_name/{topic_name}", get(topics::by_name::<E>)),
        ("/create_partition", post(topics::create_partition::<E>)),
        ("/register_producer", post(producers::register::<E>)),
        ("/broker_mgmt/{previous_offset}", get(mgmt::brokers::<E>).layer(mgmt::compression())),
        ("/client_mgmt/{previous_offset}", get(mgmt::clients::<E>).layer(mgmt::compression())),
        ("/cluster", get(cluster::status::<E>)),
        ("/cluster/nodes/{id}", delete(cluster::remove::<E>)),
        ("/cluster/leader", post(cluster::transfer::<E>)),
        ("/cluster/snapshot", post(cluster::snapshot::<E>)),
        ("/healthz", get(cluster::healthy)),
        ("/readyz", get(cluster::ready::<E>)),
        ("/metrics", get(metrics::metrics::<E>)),
        ("/openapi.json", get(openapi::document)),
    ]
}

async fn no_such_path(uri: Uri) -> Problem {
    Problem::not_found("unknown_endpoint", format!("there is no endpoint {}", uri.path()))
}

async fn no_such_method(method: Method, uri: Uri) -> Problem {
    Problem::method_not_allowed(format!("{} does not take {method}", uri.path()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::TokioEnv;
    use crate::node::NodeOptions;

    /// A node that was never run.
    pub(super) fn idle_node() -> Node<TokioEnv> {
        let options = NodeOptions {
            id: 1,
            raft_addr: String::new(),
            http_addr: String::new(),
            ensemble: Vec::new(),
            data: std::path::PathBuf::new(),
            raft: crate::raft::config::RaftOptions::default(),
            observer: None,
            connections: crate::node::ConnectionLimits::default(),
            instance: None,
        };
        Node::new(TokioEnv, options)
    }
}
