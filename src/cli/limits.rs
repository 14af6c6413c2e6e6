//! The process's limit on open file descriptors, and the connections that fit below it.

use yakt::http::{FAREWELLS_MAX, RESERVED_CONNECTIONS};
use yakt::node::ConnectionLimits;

/// Descriptors for everything but accepted connections: the log's files (a dozen before a snapshot,
/// 16 MiB each), the snapshot's file, up to five connections to each of a dozen peers, standard
/// streams and the runtime's own.
const RESERVE: usize = 128;

/// HTTP connections that are accepted even if they exceed the limit: a node without any is of no
/// use.
const HTTP_MIN: usize = 16;

/// Connections of peers that are accepted even if they exceed it: five for each of six peers.
const RAFT_MIN: usize = 32;

/// Raises the soft limit on descriptors to the hard one, and returns the connections that fit below
/// it. Warns when these are fewer than usual.
pub(super) fn connections() -> ConnectionLimits {
    let Some(descriptors) = raise() else { return ConnectionLimits::default() };
    let (limits, needed) = (fit(descriptors), needed(ConnectionLimits::default()));
    if limits != ConnectionLimits::default() {
        tracing::warn!(
            descriptors,
            needed,
            http = limits.http,
            raft = limits.raft,
            "the limit on file descriptors is low, and so fewer connections are accepted; \
             raise the hard limit (ulimit -Hn)"
        );
    }
    limits
}

/// The limit after it was raised; `None` when there is no limit, and on systems other than Linux.
#[cfg(target_os = "linux")]
fn raise() -> Option<usize> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let soft = limit.current;
    limit.current = limit.maximum;
    let reached = match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit on file descriptors");
            soft
        }
    };
    reached.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(not(target_os = "linux"))]
fn raise() -> Option<usize> {
    None
}

/// Descriptors that `limits` take, the reserve included.
fn needed(limits: ConnectionLimits) -> usize {
    limits.http + limits.raft + RESERVED_CONNECTIONS + FAREWELLS_MAX + RESERVE
}

/// The connections that fit below a limit of `descriptors`. Peers come first: they take a quarter
/// of the room, at least [`RAFT_MIN`] and at most the default.
fn fit(descriptors: usize) -> ConnectionLimits {
    let usual = ConnectionLimits::default();
    let room = descriptors.saturating_sub(RESERVED_CONNECTIONS + FAREWELLS_MAX + RESERVE);
    let raft = usual.raft.min((room / 4).max(RAFT_MIN));
    let http = usual.http.min(room.saturating_sub(raft).max(HTTP_MIN));
    ConnectionLimits { http, raft }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_stay_below_the_limit_with_a_reserve() {
        assert_eq!(fit(usize::MAX), ConnectionLimits::default());
        assert_eq!(fit(needed(ConnectionLimits::default())), ConnectionLimits::default());
        let least = ConnectionLimits { http: HTTP_MIN, raft: RAFT_MIN };
        for descriptors in needed(least)..5_000 {
            assert!(needed(fit(descriptors)) <= descriptors, "{descriptors}");
        }
        assert_eq!(fit(1_024), ConnectionLimits { http: 640, raft: 128 });
        assert_eq!(fit(0), least);
    }
}
