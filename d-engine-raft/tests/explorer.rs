//! The exhaustive check finds what breaks, says whether it has looked at everything, and takes names for what they are.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use d_engine_raft::Mutant;
use d_engine_raft::explorer::{Bounds, Counterexample, Outcome, explore};

/// An election, a no-op and everything a disk can do about them.
fn small() -> Bounds {
    Bounds { terms: 1, entries: 0, ..Bounds::default() }
}

fn search(bounds: &Bounds) -> Outcome {
    let outcome = explore(bounds, |_| {}).unwrap();
    println!("{bounds}: {:?}", outcome.progress);
    outcome
}

fn exhaust(bounds: &Bounds) -> usize {
    let outcome = search(bounds);
    if let Some(counterexample) = outcome.counterexample {
        panic!("\n{counterexample}");
    }
    assert!(outcome.is_exhausted, "{bounds} were to be exhausted");
    outcome.progress.states
}

#[test]
fn no_law_breaks_in_any_state_of_small_scopes() {
    exhaust(&small());
    exhaust(&Bounds { crashes: 1, ..small() });
    exhaust(&Bounds { entries: 1, duplicates: 1, lagging: 0, ..small() });
    exhaust(&Bounds { terms: 2, entries: 0, lagging: 0, ..small() });
}

#[test]
fn a_search_that_stops_early_does_not_say_that_it_was_exhaustive() {
    let outcome = search(&Bounds { states: 100, ..small() });
    assert!(!outcome.is_exhausted && outcome.counterexample.is_none());
    assert!(outcome.progress.states >= 100);
}

/// No numbering makes a difference: there are at most as many states as numberings for each that is kept, and no fewer than
/// the kept ones; and both searches go equally deep.
#[test]
fn states_that_differ_by_names_only_are_one() {
    let (with, without) = (search(&small()), search(&Bounds { symmetry: false, ..small() }));
    assert!(with.is_exhausted && without.is_exhausted);
    assert_eq!(with.progress.depth, without.progress.depth);
    let (kept, all) = (with.progress.states, without.progress.states);
    assert!(kept < all && all <= 6 * kept, "{kept} states stand for {all}");
    assert!(all > 5 * kept, "{kept} states stand for {all}: most of them have six names");
}

#[test]
fn the_same_search_meets_the_same_states() {
    assert_eq!(search(&small()).progress, search(&small()).progress);
}

fn counterexample(mutant: Mutant, bounds: Bounds) -> Counterexample {
    let outcome = search(&Bounds { mutant, strict: false, ..bounds });
    let counterexample = outcome.counterexample.unwrap_or_else(|| panic!("{mutant:?} is not found"));
    println!("{mutant:?}\n{counterexample}\n");
    counterexample
}

#[test]
fn a_vote_forgotten_at_a_start_is_found_in_three_steps() {
    let found = counterexample(Mutant::VoteForgottenAtStart, Bounds { crashes: 1, ..small() });
    assert_eq!(found.property, "Term And Vote Never Go Back");
    assert!(found.steps.len() <= 4, "{found}");
}

#[test]
fn refused_votes_that_count_elect_two_leaders() {
    let found = counterexample(Mutant::RefusedVoteCounts, small());
    assert_eq!(found.property, "Election Safety");
    assert!(found.steps.len() <= 6, "{found}");
    assert!(found.steps[0].contains("campaigns"), "{found}");
}

#[test]
fn a_vote_told_before_it_is_on_disk_elects_two_leaders_after_a_crash() {
    let found = counterexample(Mutant::VoteReplyBeforePersist, Bounds { crashes: 1, ..small() });
    assert_eq!(found.property, "Election Safety");
    assert!(found.steps.iter().any(|step| step.contains("CRASHED")), "{found}");
    assert!(found.steps.len() <= 8, "{found}");
}

#[test]
fn votes_without_a_comparison_of_logs_elect_a_leader_that_lacks_what_is_committed() {
    let found = counterexample(Mutant::VoteWithoutLogCheck, Bounds { terms: 2, lagging: 0, ..small() });
    assert_eq!(found.property, "Leader Completeness");
    assert!(found.steps.len() <= 12, "{found}");
}

#[test]
fn a_leader_that_counts_itself_before_its_disk_commits_without_a_quorum() {
    let found = counterexample(Mutant::LeaderCountsUnpersisted, small());
    assert_eq!(found.property, "Commits Need A Durable Quorum");
    assert!(found.steps.len() <= 12, "{found}");
}

#[test]
fn entries_acknowledged_before_they_are_on_disk_commit_without_a_quorum() {
    let found = counterexample(Mutant::AcknowledgeBeforePersist, small());
    assert_eq!(found.property, "Commits Need A Durable Quorum");
    assert!(found.steps.len() <= 12, "{found}");
}
