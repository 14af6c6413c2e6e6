//! The contract of [`Env`], checked against every implementation of it: what the node may rely on holds
//! on real tokio and on the simulator alike, or the simulator's findings would mean nothing.

use std::collections::BTreeSet;
use std::future::pending;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use openraft::Instant as _;
use redb::StorageBackend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use yakt::env::{Env, Lane, Listener, TokioEnv, rt};
use yakt_sim::{SimEnv, World, WorldConfig, simulate};

/// Enough to fill the buffers of either implementation many times over.
const MEBIBYTE: usize = 1 << 20;
/// Far longer than anything here takes: a failed wait, not a measurement.
const LIMIT: Duration = Duration::from_secs(10);

/// Where a contract may bind and write.
struct Place<'a> {
    host: &'a str,
    dir: &'a Path,
}

/// Every clause, one after the other.
async fn contract<E: Env>(env: E, place: Place<'_>) {
    bytes_arrive_in_order_and_unaltered_both_ways(&env, &place).await;
    a_dropped_stream_reads_as_end_of_file(&env, &place).await;
    connecting_to_nobody_fails(&env, &place).await;
    a_taken_address_is_refused(&env, &place).await;
    what_is_no_address_is_not_found(&env).await;
    timers_are_not_early_and_clocks_do_not_go_back::<E>().await;
    the_wall_clock_is_past_the_year_2020(&env);
    synced_bytes_are_read_back_by_the_next_opener(&env, &place);
    a_file_has_one_opener_at_a_time(&env, &place);
    reading_past_the_end_is_an_error(&env, &place);
    blocking_work_runs_once_even_if_nobody_waits(&env).await;
    a_lane_hands_on_what_comes_of_its_work(&env).await;
    random_numbers_vary::<E>();
}

#[test]
#[allow(clippy::disallowed_methods, reason = "cleans up after the real file system")]
fn tokio_env_keeps_the_contract() {
    let dir = std::env::temp_dir().join(format!("yakt-env-contract-{}", std::process::id()));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let place = Place { host: "127.0.0.1", dir: &dir };
    runtime.block_on(contract(TokioEnv, place));
    runtime.block_on(a_lane_hands_on_a_panic_and_goes_on());
    std::fs::remove_dir_all(&dir).expect("remove the test's files");
}

#[test]
fn sim_env_keeps_the_contract() {
    for seed in 0..20 {
        simulate(seed, || async {
            let world = World::new(WorldConfig::default());
            let main = world.start("n1", |env: SimEnv| async move {
                let place = Place { host: "n1", dir: Path::new("data") };
                contract(env, place).await;
            });
            main.await.expect("nobody kills it");
        });
    }
}

/// A listener on a free port and its address.
async fn listen<E: Env>(env: &E, place: &Place<'_>) -> (E::Listener, String) {
    let listener = env.listen(&format!("{}:0", place.host)).await.expect("listen");
    let addr = listener.local_addr().expect("local address");
    assert!(!addr.ends_with(":0"), "port 0 is replaced by the one taken: {addr}");
    (listener, addr)
}

async fn connected<E: Env>(env: &E, place: &Place<'_>) -> (E::Stream, E::Stream) {
    let (listener, addr) = listen(env, place).await;
    let (client, server) = tokio::join!(rt::dial(env, &addr), listener.accept());
    let (server, from) = server.expect("accept");
    assert_eq!(from, place.host, "a client is named by its address without the port");
    (client.expect("connect"), server)
}

/// Bytes without a short period, so that a lost or swapped block shows.
fn pattern(salt: u8) -> Vec<u8> {
    let mut state = u32::from(salt) + 1;
    let bytes = (0..MEBIBYTE).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    bytes.collect()
}

/// Sends one pattern while receiving the other.
async fn exchange(stream: impl yakt::env::Stream, sends: u8, expects: u8) {
    let (mut reading, mut writing) = tokio::io::split(stream);
    let write = async {
        writing.write_all(&pattern(sends)).await.expect("write");
        writing.shutdown().await.expect("shutdown");
    };
    let read = async {
        let mut received = Vec::new();
        reading.read_to_end(&mut received).await.expect("read");
        received
    };
    let ((), received) = tokio::join!(write, read);
    assert!(received == pattern(expects), "{} bytes, altered", received.len());
}

async fn bytes_arrive_in_order_and_unaltered_both_ways<E: Env>(env: &E, place: &Place<'_>) {
    let (client, server) = connected(env, place).await;
    let both = async { tokio::join!(exchange(client, 1, 2), exchange(server, 2, 1)) };
    rt::timeout::<E, _>(LIMIT, both).await.expect("in time");
}

async fn a_dropped_stream_reads_as_end_of_file<E: Env>(env: &E, place: &Place<'_>) {
    let (mut client, mut server) = connected(env, place).await;
    client.write_all(b"bye").await.expect("write");
    drop(client);
    let mut received = Vec::new();
    let read = rt::timeout::<E, _>(LIMIT, server.read_to_end(&mut received)).await;
    read.expect("in time").expect("end of file");
    assert_eq!(received, b"bye");
}

async fn connecting_to_nobody_fails<E: Env>(env: &E, place: &Place<'_>) {
    let (listener, addr) = listen(env, place).await;
    drop(listener);
    let connecting = rt::timeout::<E, _>(LIMIT, rt::dial(env, &addr)).await;
    assert!(!matches!(connecting, Some(Ok(_))), "connected to a closed port");
}

async fn a_taken_address_is_refused<E: Env>(env: &E, place: &Place<'_>) {
    let (_listener, addr) = listen(env, place).await;
    let error = env.listen(&addr).await.err().expect("the address is taken");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
}

async fn what_is_no_address_is_not_found<E: Env>(env: &E) {
    for addr in ["", "nowhere", "nowhere:port", "nowhere:70000"] {
        let dialled = rt::timeout::<E, _>(LIMIT, rt::dial(env, addr)).await;
        assert!(matches!(dialled, Some(Err(_))), "{addr:?} leads somewhere");
    }
}

async fn timers_are_not_early_and_clocks_do_not_go_back<E: Env>() {
    for millis in [0, 1, 7, 30] {
        let duration = Duration::from_millis(millis);
        let before = rt::now::<E>();
        rt::sleep::<E>(duration).await;
        let after = rt::now::<E>();
        assert!(after >= before + duration, "{duration:?} took {:?}", after - before);
    }
    let before = rt::now::<E>();
    let limit = Duration::from_millis(10);
    assert!(rt::timeout::<E, _>(limit, pending::<()>()).await.is_none());
    assert!(before.elapsed() >= limit);
    assert_eq!(rt::timeout::<E, _>(Duration::ZERO, async { 7 }).await, Some(7), "the output wins");
}

fn the_wall_clock_is_past_the_year_2020<E: Env>(env: &E) {
    let shown = env.wall_clock();
    assert!(shown > Duration::from_hours(24 * 365 * 50), "{shown:?}");
}

fn synced_bytes_are_read_back_by_the_next_opener<E: Env>(env: &E, place: &Place<'_>) {
    let file = env.open_disk(place.dir, "synced").expect("open");
    assert_eq!(file.len().expect("length"), 0, "a new file is empty");
    file.set_len(8192).expect("set length");
    file.write(5000, b"durable").expect("write");
    file.sync_data().expect("sync");
    file.close().expect("close");
    drop(file);
    let file = env.open_disk(place.dir, "synced").expect("reopen");
    assert_eq!(file.len().expect("length"), 8192);
    let mut bytes = [1; 9];
    file.read(4999, &mut bytes).expect("read");
    assert_eq!(&bytes, b"\0durable\0", "and what was not written is zero");
}

fn a_file_has_one_opener_at_a_time<E: Env>(env: &E, place: &Place<'_>) {
    let held = env.open_disk(place.dir, "held").expect("open");
    let error = env.open_disk(place.dir, "held").expect_err("held");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    env.open_disk(place.dir, "other").expect("another file is free");
    drop(held);
    env.open_disk(place.dir, "held").expect("free once dropped");
}

fn reading_past_the_end_is_an_error<E: Env>(env: &E, place: &Place<'_>) {
    let file = env.open_disk(place.dir, "short").expect("open");
    file.write(0, b"abc").expect("write");
    assert!(file.read(0, &mut [0; 4]).is_err());
    file.set_len(1).expect("truncate");
    assert!(file.read(0, &mut [0; 3]).is_err());
}

async fn blocking_work_runs_once_even_if_nobody_waits<E: Env>(env: &E) {
    let runs = Arc::new(AtomicU32::new(0));
    let work = || {
        let runs = runs.clone();
        move || runs.fetch_add(1, Ordering::SeqCst)
    };
    assert_eq!(env.blocking(work()).await.expect("ran"), 0);
    drop(env.blocking(work()));
    let cut_short = rt::timeout::<E, _>(Duration::ZERO, env.blocking(work())).await;
    assert!(cut_short.is_none_or(|outcome| outcome.is_ok()));
    let before = rt::now::<E>();
    while runs.load(Ordering::SeqCst) < 3 {
        assert!(before.elapsed() < LIMIT, "ran {runs:?} times of 3");
        rt::sleep::<E>(Duration::from_millis(5)).await;
    }
    rt::sleep::<E>(Duration::from_millis(20)).await;
    assert_eq!(runs.load(Ordering::SeqCst), 3);
}

async fn a_lane_hands_on_what_comes_of_its_work<E: Env>(env: &E) {
    let lane = env.lane("contract").expect("a lane");
    for work in 0..3 {
        let (tell, told) = tokio::sync::oneshot::channel();
        lane.run(
            move || work,
            move |outcome| {
                let _ = tell.send(outcome.ok());
            },
        );
        let told = rt::timeout::<E, _>(LIMIT, told).await.expect("in time");
        assert_eq!(told.expect("told"), Some(work));
    }
}

/// On real tokio only: in simulation a panic ends the run, as it should.
async fn a_lane_hands_on_a_panic_and_goes_on() {
    let lane = TokioEnv.lane("contract").expect("a lane");
    for fails in [true, false] {
        let (tell, told) = tokio::sync::oneshot::channel();
        let work = move || assert!(!fails, "on purpose");
        lane.run(work, move |outcome| {
            let _ = tell.send(outcome.is_err());
        });
        let told = rt::timeout::<TokioEnv, _>(LIMIT, told).await.expect("in time");
        assert_eq!(told.expect("told"), fails);
    }
}

fn random_numbers_vary<E: Env>() {
    let drawn: BTreeSet<u64> = (0..64).map(|_| rt::random::<E>()).collect();
    assert_eq!(drawn.len(), 64);
}
