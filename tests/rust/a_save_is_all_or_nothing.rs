use std::path::{Path, PathBuf};

use crate::clustered::{DIM, add, index, vectors};
use osler_core::error::Error;
use osler_core::fs::Storage;
use osler_core::fs::testing::{FAULTS, Fault, Memory};
use osler_core::index::Index;
use osler_core::metric::Metric;
use osler_core::pool::Control;
use osler_core::random::Stream;
use osler_core::vectors::Codes;

const EIO: i32 = 5;

/// A file system with one saved index at a path, and another index to be saved over it.
struct Scene {
    memory: Memory,
    path: PathBuf,
    next: Index,
    old: Vec<u8>,
    new: Vec<u8>,
}

fn made(seed: u64, rows: usize) -> Index {
    let made = index(Metric::Cosine, Codes::F32, seed);
    add(&made, &vectors(seed, rows, 4)[..rows * DIM], None, 1);
    made
}

fn save(index: &Index, storage: &dyn Storage, path: &Path) -> Result<(), Error> {
    index.save(storage, path, 1, &Control::default())
}

impl Scene {
    fn new(seed: u64) -> Self {
        let memory = Memory::new(Path::new("/data"), seed);
        let path = PathBuf::from("/data/cases.index");
        let (first, next) = (made(seed, 40), made(seed + 1, 70));
        save(&first, &memory, &path).unwrap();
        memory.settle();
        let bytes = |index: &Index| index.to_bytes(1, &Control::default()).unwrap();
        Scene {
            path,
            old: bytes(&first),
            new: bytes(&next),
            next,
            memory,
        }
    }

    fn found(&self, memory: &Memory) -> Vec<u8> {
        let opened = Index::open(memory, &self.path, true, &Control::default()).unwrap();
        assert_eq!(opened.verify(&Control::default()).unwrap(), []);
        let files = memory.files();
        let file = files.iter().find(|(path, _)| *path == self.path);
        file.unwrap().1.to_vec()
    }
}

#[test]
fn a_power_cut_leaves_the_old_file_or_the_new_one() {
    let seed = 31;
    println!("seed {seed}");
    let scene = Scene::new(seed);
    save(&scene.next, &scene.memory, &scene.path).unwrap();
    let mut stream = Stream::new(seed, 1, 0);
    let mut choose = |n: usize| stream.below(n as u64) as usize;
    let (mut states, mut new) = (0, 0);
    for steps in 0..=scene.memory.steps() {
        for _ in 0..300 {
            let left = scene.memory.after_power_cut(steps, &mut choose);
            let found = scene.found(&left);
            states += 1;
            new += usize::from(found == scene.new);
            assert!(
                found == scene.old || found == scene.new,
                "after {steps} steps"
            );
            assert!(
                steps < scene.memory.steps() || found == scene.new,
                "what was saved is gone"
            );
        }
    }
    println!("{states} states, {new} with the new file");
    assert!(0 < new && new < states);
}

#[test]
fn a_failed_call_is_told_and_leaves_a_whole_file() {
    let scene = Scene::new(32);
    let mut struck = 0;
    for fault in FAULTS {
        for call in 0.. {
            let memory = scene.memory.fork();
            memory.fail(call, fault);
            let saved = save(&scene.next, &memory, &scene.path);
            if !memory.came() {
                break;
            }
            let Some(what) = memory.struck() else {
                continue;
            };
            struck += 1;
            let found = scene.found(&memory);
            if saved.is_ok() {
                assert!(found == scene.new, "{fault:?} of {what}");
                continue;
            }
            assert_ne!(
                fault,
                Fault::Partial,
                "{what} was interrupted and not tried again"
            );
            assert!(
                found == scene.old || found == scene.new,
                "{fault:?} of {what}"
            );
            let names = memory.list(Path::new("/data")).unwrap();
            // A name that was taken before its creation failed is not ours to remove.
            let left = usize::from(fault == Fault::Done(EIO) && what.starts_with("create"));
            assert_eq!(names.len(), 1 + left, "{fault:?} of {what} left {names:?}");
            assert!(matches!(saved, Err(Error::Io { .. })), "{saved:?}");
        }
    }
    println!("{struck} failed calls");
    assert!(struck >= 25);
}

#[test]
fn without_a_sync_a_power_cut_is_seen() {
    // The harness itself: the same steps without syncing must not pass.
    let scene = Scene::new(33);
    let beside = scene.path.with_extension("beside");
    let mut sink = scene.memory.create(&beside).unwrap();
    let written = sink.write_at(0, &scene.new).unwrap();
    assert_eq!(written, scene.new.len());
    scene.memory.rename(&beside, &scene.path).unwrap();
    let mut stream = Stream::new(33, 1, 0);
    let mut choose = |n: usize| stream.below(n as u64) as usize;
    let torn = (0..200).any(|_| {
        let left = scene.memory.after_power_cut(usize::MAX, &mut choose);
        let files = left.files();
        let file = files.iter().find(|(path, _)| *path == scene.path);
        file.is_none_or(|(_, bytes)| **bytes != scene.old && **bytes != scene.new)
    });
    assert!(torn);
}
