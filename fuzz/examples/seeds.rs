//! Writes the seeds of all targets to `corpus/`: `cargo run --example seeds`, in the fuzz directory.

use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use yakt::codec::encode_versioned;
use yakt::env::TokioEnv;
use yakt::metadata::{
    Change, Command, CreatePartition, CreateTopic, IdempotencyKey, LeaderChoice, RegisterBroker,
    SecurityProtocol, State, Timestamp, Uuid,
};
use yakt::raft::network::frame;
use yakt::raft::network::message::{Call, Hello, Request, Response, Return};
use yakt::raft::storage::Identity;
use yakt::raft::{Ballot, EntryId, LogEntry, Payload, Peer, SharedCommand};
use yakt_fuzz::codec::{Kind, input};
use yakt_fuzz::frames::{self, Way};
use yakt_fuzz::recovery::{STEP_BYTES, Step};

fn main() {
    codec();
    commands();
    recovery();
    router();
}

fn codec() {
    let command = |clock, change| Command {
        clock: Timestamp::from_micros(clock),
        idempotency: IdempotencyKey::new("a key", 7).ok(),
        change,
    };
    let register = command(
        1_700_000_000_000_000,
        Change::RegisterBroker(RegisterBroker {
            uuid: Uuid::from_u128(1),
            broker_id: 1.try_into().expect("legal"),
            host: "localhost".parse().expect("legal"),
            port: "9092".parse().expect("legal"),
            security_protocol: SecurityProtocol::default(),
            rack_id: "rack".parse().expect("legal"),
        }),
    );
    let topic = command(
        1_700_000_000_000_001,
        Change::CreateTopic(CreateTopic {
            uuid: Uuid::from_u128(2),
            name: "topic".parse().expect("legal"),
        }),
    );
    let partition = command(
        1_700_000_000_000_002,
        Change::CreatePartition(CreatePartition {
            topic: Uuid::from_u128(2),
            partition_id: 0.try_into().expect("legal"),
            replicas: vec![Uuid::from_u128(1).into()],
            isr: None,
            removing: vec![],
            adding: vec![],
            leader: LeaderChoice::Preferred,
        }),
    );
    let mut state = State::new();
    let applied = state.apply(&register);
    // All have one idempotency key, which only the first may use.
    for command in [&topic, &partition] {
        let command = Command { idempotency: None, ..command.clone() };
        state.apply(&command).outcome.expect("applied");
    }

    seed("codec", "state", input(Kind::State, &state.encode()));
    value("command", Kind::Command, &register);
    value("applied", Kind::Applied, &applied);
    value("ballot", Kind::Ballot, &Ballot::new_committed(3, 2));
    let id = EntryId::new_term_index(3, 9);
    let entry =
        LogEntry { log_id: id, payload: Payload::Normal(SharedCommand(Arc::new(topic.clone()))) };
    value("log-entry", Kind::LogEntry, &entry);
    let directory = Uuid::from_u128(3);
    let identity = Identity { cluster: Uuid::from_u128(4), node: 1, directory, founder: true };
    value("identity", Kind::Identity, &identity);

    let hello = Hello { cluster: Some(identity.cluster), to: Some((2, directory)) };
    let call = Call::<TokioEnv> {
        number: 1,
        request: Request::Propose { change: topic.change, idempotency: topic.idempotency },
    };
    let peer = Peer { raft: "127.0.0.1:5010".into(), http: "127.0.0.1:5011".into(), directory };
    let join =
        Call::<TokioEnv> { number: 2, request: Request::Join { node: 1, peer, passed_on: false } };
    let answer = Return::<TokioEnv> { number: 1, response: Response::Applied(Arc::new(applied)) };
    value("hello", Kind::Hello, &hello);
    value("call", Kind::Call, &call);
    value("return", Kind::Return, &answer);
    let encode = |frames: &[io::Result<Vec<u8>>]| {
        frames.iter().flat_map(|frame| frame.as_ref().expect("small").clone()).collect::<Vec<_>>()
    };
    let there = encode(&[frame::encode(&hello), frame::encode(&call), frame::encode(&join)]);
    let back = encode(&[frame::encode(&answer), frame::encode(&answer)]);
    seed("frames", "there", frames::input(Way::There, 0, &there));
    seed("frames", "back", frames::input(Way::Back, 7, &back));
    seed("frames", "cut-off", frames::input(Way::There, 30, &there[..there.len() - 1]));
    seed("frames", "cut-off-length", frames::input(Way::Back, 30, &[&back[..], &[7, 0]].concat()));
    let huge = [&back[..], &u32::MAX.to_le_bytes(), &back[4..]].concat();
    seed("frames", "too-large", frames::input(Way::Back, 120, &huge));
    // A length that is allowed, but does not come: it must not be reserved.
    let absent = [&(8_u32 << 20).to_le_bytes()[..], &back[4..]].concat();
    seed("frames", "absent", frames::input(Way::Back, 121, &absent));
    seed("frames", "not-a-message", frames::input(Way::There, 1, &[&there[..], &back].concat()));
}

fn commands() {
    const SNAPSHOT: [u8; 8] = [0; 8];
    const CHECK: [u8; 8] = [7, 0, 0, 0, 0, 0, 0, 0];
    let brokers = [[1, 10, 0, 0, 0, 0, 0, 0], [1, 10, 0, 1, 1, 0, 0, 0], [1, 10, 0, 2, 0, 0, 0, 0]];
    let topic = [4, 1, 0, 0, 0, 0, 0, 0];
    let partition = [5, 1, 0, 0x10, 0b111, 0, 0, 0];
    let moving = [5, 1, 0, 0x20, 0b111, 0b011, 0x41, 161];
    let producer = [6, 1, 200, 1, 0, 0, 0, 0];
    let fence = [2, 1, 0, 0, 1, 0, 0, 0];
    let close = [3, 1, 0, 1, 0, 0, 0, 0];
    let again = [1, 250, 0, 1, 0, 0, 0, 0];
    let stale = [2, 1, 0, 0, 3, 1, 8, 0];
    let back = [2, 200, 0, 0, 3, 7, 0, 0];
    let lead = [topic, partition, moving, producer, CHECK, producer, SNAPSHOT];
    seed("commands", "partitions", [&brokers[..], &lead[..]].concat().concat());
    let failover =
        [topic, partition, fence, CHECK, close, SNAPSHOT, again, CHECK, stale, back, producer];
    seed("commands", "failover", [&brokers[..], &failover[..]].concat().concat());
}

/// Lives of a data directory, step by step: see [`Step`].
fn recovery() {
    use Step::{
        Append, Committed, Crash, Flip, Fuse, Kill, Purge, Reopen, Snapshot, Truncate, Vote,
    };
    let step = |kind: Step, args: &[u8]| {
        let mut step = [0; STEP_BYTES];
        step[0] = kind as u8;
        step[1..=args.len()].copy_from_slice(args);
        step
    };
    let work = [
        step(Append, &[3, 20]),
        step(Vote, &[2, 1]),
        step(Append, &[15, 200, 1]),
        step(Committed, &[4]),
        step(Truncate, &[7]),
        step(Append, &[5, 100, 2]),
        step(Snapshot, &[5, 0, 40]),
        step(Purge, &[5]),
    ];
    let with = |more: &[[u8; STEP_BYTES]]| [&work[..], more, &work[..]].concat();
    let lives = [
        ("reopened", with(&[step(Reopen, &[])])),
        ("killed", with(&[step(Kill, &[])])),
        ("purged-beyond-the-end", with(&[step(Purge, &[9, 1]), step(Kill, &[])])),
        // The log refuses to truncate committed entries. This target once took the refusal for a
        // power loss.
        ("truncated-too-far", with(&[step(Truncate, &[200])])),
        ("big-snapshot", with(&[step(Snapshot, &[0, 0, 128, 1]), step(Reopen, &[])])),
        // Once believed: the directory was another node's all of a sudden.
        ("rotten-identity", with(&[step(Reopen, &[]), step(Flip, &[99, 210, 0, 3])])),
        ("rotten-when-killed", with(&[step(Flip, &[0, 4, 0, 3]), step(Kill, &[])])),
        // Once handed out as it was.
        ("rotten-snapshot", with(&[step(Flip, &[0, 132, 0, 3]), step(Reopen, &[])])),
        ("rotten-at-work", [with(&[step(Flip, &[0, 2, 0, 3])]), work.to_vec()].concat()),
    ];
    for (name, steps) in lives {
        seed("recovery", name, steps.concat());
    }
    let survivors = ["nothing", "everything", "beginning", "all-but-one", "one", "subset"];
    for (number, name) in (0..).zip(survivors) {
        let mut steps = vec![step(Fuse, &[4, 0, number, 3])];
        let crash = step(Crash, &[number, 7, 0, 1]);
        steps.extend(with(&[crash, step(Fuse, &[40, 0, number, 9, 0, 1])]));
        seed("recovery", &format!("left-{name}"), steps.concat());
    }
}

fn router() {
    const BROKER: &str = r#"{"brokerId":4,"brokerHost":"localhost","brokerPort":"9092","securityProtocol":"PLAINTEXT","rackId":"r"}"#;
    const PARTITION: &str = r#"{"type":"metadata","name":"PartitionRecord","fields":{"partitionId":1,"topicUUID":"00000000-0000-0000-0000-000000000001","replicas":[1,2],"ISR":[1],"removingReplicas":[],"addingReplicas":[],"leader":""},"timestamp":0.5}"#;
    let post = |path: &str, body: &str| {
        format!("POST {path}\ncontent-type: application/json\nidempotency-key: a\n\n{body}")
    };
    for (name, request) in [
        ("register-broker", post("/register_broker", BROKER)),
        (
            "update-broker",
            post("/update_broker", r#"{"brokerId":1,"brokerStatus":"FENCED","epoch":0}"#),
        ),
        ("create-topic", post("/create_topic", r#"{"name":"another"}"#)),
        ("create-topic-again", post("/create_topic", r#"{"name":"topic"}"#)),
        ("register-broker-again", post("/register_broker", &BROKER.replace('4', "3"))),
        (
            "update-broker-unknown",
            post("/update_broker", r#"{"brokerId":9,"brokerStatus":"FENCED"}"#),
        ),
        ("create-partition", post("/create_partition", PARTITION)),
        ("register-producer", post("/register_producer", r#"{"brokerId":1}"#)),
        ("unregister-broker", "DELETE /unregister_broker/1".to_owned()),
        ("topic", "GET /get_topic_by_name/topic".to_owned()),
        ("topic-unknown", "GET /get_topic_by_name/a%20b?consistency=stale".to_owned()),
        ("brokers", "GET /get_active_brokers".to_owned()),
        ("broker", "GET /get_broker_by_id/1".to_owned()),
        ("broker-by-uuid", "GET /get_broker_by_id/00000000-0000-0000-0000-000000000003".to_owned()),
        // Once answered in plain text: a path that is not UTF-8.
        ("topic-not-utf8", "GET /get_topic_by_name/%c0".to_owned()),
        ("broker-mgmt", "GET /broker_mgmt/1700000000.000001?mode=diff".to_owned()),
        ("client-mgmt", "GET /client_mgmt/1e9".to_owned()),
        ("cluster", "HEAD /cluster".to_owned()),
        ("remove-node", "DELETE /cluster/nodes/1".to_owned()),
        ("leader", post("/cluster/leader", r#"{"node":1}"#)),
        ("snapshot", "POST /cluster/snapshot".to_owned()),
        ("metrics", "GET /metrics".to_owned()),
        ("ready", "GET /readyz".to_owned()),
    ] {
        seed("router", name, request.into_bytes());
    }
}

fn value<T: Serialize>(name: &str, kind: Kind, value: &T) {
    seed("codec", name, input(kind, &encode_versioned(value)));
}

fn seed(target: &str, name: &str, bytes: Vec<u8>) {
    match target {
        "codec" => yakt_fuzz::codec::run(&bytes),
        "commands" => yakt_fuzz::commands::run(&bytes),
        "frames" => frames::run(&bytes),
        "recovery" => yakt_fuzz::recovery::run(&bytes),
        _ => yakt_fuzz::router::run(&bytes),
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&directory).expect("a directory for the corpus");
    std::fs::write(directory.join(name), bytes).expect("a seed to be written");
}
