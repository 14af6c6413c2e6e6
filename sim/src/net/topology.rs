//! Who can send to whom, and how long it takes. No connections here: see [`super::conn`].

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::NetConfig;
use crate::rng::{SeededRng, draw_duration};

/// A host's name, which is also its address.
pub(crate) type HostName = Arc<str>;

/// The first port that `listen` on port 0 hands out: Linux's ephemeral range.
const PORT_EPHEMERAL_MIN: u16 = 32768;

#[derive(Debug)]
pub(super) struct Host {
    /// Whether the machine runs; without it nothing answers, not even with a reset.
    pub(super) up: bool,
    /// Which process is the host's current one: handles of earlier ones are fenced.
    pub(super) epoch: u64,
    pub(super) port_next: u16,
}

#[derive(Debug, Default)]
pub(super) struct Topology {
    pub(super) hosts: BTreeMap<HostName, Host>,
    /// Directed links (from, to) whose packets vanish, and how many blocks there are on each: none, and it is no more
    /// in here.
    pub(super) blocked: BTreeMap<(HostName, HostName), u64>,
    /// Hosts cut off from every other, including those that do not exist yet.
    pub(super) isolated: BTreeSet<HostName>,
    /// Addresses (name, port) that lead to another host than the one of that name, as after a change in the name service.
    pub(super) redirects: BTreeMap<(HostName, u16), HostName>,
    /// Directed links that drop every write of more than this many bytes, as a black hole for large
    /// packets does.
    pub(super) size_max: BTreeMap<(HostName, HostName), usize>,
    /// Directed links on which new connections are refused, as by a firewall, with the number of
    /// refusals on each. Connections that exist stay.
    pub(super) refused: BTreeMap<(HostName, HostName), u64>,
    /// Links whose latency was set; the others have the default.
    pub(super) latency: BTreeMap<(HostName, HostName), Range<Duration>>,
    /// Hosts without a free file descriptor.
    pub(super) exhausted: BTreeSet<HostName>,
}

impl Topology {
    /// Whether a packet sent now from `from` to `to` would arrive. A host always reaches itself.
    pub(super) fn carries(&self, from: &HostName, to: &HostName) -> bool {
        if !self.hosts.get(to).is_some_and(|host| host.up) {
            return false;
        }
        from == to
            || !(self.isolated.contains(from)
                || self.isolated.contains(to)
                || self.blocked.contains_key(&(from.clone(), to.clone())))
    }

    /// The size in bytes of the largest write that passes from `from` to `to`; `None` for any size.
    pub(super) fn size_max(&self, from: &HostName, to: &HostName) -> Option<usize> {
        self.size_max.get(&(from.clone(), to.clone())).copied()
    }

    /// Whether `to` refuses connections that `from` opens.
    pub(super) fn refuses(&self, from: &HostName, to: &HostName) -> bool {
        self.refused.contains_key(&(from.clone(), to.clone()))
    }

    /// The host that the address `name`:`port` leads to.
    pub(super) fn resolve(&self, name: &str, port: u16) -> HostName {
        let name: HostName = name.into();
        self.redirects.get(&(name.clone(), port)).cloned().unwrap_or(name)
    }

    /// Whether packets between `a` and `b` pass both ways, as fast as on any other link.
    pub(super) fn is_plain(&self, a: &HostName, b: &HostName) -> bool {
        [(a, b), (b, a)].into_iter().all(|(from, to)| {
            self.carries(from, to)
                && self.size_max(from, to).is_none()
                && !self.refuses(from, to)
                && !self.latency.contains_key(&(from.clone(), to.clone()))
        })
    }

    /// One more block on the link from `from` to `to`.
    pub(super) fn block(&mut self, from: &str, to: &str) {
        increment(&mut self.blocked, from, to);
    }

    /// One block less on the link, if there is any.
    pub(super) fn unblock(&mut self, from: &str, to: &str) {
        decrement(&mut self.blocked, from, to);
    }

    /// One more refusal on the link from `from` to `to`.
    pub(super) fn refuse(&mut self, from: &str, to: &str) {
        increment(&mut self.refused, from, to);
    }

    /// One refusal less on the link, if there is any.
    pub(super) fn admit(&mut self, from: &str, to: &str) {
        decrement(&mut self.refused, from, to);
    }

    /// How long the next packet from `from` to `to` takes.
    pub(super) fn draw_latency(
        &self,
        rng: &mut SeededRng,
        config: &NetConfig,
        from: &HostName,
        to: &HostName,
    ) -> Duration {
        let set = self.latency.get(&(from.clone(), to.clone()));
        let default = if from == to { &config.latency_loopback } else { &config.latency };
        draw_duration(rng, set.unwrap_or(default))
    }

    /// Adds `host` if it is new, starts it, and fences whatever ran on it before.
    pub(super) fn boot(&mut self, host: &HostName) -> u64 {
        let host = self.hosts.entry(host.clone()).or_insert(Host {
            up: false,
            epoch: 0,
            port_next: PORT_EPHEMERAL_MIN,
        });
        host.up = true;
        host.epoch += 1;
        host.epoch
    }

    /// The epoch of `host`'s current process, or `None` for an unknown host.
    pub(super) fn epoch(&self, host: &HostName) -> Option<u64> {
        self.hosts.get(host).map(|host| host.epoch)
    }

    /// The next number of `host`'s ephemeral range, which wraps around.
    pub(super) fn draw_port(&mut self, host: &HostName) -> u16 {
        let Some(host) = self.hosts.get_mut(host) else {
            return PORT_EPHEMERAL_MIN;
        };
        let port = host.port_next;
        host.port_next = port.checked_add(1).unwrap_or(PORT_EPHEMERAL_MIN);
        port
    }
}

/// How often something is in force on each link; a link where it is not has no entry.
type Counts = BTreeMap<(HostName, HostName), u64>;

fn increment(counts: &mut Counts, from: &str, to: &str) {
    *counts.entry((from.into(), to.into())).or_default() += 1;
}

fn decrement(counts: &mut Counts, from: &str, to: &str) {
    if let Entry::Occupied(mut count) = counts.entry((from.into(), to.into())) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}
