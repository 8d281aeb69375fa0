//! The bookkeeping record beside the store: what a reader of one key needs of it costs a few loads of a line that all readers
//! share, instead of a second look into the store.
//!
//! The version is odd as long as the store may hold what the numbers do not say. Who finds it even, and the same before and
//! after, has read what belongs together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use d_engine_core::{LogId, Result};

use crate::layout::Bookkeeping;

/// What the store's bookkeeping record says; never ahead of it. One at a time changes it.
#[derive(Debug)]
pub(crate) struct ShownBook {
    now: Mutex<Bookkeeping>,
    version: AtomicU64,
    term: AtomicU64,
    index: AtomicU64,
    revision: AtomicU64,
    keys: AtomicU64,
}

impl ShownBook {
    pub(crate) fn new(book: Bookkeeping) -> Self {
        let [version, term, index, revision, keys] = [const { AtomicU64::new(0) }; 5];
        let shown = Self { now: Mutex::new(book), version, term, index, revision, keys };
        shown.show(&book);
        shown
    }

    /// What it says, or said before a change that is under way.
    pub(crate) fn now(&self) -> Bookkeeping {
        *self.lock()
    }

    /// Lets `write` change the store, and then shows what its record says. After an error, or a panic, nobody reads
    /// [`beside`](ShownBook::beside) it until another change has succeeded: it is not known what the store holds.
    pub(crate) fn change(&self, write: impl FnOnce() -> Result<Bookkeeping>) -> Result<Bookkeeping> {
        // Before anything of the change can be seen in the store, whose own lock is between the two.
        let odd = self.version.load(Ordering::Relaxed) | 1;
        self.version.store(odd, Ordering::Release);
        let book = write()?;
        *self.lock() = book;
        self.show(&book);
        self.version.store(odd + 1, Ordering::Release);
        Ok(book)
    }

    /// Reads the store; `None`: it was changed meanwhile, and the two may not belong together.
    pub(crate) fn beside<T>(&self, read: impl FnOnce() -> Result<T>) -> Result<Option<(T, Bookkeeping)>> {
        let version = self.version.load(Ordering::Acquire);
        if version & 1 == 1 {
            return Ok(None);
        }
        let book = self.shown();
        let found = read()?;
        let same = self.version.load(Ordering::Acquire) == version;
        Ok(same.then_some((found, book)))
    }

    // Released and acquired, so that who sees a number of the next version sees that it has begun, too.
    fn show(&self, book: &Bookkeeping) {
        self.term.store(book.last_applied.term, Ordering::Release);
        self.index.store(book.last_applied.index, Ordering::Release);
        self.revision.store(book.revision, Ordering::Release);
        self.keys.store(book.keys, Ordering::Release);
    }

    fn shown(&self) -> Bookkeeping {
        let number = |number: &AtomicU64| number.load(Ordering::Acquire);
        let last_applied = LogId::new(number(&self.term), number(&self.index));
        Bookkeeping { last_applied, revision: number(&self.revision), keys: number(&self.keys) }
    }

    // A poisoned lock is used on: what it guards is replaced whole, after the store's write has returned.
    fn lock(&self) -> MutexGuard<'_, Bookkeeping> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use d_engine_core::Error;

    use super::*;

    fn book(n: u64) -> Bookkeeping {
        Bookkeeping { last_applied: LogId::new(n, n), revision: n, keys: n }
    }

    #[test]
    fn what_is_read_beside_it_belongs_to_it() {
        let (shown, store, done) = (ShownBook::new(book(0)), AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let read = || Ok(store.load(Ordering::Acquire));
                        if let Some((found, told)) = shown.beside(read).unwrap() {
                            assert_eq!(told, book(found));
                        }
                    }
                });
            }
            for n in 1..20_000 {
                let write = || {
                    store.store(n, Ordering::Release);
                    Ok(book(n))
                };
                shown.change(write).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(shown.beside(|| Ok(())).unwrap(), Some(((), book(19_999))));
    }

    #[test]
    fn after_a_failed_change_nothing_belongs_to_it_until_one_has_succeeded() {
        let shown = ShownBook::new(book(1));
        assert!(shown.change(|| Err(Error::backend("half of it is there"))).is_err());
        assert_eq!((shown.beside(|| Ok(())).unwrap(), shown.now()), (None, book(1)));
        shown.change(|| Ok(book(2))).unwrap();
        assert_eq!((shown.beside(|| Ok(())).unwrap(), shown.now()), (Some(((), book(2))), book(2)));
    }
}
