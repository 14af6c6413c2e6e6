//! `yakt remove` and `yakt transfer`: what an operator changes about a running cluster.

use yakt::raft::NodeId;

use super::{Failure, addr, client, print, status};

/// Remove a node from its cluster, dead or alive.
///
/// Its vote counts no more, and a new node with an empty data directory may join under the same id. A leader
/// hands over first. A removed node that runs stops; started again on its old directory it joins anew.
#[derive(clap::Args)]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    change: Change,
}

/// Make a node the leader of its cluster.
#[derive(clap::Args)]
pub(crate) struct TransferArgs {
    #[command(flatten)]
    change: Change,
}

/// Whom to ask, and about whom.
#[derive(clap::Args)]
struct Change {
    /// The HTTP address of any node
    #[arg(value_name = "HOST:PORT", default_value = "127.0.0.1:5011", value_parser = addr::http)]
    addr: String,
    /// The id of the node that this is about
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    node: NodeId,
}

pub(crate) async fn remove(RemoveArgs { change }: RemoveArgs) -> Result<(), Failure> {
    let Change { addr, node } = change;
    let cluster = client::remove(&addr, node).await.map_err(|error| format!("{addr}: {error}"))?;
    print::result(format_args!("node {node} is removed"))?;
    status::print(&cluster)
}

pub(crate) async fn transfer(TransferArgs { change }: TransferArgs) -> Result<(), Failure> {
    let Change { addr, node } = change;
    let cluster =
        client::transfer(&addr, node).await.map_err(|error| format!("{addr}: {error}"))?;
    print::result(format_args!("node {node} leads"))?;
    status::print(&cluster)
}
