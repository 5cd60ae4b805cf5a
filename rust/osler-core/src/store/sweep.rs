//! What a writer removes: drafts of earlier writers, old manifests, and files that none of the others lists.
//!
//! Failures are not told: what could not be removed now is found again by the next writer.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::manifest::{FOLDERS, Manifest, is_listable};
use super::{DRAFTS, MANIFESTS, Store, name_of, numbers};
use crate::error::{Error, Result};
use crate::file::Reader;
use crate::file::map::Map;
use crate::fs::{Lock, LockKind, Storage};
use crate::planted::{Bug, planted};

/// Manifests that outlive their successor, so that a reader that just found one still finds its files.
const RETAINED: usize = 4;

impl Store {
    /// Removes what earlier writers left unfinished, and what [`Store::collect`] does.
    pub(super) fn sweep(&self) {
        self.sweep_drafts();
        self.collect();
    }

    /// Removes manifests beyond the retained ones that no reader holds, then the files that no manifest lists.
    pub(super) fn collect(&self) {
        let storage = &*self.storage;
        let Ok(numbers) = numbers(storage, &self.root) else {
            return;
        };
        let folder = self.root.join(MANIFESTS);
        let oldest = self.snapshot().manifest.oldest;
        let mut live = BTreeSet::new();
        for (at, number) in numbers.into_iter().enumerate() {
            let path = folder.join(Manifest::name(number));
            let wanted = number >= oldest || planted(Bug::OldStateKept);
            // Held until it is removed, so that no reader finds it meanwhile.
            let alone = match wanted && at >= RETAINED {
                true => self.alone(&path),
                false => None,
            };
            let kept = wanted && alone.is_none();
            if !kept && storage.remove(&path).is_ok() || !wanted {
                // What was erased goes though somebody could still find it by a manifest that does not go.
                continue;
            }
            match Map::read(storage, &path).and_then(|map| Manifest::read(&Reader::new(map)?)) {
                Ok(manifest) => live.extend(manifest.files.into_keys()),
                // What it lists is not known, so nothing can be called unlisted.
                Err(_) => return,
            }
        }
        for name in self.files().unwrap_or_default() {
            if !live.contains(&name) {
                let _ = storage.remove(&self.root.join(name));
            }
        }
    }

    /// # Errors
    /// [`Error::Refused`] if there is a manifest that may not be kept, or a file that the others do not list, or if their
    /// removal may not last.
    pub(super) fn forgotten(&self) -> Result<()> {
        if planted(Bug::OldStateKept) {
            return Ok(());
        }
        let storage = &*self.storage;
        let left = |what: &str| Error::Refused {
            code: "not_erased",
            message: format!(
                "{what} of {} could not be removed, and still holds what was erased; remove what keeps it and open the \
                 collection for writing, which tries again",
                name_of(&self.root)
            ),
        };
        let state = self.snapshot();
        let manifests = numbers(storage, &self.root).map_err(|_| left(MANIFESTS))?;
        if let Some(old) = manifests.iter().find(|&&n| n < state.manifest.oldest) {
            return Err(left(&format!("{MANIFESTS}/{}", Manifest::name(*old))));
        }
        let unlisted = |name: &&String| !state.manifest.files.contains_key(*name);
        let files = self.files().map_err(|_| left("a folder"))?;
        if let Some(name) = files.iter().find(unlisted) {
            return Err(left(name));
        }
        self.sweep_drafts();
        let drafts = storage.list(&self.root.join(DRAFTS));
        let drafts = drafts.map_err(|_| left(DRAFTS))?;
        if let Some(draft) = drafts.iter().find(|entry| !entry.folder) {
            return Err(left(&format!("{DRAFTS}/{}", draft.name)));
        }
        for folder in FOLDERS.into_iter().chain([MANIFESTS, DRAFTS]) {
            let synced = storage.sync_folder(&self.root.join(folder));
            synced.map_err(|_| left(folder))?;
        }
        Ok(())
    }

    /// A lock on a manifest that no reader holds.
    fn alone(&self, manifest: &Path) -> Option<Box<dyn Lock>> {
        let kind = match planted(Bug::LeaseIgnored) {
            true => LockKind::Shared,
            false => LockKind::Alone,
        };
        self.storage.lock(manifest, kind).ok()
    }

    /// Files of ours that there are, by name.
    fn files(&self) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for folder in FOLDERS {
            for entry in self.storage.list(&self.root.join(folder))? {
                let name = format!("{folder}/{}", entry.name);
                if !entry.folder && is_listable(&name) {
                    found.push(name);
                }
            }
        }
        Ok(found)
    }
}

/// Removes a folder that nobody else knows, and what is in it.
pub(super) fn remove_tree(storage: &dyn Storage, folder: &Path) {
    for entry in storage.list(folder).unwrap_or_default() {
        let path = folder.join(entry.name);
        if entry.folder {
            remove_tree(storage, &path);
        } else {
            let _ = storage.remove(&path);
        }
    }
    let _ = storage.remove_folder(folder);
}
