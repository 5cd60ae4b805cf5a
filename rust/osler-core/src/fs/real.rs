//! The file system of the machine. The only module that calls `std::fs`.
#![allow(
    clippy::disallowed_methods,
    reason = "this is the place where files are touched"
)]

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use super::{Entry, Lock, LockKind, Opened, Sink, Storage};
use crate::error::{Error, Result};

/// Owner only, whatever the mask of the process takes away.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// Unfinished files that a folder may hold.
const MAX_ATTEMPTS: u32 = 1000;

/// The file system of the machine.
pub struct Real;

impl Storage for Real {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        Ok(Box::new(new_file(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Opened> {
        File::open(path).map(Opened::File)
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        let found = fs::symlink_metadata(path)?;
        if found.is_file() {
            Ok(found.len())
        } else {
            Err(io::Error::new(ErrorKind::InvalidData, "it is no file"))
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(FOLDER_MODE).create(path)?;
        let _ = fs::set_permissions(path, Permissions::from_mode(FOLDER_MODE));
        Ok(())
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            // A name that is no text is none of ours.
            if let Ok(name) = entry.file_name().into_string() {
                let folder = entry.file_type()?.is_dir();
                found.push(Entry { name, folder });
            }
        }
        found.sort();
        Ok(found)
    }

    fn lock(&self, path: &Path, kind: LockKind) -> io::Result<Box<dyn Lock>> {
        let mut options = OpenOptions::new();
        options.read(true).write(kind == LockKind::Alone);
        let file = options.open(path)?;
        let taken = match kind {
            LockKind::Alone => file.try_lock(),
            LockKind::Shared => file.try_lock_shared(),
        };
        match taken {
            Ok(()) => Ok(Box::new(Held::new(file))),
            Err(TryLockError::WouldBlock) => Err(ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    fn random(&self) -> io::Result<u128> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(u128::from_le_bytes(bytes))
    }
}

impl Sink for File {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    let file = options.mode(FILE_MODE).open(path)?;
    // The mask may have taken more away; a file system that decides on its own who may read need not let us.
    let _ = file.set_permissions(Permissions::from_mode(FILE_MODE));
    Ok(file)
}

/// A lock, which belongs to the open file: a forked child shares it.
struct Held {
    file: Arc<Mutex<Option<File>>>,
    process: u32,
}

/// Locks of this process, for [`forget_locks`].
static HELD: Mutex<Vec<Weak<Mutex<Option<File>>>>> = Mutex::new(Vec::new());

impl Held {
    fn new(file: File) -> Self {
        let shared = Arc::new(Mutex::new(Some(file)));
        if let Ok(mut held) = HELD.lock() {
            held.retain(|one| one.strong_count() > 0);
            held.push(Arc::downgrade(&shared));
        }
        Held {
            file: shared,
            process: std::process::id(),
        }
    }
}

impl Lock for Held {
    fn note(&self, text: &str) -> io::Result<()> {
        match self.file.lock().as_deref() {
            Ok(Some(file)) => {
                file.set_len(0)?;
                file.write_all_at(text.as_bytes(), 0)
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Not by closing alone: a child that was forked meanwhile may have the file open too. And not in that child, whose
        // copy of the mutex may be held by a thread that it does not have.
        if self.process == std::process::id()
            && let Ok(file) = self.file.lock()
            && let Some(file) = file.as_ref()
        {
            let _ = file.unlock();
        }
    }
}

/// What a forked child does first: closes the locks of its parent without giving them up, so that they end with the parent.
pub fn forget_locks() {
    // A thread of the parent may have been in the middle of taking one; that one stays open here.
    if let Ok(held) = HELD.try_lock() {
        for one in held.iter().filter_map(Weak::upgrade) {
            if let Ok(mut file) = one.try_lock() {
                *file = None;
            }
        }
    }
}

/// A temporary file that has no name: nobody else can open it, and it is gone with its last user.
pub struct Unlinked {
    file: io::BufWriter<File>,
    folder: PathBuf,
}

impl Unlinked {
    /// An empty file in the system's folder for temporary files, which `TMPDIR` names.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn new() -> Result<Self> {
        let folder = std::env::temp_dir();
        let mut attempt = 0;
        let (path, file) = loop {
            let name = format!(".osler-vectors.{}-{attempt}.tmp", std::process::id());
            let path = folder.join(name);
            match new_file(&path) {
                Ok(file) => break (path, file),
                Err(e) if e.kind() == ErrorKind::AlreadyExists && attempt < MAX_ATTEMPTS => {
                    attempt += 1;
                }
                Err(e) => return Err(Error::io("write", &path, e)),
            }
        };
        fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        Ok(Unlinked {
            file: io::BufWriter::with_capacity(1 << 20, file),
            folder,
        })
    }

    /// Writes at the end.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes);
        written.map_err(|e| Error::io("write a temporary file in", &self.folder, e))
    }

    /// The file with all that was written.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(self) -> Result<File> {
        let Unlinked { file, folder } = self;
        let flushed = file.into_inner();
        flushed.map_err(|e| Error::io("write a temporary file in", &folder, e.into_error()))
    }
}
