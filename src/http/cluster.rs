//! The node about itself.

use axum::Json;
use axum::extract::State;

use super::problem::Problem;
use crate::env::Env;
use crate::node::{ClusterStatus, Node};

/// The cluster from this node's own knowledge.
pub(super) async fn status<E: Env>(State(node): State<Node<E>>) -> Json<ClusterStatus> {
    Json(node.status())
}

/// The process serves.
pub(super) async fn healthy() -> &'static str {
    "ok\n"
}

/// This node knows a leader and has applied what was committed.
pub(super) async fn ready<E: Env>(State(node): State<Node<E>>) -> Result<&'static str, Problem> {
    if node.is_ready() {
        return Ok("ok\n");
    }
    Err(Problem::unavailable("not_ready", "this node knows no leader yet, or lags behind it"))
}
