//! What requests say in their path and query.

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::Deserialize;

use super::problem::Problem;
use crate::env::Env;
use crate::metadata::{BrokerRef, Timestamp};
use crate::node::{Consistency, Node};
use crate::raft::NodeId;

/// `?consistency=linearizable` (the default) or `?consistency=stale`.
pub(super) struct Freshness(pub(super) Consistency);

#[derive(Deserialize)]
struct FreshnessQuery {
    consistency: Option<String>,
}

impl<E: Env> FromRequestParts<Node<E>> for Freshness {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _node: &Node<E>) -> Result<Self, Problem> {
        let query =
            Query::<FreshnessQuery>::try_from_uri(&parts.uri).map_err(|error| bad_query(&error))?;
        match query.0.consistency.as_deref() {
            None | Some("linearizable") => Ok(Self(Consistency::Linearizable)),
            Some("stale") => Ok(Self(Consistency::Stale)),
            Some(other) => {
                let detail = format!("consistency is linearizable or stale, not {other:?}");
                Err(Problem::bad_request("invalid_query", detail))
            }
        }
    }
}

pub(super) fn bad_query(error: &axum::extract::rejection::QueryRejection) -> Problem {
    Problem::bad_request("invalid_query", error.body_text())
}

/// A broker in a path: its integer id or its internal UUID.
pub(super) struct BrokerPath(pub(super) BrokerRef);

impl<E: Env> FromRequestParts<Node<E>> for BrokerPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, node: &Node<E>) -> Result<Self, Problem> {
        let text = path_text(parts, node).await?;
        let detail = || format!("{text:?} is neither a broker's id nor its internal UUID");
        text.parse().map(Self).map_err(|_| Problem::bad_request("invalid_path", detail()))
    }
}

/// A topic in a path: any text, since a name that cannot be is not found like any other.
pub(super) struct TopicPath(pub(super) String);

impl<E: Env> FromRequestParts<Node<E>> for TopicPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, node: &Node<E>) -> Result<Self, Problem> {
        path_text(parts, node).await.map(Self)
    }
}

/// An offset in a path: float seconds of cluster time, as an earlier answer gave it.
pub(super) struct OffsetPath(pub(super) Timestamp);

impl<E: Env> FromRequestParts<Node<E>> for OffsetPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, node: &Node<E>) -> Result<Self, Problem> {
        let text = path_text(parts, node).await?;
        let offset = text.parse().ok().and_then(Timestamp::from_seconds_f64);
        let detail = || {
            format!("{text:?} is not an offset: a number of seconds, as an earlier answer gave it")
        };
        offset.map(Self).ok_or_else(|| Problem::bad_request("invalid_path", detail()))
    }
}

/// A member of the cluster in a path: its id.
pub(super) struct MemberPath(pub(super) NodeId);

impl<E: Env> FromRequestParts<Node<E>> for MemberPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, node: &Node<E>) -> Result<Self, Problem> {
        let text = path_text(parts, node).await?;
        let detail = || format!("{text:?} is not a node's id");
        text.parse().map(Self).map_err(|_| Problem::bad_request("invalid_path", detail()))
    }
}

async fn path_text<E: Env>(parts: &mut Parts, node: &Node<E>) -> Result<String, Problem> {
    let path = Path::<String>::from_request_parts(parts, node).await;
    path.map(|path| path.0).map_err(|error| Problem::bad_request("invalid_path", error.body_text()))
}
