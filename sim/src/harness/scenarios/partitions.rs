//! The network breaks in every way that a switch, a firewall or a cable can break it. Clients reach all nodes
//! throughout: a leader that is cut off from its followers is still asked, and must not answer what it cannot know.

use rand::RngExt;

use super::{NODES, Run, Workload};
use crate::harness::Violation;
use crate::harness::cluster::host;

pub(super) async fn play(mut run: Run) -> Result<Run, Violation> {
    run.cluster.form(NODES).await?;
    let workload = Workload::start(&run.cluster, 4, NODES);
    for _ in 0..6 {
        run.pause(100..1_500).await;
        let leader = run.cluster.wait_for_leader().await?;
        cut(&mut run, leader);
        run.pause(200..5_000).await;
        if run.one_in(3) {
            // The break moves before it heals.
            run.cluster.world().net().heal();
            let other = run.rng.random_range(1..=NODES);
            cut(&mut run, other);
            run.pause(200..3_000).await;
        }
        run.cluster.world().net().heal();
    }
    run.finish(workload).await
}

/// Breaks the network around `node`.
fn cut(run: &mut Run, node: u64) {
    let net = run.cluster.world().net().clone();
    let hosts: Vec<String> = (0..NODES).map(|step| host((node - 1 + step) % NODES + 1)).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    match run.rng.random_range(0..8) {
        // Cut off, alone or with one follower.
        0 | 1 => net.partition(&[&hosts[..1], &hosts[1..]]),
        2 => net.partition(&[&hosts[..2], &hosts[2..]]),
        // Cut off with two followers: the majority.
        3 => net.partition(&[&hosts[..3], &hosts[3..]]),
        // It is heard by nobody, or hears nobody.
        4 => hosts[1..].iter().for_each(|other| net.block(hosts[0], other)),
        5 => hosts[1..].iter().for_each(|other| net.block(other, hosts[0])),
        // Two sides that only it can talk to.
        6 => net.partition(&[&hosts[1..3], &hosts[3..]]),
        // A ring: each talks to its neighbours only.
        _ => {
            for (a, from) in hosts.iter().enumerate() {
                for (b, to) in hosts.iter().enumerate() {
                    let apart = a.abs_diff(b);
                    if apart > 1 && apart < hosts.len() - 1 {
                        net.block(from, to);
                    }
                }
            }
        }
    }
}
