//! `yakt up`: a whole cluster on this machine.
//!
//! Each node is a process of its own, started as its own `yakt node` line would start it, with its output
//! in `DATA/node-K.log`. `up` watches them from outside: it asks each who leads, and says so when that
//! changes. A node that dies is reported and left dead, unless `--restart` is given.

use std::fs::File;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;
use yakt::env::{TokioEnv, rt};
use yakt::node::ClusterStatus;
use yakt::raft::storage::CLAIMED_NAME;

use super::{Failure, REMOVED_STATUS, client, print};

/// How often the nodes are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// How long a cluster may take to be ready.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long the nodes may take to stop before they are killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Pause before a dead node is started again with `--restart`.
const RESTART_PAUSE: Duration = Duration::from_secs(2);

/// Lines of a node's log that are shown when it does not start.
const LOG_TAIL_LINES: usize = 5;

/// Nodes at most.
const NODES_MAX: u16 = 99;

/// Run a whole cluster on this machine, one process a node.
///
/// Node K talks Raft on PORT + 10(K-1) and serves HTTP one above. Ctrl-C or SIGTERM stops them all.
/// Started again with the same --data, it is the same cluster with the same records.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many nodes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    nodes: u16,
    /// The first node's Raft port
    #[arg(long, default_value_t = 5010, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Where the nodes' data directories and logs are
    #[arg(long, value_name = "DIR", default_value = "yakt-data")]
    data: PathBuf,
    /// Start a node that died again, unless it was removed from the cluster
    #[arg(long)]
    restart: bool,
}

/// One node's process.
struct Process {
    id: u16,
    raft: String,
    http: String,
    data: PathBuf,
    log: PathBuf,
    /// The other nodes' Raft addresses and data directories.
    others: Vec<(u16, String, PathBuf)>,
    child: Option<Child>,
    /// The name that the child gives in its answers. Another process may have the child's address.
    instance: Uuid,
    died: Option<Instant>,
    /// Whether the child ended because its node was removed from the cluster. It is not started
    /// again.
    removed: bool,
}

impl Process {
    /// The arguments of this node's own `yakt node` line, as of now.
    fn args(&self) -> Vec<String> {
        let data = self.data.display().to_string();
        let mut args: Vec<String> =
            ["node", "-i", &self.id.to_string(), "-a", &self.raft, "--data", &data]
                .map(str::to_owned)
                .into();
        let ensemble = self.ensemble();
        if !ensemble.is_empty() {
            args.extend(["-e".to_owned(), ensemble.join(",")]);
        }
        args
    }

    /// Whom it asks to join: those that belong to a cluster, or the first node, which founds one. So a first node that has
    /// lost its directory joins the others; it would found a second cluster else.
    fn ensemble(&self) -> Vec<String> {
        let claimed: Vec<_> = self.others.iter().filter(|(.., data)| is_claimed(data)).collect();
        let first: Vec<_> = self.others.iter().filter(|(id, ..)| *id == 1).collect();
        let asked = if claimed.is_empty() { first } else { claimed };
        asked.iter().map(|(id, raft, _)| format!("{id}/{raft}")).collect()
    }

    fn start(&mut self) -> Result<(), Failure> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.map_err(|error| format!("cannot open {}: {error}", self.log.display()))?;
        self.instance = rt::random_uuid::<TokioEnv>();
        let child = Command::new(std::env::current_exe()?)
            .args(self.args())
            .args(["--instance", &self.instance.to_string()])
            .arg("--stop-with-stdin")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in a terminal goes to the whole group; the nodes are to be stopped by us, in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        self.child = Some(child);
        self.died = None;
        Ok(())
    }

    /// Whether the child is ready.
    async fn is_ready(&self) -> bool {
        client::ready(&self.http, self.instance).await
    }

    /// The status of the cluster, from the child.
    async fn status(&self) -> Option<ClusterStatus> {
        client::cluster_of(&self.http, self.instance).await
    }

    /// Says so, once, if the process has ended since the last look.
    fn look(&mut self) -> Result<bool, Failure> {
        let Some(child) = &mut self.child else { return Ok(false) };
        let Some(status) = child.try_wait()? else { return Ok(false) };
        self.child = None;
        self.died = Some(Instant::now());
        self.removed = status.code() == Some(i32::from(REMOVED_STATUS));
        if self.removed {
            print::news(format_args!("node {} ended: it was removed from the cluster", self.id));
            return Ok(true);
        }
        print::news(format_args!(
            "node {} ended ({status}); to start it again: yakt {}",
            self.id,
            self.args().join(" ")
        ));
        Ok(true)
    }
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut nodes = plan(&args)?;
    std::fs::create_dir_all(&args.data)
        .map_err(|error| format!("cannot create {}: {error}", args.data.display()))?;
    let stop = super::asked_to_stop();
    let mut stop = std::pin::pin!(stop);
    let result = tokio::select! {
        stopped = &mut stop => stopped.map_err(Failure::from),
        result = supervise(&mut nodes, args.restart) => result,
    };
    print::news("stopping");
    stop_all(&mut nodes).await;
    result
}

fn plan(args: &Args) -> Result<Vec<Process>, Failure> {
    let port = |id: u16| u32::from(args.port) + 10 * u32::from(id - 1);
    let last = port(args.nodes) + 1;
    if last > u32::from(u16::MAX) {
        return Err(format!(
            "{} nodes from port {} on would need port {last}",
            args.nodes, args.port
        )
        .into());
    }
    let raft = |id: u16| format!("127.0.0.1:{}", port(id));
    let data = |id: u16| args.data.join(format!("node-{id}"));
    let node = |id: u16| Process {
        id,
        raft: raft(id),
        http: format!("127.0.0.1:{}", port(id) + 1),
        data: data(id),
        log: args.data.join(format!("node-{id}.log")),
        // More than are started now: there may have been more before.
        others: (1..=NODES_MAX)
            .filter(|other| *other != id)
            .map(|other| (other, raft(other), data(other)))
            .collect(),
        child: None,
        instance: Uuid::nil(),
        died: None,
        removed: false,
    };
    Ok((1..=args.nodes).map(node).collect())
}

/// Whether the node with this directory belongs to a cluster.
fn is_claimed(data: &Path) -> bool {
    std::fs::metadata(data.join(CLAIMED_NAME)).is_ok_and(|file| file.len() > 0)
}

async fn supervise(nodes: &mut [Process], restart: bool) -> Result<(), Failure> {
    let is_new = !nodes.iter().any(|node| is_claimed(&node.data));
    for node in nodes.iter_mut() {
        node.start()?;
    }
    let started = Instant::now();
    wait_until_ready(nodes, started, is_new).await?;
    let ready: Vec<_> = nodes.iter().filter(|node| node.child.is_some()).collect();
    print::news(format_args!(
        "{} nodes are ready after {:.1} s",
        ready.len(),
        started.elapsed().as_secs_f64()
    ));
    for node in ready {
        let pid = node.child.as_ref().and_then(Child::id).unwrap_or_default();
        print::news(format_args!(
            "  node {}: pid {pid}, raft {}, http://{}, log {}",
            node.id,
            node.raft,
            node.http,
            node.log.display()
        ));
    }
    print::news(format_args!("Ctrl-C stops them all; kill -9 a pid and watch"));
    let mut shown = String::new();
    loop {
        for node in nodes.iter_mut() {
            node.look()?;
            if restart
                && !node.removed
                && node.died.is_some_and(|died| died.elapsed() > RESTART_PAUSE)
            {
                print::news(format_args!("starting node {} again", node.id));
                node.start()?;
            }
        }
        let line = leadership(nodes).await;
        if line != shown {
            print::news(format_args!(
                "{}{line}",
                if std::io::stdout().is_terminal() { "\u{2192} " } else { "" }
            ));
            shown = line;
        }
        sleep(WATCH_INTERVAL).await;
    }
}

/// Waits for all nodes of a new cluster. One that was there before goes on without those that do not start.
async fn wait_until_ready(
    nodes: &mut [Process],
    started: Instant,
    is_new: bool,
) -> Result<(), Failure> {
    for position in 0..nodes.len() {
        while nodes[position].child.is_some() && !nodes[position].is_ready().await {
            for node in nodes.iter_mut() {
                if node.look()? {
                    let why = format!("node {} did not start:\n{}", node.id, tail(&node.log));
                    if is_new {
                        return Err(why.into());
                    }
                    print::news(why);
                }
            }
            if nodes.iter().all(|node| node.child.is_none()) {
                return Err("no node started".into());
            }
            if started.elapsed() > START_LIMIT {
                return Err(
                    format!("the cluster is not ready after {} s", START_LIMIT.as_secs()).into()
                );
            }
            sleep(WATCH_INTERVAL).await;
        }
    }
    Ok(())
}

/// Who leads, by the word of the node with the highest term.
async fn leadership(nodes: &[Process]) -> String {
    let alive = nodes.iter().filter(|node| node.child.is_some());
    let asked = futures_util::future::join_all(alive.map(Process::status)).await;
    let answers: Vec<_> = asked.into_iter().flatten().collect();
    let up: Vec<_> = answers.iter().map(|answer| answer.node.to_string()).collect();
    let newest =
        answers.iter().filter(|answer| answer.leader.is_some()).max_by_key(|answer| answer.term);
    match newest.and_then(|answer| Some((answer.leader?, answer.term))) {
        Some((leader, term)) if answers.iter().any(|answer| answer.node == leader) => {
            format!("leader: node {leader} (term {term}), up: {}", up.join(" "))
        }
        _ => format!("no leader, up: {}", up.join(" ")),
    }
}

async fn stop_all(nodes: &mut [Process]) {
    for node in nodes.iter_mut() {
        if let Some(child) = &mut node.child {
            // The end of its standard input tells a node to stop.
            drop(child.stdin.take());
        }
    }
    for node in nodes.iter_mut() {
        if let Some(child) = &mut node.child
            && timeout(STOP_LIMIT, child.wait()).await.is_err()
        {
            print::news(format_args!("node {} does not stop; killing it", node.id));
            if let Err(error) = child.kill().await {
                print::news(format_args!("node {} cannot be killed: {error}", node.id));
            }
        }
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}
