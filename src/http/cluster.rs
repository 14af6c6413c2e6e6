//! The node about itself and its cluster, and what an operator changes about them.
//!
//! A change of members or of the leader is answered with the same status as `/cluster` gives, in which it shows;
//! only a node that removed itself answers with what it knew, since nobody tells it any more. A snapshot shows
//! nowhere there: 204.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;

use super::body::Plain;
use super::extract::MemberPath;
use super::problem::Problem;
use crate::env::Env;
use crate::node::{ClusterStatus, Node};
use crate::raft::NodeId;

/// Names the process that answers: see
/// [`NodeOptions::instance`](crate::node::NodeOptions::instance).
pub const INSTANCE_HEADER: &str = "yakt-instance";

type Instance = [(&'static str, String); 1];

fn instance<E: Env>(node: &Node<E>) -> Instance {
    [(INSTANCE_HEADER, node.instance().to_string())]
}

/// The cluster from this node's own knowledge.
pub(super) async fn status<E: Env>(State(node): State<Node<E>>) -> (Instance, Json<ClusterStatus>) {
    (instance(&node), Json(node.status()))
}

/// The node is a member no more.
pub(super) async fn remove<E: Env>(
    State(node): State<Node<E>>,
    MemberPath(member): MemberPath,
) -> Result<Json<ClusterStatus>, Problem> {
    node.remove_member(member).await?;
    Ok(Json(node.status()))
}

#[derive(Deserialize)]
pub(super) struct NextLeader {
    node: NodeId,
}

/// The named node leads.
pub(super) async fn transfer<E: Env>(
    State(node): State<Node<E>>,
    Plain(next): Plain<NextLeader>,
) -> Result<Json<ClusterStatus>, Problem> {
    node.transfer_leader(next.node).await?;
    Ok(Json(node.status()))
}

/// This node has a snapshot of all that it had applied.
pub(super) async fn snapshot<E: Env>(State(node): State<Node<E>>) -> Result<StatusCode, Problem> {
    node.take_snapshot().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The process serves.
pub(super) async fn healthy() -> &'static str {
    "ok\n"
}

/// How long `/readyz` waits for the leader's proof: two rounds, and less than probes usually wait.
pub(super) const READY_LIMIT: Duration = Duration::from_millis(900);

/// This node would serve a request: a leader has just proved itself to it.
pub(super) async fn ready<E: Env>(
    State(node): State<Node<E>>,
) -> Result<(Instance, &'static str), Problem> {
    if node.serves(READY_LIMIT).await {
        return Ok((instance(&node), "ok\n"));
    }
    let detail = "no leader proved itself to this node, or none that commits; see /cluster";
    Err(Problem::unavailable("not_ready", detail))
}
