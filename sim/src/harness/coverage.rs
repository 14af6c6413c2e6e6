//! Fault coverage: named sites, and how often a sweep reached and fired them.
//!
//! A site is a rare thing that a simulation exists to produce. It is *reached* whenever its occasion comes (a
//! node recovers) and *fires* when the rare thing happens then (it found a log). A site that is reached
//! and never fires says that the fault is not strong enough; one that is never reached, that nobody gets there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

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
    /// Fires: a connection is reset with data under way.
    ResetMidFrame = "a connection was reset with data under way", within 120;
    /// Reached: a client's connections to a node are reset. Fires: with a request or an answer under way.
    ClientReset = "a client's connection was reset with data under way", within 120;
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
    /// Reached: a run ends. Fires: it was unrecoverable.
    Unrecoverable = "a majority lost their disks", within 2000;
}

/// The counts of one run, or of many. Clones share them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, Count>", into = "BTreeMap<String, Count>")]
pub struct Coverage(Arc<Mutex<Vec<Count>>>);

impl From<Coverage> for BTreeMap<String, Count> {
    fn from(coverage: Coverage) -> Self {
        Site::ALL.iter().map(|site| (site.name().to_owned(), coverage.count(*site))).collect()
    }
}

/// Sites that this program does not know are left out.
impl From<BTreeMap<String, Count>> for Coverage {
    fn from(counts: BTreeMap<String, Count>) -> Self {
        let coverage = Self::default();
        for site in Site::ALL {
            coverage.add(*site, counts.get(site.name()).copied().unwrap_or_default());
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
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.resize(Site::ALL.len(), Count::default());
        let known = &mut counts[site as usize];
        known.reached += count.reached;
        known.fired += count.fired;
    }

    /// A site's counts.
    #[must_use]
    pub fn count(&self, site: Site) -> Count {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(site as usize).copied().unwrap_or_default()
    }

    /// Adds the counts of another run.
    pub fn merge(&self, other: &Self) {
        for site in Site::ALL {
            self.add(*site, other.count(*site));
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
}
