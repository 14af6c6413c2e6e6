//! What openraft sends through: a [`PeerClient`] for each peer and purpose.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, stream};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AsyncRuntime, OptionalSend};
use uuid::Uuid;

use super::client::{CallError, Channel, Target};
use super::health::Health;
use super::linger::{Wanted, without_superfluous};
use super::message::{Request, Response};
use super::moves::Moves;
use super::names::Names;
use crate::env::{Env, rt};
use crate::raft::config::{
    APPEND_DEADLINE, COMMIT_LINGER, PIPELINE_DEPTH_MAX, SNAPSHOT_CHUNK_DEADLINE,
    SNAPSHOT_INSTALL_DEADLINE,
};
use crate::raft::observe::Observer;
use crate::raft::state_machine::NodeSnapshot;
use crate::raft::storage::SnapshotData;
use crate::raft::tally::Tally;
use crate::raft::types::{Ballot, EntryId, NodeId, Peer, TypeConfig};

/// How often a peer that installs a snapshot is asked something, to see whether the connection still is one.
const NUDGE_INTERVAL: Duration = Duration::from_secs(1);

type Rpc<E> = RPCError<TypeConfig<E>>;

/// Makes [`PeerClient`]s, and shares one control channel a peer among them and the node.
///
/// openraft makes a client when a node becomes a member, and keeps it when the node moves: its address is then
/// another in the membership, but its log is the same. So clients look up where their peer is before they send.
pub struct Network<E: Env> {
    names: Names<E>,
    health: Health<E>,
    id: NodeId,
    cluster: Uuid,
    snapshot_chunk_bytes: usize,
    observer: Option<Observer>,
    sent: Tally,
    wanted: Wanted,
    control: Arc<Mutex<BTreeMap<NodeId, Control<E>>>>,
    /// The last entry that each node has acknowledged, and to which leadership, by data directory.
    acknowledged: Arc<Mutex<BTreeMap<Uuid, (Ballot, EntryId)>>>,
    /// Whether this node sends no appends, so that its followers elect another leader.
    silent: Arc<AtomicBool>,
    moves: Moves,
}

/// The control channel to one peer.
struct Control<E: Env> {
    /// Where the membership has the peer.
    recorded: Peer,
    /// Where the channel leads.
    peer: Peer,
    channel: Channel<E>,
}

impl<E: Env> Clone for Network<E> {
    fn clone(&self) -> Self {
        Self {
            names: self.names.clone(),
            health: self.health.clone(),
            observer: self.observer.clone(),
            sent: self.sent.clone(),
            wanted: self.wanted.clone(),
            control: Arc::clone(&self.control),
            acknowledged: Arc::clone(&self.acknowledged),
            silent: Arc::clone(&self.silent),
            moves: self.moves.clone(),
            ..*self
        }
    }
}

impl<E: Env> Network<E> {
    /// The network of node `id` of `cluster`.
    #[must_use]
    pub fn new(
        names: Names<E>,
        id: NodeId,
        cluster: Uuid,
        snapshot_chunk_bytes: usize,
        observer: Option<Observer>,
    ) -> Self {
        let moves = Moves::default();
        let health = Health::new(names.env().clone(), moves.clone());
        Self {
            names,
            health,
            id,
            cluster,
            snapshot_chunk_bytes,
            observer,
            sent: Tally::default(),
            wanted: Wanted::default(),
            control: Arc::default(),
            acknowledged: Arc::default(),
            silent: Arc::default(),
            moves,
        }
    }

    /// Stops the appends of this node if `silent`, and resumes them otherwise. Followers of a
    /// leader that is silent for longer than an election timeout elect another.
    pub fn be_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    /// The last entry that the node with this `directory` has acknowledged to the leadership
    /// `vote`.
    fn acknowledged(&self, directory: Uuid, vote: &Ballot) -> Option<EntryId> {
        let acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        acknowledged.get(&directory).filter(|(to, _)| to == vote).map(|(_, id)| *id)
    }

    fn note_acknowledged(&self, directory: Uuid, vote: Ballot, id: EntryId) {
        let mut acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let known = acknowledged.entry(directory).or_insert((vote, id));
        *known = (vote, if known.0 == vote { known.1.max(id) } else { id });
    }

    /// Member `node`, which the membership has at `recorded`, was seen at `actual`. It is called
    /// there from now on, until the membership names another place or a call fails there: see
    /// `moves`.
    pub fn note_move(&self, node: NodeId, recorded: &Peer, actual: &Peer) {
        self.moves.note(node, recorded, actual);
        drop(self.control(node, recorded));
    }

    /// The place at which `node` is called. The membership has it at `peer`.
    #[must_use]
    pub fn actual(&self, node: NodeId, peer: &Peer) -> Peer {
        self.moves.actual(node, peer)
    }

    /// Which peers answer.
    #[must_use]
    pub fn health(&self) -> &Health<E> {
        &self.health
    }

    /// The frames sent to peers, questions and answers.
    #[must_use]
    pub fn sent(&self) -> &Tally {
        &self.sent
    }

    /// Tells followers at once, when this node leads, that all up to `index` is committed: somebody waits there.
    pub fn announce_commit(&self, index: u64) {
        self.wanted.raise(index);
    }

    /// The channel for everything that is not bulk: votes, forwarded requests, read indices.
    ///
    /// To ask for it is to tell where the node is: clients that were made before go there from now on.
    pub fn control(&self, node: NodeId, peer: &Peer) -> Channel<E> {
        let mut controls = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let control = controls.entry(node).or_insert_with(|| Control {
            recorded: peer.clone(),
            peer: peer.clone(),
            channel: self.channel(node, peer),
        });
        if control.recorded != *peer {
            control.recorded = peer.clone();
        }
        self.lead(control, node, self.actual(node, peer));
        control.channel.clone()
    }

    /// The place at which `node` is called, and its control channel.
    fn known(&self, node: NodeId) -> Option<(Peer, Channel<E>)> {
        let mut controls = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let control = controls.get_mut(&node)?;
        if control.peer != control.recorded {
            let actual = self.actual(node, &control.recorded);
            self.lead(control, node, actual);
        }
        Some((control.peer.clone(), control.channel.clone()))
    }

    /// Leads the channel to `peer`, if it leads elsewhere.
    fn lead(&self, control: &mut Control<E>, node: NodeId, peer: Peer) {
        if control.peer != peer {
            control.channel = self.channel(node, &peer);
            control.peer = peer;
        }
    }

    fn channel(&self, node: NodeId, peer: &Peer) -> Channel<E> {
        let target = Target {
            addr: peer.raft.clone(),
            member: Some((node, peer.directory)),
            cluster: Some(self.cluster),
        };
        let channel = Channel::new(self.names.clone(), target).counted(self.sent.clone());
        channel.observed(self.observer.clone()).reporting(self.health.peer(node))
    }
}

impl<E: Env> RaftNetworkFactory<TypeConfig<E>> for Network<E> {
    type Network = PeerClient<E>;

    // Each client has a bulk channel of its own, so that neither a snapshot nor a full replication
    // pipeline is ahead of a heartbeat. openraft asks for one client a purpose.
    async fn new_client(&mut self, target: NodeId, peer: &Peer) -> PeerClient<E> {
        let control = self.control(target, peer);
        let peer = self.actual(target, peer);
        let bulk = self.channel(target, &peer);
        PeerClient { network: self.clone(), target, peer, bulk, control }
    }
}

/// Sends openraft's messages to one peer.
pub struct PeerClient<E: Env> {
    network: Network<E>,
    target: NodeId,
    peer: Peer,
    bulk: Channel<E>,
    control: Channel<E>,
}

impl<E: Env> PeerClient<E> {
    /// Goes where the peer is now.
    fn follow(&mut self) {
        if let Some((peer, control)) = self.network.known(self.target)
            && peer != self.peer
        {
            self.bulk = self.network.channel(self.target, &peer);
            self.control = control;
            self.peer = peer;
        }
    }

    /// The call that carries `request`.
    fn append(&self, request: AppendEntriesRequest<TypeConfig<E>>) -> Request<E> {
        let acknowledged = self.network.acknowledged(self.peer.directory, &request.vote);
        Request::Append { request, acknowledged }
    }

    /// Notes the entry that the peer has acknowledged to the leadership `vote`.
    fn note(&self, vote: Ballot, result: &StreamAppendResult<TypeConfig<E>>) {
        if let Ok(Some(id)) = result {
            self.network.note_acknowledged(self.peer.directory, vote, *id);
        }
    }

    fn check_silence(&self) -> Result<(), Rpc<E>> {
        if self.network.silent.load(Ordering::Relaxed) {
            let error = io::Error::other("this leader is silent, for another to be elected");
            return Err(Unreachable::new(&error).into());
        }
        Ok(())
    }

    fn error(&self, error: CallError, action: RPCTypes, timeout: Duration) -> Rpc<E> {
        match error {
            // openraft backs off from an unreachable peer, and retries a merely failed one at once.
            CallError::NotSent(error) => Unreachable::new(&error).into(),
            CallError::Lost(error) => NetworkError::new(&error).into(),
            CallError::Timeout => {
                Timeout { action, id: self.network.id, target: self.target, timeout }.into()
            }
        }
    }

    async fn vote_call(
        &mut self,
        request: Request<E>,
        option: &RPCOption,
    ) -> Result<VoteResponse<TypeConfig<E>>, Rpc<E>> {
        self.follow();
        let limit = option.soft_ttl();
        let answer = self.control.call(request, limit).await;
        match answer.map_err(|error| self.error(error, RPCTypes::Vote, limit))? {
            Response::Vote(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    async fn send_snapshot(
        &self,
        vote: Ballot,
        snapshot: NodeSnapshot<E>,
    ) -> Result<SnapshotResponse<TypeConfig<E>>, Rpc<E>> {
        let wrap = |error, limit| self.error(error, RPCTypes::InstallSnapshot, limit);
        let mut data = snapshot.snapshot;
        let mut left = data.len();
        let begin = Request::SnapshotBegin { vote, meta: Box::new(snapshot.meta), bytes: left };
        let mut answer = self.bulk.call(begin, SNAPSHOT_CHUNK_DEADLINE).await;
        loop {
            match answer.map_err(|error| wrap(error, SNAPSHOT_CHUNK_DEADLINE))? {
                Response::SnapshotInstalled(response) => return Ok(response),
                Response::SnapshotReceived => {}
                other => return Err(unexpected(&other)),
            }
            // openraft will have the snapshot sent again, and asks the state machine for it first, which stops the node
            // if it cannot be read.
            let chunk = data.take(self.network.snapshot_chunk_bytes).await;
            let chunk = chunk.map_err(|error| {
                tracing::error!(%error, "a snapshot cannot be read");
                Unreachable::new(&error)
            })?;
            if chunk.is_empty() {
                return Err(NetworkError::<TypeConfig<E>>::from_string(
                    "the peer wants more than there is",
                )
                .into());
            }
            left = left.saturating_sub(chunk.len() as u64);
            // `begin`, not `call`: a chunk means nothing on a new connection.
            let limit = if left == 0 { SNAPSHOT_INSTALL_DEADLINE } else { SNAPSHOT_CHUNK_DEADLINE };
            let chunk = self.bulk.begin(Request::SnapshotChunk(chunk.to_vec()), limit);
            answer = self.nudging(chunk, limit).await;
        }
    }

    /// Waits for `answer`, and puts a small question on the same connection every so often. An installation may take
    /// long; if the peer lost power meanwhile and is back, it answers what it is sent with a reset, and what it is not
    /// sent not at all: the leader would wait for the whole `limit`. (Found by simulation: swarm, seed 2000128.)
    async fn nudging<T: Send>(&self, answer: impl Future<Output = T> + Send, limit: Duration) -> T {
        let mut answer = Box::pin(answer);
        loop {
            let pause = Box::pin(rt::sleep::<E>(NUDGE_INTERVAL));
            match E::Runtime::select2(answer.as_mut(), pause).await {
                openraft_rt::Select2::First(answer) => return answer,
                // Whether it is answered, and what, does not matter.
                openraft_rt::Select2::Second(()) => {
                    drop(self.bulk.begin(Request::Identify, limit));
                }
            }
        }
    }
}

fn unexpected<E: Env>(response: &Response<E>) -> Rpc<E> {
    let error = match response {
        Response::Refused(reason)
        | Response::Unavailable(reason)
        | Response::Misdirected(reason) => io::Error::other(reason.clone()),
        other => {
            io::Error::new(io::ErrorKind::InvalidData, format!("unexpected answer: {other:?}"))
        }
    };
    // A peer that answers nonsense is no better than one that does not answer: back off.
    Unreachable::new(&error).into()
}

impl<E: Env> RaftNetworkV2<TypeConfig<E>> for PeerClient<E> {
    type SnapshotData = SnapshotData<E>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig<E>>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig<E>>, Rpc<E>> {
        self.check_silence()?;
        self.follow();
        let vote = rpc.vote;
        let answer = self.bulk.call(self.append(rpc), APPEND_DEADLINE).await;
        match answer.map_err(|error| self.error(error, RPCTypes::AppendEntries, APPEND_DEADLINE))? {
            Response::Append(result) => {
                self.note(vote, &result);
                Ok(result.into())
            }
            other => Err(unexpected(&other)),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig<E>>, Rpc<E>>>, Rpc<E>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig<E>>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            // openraft sleeps off its backoff where it makes the first request: connecting before there is
            // one would try a dead peer again and again without a pause.
            let mut input = input.peekable();
            if Pin::new(&mut input).peek().await.is_none() {
                let nothing: BoxStream<'s, _> = Box::pin(stream::empty());
                return Ok(nothing);
            }
            self.check_silence()?;
            self.follow();
            let connected = self.bulk.connect(APPEND_DEADLINE).await;
            connected
                .map_err(|error| self.error(error, RPCTypes::AppendEntries, APPEND_DEADLINE))?;
            let peer = &*self;
            let answers = without_superfluous::<E, _>(input, &self.network.wanted, COMMIT_LINGER)
                // `begin` queues the request here and now, so requests leave in order although their
                // answers are awaited side by side. It never reconnects: a request must not overtake
                // one that was lost with the connection before it.
                .map(move |request| {
                    let vote = request.vote;
                    let spoken = peer.check_silence();
                    let begun =
                        spoken.map(|()| peer.bulk.begin(peer.append(request), APPEND_DEADLINE));
                    async move {
                        let answer = match begun {
                            Ok(answer) => answer.await.map_err(|error| {
                                peer.error(error, RPCTypes::AppendEntries, APPEND_DEADLINE)
                            }),
                            Err(silent) => Err(silent),
                        };
                        (vote, answer)
                    }
                })
                .buffered(PIPELINE_DEPTH_MAX)
                .map(move |(vote, answer)| match answer? {
                    Response::Append(result) => {
                        peer.note(vote, &result);
                        Ok(result)
                    }
                    other => Err(unexpected(&other)),
                });
            let answers: BoxStream<'s, _> = Box::pin(answers);
            Ok(answers)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig<E>>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig<E>>, Rpc<E>> {
        self.vote_call(Request::Vote(rpc), &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig<E>>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig<E>>, Rpc<E>> {
        self.vote_call(Request::PreVote(rpc), &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Ballot,
        snapshot: NodeSnapshot<E>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig<E>>, StreamingError<TypeConfig<E>>> {
        self.follow();
        match E::Runtime::select2(Box::pin(cancel), Box::pin(self.send_snapshot(vote, snapshot)))
            .await
        {
            openraft_rt::Select2::First(closed) => Err(StreamingError::Closed(closed)),
            openraft_rt::Select2::Second(result) => result.map_err(StreamingError::from),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig<E>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig<E>>, Rpc<E>> {
        self.follow();
        let limit = option.soft_ttl();
        let answer = self.control.call(Request::TransferLeader(request), limit).await;
        match answer.map_err(|error| self.error(error, RPCTypes::TransferLeader, limit))? {
            Response::TransferLeader(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }
}
