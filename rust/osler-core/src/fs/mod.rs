//! Every file call there is: open, read, replace a file in one step, and files without a name.
//!
//! The only module that names `std::fs`.
#![allow(
    clippy::disallowed_methods,
    reason = "this is the place where files are touched"
)]

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Unfinished files of one name that a folder may hold.
const MAX_ATTEMPTS: u32 = 1000;

/// Opens a file for reading.
///
/// # Errors
/// [`Error::Io`].
pub fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| Error::io("open", path, e))
}

/// A file that is being written and has not yet got its name.
pub struct NewFile<'a> {
    file: BufWriter<File>,
    path: &'a Path,
}

impl NewFile<'_> {
    /// Writes at the end.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|e| Error::io("write", self.path, e))
    }

    /// Writes over the first bytes.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_start(&mut self, bytes: &[u8]) -> Result<()> {
        let write = |file: &mut BufWriter<File>| {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(bytes)?;
            file.flush()
        };
        write(&mut self.file).map_err(|e| Error::io("write", self.path, e))
    }
}

/// Writes a file beside `path`, syncs it, and renames it to `path`; on any failure `path` is as it was.
///
/// # Errors
/// [`Error::Io`], or what `write` returns.
pub fn replace(path: &Path, write: &mut dyn FnMut(&mut NewFile<'_>) -> Result<()>) -> Result<()> {
    let (file, beside) = temporary(path)?;
    let result = (|| {
        let mut new = NewFile {
            file: BufWriter::with_capacity(1 << 20, file),
            path,
        };
        write(&mut new)?;
        let file = new
            .file
            .into_inner()
            .map_err(|e| Error::io("write", path, e.into_error()))?;
        file.sync_all().map_err(|e| Error::io("sync", path, e))?;
        drop(file);
        fs::rename(&beside, path).map_err(|e| Error::io("rename", path, e))?;
        let folder = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        File::open(folder)
            .and_then(|f| f.sync_all())
            .map_err(|e| Error::io("sync", path, e))
    })();
    if result.is_err() {
        // The error that matters is the first one; a file that was renamed already is simply not there.
        let _ = fs::remove_file(&beside);
    }
    result
}

/// A temporary file that has no name: nobody else can open it, and it is gone with its last user.
pub struct Unlinked {
    file: BufWriter<File>,
    folder: PathBuf,
}

impl Unlinked {
    /// An empty file in the system's folder for temporary files, which `TMPDIR` names.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn new() -> Result<Self> {
        let folder = std::env::temp_dir();
        let (file, path) = temporary(&folder.join("osler-vectors"))?;
        fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        Ok(Unlinked {
            file: BufWriter::with_capacity(1 << 20, file),
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

/// A new file beside `path`, which nobody else has.
fn temporary(path: &Path) -> Result<(File, PathBuf)> {
    let name = path
        .file_name()
        .ok_or_else(|| Error::input("the path has no file name; give the file to write"))?;
    let mut attempt = 0;
    loop {
        let mut other = std::ffi::OsString::from(".");
        other.push(name);
        other.push(format!(".{}-{attempt}.tmp", std::process::id()));
        let candidate = path.with_file_name(other);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        match options.open(&candidate) {
            Ok(file) => return Ok((file, candidate)),
            Err(e) if e.kind() == ErrorKind::AlreadyExists && attempt < MAX_ATTEMPTS => {
                attempt += 1;
            }
            Err(e) => return Err(Error::io("write", path, e)),
        }
    }
}
