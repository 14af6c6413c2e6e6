//! What must hold, in four layers. Each layer is a file, and is tested on histories that break it.
//!
//! | layer | file | says |
//! |---|---|---|
//! | 1 | [`raft`] | Raft's own promises hold at every step of every node |
//! | 2 | [`state`] | nodes that applied the same log have the same metadata, and it obeys its rules (with [`failover`]) |
//! | 3 | [`clients`] | the answers to all clients can be true (with [`linear`], [`objects`], [`placement`], [`producers`], [`keys`], [`mgmt`], [`sessions`] and [`looks`]) |
//! | 3 | [`operators`], [`reports`] | the answers to operators, and the cluster's reports of itself, are true of the real events ([`facts`]) |
//! | 4 | [`liveness`] | after the faults, the cluster serves again in time, and nothing runs hot ([`spin`]) |
//!
//! Layers 1 and 2 watch every node through its observer, step by step ([`Watch`]); 3 judges a run's history at
//! its end; 4 is asked by whoever waits. The first violation is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::{EntryPayload, Membership};
use yakt::metadata::State;
use yakt::node::ClusterStatus;
use yakt::raft::observe::{Observer, Step};
use yakt::raft::{NodeId, Peer, Term};

use self::addresses::AddressCheck;
use self::facts::Facts;
use self::raft::RaftCheck;
use self::spin::{Act, SpinCheck};
use self::state::StateCheck;
use super::Violation;
use super::coverage::{Coverage, Site};
use super::record::Recorder;
use crate::trace::Trace;

pub mod addresses;
pub mod clients;
pub mod facts;
pub mod failover;
pub mod keys;
pub mod linear;
pub mod liveness;
pub mod looks;
pub mod mgmt;
pub mod objects;
pub mod operators;
pub mod placement;
pub mod producers;
pub mod raft;
pub mod reports;
pub mod sessions;
pub mod spin;
pub mod state;

/// Watches all nodes of a run. Clones are the same watch.
#[derive(Clone, Debug)]
pub struct Watch {
    trace: Trace,
    coverage: Coverage,
    recorder: Recorder,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    raft: RaftCheck,
    state: StateCheck,
    addresses: AddressCheck,
    facts: Facts,
    spin: SpinCheck,
    /// What each node is in the middle of.
    busy: BTreeMap<NodeId, Busy>,
    installs: u64,
    violation: Option<Violation>,
}

/// What a node is in the middle of, for coverage.
#[derive(Clone, Copy, Debug, Default)]
struct Busy {
    installing: bool,
    building: bool,
    /// Whether this life has shown a snapshot: the first is its own.
    begun: bool,
}

impl Watch {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(trace: Trace, coverage: Coverage, recorder: Recorder) -> Self {
        Self { trace, coverage, recorder, seen: Arc::default() }
    }

    /// Counts what rare things happened.
    #[must_use]
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// Writes down what a report shows.
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Watches `node` through one life.
    #[must_use]
    pub fn observer(&self, node: NodeId) -> Observer {
        let watch = self.clone();
        watch.lock().busy.remove(&node);
        Observer(Arc::new(move |step| watch.observe(node, step)))
    }

    fn observe(&self, node: NodeId, step: Step<'_>) {
        self.recorder.step(node, &step);
        let mut seen = self.lock();
        seen.facts.observe(nanos(), node, step);
        let checked = match step {
            Step::Recovered(found) => {
                self.coverage.reach(Site::Recovery, !found.entries.is_empty());
                seen.raft.recovered(node, found)
            }
            Step::Appended(entries) => seen.raft.appended(node, entries),
            Step::Truncated(from) => {
                self.coverage.fire(Site::Truncation);
                self.trace.record(format_args!("n{node} truncates from {from}"));
                seen.raft.truncated(node, from)
            }
            Step::Committed(id) => seen.raft.committed_at(node, id),
            Step::Purged(upto) => {
                self.trace.record(format_args!("n{node} purges up to {upto}"));
                seen.raft.purged(node, upto)
            }
            Step::Stored(changes) => seen.raft.stored(node, changes),
            Step::VoteAnswered { vote, granted, pre } => {
                let busy = seen.busy.get(&node).copied().unwrap_or_default();
                self.coverage.reach(Site::VoteWhileInstalling, busy.installing);
                self.coverage.reach(Site::VoteWhileSnapshotting, busy.building);
                if pre { Ok(()) } else { seen.raft.vote_answered(node, vote, granted) }
            }
            Step::Applied(entry, reply, state) => {
                let id = entry.log_id;
                self.trace.record(format_args!("n{node} applied {id}"));
                self.note_applied(&entry.payload);
                seen.raft
                    .applied(node, id)
                    .and_then(|()| seen.state.applied(node, id, reply, state))
                    .and_then(|()| match &entry.payload {
                        EntryPayload::Membership(members) => {
                            seen.addresses.applied(node, members.nodes())
                        }
                        _ => Ok(()),
                    })
            }
            Step::Installing(_) => {
                let busy = seen.busy.entry(node).or_default();
                busy.installing = busy.begun;
                Ok(())
            }
            Step::Installed(meta, state) => {
                let busy = seen.busy.entry(node).or_default();
                busy.installing = false;
                let restored = !std::mem::replace(&mut busy.begun, true);
                seen.installs += u64::from(!restored);
                self.coverage.reach(Site::SnapshotInstall, !restored);
                self.trace.record(format_args!(
                    "n{node} installed {:?}, restored={restored}",
                    meta.last_log_id
                ));
                meta.last_log_id.map_or(Ok(()), |last| {
                    seen.raft
                        .installed(node, last)
                        .and_then(|()| {
                            seen.raft.installed_members(node, last, &meta.last_membership)
                        })
                        .and_then(|()| seen.state.compare(node, last.index, state))
                })
            }
            Step::SnapshotBegun(_) => {
                seen.busy.entry(node).or_default().building = true;
                Ok(())
            }
            Step::Sent(message) => {
                let spun = seen.spin.sent(node, message, Duration::from_nanos(nanos()));
                if let Err(what) = spun {
                    seen.report(Violation::liveness(what));
                }
                Ok(())
            }
            Step::Heard(_) => Ok(()),
        };
        if let Step::Applied(..) = step {
            seen.busy.entry(node).or_default().begun = true;
        }
        if let Step::Stored(changes) = step
            && changes
                .iter()
                .any(|change| matches!(change, yakt::raft::observe::Stored::Snapshot(_)))
        {
            seen.busy.entry(node).or_default().building = false;
        }
        if let Err(what) = checked {
            seen.report(Violation::safety(what));
        }
    }

    fn note_applied(&self, payload: &yakt::raft::Payload) {
        if let EntryPayload::Membership(membership) = payload {
            let joint = membership.get_joint_config().len() > 1;
            self.coverage.reach(Site::MembershipChange, joint);
        }
    }

    /// `node` wrote `line` to its log.
    pub fn wrote_line(&self, node: NodeId, line: &str) {
        self.recorder.note(Some(super::cluster::host(node)), "log", || line.to_owned());
        self.spun(node, Act::Line, 1, line);
    }

    /// `node` has asked for `count` connections since the last call.
    pub fn connected(&self, node: NodeId, count: u64) {
        self.spun(node, Act::Connect, count, "");
    }

    fn spun(&self, node: NodeId, act: Act, count: u64, last: &str) {
        // A thread that writes a line while it judges a step holds the lock already: waiting for
        // the lock would be a deadlock.
        let Ok(mut seen) = self.seen.try_lock() else { return };
        if let Err(what) = seen.spin.act(node, act, Duration::from_nanos(nanos()), count) {
            seen.report(Violation::liveness(format!("{what} {last}")));
        }
    }

    /// The voters of every membership that was the last committed one within the last `span`.
    pub fn voters_since(&self, span: Duration) -> Vec<BTreeSet<NodeId>> {
        let (seen, now) = (self.lock(), nanos());
        let from = now.saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
        seen.facts.members_between(from, now).map(|members| members.voters.clone()).collect()
    }

    /// `node` shows `status` while `membership` is in its log.
    pub fn shows(&self, status: &ClusterStatus, membership: &Membership<NodeId, Peer>) {
        if let Err(what) = reports::check_members(status, membership) {
            self.report(Violation::safety(format!("reports of node {}: {what}", status.node)));
        }
    }

    /// A process of `node` was started.
    pub fn started(&self, node: NodeId) {
        self.lock().facts.starts(nanos(), node);
    }

    /// `node` leads `term`. Says whether that is news.
    pub fn leads(&self, node: NodeId, term: Term) -> bool {
        let mut seen = self.lock();
        seen.facts.leads(nanos(), node, term);
        match seen.raft.leads(node, term) {
            Ok(news) => {
                if news {
                    self.trace.record(format_args!("n{node} leads term {term}"));
                }
                news
            }
            Err(what) => {
                seen.report(Violation::safety(what));
                false
            }
        }
    }

    /// `node` is at the Raft address `addr` from now on.
    pub fn is_at(&self, node: NodeId, addr: &str) {
        self.lock().addresses.is_at(node, addr);
    }

    /// See [`RaftCheck::is_unrecoverable`].
    #[must_use]
    pub fn is_unrecoverable(&self, rotten: &BTreeSet<NodeId>, replaced: &BTreeSet<NodeId>) -> bool {
        self.lock().raft.is_unrecoverable(rotten, replaced)
    }

    /// The directory of `node` returned to an earlier moment, or lost the last record of its log.
    pub fn relapsed(&self, node: NodeId) {
        self.lock().raft.relapsed(node);
    }

    /// Whether directories forgot so much that Raft cannot keep its promises: committed entries may
    /// be lost, and histories may fork. Even then, nodes must not silently serve two histories.
    #[must_use]
    pub fn has_forked(&self) -> bool {
        self.lock().raft.has_forked()
    }

    /// The disk of `node` is gone, and everything on it.
    pub fn disk_lost(&self, node: NodeId) {
        self.lock().raft.disk_lost(node);
    }

    /// The last index in the newest snapshot on the disk of `node`, as far as this checker has
    /// seen.
    #[must_use]
    pub fn snapshot_of(&self, node: NodeId) -> u64 {
        let seen = self.lock();
        let life = seen.facts.lives.get(&node);
        life.and_then(|life| life.snapshots.last()).map_or(0, |(_, index)| *index)
    }

    /// The events of the run, for the checkers that judge the answers about them.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.lock().facts.clone()
    }

    /// The first violation, if any.
    #[must_use]
    pub fn violation(&self) -> Option<Violation> {
        self.lock().violation.clone()
    }

    /// How many terms had a leader.
    #[must_use]
    pub fn leaders(&self) -> u64 {
        self.lock().raft.leaders()
    }

    /// How many snapshots were installed, those that nodes found on their own disks aside.
    #[must_use]
    pub fn installs(&self) -> u64 {
        self.lock().installs
    }

    /// The index up to which `node` has forgotten its log; 0 if it has all of it.
    #[must_use]
    pub fn purged(&self, node: NodeId) -> u64 {
        self.lock().raft.purge_point(node)
    }

    /// Notes a violation that was found elsewhere.
    pub fn report(&self, violation: Violation) {
        self.lock().report(violation);
    }

    /// Judges `node`, which has come to rest at `index`: its state is what others had there, and its log is in order.
    pub fn at_rest(&self, node: NodeId, index: u64, state: &State) {
        let mut seen = self.lock();
        let compared = seen.state.compare(node, index, state);
        if let Err(what) = compared.and_then(|()| seen.raft.owes_nothing(node)) {
            seen.report(Violation::safety(what));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Virtual time since the start; 0 outside of a simulation, as in a checker's own tests.
fn nanos() -> u64 {
    let now = madsim::time::TimeHandle::try_current().map(|time| time.elapsed().as_nanos());
    now.and_then(|nanos| u64::try_from(nanos).ok()).unwrap_or(0)
}

impl Seen {
    fn report(&mut self, violation: Violation) {
        // After a fork of the history, nodes cannot keep the promises that the fork breaks. They
        // can avoid serving both sides, so only that is still reported.
        if self.raft.has_forked() && !violation.what.starts_with(raft::HISTORY) {
            return;
        }
        self.violation.get_or_insert(violation);
    }
}

#[cfg(test)]
mod tests {
    use yakt::metadata::{Change, Command, Timestamp};

    use super::*;

    fn watch() -> Watch {
        Watch::new(Trace::new(), Coverage::default(), Recorder::new(false))
    }

    fn what(watch: &Watch) -> String {
        watch.violation().map(|violation| violation.to_string()).unwrap_or_default()
    }

    fn ticked(clock: u64) -> State {
        let mut state = State::new();
        let clock = Timestamp::from_micros(clock);
        state.apply(&Command { clock, idempotency: None, change: Change::Tick });
        state
    }

    #[test]
    fn nodes_that_rest_in_different_states_are_caught() {
        let watch = watch();
        watch.at_rest(1, 9, &ticked(5));
        watch.at_rest(2, 9, &ticked(5));
        assert_eq!(watch.violation(), None);
        watch.at_rest(3, 9, &ticked(6));
        assert!(what(&watch).starts_with("safety: nodes 1 and 3 have different states"));
    }

    #[test]
    fn what_an_observer_shows_is_judged_and_the_first_violation_kept() {
        let watch = watch();
        assert!(watch.leads(1, 7) && !watch.leads(1, 7));
        (watch.observer(2).0)(Step::Truncated(3));
        assert_eq!(watch.violation(), None);
        watch.leads(3, 7);
        assert!(what(&watch).starts_with("safety: election safety"), "{}", what(&watch));
        watch.report(Violation::liveness("later"));
        assert!(what(&watch).starts_with("safety: election safety"));

        let watch = self::watch();
        (watch.observer(2).0)(Step::VoteAnswered {
            vote: yakt::raft::Ballot::new(4, 1),
            granted: true,
            pre: false,
        });
        assert!(what(&watch).starts_with("safety: durability"), "{}", what(&watch));
    }
}
