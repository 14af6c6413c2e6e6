//! Members that are called at another place than the membership says.
//!
//! A member that moved asks the other nodes to call it at its new place (see `original` in
//! [`crate::node`]). A node that found it there calls it there. This ends when the membership
//! changes, when a call there fails, or when the member is seen at its recorded place.
//!
//! A failed call ends it because the member need not have moved. A process on a copy of its directory
//! may have answered at the new place and then stopped (found by simulation: swarm, seed 167). If the
//! member really is at the new place, it asks again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::raft::types::{NodeId, Peer};

/// Where members were seen. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Moves(Arc<Mutex<BTreeMap<NodeId, Move>>>);

#[derive(Debug)]
struct Move {
    /// What the membership said then.
    recorded: Peer,
    actual: Peer,
}

impl Moves {
    /// Notes that `node`, which the membership has at `recorded`, was seen at `actual`.
    pub(super) fn note(&self, node: NodeId, recorded: &Peer, actual: &Peer) {
        let mut moves = self.lock();
        if recorded == actual {
            moves.remove(&node);
        } else {
            moves.insert(node, Move { recorded: recorded.clone(), actual: actual.clone() });
        }
    }

    /// Forgets the move of `node` to the Raft address `addr`, because a call there failed.
    pub(super) fn failed(&self, node: NodeId, addr: &str) {
        let mut moves = self.lock();
        if moves.get(&node).is_some_and(|seen| seen.actual.raft == addr) {
            moves.remove(&node);
        }
    }

    /// The place at which `node` is called. The membership has it at `recorded`.
    pub(super) fn actual(&self, node: NodeId, recorded: &Peer) -> Peer {
        let moves = self.lock();
        let seen = moves.get(&node).filter(|seen| seen.recorded == *recorded);
        seen.map_or(recorded, |seen| &seen.actual).clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Move>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_member_is_called_where_it_was_seen_until_that_fails() {
        let at = |addr: &str| Peer {
            raft: addr.to_owned(),
            http: "http".to_owned(),
            directory: Uuid::from_u128(1),
        };
        let (old, new) = (at("old:1"), at("new:1"));
        let moves = Moves::default();
        assert_eq!(moves.actual(5, &old), old);
        moves.note(5, &old, &new);
        assert_eq!(moves.actual(5, &old), new);
        assert_eq!(moves.actual(4, &old), old, "another member");
        assert_eq!(moves.actual(5, &at("third:1")), at("third:1"), "the membership changed");
        moves.failed(5, "old:1");
        assert_eq!(moves.actual(5, &old), new, "the call was to another place");
        moves.failed(5, "new:1");
        assert_eq!(moves.actual(5, &old), old);
        moves.note(5, &old, &new);
        moves.note(5, &old, &old);
        assert_eq!(moves.actual(5, &old), old, "it came back");
    }
}
