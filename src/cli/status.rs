//! `yakt status`: a table of a cluster.

use comfy_table::presets;
use comfy_table::{CellAlignment, Table};

use yakt::node::ClusterStatus;
use yakt::raft::network::health::Unreachable;

use super::{Failure, addr, client, print};

/// Show what a node knows about its cluster.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The HTTP address of any node
    #[arg(value_name = "HOST:PORT", default_value = "127.0.0.1:5011", value_parser = addr::http)]
    addr: String,
    /// Print the node's answer as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let cluster =
        client::cluster(&args.addr).await.map_err(|error| format!("{}: {error}", args.addr))?;
    if args.json {
        return print::result(serde_json::to_string_pretty(&cluster)?);
    }
    print(&cluster)
}

/// Shows `cluster` as a table.
pub(super) fn print(cluster: &ClusterStatus) -> Result<(), Failure> {
    let or_dash =
        |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let title = match cluster.cluster_id {
        Some(id) => format!("cluster {id}, as node {} sees it", cluster.node),
        None => format!("node {} has not joined a cluster yet", cluster.node),
    };
    let summary = format!(
        "leader {}, term {}, committed {}",
        or_dash(cluster.leader),
        cluster.term,
        cluster.committed
    );
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_header(["node", "role", "voter", "matched", "raft", "http"]);
    for node in &cluster.nodes {
        let role = serde_json::to_value(node.role)?;
        table.add_row([
            node.id.to_string(),
            role.as_str().unwrap_or_default().to_owned(),
            if node.voter { "yes" } else { "no" }.to_owned(),
            or_dash(node.matched),
            node.raft.clone(),
            node.http.clone(),
        ]);
    }
    for column in [0, 3] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    print::result(format_args!("{title}\n{summary}\n{table}"))?;
    for node in &cluster.nodes {
        if let Some(Unreachable { seconds, failures, reason, .. }) = &node.unreachable {
            print::result(format_args!(
                "node {} has been unreachable from node {} for {seconds} s, {failures} calls failed: {reason}",
                node.id, cluster.node
            ))?;
        }
    }
    Ok(())
}
