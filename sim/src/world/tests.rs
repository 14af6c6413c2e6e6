//! What ends a process, and what is left of it; and that a seed decides all of it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redb::StorageBackend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use yakt::env::{Env, Listener, rt};

use super::*;
use crate::runtime::simulate;

const TICK: Duration = Duration::from_millis(100);

async fn pause(duration: Duration) {
    madsim::time::sleep(duration).await;
}

/// Serves echoes, writing each to the disk first.
async fn echo(env: SimEnv) {
    let disk = Arc::new(env.open_disk(Path::new("data"), "log").expect("open"));
    let listener = env.listen("0.0.0.0:80").await.expect("bind");
    loop {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let (env, disk) = (env.clone(), disk.clone());
        rt::spawn::<SimEnv, _>(async move {
            while let Ok(byte) = stream.read_u8().await {
                let disk = disk.clone();
                let stored = env.blocking(move || {
                    disk.write(disk.len()?, &[byte])?;
                    disk.sync_data()
                });
                if stored.await.and_then(|stored| stored).is_err()
                    || stream.write_u8(byte).await.is_err()
                {
                    return;
                }
            }
        });
    }
}

/// Sends bytes to `n1`, reconnecting as needed, for a while.
async fn talk(env: SimEnv) {
    for byte in 0..40 {
        let exchange = async {
            let mut stream = rt::dial(&env, "n1:80").await?;
            stream.write_u8(byte).await?;
            stream.read_u8().await
        };
        // Whether it worked is the seed's business.
        _ = rt::timeout::<SimEnv, _>(Duration::from_millis(300), exchange).await;
        rt::sleep::<SimEnv>(Duration::from_millis(rt::random::<SimEnv>() % 50)).await;
    }
}

/// A short life full of faults; its trace.
fn eventful(seed: u64) -> (u64, Vec<String>) {
    simulate(seed, || async {
        let world = World::new(WorldConfig { trace_lines: true, ..WorldConfig::default() });
        world.start("n1", echo);
        pause(TICK).await;
        let clients = ["c1", "c2"].map(|client| world.start(client, talk));
        for _ in 0..6 {
            pause(TICK + Duration::from_millis(world.draw() % 300)).await;
            match world.draw() % 3 {
                0 => world.kill("n1"),
                1 => _ = world.crash("n1", CrashMode::Any),
                _ => world.net().isolate("n1"),
            }
            pause(TICK).await;
            world.net().heal();
            if !world.is_running("n1") {
                world.start("n1", echo);
            }
        }
        for client in clients {
            client.await.expect("nobody kills clients");
        }
        (world.trace().hash(), world.trace().lines())
    })
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let (first, lines) = eventful(1);
    assert!(lines.len() > 100, "{} events", lines.len());
    let (second, again) = eventful(1);
    assert_eq!(lines, again);
    assert_eq!(first, second);
    assert_ne!(first, eventful(2).0);
}

/// Writes through its dying breath, as a database that is dropped does.
struct LastWords(crate::SimFile);

impl Drop for LastWords {
    fn drop(&mut self) {
        assert!(self.0.write(0, b"goodbye").is_err(), "the dead must not write");
    }
}

#[test]
fn drop_code_of_a_dead_process_reaches_neither_disk_nor_peers() {
    for end in ["kill", "crash", "paused kill"] {
        simulate(3, move || async move {
            let world = World::new(WorldConfig::default());
            world.start("n1", |env| async move {
                let file = LastWords(env.open_disk(Path::new(""), "f").expect("open"));
                file.0.write(0, b"hello").expect("write");
                file.0.sync_data().expect("sync");
                std::future::pending::<()>().await;
            });
            pause(TICK).await;
            if end == "crash" {
                world.crash("n1", CrashMode::Any);
            } else {
                if end == "paused kill" {
                    world.pause("n1");
                }
                world.kill("n1");
            }
            pause(TICK).await;
            let reader = world.start("n1", |env| async move {
                let file = env.open_disk(Path::new(""), "f").expect("the dead hold no locks");
                let mut bytes = [0; 5];
                file.read(0, &mut bytes).expect("read");
                bytes
            });
            assert_eq!(&reader.await.expect("read"), b"hello");
        });
    }
}

#[test]
fn a_process_that_returns_takes_its_tasks_and_ports_with_it() {
    simulate(4, || async {
        let world = World::new(WorldConfig::default());
        let ticks = Arc::new(AtomicU32::new(0));
        let ticking = ticks.clone();
        let main = world.start("n1", |env| async move {
            let listener = env.listen("n1:80").await.expect("bind");
            rt::spawn::<SimEnv, _>(async move {
                let _listener = listener;
                loop {
                    rt::sleep::<SimEnv>(TICK).await;
                    ticking.fetch_add(1, Ordering::Relaxed);
                }
            });
            rt::sleep::<SimEnv>(TICK * 5).await;
            "done"
        });
        assert_eq!(main.await.expect("returned"), "done");
        assert!(!world.is_running("n1"));
        let before = ticks.load(Ordering::Relaxed);
        let client = world.start("c", |env| async move { rt::dial(&env, "n1:80").await.map(drop) });
        assert!(client.await.expect("returned").is_err(), "refused");
        pause(TICK * 10).await;
        assert_eq!(ticks.load(Ordering::Relaxed), before);
    });
}

#[test]
fn a_paused_process_accepts_connections_and_answers_after_it_resumes() {
    simulate(5, || async {
        let world = World::new(WorldConfig::default());
        world.start("n1", echo);
        pause(TICK).await;
        world.pause("n1");
        let client = world.start("c", |env| async move {
            let mut stream = rt::dial(&env, "n1:80").await.expect("the kernel accepts");
            stream.write_u8(7).await.expect("write");
            let silence = rt::timeout::<SimEnv, _>(TICK, stream.read_u8()).await;
            (silence.is_none(), stream.read_u8().await.expect("read"))
        });
        pause(TICK * 5).await;
        world.resume("n1");
        assert_eq!(client.await.expect("returned"), (true, 7));
    });
}

#[test]
fn a_power_failure_in_the_middle_of_work_wakes_the_supervisor() {
    simulate(6, || async {
        let world = World::new(WorldConfig::default());
        let disk = world.disk("n1");
        disk.fail_after(4, crate::FaultKind::PowerLoss);
        world.start("n1", echo);
        pause(TICK).await;
        world.start("c", talk);
        disk.power_failed().await;
        world.crash("n1", CrashMode::LoseUnsynced);
        world.start("n1", echo);
        pause(TICK).await;
        assert!(world.is_running("n1") && !disk.is_powerless());
    });
}

#[test]
fn a_power_loss_may_strike_in_the_midst_of_the_work_under_way() {
    simulate(8, || async {
        let world = World::new(WorldConfig::default());
        let (disk, mut left) = (world.disk("n1"), BTreeSet::new());
        for _ in 0..60 {
            disk.set_latency(TICK..TICK * 2);
            world.start("n1", |env| async move {
                let file = env.open_disk(Path::new(""), "f").expect("open");
                let written = env.blocking(move || {
                    for offset in 0..8 {
                        file.write(offset, &[1])?;
                    }
                    file.sync_data()
                });
                drop(written.await);
                pause(TICK).await;
            });
            pause(TICK / 10).await;
            world.crash("n1", CrashMode::KeepUnsynced);
            let kept = madsim::task::spawn({
                let (disk, boot) = (disk.clone(), disk.boot());
                async move { disk.open(boot, "f").expect("open").len().expect("length") }
            });
            left.insert(kept.await.expect("no panic"));
            disk.fence();
            disk.wipe();
        }
        // Nothing, all, and several lengths between.
        assert!(left.contains(&0) && left.contains(&8) && left.len() > 4, "{left:?}");
    });
}

#[test]
fn a_stalled_disk_holds_up_the_work_on_it_until_it_recovers() {
    simulate(7, || async {
        let world = World::new(WorldConfig::default());
        let disk = world.disk("n1");
        let stall = Duration::from_secs(30);
        disk.set_latency(stall..stall * 2);
        let main = world.start("n1", move |env| async move {
            let file = Arc::new(env.open_disk(Path::new(""), "f").expect("open"));
            let mut took = Vec::new();
            for _ in 0..2 {
                let (start, file) = (rt::now::<SimEnv>(), file.clone());
                let synced = env.blocking(move || file.sync_data());
                synced.await.and_then(|synced| synced).expect("slow, not broken");
                took.push(rt::now::<SimEnv>() - start);
                disk.set_latency(TICK..TICK * 2);
            }
            took
        });
        let took = main.await.expect("returned");
        assert!((stall..stall * 2).contains(&took[0]), "{took:?}");
        assert!((TICK..TICK * 2).contains(&took[1]), "{took:?}");
    });
}
