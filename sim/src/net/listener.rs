//! Binding, accepting and connecting: the parts of TCP that involve a name and a port.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use yakt::env::Listener;

use super::conn::Conn;
use super::topology::HostName;
use super::{Network, SimStream, State, next_retransmission};
use crate::disk::too_many_open_files;

/// Connections that wait to be accepted, at most; one more is answered with silence, as by Linux.
const BACKLOG_MAX: usize = 128;

/// How long TCP waits before it asks for a connection again; then twice as long, and so on (Linux's `TCP_TIMEOUT_INIT`).
/// Who waits for a connection for less, as YAKt's nodes and clients do, asks for another one.
const CONNECT_RETRANSMIT: Duration = Duration::from_secs(1);

/// How long a resolver waits before it asks a silent name service again.
const LOOKUP_RETRY: Duration = Duration::from_millis(500);

/// Names by which a host means itself.
const OWN_NAMES: [&str; 4] = ["0.0.0.0", "127.0.0.1", "localhost", "[::1]"];

/// What the network knows of a bound port.
#[derive(Debug)]
pub(super) struct Backlog {
    /// Tells this listener from an earlier one on the same port.
    id: u64,
    conns: VecDeque<u64>,
    acceptors: Vec<Waker>,
}

/// One process's access to the network. Once the process is dead, it does nothing any more.
#[derive(Clone)]
pub struct Interface {
    net: Network,
    host: HostName,
    epoch: u64,
}

impl fmt::Debug for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Interface({}, process {})", self.host, self.epoch)
    }
}

fn fenced() -> io::Error {
    io::Error::new(io::ErrorKind::NetworkDown, "this process is dead")
}

fn parse(addr: &str) -> io::Result<(&str, u16)> {
    let parts = addr.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    parts.ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("not a HOST:PORT: {addr}"))
    })
}

/// What became of a connection request on its arrival.
enum Request {
    Lost,
    Refused,
    Accepted(SimStream),
}

impl Interface {
    pub(super) fn new(net: Network, host: HostName, epoch: u64) -> Self {
        Self { net, host, epoch }
    }

    /// The host this process runs on.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    fn is_exhausted(&self) -> bool {
        self.net.with(|state, _| state.topology.exhausted.contains(&self.host))
    }

    fn is_live(&self, state: &State) -> bool {
        state.topology.epoch(&self.host) == Some(self.epoch)
    }

    /// Binds `addr`, whose host must be this one (or `0.0.0.0`, `localhost`); port 0 takes a free port.
    ///
    /// # Errors
    ///
    /// `AddrInUse`, `AddrNotAvailable` for another host's name, `InvalidInput` for what is no address.
    pub fn listen(&self, addr: &str) -> io::Result<SimListener> {
        let (name, port) = parse(addr)?;
        let (id, port) = self.net.with(|state, _| {
            let is_own =
                OWN_NAMES.contains(&name) || state.topology.resolve(name, port) == self.host;
            if !is_own {
                return Err(io::ErrorKind::AddrNotAvailable.into());
            }
            if !self.is_live(state) {
                return Err(fenced());
            }
            let port = match port {
                0 => state.free_port(&self.host)?,
                port => port,
            };
            state.bind(&self.host, port).map(|id| (id, port))
        })?;
        Ok(SimListener { interface: self.clone(), name: name.to_owned(), port, id })
    }

    /// Resolves `addr` to itself, since hosts are reached by their names. Without a name service it
    /// fails, or hangs until there is one again, as [`Network::fail_names`] said.
    ///
    /// # Errors
    ///
    /// `HostUnreachable` while lookups fail.
    pub async fn lookup(&self, addr: &str) -> io::Result<Vec<String>> {
        loop {
            match self
                .net
                .with(|state, _| state.nameless.get(&self.host).map(|outage| outage.hangs))
            {
                None => return Ok(vec![addr.to_owned()]),
                Some(false) => {
                    let message = "temporary failure in name resolution";
                    return Err(io::Error::new(io::ErrorKind::HostUnreachable, message));
                }
                Some(true) => self.net.sleep(LOOKUP_RETRY).await,
            }
        }
    }

    /// Connects to `addr`. Hangs while the network does not carry packets both ways or the host is down;
    /// callers bring their own deadline.
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` by a running host where nothing listens, or which refuses this one,
    /// `NotFound` for a host that was never started, `InvalidInput` for a string that is no
    /// address, `EMFILE` when this host has no descriptor left.
    pub async fn connect(&self, addr: &str) -> io::Result<SimStream> {
        let (name, port) = parse(addr)?;
        if self.is_exhausted() {
            return Err(too_many_open_files());
        }
        let to = if OWN_NAMES.contains(&name) {
            self.host.clone()
        } else {
            self.net.with(|state, _| state.topology.resolve(name, port))
        };
        if self.net.with(|state, _| state.topology.epoch(&to).is_none()) {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no such host: {name}")));
        }
        self.net.with(|state, _| *state.connects.entry(self.host.clone()).or_default() += 1);
        let begun = self.net.time().now_instant();
        loop {
            self.reachable(&to, begun).await;
            self.net.travel(&self.host, &to).await;
            match self.request(&to, port)? {
                Request::Lost => self.back_off(begun).await,
                Request::Refused => {
                    self.net.travel(&to, &self.host).await;
                    if self.net.with(|state, _| state.topology.carries(&to, &self.host)) {
                        return Err(io::ErrorKind::ConnectionRefused.into());
                    }
                }
                Request::Accepted(stream) => {
                    self.net.travel(&to, &self.host).await;
                    while !self.net.with(|state, _| state.reaches(&self.host, &to)) {
                        self.reachable(&to, begun).await;
                    }
                    // A host that lost power meanwhile has forgotten the handshake.
                    if !stream.peer_vanished() {
                        return Ok(stream);
                    }
                }
            }
        }
    }

    /// Waits until `to` runs, packets pass both ways, and TCP tries again what was `begun` then.
    async fn reachable(&self, to: &HostName, begun: Instant) {
        if self.net.with(|state, _| state.reaches(&self.host, to)) {
            return;
        }
        let waiting = Waiting {
            net: self.net.clone(),
            from: self.host.clone(),
            to: to.clone(),
            id: self.net.with(|state, _| state.next_id()),
        };
        waiting.await;
        self.back_off(begun).await;
    }

    /// Waits until TCP asks again for the connection that it asked for at `begun`.
    async fn back_off(&self, begun: Instant) {
        let delay = self.net.with(|_, now| {
            let soon = now + Duration::from_micros(1);
            next_retransmission(begun, soon, CONNECT_RETRANSMIT) - now
        });
        self.net.sleep(delay).await;
    }

    fn request(&self, to: &HostName, port: u16) -> io::Result<Request> {
        self.net.with(|state, _| {
            if !self.is_live(state) {
                return Err(fenced());
            }
            if !state.topology.carries(&self.host, to) {
                return Ok(Request::Lost);
            }
            let key = (to.clone(), port);
            let is_refused = state.topology.refuses(&self.host, to);
            let Some(backlog) = state.listeners.get(&key).filter(|_| !is_refused) else {
                state.trace.record(format_args!("net refuse {}->{to}:{port}", self.host));
                return Ok(Request::Refused);
            };
            if backlog.conns.len() >= BACKLOG_MAX {
                return Ok(Request::Lost);
            }
            let conn = state.next_id();
            state.conns.insert(conn, Conn::new(self.host.clone(), to.clone()));
            if let Some(backlog) = state.listeners.get_mut(&key) {
                backlog.conns.push_back(conn);
                state.wake.append(&mut backlog.acceptors);
            }
            state.trace.record(format_args!("net connect #{conn} {}->{to}:{port}", self.host));
            Ok(Request::Accepted(SimStream::new(self.net.clone(), conn, 0)))
        })
    }
}

/// Waits for a change of the topology that makes a host reachable.
struct Waiting {
    net: Network,
    from: HostName,
    to: HostName,
    id: u64,
}

impl Future for Waiting {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.net.with(|state, _| {
            if state.reaches(&self.from, &self.to) {
                return Poll::Ready(());
            }
            state.waiters.insert(self.id, cx.waker().clone());
            Poll::Pending
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.net.with(|state, _| state.waiters.remove(&self.id));
    }
}

/// A bound port. Dropping it frees the port and resets the connections nobody accepted.
#[derive(Debug)]
pub struct SimListener {
    interface: Interface,
    name: String,
    port: u16,
    id: u64,
}

impl SimListener {
    fn key(&self) -> (HostName, u16) {
        (self.interface.host.clone(), self.port)
    }
}

impl Listener for SimListener {
    type Stream = SimStream;

    fn accept(&self) -> impl Future<Output = io::Result<(SimStream, String)>> + Send {
        poll_fn(|cx| {
            self.interface.net.with(|state, _| {
                let backlog = state.listeners.get_mut(&self.key());
                // A dead process's listener never yields: an error would make an accept loop spin.
                let Some(backlog) = backlog.filter(|backlog| backlog.id == self.id) else {
                    return Poll::Pending;
                };
                // A connection that cannot be accepted stays in the backlog, as on Linux.
                let is_exhausted = state.topology.exhausted.contains(&self.interface.host);
                if is_exhausted && !backlog.conns.is_empty() {
                    return Poll::Ready(Err(too_many_open_files()));
                }
                if let Some(conn) = backlog.conns.pop_front() {
                    let from = state.conns.get(&conn).map(|conn| conn.ends[0].host.to_string());
                    let stream = SimStream::new(self.interface.net.clone(), conn, 1);
                    return Poll::Ready(Ok((stream, from.unwrap_or_default())));
                }
                if !backlog.acceptors.iter().any(|waker| waker.will_wake(cx.waker())) {
                    backlog.acceptors.push(cx.waker().clone());
                }
                Poll::Pending
            })
        })
    }

    fn local_addr(&self) -> io::Result<String> {
        Ok(format!("{}:{}", self.name, self.port))
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.interface.net.with(|state, now| {
            let key = self.key();
            if state.listeners.get(&key).is_some_and(|backlog| backlog.id == self.id)
                && let Some(backlog) = state.listeners.remove(&key)
            {
                for conn in backlog.conns {
                    state.close(conn, 1, now);
                }
            }
        });
    }
}

impl State {
    fn reaches(&self, from: &HostName, to: &HostName) -> bool {
        self.topology.carries(from, to) && self.topology.carries(to, from)
    }

    fn free_port(&mut self, host: &HostName) -> io::Result<u16> {
        for _ in 0..=u16::MAX {
            let port = self.topology.draw_port(host);
            if !self.listeners.contains_key(&(host.clone(), port)) {
                return Ok(port);
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    fn bind(&mut self, host: &HostName, port: u16) -> io::Result<u64> {
        let key = (host.clone(), port);
        if self.listeners.contains_key(&key) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let id = self.next_id();
        self.listeners.insert(key, Backlog { id, conns: VecDeque::new(), acceptors: Vec::new() });
        self.trace.record(format_args!("net listen {host}:{port}"));
        Ok(id)
    }
}
