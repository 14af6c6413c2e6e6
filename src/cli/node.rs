//! `yakt node`: one node.

use std::path::PathBuf;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use uuid::Uuid;
use yakt::env::TokioEnv;
use yakt::node::{ConnectionLimits, Node, NodeOptions};
use yakt::raft::NodeId;
use yakt::raft::config::{HEARTBEAT_INTERVAL, HEARTBEAT_INTERVAL_MAX, RaftOptions};

use super::Failure;
use super::addr::{Addr, Bind, Member};
use super::log::Log;

/// The log's filter, unless `RUST_LOG` sets one.
///
/// openraft logs every vote at `info`, and every attempt to reach a dead peer at `warn`: 27 lines a
/// second. `yakt` reports such a peer itself, rarely. `raft_inner` logs an error for every request
/// to a Raft that has stopped: 40 a second. The node itself says why it stopped.
///
/// `management` does so for each change of members that Raft refuses: 80 a second while nodes that
/// moved ask a leader that hands over. Each such error goes to the node that asked.
const LOG_FILTER: &str = "warn,openraft=error,openraft::raft::raft_inner=off,\
    openraft::raft::api::management=off,yakt=info";

/// Run one node of a cluster.
///
/// Without -e, an empty data directory founds a cluster of one node. With -e the node joins the cluster
/// that is there, and keeps trying while none is. A directory that belongs to a cluster already stays with
/// it; -e is then only a hint where its members may be.
///
/// SIGTERM, SIGINT (Ctrl-C) and SIGHUP stop it cleanly, and a leader hands over first. It exits
/// with 0 after that, with 3 when it was removed from its cluster, with 2 on wrong flags, and with
/// 1 otherwise.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// This node's id, 1 or more, unique in the cluster
    #[arg(short = 'i', long, value_parser = clap::value_parser!(u64).range(1..))]
    id: NodeId,
    /// Where this node listens for its peers, and where they reach it: an address or name of this
    /// machine
    #[arg(short = 'a', long, value_name = "HOST:PORT")]
    addr: Addr,
    /// Members of the cluster to join
    #[arg(short = 'e', long, value_name = "ID/HOST:PORT,…", value_delimiter = ',')]
    ensemble: Vec<Member>,
    /// Where this node serves HTTP; at 0.0.0.0 or [::] it tells others the host of -a [default: the
    /// Raft port + 1]
    #[arg(long, value_name = "HOST:PORT")]
    http: Option<Bind>,
    /// The data directory [default: yakt-data/node-ID]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Milliseconds between heartbeats, 40 to 150: more than any round trip between nodes, and the same on
    /// all of them [default: 40]
    #[arg(long, value_name = "MS", value_parser = heartbeat_interval)]
    heartbeat_interval: Option<Duration>,
    /// Stop when standard input ends: set by `yakt up`, so that no node outlives it
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
    /// The name of this process in its answers: set by `yakt up`, to know its own nodes from others
    #[arg(long, hide = true, value_name = "UUID")]
    instance: Option<Uuid>,
}

fn heartbeat_interval(text: &str) -> Result<Duration, String> {
    let range = HEARTBEAT_INTERVAL..=HEARTBEAT_INTERVAL_MAX;
    let interval = text.parse().ok().map(Duration::from_millis);
    let known = interval.filter(|interval| range.contains(interval));
    let (least, most) = (range.start().as_millis(), range.end().as_millis());
    known.ok_or_else(|| format!("expected {least} to {most} milliseconds"))
}

/// The settings of the node, and the address that its HTTP side listens on.
fn options(args: Args) -> Result<(NodeOptions, String), Failure> {
    let (http, listen) = match args.http {
        Some(bind) => (bind.advertised(&args.addr.host), bind.to_string()),
        None => {
            let port = args.addr.port.checked_add(1);
            let port =
                port.ok_or("-a has the last port, 65535, and HTTP uses the next: give --http")?;
            let addr = Addr { host: args.addr.host.clone(), port };
            (addr.clone(), addr.to_string())
        }
    };
    let is_self = |member: &Member| member.id == Some(args.id) || member.addr == args.addr;
    if !args.ensemble.is_empty() && args.ensemble.iter().all(is_self) {
        return Err(format!(
            "-e names only this node, {} at {}: name other members, or leave -e out to found a cluster",
            args.id, args.addr
        )
        .into());
    }
    let others = args.ensemble.into_iter().map(|member| member.addr);
    let ensemble = others.filter(|addr| *addr != args.addr).map(|addr| addr.to_string()).collect();
    let options = NodeOptions {
        id: args.id,
        http_addr: http.to_string(),
        ensemble,
        raft_addr: args.addr.to_string(),
        data: args.data.unwrap_or_else(|| PathBuf::from(format!("yakt-data/node-{}", args.id))),
        raft: RaftOptions::DEFAULT
            .with_heartbeat_interval(args.heartbeat_interval.unwrap_or(HEARTBEAT_INTERVAL)),
        observer: None,
        connections: ConnectionLimits::default(),
        instance: args.instance,
    };
    Ok((options, listen))
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let log = Log::start(LOG_FILTER)?;
    let stop_with_stdin = args.stop_with_stdin;
    let (options, http) = options(args)?;
    let options = NodeOptions { connections: super::limits::connections(), ..options };
    tracing::info!(node = options.id, raft = %options.raft_addr, data = %options.data.display(), "starting");
    let node = Node::new(TokioEnv, options);

    let stopping = node.clone();
    tokio::spawn(async move {
        let stdin = async {
            if !stop_with_stdin {
                std::future::pending::<()>().await;
            }
            // Nothing is expected to come; its end is the message.
            let mut sink = [0; 64];
            while matches!(tokio::io::stdin().read(&mut sink).await, Ok(1..)) {}
        };
        tokio::select! {
            asked = super::asked_to_stop() => {
                if let Err(error) = asked {
                    tracing::error!(%error, "cannot listen to signals");
                }
            }
            () = stdin => {}
        }
        tracing::info!("stopping");
        stopping.stop();
    });
    let result = Box::pin(yakt::server::run(node, &http)).await;
    if result.is_ok() {
        tracing::info!("stopped");
    }
    log.flush();
    Ok(result?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn heartbeats_are_as_often_as_they_were_asked_for() {
        let options = |flags: &[&str]| {
            let line = ["node", "-i", "1", "-a", "127.0.0.1:5010"].iter().chain(flags);
            options(Line::parse_from(line).args).expect("good flags").0.raft
        };
        let usual = options(&[]);
        assert_eq!(usual.heartbeat_interval, HEARTBEAT_INTERVAL);
        let far = options(&["--heartbeat-interval", "120"]);
        assert_eq!(far.heartbeat_interval, 3 * HEARTBEAT_INTERVAL);
        assert_eq!(far.election_timeout_min, 3 * usual.election_timeout_min);
        assert_eq!(far.election_timeout_max, 3 * usual.election_timeout_max);
    }
}
