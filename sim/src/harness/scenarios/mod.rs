//! Which runs there are. A *scripted* scenario is a file that says what goes wrong when, and ends in
//! [`Run::finish`]; of a *drawn* one, each seed draws a [`Schedule`], from a [`Theme`] or by a function of one's own.

use std::collections::BTreeMap;
use std::ops::Range;
use std::pin::Pin;
use std::time::Duration;

use hyper::StatusCode;
use rand::{Rng, RngExt};
use serde_json::json;
use yakt::env::rt;
use yakt::raft::NodeId;
use yakt::raft::config::RaftOptions;

use super::check::Watch;
use super::check::{clients, operators, reports};
use super::client::{Client, Request};
use super::cluster::{Cluster, host, http};
use super::contract;
use super::coverage::{Coverage, Site};
use super::record::{Recorder, frame, verdict};
use super::schedule::Schedule;
use super::schedule::draw::{Family, Theme};
use super::subject::Subject;
use super::workload::Workload;
use super::{Outcome, Summary, Verdict, Violation, lines};
use crate::disk::CrashMode;
use crate::env::SimEnv;
use crate::harness::check::liveness::RECOVERY_LIMIT;
use crate::net::NetConfig;
use crate::report::recording::Recording;
use crate::rng::SeededRng;
use crate::runtime::simulate;
use crate::world::{World, WorldConfig};

mod elect_write_read;
mod elections;
mod far_apart;
mod growth;
mod leader_kills;
mod nameless;
mod partitions;
mod quiet;
mod snapshot_catch_up;
mod ten_minutes;
#[cfg(test)]
mod tests;
mod total_crash;

/// The size of the clusters that scenarios run.
pub const NODES: NodeId = 5;

/// How long the last reads of a healed cluster may be tried.
const LAST_WORDS_LIMIT: Duration = RECOVERY_LIMIT;

/// How long nodes may take to notice that the history of their cluster has forked.
const FORK_NOTICE_LIMIT: Duration = Duration::from_secs(10);

type Scripted = Pin<Box<dyn Future<Output = Result<Run, Violation>>>>;

/// Something to live through.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    plot: Plot,
}

/// Where a scenario's events come from.
#[derive(Clone, Copy)]
enum Plot {
    Scripted(fn(Run) -> Scripted),
    Drawn(Theme),
    Own(fn(u64) -> Schedule),
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! scripted {
    ($name:ident, $about:literal) => {
        Scenario {
            name: stringify!($name),
            about: $about,
            plot: Plot::Scripted(|run| Box::pin($name::play(run))),
        }
    };
}

const fn drawn(theme: Theme, about: &'static str) -> Scenario {
    Scenario { name: theme.name, about, plot: Plot::Drawn(theme) }
}

/// Everything that may go wrong, mostly within a minute or two.
const SWARM: Theme = Theme {
    name: "swarm",
    duration: (Duration::from_secs(10), Duration::from_secs(100)),
    duration_long: Some((Duration::from_mins(15), Duration::from_mins(40))),
    operations_max: 400,
    families: Family::ALL,
    all_on: false,
};

/// The same over hours, with clients that come and go: the ten-minute rule is crossed again and again.
const HOURS: Theme = Theme {
    name: "hours",
    duration: (Duration::from_hours(1), Duration::from_hours(4)),
    duration_long: None,
    operations_max: 250,
    families: Family::ALL,
    all_on: false,
};

/// Ten minutes with all faults on: what speed is measured with.
const STANDARD: Theme = Theme {
    name: "standard",
    duration: (Duration::from_mins(10), Duration::from_mins(10)),
    duration_long: None,
    operations_max: 400,
    families: Family::ALL,
    all_on: true,
};

/// Every scenario.
pub const ALL: &[Scenario] = &[
    drawn(SWARM, "everything that can go wrong, each seed with faults of its own choice"),
    drawn(HOURS, "the same over hours: pollers cross the ten-minute rule under faults"),
    drawn(STANDARD, "ten minutes with every kind of fault: what speed is measured with"),
    scripted!(
        elect_write_read,
        "five nodes elect a leader; every node takes writes and shows them"
    ),
    scripted!(leader_kills, "the leader is killed or loses power, again and again, under load"),
    scripted!(
        partitions,
        "the leader is cut off, the cluster split, links go one way, a bridge remains; then all heals"
    ),
    scripted!(
        ten_minutes,
        "the ten-minute rule to the microsecond, across leader changes and clocks minutes apart"
    ),
    scripted!(
        total_crash,
        "all nodes lose power at once, in the middle of writes, and recover from their disks"
    ),
    scripted!(
        snapshot_catch_up,
        "a node that was away past the log's purge point catches up by snapshot"
    ),
    scripted!(
        elections,
        "nodes die in the middle of elections, and the new leader in its first moment"
    ),
    scripted!(growth, "a cluster grows from one node to five while its leaders die"),
    scripted!(
        nameless,
        "the name service goes away, and leaders die and connections break meanwhile"
    ),
    scripted!(far_apart, "nodes continents apart, with heartbeats for it, lose their leaders"),
];

/// The scenario called `name`.
#[must_use]
pub fn find(name: &str) -> Option<Scenario> {
    ALL.iter().copied().find(|scenario| scenario.name == name)
}

impl Scenario {
    /// A scenario of one's own, for [`Subject::scenarios`]: `draw` makes a run of a seed, and the same run every time. One
    /// of [`ALL`] may draw it first, to be altered then.
    #[must_use]
    pub const fn drawn(
        name: &'static str,
        about: &'static str,
        draw: fn(seed: u64) -> Schedule,
    ) -> Self {
        Self { name, about, plot: Plot::Own(draw) }
    }

    /// What `seed` draws, if this scenario is drawn.
    #[must_use]
    pub fn draw(self, seed: u64) -> Option<Schedule> {
        match self.plot {
            Plot::Scripted(_) => None,
            Plot::Drawn(theme) => Some(theme.draw(seed)),
            Plot::Own(draw) => {
                let scenario = self.name.to_owned();
                Some(Schedule { scenario, seed, ..draw(seed) })
            }
        }
    }
}

/// What to play.
#[derive(Clone, Debug)]
pub enum Script {
    /// A scenario with a seed.
    Seed(Scenario, u64),
    /// Exactly this.
    Schedule(Box<Schedule>),
}

impl Script {
    /// The name of its scenario, and its seed.
    #[must_use]
    pub fn name(&self) -> (String, u64) {
        match self {
            Self::Seed(scenario, seed) => (scenario.name.to_owned(), *seed),
            Self::Schedule(schedule) => (schedule.scenario.clone(), schedule.seed),
        }
    }
}

/// What to keep of a run beyond its outcome.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wants {
    /// The lines of the trace.
    pub trace_lines: bool,
    /// What a report shows.
    pub recording: bool,
}

/// A run that is over.
#[derive(Clone, Debug)]
pub struct Played {
    /// What came of it.
    pub outcome: Outcome,
    /// The lines of its trace, if they were wanted.
    pub trace: Vec<String>,
    /// What a report shows, if that was wanted.
    pub recording: Option<Recording>,
}

/// Plays `script`, in a simulation and on a thread of its own.
#[must_use]
pub fn play(script: Script, wants: Wants) -> Played {
    play_with(Subject::default(), script, wants)
}

/// Plays `script` on `subject`.
#[must_use]
pub fn play_with(subject: Subject, script: Script, wants: Wants) -> Played {
    let recorder = Recorder::new(wants.recording);
    play_recorded(subject, script, wants.trace_lines, recorder)
}

/// Plays `script` on `subject` with this recorder, which still holds what happened if that ends in a panic.
#[must_use]
pub fn play_recorded(
    subject: Subject,
    script: Script,
    trace_lines: bool,
    recorder: Recorder,
) -> Played {
    let (_, seed) = script.name();
    simulate(seed, move || async move {
        let (name, seed) = script.name();
        let net = match drawn_from(&script) {
            Some(schedule) => schedule.settings.network(),
            None => NetConfig::default(),
        };
        let world = World::new(WorldConfig { net, trace_lines });
        let watch = Watch::new(world.trace().clone(), Coverage::default(), recorder.clone());
        let command = subject.command(&name, seed);
        let cluster = Cluster::new(world.clone(), RaftOptions::default(), watch).serving(subject);
        recorder.follow(cluster.exchanges());
        let _lines = lines::count(world.clone(), cluster.watch().clone());
        let outcome = Run::new(cluster.clone()).play(script).await;
        let recording = recorder.is_on().then(|| {
            let (kind, what, exchanges) = match &outcome.verdict {
                Verdict::Clean => ("clean".to_owned(), "", &[][..]),
                Verdict::Unrecoverable => ("unrecoverable".to_owned(), "", &[][..]),
                Verdict::Violated(violation) => (
                    violation.broken.to_string(),
                    violation.what.as_str(),
                    violation.exchanges.as_slice(),
                ),
            };
            let frame = Recording { verdict: verdict(&kind, what), ..frame(&name, seed, command) };
            recorder.finish(frame, &cluster.exchanges().all(), exchanges)
        });
        Played { outcome, trace: world.trace().lines(), recording }
    })
}

/// Tells the checkers every second how many connections each node asked for in that second.
async fn count_connections(cluster: Cluster) {
    let mut known = BTreeMap::new();
    loop {
        rt::sleep::<SimEnv>(Duration::from_secs(1)).await;
        for id in 1..=NODES {
            let connects = cluster.world().net().connects(&host(id));
            let before = known.insert(id, connects).unwrap_or_default();
            cluster.watch().connected(id, connects - before);
        }
    }
}

/// The schedule of `script`, if it has one.
fn drawn_from(script: &Script) -> Option<Schedule> {
    match script {
        Script::Seed(scenario, seed) => scenario.draw(*seed),
        Script::Schedule(schedule) => Some((**schedule).clone()),
    }
}

/// A run that is being played.
pub struct Run {
    /// The cluster.
    pub cluster: Cluster,
    /// For the scenario's own choices.
    pub rng: SeededRng,
    /// Whether too many disks were lost for anyone to go on.
    unrecoverable: bool,
    /// Whether it ends with the checks of [`quiet`]. A script that checks elections itself does
    /// without them.
    ends_quietly: bool,
}

impl Run {
    fn new(cluster: Cluster) -> Self {
        let rng = cluster.world().fork_rng();
        Self { cluster, rng, unrecoverable: false, ends_quietly: false }
    }

    async fn play(self, script: Script) -> Outcome {
        let started = rt::now::<SimEnv>();
        let cluster = self.cluster.clone();
        let counting = madsim::task::spawn(count_connections(cluster.clone()));
        let played = match (drawn_from(&script), script) {
            (Some(schedule), _) => {
                let settings = &schedule.settings;
                let run = self.with_options(settings.raft());
                let cluster = run.cluster.knowing_founder_only(settings.founder_only);
                let run = Self { cluster, ends_quietly: true, ..run };
                super::schedule::play::play(run, schedule).await
            }
            (None, Script::Seed(Scenario { plot: Plot::Scripted(play), .. }, _)) => {
                play(self).await
            }
            (None, _) => unreachable!("what is not scripted has a schedule"),
        };
        counting.abort();
        let judge = &cluster.subject().judge;
        let played = played.and_then(|run| judge(&run.cluster.exchanges().all()).map(|()| run));
        let (watch, trace) = (cluster.watch(), cluster.world().trace());
        let exchanges = cluster.exchanges();
        watch.coverage().reach_points(contract::reached(&exchanges.all()));
        if !exchanges.encodings().is_empty() {
            watch.coverage().fire(Site::Compressed);
        }
        let unrecoverable = played.as_ref().is_ok_and(|run| run.unrecoverable);
        watch.coverage().reach(Site::Unrecoverable, unrecoverable);
        if cluster.world().net().stalled_writes() > 0 {
            watch.coverage().fire(Site::Backpressure);
        }
        Outcome {
            verdict: match played {
                Ok(run) if run.unrecoverable => Verdict::Unrecoverable,
                Ok(_) => Verdict::Clean,
                Err(violation) => Verdict::Violated(violation),
            },
            summary: Summary {
                operations: cluster.exchanges().answered(),
                leaders: watch.leaders(),
                trace_hash: trace.hash(),
                trace_events: trace.events(),
                virtual_millis: u64::try_from((rt::now::<SimEnv>() - started).as_millis())
                    .unwrap_or(u64::MAX),
            },
            coverage: watch.coverage().clone(),
        }
    }

    /// The same run with a cluster of other settings, before anything was started.
    fn with_options(self, options: RaftOptions) -> Self {
        Self { cluster: self.cluster.with_options(options), ..self }
    }

    /// Lets a random time pass, in milliseconds.
    async fn pause(&mut self, millis: Range<u64>) {
        let millis = self.rng.random_range(millis);
        rt::sleep::<SimEnv>(Duration::from_millis(millis)).await;
    }

    /// Whether to do something that happens once in `n` times.
    fn one_in(&mut self, n: u64) -> bool {
        self.rng.next_u64().is_multiple_of(n)
    }

    /// Ends the process of `id`: `kill -9` or a power failure.
    fn fell(&mut self, id: NodeId) {
        if self.one_in(2) { self.cluster.kill(id) } else { self.cluster.crash(id, CrashMode::Any) }
    }

    /// Mends everything, waits for order, and checks all that was promised to the clients.
    ///
    /// # Errors
    ///
    /// The first violation.
    pub async fn finish(mut self, mut workload: Workload) -> Result<Self, Violation> {
        self.cluster.world().net().heal();
        for id in 1..=NODES {
            self.cluster.start(id);
        }
        self.unrecoverable = self.cluster.is_unrecoverable();
        if !self.unrecoverable
            && let Err(disorder) = self.cluster.settle_under_load(NODES).await
        {
            // A node that starts only now may find its data rotten, and be the one that is missing for a majority.
            self.unrecoverable = self.cluster.is_unrecoverable();
            if !self.unrecoverable {
                return Err(disorder);
            }
        }
        if self.unrecoverable {
            // Nobody can go on; what was said until now must still be true.
            workload.stop().await?;
        } else {
            workload.stop().await?;
            self.cluster.settle(NODES).await?;
            self.serves_again().await?;
            self.cluster.settle(NODES).await?;
            // A node that meets its rotten data ends and is replaced, so that time would not be
            // quiet.
            if self.ends_quietly && !self.cluster.has_rotten() {
                self.is_left_alone().await?;
            }
        }
        self.cluster.watch().violation().map_or(Ok(()), Err)?;
        if self.cluster.watch().has_forked() {
            // Acknowledged writes are lost, so no history of the clients is whole. Nodes must agree
            // all the same, once they have compared their metadata with their leader's.
            rt::sleep::<SimEnv>(FORK_NOTICE_LIMIT).await;
            self.cluster.serve_one_history()?;
            self.unrecoverable = true;
            return Ok(self);
        }
        let exchanges = self.cluster.exchanges().all();
        let judged = clients::check(&exchanges).map_err(|contradiction| Violation {
            exchanges: contradiction.exchanges,
            ..Violation::safety(contradiction.what)
        })?;
        let facts = self.cluster.watch().facts();
        let blame = |promise: &str| {
            let promise = promise.to_owned();
            move |(number, what): (usize, String)| Violation {
                exchanges: vec![number],
                ..Violation::safety(format!("{promise}: {what}"))
            }
        };
        operators::check(&exchanges, &facts).map_err(blame("answers to operators"))?;
        reports::check(&exchanges, &facts).map_err(blame("reports of nodes"))?;
        self.cluster.watch().coverage().reach(Site::UnknownTookEffect, judged.unknown_effects > 0);
        Ok(self)
    }

    /// Every node of a healed cluster takes a write, and shows it and everything else.
    async fn serves_again(&mut self) -> Result<(), Violation> {
        let cluster = self.cluster.clone();
        let last_words = self.cluster.world().start("checker", move |env| async move {
            let mut client = Client::new(env).noting(cluster.exchanges().clone());
            for node in 1..=NODES {
                let name = format!("last-{node}");
                let create = Request::post("/create_topic", json!({ "name": name })).keyed(&name);
                insist(&mut client, node, &create, StatusCode::CREATED).await?;
                let reader = node % NODES + 1;
                let read = Request::get(format!("/get_topic_by_name/{name}"));
                insist(&mut client, reader, &read, StatusCode::OK).await?;
            }
            for (node, path) in
                [(1, "/broker_mgmt/0"), (2, "/client_mgmt/0"), (3, "/get_active_brokers")]
            {
                insist(&mut client, node, &Request::get(path), StatusCode::OK).await?;
            }
            Ok(())
        });
        last_words.await.map_err(|_| Violation::liveness("service: the last client did not end"))?
    }
}

/// Sends `request` to `node` until it is answered with `status`.
async fn insist(
    client: &mut Client,
    node: NodeId,
    request: &Request,
    status: StatusCode,
) -> Result<(), Violation> {
    let deadline = rt::now::<SimEnv>() + LAST_WORDS_LIMIT;
    loop {
        let answer = client.send(&http(node), request).await;
        if answer.as_ref().is_ok_and(|answer| answer.status == status) {
            return Ok(());
        }
        if rt::now::<SimEnv>() > deadline {
            let what = format!(
                "service: healed node {node} answers {answer:?} to {} {}",
                request.method, request.path
            );
            return Err(Violation::liveness(what));
        }
        rt::sleep::<SimEnv>(Duration::from_millis(100)).await;
    }
}
