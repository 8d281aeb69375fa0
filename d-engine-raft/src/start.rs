//! What a replica begins with, and the states of a directory that it refuses.

use d_engine_core::{HardState, LogId, LogSummary, Membership};

use crate::Config;

/// What survived the last run.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// The saved hard state; `None` on a new directory.
    pub hard_state: Option<HardState>,
    /// The shape of the log.
    pub log: LogSummary,
    /// The newest durable snapshot: its last entry, and the configuration as of it.
    pub snapshot: Option<(LogId, Membership)>,
    /// The state machine's last applied entry.
    pub last_applied: LogId,
}

impl Restored {
    /// Refuses states that no sequence of writes and crashes can leave: something was lost or replaced from outside.
    pub(crate) fn check(&self, config: &Config) -> Result<(), StartError> {
        if let Some(error) = config.errors().into_iter().next() {
            return Err(StartError::Config(error.to_string()));
        }
        let last = self.log.last;
        let identity = self.hard_state.and_then(|state| state.identity);
        let Some(identity) = identity else {
            if last.index > 0 {
                return Err(StartError::HardStateLost { last });
            }
            return self.check_state_machine();
        };
        if identity.node != config.node {
            return Err(StartError::OtherNode { found: identity.node, expected: config.node });
        }
        if identity.cluster == 0 && last.index > 0 && !self.is_interrupted_formation(config.node, identity.incarnation)
        {
            return Err(StartError::HardStateUnformed { last });
        }
        if let Some(cluster) = self.foreign_cluster(identity.cluster).filter(|_| identity.formed) {
            return Err(StartError::OtherCluster { log: cluster, hard_state: identity.cluster });
        }
        if identity.formed && last.index == 0 {
            return Err(StartError::LogLost { cluster: identity.cluster });
        }
        if identity.formed && self.log.memberships.is_empty() && self.snapshot.is_none() {
            return Err(StartError::NoMembership);
        }
        let term = self.hard_state.map_or(0, |state| state.term);
        if identity.formed && term < last.term {
            return Err(StartError::HardStateOld { term, last: last.term });
        }
        self.check_state_machine()
    }

    /// What a start has to do first about a received snapshot that is marked as being installed, `marked` being its last
    /// entry. The core has decided to install it only if hard state and term that it was received in are durable.
    pub fn resume(&self, marked: LogId) -> Resume {
        let term = self.hard_state.map_or(0, |state| state.term);
        let cluster = self.hard_state.and_then(|state| state.identity).map_or(0, |identity| identity.cluster);
        if self.last_applied.index >= marked.index {
            Resume::Purge
        } else if cluster != 0 && term >= marked.term {
            Resume::Install
        } else {
            Resume::Discard
        }
    }

    /// Whether the log is what a crash in the middle of a formation leaves: the first entry, which lists this directory.
    fn is_interrupted_formation(&self, node: u64, incarnation: u128) -> bool {
        let [(1, membership)] = &self.log.memberships[..] else { return false };
        self.log.last == LogId::new(1, 1) && membership.member(node).is_some_and(|m| m.incarnation == incarnation)
    }

    /// Another cluster that a membership in the log belongs to.
    fn foreign_cluster(&self, cluster: u128) -> Option<u128> {
        self.log.memberships.iter().map(|(_, membership)| membership.cluster).find(|other| *other != cluster)
    }

    /// Apply never passes the durable log, so a state machine ahead of it proves a lost log.
    fn check_state_machine(&self) -> Result<(), StartError> {
        let (applied, log) = (self.last_applied, &self.log);
        if applied.index > log.last.index {
            let found = format!("ends at {}", log.last);
            return Err(StartError::LogBehindState { applied, log: found });
        }
        let snapshot = self.snapshot.as_ref().map_or(LogId::default(), |(at, _)| *at);
        if snapshot.index < log.purged.index {
            return Err(StartError::SnapshotLost { purged: log.purged, snapshot });
        }
        if applied.index < log.purged.index {
            return Err(StartError::StateBehindLog { purged: log.purged, applied });
        }
        let run = log.runs.iter().rev().find(|run| run.index <= applied.index);
        let term = run.map_or(log.purged.term, |run| run.term);
        if applied.index > 0 && term != applied.term {
            let found = format!("has term {term} there");
            return Err(StartError::LogBehindState { applied, log: found });
        }
        Ok(())
    }
}

/// The first step that was not done of an installation that was interrupted. The steps after it follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Nothing depends on the snapshot yet: delete it; the leader sends another.
    Discard,
    /// Let the state machine install it, purge the log up to it, clear the mark.
    Install,
    /// The state machine has it or newer: purge the log up to it, clear the mark.
    Purge,
}

/// Random numbers of one start, from the operating system.
#[derive(Debug, Clone, Copy)]
pub struct Boot {
    /// Seed of election timeouts; also tells this start from earlier ones.
    pub seed: u64,
    /// Incarnation of the directory, if it is new.
    pub incarnation: u128,
    /// Id of the cluster, if this node founds it.
    pub cluster: u128,
}

/// What to do about a directory that is not whole.
const ADVICE: &str = "Nothing was changed. Do not put an older copy back: it may lack what this node has promised. The \
                      cluster goes on without this node while a majority of the others runs";

/// Why a directory cannot be started. Nothing has been changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The directory belongs to another node.
    #[error(
        "the data directory belongs to node {found}, but this node's id is {expected}; start it with --id {found}, or give it the directory of node {expected}"
    )]
    OtherNode {
        /// Id in the directory.
        found: u64,
        /// Id in the configuration.
        expected: u64,
    },
    /// There is a log but no hard state.
    #[error("the hard state is missing although the log holds entries up to {last}; the directory is incomplete: this node may have voted and forgotten it. {advice}", advice = ADVICE)]
    HardStateLost {
        /// Last entry of the log.
        last: LogId,
    },
    /// There is a log, and a hard state from before there was one.
    #[error("the hard state belongs to no cluster although the log holds entries up to {last}; an old hard state was put back: this node may have voted and forgotten it. {advice}", advice = ADVICE)]
    HardStateUnformed {
        /// Last entry of the log.
        last: LogId,
    },
    /// Log and hard state are of different clusters.
    #[error("the log belongs to cluster {log:032x}, but the hard state to cluster {hard_state:032x}; files of two directories were mixed. {advice}", advice = ADVICE)]
    OtherCluster {
        /// Cluster in the log.
        log: u128,
        /// Cluster in the hard state.
        hard_state: u128,
    },
    /// There is a formed hard state but no log.
    #[error("the log is missing although this node belongs to cluster {cluster:032x}; the directory is incomplete: entries it acknowledged are gone. {advice}", advice = ADVICE)]
    LogLost {
        /// Cluster in the hard state.
        cluster: u128,
    },
    /// The state machine is ahead of the log.
    #[error("the state machine has applied {applied}, but the log {log}; the log was lost or replaced. {advice}", advice = ADVICE)]
    LogBehindState {
        /// Last applied entry.
        applied: LogId,
        /// What the log holds instead.
        log: String,
    },
    /// The log begins after the state machine's state, and there is no snapshot.
    #[error("the log begins after {purged}, but the state machine has applied only {applied} and there is no snapshot between them. {advice}", advice = ADVICE)]
    StateBehindLog {
        /// Purge boundary of the log.
        purged: LogId,
        /// Last applied entry.
        applied: LogId,
    },
    /// The log begins after the newest snapshot: the configuration of the entries between them is lost.
    #[error("the log begins after {purged}, but the newest snapshot is of {snapshot}; a snapshot was removed or an older one put back. {advice}", advice = ADVICE)]
    SnapshotLost {
        /// Purge boundary of the log.
        purged: LogId,
        /// Last entry of the newest snapshot; the default if there is none.
        snapshot: LogId,
    },
    /// The hard state's term is older than the log's.
    #[error("the hard state is of term {term}, but the log holds entries of term {last}; an old hard state was put back. {advice}", advice = ADVICE)]
    HardStateOld {
        /// Term in the hard state.
        term: u64,
        /// Term of the last entry.
        last: u64,
    },
    /// The log holds no membership.
    #[error("the log holds no membership and there is no snapshot that has one; the directory is incomplete. {advice}", advice = ADVICE)]
    NoMembership,
    /// The configuration contradicts itself.
    #[error("{0}")]
    Config(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use d_engine_core::{ClusterSettings, Entry, EntryKind, Identity, Member, MemberKind, Membership};

    /// A directory of node 1 with incarnation 10 whose log has entries of these terms behind the formation entry.
    fn directory(hard_state: Option<HardState>, terms: &[u64]) -> Restored {
        let members = vec![Member::new(1, 10, "a:1", MemberKind::Voter)];
        let membership = Membership::new(7, members, ClusterSettings::new(500, 500, 1));
        let mut log = LogSummary::new(LogId::default());
        log.push(&Entry::new(1, 1, EntryKind::Membership, membership.encode())).unwrap();
        for (term, index) in terms.iter().zip(2..) {
            log.push(&Entry::new(index, *term, EntryKind::Command, b"x")).unwrap();
        }
        Restored { hard_state, log, ..Restored::default() }
    }

    fn refusal(restored: &Restored) -> StartError {
        restored.check(&Config::new(1, "a:1")).unwrap_err()
    }

    fn formed(term: u64, cluster: u128) -> Option<HardState> {
        Some(HardState::new(term, None, Some(Identity::unformed(1, 10).form(cluster))))
    }

    #[test]
    fn a_sound_directory_starts_and_so_does_an_interrupted_formation() {
        assert_eq!(directory(formed(3, 7), &[2, 3]).check(&Config::new(1, "a:1")), Ok(()));
        let unformed = Some(HardState::new(0, None, Some(Identity::unformed(1, 10))));
        assert_eq!(directory(unformed, &[]).check(&Config::new(1, "a:1")), Ok(()));
    }

    #[test]
    fn a_hard_state_that_is_missing_or_old_is_refused() {
        let last = LogId::new(3, 3);
        assert_eq!(refusal(&directory(None, &[2, 3])), StartError::HardStateLost { last });
        assert_eq!(refusal(&directory(formed(2, 7), &[2, 3])), StartError::HardStateOld { term: 2, last: 3 });
        let unformed = Some(HardState::new(0, None, Some(Identity::unformed(1, 10))));
        assert_eq!(refusal(&directory(unformed, &[2, 3])), StartError::HardStateUnformed { last });
        let stranger = Some(HardState::new(0, None, Some(Identity::unformed(1, 11))));
        assert_eq!(refusal(&directory(stranger, &[])), StartError::HardStateUnformed { last: LogId::new(1, 1) });
    }

    #[test]
    fn a_log_that_is_missing_or_of_another_cluster_is_refused() {
        let empty = Restored { hard_state: formed(3, 7), ..Restored::default() };
        assert_eq!(refusal(&empty), StartError::LogLost { cluster: 7 });
        assert_eq!(refusal(&directory(formed(3, 8), &[3])), StartError::OtherCluster { log: 7, hard_state: 8 });
    }

    #[test]
    fn applied_state_beyond_the_log_is_refused() {
        let ahead = Restored { last_applied: LogId::new(3, 9), ..directory(formed(3, 7), &[2, 3]) };
        assert!(matches!(refusal(&ahead), StartError::LogBehindState { .. }));
        let other = Restored { last_applied: LogId::new(1, 2), ..directory(formed(3, 7), &[2, 3]) };
        assert!(matches!(refusal(&other), StartError::LogBehindState { .. }));
    }
}
