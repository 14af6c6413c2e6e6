//! Layer 4: once the faults have ended, the cluster converges and serves within a bound of virtual time.
//!
//! The one excuse is that a majority of the voters lost their disks: then what was promised cannot be kept
//! by anybody, and the run counts as unrecoverable instead.

use std::collections::BTreeSet;
use std::time::Duration;

use yakt::raft::{EntryId, NodeId};

/// How long a healthy cluster may take to be in order again after the last fault: elections, a node that
/// backs off from a peer, a snapshot.
pub const RECOVERY_LIMIT: Duration = Duration::from_secs(30);

/// The status of a running node, as its users see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its id.
    pub id: NodeId,
    /// Whether it knows a leader and has applied what was committed.
    pub ready: bool,
    /// Whom it believes to lead.
    pub leader: Option<NodeId>,
    /// Whom it believes to be voters.
    pub voters: BTreeSet<NodeId>,
    /// How far it has applied.
    pub applied: Option<EntryId>,
}

/// Why `views` are not those of a healthy cluster of exactly `members`, if they are not. With `idle`, nothing is
/// under way either: all have applied the same.
#[must_use]
pub fn disorder(views: &[View], members: &BTreeSet<NodeId>, idle: bool) -> Option<String> {
    let running: BTreeSet<NodeId> = views.iter().map(|view| view.id).collect();
    if let Some(missing) = members.difference(&running).next() {
        return Some(format!("node {missing} does not run"));
    }
    let mut views = views.iter().filter(|view| members.contains(&view.id));
    let first = views.next()?;
    for view in [first].into_iter().chain(views) {
        if !view.ready {
            return Some(format!("node {} is not ready", view.id));
        }
        if view.voters != *members {
            return Some(format!("node {} takes {:?} for the voters", view.id, view.voters));
        }
        if view.leader.is_none() || view.leader != first.leader {
            return Some(format!("nodes {} and {} do not agree on a leader", first.id, view.id));
        }
        if idle && (view.applied.is_none() || view.applied != first.applied) {
            return Some(format!("nodes {} and {} have not applied the same", first.id, view.id));
        }
    }
    None
}

/// Whether no majority of `voters` is left when those in `destroyed` have lost their disks.
#[must_use]
pub fn is_unrecoverable(voters: &BTreeSet<NodeId>, destroyed: &BTreeSet<NodeId>) -> bool {
    let left = voters.difference(destroyed).count();
    !voters.is_empty() && 2 * left <= voters.len()
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftLeaderId;
    use yakt::raft::Leader;

    use super::*;

    fn view(id: NodeId) -> View {
        View { id, ready: true, leader: Some(1), voters: [1, 2, 3].into(), applied: None }
    }

    fn views() -> Vec<View> {
        vec![view(1), view(2), view(3)]
    }

    #[test]
    fn a_cluster_in_order_passes() {
        assert_eq!(disorder(&views(), &[1, 2, 3].into(), false), None);
    }

    #[test]
    fn every_kind_of_disorder_is_seen() {
        let members = [1, 2, 3].into();
        let broken = |change: fn(&mut View)| {
            let mut views = views();
            change(&mut views[2]);
            disorder(&views, &members, false)
        };
        assert!(broken(|view| view.ready = false).is_some());
        assert!(broken(|view| view.leader = Some(2)).is_some());
        assert!(broken(|view| view.leader = None).is_some());
        assert!(broken(|view| view.voters = [1, 2].into()).is_some());
        assert!(disorder(&views()[..2], &members, false).is_some());
        assert!(disorder(&[], &members, false).is_some());
        let leader_id = Leader { term: 1, voted_for: 1 }.to_committed();
        let at = |index| {
            let applied = Some(EntryId { leader_id, index });
            let [first, second, third] = [1, 2, 3].map(view);
            let idle = |view| View { applied: Some(EntryId { leader_id, index: 7 }), ..view };
            disorder(&[idle(first), idle(second), View { applied, ..third }], &members, true)
        };
        assert_eq!(at(7), None);
        assert!(at(6).is_some());
        // Nobody has applied anything.
        assert!(disorder(&views(), &members, true).is_some());
    }

    #[test]
    fn only_a_destroyed_majority_excuses() {
        let voters = [1, 2, 3, 4, 5].into();
        assert!(!is_unrecoverable(&voters, &[1, 2].into()));
        assert!(is_unrecoverable(&voters, &[1, 2, 5].into()));
        assert!(is_unrecoverable(&[1, 2].into(), &[1].into()));
        assert!(!is_unrecoverable(&[1, 2].into(), &[7].into()));
    }
}
