//! What a scenario does to the network, and what the world does to hosts.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::conn::Conn;
use super::{HostName, Interface, NameOutage, Network, State};

impl Network {
    /// Starts `host` (added if it is new) with a fresh process, and gives that process its network.
    /// Handles of earlier processes are fenced.
    #[must_use]
    pub fn boot(&self, host: &str) -> Interface {
        let host: HostName = host.into();
        let epoch = self.with(|state, now| {
            state.end_process(&host, now);
            let mut epoch = 0;
            state.retopology(now, |topology| epoch = topology.boot(&host));
            state.trace.record(format_args!("net boot {host}"));
            epoch
        });
        Interface::new(self.clone(), host, epoch)
    }

    /// The process on `host` dies and its kernel closes its connections. The host keeps running.
    pub fn kill_process(&self, host: &str) {
        self.with(|state, now| {
            state.end_process(&host.into(), now);
            state.trace.record(format_args!("net kill {host}"));
        });
    }

    /// `host` loses power: it stops answering and forgets every connection. [`Self::boot`] starts it
    /// again.
    pub fn crash_host(&self, host: &str) {
        let host: HostName = host.into();
        self.with(|state, now| {
            state.retopology(now, |topology| {
                if let Some(host) = topology.hosts.get_mut(&host) {
                    host.up = false;
                    host.epoch += 1;
                }
            });
            state.listeners.retain(|(listening, _), _| *listening != host);
            for (id, side) in state.ends_on(&host) {
                if let Some(conn) = state.conns.get_mut(&id) {
                    vanish(conn, side);
                }
                state.let_go(id, side);
            }
            state.trace.record(format_args!("net crash {host}"));
        });
    }

    /// Packets from `from` to `to` vanish; the way back stays as it is. Blocks of one link add up: it is open again when
    /// each of them was undone.
    pub fn block(&self, from: &str, to: &str) {
        self.with(|state, now| {
            state.retopology(now, |topology| topology.block(from, to));
            state.trace.record(format_args!("net block {from}->{to}"));
        });
    }

    /// Undoes one [`Self::block`], or this one link's part in one [`Self::partition`]. Nothing happens when the link is
    /// open.
    pub fn unblock(&self, from: &str, to: &str) {
        self.with(|state, now| {
            state.retopology(now, |topology| topology.unblock(from, to));
            state.trace.record(format_args!("net unblock {from}->{to}"));
        });
    }

    /// Writes of more than `bytes` bytes from `from` to `to` vanish, and the data behind them on
    /// their connections waits. This is a path whose MTU is too small, and whose routers say
    /// nothing.
    pub fn drop_larger(&self, from: &str, to: &str, bytes: usize) {
        self.with(|state, now| {
            state.retopology(now, |topology| {
                topology.size_max.insert((from.into(), to.into()), bytes);
            });
            state.trace.record(format_args!("net drop {from}->{to} over {bytes}B"));
        });
    }

    /// Undoes [`Self::drop_larger`].
    pub fn carry_large(&self, from: &str, to: &str) {
        self.with(|state, now| {
            state.retopology(now, |topology| {
                topology.size_max.remove(&(from.into(), to.into()));
            });
            state.trace.record(format_args!("net carry {from}->{to} any size"));
        });
    }

    /// `to` refuses the connections that `from` opens from now on, as a firewall does. Connections
    /// that exist stay as they are. Refusals of one link add up.
    pub fn refuse(&self, from: &str, to: &str) {
        self.with(|state, _| {
            state.topology.refuse(from, to);
            state.trace.record(format_args!("net refuse all {from}->{to}"));
        });
    }

    /// Undoes one [`Self::refuse`].
    pub fn admit(&self, from: &str, to: &str) {
        self.with(|state, _| {
            state.topology.admit(from, to);
            state.trace.record(format_args!("net admit {from}->{to}"));
        });
    }

    /// Blocks every link, both ways, between named hosts that share no group. Other links stay as they
    /// are, those of unnamed hosts (clients) too. A host named in two groups bridges them.
    pub fn partition(&self, groups: &[&[&str]]) {
        let hosts: BTreeSet<&str> = groups.iter().copied().flatten().copied().collect();
        let together = |a, b| groups.iter().any(|group| group.contains(&a) && group.contains(&b));
        self.with(|state, now| {
            state.retopology(now, |topology| {
                for from in &hosts {
                    for to in hosts.iter().filter(|to| !together(*from, **to)) {
                        topology.block(from, to);
                    }
                }
            });
            state.trace.record(format_args!("net partition {groups:?}"));
        });
    }

    /// Cuts `host` off from every other host, both ways, until [`Self::heal`].
    pub fn isolate(&self, host: &str) {
        self.with(|state, now| {
            state.retopology(now, |topology| {
                topology.isolated.insert(host.into());
            });
            state.trace.record(format_args!("net isolate {host}"));
        });
    }

    /// Lookups of names on `host` hang, or fail immediately, until [`Self::restore_names`] or
    /// [`Self::heal`]. Connections stay. Outages add up; the last one decides how lookups fail.
    pub fn fail_names(&self, host: &str, hangs: bool) {
        self.with(|state, _| {
            let none = NameOutage { count: 0, hangs };
            let outage = state.nameless.entry(host.into()).or_insert(none);
            *outage = NameOutage { count: outage.count + 1, hangs };
            state.trace.record(format_args!("net names fail on {host}, hangs={hangs}"));
        });
    }

    /// Undoes one [`Self::fail_names`]. Nothing happens when names resolve.
    pub fn restore_names(&self, host: &str) {
        self.with(|state, now| {
            if let Some(outage) = state.nameless.get_mut(host) {
                outage.count -= 1;
                if outage.count == 0 {
                    state.nameless.remove(host);
                    state.named.insert(host.into(), now);
                }
            }
            state.trace.record(format_args!("net names restored on {host}"));
        });
    }

    /// For how long lookups of names on `host` have succeeded, at most [`Duration::MAX`]; `None` while
    /// they do not.
    #[must_use]
    pub fn names_resolve_for(&self, host: &str) -> Option<Duration> {
        self.with(|state, now| {
            let span = state.named.get(host).map(|since| now.saturating_duration_since(*since));
            (!state.nameless.contains_key(host)).then(|| span.unwrap_or(Duration::MAX))
        })
    }

    /// Whether every link between `hosts` carries packets of any size and every new connection, and
    /// none has a latency of its own.
    #[must_use]
    pub fn is_whole_between(&self, hosts: &[&str]) -> bool {
        self.with(|state, _| {
            let topology = &state.topology;
            let concerned = |host: &HostName| hosts.contains(&&**host);
            let mut blocked = topology.blocked.keys();
            let mut slow = topology.latency.keys();
            let mut odd = topology.size_max.keys().chain(topology.refused.keys());
            !blocked.any(|(from, to)| concerned(from) && concerned(to))
                && !odd.any(|(from, to)| concerned(from) && concerned(to))
                && !slow.any(|(from, to)| concerned(from) && concerned(to))
                && !topology.isolated.iter().any(concerned)
        })
    }

    /// How many connections the processes on `host` have asked for since the start.
    #[must_use]
    pub fn connects(&self, host: &str) -> u64 {
        self.with(|state, _| state.connects.get(host).copied().unwrap_or_default())
    }

    /// Undoes every block, partition, isolation, refusal, limit on sizes, and outage of names.
    /// Latencies stay.
    pub fn heal(&self) {
        self.with(|state, now| {
            state.retopology(now, |topology| {
                topology.blocked.clear();
                topology.isolated.clear();
                topology.size_max.clear();
                topology.refused.clear();
            });
            for host in std::mem::take(&mut state.nameless).into_keys() {
                state.named.insert(host, now);
            }
            state.trace.record(format_args!("net heal"));
        });
    }

    /// From now on the address `name`:`port` leads to `host`, and only `host` can listen there. Connections that exist stay
    /// as they are.
    pub fn redirect(&self, (name, port): (&str, u16), host: &str) {
        self.with(|state, _| {
            state.trace.record(format_args!("net redirect {name}:{port} to {host}"));
            state.topology.redirects.insert((name.into(), port), host.into());
        });
    }

    /// Whether nothing is broken between two running hosts: packets pass both ways, at the default latency.
    #[must_use]
    pub fn is_plain_between(&self, a: &str, b: &str) -> bool {
        self.with(|state, _| state.topology.is_plain(&a.into(), &b.into()))
    }

    /// Sets the one-way latency of what is sent from now on; bytes of a stream still never overtake.
    pub fn set_latency(&self, from: &str, to: &str, latency: Range<Duration>) {
        self.with(|state, _| {
            state.trace.record(format_args!("net latency {from}->{to} {latency:?}"));
            state.topology.latency.insert((from.into(), to.into()), latency);
        });
    }

    /// Makes the latency of one link the default again.
    pub fn reset_latency(&self, from: &str, to: &str) {
        self.with(|state, _| {
            state.trace.record(format_args!("net latency {from}->{to} default"));
            state.topology.latency.remove(&(from.into(), to.into()));
        });
    }

    /// Makes every link's latency the default again.
    pub fn reset_latencies(&self) {
        self.with(|state, _| {
            state.topology.latency.clear();
            state.trace.record(format_args!("net latency default"));
        });
    }

    /// Takes the file descriptors of `host`: until [`Self::replenish`] it opens no connection and
    /// accepts none. The kernel completes handshakes with it as before; connections that are open
    /// already work.
    pub fn exhaust(&self, host: &str) {
        self.with(|state, _| {
            state.topology.exhausted.insert(host.into());
            state.trace.record(format_args!("net exhaust {host}"));
        });
    }

    /// Undoes [`Self::exhaust`].
    pub fn replenish(&self, host: &str) {
        self.with(|state, _| {
            state.topology.exhausted.remove(host);
            state.trace.record(format_args!("net replenish {host}"));
        });
    }

    /// Whether data is under way, or not read yet, on a connection between `a` and `b`.
    #[must_use]
    pub fn is_busy_between(&self, a: &str, b: &str) -> bool {
        self.with(|state, now| {
            let ids: Vec<u64> = state.conns.keys().copied().collect();
            ids.into_iter().any(|id| {
                state.settle(id, now);
                state.conns.get(&id).is_some_and(|conn| {
                    let hosts = [&*conn.ends[0].host, &*conn.ends[1].host];
                    let between = hosts == [a, b] || hosts == [b, a];
                    between && conn.ends.iter().any(|end| end.unread_bytes > 0)
                })
            })
        })
    }

    /// Resets every connection between `a` and `b`, at both ends at once, as a firewall between them can. Says
    /// whether data was under way on one of them.
    pub fn reset_connections(&self, a: &str, b: &str) -> bool {
        self.with(|state, now| {
            state.trace.record(format_args!("net reset {a}<->{b}"));
            let mut under_way = false;
            let ids: Vec<u64> = state.conns.keys().copied().collect();
            for id in ids {
                state.settle(id, now);
                let Some(conn) = state.conns.get_mut(&id) else {
                    continue;
                };
                let hosts = [&*conn.ends[0].host, &*conn.ends[1].host];
                if hosts == [a, b] || hosts == [b, a] {
                    under_way |= conn.ends.iter().any(|end| end.unread_bytes > 0);
                    for side in [0, 1] {
                        conn.reset(side);
                        conn.ends[side].wake_into(&mut state.wake);
                    }
                }
            }
            under_way
        })
    }

    /// How many writes had to wait because their receiver did not read.
    #[must_use]
    pub fn stalled_writes(&self) -> u64 {
        self.with(|state, _| state.stalled_writes)
    }

    /// How many connections some live process still holds an end of.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.with(|state, _| state.conns.len())
    }
}

/// The host under `side` lost power: its kernel forgets the connection, and what it would have sent
/// again. Packets already on the wire still arrive.
fn vanish(conn: &mut Conn, side: usize) {
    conn.ends[side].vanished = true;
    conn.ends[1 - side].forget_held();
}

impl State {
    /// Every end of a connection on `host`, as (connection, side).
    fn ends_on(&self, host: &HostName) -> Vec<(u64, usize)> {
        let ends = self.conns.iter().flat_map(|(id, conn)| [(*id, 0, conn), (*id, 1, conn)]);
        ends.filter(|(_, side, conn)| conn.ends[*side].host == *host)
            .map(|(id, side, _)| (id, side))
            .collect()
    }

    /// The process on `host` ends: listeners go, open connections get a reset when something was left
    /// unread and end of file otherwise, as Linux does it.
    fn end_process(&mut self, host: &HostName, now: Instant) {
        self.listeners.retain(|(listening, _), _| listening != host);
        for (id, side) in self.ends_on(host) {
            self.settle(id, now);
            let unread = self.conns.get(&id).map(|conn| &conn.ends[side]);
            if unread.is_some_and(|end| end.open && !end.arrived.is_empty()) {
                self.send_reset(id, side, now);
                self.let_go(id, side);
            } else {
                self.close(id, side, now);
            }
        }
        if let Some(host) = self.topology.hosts.get_mut(host) {
            host.epoch += 1;
        }
    }
}
