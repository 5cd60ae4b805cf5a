//! An earlier state put in force again, on request: the way out where the newest manifest, or a file of it, is damaged.
//!
//! `FORMAT.md`, "The collection directory". Nothing does this by itself.

use std::path::Path;
use std::sync::Arc;

use super::manifest::Manifest;
use super::{MANIFESTS, Snapshot, Store, name_of, numbers, read_format, take_lock};
use crate::error::{Damage, Error, Result};
use crate::file;
use crate::fs::Storage;

/// A state that a directory still has a manifest of.
pub struct Found {
    /// Its number.
    pub number: u64,
    /// What the owner keeps there; None where the manifest is damaged.
    pub state: Option<Vec<u8>>,
    /// All damage of the manifest and of its files but graphs, which can be made again.
    pub damage: Vec<Damage>,
}

/// The states that there are manifests of, the newest first, after reading every byte of each.
///
/// # Errors
/// [`Error::Io`], [`Error::Corrupt`] if the directory's own file is damaged, or what `check` returns.
pub fn states(
    storage: &Arc<dyn Storage>,
    root: &Path,
    check: &dyn Fn() -> Result<()>,
) -> Result<Vec<Found>> {
    let collection = read_format(&**storage, root)?;
    let mut found = Vec::new();
    for number in numbers(&**storage, root)? {
        let (state, damage) = match Snapshot::of(storage, root, collection, number) {
            Ok(Some(snapshot)) => {
                let mut damage = snapshot.verify(check)?;
                damage.retain(|one| !one.file.starts_with("graphs/"));
                (Some(snapshot.manifest.state.clone()), damage)
            }
            Ok(None) => continue,
            Err(Error::Corrupt(damage)) => (None, vec![*damage]),
            Err(error) => return Err(error),
        };
        found.push(Found {
            number,
            state,
            damage,
        });
    }
    Ok(found)
}

/// Puts the state of an earlier commit in force again, under a new number, and removes the manifests of later ones.
///
/// # Errors
/// [`Error::Locked`]; [`Error::Input`] if there is no such state, or it is damaged itself; [`Error::Io`].
pub fn recover(
    storage: &Arc<dyn Storage>,
    root: &Path,
    to: u64,
    check: &dyn Fn() -> Result<()>,
) -> Result<u64> {
    let collection = read_format(&**storage, root)?;
    let _lock = take_lock(&**storage, root)?;
    let all = numbers(&**storage, root)?;
    let snapshot = Snapshot::of(storage, root, collection, to);
    let missing = || {
        Error::input(format!(
            "{} has no sound state {to}; list the states that it has",
            name_of(root)
        ))
    };
    let snapshot = snapshot?.ok_or_else(missing)?;
    let damage = snapshot.verify(check)?;
    if damage.iter().any(|one| !one.file.starts_with("graphs/")) {
        return Err(missing());
    }
    let number = all.first().map_or(to, |&newest| newest.max(to)) + 1;
    let random = || storage.random().map_err(|e| Error::io("recover", root, e));
    let manifest = Manifest {
        number,
        id: random()?,
        collection,
        parent: snapshot.hash,
        oldest: snapshot.manifest.oldest,
        files: snapshot.manifest.files.clone(),
        state: snapshot.manifest.state.clone(),
    };
    let failed = |e| Error::io("recover", root, e);
    let draft = root.join(super::DRAFTS).join(format!("{:032x}", random()?));
    file::create(&**storage, &draft, &manifest.tables().sections(), check)?;
    let folder = root.join(MANIFESTS);
    let path = folder.join(Manifest::name(number));
    storage.link(&draft, &path).map_err(failed)?;
    storage.sync_folder(&folder).map_err(failed)?;
    for later in all.into_iter().filter(|&n| n > to) {
        // One that stays is older than the one in force, and is removed with the others later.
        let _ = storage.remove(&folder.join(Manifest::name(later)));
    }
    let _ = storage.remove(&draft);
    drop(_lock);
    drop(Store::open(storage.clone(), root, true)?);
    Ok(number)
}
