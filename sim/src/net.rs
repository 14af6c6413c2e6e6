//! A model of TCP between named hosts, with the failures real networks have.
//!
//! Promises:
//!
//! - bytes of a stream arrive in order and unaltered, or not at all; at most a window of them
//!   ([`NetConfig::window_bytes`]) is unread or under way in each direction, then writes wait;
//! - each directed link has a latency, drawn per write, and either carries packets or makes them
//!   **vanish**. Vanished bytes are not lost: TCP sends them again, after pauses that double
//!   (`next_retransmission`), so they arrive in order some time after the link heals, if both ends still
//!   live: soon after a short block, up to two minutes after a long one. New connections over a link that is
//!   blocked in either direction hang;
//! - a link can **drop large writes** ([`Network::drop_larger`]): a write of more bytes vanishes,
//!   and the data behind it on its connection waits for it. Handshakes and small writes on other
//!   connections pass;
//! - a host can **refuse** the connections that another one opens ([`Network::refuse`]), and still
//!   open connections itself in the other direction;
//! - a host that **loses power** ([`Network::crash_host`]) says nothing. Its peers learn of it only when
//!   something they sent reaches the next incarnation, which answers with a reset; until then their
//!   reads hang, and connecting to the host hangs;
//! - a **killed process** ([`Network::kill_process`]) has its connections closed by its kernel: peers see
//!   end of file (a reset, if it had not read everything) once that can reach them;
//! - names resolve to themselves immediately, or, on hosts whose name service is down
//!   ([`Network::fail_names`]), not at all;
//! - dropping a stream sends end of file after the bytes before it; data that arrives for a dropped
//!   stream is answered with a reset;
//! - a running host with nobody listening refuses after a round trip;
//! - handles of a dead process are **fenced**: they fail or hang, and change nothing, so that `Drop` code
//!   which madsim runs after a kill cannot turn a crash into a farewell.
//!
//! Time costs no tasks: everything under way carries its time of arrival, and who waits for it sleeps
//! until then (see `conn`).
//!
//! Left out: bandwidth, congestion, acknowledgements (a one-way block does not stall the open
//! direction), keep-alive and retransmission giving up (minutes, on real systems), round trips in the pause
//! before the first retransmission, the reset that a kernel sends when a live process closes a stream it
//! has not read to the end. A reset is held back like the bytes before it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use madsim::time::TimeHandle;

use crate::rng::{SeededRng, SimRng};
use crate::runtime::SimSleep;
use crate::trace::Trace;

mod conn;
mod faults;
mod listener;
mod stream;
#[cfg(test)]
mod tests;
mod topology;

pub(crate) use self::topology::HostName;
pub use self::{
    listener::{Interface, SimListener},
    stream::SimStream,
};

use self::conn::{Arrival, Conn, Happened, Payload, Reset};
use self::listener::Backlog;
use self::topology::Topology;

/// What a network is like when nothing is broken.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Latency of links between two hosts, one way, unless set per link.
    pub latency: Range<Duration>,
    /// Latency from a host to itself.
    pub latency_loopback: Range<Duration>,
    /// Bytes that may be unread or under way in one direction of a stream.
    pub window_bytes: usize,
}

impl Default for NetConfig {
    /// A local network: 1 to 4 ms, 64 KiB windows.
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(1)..Duration::from_millis(4),
            latency_loopback: Duration::from_micros(20)..Duration::from_micros(100),
            window_bytes: 64 * 1024,
        }
    }
}

/// A cheap-to-clone handle on the network of one simulation.
#[derive(Clone)]
pub struct Network {
    time: TimeHandle,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

/// An outage of a host's lookups of names.
#[derive(Clone, Copy, Debug)]
struct NameOutage {
    /// How many outages are on.
    count: u64,
    /// Whether lookups hang; otherwise they fail immediately.
    hangs: bool,
}

struct State {
    config: NetConfig,
    rng: SeededRng,
    trace: Trace,
    topology: Topology,
    conns: BTreeMap<u64, Conn>,
    listeners: BTreeMap<(HostName, u16), Backlog>,
    /// The hosts whose lookups of names do not succeed.
    nameless: BTreeMap<HostName, NameOutage>,
    /// When the last outage of a host's lookups ended.
    named: BTreeMap<HostName, Instant>,
    /// Connections that each host has asked for since the start.
    connects: BTreeMap<HostName, u64>,
    /// Connects that wait for the topology to change.
    waiters: BTreeMap<u64, Waker>,
    /// Tasks to wake once the lock is released.
    wake: Vec<Waker>,
    id_last: u64,
    stalled_writes: u64,
}

impl Network {
    /// A network without hosts. Must be called inside a simulation, whose seed it draws from.
    #[must_use]
    pub fn new(config: NetConfig, trace: Trace) -> Self {
        Self {
            time: TimeHandle::current(),
            state: Arc::new(Mutex::new(State {
                config,
                rng: SeededRng::fork(&mut SimRng),
                trace,
                topology: Topology::default(),
                conns: BTreeMap::new(),
                listeners: BTreeMap::new(),
                nameless: BTreeMap::new(),
                named: BTreeMap::new(),
                connects: BTreeMap::new(),
                waiters: BTreeMap::new(),
                wake: Vec::new(),
                id_last: 0,
                stalled_writes: 0,
            })),
        }
    }

    /// Runs `act` on the state at the present moment, then wakes whom it concerns.
    fn with<R>(&self, act: impl FnOnce(&mut State, Instant) -> R) -> R {
        let now = self.time.now_instant();
        let (result, wake) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let result = act(&mut state, now);
            (result, std::mem::take(&mut state.wake))
        };
        for waker in wake {
            waker.wake();
        }
        result
    }

    fn time(&self) -> &TimeHandle {
        &self.time
    }

    async fn sleep(&self, duration: Duration) {
        SimSleep::until_exactly(&self.time, self.time.now_instant() + duration).await;
    }

    /// Waits as long as a packet takes.
    async fn travel(&self, from: &HostName, to: &HostName) {
        let latency = self.with(|state, _| state.draw_latency(from, to));
        self.sleep(latency).await;
    }
}

/// How long TCP waits for an acknowledgement before it sends again (Linux's `TCP_RTO_MIN`).
const RETRANSMIT_FIRST: Duration = Duration::from_millis(200);

/// The longest that TCP pauses between two retransmissions (Linux's `TCP_RTO_MAX`).
const RETRANSMIT_INTERVAL_MAX: Duration = Duration::from_mins(2);

/// When, not before `now`, TCP sends again what it first sent at `since`: after `first`, then after twice as long each
/// time (RFC 6298 §5.5).
fn next_retransmission(since: Instant, now: Instant, first: Duration) -> Instant {
    let (mut at, mut pause) = (since + first, first);
    while at < now {
        pause = (2 * pause).min(RETRANSMIT_INTERVAL_MAX);
        at += pause;
    }
    at
}

/// The packets that a directed link carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Passing {
    /// Whether it carries any.
    any: bool,
    /// Bytes of the largest write that passes; `None` for any.
    size_max: Option<usize>,
}

impl State {
    fn next_id(&mut self) -> u64 {
        self.id_last += 1;
        self.id_last
    }

    fn draw_latency(&mut self, from: &HostName, to: &HostName) -> Duration {
        self.topology.draw_latency(&mut self.rng, &self.config, from, to)
    }

    /// When a packet sent now would arrive.
    fn arrival(&mut self, from: &HostName, to: &HostName, now: Instant) -> Arrival {
        if self.topology.carries(from, to) {
            Arrival::At(now + self.draw_latency(from, to))
        } else {
            Arrival::Held
        }
    }

    /// Makes everything happen on connection `id` that is due by `now`.
    fn settle(&mut self, id: u64, now: Instant) {
        let Self { conns, topology, rng, config, trace, wake, .. } = self;
        let Some(conn) = conns.get_mut(&id) else {
            return;
        };
        conn.settle(
            now,
            |conn, side| {
                let (from, to) = (&conn.ends[side].host, &conn.ends[1 - side].host);
                topology.carries(from, to).then(|| topology.draw_latency(rng, config, from, to))
            },
            |conn, happened| match happened {
                Happened::Data { side, bytes } => {
                    trace.record(format_args!(
                        "net deliver #{id} {bytes}B to {}",
                        conn.ends[side].host
                    ));
                }
                Happened::Eof { side } => {
                    trace.record(format_args!("net eof #{id} to {}", conn.ends[side].host));
                }
                Happened::Reset { side } => {
                    trace.record(format_args!("net reset #{id} to {}", conn.ends[side].host));
                }
            },
        );
        // A reset is news for whoever waits on the other half of the same end.
        for end in conn.ends.iter_mut().filter(|end| end.error.is_some()) {
            end.wake_into(wake);
        }
    }

    /// Queues `payload` from `side` to its peer and tells who must look again.
    fn send(&mut self, id: u64, side: usize, now: Instant, payload: Payload) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        let (from, to) = (conn.ends[side].host.clone(), conn.ends[1 - side].host.clone());
        let size_max = self.topology.size_max(&from, &to);
        let arrival = if size_max.is_some_and(|size_max| payload.bytes() > size_max) {
            Arrival::Held
        } else {
            self.arrival(&from, &to, now)
        };
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.ends[1 - side].push(now, arrival, payload);
        self.wake.extend(conn.ends[1 - side].reader.take());
        if !conn.ends[1 - side].open {
            // The answer will be a reset: the sender's own reader must wait for that too.
            self.wake.extend(conn.ends[side].reader.take());
        }
    }

    /// Ends what `side` sends, once.
    fn send_fin(&mut self, id: u64, side: usize, now: Instant) {
        let Some(end) = self.conns.get_mut(&id).map(|conn| &mut conn.ends[side]) else {
            return;
        };
        if end.open && !end.fin_sent && end.error.is_none() {
            end.fin_sent = true;
            self.send(id, side, now, Payload::Fin);
        }
    }

    /// The process lets go of `side`: end of file to the peer. Nothing for an end that is already gone.
    fn close(&mut self, id: u64, side: usize, now: Instant) {
        self.settle(id, now);
        if !self.conns.get(&id).is_some_and(|conn| conn.ends[side].open) {
            return;
        }
        self.send_fin(id, side, now);
        self.let_go(id, side);
    }

    fn let_go(&mut self, id: u64, side: usize) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.ends[side].let_go();
        for end in &mut conn.ends {
            end.wake_into(&mut self.wake);
        }
        if conn.is_over() {
            self.conns.remove(&id);
        }
    }

    /// A reset from `side` to its peer, behind the data already under way.
    fn send_reset(&mut self, id: u64, side: usize, now: Instant) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        let (from, to) = (conn.ends[side].host.clone(), conn.ends[1 - side].host.clone());
        let mut arrival = self.arrival(&from, &to, now);
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let peer = &mut conn.ends[1 - side];
        if let (Arrival::At(at), Some(last)) = (&mut arrival, peer.last_arrival()) {
            *at = last.max(*at);
        }
        if peer.open && peer.error.is_none() && peer.reset.is_none() {
            if arrival == Arrival::Held {
                peer.held_since.get_or_insert(now);
            }
            peer.reset = Some(Reset { arrival, answers_data: false });
        }
    }

    /// Changes the topology: what was under way on links that stop carrying is held, what was held on
    /// links that carry again is on its way, and every waiting connect looks again.
    fn retopology(&mut self, now: Instant, change: impl FnOnce(&mut Topology)) {
        let ids: Vec<u64> = self.conns.keys().copied().collect();
        for id in &ids {
            self.settle(*id, now);
        }
        let before: Vec<_> = self.conns.values().map(|conn| self.passes_to(conn)).collect();
        change(&mut self.topology);
        for (id, before) in ids.into_iter().zip(before) {
            let Some(conn) = self.conns.get(&id) else {
                continue;
            };
            let after = self.passes_to(conn);
            for side in [0, 1] {
                if before[side] != after[side] {
                    self.switch(id, side, after[side], now);
                }
            }
        }
        self.wake.extend(std::mem::take(&mut self.waiters).into_values());
    }

    /// The packets that arrive at each end of `conn`.
    fn passes_to(&self, conn: &Conn) -> [Passing; 2] {
        [0, 1].map(|side: usize| {
            let (from, to) = (&conn.ends[1 - side].host, &conn.ends[side].host);
            let size_max = self.topology.size_max(from, to);
            Passing { any: self.topology.carries(from, to), size_max }
        })
    }

    /// The direction to `side` of connection `id` begins or ceases to carry packets, or large ones.
    fn switch(&mut self, id: u64, side: usize, passing: Passing, now: Instant) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        let (from, to) = (conn.ends[1 - side].host.clone(), conn.ends[side].host.clone());
        let latency = self.draw_latency(&from, &to);
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if passing.any {
            let since = conn.ends[side].held_since.unwrap_or(now);
            let again = next_retransmission(since, now, RETRANSMIT_FIRST);
            conn.ends[side].release(again + latency, passing.size_max);
        } else {
            conn.ends[side].hold(now);
        }
        for end in &mut conn.ends {
            end.wake_into(&mut self.wake);
        }
    }
}
