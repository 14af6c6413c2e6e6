//! `yakt node`: one node.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tracing_subscriber::EnvFilter;
use yakt::env::TokioEnv;
use yakt::node::{Node, NodeOptions};
use yakt::raft::NodeId;
use yakt::raft::config::{HEARTBEAT_INTERVAL, RaftOptions};

use super::Failure;

/// What is logged unless `RUST_LOG` says otherwise. openraft tells of every vote at `info`.
const LOG_FILTER: &str = "warn,yakt=info";

#[expect(clippy::cast_possible_truncation, reason = "a constant of a few milliseconds")]
const HEARTBEAT_MILLIS: u16 = HEARTBEAT_INTERVAL.as_millis() as u16;

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
    /// Milliseconds between heartbeats: more than any round trip between nodes, and the same on all of them
    #[arg(long, value_name = "MS", default_value_t = HEARTBEAT_MILLIS)]
    #[arg(value_parser = clap::value_parser!(u16).range(10..=1_000))]
    heartbeat_interval: u16,
    /// Stop when standard input ends: set by `yakt up`, so that no node outlives it
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
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

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_FILTER));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();

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
    let options = NodeOptions {
        id: args.id,
        http_addr: http.clone(),
        ensemble: ensemble.filter(|addr| *addr != raft_addr).collect(),
        raft_addr,
        data: args.data.unwrap_or_else(|| PathBuf::from(format!("yakt-data/node-{}", args.id))),
        raft: RaftOptions::DEFAULT
            .with_heartbeat_interval(Duration::from_millis(args.heartbeat_interval.into())),
        observer: None,
    };
    tracing::info!(node = options.id, raft = %options.raft_addr, data = %options.data.display(), "starting");
    let node = Node::new(TokioEnv, options);

    let stopping = node.clone();
    tokio::spawn(async move {
        let stdin = async {
            if !args.stop_with_stdin {
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
