use std::sync::Arc;

use osler_core::error::Error;
use osler_core::fs::Storage;
use osler_core::fs::testing::Memory;
use osler_core::random::Stream;
use osler_core::store::recover;

use crate::directories::{COMMITS, erase, every_failed_call, go_on, history, is_left, open, root};
#[test]
fn a_failed_call_of_recovering_leaves_one_of_the_two_states() {
    let work = |memory: &Memory| {
        let storage: Arc<dyn Storage> = Arc::new(memory.clone());
        recover::recover(&storage, &root(), COMMITS - 1, &go_on).map(drop)
    };
    let look =
        |memory: &Memory, done: Result<(), Error>| is_left(memory, &done, [COMMITS, COMMITS + 1]);
    let struck = every_failed_call(&history(51).memory, work, look).unwrap();
    println!("{struck} failed calls");
    assert!(struck > 100);
}

#[test]
fn a_power_cut_in_recovering_leaves_one_of_the_two_states() {
    let memory = history(55).memory.fork();
    let storage: Arc<dyn Storage> = Arc::new(memory.clone());
    assert_eq!(
        recover::recover(&storage, &root(), COMMITS - 2, &go_on).unwrap(),
        COMMITS + 1
    );
    let mut stream = Stream::new(56, 1, 0);
    let mut choose = |n: usize| stream.below(n as u64) as usize;
    for steps in 0..=memory.steps() {
        for _ in 0..40 {
            let left = memory.after_power_cut(steps, &mut choose);
            let unknown = Err(Error::CommitUnknown(String::new()));
            let done = if steps == memory.steps() {
                Ok(())
            } else {
                unknown
            };
            is_left(&left, &done, [COMMITS, COMMITS + 1]).unwrap();
        }
    }
}

#[test]
fn recovering_goes_not_behind_an_erasure_that_was_cut_short() {
    let history = history(52);
    let memory = history.memory.fork();
    let writer = open(&memory, true).unwrap();
    let start = memory.steps();
    erase(&writer, COMMITS + 1).unwrap();
    let erased = COMMITS + 1;
    let mut looked = 0;
    for steps in start..memory.steps() {
        let left = memory.after_power_cut(steps, &mut |n| n - 1);
        let storage: Arc<dyn Storage> = Arc::new(left.clone());
        let states = recover::states(&storage, &root(), &go_on).unwrap();
        if states[0].number < erased {
            continue;
        }
        looked += 1;
        assert_eq!(states.len(), 1, "after {steps} steps");
        let undone = recover::recover(&storage, &root(), COMMITS, &go_on);
        assert!(
            matches!(undone, Err(Error::Input(_))),
            "after {steps} steps"
        );
        let again = recover::recover(&storage, &root(), erased, &go_on);
        assert_eq!(again.unwrap(), erased + 1);
        let store = open(&left, false).unwrap();
        assert_eq!(store.snapshot().manifest().oldest, erased);
    }
    assert!(looked > 3, "{looked}");
}

#[test]
fn states_behind_a_damaged_one_can_be_recovered() {
    let history = history(53);
    let memory = history.memory.fork();
    let store = open(&memory, false).unwrap();
    let newest = store.snapshot();
    drop(store);
    let storage: Arc<dyn Storage> = Arc::new(memory.clone());
    let mut broken = 0;
    for name in newest.manifest().files.keys() {
        let memory = memory.fork();
        let storage: Arc<dyn Storage> = Arc::new(memory.clone());
        memory.overwrite(&root().join(name), vec![0; 10]);
        let states = recover::states(&storage, &root(), &go_on).unwrap();
        assert_eq!(states.len(), 4);
        assert_eq!(states[0].damage[0].file, *name);
        broken += 1;
        let Some(sound) = states.iter().find(|one| one.damage.is_empty()) else {
            continue;
        };
        let number = recover::recover(&storage, &root(), sound.number, &go_on).unwrap();
        assert_eq!(number, COMMITS + 1);
        is_left(&memory, &Ok(()), [0, number]).unwrap();
    }
    assert!(broken > 3);
    let folders = memory.list(&root()).unwrap();
    let manifests = root().join("manifests");
    assert!(folders.iter().any(|entry| entry.name == "manifests"));
    for entry in memory.list(&manifests).unwrap() {
        memory.remove(&manifests.join(entry.name)).unwrap();
    }
    memory.remove_folder(&manifests).unwrap();
    let missing = recover::states(&storage, &root(), &go_on).map(|states| states.len());
    assert!(matches!(missing, Err(Error::Corrupt(damage)) if damage.file == "manifests"));
}
