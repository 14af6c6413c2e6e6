//! Layer 2: no committed membership names an address at which its member never was.
//!
//! A leader that commits such an address loses the member: its peers call an address that leads nowhere, or to another
//! process on a copy of its directory.

use std::collections::{BTreeMap, BTreeSet};

use yakt::raft::{NodeId, Peer};

/// The Raft addresses at which each node was started, and at which its peers reach it.
#[derive(Clone, Debug, Default)]
pub struct AddressCheck(BTreeMap<NodeId, BTreeSet<String>>);

impl AddressCheck {
    /// `node` is at `addr` from now on. An address that it had before stays allowed: it may be committed late.
    pub fn is_at(&mut self, node: NodeId, addr: &str) {
        self.0.entry(node).or_default().insert(addr.to_owned());
    }

    /// Judges a membership that `node` applied. Members that were never started are not judged.
    ///
    /// # Errors
    ///
    /// The member and the address that it never had.
    pub fn applied<'a>(
        &self,
        node: NodeId,
        members: impl IntoIterator<Item = (&'a NodeId, &'a Peer)>,
    ) -> Result<(), String> {
        for (member, peer) in members {
            let known = self.0.get(member);
            if known.is_some_and(|addrs| !addrs.contains(&peer.raft)) {
                return Err(format!(
                    "addresses: node {node} applied a membership with node {member} at {}, where it never was",
                    peer.raft
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn an_address_that_a_member_never_had_is_caught() {
        let mut check = AddressCheck::default();
        check.is_at(1, "n1:5010");
        check.is_at(1, "n1:6010");
        let peer = |raft: &str| Peer {
            raft: raft.to_owned(),
            http: "n1:5011".to_owned(),
            directory: Uuid::nil(),
        };
        for addr in ["n1:5010", "n1:6010"] {
            assert_eq!(check.applied(2, [(&1, &peer(addr))]), Ok(()));
        }
        let wrong = check.applied(2, [(&1, &peer("127.0.0.1:5010"))]);
        assert!(wrong.is_err_and(|what| what.contains("node 1 at 127.0.0.1:5010")));
        // Node 3 is another program's business.
        assert_eq!(check.applied(2, [(&3, &peer("n3:5010"))]), Ok(()));
    }
}
