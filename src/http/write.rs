//! From a parsed request to the cluster's answer.

use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::problem::Problem;
use crate::env::Env;
use crate::metadata::{Change, IdempotencyKey};
use crate::node::{Node, REQUEST_DEADLINE};

/// The header that makes a retry safe (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The request's idempotency key. Its fingerprint covers the path and the body as JSON, not as bytes: a
/// client library that orders fields differently on a retry still retries the same request.
pub(super) fn idempotency_key(
    headers: &HeaderMap,
    path: &str,
    body: &Value,
) -> Result<Option<IdempotencyKey>, Problem> {
    let invalid = |detail: String| Problem::bad_request("invalid_idempotency_key", detail);
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    if keys.next().is_some() {
        return Err(invalid("send one Idempotency-Key".to_owned()));
    }
    let key = key.to_str().map_err(|_| invalid("an idempotency key must be ASCII".to_owned()))?;
    // serde_json's objects are ordered maps, so equal bodies give equal texts.
    let fingerprint = xxh3_64(format!("{path}\n{body}").as_bytes());
    IdempotencyKey::new(key, fingerprint).map(Some).map_err(|error| invalid(error.to_string()))
}

/// Makes `change` and answers with the record that it made.
pub(super) async fn commit<E: Env>(
    node: &Node<E>,
    change: Change,
    idempotency: Option<IdempotencyKey>,
    success: StatusCode,
) -> Result<Response, Problem> {
    let applied = node.propose(change, idempotency, REQUEST_DEADLINE).await?;
    let record = applied.outcome?.ok_or_else(Problem::internal)?;
    Ok((success, Json(record)).into_response())
}
