//! The HTTP API: ten endpoints of the original system, and a few to look at the node itself.
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
//! | file | endpoints |
//! |---|---|
//! | `brokers` | `/register_broker` `/update_broker` `/unregister_broker/{id}` `/get_active_brokers` `/get_broker_by_id/{id}` |
//! | `topics` | `/create_topic` `/get_topic_by_name/{name}` `/create_partition` |
//! | `producers` | `/register_producer` |
//! | `mgmt` | `/broker_mgmt/{offset}` `/client_mgmt/{offset}` |
//! | `cluster` | `/cluster` `/healthz` `/readyz` |

use axum::Router;
use axum::http::{Method, Uri};
use axum::routing::{delete, get, post};

use crate::env::Env;
use crate::node::Node;

mod body;
mod brokers;
mod cluster;
mod extract;
mod mgmt;
mod problem;
mod producers;
pub mod server;
mod topics;
mod write;

pub use problem::Problem;

/// Bytes of a request's body at most. The largest legal request, a partition with 64 replicas named by UUID
/// in five lists, has about 13,000.
pub const BODY_BYTES_MAX: usize = 64 << 10;

/// Bytes of a request's head at most.
pub const HEAD_BYTES_MAX: usize = 16 << 10;

/// Connections that a node serves at once; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 4_096;

/// Every endpoint, answered by `node`.
pub fn router<E: Env>(node: Node<E>) -> Router {
    Router::new()
        .route("/register_broker", post(brokers::register::<E>))
        .route("/update_broker", post(brokers::update::<E>).put(brokers::update::<E>))
        .route(
            "/unregister_broker/{broker_id}",
            delete(brokers::unregister::<E>).post(brokers::unregister::<E>),
        )
        .route("/get_active_brokers", get(brokers::active::<E>))
        .route("/get_broker_by_id/{broker_id}", get(brokers::by_id::<E>))
        .route("/create_topic", post(topics::create::<E>))
        .route("/get_topic_by_name/{topic_name}", get(topics::by_name::<E>))
        .route("/create_partition", post(topics::create_partition::<E>))
        .route("/register_producer", post(producers::register::<E>))
        .route("/broker_mgmt/{previous_offset}", get(mgmt::brokers::<E>))
        .route("/client_mgmt/{previous_offset}", get(mgmt::clients::<E>))
        .route("/cluster", get(cluster::status::<E>))
        .route("/healthz", get(cluster::healthy))
        .route("/readyz", get(cluster::ready::<E>))
        .method_not_allowed_fallback(no_such_method)
        .fallback(no_such_path)
        .with_state(node)
}

async fn no_such_path(uri: Uri) -> Problem {
    Problem::not_found("unknown_endpoint", format!("there is no endpoint {}", uri.path()))
}

async fn no_such_method(method: Method, uri: Uri) -> Problem {
    Problem::method_not_allowed(format!("{} does not take {method}", uri.path()))
}
