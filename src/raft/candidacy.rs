//! Whether this node may stand for election.
//!
//! A voter is a node *and* its data directory (KIP-853). openraft knows members by their ids alone, and a node that takes
//! up the id of a removed one reads in its log, or in an old snapshot, of times when that id was a voter: perhaps
//! the only one. It must not take itself for that voter. Alone it would win at once, and commit over what the
//! cluster has; among others it would give the vote that the old directory may have given already. (Found by
//! simulation: swarm, seed 720000434.)
//!
//! So a node stands only while the last membership in its log has it as a voter with its own directory; or, if that has
//! it as no voter, the last committed one does: a leader may have to finish its own removal (Raft §6).
//! - Raft starts with elections off.
//! - [`Candidacy::keep`] turns them on and off as memberships change, inside Raft's task, where nothing happens between
//!   the look and the turn.
//! - A membership that counts another directory under this id is handed to Raft with elections off
//!   ([`Candidacy::hand_over`]): a sole voter would stand before anybody could look.
//! - A node starts in doubt whether another process is this very node, on a copy of its directory. In doubt it neither
//!   stands nor votes: two processes with one identity could give two votes in one term. The node clears the doubt
//!   ([`Candidacy::clear_doubt`]).

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::poll;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{AsyncRuntime, EntryPayload};
use openraft_rt::Select2;
use uuid::Uuid;

use super::types::{LogEntry, NodeId, Peer, Raft};
use crate::env::{Env, rt};

type Members = openraft::Membership<NodeId, Peer>;

/// Turns a node's elections on and off.
pub struct Candidacy<E: Env> {
    raft: Raft<E>,
    node: NodeId,
    directory: Uuid,
    /// How many requests are being handed to Raft that elections must stay off for.
    held: Arc<Mutex<usize>>,
    /// Whether another process may be this node.
    in_doubt: Arc<AtomicBool>,
}

impl<E: Env> Clone for Candidacy<E> {
    fn clone(&self) -> Self {
        let (held, in_doubt) = (Arc::clone(&self.held), Arc::clone(&self.in_doubt));
        Self { raft: self.raft.clone(), held, in_doubt, ..*self }
    }
}

/// What a membership makes of a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It is a voter.
    Voter,
    /// Its id is a voter's that has another directory.
    Namesake,
    /// It is no voter.
    Other,
}

fn standing(members: &Members, node: NodeId, directory: Uuid) -> Standing {
    if members.voter_ids().all(|voter| voter != node) {
        return Standing::Other;
    }
    match members.get_node(&node) {
        Some(peer) if peer.directory == directory => Standing::Voter,
        _ => Standing::Namesake,
    }
}

impl<E: Env> Candidacy<E> {
    /// The candidacy of `node`, whose directory is `directory`. It is in doubt.
    #[must_use]
    pub fn new(raft: Raft<E>, node: NodeId, directory: Uuid) -> Self {
        let in_doubt = Arc::new(AtomicBool::new(true));
        Self { raft, node, directory, held: Arc::default(), in_doubt }
    }

    /// Whether another process may be this node. Then the node must not vote.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.in_doubt.load(Ordering::Acquire)
    }

    /// No other process is this node. From now on the node votes, and stands for election if its membership allows that.
    pub async fn clear_doubt(&self) {
        self.in_doubt.store(false, Ordering::Release);
        self.review().await;
    }

    /// Turns elections on and off until `stopped` or Raft has ended. Nothing that Raft was asked is dropped half-way
    /// (see `join_raft` in [`crate::node`]).
    pub async fn keep(self, stopped: impl Future<Output = ()> + Send) {
        let mut roles = self.raft.server_metrics();
        let mut stopped = Box::pin(stopped);
        loop {
            self.review().await;
            match E::Runtime::select2(stopped.as_mut(), Box::pin(roles.changed())).await {
                Select2::Second(Ok(())) => {}
                Select2::First(()) | Select2::Second(Err(_)) => return,
            }
        }
    }

    async fn review(&self) {
        let this = self.clone();
        let reviewed = self.raft.with_raft_state(move |state| {
            let members = &state.membership_state;
            let of = |members: &Members| standing(members, this.node, this.directory);
            let may_stand = match of(members.effective().membership()) {
                Standing::Voter => true,
                Standing::Namesake => false,
                Standing::Other => of(members.committed().membership()) == Standing::Voter,
            };
            let held = this.held();
            let is_free = *held == 0 && !this.is_in_doubt();
            this.raft.runtime_config().elect(may_stand && is_free);
        });
        if let Err(error) = reviewed.await {
            tracing::debug!(%error, "elections are as they were");
        }
    }

    /// Whether one of `members` has a voter under this node's id that has another directory.
    pub fn is_mistakable<'a>(&self, members: impl IntoIterator<Item = &'a Members>) -> bool {
        let of = |members| standing(members, self.node, self.directory);
        members.into_iter().any(|members| of(members) == Standing::Namesake)
    }

    /// Hands a request to Raft by `handing_over`; `mistakable` if a membership that comes with it
    /// [is](Self::is_mistakable). `None` if that panicked.
    pub async fn hand_over<T: Send + 'static>(
        &self,
        mistakable: bool,
        handing_over: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        if !mistakable {
            return Some(handing_over.await);
        }
        {
            let mut held = self.held();
            *held += 1;
            self.raft.runtime_config().elect(false);
        }
        // What is behind it in order stays behind it: it is with Raft before this waits.
        let mut handing_over = Box::pin(handing_over);
        let at_once = poll!(&mut handing_over);
        let this = self.clone();
        // A task of its own: Raft may go on with the request after whoever brought it is gone.
        let handed_over = rt::spawn::<E, _>(async move {
            let answer = match at_once {
                Poll::Ready(answer) => answer,
                Poll::Pending => handing_over.await,
            };
            *this.held() -= 1;
            this.review().await;
            answer
        });
        handed_over.await.ok()
    }

    /// Keeps this node out of elections for `duration`.
    pub fn rest(&self, duration: Duration) {
        *self.held() += 1;
        self.raft.runtime_config().elect(false);
        let this = self.clone();
        // A task of its own: elections must be turned on again even if the caller is dropped.
        drop(rt::spawn::<E, _>(async move {
            rt::sleep::<E>(duration).await;
            *this.held() -= 1;
            this.review().await;
        }));
    }

    fn held(&self) -> MutexGuard<'_, usize> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memberships among `entries`.
pub fn memberships(entries: &[LogEntry]) -> impl Iterator<Item = &Members> {
    entries.iter().filter_map(|entry| match &entry.payload {
        EntryPayload::Membership(members) => Some(members),
        _ => None,
    })
}
