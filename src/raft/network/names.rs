//! Connections by name, also while the name service is down.
//!
//! A cluster whose nodes know each other by name needs the name service for each new connection, and
//! an election makes many of them. [`Names`] keeps the cluster independent of it:
//!
//! - Each name has at most one lookup under way, however many callers wait for it.
//! - The addresses of the last successful lookup, and the one that last accepted a connection, are
//!   remembered. They are used when a lookup fails, or takes longer than [`LOOKUP_PATIENCE`].
//! - Every new connection asks the name service again, unless the last lookup ended less than
//!   [`LOOKUP_INTERVAL`] ago. A peer that moved is found as soon as the name service knows it.
//! - [`prepare`](Names::prepare) looks a name up before anyone connects. Followers seldom call each
//!   other, so without it they would have nothing to remember when their leader dies.
//!
//! The memory ends with the process: a node that starts during an outage knows no address.

use std::collections::BTreeMap;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::env::{Env, rt};
use crate::raft::config::CONNECT_DEADLINE;

/// How long a caller waits for a lookup when it has a remembered address. A name service in the same
/// network answers within a few milliseconds; the rest of [`CONNECT_DEADLINE`] is for connecting.
pub const LOOKUP_PATIENCE: Duration = Duration::from_millis(100);

/// Shortest time between the end of one lookup of a name and the begin of the next: a peer that is
/// down is called twice a second, and its name need not be asked for as often.
pub const LOOKUP_INTERVAL: Duration = Duration::from_secs(1);

/// How long one of several addresses may take to accept a connection before the next one is tried.
const ADDRESS_PATIENCE: Duration = Duration::from_millis(150);

/// Addresses of one name that are used. More would not be tried within [`CONNECT_DEADLINE`].
const ADDRESSES_MAX: usize = 4;

/// Names that are remembered. A cluster has far fewer members; the rest are former addresses of theirs.
const NAMES_MAX: usize = 256;

const _: () = assert!(LOOKUP_PATIENCE.as_millis() < CONNECT_DEADLINE.as_millis());
const _: () = assert!(ADDRESS_PATIENCE.as_millis() < CONNECT_DEADLINE.as_millis());

/// Resolves names and connects to them. Clones share one memory: a node has one for all its channels.
pub struct Names<E: Env> {
    env: E,
    known: Arc<Mutex<Known<E>>>,
}

impl<E: Env> Clone for Names<E> {
    fn clone(&self) -> Self {
        Self { env: self.env.clone(), known: Arc::clone(&self.known) }
    }
}

impl<E: Env> std::fmt::Debug for Names<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").finish_non_exhaustive()
    }
}

struct Known<E: Env> {
    names: BTreeMap<String, Name<E>>,
    /// Counts the uses, to find the name that was not used for longest.
    uses: u64,
}

/// What is known of one name.
struct Name<E: Env> {
    /// The address that last accepted a connection.
    worked: Option<E::Address>,
    /// The addresses of the last successful lookup.
    found: Vec<E::Address>,
    /// When the last lookup ended, and why it failed, if it did.
    looked_up: Option<(rt::Instant<E>, Option<Failure>)>,
    /// The lookup that is under way.
    lookup: Option<Pending>,
    used: u64,
}

/// Turns `Some` when a lookup ends, with the reason if it failed.
type Pending = watch::Receiver<Option<Option<Failure>>>;

/// An error that several callers wait for. [`io::Error`] has no clones.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    kind: io::ErrorKind,
    message: String,
}

impl Failure {
    pub(super) fn new(kind: io::ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

impl From<Failure> for io::Error {
    fn from(Failure { kind, message }: Failure) -> Self {
        Self::new(kind, message)
    }
}

impl<E: Env> Name<E> {
    fn new() -> Self {
        Self { worked: None, found: Vec::new(), looked_up: None, lookup: None, used: 0 }
    }

    /// The addresses to try, in order: the one that last worked, unless a successful lookup knows it
    /// no more, then the others.
    fn candidates(&self) -> Vec<E::Address> {
        let failed = self.looked_up.as_ref().is_none_or(|(_, failure)| failure.is_some());
        let first = self.worked.iter().filter(|address| failed || self.found.contains(address));
        let mut candidates: Vec<E::Address> = Vec::new();
        for address in first.chain(&self.found).chain(&self.worked) {
            if !candidates.contains(address) {
                candidates.push(address.clone());
            }
        }
        candidates.truncate(ADDRESSES_MAX);
        candidates
    }
}

impl<E: Env> Names<E> {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(env: E) -> Self {
        let known = Known { names: BTreeMap::new(), uses: 0 };
        Self { env, known: Arc::new(Mutex::new(known)) }
    }

    /// The environment in which names are resolved.
    #[must_use]
    pub fn env(&self) -> &E {
        &self.env
    }

    /// Opens a connection to `addr`, a `HOST:PORT`. May hang; callers bring their own deadline.
    ///
    /// # Errors
    ///
    /// The lookup's, if it failed and no address is remembered; otherwise that of the last address
    /// tried.
    pub async fn connect(&self, addr: &str) -> io::Result<E::Stream> {
        let mut candidates = self.resolve(addr).await?;
        let Some(last) = candidates.pop() else {
            let message = format!("the name in {addr} has no address");
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        };
        for address in candidates {
            let connected = rt::timeout::<E, _>(ADDRESS_PATIENCE, self.env.connect(&address)).await;
            if let Some(Ok(stream)) = connected {
                self.remember(addr, address);
                return Ok(stream);
            }
        }
        let stream = self.env.connect(&last).await?;
        self.remember(addr, last);
        Ok(stream)
    }

    /// Looks `addr` up in the background, unless a lookup succeeded less than `age` ago: the addresses
    /// are there when a connection is needed and the name service does not answer. A lookup that failed
    /// does not count, so the end of an outage is noticed by the next call.
    pub fn prepare(&self, addr: &str, age: Duration) {
        let failed = self.with(addr, |name| matches!(name.looked_up, Some((_, Some(_)))));
        let interval = if failed { LOOKUP_INTERVAL } else { age.max(LOOKUP_INTERVAL) };
        drop(self.look_up(addr, interval));
    }

    /// The addresses to try for `addr`, in order.
    async fn resolve(&self, addr: &str) -> io::Result<Vec<E::Address>> {
        if let Some(mut lookup) = self.look_up(addr, LOOKUP_INTERVAL) {
            // Fails only if the lookup's task is gone, with its process.
            let ended = async move { drop(lookup.wait_for(Option::is_some).await.map(drop)) };
            if self.with(addr, |name| name.candidates().is_empty()) {
                ended.await;
            } else {
                rt::timeout::<E, _>(LOOKUP_PATIENCE, ended).await;
            }
        }
        self.with(addr, |name| {
            let candidates = name.candidates();
            match &name.looked_up {
                Some((_, Some(failure))) if candidates.is_empty() => Err(failure.clone().into()),
                _ => Ok(candidates),
            }
        })
    }

    /// Begins a lookup of `addr`, or joins the one that is under way. Returns `None` when the last one
    /// is younger than `interval`, or no name service was needed.
    fn look_up(&self, addr: &str, interval: Duration) -> Option<Pending> {
        let (ended, pending) = watch::channel(None);
        let joined = self.with(addr, |name| {
            if let Some(lookup) = &name.lookup {
                return Some(Some(lookup.clone()));
            }
            let last = name.looked_up.as_ref().map(|(at, _)| *at);
            if last.is_some_and(|at| rt::now::<E>() < at + interval) {
                return Some(None);
            }
            name.lookup = Some(pending.clone());
            None
        });
        if let Some(joined) = joined {
            return joined;
        }
        let (env, name) = (self.env.clone(), addr.to_owned());
        let mut lookup: BoxFuture<'static, io::Result<Vec<E::Address>>> =
            Box::pin(async move { env.lookup(&name).await });
        if let Some(result) = (&mut lookup).now_or_never() {
            drop(self.end(addr, result));
            return None;
        }
        // A task of its own: it goes on when its callers give up, and answers those that come later.
        let (names, addr) = (self.clone(), addr.to_owned());
        drop(rt::spawn::<E, _>(async move {
            // A lookup that panics is one that failed: the next caller begins another.
            let result = AssertUnwindSafe(lookup).catch_unwind().await;
            let result = result.unwrap_or_else(|_| Err(io::Error::other("the lookup panicked")));
            ended.send_replace(Some(names.end(&addr, result)));
        }));
        Some(pending)
    }

    /// Notes the end of a lookup of `addr`. Returns the reason if it failed.
    fn end(&self, addr: &str, result: io::Result<Vec<E::Address>>) -> Option<Failure> {
        self.with(addr, |name| {
            let failure = match result {
                Ok(found) => {
                    name.found = found;
                    None
                }
                Err(error) => Some(Failure::new(
                    error.kind(),
                    format!("the name in {addr} cannot be resolved: {error}"),
                )),
            };
            name.lookup = None;
            name.looked_up = Some((rt::now::<E>(), failure.clone()));
            failure
        })
    }

    fn remember(&self, addr: &str, address: E::Address) {
        self.with(addr, |name| name.worked = Some(address));
    }

    fn with<T>(&self, addr: &str, act: impl FnOnce(&mut Name<E>) -> T) -> T {
        let mut known: MutexGuard<'_, Known<E>> =
            self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.uses += 1;
        let uses = known.uses;
        if !known.names.contains_key(addr) {
            known.make_room();
        }
        let name = known.names.entry(addr.to_owned()).or_insert_with(Name::new);
        name.used = uses;
        act(name)
    }
}

impl<E: Env> Known<E> {
    /// Forgets the name that was not used for longest, if there are too many.
    fn make_room(&mut self) {
        if self.names.len() < NAMES_MAX {
            return;
        }
        let idle = self.names.iter().min_by_key(|(_, name)| (name.lookup.is_some(), name.used));
        if let Some(addr) = idle.map(|(addr, _)| addr.clone()) {
            self.names.remove(&addr);
        }
    }
}
