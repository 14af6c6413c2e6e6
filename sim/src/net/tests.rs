//! What the network promises, each claim in a simulation of its own.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use yakt::env::Listener;

use super::*;
use crate::runtime::simulate;

mod death;

const SOON: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_mins(1);
/// Pauses double: after a block as long as that, the next retransmission is no farther away.
const RETRANSMITTED: Duration = LONG;

async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    madsim::time::timeout(limit, future).await.ok()
}

async fn pause(duration: Duration) {
    madsim::time::sleep(duration).await;
}

/// Two hosts, `a` connected to `b`. (Mind that a pattern's `..` drops, hence closes, what it leaves out.)
struct Pair {
    net: Network,
    a: Interface,
    listener: SimListener,
    at_a: SimStream,
    at_b: SimStream,
}

async fn pair() -> Pair {
    let net = Network::new(NetConfig::default(), Trace::new());
    let (a, b) = (net.boot("a"), net.boot("b"));
    let listener = b.listen("b:80").expect("bind");
    let at_a = a.connect("b:80").await.expect("connect");
    let (at_b, from) = listener.accept().await.expect("accept");
    assert_eq!(from, "a");
    Pair { net, a, listener, at_a, at_b }
}

/// Reads exactly what `expected` is.
async fn expect(stream: &mut SimStream, expected: &str) {
    let mut buf = vec![0; expected.len()];
    stream.read_exact(&mut buf).await.expect("read");
    assert_eq!(buf, expected.as_bytes());
}

async fn read_error(stream: &mut SimStream) -> ErrorKind {
    stream.read(&mut [0; 8]).await.expect_err("an error").kind()
}

#[test]
fn a_link_that_drops_large_writes_carries_small_ones_until_a_large_one_is_stuck() {
    simulate(1, || async {
        let Pair { net, a, listener, mut at_a, mut at_b } = pair().await;
        net.drop_larger("a", "b", 4);
        at_a.write_all(b"tiny").await.expect("write");
        expect(&mut at_b, "tiny").await;
        at_a.write_all(b"large").await.expect("write");
        at_a.write_all(b"tiny").await.expect("write");
        assert!(within(LONG, at_b.read(&mut [0; 8])).await.is_none());
        // The other direction, and other connections, are as before.
        at_b.write_all(b"any size").await.expect("write");
        expect(&mut at_a, "any size").await;
        let mut other_a = a.connect("b:80").await.expect("connect");
        let (mut other_b, _) = listener.accept().await.expect("accept");
        other_a.write_all(b"tiny").await.expect("write");
        expect(&mut other_b, "tiny").await;
        net.carry_large("a", "b");
        let arrived = within(RETRANSMITTED, expect(&mut at_b, "largetiny")).await;
        assert!(arrived.is_some());
    });
}

#[test]
fn a_block_that_ends_leaves_a_large_write_stuck() {
    simulate(1, || async {
        let Pair { net, mut at_a, mut at_b, .. } = pair().await;
        net.drop_larger("a", "b", 4);
        net.block("a", "b");
        at_a.write_all(b"tiny").await.expect("write");
        at_a.write_all(b"large").await.expect("write");
        net.unblock("a", "b");
        assert!(within(RETRANSMITTED, expect(&mut at_b, "tiny")).await.is_some());
        assert!(within(LONG, at_b.read(&mut [0; 8])).await.is_none());
        net.heal();
        assert!(within(2 * RETRANSMITTED, expect(&mut at_b, "large")).await.is_some());
    });
}

#[test]
fn a_refused_host_connects_no_more_and_can_be_reached() {
    simulate(1, || async {
        let Pair { net, a, listener, mut at_a, mut at_b } = pair().await;
        net.refuse("a", "b");
        let refused = a.connect("b:80").await.expect_err("refused").kind();
        assert_eq!(refused, ErrorKind::ConnectionRefused);
        // Connections that exist stay, and the other direction is free.
        at_a.write_all(b"still here").await.expect("write");
        expect(&mut at_b, "still here").await;
        let b = net.boot("c");
        b.connect("b:80").await.expect("another host is not refused");
        listener.accept().await.expect("accept");
        net.admit("a", "b");
        a.connect("b:80").await.expect("connect");
    });
}

#[test]
fn a_redirected_address_leads_to_its_new_host_and_belongs_to_it() {
    simulate(1, || async {
        let net = Network::new(NetConfig::default(), Trace::new());
        let (a, b, c) = (net.boot("a"), net.boot("b"), net.boot("c"));
        net.redirect(("b", 80), "c");
        assert_eq!(b.listen("b:80").expect_err("not its own").kind(), ErrorKind::AddrNotAvailable);
        let listener = c.listen("b:80").expect("bind");
        let mut at_a = a.connect("b:80").await.expect("connect");
        let (mut at_c, _) = listener.accept().await.expect("accept");
        at_c.write_all(b"from c").await.expect("write");
        expect(&mut at_a, "from c").await;
        // Other ports of the name stay where they are.
        b.listen("b:81").expect("bind");
        assert!(net.is_plain_between("a", "c"));
        net.block("c", "a");
        assert!(!net.is_plain_between("a", "c"));
    });
}

#[test]
fn a_blocked_link_holds_bytes_and_healing_delivers_them_in_order() {
    simulate(1, || async {
        let Pair { net, mut at_a, mut at_b, .. } = pair().await;
        net.block("a", "b");
        for word in ["one ", "two ", "three"] {
            at_a.write_all(word.as_bytes()).await.expect("write");
            pause(SOON).await;
        }
        assert!(within(LONG, at_b.read_u8()).await.is_none());
        at_b.write_all(b"other way").await.expect("write");
        within(SOON, expect(&mut at_a, "other way")).await.expect("the way back is open");
        net.heal();
        within(RETRANSMITTED, expect(&mut at_b, "one two three"))
            .await
            .expect("when TCP sends again");
    });
}

#[test]
fn bytes_caught_on_the_wire_by_a_block_arrive_after_it() {
    simulate(2, || async {
        let Pair { net, mut at_a, mut at_b, .. } = pair().await;
        at_a.write_all(b"caught").await.expect("write");
        net.partition(&[&["a"], &["b"]]);
        assert!(within(LONG, at_b.read_u8()).await.is_none());
        net.unblock("a", "b");
        within(RETRANSMITTED, expect(&mut at_b, "caught")).await.expect("when TCP sends again");
    });
}

#[test]
fn a_link_is_open_again_when_its_last_block_is_undone() {
    simulate(24, || async {
        let Pair { net, mut at_a, mut at_b, .. } = pair().await;
        net.block("a", "b");
        net.partition(&[&["a"], &["b"]]);
        net.unblock("a", "b");
        at_a.write_all(b"held").await.expect("write");
        assert!(within(LONG, at_b.read_u8()).await.is_none(), "the partition is still on");
        net.unblock("a", "b");
        within(RETRANSMITTED, expect(&mut at_b, "held")).await.expect("when TCP sends again");

        // What heals all leaves nothing to undo, and what is undone too often does not count against the next block.
        net.block("a", "b");
        net.heal();
        net.unblock("a", "b");
        net.block("a", "b");
        at_a.write_all(b"held").await.expect("write");
        assert!(within(LONG, at_b.read_u8()).await.is_none());
    });
}

#[test]
fn what_was_held_for_long_is_sent_again_only_after_long() {
    // TCP tries after 0.2, 0.6, … 51, 102.2 seconds.
    for (block, quiet, limit) in [(400, 190, 210), (60_000, 42_190, 42_210)] {
        simulate(18, move || async move {
            let Pair { net, mut at_a, mut at_b, .. } = pair().await;
            net.block("a", "b");
            at_a.write_all(b"held").await.expect("write");
            pause(Duration::from_millis(block)).await;
            net.heal();
            let early = within(Duration::from_millis(quiet), at_b.read_u8()).await;
            assert!(early.is_none(), "after {block} ms: too soon");
            let late =
                within(Duration::from_millis(limit - quiet), expect(&mut at_b, "held")).await;
            late.unwrap_or_else(|| panic!("after {block} ms: too late"));
        });
    }
}

#[test]
fn a_link_that_heals_for_a_moment_does_not_make_tcp_try_sooner() {
    simulate(20, || async {
        let Pair { net, mut at_a, mut at_b, .. } = pair().await;
        net.block("a", "b");
        at_a.write_all(b"held").await.expect("write");
        pause(LONG).await;
        net.heal();
        pause(Duration::from_secs(1)).await;
        net.block("a", "b");
        pause(Duration::from_secs(1)).await;
        net.heal();
        // Due 102.2 seconds after the write.
        assert!(within(Duration::from_secs(40), at_b.read_u8()).await.is_none(), "too soon");
        within(SOON + Duration::from_millis(200), expect(&mut at_b, "held"))
            .await
            .expect("in time");
    });
}

#[test]
fn a_link_that_flaps_is_passed_when_a_try_falls_into_a_gap() {
    simulate(21, || async {
        let Pair { net, mut at_a, mut at_b, .. } = pair().await;
        net.block("a", "b");
        at_a.write_all(b"held").await.expect("write");
        // Each time it heals and breaks before TCP's next try, and once it is open then, after 600 milliseconds.
        let flapping = async {
            for (closed, open) in [(50, 30), (40, 30), (100, 30), (40, 30), (200, 100)] {
                pause(Duration::from_millis(closed)).await;
                net.unblock("a", "b");
                pause(Duration::from_millis(open)).await;
                net.block("a", "b");
            }
            pause(LONG).await;
        };
        tokio::select! {
            () = flapping => {}
            () = expect(&mut at_b, "held") => {}
            () = pause(LONG) => panic!("no try fell into a gap"),
        }
    });
}

#[test]
fn retransmissions_are_twice_as_far_apart_each_time() {
    simulate(19, || async {
        let (since, first) = (TimeHandle::current().now_instant(), Duration::from_millis(200));
        let after = |held: u64| {
            let held = Duration::from_millis(held);
            u64::try_from((next_retransmission(since, since + held, first) - since).as_millis())
                .ok()
        };
        let due =
            [(0, 200), (200, 200), (201, 600), (601, 1_400), (1_401, 3_000), (110_000, 204_600)];
        for (held, at) in due {
            assert_eq!(after(held), Some(at), "held for {held} ms");
        }
        // No two are farther apart than two minutes.
        assert_eq!(after(204_601), Some(324_600));
    });
}

#[test]
fn bytes_that_arrived_before_a_block_are_readable_during_it() {
    simulate(3, || async {
        let Pair { net, mut at_a, mut at_b, .. } = pair().await;
        at_a.write_all(b"here").await.expect("write");
        pause(SOON).await;
        net.isolate("b");
        within(SOON, expect(&mut at_b, "here")).await.expect("already in the kernel");
    });
}

#[test]
fn writes_wait_when_the_window_is_full() {
    simulate(4, || async {
        let Pair { net, mut at_a, mut at_b, .. } = pair().await;
        let window = NetConfig::default().window_bytes;
        net.block("a", "b");
        at_a.write_all(&vec![7; window]).await.expect("write");
        assert!(within(LONG, at_a.write_u8(7)).await.is_none());
        net.heal();
        assert!(within(LONG, at_a.write_u8(7)).await.is_none(), "nobody has read");
        at_b.read_exact(&mut vec![0; window]).await.expect("read");
        within(SOON, at_a.write_u8(7)).await.expect("room").expect("write");
    });
}

#[test]
fn connecting_across_a_block_hangs_until_it_heals() {
    for (from, to) in [("a", "b"), ("b", "a")] {
        simulate(5, move || async move {
            let Pair { net, a, listener: _listener, .. } = pair().await;
            net.block(from, to);
            assert!(within(LONG, a.connect("b:80")).await.is_none());
            let healing = async {
                pause(LONG).await;
                net.heal();
            };
            let healed = within(LONG + RETRANSMITTED, async {
                let ((), stream) = tokio::join!(healing, a.connect("b:80"));
                stream
            });
            healed.await.expect("when TCP sends again").expect("connected");
        });
    }
}

#[test]
fn nobody_listening_is_a_refusal_and_a_dark_host_is_silence() {
    simulate(6, || async {
        let Pair { net, a, .. } = pair().await;
        let refused = within(SOON, a.connect("b:81")).await.expect("after a round trip");
        assert_eq!(refused.expect_err("refused").kind(), ErrorKind::ConnectionRefused);
        net.crash_host("b");
        assert!(within(LONG, a.connect("b:80")).await.is_none());
        let unknown = a.connect("nowhere:80").await;
        assert_eq!(unknown.expect_err("no such host").kind(), ErrorKind::NotFound);
    });
}

#[test]
fn dropping_a_stream_ends_the_file_after_the_bytes_before_it() {
    simulate(13, || async {
        let Pair { net, mut at_a, at_b, .. } = pair().await;
        at_a.write_all(b"last words").await.expect("write");
        drop(at_a);
        let mut heard = String::new();
        let mut at_b = at_b;
        within(SOON, at_b.read_to_string(&mut heard)).await.expect("soon").expect("read");
        assert_eq!(heard, "last words");
        drop(at_b);
        assert_eq!(net.connections(), 0);
    });
}

#[test]
fn a_half_closed_stream_still_carries_the_answer() {
    simulate(14, || async {
        let Pair { mut at_a, mut at_b, .. } = pair().await;
        at_a.write_all(b"question").await.expect("write");
        at_a.shutdown().await.expect("shutdown");
        let mut question = String::new();
        at_b.read_to_string(&mut question).await.expect("read");
        at_b.write_all(b"answer").await.expect("write");
        expect(&mut at_a, "answer").await;
        assert_eq!(at_a.write_all(b"x").await.expect_err("shut").kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_host_in_two_groups_bridges_a_partition() {
    simulate(15, || async {
        let net = Network::new(NetConfig::default(), Trace::new());
        let hosts = ["a", "b", "c", "client"].map(|host| net.boot(host));
        let _listeners = hosts.each_ref().map(|host| host.listen("0.0.0.0:80").expect("bind"));
        net.partition(&[&["a", "b"], &["b", "c"]]);
        for (from, to, open) in
            [(0, "b:80", true), (2, "b:80", true), (0, "c:80", false), (3, "c:80", true)]
        {
            assert_eq!(
                within(SOON, hosts[from].connect(to)).await.is_some(),
                open,
                "{from} to {to}"
            );
        }
    });
}

#[test]
fn reset_connections_cuts_both_ends_and_only_this_pair() {
    simulate(16, || async {
        let Pair { net, listener, mut at_a, mut at_b, .. } = pair().await;
        let c = net.boot("c");
        let mut at_c = c.connect("b:80").await.expect("connect");
        let (mut from_c, _) = listener.accept().await.expect("accept");
        net.reset_connections("b", "a");
        assert_eq!(read_error(&mut at_a).await, ErrorKind::ConnectionReset);
        assert_eq!(read_error(&mut at_b).await, ErrorKind::ConnectionReset);
        at_c.write_all(b"fine").await.expect("write");
        expect(&mut from_c, "fine").await;
    });
}

#[test]
fn latency_is_as_set() {
    simulate(17, || async {
        let Pair { net, mut at_a, mut at_b, .. } = pair().await;
        let latency = Duration::from_millis(500);
        net.set_latency("a", "b", latency..latency);
        at_a.write_all(b"slow").await.expect("write");
        assert!(within(latency.saturating_sub(SOON), at_b.read_u8()).await.is_none());
        within(2 * SOON, expect(&mut at_b, "slow")).await.expect("about now");
    });
}
