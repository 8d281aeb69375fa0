//! Sessions: writes that are repeated until their fate is known, and applied once.
//!
//! Every write gets a number of the session. However often it is sent, the machine applies it once and gives every repetition
//! the first answer; so what an attempt without an answer left open, the next attempt settles.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use d_engine_core::command::{KvWatch, SessionHeader};
use d_engine_core::{KvAnswer, KvCommand, KvOutcome, KvQuery, KvRequest, LogId};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use super::{KeyValue, KvCalls, WatchStream, half_way_to, unreadable};
use crate::peer::lock;
use crate::{ClientError, ReadMode, Reason, Result};

/// Between two attempts of one write.
const PAUSE: Duration = Duration::from_millis(20);

/// A session of its own. It has every call of [`KeyValue`]; its writes are repeated until their fate is known or the time for
/// one call is over, and applied once. Clones share it.
///
/// A session ends with [`close`](Session::close), or when there are too many and it is the least recently used: then its calls
/// answer `Rejected` with `SessionExpired`. Dropping it leaves it to that.
#[derive(Clone, Debug)]
pub struct Session {
    key_value: KeyValue,
    id: u64,
}

impl Session {
    pub(super) async fn open(calls: Arc<dyn KvCalls>) -> Result<Self> {
        let sessions = SessionCalls::new(calls, false);
        let deadline = Instant::now() + sessions.timeout();
        match sessions.opened(deadline).await? {
            Some(open) => Ok(Self { id: open.id, key_value: KeyValue::new(Arc::new(sessions)) }),
            None => Err(Reason::Unsupported { why: "the asked state machine has no sessions".to_owned() }.into()),
        }
    }

    /// Its id: the index of the entry that opened it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Ends it.
    pub async fn close(self) -> Result<()> {
        match self.key_value.propose(KvCommand::SessionClose { session: self.id }).await? {
            (_, KvOutcome::SessionClosed { .. }) => Ok(()),
            (_, other) => Err(unreadable(&other)),
        }
    }
}

/// A session is the key-value store, with other writes.
impl Deref for Session {
    type Target = KeyValue;

    fn deref(&self) -> &KeyValue {
        &self.key_value
    }
}

/// Puts the session into every write that passes.
pub(crate) struct SessionCalls {
    inner: Arc<dyn KvCalls>,
    current: RwLock<Option<Arc<Open>>>,
    /// Held by whoever opens a session, so that many writers open one.
    opening: tokio::sync::Mutex<()>,
    /// The machine has no sessions: writes go without.
    unsupported: AtomicBool,
    /// Opens another session when one has expired.
    renews: bool,
}

/// An open session.
struct Open {
    id: u64,
    numbers: Numbers,
}

impl SessionCalls {
    /// Nothing is opened before the first write.
    pub(crate) fn new(inner: Arc<dyn KvCalls>, renews: bool) -> Self {
        Self {
            inner,
            current: RwLock::default(),
            opening: tokio::sync::Mutex::default(),
            unsupported: false.into(),
            renews,
        }
    }

    /// Ends the session, if one is open.
    pub(crate) async fn close(&self) -> Result<()> {
        let Some(open) = self.current.write().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        let command = KvCommand::SessionClose { session: open.id };
        self.insist(command.into(), Instant::now() + self.timeout()).await.map(|_| ())
    }

    fn current(&self) -> Option<Arc<Open>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The open session; `None`: the machine has none.
    async fn opened(&self, deadline: Instant) -> Result<Option<Arc<Open>>> {
        if let Some(open) = self.current() {
            return Ok(Some(open));
        }
        if self.unsupported.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let late = || ClientError::unavailable("no session could be opened in time");
        let _opening = timeout_at(deadline, self.opening.lock()).await.map_err(|_| late())?;
        if let Some(open) = self.current() {
            return Ok(Some(open));
        }
        match self.insist(KvCommand::SessionOpen.into(), deadline).await {
            Ok((_, KvOutcome::SessionOpened { session, window, .. })) => {
                let open = Arc::new(Open { id: session, numbers: Numbers::new(window) });
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&open));
                Ok(Some(open))
            }
            Ok((_, other)) => {
                tracing::warn!(?other, "the state machine answered the opening of a session in another language");
                Err(late())
            }
            Err(ClientError::Rejected { why: Reason::Unsupported { .. } }) => {
                self.unsupported.store(true, Ordering::Relaxed);
                Ok(None)
            }
            // A session that is open and that nobody knows of goes when there are too many. The write was not sent.
            Err(ClientError::Unknown) => Err(late()),
            Err(error) => Err(error),
        }
    }

    fn forget(&self, expired: &Arc<Open>) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|open| Arc::ptr_eq(open, expired)) {
            *current = None;
        }
    }

    /// Sends a request that may be applied again without harm until its fate is known.
    async fn insist(&self, request: KvRequest, deadline: Instant) -> Result<(LogId, KvOutcome)> {
        let mut in_doubt = false;
        loop {
            let error = match self.inner.propose(request.clone(), half_way_to(deadline)).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            in_doubt |= error == ClientError::Unknown;
            let is_final = match &error {
                ClientError::Rejected { why } if in_doubt && !tells_the_fate(why) => return Err(ClientError::Unknown),
                ClientError::Rejected { .. } => return Err(error),
                ClientError::ShuttingDown => true,
                _ => Instant::now() + PAUSE >= deadline,
            };
            if is_final {
                return Err(if in_doubt { ClientError::Unknown } else { error });
            }
            sleep(PAUSE).await;
        }
    }
}

#[async_trait]
impl KvCalls for SessionCalls {
    async fn propose(&self, request: KvRequest, deadline: Instant) -> Result<(LogId, KvOutcome)> {
        if request.session.is_some() {
            return self.inner.propose(request, deadline).await;
        }
        if is_repeatable(&request.command) {
            return self.insist(request, deadline).await;
        }
        loop {
            let Some(open) = self.opened(deadline).await? else {
                return self.inner.propose(request, deadline).await;
            };
            let number = open.numbers.take(deadline).await?;
            let header = number.header(open.id);
            let answer = self.insist(KvRequest::new(request.command.clone(), Some(header)), deadline).await;
            if !matches!(answer, Err(ClientError::Rejected { why: Reason::SessionExpired { .. } })) || !self.renews {
                return answer;
            }
            // It was refused before any attempt was in doubt: it is not applied, and may go with another session.
            self.forget(&open);
        }
    }

    async fn ask(&self, query: KvQuery, mode: ReadMode) -> Result<(LogId, KvAnswer)> {
        self.inner.ask(query, mode).await
    }

    fn ask_at_once(&self, query: &KvQuery, mode: ReadMode) -> Option<Result<(LogId, KvAnswer)>> {
        self.inner.ask_at_once(query, mode)
    }

    async fn watch(&self, watch: KvWatch) -> Result<WatchStream> {
        self.inner.watch(watch).await
    }

    fn timeout(&self) -> Duration {
        self.inner.timeout()
    }
}

/// Whether a command may be applied twice without harm, and needs no number.
fn is_repeatable(command: &KvCommand) -> bool {
    matches!(
        command,
        KvCommand::LeaseKeepAlive { .. }
            | KvCommand::SessionOpen
            | KvCommand::SessionClose { .. }
            | KvCommand::SessionLimit { .. }
    )
}

/// Whether a refusal after an attempt without an answer says what became of the command: the machine's own refusals do, as
/// it gives every repetition the first answer. A server's do not, nor does a session that has forgotten.
fn tells_the_fate(why: &Reason) -> bool {
    matches!(
        why,
        Reason::LeaseNotFound { .. }
            | Reason::LeaseExists { .. }
            | Reason::KeyNotFound { .. }
            | Reason::DuplicateKey { .. }
            | Reason::ResultTooLarge { .. }
    )
}

/// The numbers of a session: who has one, and which is the lowest without an answer.
struct Numbers {
    window: usize,
    state: Mutex<Taken>,
    /// The lowest has moved.
    freed: Notify,
}

struct Taken {
    lowest: u64,
    /// From the lowest on, whether the number's answer is there, or not wanted any more.
    answered: VecDeque<bool>,
}

/// One number, given back when dropped.
struct Number<'a> {
    numbers: &'a Numbers,
    sequence: u64,
}

impl Numbers {
    fn new(window: u64) -> Self {
        let state = Mutex::new(Taken { lowest: 1, answered: VecDeque::new() });
        Self { window: usize::try_from(window).unwrap_or(usize::MAX).max(1), state, freed: Notify::new() }
    }

    /// The next number; waits while the window is full.
    async fn take(&self, deadline: Instant) -> Result<Number<'_>> {
        loop {
            // Made before the look, so that what is freed after it is not missed.
            let freed = self.freed.notified();
            if let Some(sequence) = self.try_take() {
                return Ok(Number { numbers: self, sequence });
            }
            timeout_at(deadline, freed).await.map_err(|_| ClientError::Busy)?;
        }
    }

    fn try_take(&self) -> Option<u64> {
        let mut taken = lock(&self.state);
        if taken.answered.len() >= self.window {
            return None;
        }
        taken.answered.push_back(false);
        Some(taken.lowest + taken.answered.len() as u64 - 1)
    }
}

impl Number<'_> {
    fn header(&self, session: u64) -> SessionHeader {
        SessionHeader { session, sequence: self.sequence, lowest: lock(&self.numbers.state).lowest }
    }
}

impl Drop for Number<'_> {
    fn drop(&mut self) {
        let mut taken = lock(&self.numbers.state);
        let place = usize::try_from(self.sequence - taken.lowest).unwrap_or(usize::MAX);
        if let Some(answered) = taken.answered.get_mut(place) {
            *answered = true;
        }
        let before = taken.lowest;
        while taken.answered.front() == Some(&true) {
            taken.answered.pop_front();
            taken.lowest += 1;
        }
        if taken.lowest != before {
            drop(taken);
            self.numbers.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// Answers as it is told, and counts what it applies.
    #[derive(Default)]
    struct Scripted {
        answers: Mutex<VecDeque<Result<KvOutcome>>>,
        seen: Mutex<Vec<KvRequest>>,
        sessions: AtomicU64,
    }

    #[async_trait]
    impl KvCalls for Scripted {
        async fn propose(&self, request: KvRequest, _: Instant) -> Result<(LogId, KvOutcome)> {
            if request.command == KvCommand::SessionOpen {
                let session = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
                return Ok((LogId::new(1, session), KvOutcome::SessionOpened { revision: 0, session, window: 2 }));
            }
            lock(&self.seen).push(request);
            let answer = lock(&self.answers).pop_front().unwrap_or(Ok(KvOutcome::Put { revision: 1 }));
            answer.map(|outcome| (LogId::new(1, 9), outcome))
        }

        async fn ask(&self, _: KvQuery, _: ReadMode) -> Result<(LogId, KvAnswer)> {
            Err(ClientError::Busy)
        }

        async fn watch(&self, _: KvWatch) -> Result<WatchStream> {
            Err(ClientError::Busy)
        }

        fn timeout(&self) -> Duration {
            Duration::from_secs(1)
        }
    }

    fn scripted(answers: impl IntoIterator<Item = Result<KvOutcome>>, renews: bool) -> (Arc<Scripted>, KeyValue) {
        let inner = Arc::new(Scripted { answers: Mutex::new(answers.into_iter().collect()), ..Scripted::default() });
        let calls = SessionCalls::new(inner.clone(), renews);
        (inner, KeyValue::new(Arc::new(calls)))
    }

    fn expired(session: u64) -> Result<KvOutcome> {
        Err(Reason::SessionExpired { session }.into())
    }

    fn headers(inner: &Scripted) -> Vec<(u64, u64, u64)> {
        let header =
            |request: &KvRequest| request.session.map(|header| (header.session, header.sequence, header.lowest));
        lock(&inner.seen).iter().filter_map(header).collect()
    }

    #[tokio::test]
    async fn a_write_without_an_answer_is_sent_again_under_the_same_number() {
        let (inner, store) = scripted([Err(ClientError::Unknown), Err(ClientError::Busy)], true);
        store.put("k", "v").await.unwrap();
        store.put("k", "w").await.unwrap();
        assert_eq!(headers(&inner), [(1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 2, 2)]);
    }

    #[tokio::test]
    async fn a_session_that_expired_before_the_first_attempt_is_renewed() {
        let (inner, store) = scripted([expired(1)], true);
        store.put("k", "v").await.unwrap();
        assert_eq!(headers(&inner), [(1, 1, 1), (2, 1, 1)]);
        let (inner, store) = scripted([expired(1)], false);
        let error = store.put("k", "v").await.unwrap_err();
        assert_eq!(error, Reason::SessionExpired { session: 1 }.into());
        assert_eq!(headers(&inner).len(), 1, "whoever opens a session by hand is told");
    }

    #[tokio::test]
    async fn what_an_expired_session_forgot_stays_unknown() {
        let (_, store) = scripted([Err(ClientError::Unknown), expired(1)], true);
        assert_eq!(store.put("k", "v").await, Err(ClientError::Unknown));
        let refused = Err(Reason::ValueTooLarge { len: 2, limit: 1 }.into());
        let (_, store) = scripted([Err(ClientError::Unknown), refused], true);
        assert_eq!(store.put("k", "v").await, Err(ClientError::Unknown), "another server's limit says nothing");
    }

    #[tokio::test]
    async fn the_machines_refusal_is_the_answer_also_after_a_doubt() {
        let refused = || Err(Reason::LeaseNotFound { id: 3 }.into());
        let (_, store) = scripted([Err(ClientError::Unknown), refused()], true);
        let put = super::super::Put::new("k", "v").lease(3);
        assert_eq!(store.put_with(put).await, Err(Reason::LeaseNotFound { id: 3 }.into()));
    }

    #[tokio::test]
    async fn a_doubt_that_nobody_settles_in_time_is_unknown_and_no_doubt_is_none() {
        let (_, store) = scripted(std::iter::repeat_n(Err(ClientError::unavailable("down")), 1_000), true);
        assert_eq!(store.put("k", "v").await, Err(ClientError::unavailable("down")));
        let doubts = [Err(ClientError::Unknown)].into_iter().chain(std::iter::repeat_n(Err(ClientError::Busy), 1_000));
        let (_, store) = scripted(doubts, true);
        assert_eq!(store.put("k", "v").await, Err(ClientError::Unknown));
    }

    #[tokio::test]
    async fn a_machine_without_sessions_gets_writes_without() {
        struct Old;
        #[async_trait]
        impl KvCalls for Old {
            async fn propose(&self, request: KvRequest, _: Instant) -> Result<(LogId, KvOutcome)> {
                assert_eq!(request.session, None);
                match request.command {
                    KvCommand::SessionOpen => Err(Reason::Unsupported { why: "old".to_owned() }.into()),
                    _ => Err(ClientError::Unknown),
                }
            }
            async fn ask(&self, _: KvQuery, _: ReadMode) -> Result<(LogId, KvAnswer)> {
                Err(ClientError::Busy)
            }
            async fn watch(&self, _: KvWatch) -> Result<WatchStream> {
                Err(ClientError::Busy)
            }
            fn timeout(&self) -> Duration {
                Duration::from_secs(1)
            }
        }
        let store = KeyValue::new(Arc::new(SessionCalls::new(Arc::new(Old), true)));
        assert_eq!(store.put("k", "v").await, Err(ClientError::Unknown), "and nothing is sent twice");
        assert!(store.session().await.is_err());
    }

    #[tokio::test]
    async fn the_window_holds_writers_back_and_the_lowest_follows_the_answers() {
        let numbers = Numbers::new(2);
        let soon = Instant::now() + Duration::from_secs(60);
        let first = numbers.take(soon).await.unwrap();
        let second = numbers.take(soon).await.unwrap();
        assert_eq!((first.sequence, second.sequence), (1, 2));
        drop(second);
        assert!(numbers.try_take().is_none(), "the first is still under way");
        let (third, ()) = tokio::join!(numbers.take(soon), async { drop(first) });
        let header = third.unwrap().header(7);
        assert_eq!((header.session, header.sequence, header.lowest), (7, 3, 3));
    }
}
