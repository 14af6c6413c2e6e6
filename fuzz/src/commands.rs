//! A history of commands, applied.
//!
//! The input is a row of [`STEP_BYTES`]-byte steps, so that cutting, repeating and splicing bytes cuts,
//! repeats and splices history. Ids, names and UUIDs come from small pools: most steps mean something.

use yakt::codec::{decode_versioned, encode_versioned};
use yakt::metadata::{
    BrokerId, BrokerRef, BrokerStatus, Change, Command, CreatePartition, CreateTopic, Epoch,
    IdempotencyKey, LeaderChoice, PartitionId, ProducerId, RackId, RegisterBroker,
    RegisterProducer, SecurityProtocol, State, Timestamp, UnregisterBroker, UpdateBroker, Uuid,
};

/// Bytes of a step: what, when, under which idempotency key, and five arguments.
pub const STEP_BYTES: usize = 8;

/// Broker ids in play.
const BROKERS: u8 = 5;

/// Runs the target.
///
/// # Panics
///
/// When something is wrong.
pub fn run(data: &[u8]) {
    let mut state = State::new();
    let mut restored = State::new();
    for step in data.as_chunks::<STEP_BYTES>().0 {
        let Some(command) = command(step, state.last_stamp()) else {
            restored = round_trip(&restored);
            continue;
        };
        let decoded: Command =
            decode_versioned(&encode_versioned(&command)).expect("a command survives the log");
        assert_eq!(decoded, command);
        apply(&mut state, &command);
        restored.apply(&command);
    }
    assert!(round_trip(&restored) == state, "a snapshot changed what came after it");
}

fn round_trip(state: &State) -> State {
    let decoded = State::decode(&state.encode()).expect("a snapshot of ours decodes");
    assert!(decoded == *state, "a snapshot lost something");
    decoded
}

fn apply(state: &mut State, command: &Command) {
    let before = state.clone();
    let applied = state.apply(command);
    assert!(applied.stamp > before.last_stamp(), "cluster time stood still");
    assert_eq!(applied.stamp, state.last_stamp());
    state.check_invariants().unwrap_or_else(|broken| panic!("after {command:?}: {broken}"));
    if applied.outcome.is_err() && command.idempotency.is_none() {
        let mut idle = before;
        idle.apply(&Command { change: Change::Tick, ..command.clone() });
        assert!(*state == idle, "a rejected command left more than its stamp: {command:?}");
    }
}

/// The step's command, or `None` for going on from a snapshot.
fn command(step: &[u8; STEP_BYTES], now: Timestamp) -> Option<Command> {
    let [what, when, key, a, b, c, d, e] = *step;
    let change = match what % 8 {
        0 => return None,
        1 => register(a, b, c),
        2 => update(a, b, c, d),
        3 => Change::UnregisterBroker(UnregisterBroker { broker: broker(a), epoch: epoch(b) }),
        4 => Change::CreateTopic(CreateTopic {
            uuid: uuid(a),
            name: format!("topic-{}", b % 4).parse().expect("a legal name"),
        }),
        5 => partition(a, [b, c, d, e]),
        6 => Change::RegisterProducer(RegisterProducer {
            broker: broker(a),
            producer_id: (b > 0).then(|| ProducerId::try_from(u32::from(b % 8)).expect("legal")),
        }),
        _ => Change::Tick,
    };
    let idempotency = (key >= 128).then(|| {
        IdempotencyKey::new(format!("key-{}", key % 8), u64::from(key >> 6)).expect("legal")
    });
    Some(Command { clock: clock(when, now), idempotency, change })
}

/// Mostly a little later; sometimes earlier, or so much later that remembered outcomes are forgotten.
fn clock(when: u8, now: Timestamp) -> Timestamp {
    let micros = now.micros();
    Timestamp::from_micros(match when {
        0..=191 => micros.saturating_add(u64::from(when) << 10),
        192..=223 => micros.saturating_sub(1 << (when - 192)),
        224..=253 => micros.saturating_add(1 << (when - 210)),
        254 => 0,
        255 => u64::MAX,
    })
}

fn register(uuid_: u8, id: u8, rack: u8) -> Change {
    Change::RegisterBroker(RegisterBroker {
        uuid: uuid(uuid_),
        broker_id: broker_id(id),
        host: "host".parse().expect("a legal host"),
        port: "9092".parse().expect("a legal port"),
        security_protocol: SecurityProtocol::default(),
        rack_id: if rack == 0 { RackId::default() } else { "rack".parse().expect("legal") },
    })
}

fn update(who: u8, status: u8, host: u8, of: u8) -> Change {
    use BrokerStatus::{Alive, Closed, Fenced, Init, Unfenced};
    const STATUSES: [Option<BrokerStatus>; 6] =
        [None, Some(Fenced), Some(Unfenced), Some(Alive), Some(Closed), Some(Init)];
    Change::UpdateBroker(UpdateBroker {
        broker: broker(who),
        host: (host & 1 != 0).then(|| "elsewhere".parse().expect("a legal host")),
        port: (host & 2 != 0).then(|| "9093".parse().expect("a legal port")),
        security_protocol: (host & 4 != 0).then(|| "SSL".parse().expect("legal")),
        status: STATUSES[usize::from(status) % STATUSES.len()],
        epoch: epoch(of),
    })
}

fn partition(which: u8, [replicas, isr, moving, leader]: [u8; 4]) -> Change {
    Change::CreatePartition(CreatePartition {
        topic: uuid(which),
        partition_id: PartitionId::try_from(u32::from(which >> 4)).expect("legal"),
        replicas: brokers(replicas),
        isr: (isr > 0).then(|| brokers(isr)),
        removing: if moving & 0x80 == 0 { Vec::new() } else { brokers(moving & 0x1f) },
        adding: if moving & 0x40 == 0 { Vec::new() } else { brokers(moving & 0x1f) },
        leader: match leader {
            0..=127 => LeaderChoice::Preferred,
            128..=159 => LeaderChoice::Nobody,
            160.. => LeaderChoice::Broker(broker(leader)),
        },
    })
}

/// The brokers whose bits are set, from any of them on; with the highest bit, one of them twice.
fn brokers(bits: u8) -> Vec<BrokerRef> {
    let mut ids: Vec<u8> = (0..BROKERS).filter(|id| bits & (1 << id) != 0).collect();
    if let (Some(&first), true) = (ids.first(), bits & 0x80 != 0) {
        ids.push(first);
    }
    let turns = usize::from(bits >> BROKERS & 3).min(ids.len());
    ids.rotate_left(turns);
    ids.into_iter().map(|id| broker_id(id).into()).collect()
}

fn broker(byte: u8) -> BrokerRef {
    if byte & 0x40 == 0 { broker_id(byte).into() } else { uuid(byte).into() }
}

fn broker_id(byte: u8) -> BrokerId {
    BrokerId::try_from(u32::from(byte % BROKERS)).expect("a legal id")
}

fn epoch(byte: u8) -> Option<Epoch> {
    (byte > 0).then(|| Epoch::try_from(u64::from(byte % 8)).expect("a legal epoch"))
}

fn uuid(byte: u8) -> Uuid {
    Uuid::from_u128(u128::from(byte & 0x0f) + 1)
}
