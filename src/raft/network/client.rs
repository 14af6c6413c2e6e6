//! The calling side of a connection: many calls at once, one connection, opened when needed.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft_rt::Select4;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use super::frame;
use super::health::PeerHealth;
use super::message::{Call, Hello, Request, Response, Return};
use super::names::{Failure, Names};
use crate::env::{Env, rt};
use crate::raft::config::{CONNECT_DEADLINE, FRAME_BYTES_MAX};
use crate::raft::observe::{Message, Observer, Step};
use crate::raft::tally::Tally;
use crate::raft::types::NodeId;

/// Frames that may wait to be written. Callers' own windows keep far below it.
const QUEUE_FRAMES_MAX: usize = 8_192;

/// Least time between two attempts to connect to a peer that refuses. Callers in between get the reason of
/// the last failure: a thousand requests that wait for a leader must not knock a thousand times each.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// How often a connection is looked at for signs of death.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Bytes gathered into one write.
const WRITE_BYTES_MAX: usize = 256 << 10;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The peer never saw it: there was no connection.
    #[error("not connected: {0}")]
    NotSent(io::Error),
    /// The peer may have seen it and may act on it.
    #[error("no answer: {0}")]
    Lost(io::Error),
    /// The deadline passed. The peer may have seen it and may act on it.
    #[error("no answer in time")]
    Timeout,
}

/// Whom a channel calls.
#[derive(Clone, Debug)]
pub struct Target {
    /// `HOST:PORT`.
    pub addr: String,
    /// The node that should be there, and its data directory, if known.
    pub member: Option<(NodeId, Uuid)>,
    /// The caller's cluster, once it has one.
    pub cluster: Option<Uuid>,
}

/// A connection to one peer, made when first needed and again after it broke.
///
/// Clones share it. Calls are written in the order in which [`begin`](Self::begin) was called.
pub struct Channel<E: Env> {
    names: Names<E>,
    target: Arc<Target>,
    slot: Arc<Mutex<Option<Link<E>>>>,
    last_attempt: Arc<Mutex<Option<Attempt<E>>>>,
    observer: Option<Observer>,
    health: Option<PeerHealth<E>>,
    sent: Tally,
}

/// Yields how and when an attempt to connect ended.
type Attempt<E> = watch::Receiver<Option<(Result<(), Failure>, rt::Instant<E>)>>;

fn timed_out(limit: Duration) -> Failure {
    Failure::new(io::ErrorKind::TimedOut, format!("no connection in {limit:?}"))
}

impl<E: Env> Clone for Channel<E> {
    fn clone(&self) -> Self {
        Self {
            names: self.names.clone(),
            target: Arc::clone(&self.target),
            slot: Arc::clone(&self.slot),
            last_attempt: Arc::clone(&self.last_attempt),
            observer: self.observer.clone(),
            health: self.health.clone(),
            sent: self.sent.clone(),
        }
    }
}

impl<E: Env> std::fmt::Debug for Channel<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Channel").field(&self.target).finish()
    }
}

/// One connection. Its task ends when it breaks, or when the last clone of this is dropped.
struct Link<E: Env> {
    frames: mpsc::Sender<Vec<u8>>,
    calls: Arc<Mutex<Calls<E>>>,
    closer: Arc<oneshot::Sender<()>>,
}

impl<E: Env> Clone for Link<E> {
    fn clone(&self) -> Self {
        Self {
            frames: self.frames.clone(),
            calls: Arc::clone(&self.calls),
            closer: Arc::clone(&self.closer),
        }
    }
}

/// The calls that wait for an answer; `None` once the connection broke.
struct Calls<E: Env> {
    next: u64,
    waiting: Option<BTreeMap<u64, Waiting<E>>>,
    /// When the last answer came.
    heard: rt::Instant<E>,
    /// Whether any answer came on this connection.
    answered: bool,
}

/// A call that has no answer yet.
struct Waiting<E: Env> {
    answer: oneshot::Sender<Response<E>>,
    begun: rt::Instant<E>,
    limit: Duration,
}

impl<E: Env> Calls<E> {
    /// Whether a call is overdue and nothing at all has come since it was made: the peer is gone, or the
    /// connection is half open. A peer that answers others is merely slow with this one.
    fn is_dead(&self) -> bool {
        let now = rt::now::<E>();
        let mut waiting = self.waiting.iter().flat_map(BTreeMap::values);
        waiting.any(|call| now - call.begun > call.limit && self.heard <= call.begun)
    }

    /// Whether the connection ended with calls that wait, and never carried an answer: the peer
    /// accepts connections and does not serve them.
    fn is_fruitless(&self) -> bool {
        !self.answered && self.waiting.as_ref().is_some_and(|waiting| !waiting.is_empty())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<E: Env> Channel<E> {
    /// A channel to `target`. Nothing is opened yet.
    #[must_use]
    pub fn new(names: Names<E>, target: Target) -> Self {
        Self {
            names,
            target: Arc::new(target),
            slot: Arc::default(),
            last_attempt: Arc::default(),
            observer: None,
            health: None,
            sent: Tally::default(),
        }
    }

    /// The same channel, whose messages `observer` is shown.
    #[must_use]
    pub fn observed(self, observer: Option<Observer>) -> Self {
        Self { observer, ..self }
    }

    /// The same channel, whose frames are counted in `sent`.
    #[must_use]
    pub fn counted(self, sent: Tally) -> Self {
        Self { sent, ..self }
    }

    /// The same channel, which notes in `health` whether the peer answers.
    #[must_use]
    pub fn reporting(self, health: PeerHealth<E>) -> Self {
        Self { health: Some(health), ..self }
    }

    /// Calls the peer and waits for the answer, at most `limit` in all.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn call(
        &self,
        request: Request<E>,
        limit: Duration,
    ) -> Result<Response<E>, CallError> {
        let started = rt::now::<E>();
        self.connect(limit).await?;
        let left = limit.saturating_sub(rt::now::<E>() - started);
        self.begin(request, left).await
    }

    /// Makes sure that there is a connection.
    ///
    /// # Errors
    ///
    /// [`CallError::NotSent`] when there is none within `limit`.
    pub async fn connect(&self, limit: Duration) -> Result<(), CallError> {
        if self.live().is_some() {
            return Ok(());
        }
        let mut attempt = self.attempt();
        let ended = attempt.wait_for(Option::is_some);
        let connected = match rt::timeout::<E, _>(limit, ended).await {
            Some(Ok(ended)) => ended.as_ref().map_or(Ok(()), |(result, _)| result.clone()),
            // The attempt panicked, or its process has ended.
            Some(Err(_)) => Err(io::Error::from(io::ErrorKind::NotConnected).into()),
            None => Err(timed_out(limit)),
        };
        if let (Some(health), Err(failure)) = (&self.health, &connected) {
            health.failed(&self.target.addr, failure.message());
        }
        connected.map_err(|failure| CallError::NotSent(failure.into()))
    }

    /// The attempt to connect that is under way, or the last one if it failed just now, or a new one.
    ///
    /// It goes on when its callers give up: over a slow link, callers with short deadlines would begin one
    /// attempt after the other and never see the end of any.
    fn attempt(&self) -> Attempt<E> {
        let mut last = lock(&self.last_attempt);
        if let Some(attempt) = last.as_ref().filter(|attempt| is_valid::<E>(attempt)) {
            return attempt.clone();
        }
        let (sender, attempt) = watch::channel(None);
        *last = Some(attempt.clone());
        drop(last);
        let channel = self.clone();
        drop(rt::spawn::<E, _>(async move {
            let opened = channel.open_connection().await;
            sender.send_replace(Some((opened, rt::now::<E>())));
        }));
        attempt
    }

    async fn open_connection(&self) -> Result<(), Failure> {
        let connecting = self.names.connect(&self.target.addr);
        let connected = rt::timeout::<E, _>(CONNECT_DEADLINE, connecting).await;
        let stream = connected.ok_or_else(|| timed_out(CONNECT_DEADLINE))??;
        let hello = Hello { cluster: self.target.cluster, to: self.target.member };
        self.open(stream, frame::encode(&hello)?);
        Ok(())
    }

    /// Queues a call on the present connection at once, and returns what waits for its answer.
    pub fn begin(
        &self,
        request: Request<E>,
        limit: Duration,
    ) -> impl Future<Output = Result<Response<E>, CallError>> + Send + use<E> {
        let observing = self.observing(&request);
        let queued = self.enqueue(request, limit);
        async move {
            let answer = queued?;
            let answer = match rt::timeout::<E, _>(limit, answer).await {
                Some(Ok(response)) => Ok(response),
                Some(Err(_)) => Err(CallError::Lost(io::ErrorKind::ConnectionReset.into())),
                None => Err(CallError::Timeout),
            };
            if let Some((observer, number, peer, kind)) = observing {
                let what: &dyn std::fmt::Display = match &answer {
                    Ok(response) => response,
                    Err(error) => error,
                };
                let message = Message { number, peer, kind, what };
                Observer::show(Some(&observer), Step::Heard(message));
            }
            answer
        }
    }

    /// Shows `request` to the observer, if there is one, and returns what it takes to show the answer too.
    fn observing(&self, request: &Request<E>) -> Option<(Observer, u64, NodeId, &'static str)> {
        let (observer, (peer, _)) = (self.observer.clone()?, self.target.member?);
        let (number, kind) = (rt::random::<E>(), request.kind());
        let message = Message { number, peer, kind, what: request };
        Observer::show(Some(&observer), Step::Sent(message));
        Some((observer, number, peer, kind))
    }

    fn enqueue(
        &self,
        request: Request<E>,
        limit: Duration,
    ) -> Result<oneshot::Receiver<Response<E>>, CallError> {
        let not_sent = |kind: io::ErrorKind| CallError::NotSent(kind.into());
        let link = self.live().ok_or_else(|| not_sent(io::ErrorKind::NotConnected))?;
        // Hold the lock over the queueing, so that frames are queued in the order of their numbers.
        let mut calls = lock(&link.calls);
        let number = calls.next;
        let frame = frame::encode(&Call { number, request }).map_err(CallError::NotSent)?;
        let (answer, answered) = oneshot::channel();
        calls
            .waiting
            .as_mut()
            .ok_or_else(|| not_sent(io::ErrorKind::NotConnected))?
            .insert(number, Waiting { answer, begun: rt::now::<E>(), limit });
        calls.next += 1;
        if link.frames.try_send(frame).is_err() {
            if let Some(waiting) = calls.waiting.as_mut() {
                waiting.remove(&number);
            }
            return Err(not_sent(io::ErrorKind::WouldBlock));
        }
        Ok(answered)
    }

    /// How many calls wait for their answer; `None` when there is no connection.
    #[must_use]
    pub fn waiting(&self) -> Option<usize> {
        let link = lock(&self.slot).clone()?;
        let calls = lock(&link.calls);
        calls.waiting.as_ref().map(BTreeMap::len)
    }

    fn live(&self) -> Option<Link<E>> {
        let link = lock(&self.slot).clone()?;
        let alive = lock(&link.calls).waiting.is_some();
        alive.then_some(link)
    }

    fn open(&self, stream: E::Stream, hello: Vec<u8>) {
        let (frames, queue) = mpsc::channel(QUEUE_FRAMES_MAX);
        let (closer, closed) = oneshot::channel();
        let calls = Arc::new(Mutex::new(Calls {
            next: 0,
            waiting: Some(BTreeMap::new()),
            heard: rt::now::<E>(),
            answered: false,
        }));
        let writing = Writing { hello, queue, sent: self.sent.clone() };
        let report = Report { addr: self.target.addr.clone(), health: self.health.clone() };
        drop(rt::spawn::<E, _>(run(stream, writing, Arc::clone(&calls), closed, report)));
        let mut slot = lock(&self.slot);
        *slot = Some(Link { frames, calls, closer: Arc::new(closer) });
    }
}

/// Whether a new caller shares `attempt`: it is under way, or has failed a moment ago. An attempt
/// whose task panicked yields nothing any more.
fn is_valid<E: Env>(attempt: &Attempt<E>) -> bool {
    match &*attempt.borrow() {
        None => attempt.has_changed().is_ok(),
        Some((Err(_), at)) => rt::now::<E>() - *at < RECONNECT_PAUSE,
        Some((Ok(()), _)) => false,
    }
}

/// Runs a connection until it breaks or its last [`Link`] is dropped.
async fn run<E: Env>(
    stream: E::Stream,
    writing: Writing,
    calls: Arc<Mutex<Calls<E>>>,
    closed: oneshot::Receiver<()>,
    report: Report<E>,
) {
    let _end = End(&calls);
    let (reader, writer) = tokio::io::split(stream);
    let reading = read(reader, &calls, &report);
    let ended = E::Runtime::select4(closed, reading, write(writer, writing), watch(&calls)).await;
    match ended {
        Select4::Second(()) | Select4::Third(()) if lock(&calls).is_fruitless() => {
            report.failed("the connection was closed before an answer came");
        }
        Select4::First(_) | Select4::Second(()) | Select4::Third(()) => {}
        Select4::Fourth(overdue) => report.failed(&format!("no answer in {overdue:?}")),
    }
}

/// The end of a connection, by a panic too: callers that still wait are told that no answer will come, and
/// the next call opens a new connection.
struct End<'a, E: Env>(&'a Mutex<Calls<E>>);

impl<E: Env> Drop for End<'_, E> {
    fn drop(&mut self) {
        let waiting = lock(self.0).waiting.take();
        drop(waiting);
    }
}

/// Where a connection tells whether its peer answers.
struct Report<E: Env> {
    addr: String,
    health: Option<PeerHealth<E>>,
}

impl<E: Env> Report<E> {
    fn failed(&self, reason: &str) {
        if let Some(health) = &self.health {
            health.failed(&self.addr, reason);
        }
    }

    /// A process at another's address is not the peer, although it answers.
    fn heard(&self, response: &Response<E>) {
        match (&self.health, response) {
            (Some(health), Response::Misdirected(reason)) => health.failed(&self.addr, reason),
            (Some(health), _) => health.reached(),
            (None, _) => {}
        }
    }
}

/// Ends when the peer seems gone, and returns how long it has been silent. Callers have timers of
/// their own, and may be dropped before these end. So the connection is watched on its own account:
/// a half-open one is not waited on twice.
async fn watch<E: Env>(calls: &Mutex<Calls<E>>) -> Duration {
    loop {
        {
            let calls = lock(calls);
            if calls.is_dead() {
                return rt::now::<E>() - calls.heard;
            }
        }
        rt::sleep::<E>(WATCH_INTERVAL).await;
    }
}

/// What a connection has to write.
struct Writing {
    hello: Vec<u8>,
    queue: mpsc::Receiver<Vec<u8>>,
    sent: Tally,
}

async fn write<S: AsyncWrite + Unpin>(mut stream: S, writing: Writing) {
    let Writing { hello, mut queue, sent } = writing;
    let mut bytes = hello;
    while let Some(frame) = queue.recv().await {
        sent.add(frame.len());
        bytes.extend_from_slice(&frame);
        while bytes.len() < WRITE_BYTES_MAX {
            let Ok(frame) = queue.try_recv() else { break };
            sent.add(frame.len());
            bytes.extend_from_slice(&frame);
        }
        if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        bytes.clear();
    }
}

async fn read<E: Env, S: AsyncRead + Unpin + Send>(
    stream: S,
    calls: &Mutex<Calls<E>>,
    report: &Report<E>,
) {
    let mut stream = BufReader::new(stream);
    while let Ok(Some(Return { number, response })) =
        frame::read(&mut stream, FRAME_BYTES_MAX).await
    {
        let caller = {
            let mut calls = lock(calls);
            calls.heard = rt::now::<E>();
            calls.answered = true;
            calls.waiting.as_mut().and_then(|waiting| waiting.remove(&number))
        };
        report.heard(&response);
        if let Some(caller) = caller {
            // A caller that gave up does not mind.
            drop(caller.answer.send(response));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::TokioEnv;

    /// Callers waited for ever for an attempt whose task had panicked: the peer was out of reach
    /// until a restart.
    #[tokio::test]
    async fn an_attempt_that_panicked_or_succeeded_is_followed_by_another() {
        let (sender, attempt): (_, Attempt<TokioEnv>) = watch::channel(None);
        assert!(is_valid::<TokioEnv>(&attempt), "it is under way");
        drop(sender);
        assert!(!is_valid::<TokioEnv>(&attempt), "its task is gone");
        let ended = |result| watch::channel(Some((result, rt::now::<TokioEnv>()))).1;
        assert!(!is_valid::<TokioEnv>(&ended(Ok(()))), "the connection broke since");
        assert!(is_valid::<TokioEnv>(&ended(Err(timed_out(CONNECT_DEADLINE)))), "just failed");
    }
}
