//! What a run looked like, for a person to read: everything that a report shows.

use serde::{Deserialize, Serialize};

/// A run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Recording {
    /// The scenario's name.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// The command that plays it again.
    pub command: String,
    /// How it ended.
    pub verdict: RecordedVerdict,
    /// The hosts of the nodes, in the order of their lanes.
    pub nodes: Vec<String>,
    /// How much virtual time passed, in milliseconds.
    pub millis: f64,
    /// What happened to and in the nodes, in order of time.
    pub events: Vec<RecordedEvent>,
    /// What the nodes said to each other at last, in order of time.
    pub messages: Vec<RecordedMessage>,
    /// How many messages there were before those.
    #[serde(default)]
    pub messages_left_out: usize,
    /// What the clients asked, in order of beginning.
    pub operations: Vec<RecordedOperation>,
}

/// How a run ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RecordedVerdict {
    /// `clean`, `unrecoverable`, `safety`, `liveness`, `crash` or `hang`.
    pub kind: String,
    /// The violated property, in words; empty for a clean run.
    pub what: String,
}

/// Something that happened at one moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RecordedEvent {
    /// Virtual milliseconds since the start.
    pub at: f64,
    /// The host it happened to; `None` for the whole cluster.
    pub node: Option<String>,
    /// What sort of thing: `start`, `exit`, `kill`, `crash`, `pause`, `resume`, `role`, `vote`, `commit`, `apply`,
    /// `truncate`, `purge`, `snapshot`, `install`, `membership`, `disk`, `clock`, `network`, `heal`, `operator`,
    /// `violation` or `note`.
    pub kind: String,
    /// What exactly.
    pub text: String,
    /// The role that the node has from now on (`follower`, `candidate`, `leader`, `learner`), for `role`.
    pub role: Option<String>,
    /// The term, where one belongs to it.
    pub term: Option<u64>,
    /// The log index, where one belongs to it.
    pub index: Option<u64>,
    /// Other hosts concerned, such as the far ends of cut links.
    pub others: Vec<String>,
}

/// A message of one node to another.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RecordedMessage {
    /// When it was sent, in virtual milliseconds.
    pub sent: f64,
    /// When the answer came; `None` when none ever did.
    pub answered: Option<f64>,
    /// The sender.
    pub from: String,
    /// The receiver.
    pub to: String,
    /// `append`, `vote`, …
    pub kind: String,
    /// What was asked and answered.
    pub text: String,
}

/// A client's request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RecordedOperation {
    /// The client's host.
    pub client: String,
    /// The node asked.
    pub node: String,
    /// When it began, in virtual milliseconds.
    pub begin: f64,
    /// When it ended; `None` when no answer ever came.
    pub end: Option<f64>,
    /// What was asked.
    pub text: String,
    /// What came of it.
    pub outcome: String,
    /// `ok`, `rejected`, `failed` (certainly without effect) or `unknown`.
    pub kind: String,
    /// Whether the violated property is about this operation.
    pub offending: bool,
}
