//! Reads what survived the last run and makes the driver from it.

use d_engine_core::{LogStore, MetaStore, StateMachine};
use d_engine_raft::{Boot, Driver, Restored};
use tokio::runtime::Handle;

use crate::clock::Clock;
use crate::{NodeConfig, StartupError};

/// A driver that is ready to run.
pub(crate) struct Prepared {
    pub(crate) driver: Driver,
    /// Index of the last entry that the state machine has applied.
    pub(crate) applied: u64,
}

/// Starts the machine and makes the driver. Blocks; changes nothing in the stores.
pub(crate) fn prepare(
    config: &NodeConfig,
    log: &dyn LogStore,
    meta: &dyn MetaStore,
    machine: &dyn StateMachine,
    clock: &dyn Clock,
    runtime: &Handle,
) -> Result<Prepared, StartupError> {
    let hard_state = meta.load_hard_state().map_err(StartupError::storage("reading the hard state"))?;
    let log = runtime.block_on(log.summary()).map_err(StartupError::storage("reading the log"))?;
    machine.start().map_err(StartupError::storage("starting the state machine"))?;
    let last_applied = machine.last_applied();
    let restored = Restored { hard_state, log, last_applied, ..Restored::default() };
    let driver = boot()
        .and_then(|boot| Ok(Driver::new(config.raft_config(), restored, boot, clock.now())?))
        .inspect_err(|_| {
            if let Err(error) = machine.stop() {
                tracing::warn!(%error, "the state machine did not stop cleanly");
            }
        })?;
    Ok(Prepared { driver, applied: last_applied.index })
}

/// Random numbers of this start, from the operating system.
fn boot() -> Result<Boot, StartupError> {
    let random = || {
        getrandom::u64()
            .map_err(|error| StartupError::system("asking the system for random numbers")(std::io::Error::other(error)))
    };
    let wide = || Ok::<_, StartupError>(u128::from(random()?) << 64 | u128::from(random()?));
    Ok(Boot { seed: random()?, incarnation: wide()?, cluster: wide()? })
}
