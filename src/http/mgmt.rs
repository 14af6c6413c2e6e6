//! What brokers and clients poll: all of the metadata, or what changed since they last looked.
//!
//! A poller sends the `offset` of the last answer it got. Its age in cluster time decides: up to ten
//! minutes gives the current image, more gives the complete metadata, and `?mode=diff` gives what changed
//! since, as long as that is known. The answer's own `offset` is the cluster time it was decided at, so
//! `offset − previous_offset` *is* the age, and every change after the answer has a later stamp.

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
    Audience, Changes, Fields, SnapshotKind, Stamped, State as Metadata, Timestamp, snapshot_kind,
};
use crate::node::{Consistency, Node, REQUEST_DEADLINE};

mod pages;

/// Changes that a diff may have to be rendered in one turn.
const TURN_CHANGES_MAX: usize = 1_000;

/// Bytes of an answer that is not worth compressing.
const COMPRESSED_BYTES_MIN: u64 = 1_024;

/// gzip or zstd, as `Accept-Encoding` asks for. The fast levels: whoever polls a node of the same cluster has a fast link.
pub(super) fn compression() -> CompressionLayer<SizeAbove> {
    CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(COMPRESSED_BYTES_MIN))
}

#[derive(Deserialize)]
struct ModeQuery {
    mode: Option<String>,
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
    let diff = match Query::<ModeQuery>::try_from_uri(uri)
        .map_err(|error| bad_query(&error))?
        .0
        .mode
        .as_deref()
    {
        None | Some("snapshot") => false,
        Some("diff") => true,
        Some(other) => {
            let detail = format!("mode is snapshot or diff, not {other:?}");
            return Err(Problem::bad_request("invalid_query", detail));
        }
    };
    let image = node.read_with_time(consistency, REQUEST_DEADLINE).await?;
    let state = &image.state;
    let offset = state.last_stamp();
    if !diff {
        return respond_with(state, snapshot_kind(offset, previous), audience, turns).await;
    }
    let changes = if state.has_more_changes(previous, TURN_CHANGES_MAX) {
        // Longer than a turn: elsewhere.
        let image = Arc::clone(&image);
        let render = move || diff_of(&image.state, offset, previous, audience);
        node.env().blocking(render).await.map_err(|_| Problem::internal())?
    } else {
        turns.take(|| diff_of(state, offset, previous, audience)).await
    };
    match changes {
        Some(answer) => answer,
        None => respond_with(state, SnapshotKind::Complete, audience, turns).await,
    }
}

/// What changed since `previous`, unless that is too old to say.
fn diff_of(
    state: &Metadata,
    offset: Timestamp,
    previous: Timestamp,
    audience: Audience,
) -> Option<Result<Response, Problem>> {
    let changes = state.changes_since(previous, audience)?;
    Some(respond(&Diff::new(offset, &changes)))
}

/// Answers with a snapshot.
async fn respond_with(
    state: &Metadata,
    kind: SnapshotKind,
    audience: Audience,
    turns: Turns,
) -> Result<Response, Problem> {
    let name = match kind {
        SnapshotKind::Current => "current",
        SnapshotKind::Complete => "complete",
    };
    let pages = Pages::new(name, state.last_stamp(), &state.image(kind, audience));
    let pages = pages.map_err(|_| Problem::internal())?;
    Ok(json(pages.body(turns).await.map_err(|_| Problem::internal())?))
}

#[derive(Serialize)]
struct Diff<'a> {
    snapshot: &'static str,
    offset: Timestamp,
    upserted: std::collections::BTreeMap<&'static str, Vec<&'a crate::metadata::Record>>,
    deleted: std::collections::BTreeMap<&'static str, &'a [crate::metadata::DeletedBroker]>,
}

impl<'a> Diff<'a> {
    fn new(offset: Timestamp, changes: &'a Changes) -> Self {
        let name = crate::metadata::RegisterBrokerRecord::NAME;
        let deleted = (!changes.deleted.is_empty()).then_some((name, changes.deleted.as_slice()));
        Self {
            snapshot: "diff",
            offset,
            upserted: changes.upserted_by_name(),
            deleted: deleted.into_iter().collect(),
        }
    }
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
