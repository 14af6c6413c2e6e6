//! `yakt node`: one node.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tracing_subscriber::EnvFilter;
use yakt::env::TokioEnv;
use yakt::node::{ConnectionLimits, Node, NodeOptions};
use yakt::raft::NodeId;
use yakt::raft::config::{HEARTBEAT_INTERVAL, HEARTBEAT_INTERVAL_MAX, RaftOptions};

use super::Failure;

/// What is logged unless `RUST_LOG` says otherwise. openraft tells of every vote at `info`.
const LOG_FILTER: &str = "warn,yakt=info";

/// Run one node of a cluster.
///
/// Without -e, an empty data directory founds a cluster of one node. With -e the node joins the cluster
/// that is there, and keeps trying while none is. A directory that belongs to a cluster already stays with
/// it; -e is then only a hint where its members may be.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// This node's id, 1 or more, unique in the cluster
    #[arg(short = 'i', long, value_parser = clap::value_parser!(u64).range(1..))]
    id: NodeId,
    /// Where this node talks Raft with its peers, and they reach it
    #[arg(short = 'a', long, value_name = "HOST:PORT")]
    addr: Addr,
    /// Members of the cluster to join
    #[arg(short = 'e', long, value_name = "ID/HOST:PORT,…", value_delimiter = ',')]
    ensemble: Vec<Member>,
    /// Where this node serves HTTP [default: the Raft port + 1]
    #[arg(long, value_name = "HOST:PORT")]
    http: Option<Addr>,
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
}

fn heartbeat_interval(text: &str) -> Result<Duration, String> {
    let range = HEARTBEAT_INTERVAL..=HEARTBEAT_INTERVAL_MAX;
    let interval = text.parse().ok().map(Duration::from_millis);
    let known = interval.filter(|interval| range.contains(interval));
    let (least, most) = (range.start().as_millis(), range.end().as_millis());
    known.ok_or_else(|| format!("expected {least} to {most} milliseconds"))
}

/// A `HOST:PORT`.
#[derive(Clone, Debug)]
struct Addr {
    host: String,
    port: u16,
}

impl FromStr for Addr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = text.rsplit_once(':').ok_or("expected HOST:PORT")?;
        let port =
            port.parse().ok().filter(|port| *port > 0).ok_or("the port must be 1 to 65535")?;
        if host.is_empty() {
            return Err("expected HOST:PORT".to_owned());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl std::fmt::Display for Addr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// An `ID/HOST:PORT`. The address finds the member; the id is for the reader.
#[derive(Clone, Debug)]
struct Member(Addr);

impl FromStr for Member {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let addr = match text.split_once('/') {
            Some((id, addr)) => {
                id.parse::<NodeId>().ok().filter(|id| *id > 0).ok_or("expected ID/HOST:PORT")?;
                addr
            }
            None => text,
        };
        addr.parse().map(Self)
    }
}

fn options(args: Args) -> Result<NodeOptions, Failure> {
    let http = match args.http {
        Some(addr) => addr.to_string(),
        None => {
            let port = args
                .addr
                .port
                .checked_add(1)
                .ok_or("the port after -a's is not one: give --http")?;
            format!("{}:{port}", args.addr.host)
        }
    };
    let raft_addr = args.addr.to_string();
    let ensemble = args.ensemble.iter().map(|member| member.0.to_string());
    Ok(NodeOptions {
        id: args.id,
        http_addr: http,
        ensemble: ensemble.filter(|addr| *addr != raft_addr).collect(),
        raft_addr,
        data: args.data.unwrap_or_else(|| PathBuf::from(format!("yakt-data/node-{}", args.id))),
        raft: RaftOptions::DEFAULT
            .with_heartbeat_interval(args.heartbeat_interval.unwrap_or(HEARTBEAT_INTERVAL)),
        observer: None,
        connections: ConnectionLimits::default(),
    })
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_FILTER));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();

    let stop_with_stdin = args.stop_with_stdin;
    let options = NodeOptions { connections: super::limits::connections(), ..options(args)? };
    let http = options.http_addr.clone();
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
    Box::pin(yakt::server::run(node, &http)).await?;
    tracing::info!("stopped");
    Ok(())
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
            options(Line::parse_from(line).args).expect("good flags").raft
        };
        let usual = options(&[]);
        assert_eq!(usual.heartbeat_interval, HEARTBEAT_INTERVAL);
        let far = options(&["--heartbeat-interval", "120"]);
        assert_eq!(far.heartbeat_interval, 3 * HEARTBEAT_INTERVAL);
        assert_eq!(far.election_timeout_min, 3 * usual.election_timeout_min);
        assert_eq!(far.election_timeout_max, 3 * usual.election_timeout_max);
    }
}
