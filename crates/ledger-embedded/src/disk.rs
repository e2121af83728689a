//! The one place of this crate that touches files, by plain system calls: what is called is what a trace shows.

use crate::error::Error;
use rustix::{
    fd::OwnedFd,
    fs::{FlockOperation, Mode, OFlags},
    io::{Errno, IoSlice},
};
use std::{
    io::{self, IoSliceMut},
    path::{Path, PathBuf},
};

/// The unit in which batches are laid out: a torn write damages at most the blocks it covers, and no two batches
/// share one.
pub(crate) const BLOCK: usize = 4096;

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// An open file. Reads and writes name their place; there is no cursor.
#[derive(Debug)]
pub(crate) struct File {
    fd: OwnedFd,
    path: PathBuf,
}

impl File {
    /// Opens an existing file for reading and writing.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, OFlags::RDWR, "open")
    }

    /// Opens an existing file for reading.
    pub(crate) fn open_read(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, OFlags::RDONLY, "open")
    }

    /// Creates a file where there is none.
    pub(crate) fn create_new(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, "create")
    }

    /// Creates a file, or empties the one that is there.
    pub(crate) fn create(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC, "create")
    }

    fn open_with(path: &Path, flags: OFlags, action: &'static str) -> Result<Self, Error> {
        let fd = rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
            .map_err(|e| Error::io(action, path, e))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The length in bytes.
    pub(crate) fn len(&self) -> Result<u64, Error> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|e| Error::io("stat", &self.path, e))?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// Reads at most `buf.len()` bytes; fewer only at the end of the file.
    pub(crate) fn read_at(&self, buf: &mut [u8], at: u64) -> Result<usize, Error> {
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::preadv(&self.fd, &mut [IoSliceMut::new(&mut buf[done..])], at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::io("read", &self.path, e)),
            }
        }
        Ok(done)
    }

    /// Writes `bytes` and then zeros up to the next block boundary, in one call, so that the kernel never has to read
    /// a page back in order to change a part of it.
    pub(crate) fn write_block_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let total = bytes.len().next_multiple_of(BLOCK);
        let mut done = 0;
        while done < total {
            let tail_from = done.max(bytes.len());
            let parts =
                [IoSlice::new(bytes.get(done..).unwrap_or_default()), IoSlice::new(&ZEROS[..total - tail_from])];
            match rustix::io::pwritev(&self.fd, &parts, at + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Fills `[from, to)` with written zeros. Preallocation alone would leave unwritten extents, whose conversion puts
    /// the file system's journal into every later flush.
    pub(crate) fn write_zeros(&self, from: u64, to: u64) -> Result<(), Error> {
        const CHUNK: usize = 1 << 20;
        let zeros = vec![0u8; CHUNK.min(usize::try_from(to - from).unwrap_or(CHUNK))];
        let mut at = from;
        while at < to {
            let len = zeros.len().min(usize::try_from(to - at).unwrap_or(CHUNK));
            match rustix::io::pwrite(&self.fd, &zeros[..len], at) {
                Ok(n) => at += n as u64,
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::io("extend", &self.path, e)),
            }
        }
        Ok(())
    }

    /// `fdatasync`: the bytes are on stable storage when it returns, or the caller must assume nothing.
    pub(crate) fn sync_data(&self) -> io::Result<()> {
        rustix::fs::fdatasync(&self.fd).map_err(io::Error::from)
    }
}

/// The exclusive lock of a file, held until dropped or until the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// Takes the lock, creating the file if need be; `None`: somebody else has it.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Self>, Error> {
        let file = File::open_with(path, OFlags::RDWR | OFlags::CREATE, "open")?;
        match rustix::fs::flock(&file.fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(Error::io("lock", path, e)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would do, were there no moment in which a process being started holds a copy of every descriptor.
        let _ = rustix::fs::flock(&self.0.fd, FlockOperation::Unlock);
    }
}

/// Reads a whole small file; `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let file = match File::open_read(path) {
        Ok(file) => file,
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
    let n = file.read_at(&mut bytes, 0)?;
    bytes.truncate(n);
    Ok(Some(bytes))
}

/// Writes a whole small file under a new name and makes both the bytes and the name durable.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let file = File::create(path)?;
    file.write_block_at(bytes, 0).map_err(|e| Error::io("write", path, e))?;
    rustix::fs::ftruncate(&file.fd, bytes.len() as u64).map_err(|e| Error::io("write", path, e))?;
    rustix::fs::fsync(&file.fd).map_err(|e| Error::io("sync", path, e))?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Makes the names in a folder durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), Error> {
    let dir = File::open_with(path, OFlags::RDONLY | OFlags::DIRECTORY, "open")?;
    rustix::fs::fsync(&dir.fd).map_err(|e| Error::io("sync", path, e))
}

/// Creates a folder (and its parents) readable by its owner only.
pub(crate) fn create_dir(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| Error::io("create", path, e))
}

/// The names in a folder, sorted. A missing folder has none.
pub(crate) fn list(path: &Path) -> Result<Vec<String>, Error> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list", path, e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("list", path, e))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Gives a file its final name. Durable after [`sync_dir`].
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    rustix::fs::rename(from, to).map_err(|e| Error::io("rename", from, e))
}

/// Lets two names change places, at once. Durable after [`sync_dir`].
pub(crate) fn exchange(one: &Path, other: &Path) -> Result<(), Error> {
    let flags = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(rustix::fs::CWD, one, rustix::fs::CWD, other, flags)
        .map_err(|e| Error::io("exchange", one, e))
}

/// Whether there is a folder of this name.
pub(crate) fn is_dir(path: &Path) -> bool {
    path.is_dir()
}

/// Removes a folder and all in it; a missing one is fine.
pub(crate) fn remove_dir_all(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("remove", path, e)),
    }
}

/// Removes a file; a missing one is fine.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::io("remove", path, e)),
    }
}

/// Bytes that an unprivileged process may still write on the disk of `path`.
pub(crate) fn free_bytes(path: &Path) -> Result<u64, Error> {
    let stat = rustix::fs::statvfs(path).map_err(|e| Error::io("stat", path, e))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
