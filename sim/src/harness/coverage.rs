//! Fault coverage: named sites, and how often a sweep reached and fired them.
//!
//! A site is a rare thing that a simulation exists to produce. It is *reached* whenever its occasion comes (a
//! node recovers) and *fires* when the rare thing happens then (it found a log). A site that is reached
//! and never fires says that the fault is not strong enough; one that is never reached, that nobody gets there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::contract;

/// How often a site was reached and fired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Occasions.
    pub reached: u64,
    /// Occasions on which it happened.
    pub fired: u64,
}

macro_rules! sites {
    ($($(#[$doc:meta])* $name:ident = $text:literal, within $seeds:literal;)*) => {
        /// A rare thing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Site { $($(#[$doc])* $name),* }

        impl Site {
            /// Every site.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// What it is called in tables.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// How many seeds of the swarm scenario should be enough for it to fire at least once.
            #[must_use]
            pub const fn seeds(self) -> u64 {
                match self { $(Self::$name => $seeds),* }
            }
        }
    };
}

sites! {
    /// Reached: a node starts. Fires: it finds a log.
    Recovery = "a node recovered a log from its disk", within 10;
    /// Reached: power fails while writes wait for their sync. Fires: what is left is neither all nor nothing.
    TornWrite = "a power loss tore or reordered unsynced writes", within 500;
    /// Fires: a node starts from what such a power loss left.
    TornRecovery = "a torn write was read back at recovery", within 500;
    /// Reached: power fails. Fires: in the middle of a commit.
    PowerLossInCommit = "the power failed in the middle of a commit", within 60;
    /// Reached: a vote is requested. Fires: while a snapshot is being installed.
    VoteWhileInstalling = "a vote was requested while a snapshot was installing", within 2000;
    /// Reached: a vote is requested. Fires: while a snapshot is being taken.
    VoteWhileSnapshotting = "a vote was requested while a snapshot was being taken", within 500;
    /// Reached: a leader is paused. Fires: another leads before it wakes.
    LeaseExpiredInPause = "a leader slept through its lease and another took over", within 60;
    /// Reached: a leader's followers answer late, and hear it no more. Fires: another leads, and the former is read from.
    ReadAtDeposed = "a deposed leader was read from while late answers came in", within 60;
    /// Reached: a removal stops with its leader, and the removed node leads. Fires: it completes its own removal.
    LameDuck = "a leader completed its own removal and was killed", within 120;
    /// Reached: a leader dies while names do not resolve. Fires: another is elected.
    NamelessElection = "a leader was elected while names did not resolve", within 500;
    /// Reached: a leader's large packets vanish. Fires: another leads, and a write succeeds.
    BlackHole = "a leader whose large packets vanished gave way", within 500;
    /// Reached: a node's connections to its leader are refused. Fires: it follows that leader all
    /// the same.
    RefusedOneWay = "a follower did not reach its leader, and was reached by it", within 120;
    /// Fires: a follower removes uncommitted entries.
    Truncation = "a follower truncated its log", within 120;
    /// Reached: a snapshot is installed. Fires: a leader's, not the node's own.
    SnapshotInstall = "a node caught up by a leader's snapshot", within 60;
    /// Reached: a membership is applied. Fires: a joint one.
    MembershipChange = "a joint membership was applied", within 10;
    /// Reached: the operator removes a node. Fires: it is gone.
    Removal = "a node was removed from the cluster", within 60;
    /// Fires: an operator had the voter removed whose disk was lost, and starts another in its place.
    Replacement = "a voter with a lost disk was replaced", within 60;
    /// Reached: the operator asks for a transfer. Fires: the target leads.
    Transfer = "leadership was transferred", within 60;
    /// Reached: a node ends by itself, as it may. Fires: a disk fault ended it.
    DiskFaultStop = "a node stopped because its disk failed", within 60;
    /// Reached: bits rot in cold data. Fires: the node refuses to start with it.
    BitRotRefused = "a node refused to start on rotten data", within 60;
    /// Fires: a node runs out of disk space.
    DiskFull = "a disk was full", within 60;
    /// Reached: a node has no free file descriptor for a while. Fires: it was refused a file, and
    /// runs at the end.
    DescriptorsUsedUp = "a node that could not open a file went on", within 120;
    /// Fires: a connection is reset with data under way.
    ResetMidFrame = "a connection was reset with data under way", within 120;
    /// Reached: a client's connections to a node are reset. Fires: with a request or an answer under way.
    ClientReset = "a client's connection was reset with data under way", within 240;
    /// Fires: a sender waits because its receiver does not read.
    Backpressure = "a sender waited for a slow reader", within 120;
    /// Reached: a keyed write is answered after an answer was lost. Fires: it succeeds.
    KeyedRetry = "a keyed retry after a lost answer succeeded", within 60;
    /// Fires: an answer never came, and what was asked was done all the same.
    UnknownTookEffect = "a write of unknown outcome took effect", within 120;
    /// Reached: a leader changes. Fires: the new one's clock is behind its predecessor's.
    ClockBehind = "a leader took over with a clock behind its predecessor's", within 60;
    /// Reached: a poll. Fires: its offset is older than ten minutes.
    CompletePoll = "a poller's offset was older than ten minutes", within 60;
    /// Reached: a member comes back at another port. Fires: the leader has its new address.
    Moved = "a member came back under another address and was found", within 60;
    /// Reached: two members come back with exchanged addresses. Fires: the leader has the new addresses of both.
    Swapped = "two members came back with exchanged addresses and were found", within 120;
    /// Reached: a member took a wrong address for its own for a while. Fires: it ran to the end of that.
    Misplaced = "a member ran under an address that leads elsewhere", within 120;
    /// Reached: a copy of a member's directory was started. Fires: it ended by itself.
    CopyEnded = "a copied directory was refused while its original ran", within 60;
    /// Fires: directories of nodes were put back to an earlier moment.
    Restored = "directories returned to an earlier moment", within 120;
    /// Fires: the last record of a node's log was damaged.
    TailDamaged = "the last record of a log was damaged", within 120;
    /// Fires: a node stops by itself because it lost entries that it had acknowledged, or found
    /// another history.
    BreachStop = "a node stopped on a directory that forgot something", within 500;
    /// Reached: a client sends a key that is more than ten minutes old. Fires: it is taken for a
    /// new one.
    KeyRevived = "a forgotten key was used for another request", within 500;
    /// Fires: an answer was compressed, and read.
    Compressed = "a compressed answer was read", within 10;
    /// Reached: a client creates topics in bulk. Fires: their names make 900,000 bytes, with
    /// production's chunk and file sizes.
    LargeState = "a state of a megabyte was built", within 300;
    /// Fires: a follower of a healthy cluster was away, and came back.
    FollowerBack = "a follower came back to a healthy cluster", within 60;
    /// Fires: the nodes that were left without a majority were asked.
    Darkness = "a minority was asked while the majority had no power", within 60;
    /// Reached: a node has just taken a snapshot. Fires: the power fails in a write of its purge,
    /// or just behind it.
    PowerLossInPurge = "the power failed while a log was purged", within 120;
    /// Reached: a leader dies when a removal is made, and the removed node asks to join. Fires:
    /// another is elected then.
    JoinAtElection = "a node asked to join while a leader was elected", within 240;
    /// Reached: a leader dies. Fires: readers come in the first moment of the next one.
    ReadersAtElection = "readers came in the first moment of a leader", within 120;
    /// Fires: bits flip on the disk of a node that runs.
    RotWhileRunning = "bits rotted while a node ran", within 60;
    /// Reached: a run ends. Fires: it was unrecoverable.
    Unrecoverable = "a majority lost their disks", within 2000;
}

/// The counts of one run, or of many. Clones share them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, Count>", into = "BTreeMap<String, Count>")]
pub struct Coverage(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    /// By [`Site`].
    sites: Vec<Count>,
    /// Points of the HTTP contract ([`contract`]), each with the number of runs that reached it.
    points: BTreeMap<String, u64>,
}

/// The prefix of the names of points among the names of sites.
const POINT: &str = "contract: ";

impl From<Coverage> for BTreeMap<String, Count> {
    fn from(coverage: Coverage) -> Self {
        let sites = Site::ALL.iter().map(|site| (site.name().to_owned(), coverage.count(*site)));
        let points = coverage.lock().points.clone().into_iter();
        let points = points
            .map(|(point, runs)| (format!("{POINT}{point}"), Count { reached: runs, fired: runs }));
        sites.chain(points).collect()
    }
}

/// Sites that this program does not know are left out.
impl From<BTreeMap<String, Count>> for Coverage {
    fn from(counts: BTreeMap<String, Count>) -> Self {
        let coverage = Self::default();
        for site in Site::ALL {
            coverage.add(*site, counts.get(site.name()).copied().unwrap_or_default());
        }
        for (name, count) in &counts {
            if let Some(point) = name.strip_prefix(POINT) {
                coverage.lock().points.insert(point.to_owned(), count.fired);
            }
        }
        coverage
    }
}

impl Coverage {
    /// `site` was reached, and fired if `fired`.
    pub fn reach(&self, site: Site, fired: bool) {
        self.add(site, Count { reached: 1, fired: u64::from(fired) });
    }

    /// `site` was reached and fired.
    pub fn fire(&self, site: Site) {
        self.reach(site, true);
    }

    /// Adds to a site's counts.
    pub fn add(&self, site: Site, count: Count) {
        let mut counts = self.lock();
        counts.sites.resize(Site::ALL.len(), Count::default());
        let known = &mut counts.sites[site as usize];
        known.reached += count.reached;
        known.fired += count.fired;
    }

    /// A site's counts.
    #[must_use]
    pub fn count(&self, site: Site) -> Count {
        self.lock().sites.get(site as usize).copied().unwrap_or_default()
    }

    /// A run reached these points of the HTTP contract.
    pub fn reach_points(&self, points: impl IntoIterator<Item = String>) {
        let mut counts = self.lock();
        for point in points {
            *counts.points.entry(point).or_default() += 1;
        }
    }

    /// The points of the HTTP contract that should have been reached within `seeds` seeds and were
    /// not.
    #[must_use]
    pub fn missing_of_contract(&self, seeds: u64) -> Vec<String> {
        if seeds < contract::SEEDS {
            return Vec::new();
        }
        let counts = self.lock();
        contract::missing(|point| counts.points.contains_key(point))
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the counts of another run.
    pub fn merge(&self, other: &Self) {
        for site in Site::ALL {
            self.add(*site, other.count(*site));
        }
        let points = other.lock().points.clone();
        let mut counts = self.lock();
        for (point, runs) in points {
            *counts.points.entry(point).or_default() += runs;
        }
    }

    /// The sites that should have fired within `seeds` seeds and did not.
    #[must_use]
    pub fn missing(&self, seeds: u64) -> Vec<Site> {
        let due = Site::ALL.iter().copied().filter(|site| site.seeds() <= seeds);
        due.filter(|site| self.count(*site).fired == 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_that_should_have_fired_is_missed() {
        let coverage = Coverage::default();
        coverage.reach(Site::Recovery, false);
        assert!(coverage.missing(10).contains(&Site::Recovery));
        assert!(!coverage.missing(9).contains(&Site::Recovery));
        coverage.fire(Site::Recovery);
        assert!(!coverage.missing(10).contains(&Site::Recovery));
        assert_eq!(coverage.count(Site::Recovery), Count { reached: 2, fired: 1 });
    }

    #[test]
    fn points_of_the_contract_add_up_and_outlive_a_process() {
        let (one, other) = (Coverage::default(), Coverage::default());
        let reached = |coverage: &Coverage| {
            let seeds = usize::try_from(contract::SEEDS).unwrap();
            seeds - coverage.missing_of_contract(contract::SEEDS).len()
        };
        let before = reached(&one);
        one.reach_points(["code no_leader".to_owned()]);
        other.reach_points(["code no_leader".to_owned(), "code unknown_topic".to_owned()]);
        let said = serde_json::to_string(&other).unwrap();
        one.merge(&serde_json::from_str(&said).unwrap());
        assert_eq!(reached(&one), before + 2);
        // A sweep of few seeds owes no point.
        assert_eq!(Coverage::default().missing_of_contract(1), Vec::<String>::new());
    }
}
