//! The answering side of a connection.
//!
//! Appends and snapshot chunks of one connection are handled in order; everything else side by side, up
//! to `CALLS_MAX` at once, past which reading stops and the caller feels it (backpressure).

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt, stream};
use openraft::AsyncRuntime;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteResponse};
use openraft_rt::Select3;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Semaphore, mpsc, watch};
use uuid::Uuid;

use super::frame;
use super::message::{Call, Hello, Request, Response, Return};
use super::pipeline::in_order;
use crate::env::{Env, Listener, rt};
use crate::raft::candidacy::{Candidacy, memberships};
use crate::raft::config::{PIPELINE_DEPTH_MAX, SNAPSHOT_BYTES_MAX, SNAPSHOT_CHUNK_DEADLINE};
use crate::raft::guard::Guard;
use crate::raft::observe::{Observer, Step};
use crate::raft::state_machine::NodeSnapshot;
use crate::raft::tally::Tally;
use crate::raft::types::{Ballot, EntryId, NodeId, Raft, SnapshotMeta, Term, TypeConfig};

/// Calls of one connection that are handled at once, appends aside.
const CALLS_MAX: usize = 1_024;

/// Answers that may wait to be written.
const ANSWERS_MAX: usize = CALLS_MAX + 2 * PIPELINE_DEPTH_MAX;

/// How long a caller may take to say who it is.
const HELLO_DEADLINE: std::time::Duration = std::time::Duration::from_secs(5);

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
    /// Judges what leaders send before its Raft sees it.
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

/// Accepts connections for ever. `handle` answers what is not Raft's own business.
pub async fn serve<E: Env, H, F>(listener: E::Listener, local: Local<E>, handle: H)
where
    H: Fn(Request<E>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<E>> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok(stream) => {
                drop(rt::spawn::<E, _>(connection(stream, local.clone(), handle.clone())));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a Raft connection");
                rt::sleep::<E>(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn connection<E: Env, H, F>(stream: E::Stream, local: Local<E>, handle: H)
where
    H: Fn(Request<E>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<E>> + Send + 'static,
{
    let (reader, writer) = tokio::io::split(stream);
    let (answers, outgoing) = mpsc::channel(ANSWERS_MAX);
    let (mut stop, sent) = (local.stop.clone(), local.sent.clone());
    let stopped = async move { drop(stop.wait_for(|stop| *stop).await.map(|_| ())) };
    let reading = read(BufReader::new(reader), local, handle, answers);
    match E::Runtime::select3(stopped, reading, write(writer, outgoing, sent)).await {
        Select3::Second(Err(error)) | Select3::Third(Err(error)) => {
            tracing::debug!(%error, "a Raft connection broke");
        }
        Select3::First(()) | Select3::Second(Ok(())) | Select3::Third(Ok(())) => {}
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
    local: Local<E>,
    handle: H,
    answers: mpsc::Sender<Return<E>>,
) -> io::Result<()>
where
    H: Fn(Request<E>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<E>> + Send + 'static,
{
    let hello = rt::timeout::<E, _>(HELLO_DEADLINE, frame::read::<Hello>(&mut stream)).await;
    let Some(hello) = hello.ok_or(io::ErrorKind::TimedOut)?? else {
        return Ok(());
    };
    let objection = objection(&hello, &local);
    let member = hello.cluster.is_some();
    let room = Arc::new(Semaphore::new(CALLS_MAX));
    let appends = append_lane(&local, answers.clone());
    let mut receiving = Receiving::<E>::default();

    loop {
        let next = frame::read::<Call<E>>(&mut stream);
        // Half a snapshot is not kept for a leader that may be gone.
        let next = match receiving.begun {
            Some(_) => rt::timeout::<E, _>(2 * SNAPSHOT_CHUNK_DEADLINE, next)
                .await
                .ok_or(io::ErrorKind::TimedOut)?,
            None => next.await,
        };
        let Some(Call { number, request }) = next? else { return Ok(()) };
        let refused = match (&objection, &request) {
            (Some(reason), _) => Some(Response::Misdirected(reason.clone())),
            (None, Request::Identify | Request::Join { .. }) => None,
            (None, _) if !member => {
                Some(Response::Refused("a node without a cluster may only join".to_owned()))
            }
            (None, _) => None,
        };
        let now = match (refused, request) {
            (Some(refused), _) => Some(refused),
            (None, Request::Append { request, acknowledged }) => {
                local.heard.note(request.vote.leader_id.term);
                if appends.send((number, request, acknowledged)).await.is_err() {
                    return Ok(());
                }
                None
            }
            (None, Request::SnapshotBegin { vote, meta, bytes }) => {
                Some(receiving.begin(&local, vote, *meta, bytes))
            }
            (None, Request::SnapshotChunk(chunk)) => Some(receiving.chunk(&chunk, &local).await),
            (None, request) => {
                let (local, handle, answers) = (local.clone(), handle.clone(), answers.clone());
                let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
                drop(rt::spawn::<E, _>(async move {
                    let response = answer(&local, handle, request).await;
                    // When the connection is gone, so is whoever asked.
                    drop(answers.send(Return { number, response }).await);
                    drop(permit);
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

/// Feeds appends to Raft in the order in which they came, many at a time, and their results to the caller.
///
/// Not openraft's `stream_append`, which ends with the first append that it refuses and drops those behind
/// it unanswered: the caller would wait out a deadline for every step of its search for the common prefix.
fn append_lane<E: Env>(
    local: &Local<E>,
    answers: mpsc::Sender<Return<E>>,
) -> mpsc::Sender<(u64, AppendEntriesRequest<TypeConfig<E>>, Option<EntryId>)> {
    let (sender, receiver) = mpsc::channel(PIPELINE_DEPTH_MAX);
    let queued = stream::unfold(receiver, |mut receiver: mpsc::Receiver<_>| async move {
        receiver.recv().await.map(|next| (next, receiver))
    });
    let local = local.clone();
    drop(rt::spawn::<E, _>(async move {
        let work =
            |(number, request, acknowledged)| append(local.clone(), number, request, acknowledged);
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

/// A snapshot on its way in.
struct Receiving<E: Env> {
    begun: Option<(Ballot, SnapshotMeta, u64)>,
    data: Vec<u8>,
    world: std::marker::PhantomData<fn() -> E>,
}

impl<E: Env> Default for Receiving<E> {
    fn default() -> Self {
        Self { begun: None, data: Vec::new(), world: std::marker::PhantomData }
    }
}

impl<E: Env> Receiving<E> {
    fn begin(
        &mut self,
        local: &Local<E>,
        vote: Ballot,
        meta: SnapshotMeta,
        bytes: u64,
    ) -> Response<E> {
        self.data = Vec::new();
        self.begun = None;
        if let Err(error) = local.guard.check_snapshot(&vote, &meta) {
            return Response::Unavailable(error.to_string());
        }
        if bytes == 0 || bytes > SNAPSHOT_BYTES_MAX {
            return Response::Refused(format!("a snapshot of {bytes} bytes"));
        }
        self.begun = Some((vote, meta, bytes));
        Response::SnapshotReceived
    }

    async fn chunk(&mut self, chunk: &[u8], local: &Local<E>) -> Response<E> {
        let Some((_, _, bytes)) = &self.begun else {
            return Response::Refused("a chunk of no snapshot".to_owned());
        };
        self.data.extend_from_slice(chunk);
        let received = self.data.len() as u64;
        if received < *bytes {
            return Response::SnapshotReceived;
        }
        if received > *bytes {
            self.begun = None;
            return Response::Refused("more bytes than the snapshot was to have".to_owned());
        }
        let Some((vote, meta, _)) = self.begun.take() else {
            return Response::Refused("a chunk of no snapshot".to_owned());
        };
        let snapshot = NodeSnapshot::<E> { meta, snapshot: std::mem::take(&mut self.data).into() };
        let mistakable =
            local.candidacy.is_mistakable([snapshot.meta.last_membership.membership()]);
        let raft = local.raft.clone();
        let installing = async move { raft.install_full_snapshot(vote, snapshot).await };
        let installed = local.candidacy.hand_over(mistakable, installing).await;
        match installed {
            Some(Ok(response)) => Response::SnapshotInstalled(SnapshotResponse::new(response.vote)),
            Some(Err(fatal)) => Response::Unavailable(fatal.to_string()),
            None => Response::Unavailable("the installation failed".to_owned()),
        }
    }
}
