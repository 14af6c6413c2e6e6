//! What a test takes from the machine, and gives back: a directory, a range of ports.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports that are handed out lie from here…
const PORTS_FIRST: u16 = 10_000;

/// …to here: below the ephemeral ports, from which the system takes one for every outgoing connection. A
/// node that is started again would now and then find its own port taken by one of those.
const PORTS_END: u16 = 32_000;

/// Ports of one range.
const RANGE: u16 = 64;

/// A directory that is gone when this is.
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// A fresh one in `parent`.
    pub(crate) fn new(parent: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("yakt-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = parent.join(name);
        // What an earlier process of the same id left behind.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a scratch directory");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A range of ports on the loopback interface that nobody else who asks here gets, in this process or
/// another, as long as this lives.
pub(crate) struct Ports {
    first: u16,
    /// The range's last port, held open: the system's own lock, which not even a crash leaves behind.
    _lock: TcpListener,
}

impl Ports {
    pub(crate) fn new() -> Self {
        let ranges = (PORTS_END - PORTS_FIRST) / RANGE;
        // Processes begin at different places, so that they seldom meet.
        let begin = u16::try_from(std::process::id() % u32::from(ranges)).unwrap_or(0);
        let tried = (0..ranges).map(|step| PORTS_FIRST + (begin + step) % ranges * RANGE);
        tried.into_iter().find_map(Self::claim).expect("a free range of ports")
    }

    fn claim(first: u16) -> Option<Self> {
        let lock = TcpListener::bind(loopback(first + RANGE - 1)).ok()?;
        let free = |port: u16| TcpListener::bind(loopback(port)).is_ok();
        (first..first + RANGE - 1).all(free).then_some(Self { first, _lock: lock })
    }

    pub(crate) fn first(&self) -> u16 {
        self.first
    }

    /// Node `id`'s Raft address, where `yakt up --port FIRST` has it too. Six nodes fit.
    pub(crate) fn raft(&self, id: u64) -> SocketAddr {
        assert!((1..=6).contains(&id), "no ports for node {id}");
        loopback(self.first + 10 * (u16::try_from(id).unwrap_or(1) - 1))
    }

    /// Node `id`'s HTTP address, one above.
    pub(crate) fn http(&self, id: u64) -> SocketAddr {
        loopback(self.raft(id).port() + 1)
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
