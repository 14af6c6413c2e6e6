//! Watches the other members: looks up their names, and checks whether those that did not answer do
//! again.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::future::join_all;
use openraft::async_runtime::watch::WatchReceiver;

use super::{Node, Running};
use crate::env::{Env, rt};
use crate::raft::network::message::Request;
use crate::raft::{NodeId, Peer};

/// How often a node checks its peers. Each round sends one small question to every peer that is
/// recorded as unreachable.
const ROUND: Duration = Duration::from_secs(5);

/// How long such a peer may take to answer.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// How old a lookup of a member's name may become. A change of the address is detected by then,
/// even if no connection was needed. So no older address is left behind when the name service
/// fails.
const NAME_AGE_MAX: Duration = Duration::from_secs(30);

impl<E: Env> Node<E> {
    /// Looks up members' names before they are needed, and asks unreachable members whether they
    /// are back. Otherwise a node that has no other reason to call them would take them for
    /// unreachable for ever. A change of the members ends the pause between two rounds: the leader and
    /// the name service may fail soon after it.
    pub(super) async fn watch_peers(&self, running: &Running<E>) -> Infallible {
        let network = &running.network;
        loop {
            let members = self.other_members(running);
            network.health().retain(&members.iter().map(|(id, _)| *id).collect());
            for (_, peer) in &members {
                self.inner.names.prepare(&peer.raft, NAME_AGE_MAX);
            }
            let is_silent = |id: &NodeId| network.health().unreachable(*id).is_some();
            let silent = members.iter().filter(|(id, _)| is_silent(id));
            let probes = silent.map(|(id, peer)| {
                let channel = network.control(*id, peer);
                // The channel notes whether the peer answered.
                async move { drop(channel.call(Request::Identify, PROBE_LIMIT).await) }
            });
            join_all(probes).await;
            rt::timeout::<E, _>(ROUND, self.members_change(running, &members)).await;
        }
    }

    /// Waits until the other members are not `members`.
    async fn members_change(&self, running: &Running<E>, members: &[(NodeId, Peer)]) {
        let mut changes = running.raft.server_metrics();
        while self.other_members(running) == members {
            // Fails when Raft has stopped; its end is another duty's to report.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn other_members(&self, running: &Running<E>) -> Vec<(NodeId, Peer)> {
        let metrics = running.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let nodes = metrics.membership_config.membership().nodes();
        let others = nodes.filter(|(id, _)| **id != self.id());
        others.map(|(id, peer)| (*id, peer.clone())).collect()
    }
}
