//! Each judgement of a cluster, on a small one that deserves it.

use hyper::StatusCode;
use yakt::env::rt;

use super::*;
use crate::disk::{CrashMode, FaultKind};
use crate::harness::check::liveness::RECOVERY_LIMIT;
use crate::harness::client::{Client, Request};
use crate::harness::coverage::Coverage;
use crate::harness::record::Recorder;
use crate::harness::{Broken, Violation};
use crate::runtime::simulate;
use crate::world::WorldConfig;

/// More than any node takes to notice that something is wrong with it.
const NOTICED: Duration = Duration::from_mins(1);

/// More than the last part of a change of members takes.
const JOINED: Duration = Duration::from_secs(1);

/// Forms a cluster of three, and has `act` do to it what it will.
fn with_three<T: Send + 'static, F: Future<Output = T>>(
    act: impl FnOnce(Cluster) -> F + Send + 'static,
) -> T {
    simulate(1, || async move {
        let world = World::new(WorldConfig::default());
        let watch = Watch::new(world.trace().clone(), Coverage::default(), Recorder::new(false));
        let cluster = Cluster::new(world, RaftOptions::default(), watch);
        cluster.form(3).await.expect("three healthy nodes");
        // While the last of them joins, a majority of the first two has to agree too (Raft §6).
        rt::sleep::<SimEnv>(JOINED).await;
        act(cluster).await
    })
}

/// What `act` is found guilty of within a minute.
fn verdict_on<F: Future<Output = ()>>(act: impl FnOnce(Cluster) -> F + Send + 'static) -> String {
    with_three(|cluster| async move {
        act(cluster.clone()).await;
        let found = cluster.wait_for(NOTICED, || Err::<(), _>("nothing".to_owned())).await;
        found.expect_err("it finds nothing else").to_string()
    })
}

/// Node 2's disk fails, and then node 1 dies: whoever is left has to save a vote.
fn strike_disk(cluster: &Cluster) {
    cluster.world().disk(&host(2)).inject(FaultKind::SyncError);
    cluster.kill(1);
}

#[test]
fn a_node_that_gives_up_for_its_failing_disk_is_caught_unless_that_is_expected() {
    let unexpected = verdict_on(|cluster| async move { strike_disk(&cluster) });
    assert!(unexpected.starts_with("safety: endurance: node 2 stopped by itself"), "{unexpected}");
    let expected = with_three(|cluster| async move {
        cluster.begin_failing(2);
        strike_disk(&cluster);
        rt::sleep::<SimEnv>(NOTICED).await;
        (cluster.watch().violation(), cluster.take_ended())
    });
    assert_eq!(expected, (None, [2].into()));
}

#[test]
fn a_node_that_ends_cleanly_without_having_been_told_is_caught() {
    let ended = verdict_on(|cluster| async move {
        cluster.node(2).expect("it runs").stop();
    });
    assert!(ended.starts_with("safety: endurance: node 2 stopped by itself: ended"), "{ended}");
}

#[test]
fn a_node_that_takes_itself_for_removed_is_caught_unless_that_is_expected() {
    let remove = |cluster: Cluster| async move {
        let asked = cluster.world().start("operator", |env| async move {
            let removal =
                Request { method: hyper::Method::DELETE, ..Request::get("/cluster/nodes/3") };
            Client::new(env).send(&http(1), &removal).await.map(|answer| answer.status)
        });
        assert!(asked.await.expect("it ends").is_ok_and(|status: StatusCode| status.is_success()));
    };
    let unexpected = verdict_on(remove);
    assert!(unexpected.starts_with("safety: endurance: node 3 stopped by itself"), "{unexpected}");
    let expected = with_three(move |cluster| async move {
        cluster.expect_removal(3);
        remove(cluster.clone()).await;
        rt::sleep::<SimEnv>(NOTICED).await;
        (cluster.watch().violation(), cluster.take_ended())
    });
    assert_eq!(expected, (None, [3].into()));
}

#[test]
fn a_member_that_comes_back_with_nothing_is_caught_unless_its_disk_is_known_to_be_lost() {
    let unexpected = verdict_on(|cluster| async move {
        cluster.crash(3, CrashMode::LoseUnsynced);
        cluster.world().disk(&host(3)).wipe();
        cluster.start(3);
    });
    assert!(unexpected.starts_with("safety: "), "{unexpected}");
    let expected = with_three(|cluster| async move {
        cluster.destroy(3);
        cluster.start(3);
        rt::sleep::<SimEnv>(NOTICED).await;
        cluster.watch().violation()
    });
    assert_eq!(expected, None);
}

#[test]
fn a_stop_that_gives_up_waiting_is_caught_unless_the_node_is_slow() {
    let slow = |cluster: &Cluster| {
        cluster.world().disk(&host(2)).set_latency(NOTICED..2 * NOTICED);
        cluster.stop(2);
    };
    let unexpected = verdict_on(move |cluster| async move { slow(&cluster) });
    assert!(unexpected.starts_with("safety: endurance: node 2"), "{unexpected}");
    let expected = with_three(move |cluster| async move {
        cluster.begin_slow(2);
        slow(&cluster);
        rt::sleep::<SimEnv>(NOTICED).await;
        (cluster.watch().violation(), cluster.running())
    });
    assert_eq!(expected, (None, vec![1, 3]));
}

#[test]
fn a_node_that_is_told_to_stop_and_goes_on_is_caught() {
    let (stopped, stuck) = with_three(|cluster| async move {
        let stopped = cluster.stop_and_wait(3).await;
        cluster.world().pause(&host(2));
        (stopped, cluster.stop_and_wait(2).await)
    });
    assert_eq!(stopped, Ok(()));
    assert_eq!(stuck, Err(Violation::liveness("stop: node 2 was told to stop and goes on")));
}

/// How a cluster of three to which `act` was done fails to come to order.
fn disorder_after(act: impl FnOnce(&Cluster) + Send + 'static) -> String {
    let disorder = with_three(|cluster| async move {
        act(&cluster);
        // At first nobody has noticed.
        rt::sleep::<SimEnv>(Duration::from_secs(10)).await;
        cluster.settle(3).await
    });
    let Violation { broken, what, .. } = disorder.expect_err("it cannot");
    assert_eq!(broken, Broken::Liveness);
    assert!(what.starts_with(&format!("convergence: after {RECOVERY_LIMIT:?}, ")), "{what}");
    what
}

#[test]
fn a_cluster_that_does_not_come_to_order_is_caught() {
    let missing = disorder_after(|cluster| cluster.kill(3));
    assert!(missing.contains("node 3 does not run"), "{missing}");
    let apart = disorder_after(|cluster| cluster.world().net().isolate("n3"));
    assert!(apart.contains("node 3"), "{apart}");
    let split = disorder_after(|cluster| {
        cluster.world().net().partition(&[&["n1"], &["n2"], &["n3"]]);
    });
    assert!(split.contains("node"), "{split}");
}

#[test]
fn a_cluster_without_a_majority_has_no_leader() {
    let elected = with_three(|cluster| async move {
        for id in 1..=3 {
            cluster.kill(id);
        }
        cluster.start(2);
        cluster.wait_for_leader().await
    });
    let what = elected.expect_err("nobody can lead").what;
    assert!(what.starts_with("convergence") && what.contains("nobody leads"), "{what}");
}

#[test]
fn two_of_three_elect_a_leader() {
    let elected = with_three(|cluster| async move {
        cluster.kill(1);
        cluster.wait_for_leader().await
    });
    assert!(elected.is_ok_and(|leader| leader != 1));
}

#[test]
fn whoever_waits_for_order_hears_of_what_was_broken_meanwhile() {
    let broken = Violation::safety("a promise: it was broken");
    let reported = broken.clone();
    let settled = with_three(|cluster| async move {
        cluster.watch().report(reported);
        cluster.settle(3).await
    });
    assert_eq!(settled, Err(broken));
}
