//! Taking snapshots: when one is due, and when somebody asks for one.

use std::convert::Infallible;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;

use super::{Node, REQUEST_DEADLINE, Running};
use crate::env::{Env, rt};

/// How often the node looks whether its snapshot is there.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Why there is no new snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// It was not done by the deadline, and may yet be.
    #[error("the snapshot takes longer than a request may")]
    Unknown,
    /// This node has not opened its directory yet.
    #[error("this node is starting")]
    Starting,
}

impl<E: Env> Node<E> {
    /// Takes a snapshot whenever one is due.
    pub(super) async fn take_due_snapshots(&self, running: &Running<E>) -> Infallible {
        let mut due = running.snapshot_due.clone();
        // It ends with Raft, and the node with that.
        while due.changed().await.is_ok() {
            // Ignored while one is being taken; it will be due again then.
            drop(running.raft.trigger().snapshot().await);
        }
        std::future::pending().await
    }

    /// Takes a snapshot, on this node alone, of all that it had applied when it was asked, and leaves it to
    /// Raft to drop the log behind it, as after any snapshot: all but the last
    /// [`log_entries_kept`](crate::raft::config::RaftOptions::log_entries_kept) entries.
    ///
    /// # Errors
    ///
    /// See [`SnapshotError`], within [`REQUEST_DEADLINE`].
    pub async fn take_snapshot(&self) -> Result<(), SnapshotError> {
        let running = self.running().ok_or(SnapshotError::Starting)?;
        let goal = running.images.borrow().applied;
        let taken = async {
            while running.raft.metrics().borrow_watched().snapshot < goal {
                // Ignored while an older one is being taken. An error is Raft's end, and the node's with it.
                drop(running.raft.trigger().snapshot().await);
                rt::sleep::<E>(LOOK_PAUSE).await;
            }
        };
        rt::timeout::<E, _>(REQUEST_DEADLINE, taken).await.ok_or(SnapshotError::Unknown)
    }
}
