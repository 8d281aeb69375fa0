//! Which fault the toys have: that of the thread, or in a process started by the suite, that of its environment.

use std::cell::Cell;

pub(crate) const VARIABLE: &str = "D_ENGINE_TOY_FAULT";

macro_rules! faults {
    ($($fault:ident)*) => {
        /// What a toy does wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Fault {
            None,
            $($fault,)*
        }

        impl Fault {
            pub(crate) fn name(self) -> String {
                format!("{self:?}")
            }

            fn named(name: &str) -> Self {
                $( if name == stringify!($fault) { return Self::$fault; } )*
                Self::None
            }
        }
    };
}

faults! {
    FlushDoesNotSync
    FlushKeepsSomeInMemory
    OpenShowsWhatIsNotDurable
    TornTailIsKept
    TornTailIsRefused
    DamageIsTakenForATornTail
    FailedSyncIsRetried
    FailureIsForgotten
    SecondOpenIsAllowed
    FullDiskPoisons
    PurgeGivesNothingBack
    PurgeBoundaryIsForgotten
    LastIndexIsWrongAfterAPurge
    TruncateIsNotWritten
    ReplaceLeavesAStaleSuffix
    BatchIsWrittenInHalves
    ResetWipesTheVote
    VoteIsNotSynced
    UnreadableVoteIsNone
    ReplaceAllIsNotAtomic
    EmptyValueIsLost
    MarkerIsApartFromTheData
    SnapshotTakesAnyLabel
    FailedSaveOfTheVoteIsRepeated
}

thread_local! {
    static FAULT: Cell<Fault> = const { Cell::new(Fault::None) };
}

/// The toys of this thread have this fault from now on.
pub(crate) fn set(fault: Fault) {
    FAULT.set(fault);
}

/// Whether the toys have this fault.
pub(crate) fn is(fault: Fault) -> bool {
    let of_process = std::env::var(VARIABLE).map_or(Fault::None, |name| Fault::named(&name));
    [FAULT.get(), of_process].contains(&fault)
}
