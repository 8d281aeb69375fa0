//! What a directory holds, the same for every engine.

use std::path::{Path, PathBuf};

use d_engine::file::{self, SegmentView, StateView};
use d_engine::storage::LogSummary;
use d_engine::{Error, HardState};

use super::Engine;

/// What a directory holds.
#[derive(Debug)]
pub(super) struct View {
    pub(super) dir: PathBuf,
    pub(super) engine: &'static str,
    pub(super) hard_state: Option<HardState>,
    /// `None` if the engine would refuse to open.
    pub(super) log: Option<LogSummary>,
    /// Of the file engine.
    pub(super) state: Option<StateView>,
    /// Of the file engine.
    pub(super) segments: Vec<SegmentView>,
    /// Empty: every entry was read and is sound.
    pub(super) damage: Vec<Error>,
}

impl View {
    pub(super) async fn read(engine: Engine, dir: &Path) -> Result<Self, Error> {
        match engine {
            Engine::File => Self::of_files(dir),
            #[cfg(feature = "rocksdb")]
            Engine::Rocksdb => {
                Self::of_copy("rocksdb", dir, |copy| d_engine::rocksdb::RocksStorageEngine::open(copy)).await
            }
            #[cfg(feature = "sled")]
            Engine::Sled => Self::of_copy("sled", dir, |copy| d_engine::sled::SledStorageEngine::open(copy)).await,
        }
    }

    fn of_files(dir: &Path) -> Result<Self, Error> {
        let found = file::inspect(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            engine: "file",
            hard_state: found.hard_state,
            log: found.log,
            state: found.state,
            segments: found.segments,
            damage: found.damage,
        })
    }
}
