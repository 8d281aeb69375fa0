//! What has happened and may not be seen in any node any more: who led, and what committed.

use d_engine_core::Entry;

use super::forget::Numbering;
use super::store::Renumber;

/// What the laws remember.
#[derive(Debug, Clone)]
pub(super) struct History {
    /// The terms that had a leader.
    pub(super) led: Vec<u64>,
    /// The committed log, with the term of the node that first knew each entry committed.
    pub(super) chosen: Vec<(Entry, u64)>,
}

impl Renumber for History {
    fn renumber(&mut self, _names: &Numbering) {}
}
