//! Deliberate breaches of single rules. The simulator must find each of them; a rule whose breach is never found is not
//! tested. Without the feature `mutants` none can be switched on.

/// One rule to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Mutant {
    /// Break nothing.
    #[default]
    None,
    /// A vote is given before the hard state that says so is durable.
    VoteReplyBeforePersist,
    /// Entries are acknowledged before they are durable.
    AcknowledgeBeforePersist,
    /// The leader counts itself before its own disk has spoken.
    LeaderCountsUnpersisted,
    /// Entries of older terms commit by counting (Figure 8).
    CommitOldTermByCounting,
    /// Votes are given without comparing logs (§3.6.1).
    VoteWithoutLogCheck,
    /// Followers do not check the entry before the new ones.
    AppendWithoutConsistencyCheck,
    /// Followers acknowledge their own last index instead of the end of the message.
    AcknowledgeOwnLastIndex,
    /// Reads do not wait for a confirmation round.
    ReadWithoutRound,
    /// Reads are served before the leader's no-op has committed.
    ReadBeforeNoop,
    /// Acknowledgements held back for the disk go out although the term has changed.
    ReleaseHeldAcrossTerms,
    /// Completions of overwritten entries count for their replacements (the ABA of asynchronous appends).
    PersistedByIndexOnly,
}

impl Mutant {
    /// Every breach.
    pub const ALL: &'static [Self] = &[
        Self::VoteReplyBeforePersist,
        Self::AcknowledgeBeforePersist,
        Self::LeaderCountsUnpersisted,
        Self::CommitOldTermByCounting,
        Self::VoteWithoutLogCheck,
        Self::AppendWithoutConsistencyCheck,
        Self::AcknowledgeOwnLastIndex,
        Self::ReadWithoutRound,
        Self::ReadBeforeNoop,
        Self::ReleaseHeldAcrossTerms,
        Self::PersistedByIndexOnly,
    ];
}

impl crate::Config {
    /// Whether this rule is to be broken.
    #[cfg(feature = "mutants")]
    pub(crate) fn breaks(&self, mutant: Mutant) -> bool {
        self.mutant == mutant
    }

    /// Whether this rule is to be broken: never, in this build.
    #[cfg(not(feature = "mutants"))]
    pub(crate) const fn breaks(&self, _mutant: Mutant) -> bool {
        false
    }
}
