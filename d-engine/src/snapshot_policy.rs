//! When a node makes a snapshot of its own state, and how: on the apply thread's side.
//!
//! A state machine with views goes on applying while a thread of its own writes the snapshot; any other waits until it is
//! written. What may be purged afterwards is the driver's decision.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use d_engine_core::{Entry, EntryKind, Error, LogId, Membership, SnapshotView, StateMachine};
use d_engine_raft::{Input, Rejection};
use tokio::runtime::Handle;

use crate::SnapshotSection;
use crate::clock::milliseconds;
use crate::ending::spawn;
use crate::inbox::{Caller, Inbox, Refusal};
use crate::snapshot_store::SnapshotStore;
use crate::state_machine_handler::{ApplyJob, ApplyQueue};

/// After a build that failed, none is begun by policy for so long.
const RETRY: Duration = Duration::from_secs(10);

/// What became of a build.
pub(crate) struct Built {
    at: LogId,
    result: Result<(), Error>,
}

/// A point in the log, and the configuration as of it.
#[derive(Clone, Default)]
pub(crate) struct Label {
    pub(crate) at: LogId,
    pub(crate) membership: Option<Arc<Membership>>,
}

/// The snapshots of the own state.
pub(crate) struct Snapshots {
    pub(crate) node: u64,
    pub(crate) machine: Arc<dyn StateMachine>,
    pub(crate) store: Arc<SnapshotStore>,
    pub(crate) policy: SnapshotSection,
    pub(crate) runtime: Handle,
    /// Where a finished build is reported.
    pub(crate) queue: Arc<ApplyQueue>,
    pub(crate) progress: Progress,
}

/// How far the state has gone since the last snapshot.
pub(crate) struct Progress {
    /// The last command that was applied, which is what a snapshot is labelled with: the machine sees nothing else.
    label: Label,
    /// The same with the entries that are being applied.
    next_label: Label,
    newest_membership: Option<Arc<Membership>>,
    bytes: u64,
    /// Of the last snapshot.
    last_at: u64,
    last_size: u64,
    last_made: Instant,
    building: Option<JoinHandle<()>>,
    /// Who asked before the present build began.
    served: Vec<Caller<LogId>>,
    /// Who asked since.
    waiting: Vec<Caller<LogId>>,
    not_before: Option<Instant>,
    is_supported: bool,
}

impl Progress {
    /// A node starts: its machine is at `label`, and the log has nothing newer that is applied.
    pub(crate) fn new(label: Label, store: &SnapshotStore) -> Self {
        let last = store.newest();
        Self {
            next_label: label.clone(),
            newest_membership: label.membership.clone(),
            label,
            bytes: 0,
            last_at: last.as_ref().map_or(0, |record| record.at().index),
            last_size: last.map_or(0, |record| record.metadata.size),
            last_made: Instant::now(),
            building: None,
            served: Vec::new(),
            waiting: Vec::new(),
            not_before: None,
            is_supported: true,
        }
    }

    fn is_behind(&self) -> bool {
        self.label.at.index > self.last_at
    }
}

impl Snapshots {
    pub(crate) fn store(&self) -> &SnapshotStore {
        &self.store
    }

    /// These entries, committed and in order, are about to be applied.
    pub(crate) fn see(&mut self, entries: &[Entry]) {
        let progress = &mut self.progress;
        progress.bytes += entries.iter().map(|entry| entry.encoded_len() as u64).sum::<u64>();
        let mut is_moved = false;
        for entry in entries {
            match entry.kind {
                EntryKind::Noop => {}
                EntryKind::Command => {
                    progress.next_label.at = entry.id();
                    is_moved = true;
                }
                EntryKind::Membership => {
                    // As of the commands before it the old configuration holds.
                    if std::mem::take(&mut is_moved) {
                        progress.next_label.membership.clone_from(&progress.newest_membership);
                    }
                    match Membership::decode(&entry.data) {
                        Ok(membership) => progress.newest_membership = Some(Arc::new(membership)),
                        Err(error) => tracing::error!(%error, index = entry.index, "an unreadable membership"),
                    }
                }
            }
        }
        if is_moved {
            progress.next_label.membership.clone_from(&progress.newest_membership);
        }
    }

    /// What was seen is applied.
    pub(crate) fn applied(&mut self) {
        self.progress.label = self.progress.next_label.clone();
    }

    /// When to ask [`maybe_begin`](Snapshots::maybe_begin) again although nothing is applied.
    pub(crate) fn due_in(&self) -> Option<Duration> {
        let progress = &self.progress;
        if progress.building.is_some() || !progress.is_supported || !progress.is_behind() {
            return None;
        }
        let interval = (self.policy.interval_s > 0).then(|| Duration::from_secs(self.policy.interval_s));
        let at = progress.last_made.checked_add(interval?)?.max(progress.not_before.unwrap_or(progress.last_made));
        Some(at.saturating_duration_since(Instant::now()))
    }

    /// Begins a snapshot if one is due.
    pub(crate) fn maybe_begin(&mut self, inbox: &Inbox) {
        if self.is_due() {
            self.begin(inbox);
        }
    }

    pub(crate) fn is_due(&self) -> bool {
        let progress = &self.progress;
        let is_free = progress.building.is_none() && progress.is_supported && progress.is_behind();
        if !is_free || progress.not_before.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        let entries = progress.label.at.index - progress.last_at;
        let is_long = entries >= self.policy.entries || progress.bytes >= self.policy.bytes.max(progress.last_size);
        is_long || self.due_in().is_some_and(|time| time.is_zero())
    }

    /// Somebody wants a snapshot now.
    pub(crate) fn request(&mut self, caller: Caller<LogId>, inbox: &Inbox) {
        if self.progress.building.is_none() && !self.progress.is_behind() {
            return match self.store.newest() {
                Some(newest) => caller.answer(Ok(newest.at())),
                None => {
                    caller.answer(Err(unavailable("nothing has been applied yet; there is nothing to keep".into())))
                }
            };
        }
        // One that is being built may be older than what the caller has just written: it gets the next.
        self.progress.waiting.push(caller);
        if self.progress.building.is_none() {
            self.begin(inbox);
        }
    }

    fn begin(&mut self, inbox: &Inbox) {
        let label = self.progress.label.clone();
        let waiting = std::mem::take(&mut self.progress.waiting);
        self.progress.served.extend(waiting);
        let result = self.machine.begin_snapshot().and_then(|view| match view {
            Some(view) => self.write_beside(view, label.clone()).map(|()| false),
            None => self.write_now(label.clone()).map(|()| true),
        });
        match result {
            Ok(false) => {}
            Ok(true) => self.built(Built { at: label.at, result: Ok(()) }, inbox),
            Err(error) => self.built(Built { at: label.at, result: Err(error) }, inbox),
        }
    }

    /// Writes what the view holds, on a thread of its own.
    fn write_beside(&mut self, view: Box<dyn SnapshotView>, label: Label) -> Result<(), Error> {
        let at = view.last_applied();
        if at != label.at {
            return Err(Error::invalid(format!(
                "the state machine's view is of {at}, but it has applied {}",
                label.at
            )));
        }
        let (store, queue, panicked) = (Arc::clone(&self.store), Arc::clone(&self.queue), Arc::clone(&self.queue));
        let report = move |queue: &ApplyQueue, result| {
            // A node that ends needs no snapshot any more.
            let _ = queue.push(ApplyJob::Built(Built { at, result }));
        };
        let write = move || {
            let write = |view: Box<dyn SnapshotView>| view.write(&store.begin_build()?);
            let result = write(view).and_then(|sum| store.keep_built(at, membership_of(&label)?, sum));
            report(&queue, result);
        };
        let thread = spawn(format!("d-engine-{}-snapshot", self.node), write, move |why| {
            report(&panicked, Err(Error::backend(why)));
        })
        .map_err(|source| Error::io("starting the thread of a snapshot", source))?;
        self.progress.building = Some(thread);
        Ok(())
    }

    /// Writes the present state while nothing is applied.
    fn write_now(&self, label: Label) -> Result<(), Error> {
        let dir = self.store.begin_build()?;
        let sum = self.runtime.block_on(self.machine.generate_snapshot_data(dir, label.at))?;
        self.store.keep_built(label.at, membership_of(&label)?, sum)
    }

    /// A build has ended.
    pub(crate) fn built(&mut self, built: Built, inbox: &Inbox) {
        let Built { at, result } = built;
        if let Some(thread) = self.progress.building.take() {
            // It has nothing left to do but to end; a panic was reported in its place.
            let _ = thread.join();
        }
        let served = std::mem::take(&mut self.progress.served);
        match result {
            Ok(()) => {
                tracing::info!(node = self.node, index = at.index, "a snapshot of the state is durable");
                self.made(at);
                inbox.complete(Input::SnapshotMade { last_included: at });
                served.into_iter().for_each(|caller| caller.answer(Ok(at)));
            }
            Err(error) => {
                self.store.abandon_build();
                self.progress.is_supported = !matches!(error, Error::Unsupported { .. });
                self.progress.not_before = Instant::now().checked_add(RETRY);
                // The node goes on without; its log grows until one succeeds.
                tracing::warn!(node = self.node, %error, "a snapshot of the state was not made");
                let why = format!("the snapshot was not made: {error}");
                served.into_iter().for_each(|caller| caller.answer(Err(unavailable(why.clone()))));
            }
        }
        for caller in std::mem::take(&mut self.progress.waiting) {
            self.request(caller, inbox);
        }
    }

    fn made(&mut self, at: LogId) {
        let progress = &mut self.progress;
        (progress.last_at, progress.bytes, progress.last_made) = (at.index, 0, Instant::now());
        progress.not_before = None;
        progress.last_size = self.store.newest().map_or(0, |record| record.metadata.size);
    }

    /// Lets the machine take over the marked snapshot.
    pub(crate) fn install(&mut self, at: LogId, runtime: &Handle) -> Result<(), Error> {
        let marked = self.store.marked().filter(|(record, _)| record.at() == at);
        let (record, path) = marked.ok_or_else(|| Error::invalid(format!("no snapshot of {at} was received")))?;
        let begun = Instant::now();
        runtime.block_on(self.machine.apply_snapshot_from_file(&record.metadata, path))?;
        self.store.installed(at);
        let installing_ms = milliseconds(begun.elapsed());
        tracing::info!(node = self.node, index = at.index, installing_ms, "a received snapshot is installed");
        let membership = Some(Arc::new(record.metadata.membership.clone()));
        let label = Label { at, membership: membership.clone() };
        (self.progress.label, self.progress.next_label) = (label.clone(), label);
        self.progress.newest_membership = membership;
        self.made(at);
        self.progress.last_size = record.metadata.size;
        Ok(())
    }

    /// The node ends: waits for what is being written.
    pub(crate) fn finish(&mut self) {
        if let Some(thread) = self.progress.building.take() {
            let _ = thread.join();
        }
    }
}

fn membership_of(label: &Label) -> Result<Membership, Error> {
    let membership = label.membership.as_deref().cloned();
    membership.ok_or_else(|| Error::invalid(format!("the configuration as of {} is not known", label.at)))
}

fn unavailable(why: String) -> Refusal {
    Refusal::Rejected(Rejection::Unavailable { why })
}
