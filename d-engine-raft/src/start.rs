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
    /// The storage forgets at each restart.
    pub volatile: bool,
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

    /// Apply never passes the durable log, so a state machine ahead of it proves a lost log.
    fn check_state_machine(&self) -> Result<(), StartError> {
        let (applied, log) = (self.last_applied, &self.log);
        if applied.index > log.last.index {
            let found = format!("ends at {}", log.last);
            return Err(StartError::LogBehindState { applied, log: found });
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

/// Why a directory cannot be started. Nothing has been changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The directory belongs to another node.
    #[error(
        "the data directory belongs to node {found}, but this node's id is {expected}; start it with --id {found} or choose another directory"
    )]
    OtherNode {
        /// Id in the directory.
        found: u64,
        /// Id in the configuration.
        expected: u64,
    },
    /// There is a log but no hard state.
    #[error(
        "the hard state is missing although the log holds entries up to {last}; the directory is incomplete: this node may have voted and forgotten it. Restore the missing file, or wipe the directory and rejoin as a new member"
    )]
    HardStateLost {
        /// Last entry of the log.
        last: LogId,
    },
    /// There is a formed hard state but no log.
    #[error(
        "the log is missing although this node belongs to cluster {cluster:032x}; the directory is incomplete: entries it acknowledged are gone. Restore the missing files, or wipe the directory and rejoin as a new member"
    )]
    LogLost {
        /// Cluster in the hard state.
        cluster: u128,
    },
    /// The state machine is ahead of the log.
    #[error(
        "the state machine has applied {applied}, but the log {log}; the log was lost or replaced. Restore it, or wipe the directory and rejoin as a new member"
    )]
    LogBehindState {
        /// Last applied entry.
        applied: LogId,
        /// What the log holds instead.
        log: String,
    },
    /// The log begins after the state machine's state, and there is no snapshot.
    #[error(
        "the log begins after {purged}, but the state machine has applied only {applied} and there is no snapshot between them. Restore the state machine's directory or a snapshot, or wipe the directory and rejoin as a new member"
    )]
    StateBehindLog {
        /// Purge boundary of the log.
        purged: LogId,
        /// Last applied entry.
        applied: LogId,
    },
    /// The hard state's term is older than the log's.
    #[error(
        "the hard state is of term {term}, but the log holds entries of term {last}; an old hard state was put back. Restore the newer one, or wipe the directory and rejoin as a new member"
    )]
    HardStateOld {
        /// Term in the hard state.
        term: u64,
        /// Term of the last entry.
        last: u64,
    },
    /// The log holds no membership.
    #[error(
        "the log holds no membership and there is no snapshot that has one; the directory is incomplete. Wipe it and rejoin as a new member"
    )]
    NoMembership,
    /// The configuration contradicts itself.
    #[error("{0}")]
    Config(String),
}
