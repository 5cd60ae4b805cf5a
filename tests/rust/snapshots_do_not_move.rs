use crate::clustered::{DIM, add, ask, index, vectors};
use osler_core::metric::Metric;
use osler_core::pool::Control;
use osler_core::vectors::Codes;

#[test]
fn a_search_answers_from_the_snapshot_it_was_given() {
    let seed = 11;
    println!("seed {seed}");
    let rows = vectors(seed, 4000, 30);
    let index = index(Metric::Cosine, Codes::F32, seed);
    add(&index, &rows[..2500 * DIM], None, 1);
    let mut queries = rows[..50 * DIM].to_vec();
    index.prepare(&mut queries).unwrap();
    let before = index.snapshot();
    let answers = || {
        index
            .search(&before, &queries, ask(10), 1, &Control::default())
            .unwrap()
    };
    let first = answers();
    add(&index, &rows[2500 * DIM..], None, 2);
    index
        .delete(&(0..2000).collect::<Vec<u64>>(), 2, &Control::default())
        .unwrap();
    let second = answers();
    assert_eq!((first.keys, first.scores), (second.keys, second.scores));
    assert_eq!((before.live(), index.snapshot().live()), (2500, 2000));
}

#[test]
fn stopped_work_leaves_the_index_as_it_was() {
    let index = index(Metric::Cosine, Codes::F32, 3);
    let rows = vectors(3, 3000, 10);
    add(&index, &rows[..100 * DIM], None, 1);
    let control = Control::default();
    control.cancel();
    assert!(
        index
            .add(rows[100 * DIM..].to_vec(), None, 2, &control)
            .is_err()
    );
    assert_eq!(index.snapshot().live(), 100);
    assert_eq!(add(&index, &rows[100 * DIM..101 * DIM], None, 1), [100]);
}
