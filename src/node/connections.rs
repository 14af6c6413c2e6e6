//! Limits on the connections that a node holds.

/// Ordinary HTTP connections unless the caller asks for fewer. Each takes a file descriptor and
/// about 20 KiB.
pub const HTTP_CONNECTIONS_MAX: usize = 4_096;

/// Connections from other nodes unless the caller asks for fewer. A peer opens up to five, so 128
/// suffice for a cluster of a dozen nodes whose former connections have not timed out yet.
pub const RAFT_CONNECTIONS_MAX: usize = 128;

/// The limits on incoming connections of one node.
///
/// A process cannot open a file when its connections use up all descriptors. The embedding program
/// lowers these limits to fit its descriptor limit; `yakt node` does so at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Ordinary HTTP connections. The reserved ones
    /// ([`http::RESERVED_CONNECTIONS`](crate::http::RESERVED_CONNECTIONS) and
    /// [`http::FAREWELLS_MAX`](crate::http::FAREWELLS_MAX)) are extra.
    pub http: usize,
    /// Connections on the Raft port.
    pub raft: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { http: HTTP_CONNECTIONS_MAX, raft: RAFT_CONNECTIONS_MAX }
    }
}
