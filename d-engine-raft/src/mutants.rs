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
    /// A joint configuration decides by its new half alone (§4.3).
    JointUsesOneMajority,
    /// C_new is appended before the joint configuration has committed (§4.3).
    LeaveJointBeforeCommitted,
    /// Changes begin before the leader has committed in its term (the bug of 2015).
    ChangeBeforeOwnTermCommit,
    /// Changes begin before the one before them has committed.
    ChangeFromUncommittedConfig,
    /// A configuration stays in force although its entry was truncated.
    MembershipNotRolledBack,
    /// An installed snapshot does not bring its configuration.
    SnapshotKeepsOldMembership,
    /// The log is purged up to what is applied, not to what the snapshot holds.
    PurgeBeyondSnapshot,
    /// The log is purged before the state machine has installed the snapshot.
    InstallPurgesBeforeMachine,
    /// A snapshot is installed before the term it came in is durable.
    InstallBeforeHardState,
    /// Another data directory under the same id inherits what its predecessor acknowledged.
    ProgressSurvivesReplacement,
    /// Answers of data directories that the membership does not name are counted.
    CountStrangerIncarnation,
    /// A node whose removal may not have committed does not campaign (§4.2.2).
    RemovedNeverCampaigns,
    /// The lease counts from the confirmation, not from the sending, of a round.
    LeaseFromConfirmation,
    /// A leader that told another one to campaign keeps its lease.
    LeaseSurvivesTransfer,
    /// Voters that hear a leader grant votes to others (§4.2.3).
    NoStickiness,
    /// A voter that has just started does not count as having heard a leader.
    VoteAtStartInsideLease,
    /// Followers commit up to the leader's commit index although their log may differ behind the message.
    CommitBeyondMessageEnd,
    /// Entries are applied before they are durable here.
    ApplyBeforePersisted,
    /// A vote is given when its term is durable; the vote itself follows.
    TermAndVoteSavedApart,
    /// A rejection with a hint counts as an acknowledgement of the hint.
    RejectionMovesMatch,
    /// Reads join the confirmation round that is under way.
    ReadJoinsRoundUnderWay,
    /// Entries of leaders of older terms are accepted.
    AcceptStaleTerm,
    /// A directory that is no member joins although the cluster has another one under its id.
    StrangerAcceptsWelcome,
    /// Promises leave while a write that was made before them waits for space.
    PromisesOvertakeFullDisk,
    /// A leader that nobody answers goes on leading (§6.2).
    NoCheckQuorum,
    /// A leader that hands over takes proposals (§3.10).
    TransferTakesProposals,
    /// A rejection's hint moves the next entry to send below what matches.
    HintMovesNextBelowMatch,
    /// Answers of older replication streams move progress.
    OldSessionsCount,
    /// Answers to read questions of an earlier life are taken for answers to those of this one.
    ForeignNonceCounts,
    /// Learners count as voters (§4.2.1).
    LearnersCount,
    /// Followers drop what lies behind the end of a message.
    TruncateWithoutConflict,
    /// A start forgets whom the node voted for.
    VoteForgottenAtStart,
    /// Refused votes are counted like granted ones.
    RefusedVoteCounts,
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
        Self::JointUsesOneMajority,
        Self::LeaveJointBeforeCommitted,
        Self::ChangeBeforeOwnTermCommit,
        Self::ChangeFromUncommittedConfig,
        Self::MembershipNotRolledBack,
        Self::SnapshotKeepsOldMembership,
        Self::PurgeBeyondSnapshot,
        Self::InstallPurgesBeforeMachine,
        Self::InstallBeforeHardState,
        Self::ProgressSurvivesReplacement,
        Self::CountStrangerIncarnation,
        Self::RemovedNeverCampaigns,
        Self::LeaseFromConfirmation,
        Self::LeaseSurvivesTransfer,
        Self::NoStickiness,
        Self::VoteAtStartInsideLease,
        Self::CommitBeyondMessageEnd,
        Self::ApplyBeforePersisted,
        Self::TermAndVoteSavedApart,
        Self::RejectionMovesMatch,
        Self::ReadJoinsRoundUnderWay,
        Self::AcceptStaleTerm,
        Self::StrangerAcceptsWelcome,
        Self::PromisesOvertakeFullDisk,
        Self::NoCheckQuorum,
        Self::TransferTakesProposals,
        Self::HintMovesNextBelowMatch,
        Self::OldSessionsCount,
        Self::ForeignNonceCounts,
        Self::LearnersCount,
        Self::TruncateWithoutConflict,
        Self::VoteForgottenAtStart,
        Self::RefusedVoteCounts,
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
