//! A data directory that is written, loses power, rots, and is opened again.
//!
//! The input is a row of [`STEP_BYTES`]-byte steps; see [`Step`]. What must hold:
//!
//! - on a disk that loses power but is sound, every directory opens, and holds exactly what was
//!   acknowledged, or that and writes that were under way, a prefix of them;
//! - on a disk whose bits flip, nothing panics, and what opens all the same holds the same as above, except
//!   that the last write may be missing after a crash: its rotten pages look like torn ones;
//! - no truncation removes an entry that the node knows to be committed.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;
use std::sync::{Arc, Once};

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::{Membership as RaftMembership, RaftLogReader};
use yakt::metadata::{Change, Command, CreateTopic, Timestamp, Uuid};
use yakt::raft::storage::{FILE_NAME, Identity, LogStore, OpenError, SnapshotStore, Store};
use yakt::raft::{
    Ballot, EntryId, LogEntry, Membership, Payload, Peer, SharedCommand, SnapshotMeta, TypeConfig,
};

use self::disk::{Disk, Survivors};
use self::env::DiskEnv;

pub mod disk;
pub mod env;

/// Bytes of a step: what, and seven arguments.
pub const STEP_BYTES: usize = 8;

/// Bytes of a file of the log: few, so that there are several.
const LOG_FILE_BYTES: u64 = 4 << 10;

/// Bytes of the page that a row of a snapshot fills, more or less: few, so that most have several.
const SNAPSHOT_PAGE_BYTES: usize = 256;

/// Longer histories find nothing that shorter ones do not, but slowly.
const STEPS_MAX: usize = 64;

/// What happens next. The number is a step's first byte.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum Step {
    /// Append `1 + a % 16` entries, with names of `b` bytes; all at once if `c` is odd, for which the
    /// writer may make one commit or several; in the next term if `c & 2`.
    Append,
    /// Vote in a later term: for node `a`, committed if `b` is odd.
    Vote,
    /// Truncate the last `a` entries, as far as they are not purged. The log
    /// refuses this if any of them is known to be committed.
    Truncate,
    /// Forget the first `1 + a` entries; with `b` odd, up to that many after the last one.
    Purge,
    /// Save a snapshot up to the `a`-th entry, of `b + 256 * c` bytes, times 32 if `d` is odd.
    Snapshot,
    /// Note that the log is committed up to the `a`-th entry.
    Committed,
    /// Stop cleanly and start again.
    Reopen,
    /// Kill the process: what it wrote stays in the cache.
    Kill,
    /// Lose power now; `a` to `f` say what is left.
    Crash,
    /// Lose power at the change or sync after `a + 256 * b` others, which may be while opening; the rest
    /// says what is left.
    Fuse,
    /// Flip bit `d` of byte `a + 256 * b + 65536 * c`, of the sectors that are not all zeros: of the database, or,
    /// if `e & 2`, of a file of the log.
    Flip,
}

/// How many kinds of [`Step`] there are.
const STEPS: u8 = Step::Flip as u8 + 1;

/// What the log's files hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Log {
    vote: Option<Ballot>,
    purged: Option<EntryId>,
    entries: Vec<LogEntry>,
}

/// What the database holds.
type Saved = Option<(SnapshotMeta, Vec<u8>)>;

impl Log {
    fn last(&self) -> Option<EntryId> {
        self.entries.last().map(|entry| entry.log_id).or(self.purged)
    }

    fn forget(&mut self, upto: EntryId) {
        self.purged = self.purged.max(Some(upto));
        self.entries.retain(|entry| entry.log_id.index() > upto.index());
    }

    fn pick(&self, which: u8) -> Option<EntryId> {
        let entries = self.entries.get(usize::from(which) % self.entries.len().max(1));
        entries.map(|entry| entry.log_id)
    }
}

/// An open directory.
struct Open {
    log: LogStore<DiskEnv>,
    snapshots: SnapshotStore<DiskEnv>,
    /// Last, so that the tasks go after what they serve.
    runtime: tokio::runtime::Runtime,
}

struct Run {
    disk: Disk,
    survivors: Survivors,
    /// Whether bits were flipped.
    rotten: bool,
    /// Whether the directory was ever given to the node for sure.
    claimed: bool,
    log: History<Log>,
    saved: History<Saved>,
    /// Commit points that were noted.
    committed: BTreeSet<Option<EntryId>>,
    /// The last commit point that the open directory was told or was opened with.
    known: Option<EntryId>,
    /// The next entry's content.
    fresh: u64,
    term: u64,
}

/// What one of the two may hold.
struct History<T> {
    /// Oldest first.
    states: Vec<T>,
    /// What it may fall back to if it rots: the last write looks torn then.
    floor: usize,
    /// What was acknowledged last. Behind it is what was written since.
    sure: usize,
}

impl<T: Clone + Debug + Default + PartialEq> History<T> {
    fn new() -> Self {
        Self { states: vec![T::default()], floor: 0, sure: 0 }
    }

    fn latest(&self) -> &T {
        self.states.last().expect("never empty")
    }

    fn acknowledge(&mut self) {
        if self.sure + 1 < self.states.len() {
            self.floor = self.sure;
            self.sure = self.states.len() - 1;
        }
    }

    /// Forgets what might have been, as it is clear what was. Says whether the last write is gone.
    fn recognise(&mut self, found: &T, rotten: bool) -> bool {
        let lowest = if rotten { self.floor } else { self.sure };
        let position = self.states.iter().rposition(|state| state == found);
        let position = position.filter(|position| *position >= lowest).unwrap_or_else(|| {
            panic!("found {found:#?}\nexpected one of {:#?}", &self.states[lowest..])
        });
        let fell_back = position < self.sure;
        self.states.truncate(position + 1);
        self.states.drain(..self.floor.min(position));
        (self.floor, self.sure) = (0, self.states.len() - 1);
        fell_back
    }
}

/// Why a run ends early.
enum End {
    /// The power failed in the middle.
    PowerLoss,
    /// The rotten disk was refused.
    Refused,
}

/// Runs the target.
///
/// # Panics
///
/// When something is wrong.
pub fn run(data: &[u8]) {
    let_redb_panic();
    let mut run = Run {
        disk: Disk::default(),
        survivors: Survivors::All,
        rotten: false,
        claimed: false,
        log: History::new(),
        saved: History::new(),
        committed: BTreeSet::from([None]),
        known: None,
        fresh: 0,
        term: 1,
    };
    let mut open = None;
    for step in data.as_chunks::<STEP_BYTES>().0.iter().take(STEPS_MAX) {
        let done = run.step(&mut open, step);
        if run.settle(&mut open, done).is_err() {
            return;
        }
    }
    drop(open);
    if run.disk.is_powerless() {
        run.disk.crash(run.survivors);
    }
    run.disk.fail_after(u32::MAX);
    let last = run.open();
    assert!(last.is_ok() || run.rotten, "a sound disk was refused");
}

/// redb panics on some damage. What counts is that nobody else does and that yakt survives it, so such a
/// panic must unwind, while libFuzzer's hook ends the process at every other.
fn let_redb_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !panic.location().is_some_and(|location| location.file().contains("/redb-")) {
                hook(panic);
            }
        }));
    });
}

impl Run {
    /// Takes a step, opening the directory first when it is closed.
    fn step(&mut self, slot: &mut Option<Open>, step: &[u8; STEP_BYTES]) -> Result<(), End> {
        let [what, a, b, c, d, e, ..] = *step;
        let rest = &step[1..];
        match what % STEPS {
            kind if kind == Step::Kill as u8 => {
                self.disk.boot();
                *slot = None;
            }
            kind if kind == Step::Crash as u8 => {
                self.disk.crash(survivors(rest));
                *slot = None;
            }
            kind if kind == Step::Fuse as u8 => {
                self.survivors = survivors(&rest[2..]);
                self.disk.fail_after(u32::from(a) + (u32::from(b) << 8));
            }
            kind if kind == Step::Flip as u8 => {
                let place = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
                let log = ["yakt.log.0", "yakt.log.1"];
                let file = [FILE_NAME, log[usize::from(e) % 2]][usize::from(e) / 2 % 2];
                self.disk.flip(file, place, d);
                self.rotten = true;
            }
            kind if kind == Step::Reopen as u8 => *slot = None,
            kind => {
                if slot.is_none() {
                    *slot = Some(self.open()?);
                }
                let open = slot.as_mut().expect("just opened");
                self.write(open, kind, [a, b, c, d])?;
            }
        }
        Ok(())
    }

    /// After a step: a crash if the power failed, the end if a rotten disk was refused.
    fn settle(&mut self, slot: &mut Option<Open>, done: Result<(), End>) -> Result<(), ()> {
        // A power failure can also go unnoticed: while closing.
        if self.disk.is_powerless() {
            *slot = None;
            self.disk.crash(self.survivors);
            return Ok(());
        }
        match done {
            Ok(()) => Ok(()),
            Err(End::Refused) => Err(()),
            Err(End::PowerLoss) => panic!("an operation failed on a sound disk with power"),
        }
    }

    fn trouble(&self) -> End {
        if self.rotten && !self.disk.is_powerless() { End::Refused } else { End::PowerLoss }
    }

    fn open(&mut self) -> Result<Open, End> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let env = DiskEnv { life: self.disk.boot(), disk: self.disk.clone() };
        let opened = runtime.block_on(self.store(env));
        let (log, snapshots, found, committed) = opened.map_err(|error| {
            let refused = self.rotten || self.disk.is_powerless();
            assert!(refused, "a sound directory does not open: {error}");
            self.trouble()
        })?;
        let fell_back =
            self.log.recognise(&found.0, self.rotten) | self.saved.recognise(&found.1, self.rotten);
        assert!(
            self.committed.contains(&committed) || committed == found.0.last(),
            "{committed:?} was never committed"
        );
        self.known = committed;
        // What it would fall back to next is forgotten.
        if fell_back { Err(End::Refused) } else { Ok(Open { log, snapshots, runtime }) }
    }

    async fn store(
        &mut self,
        env: DiskEnv,
    ) -> Result<(LogStore<DiskEnv>, SnapshotStore<DiskEnv>, (Log, Saved), Option<EntryId>), OpenError>
    {
        let identity = Identity {
            cluster: Uuid::from_u128(1),
            node: 1,
            directory: Uuid::from_u128(2),
            founder: true,
        };
        let mut store = Store::open(env, Path::new(""), identity.node, LOG_FILE_BYTES).await?;
        match store.identity() {
            Some(found) => assert_eq!(found, identity),
            None => {
                assert!(!self.claimed, "whose directory it is was lost");
                store.claim(identity).await?;
            }
        }
        self.claimed = true;
        let (mut log, snapshots) = store.into_parts(None, SNAPSHOT_PAGE_BYTES).await?;
        let found = Log {
            vote: log.read_vote().await?,
            purged: log.get_log_state().await?.last_purged_log_id,
            entries: log.try_get_log_entries(..).await?,
        };
        let saved = match snapshots.load().await? {
            Some((meta, data)) => Some((meta, data.whole().await?.to_vec())),
            None => None,
        };
        let found = (found, saved);
        let committed = log.read_committed().await?;
        Ok((log, snapshots, found, committed))
    }

    /// Writes, and notes what the directory must hold from then on.
    fn write(&mut self, open: &mut Open, kind: u8, args: [u8; 4]) -> Result<(), End> {
        let now = self.log.latest().clone();
        let Open { log, snapshots, runtime } = open;
        let written = match kind {
            kind if kind == Step::Append as u8 => {
                let batches = self.entries(now, args);
                runtime.block_on(append(log, batches))
            }
            kind if kind == Step::Vote as u8 => {
                self.term += 1;
                let vote = if args[1] & 1 == 0 { Ballot::new } else { Ballot::new_committed };
                let vote = vote(self.term, u64::from(args[0]));
                self.log.states.push(Log { vote: Some(vote), ..now });
                runtime.block_on(log.save_vote(&vote))
            }
            kind if kind == Step::Truncate as u8 => {
                let kept = now.entries.len().saturating_sub(usize::from(args[0]));
                let entries = now.entries[..kept].to_vec();
                let after = Log { entries, ..now };
                let last = after.last();
                if last < self.known {
                    let refused = runtime.block_on(log.truncate_after(last));
                    assert!(refused.is_err(), "a committed entry was truncated");
                    return Ok(());
                }
                self.log.states.push(after);
                runtime.block_on(log.truncate_after(last))
            }
            kind if kind == Step::Purge as u8 => self.purge(now, runtime, log, snapshots, args),
            kind if kind == Step::Snapshot as u8 => self.snapshot(&now, runtime, snapshots, args),
            _ => {
                let committed = now.pick(args[0]);
                self.committed.insert(committed);
                self.known = committed.or(self.known);
                runtime.block_on(log.save_committed(committed))
            }
        };
        match written {
            Ok(()) if kind == Step::Committed as u8 => Ok(()),
            Ok(()) => {
                self.log.acknowledge();
                self.saved.acknowledge();
                Ok(())
            }
            Err(_) => Err(self.trouble()),
        }
    }

    fn entries(&mut self, mut now: Log, [count, name, how, _]: [u8; 4]) -> Vec<Vec<LogEntry>> {
        self.term += u64::from(how & 2 != 0);
        let mut entries = Vec::new();
        for _ in 0..=count % 16 {
            let index = now.last().map_or(0, |last| last.index() + 1);
            let log_id = EntryId::new_term_index(self.term, index);
            let entry = LogEntry { log_id, payload: self.payload(name) };
            now.entries.push(entry.clone());
            entries.push(entry);
            if how & 1 == 1 {
                self.log.states.push(now.clone());
            }
        }
        if how & 1 == 1 {
            return entries.into_iter().map(|entry| vec![entry]).collect();
        }
        self.log.states.push(now);
        vec![entries]
    }

    fn payload(&mut self, name: u8) -> Payload {
        self.fresh += 1;
        let change = Change::CreateTopic(CreateTopic {
            uuid: Uuid::from_u128(u128::from(self.fresh)),
            name: "n".repeat(usize::from(name.clamp(1, 249))).parse().expect("a legal name"),
        });
        let clock = Timestamp::from_micros(self.fresh);
        Payload::Normal(SharedCommand(Arc::new(Command { clock, idempotency: None, change })))
    }

    fn purge(
        &mut self,
        mut now: Log,
        runtime: &tokio::runtime::Runtime,
        log: &mut LogStore<DiskEnv>,
        snapshots: &SnapshotStore<DiskEnv>,
        [count, beyond, ..]: [u8; 4],
    ) -> std::io::Result<()> {
        let upto = if beyond & 1 == 1 {
            let next = now.last().map_or(0, |last| last.index() + 1);
            EntryId::new_term_index(self.term, next + u64::from(count))
        } else if let Some(upto) = now.pick(count) {
            upto
        } else {
            return Ok(());
        };
        // As Raft does it: not before a snapshot has what is purged.
        let saved = self.saved.latest().as_ref().and_then(|(present, _)| present.last_log_id);
        if saved.is_none_or(|saved| saved.index() < upto.index()) {
            self.save(Some(upto), 1, runtime, snapshots)?;
        }
        now.forget(upto);
        self.log.states.push(now);
        runtime.block_on(log.purge(upto))
    }

    fn snapshot(
        &mut self,
        now: &Log,
        runtime: &tokio::runtime::Runtime,
        snapshots: &SnapshotStore<DiskEnv>,
        [which, low, high, times]: [u8; 4],
    ) -> std::io::Result<()> {
        let length = usize::from(low) | usize::from(high) << 8;
        let length = if times & 1 == 1 { length << 5 } else { length };
        self.save(now.pick(which).or(now.purged), length, runtime, snapshots)
    }

    /// Saves a snapshot up to `id`, of so many bytes.
    fn save(
        &mut self,
        id: Option<EntryId>,
        length: usize,
        runtime: &tokio::runtime::Runtime,
        snapshots: &SnapshotStore<DiskEnv>,
    ) -> std::io::Result<()> {
        self.fresh += 1;
        let data = vec![self.fresh.to_le_bytes()[0] | 1; length];
        let nodes = Nodes::from([(1, peer()), (2, peer())]);
        let membership = RaftMembership::new(vec![[1, 2].into()], nodes);
        let meta = SnapshotMeta {
            last_log_id: id,
            last_membership: Membership::new(id, membership.expect("both are known")),
        };
        // An older snapshot does not replace a newer one.
        if self.saved.latest().as_ref().is_none_or(|(present, _)| present.last_log_id < id) {
            self.saved.states.push(Some((meta.clone(), data.clone())));
        }
        runtime.block_on(snapshots.save(&meta, move |rows| rows.push_all(&data)))
    }
}

type Nodes = std::collections::BTreeMap<u64, Peer>;

fn peer() -> Peer {
    Peer {
        raft: "127.0.0.1:5010".into(),
        http: "127.0.0.1:5011".into(),
        directory: Uuid::from_u128(2),
    }
}

/// Queues all batches, then waits for all of them.
async fn append(log: &mut LogStore<DiskEnv>, batches: Vec<Vec<LogEntry>>) -> std::io::Result<()> {
    let mut waiting = Vec::new();
    for batch in batches {
        let (done, told) = TypeConfig::<DiskEnv>::oneshot();
        log.append(batch, IOFlushed::signal(done)).await?;
        waiting.push(told);
    }
    for told in waiting {
        told.await.map_err(std::io::Error::other)??;
    }
    Ok(())
}

fn survivors(bytes: &[u8]) -> Survivors {
    let which = usize::from(bytes[1]) | usize::from(bytes[2]) << 8;
    match bytes[0] % 6 {
        0 => Survivors::None,
        1 => Survivors::All,
        2 => Survivors::First(which),
        3 => Survivors::AllBut(which),
        4 => Survivors::Only(which),
        _ => Survivors::Subset(which as u64 | u64::from(bytes[3]) << 16),
    }
}
