//! What brokers and clients poll: all of the metadata, or what changed since they last looked.
//!
//! A poller sends the `offset` of the last answer it got. Its age in cluster time decides: up to ten
//! minutes gives the current image, more gives the complete metadata, and `?mode=diff` gives what changed
//! since, as long as that is known. The answer's own `offset` is the cluster time it was decided at, so
//! `offset − previous_offset` *is* the age, and every change after the answer has a later stamp.
//!
//! An offset that this history never issued gets the complete metadata, whatever its age. Examples
//! are an offset in milliseconds, one from the future, and one from before the cluster was founded.
//! Another is an offset of a leader whose writes are lost since a majority was restored from a
//! backup. The answer's `history` names the leadership that issued its `offset`. A poller that
//! sends it back as `?history=` also detects a cluster that was rebuilt on the same addresses.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::SizeAbove;

use self::pages::Pages;
use super::extract::{Freshness, OffsetPath, bad_query};
use super::problem::Problem;
use super::turns::Turns;
use crate::env::Env;
use crate::metadata::{
    Audience, Fields, HistoryId, InvalidHistoryId, SnapshotKind, Stamped, State as Metadata,
    Timestamp, snapshot_kind,
};
use crate::node::{Consistency, Node, REQUEST_DEADLINE};

mod pages;

/// Bytes of an answer that is not worth compressing.
const COMPRESSED_BYTES_MIN: u64 = 1_024;

/// gzip or zstd, as `Accept-Encoding` asks for. The fast levels: whoever polls a node of the same cluster has a fast link.
pub(super) fn compression() -> CompressionLayer<SizeAbove> {
    CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(COMPRESSED_BYTES_MIN))
}

#[derive(Deserialize)]
struct PollQuery {
    mode: Option<String>,
    history: Option<String>,
}

pub(super) async fn brokers<E: Env>(
    State(node): State<Node<E>>,
    Extension(turns): Extension<Turns>,
    OffsetPath(previous): OffsetPath,
    Freshness(consistency): Freshness,
    uri: Uri,
) -> Result<Response, Problem> {
    poll(&node, turns, previous, consistency, &uri, Audience::Broker).await
}

pub(super) async fn clients<E: Env>(
    State(node): State<Node<E>>,
    Extension(turns): Extension<Turns>,
    OffsetPath(previous): OffsetPath,
    Freshness(consistency): Freshness,
    uri: Uri,
) -> Result<Response, Problem> {
    poll(&node, turns, previous, consistency, &uri, Audience::Client).await
}

async fn poll<E: Env>(
    node: &Node<E>,
    turns: Turns,
    previous: Timestamp,
    consistency: Consistency,
    uri: &Uri,
    audience: Audience,
) -> Result<Response, Problem> {
    let PollQuery { mode, history } =
        Query::try_from_uri(uri).map_err(|error| bad_query(&error))?.0;
    let diff = match mode.as_deref() {
        None | Some("snapshot") => false,
        Some("diff") => true,
        Some(other) => {
            let detail = format!("mode is snapshot or diff, not {other:?}");
            return Err(Problem::bad_request("invalid_query", detail));
        }
    };
    let history = history.map(|history| {
        let invalid = |error: InvalidHistoryId| {
            Problem::bad_request("invalid_query", format!("history: {history:?}: {error}"))
        };
        history.parse::<HistoryId>().map_err(invalid)
    });
    let history = history.transpose()?;
    let agree = |one, other| snapshot_kind(one, previous) == snapshot_kind(other, previous);
    let image = node.read_at(consistency, REQUEST_DEADLINE, previous, agree).await?;
    let state = &image.state;
    let offset = state.last_stamp();
    let issued = state.has_issued(previous, history);
    let pages = match diff.then(|| state.diff_since(previous, audience)).filter(|_| issued) {
        Some(Some(diff)) => Pages::of_diff(offset, state.position(), diff),
        // Too long ago: it gets everything.
        Some(None) => snapshot(state, SnapshotKind::Complete, audience),
        None if !issued => snapshot(state, SnapshotKind::Complete, audience),
        None => snapshot(state, snapshot_kind(offset, previous), audience),
    };
    let pages = pages.map_err(|_| Problem::internal())?;
    Ok(json(pages.body(turns).await.map_err(|_| Problem::internal())?))
}

fn snapshot(
    state: &Metadata,
    kind: SnapshotKind,
    audience: Audience,
) -> Result<Pages, serde_json::Error> {
    let name = match kind {
        SnapshotKind::Current => "current",
        SnapshotKind::Complete => "complete",
    };
    Pages::of_image(name, state.last_stamp(), state.position(), &state.image(kind, audience))
}

/// Records of one kind, as `{"offset":…,"records":{NAME:[RECORD…]}}`.
#[derive(Serialize)]
pub(super) struct List<'a, R: Fields> {
    offset: Timestamp,
    records: std::collections::BTreeMap<&'static str, Vec<&'a Stamped<R>>>,
}

impl<'a, R: Fields> List<'a, R> {
    pub(super) fn of(
        offset: Timestamp,
        records: impl Iterator<Item = &'a Arc<Stamped<R>>>,
    ) -> Self {
        let records = records.map(AsRef::as_ref).collect();
        Self { offset, records: [(R::NAME, records)].into() }
    }

    pub(super) fn respond(&self) -> Result<Response, Problem> {
        respond(self)
    }
}

fn respond(answer: &impl Serialize) -> Result<Response, Problem> {
    let body = serde_json::to_vec(answer).map_err(|_| Problem::internal())?;
    Ok(json(body))
}

fn json(body: impl IntoResponse) -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], body).into_response()
}
