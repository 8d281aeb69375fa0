//! Any engine through the traits. Opening may change what is opened: a copy of the directory is.

use std::path::Path;

use d_engine::Error;
use d_engine::file::vfs::{ReadOnlyDisk, Vfs};
use d_engine::storage::{LogStore, MetaStore, StorageEngine};

use super::view::View;

/// Entries that one read brings.
const CHUNK: u64 = 1024;

impl View {
    /// Of an engine that changes what it opens: a copy is opened, and the directory stays as it is.
    pub(super) async fn of_copy<E: StorageEngine>(
        engine: &'static str,
        dir: &Path,
        open: impl FnOnce(&Path) -> Result<E, Error>,
    ) -> Result<Self, Error> {
        let reading = |error| Error::io(format!("reading the directory {}", dir.display()), error);
        if !dir.join("LOCK").exists() {
            let what = format!("{} holds no log of the {engine} engine: it has no LOCK", dir.display());
            return Err(Error::invalid(what));
        }
        let Some(_lock) = ReadOnlyDisk.try_lock(&dir.join("LOCK")).map_err(reading)? else {
            return Err(Error::Locked { path: dir.display().to_string() });
        };
        let copying = |error| Error::io(format!("copying {} to the temporary directory", dir.display()), error);
        let copy = tempfile::tempdir().map_err(copying)?;
        copy_dir(dir, copy.path()).map_err(copying)?;
        let mut view = match open(copy.path()) {
            Ok(opened) => Self::of_engine(engine, dir, &opened).await,
            Err(error @ (Error::Io { .. } | Error::NoSpace { .. })) => return Err(error),
            Err(error) => Self { damage: vec![error], ..Self::empty(engine, dir) },
        };
        // The copy is gone when this is read.
        for damage in &mut view.damage {
            if let Error::Corrupt { place, .. } = damage {
                *place = place.replace(&copy.path().display().to_string(), &dir.display().to_string());
            }
        }
        Ok(view)
    }

    fn empty(engine: &'static str, dir: &Path) -> Self {
        let (segments, damage) = (Vec::new(), Vec::new());
        Self { dir: dir.to_owned(), engine, hard_state: None, log: None, state: None, segments, damage }
    }

    /// Through the traits of an open engine: every entry is read.
    async fn of_engine<E: StorageEngine>(engine: &'static str, dir: &Path, opened: &E) -> Self {
        let mut view = Self::empty(engine, dir);
        match opened.meta_store().load_hard_state() {
            Ok(state) => view.hard_state = state,
            Err(error) => view.damage.push(error),
        }
        let log = opened.log_store();
        match log.summary().await {
            Ok(summary) => view.log = Some(summary),
            Err(error) => view.damage.push(error),
        }
        // A summary may come from memory.
        if let Err(error) = read_all(&*log).await {
            view.damage.push(error);
        }
        view
    }
}

fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

async fn read_all<L: LogStore>(log: &L) -> Result<(), Error> {
    let (mut next, last) = (log.purged().index + 1, log.last_index());
    while next <= last {
        let entries = log.get_entries(next..=last.min(next + CHUNK - 1)).await?;
        if entries.is_empty() {
            let place = format!("the log shows {last} as its last index, and nothing at {next}");
            return Err(Error::Corrupt { place, indexes: Some(next..=last) });
        }
        next += entries.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use d_engine::file::FileStorageEngine;
    use d_engine::{Entry, EntryKind, HardState, LogId};

    use super::super::Engine;
    use super::*;

    #[tokio::test]
    async fn the_traits_and_the_files_show_the_same() {
        let dir = tempfile::tempdir().unwrap();
        {
            let engine = FileStorageEngine::open(dir.path()).unwrap();
            let state = HardState::new(3, Some(2), None);
            engine.meta_store().save_hard_state(&state).unwrap();
            let entries = (1..=5).map(|index| Entry::new(index, 1 + index / 3, EntryKind::Noop, b"")).collect();
            engine.log_store().persist_entries(entries).await.unwrap();
            engine.log_store().purge(LogId::new(1, 2)).await.unwrap();
            let locked = View::read(Engine::File, dir.path()).await;
            assert!(matches!(locked, Err(Error::Locked { .. })));
            let locked = View::of_copy("file", dir.path(), |copy| FileStorageEngine::open(copy)).await;
            assert!(matches!(locked, Err(Error::Locked { .. })));
        }
        let files = View::read(Engine::File, dir.path()).await.unwrap();
        let traits = View::of_copy("file", dir.path(), |copy| FileStorageEngine::open(copy)).await.unwrap();
        assert!(files.damage.is_empty() && traits.damage.is_empty(), "{files:?} {traits:?}");
        assert_eq!((files.hard_state, files.log.as_ref()), (traits.hard_state, traits.log.as_ref()));
        assert_eq!(files.log.unwrap().runs, [LogId::new(2, 3)]);
    }
}
