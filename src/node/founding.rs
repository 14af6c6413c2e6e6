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

use openraft::AsyncRuntime;
use openraft::async_runtime::watch::WatchReceiver;
use openraft_rt::Select2;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::callers::hear_callers;
use super::{Node, RunError, Running};
use crate::env::{Env, rt};
use crate::raft::NodeId;
use crate::raft::network::message::Hello;
use crate::raft::network::{HELLO_BYTES_MAX, frame};

/// Heartbeat intervals for which a founder listens. A leader calls every member in each of them, so one call may be lost, or
/// wait for an earlier one to be refused.
const LISTEN_HEARTBEATS: u32 = 6;

impl<E: Env> Node<E> {
    /// Binds the Raft address, and listens there for members of another cluster that expect this node.
    ///
    /// # Errors
    ///
    /// [`RunError::Expected`] when one calls, [`RunError::Listen`] when the address cannot be bound.
    pub(super) async fn listen_before_founding(&self) -> Result<E::Listener, RunError> {
        let listener = self.listen().await?;
        let limit = self.inner.options.raft.heartbeat_interval * LISTEN_HEARTBEATS;
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

    /// Whether this node is the only voter of its cluster. A member that has just been started has
    /// not loaded its membership yet: it is not alone.
    pub(super) fn is_alone(&self, running: &Running<E>) -> bool {
        let metrics = running.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().voter_ids().eq([self.id()])
    }

    fn expected(&self, cluster: Uuid) -> RunError {
        let addr = self.inner.options.raft_addr.clone();
        RunError::Expected { node: self.id(), addr, cluster }
    }
}

/// Waits until a caller takes the process behind `listener` for node `node` of its cluster, and
/// returns that cluster. The process hangs up on every caller; the caller calls again later.
async fn expected_by<E: Env>(listener: &E::Listener, node: NodeId) -> Uuid {
    let (sender, mut receiver) = mpsc::channel(1);
    let hear = |mut stream: E::Stream| {
        let sender = sender.clone();
        async move {
            let Ok(Some(hello)) = frame::read::<Hello>(&mut stream, HELLO_BYTES_MAX).await else {
                return;
            };
            // A founder has no cluster yet, so the caller's cluster is always another one.
            if let Some(cluster) = hello.expects_elsewhere(node, Uuid::nil()) {
                // The receiver may be gone: the founder stops anyway.
                let _ = sender.send(cluster).await;
            }
        }
    };
    let (heard, hearing) = (receiver.recv(), hear_callers::<E, _>(listener, hear));
    match E::Runtime::select2(Box::pin(heard), Box::pin(hearing)).await {
        Select2::First(Some(cluster)) => cluster,
        // This function holds a sender.
        Select2::First(None) => std::future::pending().await,
        Select2::Second(never) => match never {},
    }
}
