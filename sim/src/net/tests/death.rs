//! What peers learn, and when, of a process or host that died.

use super::*;

#[test]
fn a_crashed_peer_is_not_noticed_until_it_is_back_and_spoken_to() {
    simulate(7, || async {
        let Pair { net, mut at_a, at_b, .. } = pair().await;
        net.crash_host("b");
        drop(at_b);
        assert!(within(LONG, at_a.read_u8()).await.is_none(), "silence");
        at_a.write_all(b"are you there").await.expect("a write only fills the buffer");
        assert!(within(LONG, at_a.read_u8()).await.is_none(), "retransmitting");
        let _b = net.boot("b");
        let error = within(RETRANSMITTED, read_error(&mut at_a)).await.expect("a reset");
        assert_eq!(error, ErrorKind::ConnectionReset);
        assert!(at_a.write_all(b"x").await.is_err());
    });
}

#[test]
fn a_peer_that_crashed_and_is_back_is_noticed_only_by_speaking() {
    simulate(8, || async {
        let Pair { net, mut at_a, at_b: _at_b, .. } = pair().await;
        net.crash_host("b");
        let _b = net.boot("b");
        assert!(within(LONG, at_a.read_u8()).await.is_none(), "nothing was sent");
        let (mut reading, mut writing) = tokio::io::split(at_a);
        let (error, written) = tokio::join!(
            within(SOON, async { reading.read_u8().await.expect_err("an error").kind() }),
            writing.write_all(b"hello"),
        );
        written.expect("write");
        assert_eq!(error, Some(ErrorKind::ConnectionReset), "a waiting reader learns of it too");
    });
}

#[test]
fn a_killed_process_says_goodbye_unless_a_block_delays_it() {
    simulate(9, || async {
        let Pair { net, mut at_a, at_b: _at_b, .. } = pair().await;
        net.block("b", "a");
        net.kill_process("b");
        assert!(within(LONG, at_a.read_u8()).await.is_none());
        net.heal();
        let end =
            within(RETRANSMITTED, at_a.read(&mut [0; 8])).await.expect("when TCP sends again");
        assert_eq!(end.expect("end of file"), 0);
        at_a.write_all(b"anyone").await.expect("half-closed");
        pause(SOON).await;
        assert_eq!(
            at_a.write_all(b"?").await.expect_err("reset").kind(),
            ErrorKind::ConnectionReset
        );
    });
}

#[test]
fn a_process_killed_with_unread_bytes_resets_its_peer() {
    simulate(10, || async {
        let Pair { net, mut at_a, at_b: _at_b, .. } = pair().await;
        at_a.write_all(b"never read").await.expect("write");
        pause(SOON).await;
        net.kill_process("b");
        let error = within(SOON, read_error(&mut at_a)).await.expect("a reset");
        assert_eq!(error, ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_goodbye_held_back_by_a_block_dies_with_its_host() {
    simulate(11, || async {
        let Pair { net, mut at_a, at_b, .. } = pair().await;
        net.block("b", "a");
        drop(at_b);
        net.crash_host("b");
        net.heal();
        let _b = net.boot("b");
        assert!(within(LONG, at_a.read_u8()).await.is_none());
    });
}

#[test]
fn a_reset_held_back_by_a_block_does_not_come_at_once() {
    simulate(22, || async {
        let Pair { net, mut at_a, at_b: _at_b, .. } = pair().await;
        at_a.write_all(b"never read").await.expect("write");
        pause(SOON).await;
        net.block("b", "a");
        net.kill_process("b");
        pause(LONG).await;
        net.heal();
        assert!(within(LONG / 2, at_a.read_u8()).await.is_none(), "too soon");
        let error = within(RETRANSMITTED, read_error(&mut at_a)).await.expect("a reset");
        assert_eq!(error, ErrorKind::ConnectionReset);
    });
}

#[test]
fn who_writes_to_a_host_that_died_twice_learns_of_it_all_the_same() {
    simulate(23, || async {
        let Pair { net, mut at_a, at_b: _at_b, .. } = pair().await;
        net.crash_host("b");
        let _b = net.boot("b");
        net.block("b", "a");
        at_a.write_all(b"hello").await.expect("write");
        assert!(within(SOON, at_a.read_u8()).await.is_none(), "the reset does not come through");
        net.crash_host("b");
        let _b = net.boot("b");
        net.heal();
        let error = within(RETRANSMITTED, read_error(&mut at_a)).await.expect("a reset");
        assert_eq!(error, ErrorKind::ConnectionReset);
    });
}

#[test]
fn handles_of_a_dead_process_change_nothing() {
    simulate(12, || async {
        let Pair { net, listener, mut at_a, mut at_b, .. } = pair().await;
        net.crash_host("b");
        let reborn = net.boot("b");
        let again = reborn.listen("b:80").expect("the port is free again");
        assert!(at_b.write_all(b"ghost").await.is_err());
        assert!(at_b.read_u8().await.is_err());
        at_b.shutdown().await.expect("harmless");
        assert!(within(LONG, listener.accept()).await.is_none());
        drop((at_b, listener));
        assert!(within(LONG, at_a.read_u8()).await.is_none(), "no goodbye from the grave");
        assert_eq!(reborn.listen("b:80").expect_err("still bound").kind(), ErrorKind::AddrInUse);
        drop(again);
        reborn.listen("b:80").expect("free once dropped");
    });
}
