//! A node must not found a second cluster where members of another one expect it.
//!
//! An operator empties the directory of node 1 and starts it with its original command line, which founds a cluster. The
//! other members still call node 1 at its address: the leader in every heartbeat interval, candidates in every election.
//! Each call names the caller's cluster, and node 1 with its former directory. So
//!
//! 1. a node listens for [`LISTEN_HEARTBEATS`] heartbeat intervals before it founds a cluster, and stops if it is called;
//! 2. as long as it is the only voter of its cluster, such a call stops it later, too. The members may have been down, or
//!    cut off, in that moment.
//!
//! Limits: a founder that no member reaches founds its cluster. A node that has let in a second voter goes on: by then two
//! clusters exist, and only an operator can choose between them.

use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::{Semaphore, mpsc};
use uuid::Uuid;

use super::{Node, RunError, Running};
use crate::env::{Env, Listener, rt};
use crate::raft::NodeId;
use crate::raft::network::message::Hello;
use crate::raft::network::{HELLO_BYTES_MAX, frame};

/// Heartbeat intervals for which a founder listens. A leader calls every member in each of them, so one call may be lost, or
/// wait for an earlier one to be refused.
const LISTEN_HEARTBEATS: u32 = 6;

/// Callers that a founder hears at the same time. Members are at most a few, and others must not take all of its memory.
const CALLERS_MAX: usize = 32;

impl<E: Env> Node<E> {
    /// Binds the Raft address, and listens there for members of another cluster that expect this node.
    ///
    /// # Errors
    ///
    /// [`RunError::Expected`] when one calls, [`RunError::Listen`] when the address cannot be bound.
    pub(super) async fn listen_before_founding(&self) -> Result<E::Listener, RunError> {
        let options = &self.inner.options;
        let listener = self.inner.env.listen(&options.raft_addr).await;
        let listener = listener
            .map_err(|source| RunError::Listen { addr: options.raft_addr.clone(), source })?;
        let limit = options.raft.heartbeat_interval * LISTEN_HEARTBEATS;
        match rt::timeout::<E, _>(limit, expected_by::<E>(&listener, self.id())).await {
            None => Ok(listener),
            Some(cluster) => Err(self.expected(cluster)),
        }
    }

    /// Ends when a member of another cluster calls this node while it is the only voter of its own.
    pub(super) async fn expected_elsewhere(&self, running: &Running<E>) -> RunError {
        let mut callers = running.expected_by.subscribe();
        loop {
            let caller = *callers.borrow_and_update();
            if let Some(cluster) = caller
                && self.is_alone(running)
            {
                return self.expected(cluster);
            }
            if callers.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether no other node votes in this one's cluster.
    fn is_alone(&self, running: &Running<E>) -> bool {
        let metrics = running.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().voter_ids().all(|voter| voter == self.id())
    }

    fn expected(&self, cluster: Uuid) -> RunError {
        let addr = self.inner.options.raft_addr.clone();
        RunError::Expected { node: self.id(), addr, cluster }
    }
}

/// Waits until a caller takes the process behind `listener` for node `node` of its cluster; returns that cluster. Every
/// caller is hung up on: what it wants, it asks again later.
async fn expected_by<E: Env>(listener: &E::Listener, node: NodeId) -> Uuid {
    let (sender, mut receiver) = mpsc::channel(CALLERS_MAX);
    let room = Arc::new(Semaphore::new(CALLERS_MAX));
    let accepting = async {
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                // Only a closed semaphore refuses, and this one is never closed.
                return std::future::pending().await;
            };
            let Ok((mut stream, _)) = listener.accept().await else {
                rt::sleep::<E>(super::RETRY_PAUSE).await;
                continue;
            };
            let sender = sender.clone();
            drop(rt::spawn::<E, _>(async move {
                // No caller stays longer than the founder listens: this task ends with the receiver.
                let heard = async {
                    match frame::read::<Hello>(&mut stream, HELLO_BYTES_MAX).await {
                        // A founder has no cluster yet, so every cluster is another one.
                        Ok(Some(hello)) => hello.expects_elsewhere(node, Uuid::nil()),
                        Ok(None) | Err(_) => None,
                    }
                };
                let gone = Box::pin(sender.closed());
                let heard = <E::Runtime as openraft::AsyncRuntime>::select2(gone, Box::pin(heard));
                if let openraft_rt::Select2::Second(Some(cluster)) = heard.await {
                    // The receiver may be gone: the founder stops anyway.
                    let _ = sender.send(cluster).await;
                }
                drop(permit);
            }));
        }
    };
    let heard = Box::pin(receiver.recv());
    let accepting: std::pin::Pin<Box<dyn Future<Output = std::convert::Infallible> + Send + '_>> =
        Box::pin(accepting);
    match <E::Runtime as openraft::AsyncRuntime>::select2(heard, accepting).await {
        openraft_rt::Select2::First(Some(cluster)) => cluster,
        // This function holds a sender.
        openraft_rt::Select2::First(None) => std::future::pending().await,
        openraft_rt::Select2::Second(never) => match never {},
    }
}
