//! [`Names`] on a scripted name service, in simulated time: how a node behaves while names do not
//! resolve, change, or take long.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use yakt::env::{Env, Listener, TaskLane, rt};
use yakt::raft::network::Names;
use yakt::raft::network::names::{LOOKUP_INTERVAL, LOOKUP_PATIENCE};
use yakt_sim::{SimEnv, SimFile, SimListener, SimRuntime, SimStream, World, WorldConfig, simulate};

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// How the service answers one lookup.
#[derive(Clone, Debug)]
enum Answer {
    /// With these addresses, after this time.
    After(Duration, Vec<&'static str>),
    /// With an error, after this time.
    Fails(Duration),
    /// Never.
    Never,
}

fn found(addresses: &[&'static str]) -> Answer {
    Answer::After(Duration::from_millis(5), addresses.to_vec())
}

#[derive(Debug, Default)]
struct Service {
    /// The answers to come; the last one is repeated.
    script: VecDeque<Answer>,
    lookups: usize,
    under_way: usize,
    under_way_max: usize,
}

/// A [`SimEnv`] with a name service of its own.
#[derive(Clone, Debug)]
struct Scripted {
    env: SimEnv,
    service: Arc<Mutex<Service>>,
}

impl Scripted {
    fn with<T>(&self, act: impl FnOnce(&mut Service) -> T) -> T {
        act(&mut self.service.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on lookups are answered like this.
    fn answers(&self, script: impl IntoIterator<Item = Answer>) {
        self.with(|service| service.script = script.into_iter().collect());
    }

    fn lookups(&self) -> usize {
        self.with(|service| service.lookups)
    }
}

impl Env for Scripted {
    type Runtime = SimRuntime;
    type Listener = SimListener;
    type Stream = SimStream;
    type Address = String;
    type Disk = SimFile;
    type Lane = TaskLane<Self>;

    async fn listen(&self, addr: &str) -> io::Result<SimListener> {
        self.env.listen(addr).await
    }

    async fn lookup(&self, _: &str) -> io::Result<Vec<String>> {
        let answer = self.with(|service| {
            service.lookups += 1;
            service.under_way += 1;
            service.under_way_max = service.under_way_max.max(service.under_way);
            let next = if service.script.len() > 1 { service.script.pop_front() } else { None };
            next.or_else(|| service.script.front().cloned()).expect("a script")
        });
        let result = match answer {
            Answer::After(time, addresses) => {
                rt::sleep::<Self>(time).await;
                Ok(addresses.into_iter().map(str::to_owned).collect())
            }
            Answer::Fails(time) => {
                rt::sleep::<Self>(time).await;
                Err(io::Error::other("no name service"))
            }
            Answer::Never => std::future::pending().await,
        };
        self.with(|service| service.under_way -= 1);
        result
    }

    async fn connect(&self, addr: &String) -> io::Result<SimStream> {
        self.env.connect(addr).await
    }

    fn wall_clock(&self) -> Duration {
        self.env.wall_clock()
    }

    fn open_disk(&self, dir: &Path, name: &str) -> io::Result<SimFile> {
        self.env.open_disk(dir, name)
    }

    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = io::Result<T>> + Send {
        self.env.blocking(work)
    }

    fn lane(&self, _: &str) -> io::Result<TaskLane<Self>> {
        Ok(TaskLane(self.clone()))
    }
}

/// Runs `main` on a host of a world in which `a`, `b` and `c` listen on port 80. Nothing listens on
/// port 81.
fn play<F>(main: impl FnOnce(Scripted, World) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    simulate(1, || async move {
        let world = World::new(WorldConfig::default());
        for host in ["a", "b", "c"] {
            drop(world.start(host, |env: SimEnv| async move {
                let listener = env.listen("0.0.0.0:80").await.expect("a port");
                loop {
                    let (mut stream, _) = listener.accept().await.expect("a connection");
                    stream.write_all(env.host().as_bytes()).await.expect("room");
                }
            }));
        }
        rt::sleep::<SimEnv>(Duration::from_millis(1)).await;
        let inside = world.clone();
        let node = world.start("node", |env| {
            let service = Arc::new(Mutex::new(Service::default()));
            main(Scripted { env, service }, inside)
        });
        node.await.expect("nothing kills it");
    });
}

/// The host at the other end of a connection to `peer:80`.
async fn reached(names: &Names<Scripted>) -> io::Result<String> {
    use tokio::io::AsyncReadExt;
    let mut stream = names.connect("peer:80").await?;
    let mut host = [0; 1];
    stream.read_exact(&mut host).await?;
    Ok(String::from_utf8_lossy(&host).into_owned())
}

async fn let_lookups_age() {
    rt::sleep::<Scripted>(LOOKUP_INTERVAL).await;
}

/// While the name service was down, no node reached another anew, so no election succeeded.
#[test]
fn an_address_that_worked_is_used_while_lookups_fail() {
    play(|env, _| async move {
        let names = Names::new(env.clone());
        env.answers([found(&["a:80"])]);
        assert_eq!(reached(&names).await.expect("it resolves"), "a");
        for outage in [Answer::Fails(Duration::ZERO), Answer::Fails(Duration::from_secs(10))] {
            let_lookups_age().await;
            env.answers([outage]);
            for _ in 0..3 {
                let begun = rt::now::<Scripted>();
                assert_eq!(reached(&names).await.expect("it is remembered"), "a");
                let took = rt::now::<Scripted>() - begun;
                assert!(took < LOOKUP_PATIENCE + Duration::from_millis(50), "{took:?}");
            }
        }
    });
}

#[test]
fn a_lookup_that_never_ends_is_made_once_however_many_wait() {
    play(|env, _| async move {
        let names = Names::new(env.clone());
        env.answers([found(&["a:80"])]);
        names.prepare("peer:80", Duration::ZERO);
        let_lookups_age().await;
        env.answers([Answer::Never]);
        for _ in 0..50 {
            assert_eq!(reached(&names).await.expect("it is remembered"), "a");
        }
        let_lookups_age().await;
        names.prepare("peer:80", Duration::ZERO);
        // Without a remembered address, each caller waits, and gives up by its own deadline.
        for _ in 0..50 {
            let limit = Duration::from_millis(30);
            let other = rt::timeout::<Scripted, _>(limit, names.connect("other:80")).await;
            assert!(other.is_none(), "the name service does not answer");
        }
        assert_eq!(env.lookups(), 1 + 2, "one that succeeded, and one for each name");
        assert_eq!(env.with(|service| service.under_way_max), 2);
    });
}

#[test]
fn a_name_that_was_prepared_resolves_without_the_name_service() {
    play(|env, _| async move {
        let names = Names::new(env.clone());
        env.answers([found(&["b:80"])]);
        names.prepare("peer:80", Duration::from_secs(30));
        rt::sleep::<Scripted>(Duration::from_millis(50)).await;
        names.prepare("peer:80", Duration::from_secs(30));
        assert_eq!(env.lookups(), 1, "the first is young enough");
        let_lookups_age().await;
        env.answers([Answer::Fails(Duration::ZERO)]);
        assert_eq!(reached(&names).await.expect("it was prepared"), "b");
    });
}

/// A failed lookup was repeated no sooner than a successful one, after 30 s. If an outage began before
/// that, the address stayed unknown.
#[test]
fn a_name_that_did_not_resolve_is_prepared_again_soon() {
    play(|env, _| async move {
        let names = Names::new(env.clone());
        env.answers([Answer::Fails(Duration::ZERO), found(&["b:80"])]);
        names.prepare("peer:80", Duration::from_secs(30));
        names.prepare("peer:80", Duration::from_secs(30));
        assert_eq!(env.lookups(), 1, "not at once");
        rt::sleep::<Scripted>(Duration::from_millis(50)).await;
        let_lookups_age().await;
        names.prepare("peer:80", Duration::from_secs(30));
        rt::sleep::<Scripted>(Duration::from_millis(50)).await;
        env.answers([Answer::Fails(Duration::ZERO)]);
        let_lookups_age().await;
        assert_eq!(reached(&names).await.expect("it was prepared"), "b");
    });
}

#[test]
fn a_peer_that_moved_is_found_as_soon_as_the_name_service_knows() {
    play(|env, world| async move {
        let names = Names::new(env.clone());
        env.answers([found(&["a:80"])]);
        assert_eq!(reached(&names).await.expect("it resolves"), "a");
        let_lookups_age().await;
        env.answers([found(&["b:80"])]);
        assert_eq!(reached(&names).await.expect("it moved"), "b");
        // The answer comes later than callers wait, and serves the callers that come later.
        let_lookups_age().await;
        env.answers([Answer::After(Duration::from_millis(300), vec!["c:80"]), Answer::Never]);
        world.kill("b");
        assert!(reached(&names).await.is_err(), "the old address refuses");
        rt::sleep::<Scripted>(Duration::from_millis(300)).await;
        assert_eq!(reached(&names).await.expect("it moved again"), "c");
    });
}

#[test]
fn an_address_that_does_not_answer_does_not_hide_the_next_one() {
    play(|env, world| async move {
        let names = Names::new(env.clone());
        world.net().isolate("a");
        env.answers([found(&["b:81", "a:80", "c:80"])]);
        let connected = rt::timeout::<Scripted, _>(Duration::from_millis(500), reached(&names));
        assert_eq!(connected.await.expect("in time").expect("c listens"), "c");
        let before = rt::now::<Scripted>();
        assert_eq!(reached(&names).await.expect("c listens"), "c");
        let took = rt::now::<Scripted>() - before;
        assert!(took < Duration::from_millis(50), "the one that worked is first: {took:?}");
    });
}

#[test]
fn an_unknown_name_is_an_error_that_names_it_and_is_asked_for_rarely() {
    play(|env, _| async move {
        let names = Names::new(env.clone());
        env.answers([Answer::Fails(Duration::ZERO)]);
        let begun = rt::now::<Scripted>();
        while (rt::now::<Scripted>() - begun) < LONG {
            let Err(error) = names.connect("peer:80").await else { panic!("no such name") };
            let error = error.to_string();
            assert!(error.contains("peer:80") && error.contains("no name service"), "{error}");
            rt::sleep::<Scripted>(Duration::from_millis(10)).await;
        }
        let most = LONG.as_secs() / LOOKUP_INTERVAL.as_secs() + 1;
        assert!(env.lookups() as u64 <= most, "{} lookups in {LONG:?}", env.lookups());
        env.answers([found(&["a:80"])]);
        let_lookups_age().await;
        assert_eq!(reached(&names).await.expect("it resolves again"), "a");
    });
}

#[test]
fn the_memory_is_bounded_and_keeps_what_is_used() {
    play(|env, _| async move {
        let names = Names::new(env.clone());
        env.answers([found(&["a:80"])]);
        assert_eq!(reached(&names).await.expect("it resolves"), "a");
        for number in 0..2_000 {
            names.prepare(&format!("former-{number}:80"), Duration::ZERO);
            if number % 100 == 0 {
                rt::sleep::<Scripted>(Duration::from_millis(10)).await;
                names.prepare("peer:80", LONG);
            }
        }
        let_lookups_age().await;
        env.answers([Answer::Fails(Duration::ZERO)]);
        assert_eq!(reached(&names).await.expect("it is remembered"), "a");
        let forgotten = names.connect("former-0:80").await.err();
        assert!(forgotten.is_some(), "the oldest unused name is forgotten");
    });
}
