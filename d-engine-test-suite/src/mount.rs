//! File systems of the suite's own, which can lose power or be full. They need root and are gone when dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use d_engine_core::Error;
use tempfile::TempDir;

use crate::process::counted;

const IMAGE_BYTES: u64 = 256 << 20;

/// ext4 on a loop device over a file: a disk that can lose power. The file system loses what was not synced, as after a
/// power cut, and is mounted again.
pub struct Ext4 {
    mounted: Option<Mounted>,
    image: PathBuf,
    place: PathBuf,
    scratch: TempDir,
}

impl Ext4 {
    /// Makes and mounts one of 256 MiB.
    ///
    /// # Errors
    /// In plain words what did not work: it takes root, `mkfs.ext4` and loop devices.
    pub fn make() -> Result<Self, String> {
        be_root()?;
        let scratch = TempDir::new().map_err(|error| error.to_string())?;
        let image = scratch.path().join("image");
        File::create(&image).and_then(|file| file.set_len(IMAGE_BYTES)).map_err(|error| error.to_string())?;
        command("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), image.as_ref()])?;
        let place = scratch.path().join("mounted/place");
        let mut disk = Self { mounted: None, image, place, scratch };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&mut self) -> Result<(), String> {
        let dir = self.scratch.path().join("mounted");
        let mounted = Mounted::new(&dir, &["-o".as_ref(), "loop".as_ref(), self.image.as_ref(), dir.as_ref()])?;
        self.mounted = Some(mounted);
        Ok(())
    }

    /// A directory of it, empty at first.
    pub fn dir(&self) -> &Path {
        &self.place
    }

    /// Nothing that is not durable now will ever be; every later write fails.
    ///
    /// # Errors
    /// `Io` if the kernel does not do it.
    pub fn cut(&self) -> Result<(), Error> {
        let doing = "shutting the file system down";
        let dir = File::open(self.scratch.path().join("mounted")).map_err(|error| Error::io(doing, error))?;
        shut_down(&dir).map_err(|error| Error::io(doing, error))
    }

    /// The machine starts again. Nobody may have a file open.
    ///
    /// # Errors
    /// `Backend` if it cannot be mounted.
    pub fn remount(&mut self) -> Result<(), Error> {
        self.mounted = None;
        self.mount().map_err(|what| Error::backend(format!("mounting an image after a power cut: {what}")))
    }
}

/// `FS_IOC_SHUTDOWN` without writing the journal.
fn shut_down(file: &File) -> std::io::Result<()> {
    const FS_IOC_SHUTDOWN: rustix::ioctl::Opcode = 0x8004_587d;
    const NOLOGFLUSH: u32 = 2;
    // Safety: the operation reads one u32 and keeps nothing.
    #[allow(unsafe_code, reason = "no safe form of this ioctl exists")]
    unsafe {
        rustix::ioctl::ioctl(file, rustix::ioctl::Setter::<FS_IOC_SHUTDOWN, u32>::new(NOLOGFLUSH))?;
    }
    Ok(())
}

/// A file system in memory of a fixed size.
pub(crate) struct Tmpfs {
    // Unmounted before its directory is removed.
    _mounted: Mounted,
    place: PathBuf,
    _scratch: TempDir,
}

impl Tmpfs {
    pub(crate) fn make(bytes: u64) -> Result<Self, String> {
        be_root()?;
        let scratch = TempDir::new().map_err(|error| error.to_string())?;
        let dir = scratch.path().join("mounted");
        let size = format!("size={bytes}");
        let line = ["-t".as_ref(), "tmpfs".as_ref(), "-o".as_ref(), size.as_ref(), "tmpfs".as_ref(), dir.as_ref()];
        Ok(Self { _mounted: Mounted::new(&dir, &line)?, place: dir.join("place"), _scratch: scratch })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.place
    }
}

/// A mount point, unmounted when dropped.
struct Mounted {
    dir: PathBuf,
}

impl Mounted {
    fn new(dir: &Path, line: &[&std::ffi::OsStr]) -> Result<Self, String> {
        std::fs::create_dir_all(dir).map_err(|error| error.to_string())?;
        command("mount", line)?;
        let mounted = Self { dir: dir.to_owned() };
        std::fs::create_dir_all(dir.join("place")).map_err(|error| error.to_string())?;
        Ok(mounted)
    }
}

impl std::fmt::Debug for Ext4 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ext4({})", self.place.display())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for _ in 0..50 {
            if command("umount", &[self.dir.as_ref()]).is_ok() {
                return;
            }
            // A process that was killed may still be going.
            std::thread::sleep(Duration::from_millis(20));
        }
        // Out of sight at least, and gone with its last open file.
        let _ = command("umount", &["-l".as_ref(), self.dir.as_ref()]);
    }
}

fn be_root() -> Result<(), String> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err("file systems can be mounted by root only".into())
}

fn command(name: &str, line: &[&std::ffi::OsStr]) -> Result<(), String> {
    let mut command = Command::new(name);
    command.args(line).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = counted(|| command.spawn()).and_then(std::process::Child::wait_with_output);
    let output = output.map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
