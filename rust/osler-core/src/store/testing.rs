//! What a power cut may leave of a directory, checked: the state of the last call that returned, or that of the one that was
//! interrupted, whole. For tests only.
//!
//! Opens what a [`Memory`] says is left; changes nothing that is real.

use std::path::PathBuf;
use std::sync::Arc;

use super::manifest::Manifest;
use super::{Change, MANIFESTS, Snapshot, Store};
use crate::error::{Damage, Error, Result};
use crate::file::map::Map;
use crate::file::testing::Loose;
use crate::file::{self, Reader, Written};
use crate::fs::Storage;
use crate::fs::testing::Memory;
use crate::index::Index;
use crate::pool::Control;
use crate::random::Stream;

/// A call that returned.
#[derive(Clone, Copy, Debug)]
pub struct Returned {
    /// Number of the commit in force then.
    pub number: u64,
    /// Its id.
    pub id: u128,
    /// Steps of the file system that were done then.
    pub steps: usize,
}

/// What was done to a directory.
pub struct History {
    /// The file system, which remembers every step.
    pub memory: Memory,
    /// The directory.
    pub root: PathBuf,
    /// The calls, in order.
    pub calls: Vec<Returned>,
}

fn go_on() -> Result<()> {
    Ok(())
}

impl History {
    fn open(&self, memory: &Memory, writable: bool) -> Result<Store> {
        Store::open(Arc::new(memory.clone()), &self.root, writable)
    }

    fn whole(snapshot: &Snapshot) -> std::result::Result<(), String> {
        match snapshot.verify(&go_on) {
            Ok(findings) if findings.is_empty() => Ok(()),
            Ok(findings) => Err(findings[0].to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The commit in force in what is left after `steps` steps; None where there may be no collection yet.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, left: &Memory, steps: usize) -> std::result::Result<Option<u64>, String> {
        let returned = self.calls.partition_point(|call| call.steps <= steps);
        let store = match self.open(left, false) {
            Ok(store) => store,
            Err(_) if returned == 0 => return Ok(None),
            Err(error) => return Err(format!("it cannot be opened: {error}")),
        };
        let snapshot = store.snapshot();
        let manifest = snapshot.manifest();
        let low = self.calls[..returned].last().map_or(0, |call| call.number);
        let high = self.calls.get(returned).map_or(low, |call| call.number);
        if !(low..=high).contains(&manifest.number) {
            return Err(format!(
                "commit {} is found where {low} was returned and {high} was under way",
                manifest.number
            ));
        }
        let same = |call: &&Returned| call.number == manifest.number;
        if self
            .calls
            .iter()
            .find(same)
            .is_some_and(|call| call.id != manifest.id)
        {
            return Err(format!(
                "commit {} is not the one that was made",
                manifest.number
            ));
        }
        Self::whole(&snapshot)?;
        Ok(Some(manifest.number))
    }

    /// Cuts the power once after `steps` steps, and again while a writer opens what was left, and commits after that.
    /// Returns how many states were looked at.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn power_cut(
        &self,
        steps: usize,
        stream: &mut Stream,
    ) -> std::result::Result<usize, String> {
        let mut choose = |n: usize| stream.below(n as u64) as usize;
        let left = self.memory.after_power_cut(steps, &mut choose);
        let number = self.check(&left, steps)?;
        let writer = match self.open(&left, true) {
            Ok(writer) => writer,
            Err(_) if number.is_none() => return Ok(1),
            Err(error) => return Err(format!("it cannot be opened for writing: {error}")),
        };
        let before = left.steps();
        let cut = left.after_power_cut(choose(before + 1), &mut choose);
        let again = self.check(&cut, steps)?;
        if again != number {
            return Err(format!("commit {number:?} became {again:?} by opening"));
        }
        let state = writer.snapshot();
        let next = state.manifest().number + 1;
        let change = Change {
            state: state.manifest().state.clone(),
            ..Change::default()
        };
        let text = |error: Error| error.to_string();
        writer.commit(change, &go_on).map_err(text)?;
        drop(writer);
        let writer = self.open(&left, true).map_err(text)?;
        if writer.snapshot().manifest().number != next {
            return Err("a commit after it is lost".to_owned());
        }
        Ok(2)
    }
}

/// Whether damage of one file is seen: in a directory, or of an index that is that file.
pub struct Damaged {
    /// The file system.
    pub memory: Memory,
    /// The directory, or the index.
    pub path: PathBuf,
    /// The file below the directory; none: the path is that of an index.
    pub file: Option<String>,
}

impl Damaged {
    /// Changes what a listed file says, under right checksums, and lists it in the newest manifest as it is then.
    ///
    /// # Errors
    /// There is no such file.
    pub fn change_listed(&self, seed: u64) -> std::result::Result<(), String> {
        let text = |error: Error| error.to_string();
        let mut loose = Loose::of(&self.bytes()?).map_err(text)?;
        let mut stream = Stream::new(seed, 5, 0);
        for _ in 0..=stream.below(2) {
            loose.change(&mut stream);
        }
        let bytes = loose.to_bytes();
        let reader = Reader::new(Map::owned(&bytes, "the file")).map_err(text);
        let listed = reader.map_or([0; 32], |reader| reader.root());
        let storage: Arc<dyn Storage> = Arc::new(self.memory.clone());
        let store = Store::open(storage, &self.path, false).map_err(text)?;
        let mut manifest = store.snapshot().manifest().clone();
        let file = self.file.clone().unwrap_or_default();
        let written = Written {
            bytes: bytes.len() as u64,
            root: listed,
        };
        manifest.files.insert(file, written);
        let tables = manifest.tables();
        let named = file::to_bytes(&tables.sections(), &go_on).map_err(text)?;
        let name = self
            .path
            .join(MANIFESTS)
            .join(Manifest::name(manifest.number));
        self.memory.overwrite(&self.full(), bytes);
        self.memory.overwrite(&name, named);
        Ok(())
    }

    fn full(&self) -> PathBuf {
        match &self.file {
            Some(file) => self.path.join(file),
            None => self.path.clone(),
        }
    }

    /// The bytes that there are.
    ///
    /// # Errors
    /// There is no such file.
    pub fn bytes(&self) -> std::result::Result<Vec<u8>, String> {
        let full = self.full();
        let mut files = self.memory.files().into_iter();
        let found = files.find(|(path, _)| *path == full);
        found
            .map(|(_, bytes)| bytes.to_vec())
            .ok_or_else(|| format!("there is no file {}", full.display()))
    }

    fn findings(&self) -> Result<Vec<Damage>> {
        let control = Control::default();
        match &self.file {
            Some(_) => {
                let store = Store::open(Arc::new(self.memory.clone()), &self.path, false)?;
                store.snapshot().verify(&go_on)
            }
            None => Index::open(&self.memory, &self.path, true, &control)?.verify(&control),
        }
    }

    /// Puts other bytes in the file's place, and looks whether that is refused and the file named.
    ///
    /// # Errors
    /// It is not; `why` says what the bytes are.
    pub fn refuses(&self, bytes: Vec<u8>, why: &str) -> std::result::Result<(), String> {
        let length = bytes.len() as u64;
        self.memory.overwrite(&self.full(), bytes);
        let damage = match self.findings() {
            Ok(findings) => findings.into_iter().next(),
            Err(Error::Corrupt(damage)) => Some(*damage),
            Err(error) => return Err(format!("{why}: {error}")),
        };
        let Some(damage) = damage else {
            return Err(format!("{why}: it passes"));
        };
        let name = crate::error::file_name(&self.full());
        let named = self.file.as_ref().unwrap_or(&name);
        if damage.file != *named || damage.section.is_empty() || damage.offset > length {
            return Err(format!("{why}: it is told as {damage}"));
        }
        Ok(())
    }

    /// Flips each bit of a range, one at a time; returns how many.
    ///
    /// # Errors
    /// A flip that is not seen.
    pub fn flips(&self, bits: std::ops::Range<usize>) -> std::result::Result<usize, String> {
        let original = self.bytes()?;
        let bits = bits.start..bits.end.min(8 * original.len());
        let count = bits.len();
        for bit in bits {
            let mut bytes = original.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            self.refuses(bytes, &format!("bit {bit}"))?;
        }
        self.memory.overwrite(&self.full(), original);
        Ok(count)
    }
}
