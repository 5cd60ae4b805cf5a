//! What a power cut leaves of a file system in memory.
//!
//! What is durable follows POSIX: bytes by syncing the file, names by syncing the folder. Of what was done since, a power
//! cut keeps any part: of bytes any sectors of 512, of names any, but never neither of the two of a rename.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::{Disk, Inode, Memory, Step};
use crate::fs::folder_of;

impl Memory {
    /// What is left after a power cut when `steps` steps were done; `choose(n)` gives a number below n.
    pub fn after_power_cut(&self, steps: usize, choose: &mut dyn FnMut(usize) -> usize) -> Memory {
        let disk = self.disk();
        let start = disk.durable.as_deref();
        let mut left = Disk {
            files: start.map(|d| d.files.clone()).unwrap_or_default(),
            folders: start.map(|d| d.folders.clone()).unwrap_or_default(),
            contents: start.map(|d| d.contents.clone()).unwrap_or_default(),
            random: disk.random ^ choose(usize::MAX) as u64,
            ..Disk::default()
        };
        left.contents.resize(disk.contents.len(), Arc::default());
        let log = &disk.log[..steps.min(disk.log.len())];
        let (mut bytes, mut names) = (BTreeMap::<Inode, Vec<usize>>::new(), Vec::<Step>::new());
        for (at, step) in log.iter().enumerate() {
            match step {
                Step::Write(inode, ..) => bytes.entry(*inode).or_default().push(at),
                Step::Sync(inode) => {
                    for at in bytes.remove(inode).unwrap_or_default() {
                        left.write(&log[at], &mut |_| true);
                    }
                }
                Step::Unsynced(inode) => drop(bytes.remove(inode)),
                Step::SyncFolder(folder) => {
                    for step in std::mem::take(&mut names) {
                        names.extend(left.synced(step, folder));
                    }
                }
                _ => names.push(step.clone()),
            }
        }
        // Nothing, everything and any part are all worth trying.
        let mut lands = |mode: usize| match mode {
            0 => false,
            1 => true,
            _ => choose(2) == 1,
        };
        let modes = [choose_mode(&mut lands), choose_mode(&mut lands)];
        for at in bytes.into_values().flatten() {
            left.write(&log[at], &mut |_| lands(modes[0]));
        }
        for step in &names {
            // A rename is seen in full, or its new name alone is, or nothing of it.
            let (new, old) = (lands(modes[1]), lands(modes[1]));
            left.name(step, &|path| match step {
                Step::Rename(_, to, _) if path == to => new,
                Step::Rename(..) => new && old,
                _ => new,
            });
        }
        // What lies in a folder that did not last is gone.
        let folders = left.folders.clone();
        let reachable = |path: &Path| {
            path.ancestors()
                .skip(1)
                .all(|above| folders.contains(above))
        };
        left.files.retain(|path, _| reachable(path));
        left.folders.retain(|path| reachable(path));
        drop(disk);
        let left = Memory(Arc::new(Mutex::new(left)));
        left.settle();
        left
    }
}

fn choose_mode(lands: &mut dyn FnMut(usize) -> bool) -> usize {
    match (lands(2), lands(2)) {
        (false, false) => 0,
        (true, true) => 1,
        _ => 2,
    }
}

impl Disk {
    /// Makes durable what of a step a folder's names say, and returns what is left of it. A rename is one thing: its old name
    /// stays until the new one lasts.
    fn synced(&mut self, step: Step, folder: &Path) -> Option<Step> {
        let own = |path: &Path| folder_of(path) == folder;
        match &step {
            Step::Rename(from, to, _) if own(to) && !own(from) => {
                self.name(&step, &|path| path == to);
                Some(Step::Unname(from.clone()))
            }
            Step::Rename(_, to, _) if !own(to) => Some(step),
            _ => self.name(&step, &own).then_some(step),
        }
    }
}
