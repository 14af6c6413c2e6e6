//! What an entry of the log costs: through the real storage to a real disk, and as bytes.
//!
//! `cargo bench --bench log`. The directory is made in `YAKT_BENCH_DIR`, or where the system keeps temporary files: a
//! memory file system would say nothing of syncs. Beside each append there is what the disk can do at best: as many
//! bytes at the end of a preallocated file, and one `fdatasync`.

#![expect(clippy::disallowed_methods, reason = "it measures the real world")]

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::vote::RaftLeaderId;
use yakt::codec;
use yakt::env::TokioEnv;
use yakt::metadata::{Change, Command, CreateTopic, Timestamp, Uuid};
use yakt::raft::config::LOG_SEGMENT_BYTES;
use yakt::raft::storage::{LogStore, Store};
use yakt::raft::{EntryId, Leader, LogEntry, Payload, SharedCommand, TypeConfig};

/// Bytes of a record in which there is one entry: the least that is written.
const RECORD_BYTES: usize = 512;

fn entry(index: u64) -> LogEntry {
    let name = format!("a-topic-whose-name-makes-an-entry-of-three-hundred-bytes-{index:0>180}");
    let change = Change::CreateTopic(CreateTopic {
        uuid: Uuid::from_u64_pair(index, index),
        name: name.parse().expect("a name"),
    });
    let clock = Timestamp::from_micros(1_000_000_000_000_000 + index);
    let command = Command { clock, idempotency: None, change };
    let leader = Leader { term: 1, voted_for: 1 }.to_committed();
    LogEntry {
        log_id: EntryId::new(leader, index),
        payload: Payload::Normal(SharedCommand(Arc::new(command))),
    }
}

fn directory() -> PathBuf {
    let parent = std::env::var_os("YAKT_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    parent.join(format!("yakt-bench-{}", std::process::id()))
}

fn append(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("tokio");
    let directory = directory();
    let store = Store::open(TokioEnv, &directory, 1, LOG_SEGMENT_BYTES);
    let store = runtime.block_on(store).expect("a new directory");
    let (mut log, _snapshots): (LogStore<TokioEnv>, _) =
        runtime.block_on(store.into_parts(None, 512 << 10)).expect("a new log");
    let mut file = File::create(directory.join("beside")).expect("a file");
    let zeros = vec![0; usize::try_from(LOG_SEGMENT_BYTES).expect("it fits")];
    file.write_all(&zeros).and_then(|()| file.sync_all()).expect("a preallocated file");

    let mut group = c.benchmark_group("append");
    let mut next = 0;
    for batch in [1, 16, 256] {
        group.throughput(Throughput::Elements(batch));
        group.bench_function(BenchmarkId::new("log", batch), |b| {
            let entries = || {
                next += batch;
                (next - batch..next).map(entry).collect::<Vec<_>>()
            };
            b.iter_batched(
                entries,
                |entries| {
                    runtime.block_on(async {
                        let (done, told) = TypeConfig::<TokioEnv>::oneshot();
                        log.append(entries, IOFlushed::signal(done)).await.expect("queued");
                        told.await.expect("told").expect("written");
                    });
                },
                // In log order: no entry is made before the one before it is written.
                BatchSize::PerIteration,
            );
        });
        let bytes = RECORD_BYTES.max(usize::try_from(batch).expect("small") * 300);
        let record = vec![1; bytes.next_multiple_of(RECORD_BYTES)];
        file.seek(SeekFrom::Start(0)).expect("the beginning");
        group.bench_function(BenchmarkId::new("disk at best", batch), |b| {
            b.iter(|| {
                if file.stream_position().expect("a position") + record.len() as u64
                    > LOG_SEGMENT_BYTES
                {
                    file.seek(SeekFrom::Start(0)).expect("the beginning");
                }
                file.write_all(&record).and_then(|()| file.sync_data()).expect("written");
            });
        });
    }
    group.finish();
    drop(log);
    std::fs::remove_dir_all(&directory).expect("its own directory");
}

fn record(c: &mut Criterion) {
    let mut group = c.benchmark_group("entry");
    let entry = entry(7);
    let encoded = codec::encode_versioned(&entry);
    group.throughput(Throughput::Bytes(encoded.len() as u64));
    group.bench_function("encode", |b| b.iter(|| codec::encode_versioned(&entry)));
    group.bench_function("decode", |b| {
        b.iter(|| codec::decode_versioned::<LogEntry>(&encoded).expect("it was encoded"));
    });
    group.finish();
}

criterion_group!(benches, append, record);
criterion_main!(benches);
