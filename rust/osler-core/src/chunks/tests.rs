//! Snapshots of a table, and how its rows lie.

use super::*;

#[test]
fn a_clone_does_not_see_later_changes() {
    let mut rows = Rows::<f32>::with_chunk_bytes(3, 24);
    for i in 0..5 {
        rows.push(&[i as f32; 3]).unwrap();
    }
    let before = rows.clone();
    rows.row_mut(1).unwrap()[2] = 9.0;
    rows.push(&[7.0; 3]).unwrap();
    assert_eq!(
        (before.len(), before.row(1).unwrap()),
        (5, &[1.0_f32; 3][..])
    );
    assert_eq!(
        (rows.len(), rows.row(1).unwrap()),
        (6, &[1.0_f32, 1.0, 9.0][..])
    );
}

/// Rows that fill a huge page and more.
const LONG: usize = 1024;
const MANY: usize = 1200;

fn many() -> Rows<f32> {
    let mut rows = Rows::zeroed(LONG, MANY, MANY + 20);
    let all = rows.all_mut();
    assert_eq!(all.len(), MANY);
    for (i, row) in all.into_iter().enumerate() {
        row.fill(i as f32);
    }
    rows
}

fn holds(rows: &Rows<f32>, len: usize, value: impl Fn(usize) -> f32) {
    assert_eq!(rows.len(), len);
    let view = rows.view();
    for i in 0..len {
        assert_eq!(rows.row(i).unwrap(), &[value(i); LONG][..], "row {i}");
        assert_eq!(view.row(i).unwrap(), rows.row(i).unwrap(), "row {i}");
    }
}

#[test]
fn a_clone_of_rows_in_shared_memory_does_not_see_later_changes() {
    let mut rows = many();
    assert!(rows.flat.as_ref().is_some_and(|flat| flat.rows == MANY));
    let before = rows.clone();
    rows.row_mut(7).unwrap().fill(-1.0);
    rows.push(&[-2.0; LONG]).unwrap();
    holds(&before, MANY, |i| i as f32);
    let changed = |i| match i {
        7 => -1.0,
        MANY => -2.0,
        _ => i as f32,
    };
    holds(&rows, MANY + 1, changed);
    rows.gather();
    holds(&rows, MANY + 1, changed);
    drop(rows);
    holds(&before, MANY, |i| i as f32);
}

#[test]
fn rows_that_nobody_else_sees_change_where_they_lie_and_grow_into_their_room() {
    let mut rows = many();
    let place = rows.row(7).unwrap().as_ptr();
    rows.row_mut(7).unwrap().fill(-1.0);
    assert_eq!(rows.row(7).unwrap().as_ptr(), place);
    for _ in 0..200 {
        rows.push(&[-1.0; LONG]).unwrap();
    }
    let in_room = rows.flat.as_ref().map_or(0, |flat| flat.rows);
    assert!(
        (MANY + 20..MANY + 20 + LONG).contains(&in_room),
        "{in_room}"
    );
    holds(&rows, MANY + 200, |i| {
        if i == 7 || i >= MANY { -1.0 } else { i as f32 }
    });
}

#[test]
fn a_table_without_room_is_filled_chunk_by_chunk() {
    let mut rows = Rows::<u16>::zeroed(3, 70_000, 0);
    for (i, row) in rows.all_mut().into_iter().enumerate() {
        row.fill(i as u16);
    }
    assert_eq!(rows.row(69_999).unwrap(), [69_999u32 as u16; 3]);
    rows.push(&[1, 2, 3]).unwrap();
    assert_eq!(rows.row(70_000).unwrap(), [1, 2, 3]);
}

#[test]
fn long_rows_start_on_a_cache_line() {
    let mut rows = Rows::<u16>::new(130);
    rows.push(&[1; 130]).unwrap();
    rows.push(&[2; 130]).unwrap();
    assert_eq!(rows.stride(), 160);
    assert_eq!(rows.row(1).unwrap().as_ptr() as usize % 64, 0);
}

#[test]
fn runs_cover_all_rows_once() {
    let mut rows = Rows::<u32>::with_chunk_bytes(2, 32);
    for i in 0..11 {
        rows.push(&[i, i]).unwrap();
    }
    let (mut at, mut seen) = (2, Vec::new());
    while at < rows.len() {
        let (run, count) = rows.run(at).unwrap();
        seen.extend(run.chunks(rows.stride()).map(|row| row[0]));
        at += count;
    }
    assert_eq!(seen, (2..11).collect::<Vec<_>>());
}
