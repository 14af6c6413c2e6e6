//! What writes cost the cluster: syncs of logs, frames between nodes, and the bytes of both, from the nodes' own counters.

use std::fmt;

use hyper::{Method, StatusCode};
use serde::Serialize;
use yakt::node::ClusterStatus;

use super::connection::Connection;

/// What all nodes together have done since they started.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    syncs: u64,
    log_bytes: u64,
    frames: u64,
    frame_bytes: u64,
}

/// The cost of a write, over all nodes. Heartbeats and elections meanwhile are in it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct PerWrite {
    nodes: usize,
    syncs: f64,
    log_bytes: f64,
    frames: f64,
    frame_bytes: f64,
}

impl Counters {
    /// Asks every member of the cluster of `addr` that answers; `None` if one does not, or none is known.
    pub(super) async fn of_cluster(addr: &str) -> Option<(usize, Self)> {
        let status = get(addr, "/cluster").await?;
        let status: ClusterStatus = serde_json::from_str(&status).ok()?;
        let mut all = Self::default();
        for member in &status.nodes {
            let text = get(&member.http, "/metrics").await?;
            all.syncs += value(&text, "yakt_log_syncs_total")?;
            all.log_bytes += value(&text, "yakt_log_written_bytes_total")?;
            all.frames += value(&text, "yakt_raft_sent_frames_total")?;
            all.frame_bytes += value(&text, "yakt_raft_sent_bytes_total")?;
        }
        Some((status.nodes.len(), all))
    }
}

impl PerWrite {
    /// What each of `writes` writes cost between two looks. `None` if a node was started in between.
    pub(super) fn between(
        (nodes, before): (usize, Counters),
        (_, after): (usize, Counters),
        writes: u64,
    ) -> Option<Self> {
        #[expect(clippy::cast_precision_loss, reason = "counts that are shown")]
        let per = |before: u64, after: u64| {
            (writes > 0).then_some(after.checked_sub(before)? as f64 / writes as f64)
        };
        Some(Self {
            nodes,
            syncs: per(before.syncs, after.syncs)?,
            log_bytes: per(before.log_bytes, after.log_bytes)?,
            frames: per(before.frames, after.frames)?,
            frame_bytes: per(before.frame_bytes, after.frame_bytes)?,
        })
    }
}

impl fmt::Display for PerWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, syncs, log_bytes, frames, frame_bytes } = self;
        write!(
            f,
            "a write cost {nodes} nodes {syncs:.2} syncs of {log_bytes:.0} bytes in all, and {frames:.2} frames of \
            {frame_bytes:.0} bytes"
        )
    }
}

async fn get(addr: &str, path: &str) -> Option<String> {
    let mut connection = Connection::new(addr.to_owned());
    let (status, body) = connection.send(Method::GET, path, String::new()).await.ok()?;
    (status == StatusCode::OK).then(|| String::from_utf8(body.to_vec()).ok()).flatten()
}

/// The value of the metric `name` without labels.
fn value(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_by_their_whole_names() {
        let text = "# TYPE a counter\na_b 1\na{x=\"y\"} 2\na 3\n";
        assert_eq!(value(text, "a"), Some(3));
        assert_eq!(value(text, "b"), None);
    }

    #[test]
    fn a_restart_in_between_leaves_no_cost_to_tell() {
        let counters = |syncs| (5, Counters { syncs, ..Counters::default() });
        let cost = PerWrite::between(counters(10), counters(60), 10).unwrap();
        assert!((cost.syncs - 5.0).abs() < f64::EPSILON);
        assert!(PerWrite::between(counters(10), counters(9), 10).is_none());
        assert!(PerWrite::between(counters(10), counters(60), 0).is_none());
    }
}
