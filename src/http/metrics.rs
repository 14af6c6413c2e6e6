//! `/metrics`: the node's own numbers as Prometheus text exposition, format 0.0.4.
//!
//! Sampled when asked for, from the node's status, its Raft and its applied metadata: nothing is recorded in
//! between, but for the counters, which begin at 0 with the process. Every metric is always there, 0 while the
//! node has nothing to say, so that a scrape never misses one. A scrape costs by the brokers, not by the topics or
//! partitions.

use std::collections::BTreeMap;
use std::fmt;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use openraft::LogIdOptionExt;
use openraft::async_runtime::watch::WatchReceiver;

use super::cluster::READY_LIMIT;
use crate::env::Env;
use crate::metadata::{BrokerStatus, Timestamp};
use crate::node::Node;
use crate::raft::{NodeId, Tally};

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a live broker can be.
const LIVE: [BrokerStatus; 3] = [BrokerStatus::Fenced, BrokerStatus::Unfenced, BrokerStatus::Alive];

pub(super) async fn metrics<E: Env>(State(node): State<Node<E>>) -> impl IntoResponse {
    let ready = node.serves(READY_LIMIT).await;
    let sample = Sample { ready, ..Sample::of(&node) };
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], sample.to_string())
}

/// The numbers of one moment. Displays as the exposition.
struct Sample {
    node: NodeId,
    leader: Option<NodeId>,
    term: u64,
    committed: u64,
    applied: u64,
    last_log: u64,
    snapshot: u64,
    purged: u64,
    voters: usize,
    /// The other members, and whether this node reaches them.
    peers: BTreeMap<NodeId, bool>,
    cluster_time: Timestamp,
    brokers: BTreeMap<BrokerStatus, usize>,
    topics: usize,
    partitions: usize,
    producers: usize,
    ready: bool,
    /// Seconds.
    time_ahead: f64,
    log_written: Tally,
    sent: Tally,
}

impl Sample {
    fn of<E: Env>(node: &Node<E>) -> Self {
        // The image first: what it has applied is committed in a status that is taken later.
        let image = node.image();
        let status = node.status();
        let mut sample = Self {
            node: status.node,
            leader: status.leader,
            term: status.term,
            committed: status.committed,
            applied: 0,
            last_log: 0,
            snapshot: 0,
            purged: 0,
            voters: status.nodes.iter().filter(|member| member.voter).count(),
            peers: status
                .nodes
                .iter()
                .filter(|member| member.id != status.node)
                .map(|member| (member.id, member.unreachable.is_none()))
                .collect(),
            cluster_time: Timestamp::ZERO,
            brokers: LIVE.map(|status| (status, 0)).into(),
            topics: 0,
            partitions: 0,
            producers: 0,
            ready: false,
            time_ahead: 0.0,
            log_written: node
                .log()
                .map(|log| log.writer().written_records().clone())
                .unwrap_or_default(),
            sent: node.sent().cloned().unwrap_or_default(),
        };
        if let Some(image) = image {
            let state = &image.state;
            sample.applied = image.applied.index().unwrap_or(0);
            sample.cluster_time = state.last_stamp();
            sample.time_ahead = node.cluster_time_ahead();
            for broker in state.brokers() {
                *sample.brokers.entry(broker.fields.broker_status).or_default() += 1;
            }
            sample.topics = state.topic_count();
            sample.partitions = state.partition_count();
            sample.producers = state.producer_count();
        }
        if let Some(raft) = node.raft() {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            // As of a moment before the status, perhaps; what is committed is in the log.
            sample.last_log = metrics.last_log_index.unwrap_or(0).max(sample.committed);
            sample.snapshot = metrics.snapshot.index().unwrap_or(0);
            sample.purged = metrics.purged.index().unwrap_or(0);
        }
        sample
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leads = self.leader == Some(self.node);
        gauge(f, "raft_term", "The node's Raft term.", self.term)?;
        gauge(f, "raft_leader", "Id of the leader, 0 if none.", self.leader.unwrap_or(0))?;
        gauge(f, "raft_is_leader", "Whether this node leads.", u8::from(leads))?;
        gauge(f, "raft_committed_index", "Highest index known as committed.", self.committed)?;
        gauge(f, "raft_applied_index", "Index that the metadata is as of.", self.applied)?;
        gauge(f, "raft_last_log_index", "Index of the last log entry.", self.last_log)?;
        gauge(f, "raft_snapshot_index", "Last index in the snapshot.", self.snapshot)?;
        gauge(f, "raft_purged_index", "Last index purged from the log.", self.purged)?;
        gauge(f, "raft_voters", "Members whose vote counts.", self.voters)?;
        let reachable_help = "Whether the last call of this node to the peer was answered.";
        head(f, "raft_peer_reachable", reachable_help, "gauge")?;
        for (peer, reachable) in &self.peers {
            writeln!(f, "yakt_raft_peer_reachable{{peer=\"{peer}\"}} {}", u8::from(*reachable))?;
        }
        let time_help = "Cluster time of the last applied command, since the Unix epoch.";
        gauge(f, "cluster_time_seconds", time_help, self.cluster_time)?;
        let ahead_help = "How far cluster time is ahead of this node's clock; negative if behind.";
        gauge(f, "cluster_time_ahead_seconds", ahead_help, self.time_ahead)?;
        head(f, "brokers", "Brokers that are not closed, by status.", "gauge")?;
        for (status, count) in &self.brokers {
            writeln!(f, "yakt_brokers{{status=\"{status}\"}} {count}")?;
        }
        gauge(f, "topics", "Topics.", self.topics)?;
        gauge(f, "partitions", "Partitions.", self.partitions)?;
        gauge(f, "producers", "Producers.", self.producers)?;
        gauge(f, "ready", "Whether /readyz answers 200.", u8::from(self.ready))?;
        let syncs_help = "Records written to the log, each with a sync of its own.";
        counter(f, "log_syncs_total", syncs_help, self.log_written.times())?;
        let bytes_help = "Bytes of these records.";
        counter(f, "log_written_bytes_total", bytes_help, self.log_written.bytes())?;
        let frames_help = "Frames sent to other nodes, answers included.";
        counter(f, "raft_sent_frames_total", frames_help, self.sent.times())?;
        counter(f, "raft_sent_bytes_total", "Bytes of these frames.", self.sent.bytes())
    }
}

fn head(f: &mut fmt::Formatter<'_>, name: &str, help: &str, kind: &str) -> fmt::Result {
    writeln!(f, "# HELP yakt_{name} {help}\n# TYPE yakt_{name} {kind}")
}

fn counter(f: &mut fmt::Formatter<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    head(f, name, help, "counter")?;
    writeln!(f, "yakt_{name} {value}")
}

fn gauge(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    help: &str,
    value: impl fmt::Display,
) -> fmt::Result {
    head(f, name, help, "gauge")?;
    writeln!(f, "yakt_{name} {value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_legal_and_every_metric_is_there_from_the_start() {
        let text = Sample::of(&crate::http::tests::idle_node()).to_string();
        let mut names = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(kind, if name.ends_with("_total") { "counter" } else { "gauge" });
                names.push(name);
            } else if !line.starts_with("# HELP yakt_") {
                let (series, value) = line.split_once(' ').unwrap();
                let name = series.split('{').next();
                assert_eq!(name, names.last().copied(), "{line} does not follow its TYPE");
                assert!(value.parse::<f64>().unwrap().abs() < f64::EPSILON, "{line}");
            }
        }
        // Dashboards and alerts hang on these.
        let expected = "yakt_raft_term yakt_raft_leader yakt_raft_is_leader yakt_raft_committed_index \
            yakt_raft_applied_index yakt_raft_last_log_index yakt_raft_snapshot_index \
            yakt_raft_purged_index yakt_raft_voters yakt_raft_peer_reachable yakt_cluster_time_seconds \
            yakt_cluster_time_ahead_seconds yakt_brokers yakt_topics yakt_partitions yakt_producers yakt_ready yakt_log_syncs_total \
            yakt_log_written_bytes_total yakt_raft_sent_frames_total yakt_raft_sent_bytes_total";
        assert_eq!(names.join(" "), expected);
        assert!(text.contains("\nyakt_brokers{status=\"ALIVE\"} 0\n"), "{text}");
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn each_peer_has_a_line_that_says_whether_it_is_reachable() {
        let mut sample = Sample::of(&crate::http::tests::idle_node());
        sample.peers = BTreeMap::from([(2, true), (3, false)]);
        let text = sample.to_string();
        let lines = "# TYPE yakt_raft_peer_reachable gauge\n\
            yakt_raft_peer_reachable{peer=\"2\"} 1\nyakt_raft_peer_reachable{peer=\"3\"} 0\n# HELP";
        assert!(text.contains(lines), "{text}");
    }
}
