//! The key-value calls of a node in process.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::command::KvWatch;
use d_engine_core::{Error, KvAnswer, KvCommand, KvOutcome, KvQuery, KvRequest, LogId, WatchSink};
use d_engine_net::{ClientError, KvCalls, ReadMode, Reason, Result, WatchStream, answer_of, outcome_of, watch_queue};
use tokio::time::Instant;

use crate::shared::Shared;

#[async_trait]
impl KvCalls for Shared {
    async fn propose(&self, request: KvRequest, deadline: Instant) -> Result<(LogId, KvOutcome)> {
        self.check_key_value()?;
        request.command.check(self.config.limits.max_value_bytes)?;
        let is_plain =
            matches!(request.command, KvCommand::Put { .. } | KvCommand::Delete { .. } | KvCommand::Cas { .. });
        let command = request.encode();
        if !is_plain || request.session.is_some() {
            self.check_command(&command)?;
        }
        outcome_of(self.propose_until(command, false, deadline).await?)
    }

    async fn ask(&self, query: KvQuery, mode: ReadMode) -> Result<(LogId, KvAnswer)> {
        self.check_key_value()?;
        self.ask_typed(query, mode).await
    }

    fn ask_at_once(&self, query: &KvQuery, mode: ReadMode) -> Option<Result<(LogId, KvAnswer)>> {
        let is_fresh = self.is_fresh(mode);
        is_fresh.then(|| self.check_key_value().and_then(|()| self.answer(query)))
    }

    async fn watch(&self, watch: KvWatch) -> Result<WatchStream> {
        self.check_key_value()?;
        let (sink, messages) = watch_queue();
        self.begin_watch(watch.encode(), sink)?;
        Ok(messages)
    }

    fn timeout(&self) -> Duration {
        self.config.request_timeout()
    }
}

impl Shared {
    /// Asks the built-in machine, in plain types if it can.
    pub(crate) async fn ask_typed(&self, query: KvQuery, mode: ReadMode) -> Result<(LogId, KvAnswer)> {
        self.make_fresh(query.encoded_len(), mode).await?;
        self.answer(&query)
    }

    /// Asks this node's own machine as it is.
    fn answer(&self, query: &KvQuery) -> Result<(LogId, KvAnswer)> {
        match self.with_machine(|machine| machine.answer(query))? {
            Some((answer, at)) => Ok((at, answer)),
            None => answer_of(self.read_here(query.encode())?),
        }
    }

    /// Begins a watch on this node's own machine. A node that serves no more refuses: nothing would ever be told.
    pub(crate) fn begin_watch(&self, request: Bytes, sink: Box<dyn WatchSink>) -> Result<()> {
        self.check_serves()?;
        self.with_machine(|machine| machine.watch(request, sink))?;
        if self.check_serves().is_err() {
            // Whoever ended the watches may have come before this one.
            self.end_watches();
        }
        Ok(())
    }

    /// Ends the watches on this node, which serves no more. That is known before, so that none begins unseen.
    pub(crate) fn end_watches(&self) {
        // Without a machine there are none.
        let _ = self.with_machine(|machine| {
            machine.end_watches();
            Ok(())
        });
    }

    fn check_serves(&self) -> Result<()> {
        self.inbox_open()?;
        match self.published.failure() {
            Some(_) => Err(self.ended()),
            None => Ok(()),
        }
    }

    /// Whether this version's machine reads the command. One that does not stops on it, because to skip it would make
    /// replicas differ; so what is not a command, and would look like one from the future, must not get into the log.
    pub(crate) fn check_command(&self, command: &[u8]) -> Result<()> {
        self.with_machine(|machine| {
            machine.check_command(command).map_err(|error| match error {
                // To a caller of typed calls it matters what is missing, not that the bytes are wrong.
                Error::Unsupported { what } => Error::unsupported(what),
                error => Error::invalid(error.to_string()),
            })
        })
    }
}

/// Whether callers may propose the command. What the leader's own clock decides is the leader's alone.
///
/// # Errors
/// `Rejected` with `Unsupported`.
pub(crate) fn check_is_for_callers(command: &KvCommand) -> Result<()> {
    match command {
        KvCommand::LeaseExpire { .. } | KvCommand::LeaseCheckpoint { .. } => {
            let why = "only a leader decides that a lease has ended; use LeaseRevoke".to_owned();
            Err(ClientError::from(Reason::Unsupported { why }))
        }
        _ => Ok(()),
    }
}
