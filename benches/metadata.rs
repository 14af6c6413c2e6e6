//! What the metadata costs: commands, snapshots, and the answers of the management endpoints, by size.
//!
//! `cargo bench --bench metadata`; with a filter, such as `-- apply`, only a part of it. A million records take a
//! gigabyte and some minutes: they come with `YAKT_BENCH_RECORDS=1000000`.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use yakt::metadata::{
    Audience, BrokerId, Change, Command, CreatePartition, CreateTopic, LeaderChoice, RackId,
    RegisterBroker, RegisterProducer, SecurityProtocol, SnapshotKind, State, Timestamp,
    UpdateBroker, Uuid,
};

/// Commands in one measurement: so many that the clock's resolution does not matter.
const COMMANDS: u64 = 1_000;

/// Partitions of a topic.
const PARTITIONS: u32 = 100;

/// Records at most, unless the environment says otherwise.
const RECORDS_MAX: u64 = 100_000;

fn uuid(kind: u64, n: u64) -> Uuid {
    // Spread as random ones are.
    Uuid::from_u64_pair(kind << 60 | n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 4, n)
}

/// The `n`-th id of its kind.
fn id<T: TryFrom<u32, Error: std::fmt::Debug>>(n: u64) -> T {
    T::try_from(u32::try_from(n).expect("few enough")).expect("in range")
}

fn register(n: u64) -> Change {
    Change::RegisterBroker(RegisterBroker {
        uuid: uuid(1, n),
        broker_id: id(n),
        host: format!("broker-{n}.example").parse().expect("a host"),
        port: "9092".parse().expect("a port"),
        security_protocol: SecurityProtocol::default(),
        rack_id: RackId::default(),
    })
}

fn topic(n: u64) -> Change {
    let name = format!("topic-with-a-name-of-usual-length-{n}");
    Change::CreateTopic(CreateTopic { uuid: uuid(2, n), name: name.parse().expect("a name") })
}

fn partition(topic: u64, n: u64, brokers: u64) -> Change {
    Change::CreatePartition(CreatePartition {
        topic: uuid(2, topic),
        partition_id: id(n),
        replicas: (0..3).map(|step| uuid(1, (topic + n + step) % brokers).into()).collect(),
        isr: None,
        removing: Vec::new(),
        adding: Vec::new(),
        leader: LeaderChoice::Preferred,
    })
}

/// A state that is given commands a microsecond apart.
#[derive(Clone)]
struct Cluster {
    state: State,
    clock: u64,
}

impl Cluster {
    /// About so many records: 1,000 brokers or fewer, topics of 100 partitions each.
    fn of(records: u64) -> Self {
        let mut cluster = Self { state: State::new(), clock: 1_000_000_000_000_000 };
        let topics = (records / u64::from(PARTITIONS)).max(1);
        let brokers = (records / 100).clamp(3, 1_000);
        (0..brokers).for_each(|n| cluster.apply(register(n)));
        for topic_number in 0..topics {
            cluster.apply(topic(topic_number));
            (0..u64::from(PARTITIONS)).for_each(|n| {
                cluster.apply(partition(topic_number, n, brokers));
            });
        }
        cluster
    }

    fn apply(&mut self, change: Change) {
        self.clock += 1;
        let clock = Timestamp::from_micros(self.clock);
        let applied = self.state.apply(&Command { clock, idempotency: None, change });
        black_box(&applied);
    }
}

fn sizes() -> Vec<u64> {
    let asked = std::env::var("YAKT_BENCH_RECORDS").ok().and_then(|records| records.parse().ok());
    let most = asked.unwrap_or(RECORDS_MAX);
    [1_000, 100_000, 1_000_000].into_iter().filter(|records| *records <= most).collect()
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply");
    group.throughput(Throughput::Elements(COMMANDS));
    let cluster = Cluster::of(10_000);
    let kinds: [(&str, fn(u64) -> Change); 6] = [
        ("tick", |_| Change::Tick),
        ("register_broker", |n| register(5_000 + n)),
        ("update_broker", |n| {
            Change::UpdateBroker(UpdateBroker {
                broker: id::<BrokerId>(n % 100).into(),
                host: None,
                port: Some("9093".parse().expect("a port")),
                security_protocol: None,
                status: None,
                epoch: None,
            })
        }),
        ("create_topic", |n| topic(1_000_000 + n)),
        ("create_partition", |n| partition(n % 100, u64::from(PARTITIONS) + n, 100)),
        ("register_producer", |n| {
            let broker = id::<BrokerId>(n % 100).into();
            Change::RegisterProducer(RegisterProducer { broker, producer_id: None })
        }),
    ];
    for (kind, change) in kinds {
        let changes: Vec<_> = (0..COMMANDS).map(change).collect();
        group.bench_function(kind, |b| {
            b.iter_batched(
                // As in a node: a reader holds the image before, so that what is changed is copied first.
                || (cluster.clone(), changes.clone()),
                |(mut cluster, changes)| {
                    for change in changes {
                        cluster.apply(change);
                    }
                    cluster
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn snapshot(c: &mut Criterion) {
    let mut group = c.benchmark_group("snapshot");
    group.sample_size(10);
    for records in sizes() {
        let Cluster { state, .. } = Cluster::of(records);
        let encoded = state.encode();
        group.throughput(Throughput::Bytes(encoded.len() as u64));
        group.bench_function(BenchmarkId::new("build", records), |b| b.iter(|| state.encode()));
        group.bench_function(BenchmarkId::new("restore", records), |b| {
            b.iter(|| State::decode(&encoded).expect("it was encoded"));
        });
    }
    group.finish();
}

fn answers(c: &mut Criterion) {
    let mut group = c.benchmark_group("mgmt");
    group.sample_size(10);
    for records in sizes() {
        let mut cluster = Cluster::of(records);
        let before = cluster.state.last_stamp();
        (0..10).for_each(|n| cluster.apply(topic(2_000_000 + n)));
        let state = &cluster.state;
        group.bench_function(BenchmarkId::new("diff of 10 changes", records), |b| {
            b.iter(|| state.changes_since(before, Audience::Broker).expect("recent"));
        });
        for (name, audience) in
            [("broker_mgmt", Audience::Broker), ("client_mgmt", Audience::Client)]
        {
            group.bench_function(BenchmarkId::new(name, records), |b| {
                b.iter(|| serde_json::to_vec(&state.image(SnapshotKind::Complete, audience)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, apply, snapshot, answers);
criterion_main!(benches);
