//! Nodes as processes: started, killed, started again, and never left behind.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::Request;
use super::scratch::{Directory, Ports};

/// How long anything may take that has no reason to take long. Tests claim nothing about speed; this only
/// keeps a broken one from waiting for ever, on a machine that may be very busy.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Lines of each log that a failed test shows.
const LOG_TAIL_LINES: usize = 30;

/// Looks again and again until there is something to see.
///
/// # Panics
///
/// When there is nothing within [`PATIENCE`].
pub(crate) fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, look).unwrap_or_else(|| panic!("waited in vain until {what}"))
}

/// Looks again and again until there is something to see, or `limit` passes.
pub(crate) fn within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if Instant::now() > deadline {
            return None;
        }
        sleep(PAUSE);
    }
}

/// A process of ours: killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).expect("a log file");
        let errors = output.try_clone().expect("a log file");
        let child = command.stdin(Stdio::piped()).stdout(output).stderr(errors).spawn();
        Self { child: child.expect("a process"), log: log.to_owned() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    /// `kill -9`, and waits for the end of it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &kill]).status().expect("a shell");
        assert!(status.success(), "cannot signal process {}", self.pid());
    }

    /// Waits for its own end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("a process ends", || self.ended())
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One node: where it is, and its process while it has one.
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) raft: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) data: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl Node {
    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Sends it a signal.
    #[allow(dead_code, reason = "the examples end nodes otherwise")]
    pub(crate) fn signal(&self, name: &str) {
        self.process.as_ref().expect("a node that runs").signal(name);
    }

    /// Its process, if it runs.
    #[allow(dead_code, reason = "examples/scale.rs looks at processes")]
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// The status that it answers `path` with; 0 for no answer.
    pub(crate) fn status(&self, path: &str) -> u16 {
        Request::get(path).send(self.http).map_or(0, |response| response.status)
    }

    /// What it has logged so far, in this life and earlier ones.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Lines that it has logged so far.
    pub(crate) fn log_lines(&self) -> usize {
        self.log().lines().count()
    }

    /// What it says at `/cluster`.
    pub(crate) fn cluster(&self) -> Option<Value> {
        Request::get("/cluster").send(self.http).ok().map(|response| response.expect(200))
    }
}

/// A cluster of processes on this machine, with its own directory and ports. All of it goes when this is
/// dropped; a test that fails shows the logs first, and a node that panicked fails the test.
pub(crate) struct Cluster {
    binary: PathBuf,
    nodes: Vec<Node>,
    pub(crate) ports: Ports,
    pub(crate) directory: Directory,
}

impl Cluster {
    /// Plans a cluster of `size` nodes of which none runs yet.
    pub(crate) fn plan(binary: &Path, scratch: &Path, size: u64) -> Self {
        let ports = Ports::new();
        let places: Vec<_> = (1..=size).map(|id| (ports.raft(id), ports.http(id))).collect();
        Self::plan_on(binary, scratch, &places, ports)
    }

    /// The same, with the Raft and the HTTP address of each node.
    #[allow(dead_code, reason = "the examples use this machine")]
    pub(crate) fn plan_at(
        binary: &Path,
        scratch: &Path,
        places: &[(SocketAddr, SocketAddr)],
    ) -> Self {
        Self::plan_on(binary, scratch, places, Ports::new())
    }

    fn plan_on(
        binary: &Path,
        scratch: &Path,
        places: &[(SocketAddr, SocketAddr)],
        ports: Ports,
    ) -> Self {
        let directory = Directory::new(scratch);
        let node = |(id, (raft, http)): (u64, &(SocketAddr, SocketAddr))| Node {
            id,
            raft: *raft,
            http: *http,
            data: directory.path().join(format!("node-{id}")),
            log: directory.path().join(format!("node-{id}.log")),
            process: None,
        };
        let nodes = (1..).zip(places).map(node).collect();
        Self { binary: binary.to_owned(), nodes, ports, directory }
    }

    /// Starts a cluster of `size` nodes and waits until all are ready voters.
    pub(crate) fn start(binary: &Path, scratch: &Path, size: u64) -> Self {
        let mut cluster = Self::plan(binary, scratch, size);
        cluster.restart_all();
        cluster.wait_until_whole();
        cluster
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn node(&self, id: u64) -> &Node {
        self.nodes.iter().find(|node| node.id == id).expect("a node of that id")
    }

    pub(crate) fn up(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_up())
    }

    /// The HTTP addresses of the nodes that run.
    pub(crate) fn addrs(&self) -> Vec<SocketAddr> {
        self.up().map(|node| node.http).collect()
    }

    /// Node `id`'s own `yakt node` line.
    pub(crate) fn command(&self, id: u64) -> Command {
        let node = self.node(id);
        let mut command = Command::new(&self.binary);
        command.args(["node", "-i", &id.to_string(), "-a", &node.raft.to_string()]);
        command.arg("--data").arg(&node.data);
        if id > 1 {
            command.args(["-e", &format!("1/{}", self.node(1).raft)]);
        }
        command
    }

    /// Starts node `id`.
    pub(crate) fn restart(&mut self, id: u64) {
        let command = self.command(id);
        self.run(id, command);
    }

    /// Starts every node that does not run.
    pub(crate) fn restart_all(&mut self) {
        let down: Vec<_> =
            self.nodes.iter().filter(|node| !node.is_up()).map(|node| node.id).collect();
        for id in down {
            self.restart(id);
        }
    }

    /// Runs `command` as node `id`.
    pub(crate) fn run(&mut self, id: u64, mut command: Command) {
        let node = self.node_mut(id);
        assert!(!node.is_up(), "node {id} runs already");
        // The end of this process is the end of the node's standard input, and so the node's: not even a
        // test that is killed leaves one behind.
        node.process = Some(Process::start(command.arg("--stop-with-stdin"), &node.log));
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, id: u64) {
        let mut process = self.node_mut(id).process.take().expect("a node that runs");
        process.kill();
    }

    /// SIGTERM; returns how the node ended.
    pub(crate) fn terminate(&mut self, id: u64) -> ExitStatus {
        let mut process = self.node_mut(id).process.take().expect("a node that runs");
        process.terminate();
        process.wait()
    }

    /// Waits until node `id` stops by itself; returns how it ended.
    pub(crate) fn wait(&mut self, id: u64) -> ExitStatus {
        let mut process = self.node_mut(id).process.take().expect("a node that runs");
        process.wait()
    }

    fn node_mut(&mut self, id: u64) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).expect("a node of that id")
    }

    /// Waits until node `id` says that it is ready.
    pub(crate) fn wait_until_ready(&mut self, id: u64) {
        wait_for(&format!("node {id} is ready"), || {
            let node = self.node_mut(id);
            let ended = node.process.as_mut().expect("a node that runs").ended();
            assert!(ended.is_none(), "node {id} ended: {ended:?}");
            (node.status("/readyz") == 200).then_some(())
        });
    }

    /// Waits until every node runs, is ready, and sees all of them as voters under one leader.
    pub(crate) fn wait_until_whole(&mut self) {
        for id in self.nodes.iter().map(|node| node.id).collect::<Vec<_>>() {
            self.wait_until_ready(id);
        }
        wait_for("all nodes agree", || {
            let views: Option<Vec<_>> = self.nodes.iter().map(Node::cluster).collect();
            let views = views?;
            let whole =
                |view: &Value| voters(view).len() == self.nodes.len() && view["leader"].is_u64();
            let agreed = views.iter().all(|view| view["leader"] == views[0]["leader"]);
            (agreed && views.iter().all(whole)).then_some(())
        });
    }

    /// The node that leads now, by the word of the running node with the highest term.
    pub(crate) fn leader(&self) -> u64 {
        wait_for("a leader is known", || {
            let views: Vec<_> = self.up().filter_map(Node::cluster).collect();
            let newest = views.iter().max_by_key(|view| view["term"].as_u64())?;
            let leader = newest["leader"].as_u64()?;
            self.node(leader).is_up().then_some(leader)
        })
    }

    /// A node that runs and does not lead.
    pub(crate) fn follower(&self) -> &Node {
        let leader = self.leader();
        self.up().find(|node| node.id != leader).expect("a follower")
    }

    /// The last lines of every node's log.
    pub(crate) fn show_logs(&self) {
        for node in &self.nodes {
            let log = std::fs::read_to_string(&node.log).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- node {} ({}), the last of {} lines:", node.id, node.http, lines.len());
            lines
                .iter()
                .skip(lines.len().saturating_sub(LOG_TAIL_LINES))
                .for_each(|line| eprintln!("{line}"));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.process = None;
        }
        if std::thread::panicking() {
            self.show_logs();
            return;
        }
        for node in &self.nodes {
            let log = std::fs::read_to_string(&node.log).unwrap_or_default();
            if let Some(panic) = log.lines().position(|line| line.contains("panicked at")) {
                let lines: Vec<_> = log.lines().skip(panic).take(LOG_TAIL_LINES).collect();
                panic!("node {} panicked:\n{}", node.id, lines.join("\n"));
            }
        }
    }
}

/// The ids of the voters in a `/cluster` answer.
pub(crate) fn voters(view: &Value) -> Vec<u64> {
    let nodes = view["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    nodes
        .iter()
        .filter(|node| node["voter"] == true)
        .filter_map(|node| node["id"].as_u64())
        .collect()
}
