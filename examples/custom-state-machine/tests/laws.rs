//! The bank keeps the laws of state machines, also over kills, damage and full disks.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bank::{Bank, Transfer, VAULT};
use bytes::Bytes;
use d_engine_core::{Error, StateMachine};
use d_engine_test_suite::state_machine_test::StateMachineBuilder;

/// Opens banks in one directory.
struct Builder {
    dir: PathBuf,
    _owned: Option<tempfile::TempDir>,
}

impl Builder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir: dir.path().to_owned(), _owned: Some(dir) }
    }
}

fn account(n: u64) -> String {
    format!("account {n}")
}

#[async_trait]
impl StateMachineBuilder for Builder {
    async fn build(&self) -> Result<Arc<dyn StateMachine>, Error> {
        Ok(Arc::new(Bank::open(&self.dir)?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn command(&self, n: u64) -> Bytes {
        Transfer::new(VAULT, account(n), 1).encode()
    }

    fn key(&self, n: u64) -> Option<Bytes> {
        Some(account(n).into())
    }

    fn failing_command(&self) -> Option<Bytes> {
        Some(Transfer::new("nobody", VAULT, 1).encode())
    }

    fn at(dir: &Path) -> Option<Self> {
        Some(Self { dir: dir.to_owned(), _owned: None })
    }
}

d_engine_test_suite::state_machine_tests!(Builder::new());

#[test]
fn what_is_no_transfer_is_refused_before_it_is_proposed() {
    let dir = tempfile::tempdir().unwrap();
    let bank = Bank::open(dir.path()).unwrap();
    assert!(bank.check_command(&Transfer::new("a", "b", 1).encode()).is_ok());
    for wrong in [&b""[..], b"\x02later", b"\x01short"] {
        assert!(bank.check_command(wrong).is_err());
    }
}
