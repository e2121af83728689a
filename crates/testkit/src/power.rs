//! Disks that fail: a loop-mounted ext4 that forgets everything it was not made to keep, and a tmpfs that gets full.
//!
//! `kill -9` leaves the page cache alive, so it says nothing about durability. [`PowerDisk::cut`] shuts the file system
//! down with `FS_IOC_SHUTDOWN` and `NOLOGFLUSH`: from that moment every write fails with `EIO`, dirty pages and the
//! journal's unflushed transactions are gone, and only what an `fsync` or `fdatasync` had acknowledged is found after
//! [`PowerDisk::restore`]. (xfstests drives the same ioctl through `src/godown.c`.)
//!
//! Needs root, loop devices, `mkfs.ext4` and `mount`. [`unavailable`] says what is missing, so that a test can skip with
//! a clear message where it may not run, and must run where it may.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// `FS_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)` (linux/fs.h).
const FS_IOC_SHUTDOWN: rustix::ioctl::Opcode = 0x8004_587D;
/// `FS_SHUTDOWN_FLAGS_NOLOGFLUSH`: flush neither data nor journal.
const NOLOGFLUSH: u32 = 2;
/// How long [`PowerDisk::restore`] waits for the last open file to be closed.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// Why power loss cannot be simulated here, or `None` when it can.
#[must_use]
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("power loss needs root (loop mounts and FS_IOC_SHUTDOWN)".to_owned());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("power loss needs loop devices: /dev/loop-control is missing".to_owned());
    }
    for (tool, package) in [("mkfs.ext4", "e2fsprogs"), ("mount", "mount"), ("umount", "mount")] {
        if which(tool).is_none() {
            return Some(format!("power loss needs {tool} (Debian package {package})"));
        }
    }
    None
}

/// Finds `tool` on `PATH` or in the folders of system tools, which an unprivileged `PATH` omits.
pub(crate) fn which(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|folder| folder.join(tool)).find(|file| file.is_file())
}

/// An ext4 of its own whose power can be cut.
#[derive(Debug)]
pub struct PowerDisk {
    mount: PathBuf,
    image: PathBuf,
    mounted: bool,
    // Last: the folder goes after the file system inside it is unmounted (see `Drop`).
    _folder: tempfile::TempDir,
}

impl PowerDisk {
    /// Makes and mounts an ext4 of `size_mib` MiB (at least 16).
    ///
    /// # Errors
    /// When [`unavailable`] would say so, or a tool fails; the message names it.
    pub fn new(size_mib: u64) -> io::Result<Self> {
        if let Some(reason) = unavailable() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
        }
        let folder = tempfile::Builder::new().prefix("semel-power-").tempdir()?;
        let image = folder.path().join("disk.img");
        File::create(&image)?.set_len(size_mib.max(16) << 20)?;
        run(Command::new(which("mkfs.ext4").unwrap_or_default()).args(["-q", "-F"]).arg(&image))?;
        let mount = folder.path().join("mnt");
        std::fs::create_dir(&mount)?;
        let mut disk = Self { mount, image, mounted: false, _folder: folder };
        disk.mount()?;
        Ok(disk)
    }

    /// The folder to keep files in.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Cuts the power, at any moment and from any thread: from now on every access fails with `EIO`.
    ///
    /// # Errors
    /// When the ioctl is refused.
    pub fn cut(&self) -> io::Result<()> {
        let root = File::open(&self.mount)?;
        // SAFETY: FS_IOC_SHUTDOWN reads one u32 of flags through the pointer that `Setter` passes and writes nothing.
        #[expect(unsafe_code, reason = "no safe wrapper of FS_IOC_SHUTDOWN exists")]
        unsafe {
            rustix::ioctl::ioctl(&root, rustix::ioctl::Setter::<FS_IOC_SHUTDOWN, u32>::new(NOLOGFLUSH))?;
        }
        Ok(())
    }

    /// Turns the power on again: unmounts and mounts, which replays the file system's journal.
    ///
    /// Whoever had files open must have closed them; this waits up to ten seconds for the last.
    ///
    /// # Errors
    /// When files stay open, or mounting fails.
    pub fn restore(&mut self) -> io::Result<()> {
        let give_up = Instant::now() + CLOSE_WAIT;
        while self.mounted {
            match run(Command::new(which("umount").unwrap_or_default()).arg(&self.mount)) {
                Ok(()) => self.mounted = false,
                Err(error) if Instant::now() > give_up => return Err(error),
                // A closed descriptor is released a moment after close(2) returns to another thread.
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        self.mount()
    }

    fn mount(&mut self) -> io::Result<()> {
        let mount = which("mount").unwrap_or_default();
        run(Command::new(mount).args(["-t", "ext4", "-o", "loop"]).arg(&self.image).arg(&self.mount))?;
        self.mounted = true;
        Ok(())
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a failing test may still hold files open, and must not leave the mount behind.
            let _ = run(Command::new(which("umount").unwrap_or_default()).arg("-l").arg(&self.mount));
        }
    }
}

/// A small file system of its own (tmpfs) that can be filled. Needs what [`PowerDisk`] needs.
#[derive(Debug)]
pub struct SmallDisk {
    mount: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts a tmpfs of `size_mib` MiB.
    ///
    /// # Errors
    /// When mounting fails.
    pub fn new(size_mib: u64) -> io::Result<Self> {
        let mount = tempfile::Builder::new().prefix("semel-small-").tempdir()?;
        let mut command = Command::new(which("mount").unwrap_or_default());
        run(command.args(["-t", "tmpfs", "-o", &format!("size={size_mib}m"), "tmpfs"]).arg(mount.path()))?;
        Ok(Self { mount })
    }

    /// The folder to keep files in.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.mount.path()
    }

    /// Fills it until only about `bytes` are free.
    ///
    /// # Errors
    /// When the file that fills it cannot be written for another reason than that it is full.
    pub fn leave_free(&self, bytes: u64) -> io::Result<()> {
        let stat = rustix::fs::statvfs(self.path())?;
        let mut left = (stat.f_bavail * stat.f_frsize).saturating_sub(bytes);
        let mut filler = File::options().create(true).append(true).open(self.filler())?;
        let block = vec![0x55; 64 * 1024];
        while left > 0 {
            let some = block.len().min(usize::try_from(left).unwrap_or(block.len()));
            match std::io::Write::write(&mut filler, &block[..some]) {
                Ok(written) => left -= written as u64,
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives the space back.
    ///
    /// # Errors
    /// When the file that fills it cannot be removed.
    pub fn free(&self) -> io::Result<()> {
        std::fs::remove_file(self.filler())
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run(Command::new(which("umount").unwrap_or_default()).arg("-l").arg(self.path()));
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{command:?} failed ({}): {}", output.status, said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_was_synced_survives_a_power_cut_and_the_rest_does_not() {
        if let Some(reason) = unavailable() {
            crate::skipped(&reason);
            return;
        }
        let mut disk = PowerDisk::new(16).unwrap();
        for cycle in 0..3 {
            let path = disk.path().join("log");
            let mut log = File::options().create(true).append(true).open(&path).unwrap();
            log.write_all(b"kept").unwrap();
            log.sync_all().unwrap();
            File::open(disk.path()).unwrap().sync_all().unwrap();
            log.write_all(b"lost").unwrap();
            disk.cut().unwrap();
            let refused = log.write_all(b"late").and_then(|()| log.sync_all());
            assert!(refused.is_err(), "a disk without power must not accept writes");
            drop(log);
            disk.restore().unwrap();
            let found = std::fs::read(&path).unwrap();
            assert_eq!(found, b"kept".repeat(cycle + 1), "cycle {cycle}");
        }
    }
}
