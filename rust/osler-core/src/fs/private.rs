//! A small file for its owner only, such as a key: made once, whole and durable, and never in another's place.

use std::io::{ErrorKind, Read};
use std::path::Path;

use super::{NewFile, Opened, Storage, folder_of};
use crate::error::{Error, Result, file_name};
use crate::planted::{Bug, planted};

/// Bytes that are read of such a file, whatever lies there.
const MOST_BYTES: u64 = 4096;
/// Hexadecimal digits of a draft's number.
const DIGITS: usize = 32;

/// Makes the file unless its name is taken, and returns the bytes that lie there, durable from then on.
///
/// # Errors
/// [`Error::Io`]; the file may be there all the same, and then lies whole.
pub fn keep(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<Vec<u8>> {
    sweep(storage, path);
    match read(storage, path) {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            make(storage, path, bytes)?;
        }
        other => {
            other?;
        }
    }
    if !planted(Bug::KeyNotSynced) {
        // Whoever made it may have been cut off before this.
        let synced = storage.sync_file(path);
        synced
            .and_then(|()| storage.sync_folder(folder_of(path)))
            .map_err(|e| Error::io("sync", path, e))?;
    }
    read(storage, path)
}

/// The first bytes of the file.
///
/// # Errors
/// [`Error::Io`], with [`ErrorKind::NotFound`] where there is none.
pub fn read(storage: &dyn Storage, path: &Path) -> Result<Vec<u8>> {
    let failed = |e| Error::io("read", path, e);
    match storage.open(path).map_err(failed)? {
        Opened::File(file) => {
            let mut bytes = Vec::new();
            file.take(MOST_BYTES)
                .read_to_end(&mut bytes)
                .map_err(failed)?;
            Ok(bytes)
        }
        Opened::Bytes(bytes) => Ok(bytes),
    }
}

/// Removes the file, if it is there.
///
/// # Errors
/// [`Error::Io`].
pub fn remove(storage: &dyn Storage, path: &Path) -> Result<()> {
    match storage.remove(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}

fn make(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<()> {
    let number = storage.random().map_err(|e| Error::io("write", path, e))?;
    let draft = path.with_file_name(format!("{}{number:0DIGITS$x}", draft_start(path)));
    let mut file = NewFile::create(storage, &draft, path)?;
    let made = file.append(bytes).and_then(|()| file.finish());
    let named = made.and_then(|()| match storage.link(&draft, path) {
        // Another was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|e| Error::io("write", path, e)),
    });
    // The error that matters is the first one.
    let _ = storage.remove(&draft);
    named
}

/// Removes what one that was cut off left behind.
fn sweep(storage: &dyn Storage, path: &Path) {
    let (folder, start) = (folder_of(path), draft_start(path));
    for entry in storage.list(folder).unwrap_or_default() {
        let number = entry.name.strip_prefix(&start);
        let is_draft = |number: &str| {
            number.len() == DIGITS && number.bytes().all(|digit| digit.is_ascii_hexdigit())
        };
        if !entry.folder && number.is_some_and(is_draft) {
            let _ = storage.remove(&folder.join(&entry.name));
        }
    }
}

fn draft_start(path: &Path) -> String {
    format!(".{}.", file_name(path))
}
