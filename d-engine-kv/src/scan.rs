//! Walking through a part of the store without holding it in memory.

use bytes::Bytes;
use d_engine_core::{Direction, KvView, Result};

use crate::layout::{StoreRange, user_key};
use crate::record::Record;

/// Walks a range in steps that are bounded in number and, by what the last step has shown, in bytes: a step of large
/// values would otherwise fill the memory.
pub(crate) struct Scan<'a> {
    view: &'a dyn KvView,
    range: StoreRange,
    direction: Direction,
    step: usize,
    /// How many pairs the caller may still ask for.
    wanted: usize,
    pending: std::vec::IntoIter<(Bytes, Bytes)>,
    last: Option<Bytes>,
    ended: bool,
}

impl<'a> Scan<'a> {
    const FIRST_STEP: usize = 16;
    const LARGEST_STEP: usize = 1_024;
    const STEP_BYTES: usize = 256 * 1024;

    /// A walk of at most `wanted` pairs.
    pub(crate) fn new(view: &'a dyn KvView, range: StoreRange, direction: Direction, wanted: usize) -> Self {
        let ended = range.behind(None, direction).is_empty();
        let pending = Vec::new().into_iter();
        Self { view, range, direction, step: Self::FIRST_STEP, wanted, pending, last: None, ended }
    }

    /// The next user key and its record.
    pub(crate) fn next(&mut self) -> Result<Option<(Bytes, Record)>> {
        let Some((key, value)) = self.next_pair()? else {
            return Ok(None);
        };
        Ok(Some((user_key(&key), Record::decode(value)?)))
    }

    /// The next pair as the store holds it.
    pub(crate) fn next_pair(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        if self.pending.len() == 0 && !self.ended {
            self.fetch()?;
        }
        Ok(self.pending.next())
    }

    fn fetch(&mut self) -> Result<()> {
        let limit = self.step.min(self.wanted);
        let range = self.range.behind(self.last.as_ref(), self.direction);
        let pairs =
            if limit == 0 || range.is_empty() { Vec::new() } else { self.view.scan(range, limit, self.direction)? };
        self.ended = pairs.len() < limit || limit == 0;
        self.wanted -= pairs.len().min(self.wanted);
        let bytes: usize = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.step = if bytes < Self::STEP_BYTES { self.step * 4 } else { self.step / 4 }.clamp(1, Self::LARGEST_STEP);
        if let Some((key, _)) = pairs.last() {
            self.last = Some(key.clone());
        }
        self.pending = pairs.into_iter();
        Ok(())
    }
}
