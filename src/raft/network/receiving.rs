//! A snapshot on its way in.
//!
//! A node receives or installs one snapshot at a time, on whichever connection it comes. So a
//! snapshot takes the memory of one, at most [`SNAPSHOT_BYTES_MAX`]. A later snapshot from the same
//! leadership or a newer one replaces it, unless it is complete.

use std::cmp::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::raft::SnapshotResponse;

use super::message::Response;
use super::server::Local;
use crate::env::Env;
use crate::raft::config::SNAPSHOT_BYTES_MAX;
use crate::raft::state_machine::NodeSnapshot;
use crate::raft::types::{Ballot, SnapshotMeta};

/// The snapshot that a node receives now, if any. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Transfers(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    number_last: u64,
    current: Option<Transfer>,
}

/// A snapshot, as far as it was received.
struct Transfer {
    number: u64,
    vote: Ballot,
    meta: SnapshotMeta,
    bytes: u64,
    data: Vec<u8>,
    /// Whether all of it was handed to Raft.
    is_complete: bool,
}

impl Transfers {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No step that holds the lock can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of one connection in the transfer.
pub(super) struct Receiving {
    transfers: Transfers,
    /// The transfer that this connection has begun and not ended.
    number: Option<u64>,
}

impl Receiving {
    pub(super) fn new(transfers: Transfers) -> Self {
        Self { transfers, number: None }
    }

    /// Whether more chunks should come.
    pub(super) fn is_begun(&self) -> bool {
        self.number.is_some()
    }

    pub(super) fn begin<E: Env>(
        &mut self,
        vote: Ballot,
        meta: SnapshotMeta,
        bytes: u64,
    ) -> Response<E> {
        self.end();
        if bytes == 0 || bytes > SNAPSHOT_BYTES_MAX {
            return Response::Refused(format!(
                "a snapshot of {bytes} bytes; 1 to {SNAPSHOT_BYTES_MAX} are allowed"
            ));
        }
        let mut inner = self.transfers.lock();
        if let Some(current) = &inner.current {
            if current.is_complete {
                let reason = format!("the snapshot of {} is being installed", current.vote);
                return Response::Unavailable(reason);
            }
            // Ballots of one term for different nodes have no order.
            if vote.partial_cmp(&current.vote).is_none_or(Ordering::is_lt) {
                let reason = format!("a snapshot of {} is being received", current.vote);
                return Response::Unavailable(reason);
            }
        }
        inner.number_last += 1;
        let number = inner.number_last;
        let (data, is_complete) = (Vec::new(), false);
        inner.current = Some(Transfer { number, vote, meta, bytes, data, is_complete });
        drop(inner);
        self.number = Some(number);
        Response::SnapshotReceived
    }

    pub(super) async fn chunk<E: Env>(&mut self, chunk: &[u8], local: &Local<E>) -> Response<E> {
        let complete = match self.take(chunk) {
            Ok(None) => return Response::SnapshotReceived,
            Ok(Some(complete)) => complete,
            Err(reason) => {
                self.end();
                return Response::Refused(reason);
            }
        };
        let response = install(complete, local).await;
        self.end();
        response
    }

    /// Adds `chunk`. Returns the whole snapshot if that was the last chunk.
    fn take<E: Env>(&self, chunk: &[u8]) -> Result<Option<(Ballot, NodeSnapshot<E>)>, String> {
        let number = self.number.ok_or("a chunk without a snapshot: begin one first")?;
        let mut inner = self.transfers.lock();
        let current = inner.current.as_mut().filter(|current| current.number == number);
        let current = current.ok_or("a newer snapshot has replaced this one")?;
        let received = (current.data.len() + chunk.len()) as u64;
        if received > current.bytes {
            return Err(format!("{received} bytes of a snapshot of {}", current.bytes));
        }
        current.data.extend_from_slice(chunk);
        if received < current.bytes {
            return Ok(None);
        }
        current.is_complete = true;
        let (vote, meta) = (current.vote, current.meta.clone());
        let snapshot = std::mem::take(&mut current.data).into();
        Ok(Some((vote, NodeSnapshot::<E> { meta, snapshot })))
    }

    /// Makes room for the next transfer, unless it has come already.
    fn end(&mut self) {
        let Some(number) = self.number.take() else { return };
        let mut inner = self.transfers.lock();
        if inner.current.as_ref().is_some_and(|current| current.number == number) {
            inner.current = None;
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.end();
    }
}

async fn install<E: Env>(
    (vote, snapshot): (Ballot, NodeSnapshot<E>),
    local: &Local<E>,
) -> Response<E> {
    let mistakable = local.candidacy.is_mistakable([snapshot.meta.last_membership.membership()]);
    let raft = local.raft.clone();
    let installing = async move { raft.install_full_snapshot(vote, snapshot).await };
    match local.candidacy.hand_over(mistakable, installing).await {
        Some(Ok(response)) => Response::SnapshotInstalled(SnapshotResponse::new(response.vote)),
        Some(Err(fatal)) => Response::Unavailable(fatal.to_string()),
        None => Response::Unavailable("the installation failed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::TokioEnv;
    use crate::raft::types::Membership;

    fn begin(receiving: &mut Receiving, term: u64) -> Response<TokioEnv> {
        let meta = SnapshotMeta { last_log_id: None, last_membership: Membership::default() };
        receiving.begin(Ballot::new_committed(term, 1), meta, 10)
    }

    fn take(receiving: &Receiving, bytes: usize) -> Result<bool, String> {
        receiving.take::<TokioEnv>(&vec![0; bytes]).map(|complete| complete.is_some())
    }

    #[test]
    fn a_snapshot_of_a_newer_leader_replaces_an_older_one_and_not_the_other_way_round() {
        let transfers = Transfers::default();
        let mut older = Receiving::new(transfers.clone());
        let mut newer = Receiving::new(transfers.clone());
        assert!(matches!(begin(&mut older, 2), Response::SnapshotReceived));
        assert_eq!(take(&older, 4), Ok(false));
        assert!(matches!(begin(&mut newer, 1), Response::Unavailable(_)));
        assert_eq!(take(&older, 4), Ok(false));
        assert!(matches!(begin(&mut newer, 3), Response::SnapshotReceived));
        assert!(take(&older, 2).is_err());
        assert_eq!(take(&newer, 10), Ok(true));
        // A snapshot that is being installed is not replaced.
        assert!(matches!(begin(&mut older, 4), Response::Unavailable(_)));
        drop(newer);
        assert!(matches!(begin(&mut older, 4), Response::SnapshotReceived));
        assert!(take(&older, 11).is_err());
    }
}
