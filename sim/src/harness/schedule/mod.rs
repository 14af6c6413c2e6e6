//! A run as data: everything that will go wrong and everything that clients will ask, drawn from a seed before
//! anything runs, then played.
//!
//! Because a schedule is data, it can be written to a file, replayed, and made smaller: [`shrink`] looks for
//! the least of it that still fails. A schedule survives changes of the code better than a seed does: it says
//! "the leader loses power at 1.2 s", where a seed only says how the dice were thrown.

use serde::{Deserialize, Serialize};
use yakt::raft::NodeId;

use super::workload::plan::{Operation, is_zero};

mod cut;
mod descriptors;
pub mod draw;
mod identity;
mod links;
mod moments;
mod names;
mod operator;
pub mod play;
mod plot;
mod relapse;
pub mod shrink;
mod strike;

/// A whole run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// The scenario it was drawn for.
    pub scenario: String,
    /// The seed: of the drawing, and of everything that a schedule does not say (latencies, task order).
    pub seed: u64,
    /// What the cluster and its world are like.
    pub settings: Settings,
    /// What goes wrong, in order of time.
    pub faults: Vec<Planned>,
    /// What each client asks.
    pub clients: Vec<Vec<Operation>>,
}

/// What a cluster and its world are like. Times are in the unit that the name says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// How long the faults last, from when the cluster is formed.
    pub duration_millis: u64,
    /// [`yakt::raft::config::RaftOptions::heartbeat_interval`]; election timeouts keep their ratio to it.
    pub heartbeat_millis: u64,
    /// [`yakt::raft::config::RaftOptions::snapshot_entries`]
    pub snapshot_entries: u64,
    /// [`yakt::raft::config::RaftOptions::log_entries_kept`]
    pub log_entries_kept: u64,
    /// [`yakt::raft::config::RaftOptions::log_segment_bytes`]
    #[serde(default = "log_segment_bytes")]
    pub log_segment_bytes: u64,
    /// [`yakt::raft::config::RaftOptions::snapshot_chunk_bytes`]
    pub snapshot_chunk_bytes: usize,
    /// One-way latency of links, from and to.
    pub latency_micros: (u64, u64),
    /// How long the disk takes, from and to.
    pub disk_micros: (u64, u64),
    /// How far each node's clock is ahead (behind, if negative) at the start.
    pub clock_millis: Vec<i64>,
    /// How fast each node's clock gains.
    pub drift_ppm: Vec<i32>,
    /// Whether nodes are told only where the founder is, as in the README's start lines. Otherwise they
    /// are told where all are.
    #[serde(default)]
    pub founder_only: bool,
}

/// Of schedules that are older than the setting.
fn log_segment_bytes() -> u64 {
    1 << 20
}

/// A fault and its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Milliseconds since the cluster was formed.
    pub at: u64,
    /// What happens.
    pub fault: Fault,
}

/// Whom a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// This node.
    Node(NodeId),
    /// Whoever leads then; node 1 if nobody does.
    Leader,
    /// The one that comes this many places behind the leader.
    Follower(NodeId),
}

/// What a power loss leaves of unsynced writes: see [`CrashMode`](crate::disk::CrashMode).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// Nothing.
    Unsynced,
    /// Everything.
    Nothing,
    /// All up to some point, the next write torn.
    Prefix,
    /// Each write or not.
    Reordered,
    /// Each sector or not.
    Torn,
}

/// How links between nodes break around one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cut {
    /// It is alone.
    Alone,
    /// It and the next one are apart from the rest.
    Pair,
    /// It hears nobody.
    Deaf,
    /// Nobody hears it.
    Mute,
    /// Two sides that only it can talk to.
    Bridge,
    /// Each talks to its neighbours only.
    Ring,
    /// It does not hear the next one.
    OneLink,
}

/// How a disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFault {
    /// Reads fail.
    Read,
    /// Writes fail.
    Write,
    /// Syncs fail, and what they should have saved may be lost.
    Sync,
    /// There is no room.
    Full,
}

/// Something that goes wrong, or that an operator does. Durations are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the fields are targets, durations and sizes by their names")]
pub enum Fault {
    /// `kill -9`, and a restart after a while.
    Kill { target: Target, down: u64 },
    /// A power loss, and a restart after a while.
    Crash { target: Target, loss: Loss, down: u64 },
    /// A power loss in the middle of the n-th write from now.
    CrashInWrite { target: Target, writes: u64, loss: Loss, down: u64 },
    /// Several nodes lose power at once.
    CrashMany { first: NodeId, count: u64, loss: Loss, down: u64 },
    /// It loses power again and again, each time a while after it started.
    CrashLoop { target: Target, loss: Loss, times: u64, up: u64, down: u64 },
    /// It stands still, as by `SIGSTOP`.
    Pause { target: Target, length: u64 },
    /// A clean stop, and a restart after a while.
    Stop { target: Target, down: u64 },
    /// All nodes are stopped and started, one by one.
    RollingRestart { down: u64 },
    /// Links break between nodes, and heal.
    Cut { target: Target, cut: Cut, length: u64 },
    /// The leader is left alone, and after a while its successor too: three leaders, two of whose logs end in what
    /// nobody else has (Raft §5.4.2, figure 8).
    Contest {
        first: u64,
        second: u64,
        /// Clients that ask each of them when it is alone.
        #[serde(default)]
        crowd: u64,
        /// Whether all others are told to take a snapshot, and to purge what they may, in between.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        purged: bool,
    },
    /// What the leader's followers answer comes late, and they are asked on and on; then they hear no more of it,
    /// another is elected and writes, and the former one is read from while the answers still come in.
    Belated { latency: u64, writes: u64, gap: u64 },
    /// A node's removal stops half-way with its leader; the node is elected, completes it, is killed soon after, while it
    /// is written to, and read from when it is back.
    LameDuck { target: Target, gap: u64, after: u64 },
    /// A node is the whole cluster for a while and takes a snapshot; once the cluster has grown again, its disk is lost,
    /// and it is replaced under its id.
    Namesake { target: Target, grown: u64, down: u64 },
    /// A link comes and goes.
    Flap { from: Target, to: Target, times: u64, on: u64, off: u64 },
    /// A link is slow and jittery, both ways.
    SlowLink { from: Target, to: Target, latency: u64, length: u64 },
    /// A node is slow: its links and its disk.
    SlowNode { target: Target, latency: u64, length: u64 },
    /// Connections between two nodes are reset, whatever is under way.
    Reset { a: Target, b: Target },
    /// A client stops reading its answers.
    PauseClient { client: usize, length: u64 },
    /// A client and a node do not hear each other; or only the client does not hear the node, whose answers are lost.
    CutClient { client: usize, target: Target, deaf: bool, length: u64 },
    /// A client's connections to a node are reset, most likely between a request and its answer.
    ResetClient { client: usize, target: Target },
    /// The disk fails; whoever runs on it stops, and is started again when the disk works.
    Disk { target: Target, fault: DiskFault, length: u64 },
    /// The file descriptors are used up: no file is opened, and no connection is made or accepted.
    Descriptors { target: Target, length: u64 },
    /// The disk takes long.
    SlowDisk { target: Target, latency: u64, length: u64 },
    /// A power loss, after which bits are found flipped in data that was cold.
    Rot { target: Target, bits: u64, down: u64 },
    /// The directories of several nodes are put back to their contents of `age` milliseconds
    /// before. If `alone` is 0, the other nodes keep running. Otherwise they are killed too, and
    /// start `alone` milliseconds after the restored nodes.
    Restore {
        first: NodeId,
        count: u64,
        age: u64,
        down: u64,
        #[serde(default, skip_serializing_if = "is_zero")]
        alone: u64,
    },
    /// A power loss, after which the last record of the log is found damaged.
    DamageTail { target: Target, down: u64 },
    /// A clock is wrong by `seconds` for a while.
    WrongClock { target: Target, seconds: i64, length: u64 },
    /// A clock jumps, ahead or back.
    Jump { target: Target, millis: i64 },
    /// The node and its disk are gone; the operator removes it, and starts a new one under its id.
    Lose { target: Target, down: u64 },
    /// The operator removes a node, and after a while adds it again, with its old disk or without. Then it is killed
    /// and started again, each time after it was up for so long.
    Remove {
        target: Target,
        away: u64,
        wiped: bool,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        again: Vec<u64>,
        /// Whether its leader cannot reach it meanwhile.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unheard: bool,
    },
    /// A node is away until the others have purged what it lacks. When it is back for a while, and is sent their
    /// snapshot, it takes one of its own, on a disk that takes so long; then it is killed.
    Outrun { target: Target, away: u64, back: u64, disk: u64 },
    /// A node is killed, and comes back at another port of its host after a while.
    Move { target: Target, down: u64 },
    /// Two nodes are killed, and come back with their addresses exchanged after a while.
    Swap { a: Target, b: Target, down: u64 },
    /// A node is restarted with an address that leads others elsewhere, and after a while with its right one again.
    Misplace {
        target: Target,
        length: u64,
        /// Whether nothing listens at its right address meanwhile.
        lost: bool,
    },
    /// A copy of a node's directory is started on another host while the node runs.
    Copy {
        target: Target,
        /// Whether the copy and the node do not reach each other.
        unseen: bool,
        /// Whether the leader is killed at the same time.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        headless: bool,
    },
    /// The operator hands leadership over.
    Transfer { to: NodeId },
    /// Names do not resolve on any node, or lookups hang. The leader may die meanwhile, and then
    /// stays down.
    FailNames { hangs: bool, kill: bool, gap: u64, length: u64 },
    /// Writes of more than `bytes` bytes from a node to the others vanish; smaller ones pass.
    BlackHole { target: Target, bytes: u64, length: u64 },
    /// The leader, or every other node, refuses the connections that a node opens.
    Refuse { target: Target, by_all: bool, length: u64 },
    /// A node is told to take a snapshot now, and to purge what it may.
    Snapshot { target: Target },
    /// The same, with a power loss in the n-th write after the snapshot is there: among the writes
    /// of the purge.
    CrashInPurge { target: Target, writes: u64, loss: Loss, down: u64 },
    /// A node is removed, and the leader dies at that moment. The node asks to join while another
    /// leader is elected.
    RejoinAtElection { target: Target, wiped: bool, down: u64 },
    /// The leader dies, and many readers come in the first moment of the next one.
    ReadersAtElection { readers: u64, down: u64 },
    /// Bits flip in data that was cold, while the node runs.
    RotLive { target: Target, bits: u64 },
}
