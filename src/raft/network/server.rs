//! The answering side of a connection.
//!
//! Appends and snapshot chunks of one connection are handled in order; everything else side by side, up
//! to `CALLS_MAX` at once, past which reading stops and the caller feels it (backpressure).
//!
//! The memory that callers can take is bounded. There are at most
//! [`ConnectionLimits::raft`](crate::node::ConnectionLimits::raft) connections (see `entrance`).
//! With 128, the default, frames take at most 122 MiB (see `inbox`); of these, callers that have
//! not named this cluster take 288 KiB. One snapshot is extra (see `receiving`).

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt, stream};
use openraft::AsyncRuntime;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteResponse};
use openraft_rt::Select4;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use uuid::Uuid;

use super::entrance::{Admitted, Entrance, Guest};
use super::frame;
use super::inbox::{self, Incoming, Place, Room};
use super::message::{Call, Hello, Request, Response, Return};
use super::pipeline::in_order;
use super::receiving::{Receiving, Transfers};
use crate::env::{Env, Listener, rt};
use crate::quiet::Quiet;
use crate::raft::candidacy::{Candidacy, memberships};
use crate::raft::config::{PIPELINE_DEPTH_MAX, SNAPSHOT_CHUNK_DEADLINE};
use crate::raft::guard::Guard;
use crate::raft::observe::{Observer, Step};
use crate::raft::tally::Tally;
use crate::raft::types::{EntryId, NodeId, Raft, Term, TypeConfig};

/// Calls of one connection that are handled at once, appends aside.
const CALLS_MAX: usize = 1_024;

/// Answers that may wait to be written.
const ANSWERS_MAX: usize = CALLS_MAX + 2 * PIPELINE_DEPTH_MAX;

/// How long to wait after a failed accept: the usual cause is a lack of file descriptors.
const ACCEPT_BACKOFF: std::time::Duration = std::time::Duration::from_millis(50);

/// Who answers here.
pub struct Local<E: Env> {
    /// This node.
    pub node: NodeId,
    /// Its data directory.
    pub directory: Uuid,
    /// Its cluster.
    pub cluster: Uuid,
    /// When it last heard a leader.
    pub heard: LeaderHeard<E>,
    /// Its Raft.
    pub raft: Raft<E>,
    /// Judges the messages of leaders before its Raft sees them.
    pub guard: Guard<E>,
    /// Whether it may stand for election.
    pub candidacy: Candidacy<E>,
    /// Who is shown its votes, if anyone.
    pub observer: Option<Observer>,
    /// Receives the id of each other cluster that expects this node here, on another data directory.
    pub expected_by: watch::Sender<Option<Uuid>>,
    /// Counts its answers.
    pub sent: Tally,
    /// Turns true when it stops: no connection outlives that.
    pub stop: watch::Receiver<bool>,
}

impl<E: Env> Clone for Local<E> {
    fn clone(&self) -> Self {
        Self {
            raft: self.raft.clone(),
            candidacy: self.candidacy.clone(),
            guard: self.guard.clone(),
            heard: self.heard.clone(),
            stop: self.stop.clone(),
            sent: self.sent.clone(),
            expected_by: self.expected_by.clone(),
            observer: self.observer.clone(),
            ..*self
        }
    }
}

/// When, and of which term, a node last heard a leader. openraft holds on to the last leader until there
/// is a new one; whether it is still there shows here.
pub struct LeaderHeard<E: Env>(Arc<Mutex<Option<(Term, rt::Instant<E>)>>>);

impl<E: Env> Default for LeaderHeard<E> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<E: Env> Clone for LeaderHeard<E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<E: Env> LeaderHeard<E> {
    fn note(&self, term: Term) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A leader that was deposed may go on calling.
        if heard.is_none_or(|(known, _)| known <= term) {
            *heard = Some((term, rt::now::<E>()));
        }
    }

    /// When the leader of `term` was last heard, if that is the last leader that was.
    #[must_use]
    pub fn of(&self, term: Term) -> Option<rt::Instant<E>> {
        let heard = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.filter(|(of, _)| *of == term).map(|(_, at)| at)
    }
}

/// The state that the connections of a node share. Clones share it, too.
#[derive(Clone)]
struct Shared {
    entrance: Entrance,
    room: Room,
    transfers: Transfers,
}

/// Accepts up to `connections_max` connections, for ever. `handle` answers requests that are not
/// Raft's own business.
pub async fn serve<E: Env, H, F>(
    listener: E::Listener,
    connections_max: usize,
    local: Local<E>,
    handle: H,
) where
    H: Fn(Request<E>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<E>> + Send + 'static,
{
    let shared = Shared {
        entrance: Entrance::new(connections_max),
        room: Room::default(),
        transfers: Transfers::default(),
    };
    let (mut failures, mut evictions) = (Quiet::default(), Quiet::default());
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                let admitted = shared.entrance.admit();
                if admitted.has_evicted
                    && let Some(unwritten) = evictions.note(rt::now::<E>())
                {
                    tracing::warn!(%address, connections_max, unwritten, "too many strangers on the Raft port; the oldest is dropped");
                }
                let (local, shared, handle) = (local.clone(), shared.clone(), handle.clone());
                drop(rt::spawn::<E, _>(connection(stream, admitted, local, shared, handle)));
            }
            Err(error) => {
                if let Some(unwritten) = failures.note(rt::now::<E>()) {
                    tracing::warn!(%error, unwritten, "cannot accept a Raft connection; trying again");
                }
                rt::sleep::<E>(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn connection<E: Env, H, F>(
    stream: E::Stream,
    admitted: Admitted,
    local: Local<E>,
    shared: Shared,
    handle: H,
) where
    H: Fn(Request<E>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<E>> + Send + 'static,
{
    let (reader, writer) = tokio::io::split(stream);
    let (answers, outgoing) = mpsc::channel(ANSWERS_MAX);
    let (mut stop, sent) = (local.stop.clone(), local.sent.clone());
    let stopped = async move { drop(stop.wait_for(|stop| *stop).await.map(|_| ())) };
    let Admitted { guest, evicted, .. } = admitted;
    let evicted = until_evicted(evicted);
    let reading = read(BufReader::new(reader), guest, local, shared, handle, answers);
    let writing = write(writer, outgoing, sent);
    match E::Runtime::select4(stopped, evicted, reading, writing).await {
        Select4::Third(Err(error)) | Select4::Fourth(Err(error)) => {
            tracing::debug!(%error, "a Raft connection broke");
        }
        Select4::First(())
        | Select4::Second(())
        | Select4::Third(Ok(()))
        | Select4::Fourth(Ok(())) => {}
    }
}

/// Ends when a stranger has to make room. Never ends for a caller that becomes a member.
async fn until_evicted(evicted: oneshot::Receiver<()>) {
    if evicted.await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn write<E: Env>(
    mut stream: impl AsyncWrite + Unpin + Send,
    mut outgoing: mpsc::Receiver<Return<E>>,
    sent: Tally,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    while let Some(answer) = outgoing.recv().await {
        let mut next = Some(answer);
        while let Some(answer) = next {
            let frame = frame::encode(&answer)?;
            sent.add(frame.len());
            bytes.extend_from_slice(&frame);
            next = outgoing.try_recv().ok();
        }
        stream.write_all(&bytes).await?;
        stream.flush().await?;
        bytes.clear();
    }
    Ok(())
}

/// Why a caller that said `hello` is not answered, if it is not.
fn objection<E: Env>(hello: &Hello, local: &Local<E>) -> Option<String> {
    if let Some(cluster) = hello.expects_elsewhere(local.node, local.cluster) {
        local.expected_by.send_replace(Some(cluster));
    }
    match hello.to {
        Some((node, _)) if node != local.node => {
            return Some(format!("this is node {}, not node {node}", local.node));
        }
        // The member that the caller means had another disk: what it promised there, this node does not know.
        Some((node, directory)) if directory != local.directory => {
            return Some(format!(
                "this node {node} has another data directory than the member {node}"
            ));
        }
        _ => {}
    }
    match hello.cluster {
        Some(cluster) if cluster != local.cluster => {
            Some(format!("this node belongs to cluster {}, not to {cluster}", local.cluster))
        }
        _ => None,
    }
}

async fn read<E: Env, H, F>(
    mut stream: impl AsyncRead + Unpin + Send,
    mut guest: Guest,
    local: Local<E>,
    shared: Shared,
    handle: H,
    answers: mpsc::Sender<Return<E>>,
) -> io::Result<()>
where
    H: Fn(Request<E>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<E>> + Send + 'static,
{
    let Some(hello) = inbox::hello::<E>(&mut stream).await? else { return Ok(()) };
    let objection = objection(&hello, &local);
    let member = hello.cluster.is_some();
    let is_expected = member && objection.is_none();
    let is_trusted = is_expected && guest.promote();
    let room = Arc::new(Semaphore::new(CALLS_MAX));
    let appends = append_lane(&local, answers.clone());
    let mut receiving = Receiving::new(shared.transfers);

    loop {
        let next = inbox::call::<E>(&mut stream, is_trusted, &shared.room);
        // Half a snapshot is not kept for a leader that may be gone.
        let next = if receiving.is_begun() {
            rt::timeout::<E, _>(2 * SNAPSHOT_CHUNK_DEADLINE, next)
                .await
                .ok_or(io::ErrorKind::TimedOut)?
        } else {
            next.await
        };
        let (number, request, place) = match next? {
            None => return Ok(()),
            Some(Incoming::Call(Call { number, request }, place)) => (number, request, place),
            Some(Incoming::TooLong(number)) => {
                let reason = || "a caller that is no member sends short requests only".to_owned();
                let response = match &objection {
                    Some(reason) => Response::Misdirected(reason.clone()),
                    None if is_expected => Response::Unavailable(no_place()),
                    None => Response::Refused(reason()),
                };
                if answers.send(Return { number, response }).await.is_err() {
                    return Ok(());
                }
                continue;
            }
        };
        let refused = match (&objection, &request) {
            (Some(reason), _) => Some(Response::Misdirected(reason.clone())),
            (None, Request::Identify | Request::Join { .. }) => None,
            (None, _) if !member => {
                Some(Response::Refused("a node without a cluster may only join".to_owned()))
            }
            (None, _) if !is_trusted => Some(Response::Unavailable(no_place())),
            (None, _) => None,
        };
        let now = match (refused, request) {
            (Some(refused), _) => Some(refused),
            (None, Request::Append { request, acknowledged }) => {
                local.heard.note(request.vote.leader_id.term);
                if appends.send((number, request, acknowledged, place)).await.is_err() {
                    return Ok(());
                }
                None
            }
            (None, Request::SnapshotBegin { vote, meta, bytes }) => {
                Some(match local.guard.check_snapshot(&vote, &meta) {
                    Ok(()) => receiving.begin(vote, *meta, bytes),
                    Err(error) => Response::Unavailable(error.to_string()),
                })
            }
            (None, Request::SnapshotChunk(chunk)) => Some(receiving.chunk(&chunk, &local).await),
            (None, request) => {
                let (local, handle, answers) = (local.clone(), handle.clone(), answers.clone());
                let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
                drop(rt::spawn::<E, _>(async move {
                    let response = answer(&local, handle, request).await;
                    // When the connection is gone, so is whoever asked.
                    drop(answers.send(Return { number, response }).await);
                    drop((permit, place));
                }));
                None
            }
        };
        if let Some(response) = now
            && answers.send(Return { number, response }).await.is_err()
        {
            return Ok(());
        }
    }
}

async fn answer<E: Env, H, F>(local: &Local<E>, handle: H, request: Request<E>) -> Response<E>
where
    H: Fn(Request<E>) -> F,
    F: Future<Output = Response<E>>,
{
    let stopped = |error: &dyn std::fmt::Display| Response::Unavailable(error.to_string());
    let Local { raft, observer, .. } = local;
    let voted = |pre: bool, response: VoteResponse<TypeConfig<E>>| {
        let VoteResponse { vote, vote_granted: granted, .. } = response;
        Observer::show(observer.as_ref(), Step::VoteAnswered { vote, granted, pre });
        Response::Vote(response)
    };
    let is_ballot =
        matches!(request, Request::Vote(_) | Request::PreVote(_) | Request::TransferLeader(_));
    if is_ballot && local.candidacy.is_in_doubt() {
        return Response::Unavailable(format!(
            "node {} does not vote yet: another process may be this node",
            local.node
        ));
    }
    match request {
        Request::Vote(request) => {
            raft.vote(request).await.map_or_else(|e| stopped(&e), |answer| voted(false, answer))
        }
        Request::PreVote(request) => {
            raft.pre_vote(request).await.map_or_else(|e| stopped(&e), |answer| voted(true, answer))
        }
        Request::TransferLeader(request) => raft
            .handle_transfer_leader(request)
            .await
            .map_or_else(|e| stopped(&e), Response::TransferLeader),
        other => handle(other).await,
    }
}

fn no_place() -> String {
    "this node holds as many connections of members as it may".to_owned()
}

/// Feeds appends to Raft in the order in which they came, many at a time, and their results to the caller.
///
/// Not openraft's `stream_append`, which ends with the first append that it refuses and drops those behind
/// it unanswered: the caller would wait out a deadline for every step of its search for the common prefix.
fn append_lane<E: Env>(
    local: &Local<E>,
    answers: mpsc::Sender<Return<E>>,
) -> mpsc::Sender<(u64, AppendEntriesRequest<TypeConfig<E>>, Option<EntryId>, Place)> {
    let (sender, receiver) = mpsc::channel(PIPELINE_DEPTH_MAX);
    let queued = stream::unfold(receiver, |mut receiver: mpsc::Receiver<_>| async move {
        receiver.recv().await.map(|next| (next, receiver))
    });
    let local = local.clone();
    drop(rt::spawn::<E, _>(async move {
        let work = |(number, request, acknowledged, place)| {
            let appending = append(local.clone(), number, request, acknowledged);
            async move {
                let result = appending.await;
                drop(place);
                result
            }
        };
        let mut results = std::pin::pin!(in_order(queued, PIPELINE_DEPTH_MAX, work));
        while let Some(result) = results.next().await {
            if answers.send(result).await.is_err() {
                return;
            }
        }
    }));
    sender
}

async fn append<E: Env>(
    local: Local<E>,
    number: u64,
    request: AppendEntriesRequest<TypeConfig<E>>,
    acknowledged: Option<EntryId>,
) -> Return<E> {
    if let Err(error) = local.guard.check_append(&request, acknowledged) {
        return Return { number, response: Response::Unavailable(error.to_string()) };
    }
    let Local { raft, candidacy, .. } = local;
    let previous = request.prev_log_id;
    let last = request.entries.last().map(|entry| entry.log_id).or(previous);
    let mistakable = candidacy.is_mistakable(memberships(&request.entries));
    let appending = async move { raft.append_entries(request).await };
    let appended = candidacy.hand_over(mistakable, appending).await;
    let response = match appended {
        // openraft turns a conflict into the position it is at, which is where the request began.
        Some(Ok(AppendEntriesResponse::Conflict)) if previous.is_none() => {
            Response::Unavailable("a conflict before the first entry".to_owned())
        }
        Some(Ok(response)) => Response::Append(response.into_stream_result(previous, last)),
        Some(Err(fatal)) => Response::Unavailable(fatal.to_string()),
        None => Response::Unavailable("the append failed".to_owned()),
    };
    Return { number, response }
}
