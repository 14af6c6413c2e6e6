//! Timing and bounds of consensus. Every number of the Raft layer is here, with its reason.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, ConfigError, SnapshotPolicy};

/// How often a leader speaks to an otherwise idle follower, and how long it waits for the answer: openraft has one number
/// for both. A leader that no majority answers in time takes no writes, so round trips have to be shorter: see
/// [`RaftOptions::with_heartbeat_interval`].
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(40);

/// The longest heartbeat interval that nodes are started with. With it an election takes up to two seconds, and what asks other
/// nodes, a read at a follower or a handover, makes two round trips and more: those fit into the limits that
/// there are for them (`node`), and more would not.
pub const HEARTBEAT_INTERVAL_MAX: Duration = Duration::from_millis(150);

/// The shortest and the longest randomized election timeout (Raft §5.2).
///
/// A follower holds the leader's lease for the longest, and only then waits out its own random
/// timeout (openraft adds the two), so a dead leader is missed after 280 to 400 ms, and a leader
/// that is merely slow has five heartbeats to be heard.
pub const ELECTION_TIMEOUT_MIN: Duration = Duration::from_millis(80);
/// See [`ELECTION_TIMEOUT_MIN`].
pub const ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(200);

/// Entries in one `AppendEntries` at most. Its bytes are bounded by [`APPEND_BYTES_MAX`].
pub const APPEND_ENTRIES_MAX: u64 = 512;

/// Bytes of entries in one `AppendEntries` at most (the first entry always goes). Small enough that
/// a lagging follower's catch-up does not hold up the frames behind it for long.
pub const APPEND_BYTES_MAX: usize = 1 << 20;

/// Requests that replication keeps in flight to one follower.
pub const PIPELINE_DEPTH_MAX: usize = 64;

/// How much later than it could a follower may hear of a commit that nobody waits for there. A client that makes one write
/// after the other makes the next within that, and its entry brings the news.
pub const COMMIT_LINGER: Duration = Duration::from_millis(2);

/// Entries applied since the last snapshot that make a node take the next one, if the state is not so large that it waits
/// for more (see `state_machine`). As many as in etcd up to 3.5 and in `ZooKeeper` by default; at 400 bytes an entry they are
/// 38 MiB, where KRaft lets 20 pass (KIP-630).
pub const SNAPSHOT_ENTRIES: u64 = 100_000;

/// Bytes of entries since the last snapshot that make a node take the next one, however few they are: the log is in memory,
/// and a single entry may have 64 KiB.
pub const SNAPSHOT_LOG_BYTES: u64 = 64 << 20;

/// Entries kept behind a snapshot, so that a follower that was away briefly catches up from the log.
pub const LOG_ENTRIES_KEPT: u64 = 2_000;

/// Bytes of one file of the log. A larger one makes longer starts, a smaller one more files.
pub const LOG_SEGMENT_BYTES: u64 = 16 << 20;

/// Bytes of a snapshot in one frame.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;

/// So many chunks of a snapshot are written to the disk, and synced, at a time. The log is synced to the same disk, and
/// waits no longer than one of these takes: when five nodes of one machine take snapshots, the p99 of writes is 1.6 to 2.5
/// times what it is otherwise, with twice as many 3.0 to 3.3 times.
pub const SNAPSHOT_ROW_CHUNKS: usize = 2;

/// Bytes of a snapshot at most. A receiver refuses to buffer more.
pub const SNAPSHOT_BYTES_MAX: u64 = 2 << 30;

/// Bytes of one entry of the log at most: a command from a request's body of 64 KiB, or a
/// membership. The encoded command is shorter than its JSON; the rest is room for an idempotency
/// key and for addresses.
pub const ENTRY_BYTES_MAX: usize = 128 << 10;

/// Bytes of a frame at most, beside the entries or the snapshot's bytes in it: log ids and lengths
/// of [`APPEND_ENTRIES_MAX`] entries.
#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
const FRAME_OVERHEAD_BYTES_MAX: usize = 64 * APPEND_ENTRIES_MAX as usize;

/// Bytes of one frame on a Raft connection at most: the smallest power of two that holds the
/// largest legal frame, an append.
pub const FRAME_BYTES_MAX: usize = 2 << 20;

const _: () = {
    let append = APPEND_BYTES_MAX + ENTRY_BYTES_MAX + FRAME_OVERHEAD_BYTES_MAX;
    assert!(append <= FRAME_BYTES_MAX && append > FRAME_BYTES_MAX / 2);
    assert!(SNAPSHOT_CHUNK_BYTES + FRAME_OVERHEAD_BYTES_MAX <= FRAME_BYTES_MAX);
};

/// How long an `AppendEntries` may take: a disk commit of the follower under load. A partition that
/// drops its answer must not wedge replication for longer.
pub const APPEND_DEADLINE: Duration = Duration::from_millis(1_500);

/// How long a snapshot's chunk may take, and how long its installation.
pub const SNAPSHOT_CHUNK_DEADLINE: Duration = Duration::from_secs(3);
/// See [`SNAPSHOT_CHUNK_DEADLINE`].
pub const SNAPSHOT_INSTALL_DEADLINE: Duration = Duration::from_secs(30);

/// How long connecting to a peer may take.
pub const CONNECT_DEADLINE: Duration = Duration::from_millis(500);

/// What a cluster's operator, or a simulation that wants rare things often, may change.
#[derive(Clone, Debug)]
pub struct RaftOptions {
    /// See [`HEARTBEAT_INTERVAL`].
    pub heartbeat_interval: Duration,
    /// See [`ELECTION_TIMEOUT_MIN`].
    pub election_timeout_min: Duration,
    /// See [`ELECTION_TIMEOUT_MIN`].
    pub election_timeout_max: Duration,
    /// See [`SNAPSHOT_ENTRIES`].
    pub snapshot_entries: u64,
    /// See [`LOG_ENTRIES_KEPT`].
    pub log_entries_kept: u64,
    /// See [`LOG_SEGMENT_BYTES`].
    pub log_segment_bytes: u64,
    /// See [`SNAPSHOT_CHUNK_BYTES`]. At most half of [`FRAME_BYTES_MAX`].
    pub snapshot_chunk_bytes: usize,
}

impl RaftOptions {
    /// What holds unless something else is asked for.
    pub const DEFAULT: Self = Self {
        heartbeat_interval: HEARTBEAT_INTERVAL,
        election_timeout_min: ELECTION_TIMEOUT_MIN,
        election_timeout_max: ELECTION_TIMEOUT_MAX,
        snapshot_entries: SNAPSHOT_ENTRIES,
        log_entries_kept: LOG_ENTRIES_KEPT,
        log_segment_bytes: LOG_SEGMENT_BYTES,
        snapshot_chunk_bytes: SNAPSHOT_CHUNK_BYTES,
    };

    /// Bytes of a page of the snapshots' file: [`SNAPSHOT_ROW_CHUNKS`].
    #[must_use]
    pub const fn snapshot_page_bytes(&self) -> usize {
        SNAPSHOT_ROW_CHUNKS * self.snapshot_chunk_bytes
    }

    /// These options for nodes further apart: heartbeats so often, and election timeouts in proportion to them. Heartbeats
    /// are answered within `heartbeat_interval`, so that is more than the longest round trip between two nodes, and at most
    /// [`HEARTBEAT_INTERVAL_MAX`]. The same for all nodes of a cluster: where a majority misses its leaders sooner than the
    /// leader calls, it deposes one after the other.
    #[must_use]
    pub fn with_heartbeat_interval(self, heartbeat_interval: Duration) -> Self {
        let scaled = |timeout: Duration| {
            heartbeat_interval.mul_f64(timeout.as_secs_f64() / HEARTBEAT_INTERVAL.as_secs_f64())
        };
        Self {
            heartbeat_interval,
            election_timeout_min: scaled(ELECTION_TIMEOUT_MIN),
            election_timeout_max: scaled(ELECTION_TIMEOUT_MAX),
            ..self
        }
    }
}

impl Default for RaftOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// openraft's configuration.
///
/// # Errors
///
/// When `options` contradict openraft's rules.
pub fn raft_config(options: &RaftOptions) -> Result<Arc<Config>, ConfigError> {
    let config = Config {
        cluster_name: "yakt".to_owned(),
        heartbeat_interval: millis(options.heartbeat_interval),
        election_timeout_min: millis(options.election_timeout_min),
        election_timeout_max: millis(options.election_timeout_max),
        enable_pre_vote: Some(true),
        // See `candidacy`.
        enable_elect: false,
        // A restarted leader that trusted its old vote would serve reads from a state machine whose
        // committed entries it has not learned again. It must win an election like anyone.
        enable_leader_restore: Some(false),
        max_payload_entries: APPEND_ENTRIES_MAX,
        install_snapshot_timeout: millis(SNAPSHOT_INSTALL_DEADLINE),
        // The state machine says when.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: options.log_entries_kept,
        replication_lag_threshold: options.log_entries_kept.max(1_000),
        // A node that comes back is noticed within a second, at the cost of one refused connection.
        backoff: "20ms 50ms 100ms ..500ms".to_owned(),
        ..Config::default()
    };
    config.validate().map(Arc::new)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
