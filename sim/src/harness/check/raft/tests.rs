use std::collections::BTreeSet;

use openraft::vote::RaftLeaderId;
use yakt::metadata::{Change, Command, Timestamp};
use yakt::raft::observe::{Recovered, Stored};
use yakt::raft::{Leader, Payload, SharedCommand};

use super::*;

fn id(term: u64, index: u64) -> EntryId {
    EntryId { leader_id: Leader { term, voted_for: 1 }.to_committed(), index }
}

fn ballot(term: u64, node: u64) -> Ballot {
    Ballot::new(term, node)
}

fn entry(term: u64, index: u64, clock: u64) -> LogEntry {
    let clock = Timestamp::from_micros(clock);
    let command = Command { clock, idempotency: None, change: Change::Tick };
    LogEntry { log_id: id(term, index), payload: Payload::Normal(SharedCommand(command.into())) }
}

fn members(index: u64, voters: &[u64]) -> LogEntry {
    members_of((1, index), voters)
}

fn members_of((term, index): (u64, u64), voters: &[u64]) -> LogEntry {
    let peer = |name: &str| Peer {
        raft: name.to_owned(),
        http: name.to_owned(),
        directory: yakt::metadata::Uuid::nil(),
    };
    let nodes: BTreeMap<_, _> = voters.iter().map(|id| (*id, peer("n"))).collect();
    let set: BTreeSet<_> = voters.iter().copied().collect();
    let membership = openraft::Membership::new(vec![set], nodes).unwrap();
    LogEntry { log_id: id(term, index), payload: EntryPayload::Membership(membership) }
}

/// Three voters whose logs hold the membership and one entry, on the disks of `stored`.
fn cluster(stored: &[u64]) -> RaftCheck {
    let mut check = RaftCheck::default();
    for node in 1..=3 {
        check.appended(node, &[members(0, &[1, 2, 3]), entry(1, 1, 5)]).unwrap();
    }
    for node in stored {
        check.stored(*node, &[Stored::Entries(vec![id(1, 0), id(1, 1)])]).unwrap();
    }
    check
}

#[test]
fn a_leader_by_the_votes_of_too_few_is_caught() {
    let mut check = cluster(&[1, 2, 3]);
    let leads = Stored::Vote(Ballot::new_committed(4, 1));
    check.stored(1, &[Stored::Vote(ballot(4, 1))]).unwrap();
    let alone = check.clone().stored(1, std::slice::from_ref(&leads));
    assert!(alone.unwrap_err().starts_with("election safety"));
    // A learner's vote counts for nothing, a ballot for another neither.
    check.stored(7, &[Stored::Vote(ballot(4, 1))]).unwrap();
    check.stored(2, &[Stored::Vote(ballot(4, 2))]).unwrap();
    let still_alone = check.clone().stored(1, std::slice::from_ref(&leads));
    assert!(still_alone.unwrap_err().starts_with("election safety"));
    check.stored(3, &[Stored::Vote(ballot(4, 1))]).unwrap();
    assert_eq!(check.stored(1, &[leads]), Ok(()));
}

#[test]
fn a_snapshot_with_other_members_is_caught() {
    let mut check = cluster(&[1, 2]);
    check.committed_at(1, id(1, 1)).unwrap();
    let members = |index: u64, voters: &[u64]| {
        let EntryPayload::Membership(membership) = members(index, voters).payload else {
            unreachable!("it is one");
        };
        yakt::raft::Membership::new(Some(id(1, index)), membership)
    };
    let installed = |given: yakt::raft::Membership| check.installed_members(3, id(1, 1), &given);
    assert_eq!(installed(members(0, &[1, 2, 3])), Ok(()));
    assert!(installed(members(0, &[1, 2])).unwrap_err().starts_with("snapshot"));
    assert!(installed(members(1, &[1, 2, 3])).unwrap_err().starts_with("snapshot"));
    assert!(installed(yakt::raft::Membership::default()).unwrap_err().starts_with("snapshot"));
}

#[test]
fn a_healthy_history_passes() {
    let mut check = cluster(&[1, 2]);
    check.stored(1, &[Stored::Vote(ballot(1, 1))]).unwrap();
    check.vote_answered(1, ballot(1, 1), true).unwrap();
    check.leads(1, 1).unwrap();
    check.committed_at(1, id(1, 1)).unwrap();
    check.applied(1, id(1, 0)).unwrap();
    check.applied(1, id(1, 1)).unwrap();
    check.stored(1, &[Stored::Snapshot(Some(id(1, 1)))]).unwrap();
    check.purged(1, id(1, 0)).unwrap();
    check.leads(2, 2).unwrap();
}

#[test]
fn an_older_snapshot_over_a_newer_one_is_caught() {
    let mut check = cluster(&[1]);
    check.stored(1, &[Stored::Snapshot(Some(id(1, 1)))]).unwrap();
    let older = check.stored(1, &[Stored::Snapshot(Some(id(1, 0)))]);
    assert!(older.unwrap_err().starts_with("monotony"));
}

#[test]
fn two_leaders_of_one_term_are_caught() {
    let mut check = RaftCheck::default();
    assert_eq!(check.leads(1, 7), Ok(true));
    assert_eq!(check.leads(1, 7), Ok(false));
    assert!(check.leads(3, 7).unwrap_err().starts_with("election safety"));
}

#[test]
fn a_commit_without_a_majority_on_disk_is_caught() {
    assert!(cluster(&[1]).committed_at(1, id(1, 1)).unwrap_err().starts_with("commitment"));
    assert_eq!(cluster(&[1, 3]).committed_at(1, id(1, 1)), Ok(()));
}

#[test]
fn a_commit_beyond_the_log_is_caught() {
    let mut check = cluster(&[1, 2]);
    let beyond = check.clone().committed_at(1, id(1, 2));
    assert!(beyond.unwrap_err().starts_with("order"));
    check.committed_at(1, id(1, 1)).unwrap();
    // Node 9 has none of it, although others committed it.
    assert!(check.committed_at(9, id(1, 1)).unwrap_err().starts_with("order"));
}

#[test]
fn a_membership_that_was_never_committed_has_no_voters() {
    let mut check = cluster(&[1, 3]);
    // Node 2 leads term 2 alone, and appends a membership that nobody else gets.
    let alone = members_of((2, 2), &[2]);
    check.truncated(2, 1).unwrap();
    check.appended(2, &[entry(2, 1, 6), alone]).unwrap();
    check.stored(2, &[Stored::Entries(vec![id(2, 1), id(2, 2)])]).unwrap();
    // Node 1 leads term 3, in which what nodes 1 and 3 have is enough, and what node 1 has is not.
    for node in [1, 3] {
        check.appended(node, &[entry(1, 2, 7), entry(3, 3, 8)]).unwrap();
    }
    check.stored(1, &[Stored::Entries(vec![id(1, 2), id(3, 3)])]).unwrap();
    assert!(check.clone().committed_at(1, id(3, 3)).unwrap_err().starts_with("commitment"));
    check.stored(3, &[Stored::Entries(vec![id(1, 2), id(3, 3)])]).unwrap();
    assert_eq!(check.committed_at(1, id(3, 3)), Ok(()));
}

#[test]
fn a_lost_disk_counts_for_what_it_had_until_its_successor_stores() {
    let mut check = cluster(&[1, 3]);
    check.disk_lost(3);
    assert_eq!(check.clone().committed_at(1, id(1, 1)), Ok(()));
    check.appended(3, &[members(0, &[1, 2, 3])]).unwrap();
    check.stored(3, &[Stored::Entries(vec![id(1, 0)])]).unwrap();
    assert!(check.committed_at(1, id(1, 1)).unwrap_err().starts_with("commitment"));
}

#[test]
fn two_entries_of_one_name_are_caught() {
    let mut check = cluster(&[]);
    let other =
        check.appended(1, &[entry(1, 2, 6)]).and_then(|()| check.appended(2, &[entry(1, 2, 7)]));
    assert!(other.unwrap_err().starts_with("log matching"));
}

#[test]
fn a_hole_in_a_log_is_caught() {
    assert!(cluster(&[]).appended(1, &[entry(1, 3, 6)]).unwrap_err().starts_with("log matching"));
}

#[test]
fn a_leader_without_what_was_committed_is_caught() {
    let mut check = cluster(&[1, 2]);
    check.stored(1, &[Stored::Vote(ballot(1, 1))]).unwrap();
    check.committed_at(1, id(1, 1)).unwrap();
    check.disk_lost(3);
    assert!(check.leads(3, 2).unwrap_err().starts_with("leader completeness"));
}

#[test]
fn truncating_or_replacing_what_was_committed_is_caught() {
    let mut check = cluster(&[1, 2]);
    check.committed_at(1, id(1, 1)).unwrap();
    let mut other = check.clone();
    assert!(check.truncated(2, 1).unwrap_err().starts_with("immutability"));
    assert!(other.committed_at(3, id(2, 1)).unwrap_err().starts_with("immutability"));
}

#[test]
fn what_was_committed_gives_way_to_a_snapshot_and_to_nothing_else() {
    let mut check = cluster(&[1, 2]);
    check.committed_at(1, id(1, 1)).unwrap();

    let mut knows = check.clone();
    assert!(knows.truncated(1, 1).unwrap_err().starts_with("immutability"));

    check.truncated(3, 1).unwrap();
    let mut without = check.clone();
    let instead = without.appended(3, &[entry(1, 1, 5)]);
    assert!(instead.unwrap_err().starts_with("immutability"));

    assert!(check.owes_nothing(3).unwrap_err().starts_with("immutability"));
    assert!(check.clone().leads(3, 7).unwrap_err().starts_with("immutability"));
    check.stored(3, &[Stored::Snapshot(Some(id(1, 1)))]).unwrap();
    check.installed(3, id(1, 1)).unwrap();
    check.owes_nothing(3).unwrap();
    check.purged(3, id(1, 1)).unwrap();
    check.appended(3, &[entry(1, 2, 6)]).unwrap();
}

#[test]
fn a_committed_entry_that_is_gone_after_a_crash_is_excused_while_it_was_giving_way() {
    let mut check = cluster(&[1, 2, 3]);
    check.committed_at(1, id(1, 1)).unwrap();
    let short = Recovered { entries: vec![members(0, &[1, 2, 3])], ..Recovered::default() };
    assert!(check.clone().recovered(3, &short).unwrap_err().starts_with("durability"));
    check.truncated(3, 1).unwrap();
    assert_eq!(check.recovered(3, &short), Ok(()));
}

#[test]
fn a_forgotten_vote_log_or_snapshot_is_caught() {
    let mut check = cluster(&[1, 2]);
    check.stored(1, &[Stored::Vote(ballot(3, 1))]).unwrap();
    let whole = Recovered {
        vote: Some(ballot(3, 1)),
        entries: vec![members(0, &[1, 2, 3]), entry(1, 1, 5)],
        ..Recovered::default()
    };
    assert_eq!(check.clone().recovered(1, &whole), Ok(()));
    let votes = Recovered { vote: Some(ballot(2, 1)), ..whole.clone() };
    assert!(check.clone().recovered(1, &votes).unwrap_err().starts_with("durability"));
    check.committed_at(1, id(1, 1)).unwrap();
    let short = Recovered { entries: vec![members(0, &[1, 2, 3])], ..whole };
    assert!(check.recovered(1, &short).unwrap_err().starts_with("durability"));
}

#[test]
fn a_vote_that_is_answered_before_it_is_saved_is_caught() {
    let mut check = cluster(&[]);
    assert!(check.vote_answered(2, ballot(4, 1), true).unwrap_err().starts_with("durability"));
    assert_eq!(check.vote_answered(2, ballot(4, 1), false), Ok(()));
}

#[test]
fn two_votes_in_one_term_are_caught() {
    let mut check = cluster(&[]);
    check.stored(2, &[Stored::Vote(ballot(4, 1))]).unwrap();
    assert!(check.stored(2, &[Stored::Vote(ballot(4, 3))]).is_err());
    assert!(check.stored(2, &[Stored::Vote(ballot(3, 1))]).unwrap_err().starts_with("monotony"));
}

#[test]
fn steps_out_of_order_are_caught() {
    let mut check = cluster(&[1, 2]);
    assert!(check.clone().applied(1, id(1, 1)).unwrap_err().starts_with("order"));
    check.committed_at(1, id(1, 1)).unwrap();
    assert!(check.clone().purged(1, id(1, 0)).unwrap_err().starts_with("order"));
    assert!(check.clone().installed(1, id(1, 1)).unwrap_err().starts_with("order"));
    check.applied(1, id(1, 1)).unwrap();
    assert!(check.applied(1, id(1, 1)).unwrap_err().starts_with("monotony"));
}

#[test]
fn an_applied_entry_that_is_not_in_the_log_or_not_what_was_committed_is_caught() {
    let mut check = cluster(&[1, 2]);
    // Node 3 gives way to what a later leader sends it, before anybody learns that the rest is committed.
    check.truncated(3, 1).unwrap();
    check.appended(3, &[entry(2, 1, 6)]).unwrap();
    check.committed_at(1, id(1, 1)).unwrap();
    check.applied(1, id(1, 0)).unwrap();
    let other = check.clone().applied(1, id(2, 1)).unwrap_err();
    assert!(other.starts_with("order") && other.contains("not in its log"), "{other}");
    // It starts again, and holds its own entry for committed.
    let found = Recovered {
        committed: Some(id(2, 1)),
        entries: vec![members(0, &[1, 2, 3]), entry(2, 1, 6)],
        ..Recovered::default()
    };
    check.recovered(3, &found).unwrap();
    check.applied(3, id(1, 0)).unwrap();
    assert!(check.applied(3, id(2, 1)).unwrap_err().starts_with("immutability"));
}

#[test]
fn applying_or_installing_what_nobody_has_committed_is_caught() {
    let mut check = cluster(&[1, 2]);
    let found = Recovered {
        committed: Some(id(1, 1)),
        entries: vec![members(0, &[1, 2, 3]), entry(1, 1, 5)],
        ..Recovered::default()
    };
    check.recovered(1, &found).unwrap();
    let applied = check.applied(1, id(1, 0)).unwrap_err();
    assert!(applied.starts_with("order") && applied.contains("nobody"), "{applied}");
    check.stored(2, &[Stored::Snapshot(Some(id(1, 1)))]).unwrap();
    let installed = check.installed(2, id(1, 1)).unwrap_err();
    assert!(installed.starts_with("order") && installed.contains("nobody"), "{installed}");
}

#[test]
fn a_snapshot_that_takes_a_node_back_or_elsewhere_is_caught() {
    let mut check = cluster(&[1, 2]);
    check.committed_at(1, id(1, 1)).unwrap();
    check.stored(3, &[Stored::Snapshot(Some(id(2, 1)))]).unwrap();
    assert!(check.installed(3, id(2, 1)).unwrap_err().starts_with("immutability"));
    check.applied(1, id(1, 0)).unwrap();
    check.applied(1, id(1, 1)).unwrap();
    check.stored(1, &[Stored::Snapshot(Some(id(1, 0)))]).unwrap();
    assert!(check.installed(1, id(1, 0)).unwrap_err().starts_with("monotony"));
}

#[test]
fn a_commit_index_that_goes_back_is_caught() {
    let mut check = cluster(&[1, 2]);
    check.committed_at(1, id(1, 1)).unwrap();
    assert!(check.committed_at(1, id(1, 0)).unwrap_err().starts_with("monotony"));
}

#[test]
fn a_snapshot_that_is_gone_after_a_restart_is_caught() {
    let mut check = cluster(&[1, 2]);
    check.stored(1, &[Stored::Snapshot(Some(id(1, 1)))]).unwrap();
    let found =
        Recovered { entries: vec![members(0, &[1, 2, 3]), entry(1, 1, 5)], ..Recovered::default() };
    let lost = check.clone().recovered(1, &found).unwrap_err();
    assert!(lost.starts_with("durability") && lost.contains("snapshot"), "{lost}");
    let found = Recovered { snapshot: Some(id(1, 1)), ..found };
    assert_eq!(check.recovered(1, &found), Ok(()));
}

#[test]
fn a_removed_entry_that_is_back_after_a_restart_is_caught() {
    let mut check = cluster(&[1, 2, 3]);
    for node in 1..=3 {
        check.truncated(node, 1).unwrap();
        check.appended(node, &[entry(2, 1, 6)]).unwrap();
        check.stored(node, &[Stored::TruncatedFrom(1)]).unwrap();
    }
    for node in [1, 2] {
        check.stored(node, &[Stored::Entries(vec![id(2, 1)])]).unwrap();
    }
    let found =
        Recovered { entries: vec![members(0, &[1, 2, 3]), entry(1, 1, 5)], ..Recovered::default() };
    // Until something else is committed there, it does no harm.
    assert_eq!(check.clone().recovered(3, &found), Ok(()));
    check.committed_at(1, id(2, 1)).unwrap();
    let back = check.recovered(3, &found).unwrap_err();
    assert!(back.starts_with("durability") && back.contains("had removed"), "{back}");
}

#[test]
fn two_entries_before_one_are_caught() {
    let mut check = cluster(&[]);
    check.appended(1, &[entry(3, 2, 7)]).unwrap();
    check.truncated(2, 1).unwrap();
    check.appended(2, &[entry(2, 1, 6)]).unwrap();
    let other = check.appended(2, &[entry(3, 2, 7)]).unwrap_err();
    assert!(other.starts_with("log matching: before"), "{other}");
}

/// What has become of the disks of a cluster of three, whose log is committed.
fn lost(check: &RaftCheck, rotten: &[u64], replaced: &[u64]) -> bool {
    check.is_unrecoverable(&rotten.iter().copied().collect(), &replaced.iter().copied().collect())
}

#[test]
fn a_replaced_disk_is_lost_until_its_successor_holds_a_log() {
    let mut check = cluster(&[1, 2, 3]);
    check.committed_at(1, id(1, 1)).unwrap();
    for node in [2, 3] {
        check.disk_lost(node);
        check.recovered(node, &Recovered::default()).unwrap();
    }
    assert!(!lost(&check, &[], &[3]));
    assert!(lost(&check, &[], &[2, 3]));
    assert!(lost(&check, &[1], &[3]), "a rotten log is no log");
    // Node 3 was removed without its operator's hearing of it, and is a voter on its new disk.
    check.appended(3, &[members(0, &[1, 2, 3])]).unwrap();
    assert!(lost(&check, &[], &[2, 3]), "what is only in memory is no log either");
    check.stored(3, &[Stored::Entries(vec![id(1, 0)])]).unwrap();
    assert!(!lost(&check, &[], &[2, 3]));
}

#[test]
fn a_membership_that_can_be_committed_no_more_excuses_nobody() {
    let mut check = cluster(&[1, 2, 3]);
    // Node 3 leads term 2 and appends a membership of its own, which may still be committed.
    check.appended(3, &[entry(2, 2, 6), members_of((2, 3), &[2, 3])]).unwrap();
    check.committed_at(1, id(1, 1)).unwrap();
    assert!(lost(&check, &[2], &[]), "{:?}", check.voters());
    // Then the others go on without it in term 3.
    for node in [1, 2] {
        check.appended(node, &[entry(3, 2, 7)]).unwrap();
        check.stored(node, &[Stored::Entries(vec![id(3, 2)])]).unwrap();
    }
    check.committed_at(1, id(3, 2)).unwrap();
    assert!(!lost(&check, &[2], &[]), "{:?}", check.voters());
}
