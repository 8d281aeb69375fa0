//! A file that goes to the disk steadily.

use std::fs::File;
use std::io::{self, Write};

/// Bytes that wait for the disk at most: a sync of more would hold up those of the log, on the same disk, for as long as it
/// takes.
const UNSYNCED_MAX: usize = 2 << 20;

/// What a data sync makes durable.
pub trait SyncData {
    /// Makes everything that was written durable.
    ///
    /// # Errors
    /// What the system says; what was written may be lost then.
    fn sync_data(&self) -> io::Result<()>;
}

impl SyncData for File {
    fn sync_data(&self) -> io::Result<()> {
        Self::sync_data(self)
    }
}

/// Passes on what is written, and has it synced every 2 MiB instead of all at once at the end. The last sync is the owner's.
#[derive(Debug)]
pub struct Steady<W> {
    output: W,
    unsynced: usize,
}

impl<W> Steady<W> {
    /// Of `output`, to which nothing has been written that is not durable.
    pub fn new(output: W) -> Self {
        Self { output, unsynced: 0 }
    }

    /// The output, with up to 2 MiB that are not synced.
    pub fn into_inner(self) -> W {
        self.output
    }
}

impl<W: Write + SyncData> Write for Steady<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.output.write(bytes)?;
        self.unsynced += written;
        if self.unsynced >= UNSYNCED_MAX {
            self.output.sync_data()?;
            self.unsynced = 0;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
