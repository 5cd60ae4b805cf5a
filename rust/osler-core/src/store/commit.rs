//! The commit, step by step, in the order of `FORMAT.md`: files written and synced under other names, renamed, their folders
//! synced; the manifest likewise, published by a name that must be free; then old files go.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::manifest::{Manifest, is_listable};
use super::{DRAFTS, MANIFESTS, Snapshot, Store, Writer, locked, name_of};
use crate::error::{Error, Result};
use crate::file::map::Map;
use crate::file::{self, Reader, Section, Written as Listed};
use crate::fs::{LockKind, folder_of};
use crate::planted::{Bug, planted};

/// What a step gave, or its error and whether the new state was published before it.
type Attempt<T> = std::result::Result<T, (Error, bool)>;

/// A file that a commit brings.
pub enum New<'a> {
    /// Sections to be written.
    Sections(Vec<Section<'a>>),
    /// A file that lies at a path that [`Store::draft_path`] gave.
    Draft(PathBuf),
}

/// What a commit changes.
#[derive(Default)]
pub struct Change<'a> {
    /// Number of the state that this was made of, where no other may be in force.
    pub parent: Option<u64>,
    /// The owner's part of the manifest.
    pub state: Vec<u8>,
    /// New files by their names.
    pub new: BTreeMap<String, New<'a>>,
    /// Names that the new state no longer lists.
    pub drop: Vec<String>,
    /// Whether no earlier state may be kept, nor what only it lists, even for those who still read it.
    pub forget: bool,
}

impl Store {
    /// Publishes one new state, durable when this returns.
    ///
    /// # Errors
    /// [`Error::Refused`] with code `read_only` or `write_failed` if nothing can be written, with `stale` if another state
    /// than the change's parent is in force; [`Error::Io`] and
    /// [`Error::Locked`]: nothing was published, and this handle writes no more; [`Error::CommitUnknown`]: it was, and
    /// may or may not survive. [`Error::Refused`] with code `not_erased`: it was, and something that must be forgotten
    /// could not be removed.
    pub fn commit(&self, change: Change<'_>, check: &dyn Fn() -> Result<()>) -> Result<()> {
        let writer = self.writer()?;
        let former = self.snapshot();
        for name in change.new.keys() {
            if !is_listable(name) || former.manifest.files.contains_key(name) {
                return Err(Error::input(format!("{name} is no name for a new file")));
            }
        }
        if change
            .parent
            .is_some_and(|parent| parent != former.manifest.number)
        {
            return Err(Error::Refused {
                code: "stale",
                message: format!(
                    "{} was changed meanwhile, and nothing of this change was written; try again",
                    name_of(&self.root)
                ),
            });
        }
        let number = former.manifest.number + u64::from(!planted(Bug::NumberUsedAgain));
        let oldest = match change.forget {
            true => number,
            false => former.manifest.oldest,
        };
        self.put_in_force(writer, change, number, oldest, check)
    }

    /// Publishes a state under a number of the caller's choice, which none has that is in force or was.
    pub(super) fn put_in_force(
        &self,
        mut writer: MutexGuard<'_, Writer>,
        change: Change<'_>,
        number: u64,
        oldest: u64,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let mut placed = Vec::new();
        match self.publish(change, number, oldest, check, &mut placed) {
            Ok(next) => {
                let forgets = next.manifest.oldest == next.manifest.number;
                self.current.store(Arc::new(next));
                self.collect();
                if forgets { self.forgotten() } else { Ok(()) }
            }
            Err((error, published)) => {
                // Who only stopped it may try again: no write failed.
                if published || !matches!(error, Error::Cancelled) {
                    self.poison(&mut writer);
                }
                if published {
                    return Err(Error::CommitUnknown(format!(
                        "the last change to {} may or may not last; open it again to see",
                        name_of(&self.root)
                    )));
                }
                for path in placed {
                    let _ = self.storage.remove(&path);
                }
                self.sweep_drafts();
                Err(error)
            }
        }
    }

    /// The writer, if a commit may be tried.
    pub(super) fn writer(&self) -> Result<MutexGuard<'_, Writer>> {
        let Some(writer) = &self.writer else {
            return Err(Error::Refused {
                code: "read_only",
                message: format!(
                    "{} was opened for reading; open it with mode='a' to change it",
                    name_of(&self.root)
                ),
            });
        };
        let writer = locked(writer);
        if let Some(refusal) = &writer.refusal {
            return Err(Error::Refused {
                code: "write_failed",
                message: refusal.clone(),
            });
        }
        Ok(writer)
    }

    /// # Errors
    /// Why no commit may be tried, with the code `read_only` or `write_failed`.
    pub fn check_writable(&self) -> Result<()> {
        self.writer().map(drop)
    }

    fn poison(&self, writer: &mut Writer) {
        if !planted(Bug::NotPoisoned) {
            writer.refusal = Some(format!(
                "an earlier write to {} failed; open it again to see what it holds",
                name_of(&self.root)
            ));
        }
    }

    fn publish(
        &self,
        change: Change<'_>,
        number: u64,
        oldest: u64,
        check: &dyn Fn() -> Result<()>,
        placed: &mut Vec<PathBuf>,
    ) -> Attempt<Snapshot> {
        let before = |error| (error, false);
        let former = self.snapshot();
        let mut files = former.manifest.files.clone();
        for name in &change.drop {
            files.remove(name);
        }
        let mut drafts = Vec::new();
        for (name, new) in change.new {
            let (draft, listed) = self.stage(new, check).map_err(before)?;
            files.insert(name.clone(), listed);
            drafts.push((draft, name));
        }
        let manifest = Manifest {
            number,
            id: self.random().map_err(before)?,
            collection: self.collection,
            parent: former.hash,
            oldest,
            files,
            state: change.state,
        };
        if planted(Bug::PublishedFirst) {
            self.show(&manifest, check)?;
        }
        self.place(drafts, placed).map_err(before)?;
        let (hash, draft) = if planted(Bug::PublishedFirst) {
            (former.hash, None)
        } else {
            let (hash, draft) = self.show(&manifest, check)?;
            (hash, Some(draft))
        };
        let after = |error| (Error::io("sync", &self.root, error), true);
        let folder = self.root.join(MANIFESTS);
        if !planted(Bug::ManifestsNotSynced) {
            self.storage.sync_folder(&folder).map_err(after)?;
        }
        if let Some(draft) = draft {
            // Only a second name, which the next sweep would remove as well.
            let _ = self.storage.remove(&draft);
        }
        let path = folder.join(Manifest::name(number));
        let readers = locked(&former.readers);
        let kept = readers.iter();
        let kept = kept.filter(|(name, _)| manifest.files.contains_key(*name));
        let readers = kept.map(|(name, reader)| (name.clone(), reader.clone()));
        Ok(Snapshot {
            storage: self.storage.clone(),
            root: self.root.clone(),
            hash,
            readers: Mutex::new(readers.collect::<HashMap<_, _>>()),
            _lease: self.storage.lock(&path, LockKind::Shared).ok(),
            manifest,
        })
    }

    /// Writes a file under a name of no meaning, durable but for that name.
    fn stage(&self, new: New<'_>, check: &dyn Fn() -> Result<()>) -> Result<(PathBuf, Listed)> {
        match new {
            New::Sections(sections) => {
                let draft = self.draft_path()?;
                let listed = file::create(&*self.storage, &draft, &sections, check)?;
                Ok((draft, listed))
            }
            New::Draft(draft) => {
                let synced = self.storage.sync_file(&draft);
                synced.map_err(|e| Error::io("sync", &self.root, e))?;
                let reader = Reader::new(Map::open(&*self.storage, &draft)?)?;
                let listed = Listed {
                    bytes: reader.length(),
                    root: reader.root(),
                };
                Ok((draft, listed))
            }
        }
    }

    /// Gives new files their names, durably.
    fn place(&self, drafts: Vec<(PathBuf, String)>, placed: &mut Vec<PathBuf>) -> Result<()> {
        let failed = |what, e: io::Error| Error::io(what, &self.root, e);
        for (draft, name) in drafts {
            let target = self.root.join(name);
            placed.push(target.clone());
            self.storage
                .rename(&draft, &target)
                .map_err(|e| failed("rename a file of", e))?;
        }
        let mut folders = placed
            .iter()
            .map(|path| folder_of(path))
            .collect::<Vec<_>>();
        folders.sort_unstable();
        folders.dedup();
        for folder in folders {
            if !planted(Bug::FolderNotSynced) {
                self.storage
                    .sync_folder(folder)
                    .map_err(|e| failed("sync", e))?;
            }
        }
        Ok(())
    }

    /// Writes a manifest and gives it the name by which it is seen; returns its hash and its other name.
    fn show(
        &self,
        manifest: &Manifest,
        check: &dyn Fn() -> Result<()>,
    ) -> Attempt<(super::Root, PathBuf)> {
        let before = |error| (error, false);
        let draft = self.draft_path().map_err(before)?;
        let tables = manifest.tables();
        let written = file::create(&*self.storage, &draft, &tables.sections(), check);
        let hash = written.map_err(before)?.root;
        let path = self
            .root
            .join(MANIFESTS)
            .join(Manifest::name(manifest.number));
        if planted(Bug::NumberUsedAgain) {
            let _ = self.storage.remove(&path);
        }
        let Err(error) = self.storage.link(&draft, &path) else {
            return Ok((hash, draft));
        };
        // A call may do its work and fail all the same, as when the answer of a server is lost.
        let another = match Map::read(&*self.storage, &path).and_then(Reader::new) {
            Ok(reader) => reader.root() != hash,
            Err(Error::Io { source, .. }) => source.kind() == ErrorKind::NotFound,
            // Bytes that are no manifest are not ours.
            Err(_) => true,
        };
        if !another {
            return Err((Error::io("publish", &self.root, error), true));
        }
        if error.kind() == ErrorKind::AlreadyExists {
            return Err(before(Error::Locked(format!(
                "another process wrote to {}; open it again",
                name_of(&self.root)
            ))));
        }
        Err(before(Error::io("publish", &self.root, error)))
    }

    pub(super) fn sweep_drafts(&self) {
        let folder = self.root.join(DRAFTS);
        for entry in self.storage.list(&folder).unwrap_or_default() {
            if !entry.folder {
                let _ = self.storage.remove(&folder.join(entry.name));
            }
        }
    }
}
