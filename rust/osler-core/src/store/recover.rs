//! An earlier state put in force again, on request: the way out where the newest manifest, or a file of it, is damaged.
//!
//! `FORMAT.md`, "The collection directory". Nothing does this by itself.

use std::path::Path;
use std::sync::Arc;

use super::manifest::Manifest;
use super::{Change, MANIFESTS, Snapshot, Store, damage, name_of, numbers, read_format, take_lock};
use crate::error::{Damage, Error, Result};
use crate::file::Reader;
use crate::file::map::Map;
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

/// The states that there are manifests of and that may be kept, the newest first, after reading every byte of each.
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
    let numbers = numbers(&**storage, root)?;
    let oldest = oldest_kept(&**storage, root, &numbers);
    for number in numbers.into_iter().filter(|&n| n >= oldest) {
        let (state, damage) = match Snapshot::of(storage, root, collection, number) {
            Ok(Some(snapshot)) => {
                let findings = needed(&snapshot, check)?;
                (Some(snapshot.manifest.state.clone()), findings)
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

/// All damage of what a state cannot do without.
fn needed(snapshot: &Snapshot, check: &dyn Fn() -> Result<()>) -> Result<Vec<Damage>> {
    // A later state may be there and damaged, so that what is missing here is damage whatever came later.
    let mut findings = snapshot.verify_with(check, &|file, problem| damage(file, problem))?;
    findings.retain(|one| !one.file.starts_with("graphs/"));
    Ok(findings)
}

/// The oldest commit that may be kept, by the word of every manifest that can be read: an erasure that was cut short is
/// not undone by going back behind it.
fn oldest_kept(storage: &dyn Storage, root: &Path, numbers: &[u64]) -> u64 {
    let read = |&number: &u64| {
        let path = root.join(MANIFESTS).join(Manifest::name(number));
        let manifest = Manifest::read(&Reader::new(Map::read(storage, &path).ok()?).ok()?).ok()?;
        (manifest.number == number).then_some(manifest.oldest)
    };
    numbers.iter().filter_map(read).max().unwrap_or(0)
}

/// Puts the state of an earlier commit in force again, as a commit of its own with a new number; returns that number.
///
/// # Errors
/// [`Error::Locked`]; [`Error::Input`] if there is no such state, it is damaged itself, or what it holds was erased since;
/// otherwise as [`Store::commit`].
pub fn recover(
    storage: &Arc<dyn Storage>,
    root: &Path,
    to: u64,
    check: &dyn Fn() -> Result<()>,
) -> Result<u64> {
    let collection = read_format(&**storage, root)?;
    let lock = take_lock(&**storage, root)?;
    let all = numbers(&**storage, root)?;
    let missing = || {
        Error::input(format!(
            "{} has no sound state {to}; list the states that it has",
            name_of(root)
        ))
    };
    let oldest = oldest_kept(&**storage, root, &all);
    if to < oldest {
        return Err(missing());
    }
    let snapshot = Snapshot::of(storage, root, collection, to)?.ok_or_else(missing)?;
    if !needed(&snapshot, check)?.is_empty() {
        return Err(missing());
    }
    let number = all.first().map_or(to, |&newest| newest.max(to)) + 1;
    let change = Change {
        state: snapshot.manifest.state.clone(),
        ..Change::default()
    };
    let store = Store::over(storage.clone(), root, collection, snapshot, Some(lock));
    store.make_folders()?;
    store.put_in_force(store.writer()?, change, number, oldest, check)?;
    Ok(number)
}
