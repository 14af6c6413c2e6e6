//! No component spins: the actions of a node in one virtual second are bounded.
//!
//! A loop that retries without a pause breaks no promise, so no other checker sees it. On a real
//! machine it takes a processor, fills the disk with log lines, and hides the error that it cannot
//! get past. For each node and virtual second, this checker counts:
//!
//! | count | catches |
//! |---|---|
//! | requests to peers | any loop that calls |
//! | the same append to the same peer | a leader whose follower refuses an append again and again |
//! | connections | a loop that reconnects, or joins |
//! | log lines, by the program's default filter | a loop that complains |
//!
//! The bounds are above the most that clean sweeps needed, so a busy second passes. A loop runs at
//! the speed of its round trip: thousands of times a second on a fast network, hundreds on the
//! slowest that is drawn.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;
use yakt::raft::NodeId;
use yakt::raft::network::client::RECONNECT_PAUSE;
use yakt::raft::observe::Message;

/// Requests that a node sends to all its peers in a second.
pub const REQUESTS_MAX: u64 = 20_000;

/// Sendings of one append to one peer in a second, with no other append to that peer in between.
pub const RESENT_MAX: u64 = 30;

/// Connections that a node asks for in a second: twenty for each of three channels to four peers,
/// and those of a node that joins or looks for another.
pub const CONNECTS_MAX: u64 = 300;

const _: () = assert!(3 * 4 * (1_000 / RECONNECT_PAUSE.as_millis()) < CONNECTS_MAX as u128);

/// Log lines that a node writes in a second.
pub const LINES_MAX: u64 = 40;

/// The actions that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    /// A request to a peer.
    Request,
    /// A connection.
    Connect,
    /// A line in the log.
    Line,
}

impl Act {
    const fn most(self) -> u64 {
        match self {
            Self::Request => REQUESTS_MAX,
            Self::Connect => CONNECTS_MAX,
            Self::Line => LINES_MAX,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Request => "requests",
            Self::Connect => "connections",
            Self::Line => "log lines",
        }
    }
}

/// A count within one virtual second.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    second: u64,
    count: u64,
}

impl Window {
    /// Adds `count` at `now`; returns the sum of this second.
    fn add(&mut self, now: Duration, count: u64) -> u64 {
        if self.second != now.as_secs() {
            *self = Self { second: now.as_secs(), count: 0 };
        }
        self.count += count;
        self.count
    }
}

/// The last append to a peer, and how often it was sent.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    hash: u64,
    sent: Window,
}

/// Counts the actions of nodes.
#[derive(Debug, Default)]
pub struct SpinCheck {
    acts: BTreeMap<(NodeId, Act), Window>,
    appends: BTreeMap<(NodeId, NodeId), Last>,
}

impl SpinCheck {
    /// `node` did `act` `count` times, at the virtual time `now`.
    ///
    /// # Errors
    ///
    /// When the node exceeds the bound in this second.
    pub fn act(&mut self, node: NodeId, act: Act, now: Duration, count: u64) -> Result<(), String> {
        let sum = self.acts.entry((node, act)).or_default().add(now, count);
        if sum <= act.most() {
            return Ok(());
        }
        let (name, most) = (act.name(), act.most());
        Err(format!("spin: node {node} made {sum} {name} within a second, more than {most}"))
    }

    /// `node` sent `message` at the virtual time `now`.
    ///
    /// # Errors
    ///
    /// When the node sends too many requests, or the same append too often.
    pub fn sent(
        &mut self,
        node: NodeId,
        message: Message<'_>,
        now: Duration,
    ) -> Result<(), String> {
        self.act(node, Act::Request, now, 1)?;
        if message.kind != "append" {
            return Ok(());
        }
        let hash = hash(message.what);
        let last = self.appends.entry((node, message.peer)).or_default();
        if last.hash != hash {
            *last = Last { hash, sent: Window::default() };
        }
        let sent = last.sent.add(now, 1);
        if sent <= RESENT_MAX {
            return Ok(());
        }
        Err(format!(
            "spin: node {node} sent the same append to node {} {sent} times within a second: {}",
            message.peer, message.what
        ))
    }
}

/// Hashes a text without building it.
fn hash(text: &dyn fmt::Display) -> u64 {
    struct Hasher(Xxh3);
    impl Write for Hasher {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.update(text.as_bytes());
            Ok(())
        }
    }
    let mut hasher = Hasher(Xxh3::new());
    // Writing to the hasher does not fail.
    let _ = write!(hasher, "{text}");
    hasher.0.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append<'a>(peer: NodeId, what: &'a &'a str) -> Message<'a> {
        Message { number: 1, peer, kind: "append", what }
    }

    /// A follower that had lost acknowledged entries was sent the same append 9,000 times a second.
    #[test]
    fn a_leader_that_resends_the_same_append_without_a_pause_is_caught() {
        let mut check = SpinCheck::default();
        let mut caught = None;
        for attempt in 0..9_000_u64 {
            let now = Duration::from_micros(attempt * 1_000_000 / 9_000);
            if let Err(what) = check.sent(1, append(2, &"prev 7, entries 8..9"), now) {
                caught.get_or_insert((attempt, what));
            }
        }
        let (attempt, what) = caught.expect("it spins");
        assert_eq!(attempt, RESENT_MAX);
        assert!(what.starts_with("spin: node 1 sent the same append to node 2"), "{what}");
        assert!(what.ends_with("prev 7, entries 8..9"), "{what}");
    }

    #[test]
    fn appends_that_differ_and_heartbeats_are_not_resendings() {
        let mut check = SpinCheck::default();
        for index in 0..1_000_u64 {
            let text = format!("entries {index}..{}", index + 1);
            assert_eq!(check.sent(1, append(2, &text.as_str()), Duration::ZERO), Ok(()));
            let heartbeat = Message { kind: "heartbeat", ..append(2, &"entries none") };
            assert_eq!(check.sent(1, heartbeat, Duration::ZERO), Ok(()));
        }
        // The same to several peers, or again a second later.
        let mut check = SpinCheck::default();
        for round in 0..RESENT_MAX {
            for peer in 2..=5 {
                let now = Duration::from_secs(round / 10);
                assert_eq!(check.sent(1, append(peer, &"entries 8..9"), now), Ok(()));
            }
        }
    }

    #[test]
    fn each_kind_of_act_has_a_bound_a_second_and_node() {
        for (act, name) in
            [(Act::Request, "requests"), (Act::Connect, "connections"), (Act::Line, "log lines")]
        {
            let mut check = SpinCheck::default();
            let second = Duration::from_secs;
            assert_eq!(check.act(1, act, second(1), act.most()), Ok(()));
            assert_eq!(check.act(2, act, second(1), 1), Ok(()), "another node");
            assert_eq!(check.act(1, act, second(2), 1), Ok(()), "another second");
            assert_eq!(check.act(1, act, second(2), act.most() - 1), Ok(()));
            let what = check.act(1, act, second(2), 1).unwrap_err();
            assert!(what.contains(name) && what.contains("node 1"), "{what}");
        }
    }
}
