//! Every call that makes, names or removes a file, and every opening of one by its name, behind one trait: the real storage, and for tests one in memory that fails and loses power.
//!
//! Errors below [`Storage`] are the system's; above it they name the file without its folder.

pub mod private;
pub mod real;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::io::{self, ErrorKind};
use std::path::Path;

use crate::error::{Error, Result};
use crate::planted::{Bug, planted};

/// Bytes that a new file gathers before it writes.
const BUFFER_BYTES: usize = 1 << 20;
/// Unfinished files of one name that a folder may hold.
const MAX_ATTEMPTS: u32 = 1000;

/// What the engine asks of a file system.
pub trait Storage: Send + Sync {
    /// Makes a file that must not be there yet, for its owner only.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>>;
    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<Opened>;
    /// Bytes of a file.
    fn length(&self, path: &Path) -> io::Result<u64>;
    /// Gives a file another name, in place of the file that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name; fails with [`ErrorKind::AlreadyExists`] if that is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name of a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder that must not be there yet, for its owner only.
    fn make_folder(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// Makes a file's bytes durable.
    fn sync_file(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder, in order.
    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>>;
    /// Locks a file; fails with [`ErrorKind::WouldBlock`] if another holds a lock against it.
    fn lock(&self, path: &Path, kind: LockKind) -> io::Result<Box<dyn Lock>>;
    /// A number that nobody can foresee.
    fn random(&self) -> io::Result<u128>;
}

/// A new file that is being written.
pub trait Sink: Send {
    /// Writes some bytes at an offset and says how many.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<usize>;
    /// Makes all that was written durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file opened for reading.
pub enum Opened {
    /// Of the system, to be mapped or read.
    File(std::fs::File),
    /// Bytes in memory.
    Bytes(Vec<u8>),
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// Whether it is a folder's.
    pub folder: bool,
}

/// What a lock keeps out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Every other lock.
    Alone,
    /// A lock of one who wants to be alone.
    Shared,
}

/// A lock that is held; dropping it gives it up.
pub trait Lock: Send + Sync {
    /// Writes a note for those who find the file locked.
    fn note(&self, text: &str) -> io::Result<()>;
}

/// A file that is being written and has not yet got its name.
pub struct NewFile<'a> {
    sink: Box<dyn Sink>,
    buffer: Vec<u8>,
    written: u64,
    path: &'a Path,
}

impl<'a> NewFile<'a> {
    /// Makes the file `beside`; messages name `path`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(storage: &dyn Storage, beside: &Path, path: &'a Path) -> Result<Self> {
        let sink = storage
            .create(beside)
            .map_err(|e| Error::io("write", path, e))?;
        Ok(NewFile {
            sink,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            written: 0,
            path,
        })
    }

    /// Writes at the end.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush()?;
        }
        if bytes.len() >= BUFFER_BYTES {
            let at = self.written;
            self.written += bytes.len() as u64;
            return self.write(at, bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes over the first bytes.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_start(&mut self, bytes: &[u8]) -> Result<()> {
        self.flush()?;
        self.write(0, bytes)
    }

    /// Makes the file durable under the name that it has.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        if planted(Bug::FileNotSynced) {
            return Ok(());
        }
        self.sink
            .sync()
            .map_err(|e| Error::io("sync", self.path, e))
    }

    fn flush(&mut self) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let at = self.written;
        self.written += buffer.len() as u64;
        let written = self.write(at, &buffer);
        self.buffer = buffer;
        self.buffer.clear();
        written
    }

    fn write(&mut self, mut at: u64, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match self.sink.write_at(at, bytes) {
                Ok(0) => return Err(Error::io("write", self.path, ErrorKind::WriteZero.into())),
                Ok(count) => {
                    at += count as u64;
                    bytes = &bytes[count..];
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("write", self.path, e)),
            }
        }
        Ok(())
    }
}

/// Writes a file beside `path`, syncs it, and renames it to `path`; on any failure before the rename `path` is as it was.
///
/// # Errors
/// [`Error::Io`], or what `write` returns.
pub fn replace(
    storage: &dyn Storage,
    path: &Path,
    write: &mut dyn FnMut(&mut NewFile<'_>) -> Result<()>,
) -> Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| Error::input("the path has no file name; give the file to write"))?;
    for attempt in 0..MAX_ATTEMPTS {
        let mut other = std::ffi::OsString::from(".");
        other.push(name);
        other.push(format!(".{}-{attempt}.tmp", std::process::id()));
        let beside = path.with_file_name(other);
        let mut file = match NewFile::create(storage, &beside, path) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => continue,
            other => other?,
        };
        let written = write(&mut file).and_then(|()| file.finish());
        let renamed = written.and_then(|()| {
            let renamed = storage.rename(&beside, path);
            renamed.map_err(|e| Error::io("rename", path, e))
        });
        if let Err(error) = renamed {
            // The error that matters is the first one.
            let _ = storage.remove(&beside);
            return Err(error);
        }
        let synced = storage.sync_folder(folder_of(path));
        return synced.map_err(|e| Error::io("sync", path, e));
    }
    Err(Error::io("write", path, ErrorKind::AlreadyExists.into()))
}

/// The folder that a path lies in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}
