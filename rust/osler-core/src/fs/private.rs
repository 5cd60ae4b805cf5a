//! A small file for its owner only, such as a key: made once, whole and durable, and never in another's place.

use std::io::{self, ErrorKind, Read};
use std::path::Path;

use super::{NewFile, Opened, Storage, folder_of};
use crate::error::{Error, Result, file_name};
use crate::planted::{Bug, planted};

/// Bytes that are read of such a file, whatever lies there.
const MOST_BYTES: u64 = 4096;
/// Hexadecimal digits of a draft's number.
const DIGITS: usize = 16;
/// How often one tries whose draft another takes for one that was left behind.
const MAX_ATTEMPTS: usize = 16;

/// Makes the file unless its name is taken, and returns the bytes that lie there, durable from then on; no draft is left.
///
/// # Errors
/// [`Error::Io`]; the file may be there all the same, and then lies whole.
pub fn keep(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<Vec<u8>> {
    let failed = |e| Error::io("write", path, e);
    sweep(storage, path).map_err(failed)?;
    let mut attempts = 0;
    let found = loop {
        match read(storage, path) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            other => break other?,
        }
        if let Err(error) = make(storage, path, bytes)? {
            attempts += 1;
            if attempts == MAX_ATTEMPTS {
                return Err(failed(error));
            }
        }
    };
    if !planted(Bug::KeyNotSynced) {
        // Whoever made it may have been cut off before this.
        let synced = storage.sync_file(path);
        synced
            .and_then(|()| storage.sync_folder(folder_of(path)))
            .map_err(|e| Error::io("sync", path, e))?;
    }
    Ok(found)
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
    gone(storage.remove(path)).map_err(|e| Error::io("remove", path, e))
}

/// Makes the file; the inner error is that of one who was in the way, and may be gone.
fn make(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<io::Result<()>> {
    let failed = |e| Error::io("write", path, e);
    let number = storage.random().map_err(failed)? as u64;
    let draft = path.with_file_name(format!("{}{number:0DIGITS$x}", draft_start(path)));
    let mut file = NewFile::create(storage, &draft, path)?;
    let made = file.append(bytes).and_then(|()| file.finish());
    let named = made.map(|()| storage.link(&draft, path));
    let removed = storage.remove(&draft);
    let in_the_way = [ErrorKind::AlreadyExists, ErrorKind::NotFound];
    match named? {
        Err(error) if !in_the_way.contains(&error.kind()) => Err(failed(error)),
        named => gone(removed).map_err(failed).map(|()| named),
    }
}

/// Removes what one that was cut off left behind.
fn sweep(storage: &dyn Storage, path: &Path) -> io::Result<()> {
    let (folder, start) = (folder_of(path), draft_start(path));
    for entry in storage.list(folder)? {
        let number = entry.name.strip_prefix(&start);
        let is_draft = |number: &str| {
            number.len() == DIGITS && number.bytes().all(|digit| digit.is_ascii_hexdigit())
        };
        if !entry.folder && number.is_some_and(is_draft) {
            gone(storage.remove(&folder.join(&entry.name)))?;
        }
    }
    Ok(())
}

/// What removing a file came to, if it does not matter who did it.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn draft_start(path: &Path) -> String {
    format!(".{}.", file_name(path))
}
