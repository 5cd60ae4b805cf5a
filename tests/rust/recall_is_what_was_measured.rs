use crate::clustered::{DIM, add, ask, index, recall, vectors};
use osler_core::metric::Metric;
use osler_core::pool::Control;
use osler_core::query::Ask;
use osler_core::vectors::Codes;

#[test]
fn after_measuring_with_rows_of_the_index_itself() {
    let rows = vectors(21, 6400, 50);
    let index = index(Metric::Cosine, Codes::F32, 0);
    add(&index, &rows[..6000 * DIM], None, 2);
    let queries = &rows[6000 * DIM..];
    let before = recall(&index, queries);
    index.calibrate(None, 2, &Control::default()).unwrap();
    let after = recall(&index, queries);
    println!("recall@10 {before:.4} as built, {after:.4} calibrated again");
    assert!(before >= 0.95 && after >= 0.95);
}

#[test]
fn after_growth_by_single_rows() {
    let rows = vectors(22, 4700, 50);
    let index = index(Metric::L2, Codes::F32, 0);
    add(&index, &rows[..2100 * DIM], None, 2);
    for row in 2100..4300 {
        add(&index, &rows[row * DIM..(row + 1) * DIM], None, 1);
    }
    let calibration = index.stats().calibration.unwrap();
    assert!(
        calibration.rows >= 4200 && calibration.queries >= 100,
        "{calibration:?}"
    );
    let found = recall(&index, &rows[4300 * DIM..]);
    println!("recall@10 {found:.4} after growth by single rows");
    assert!(found >= 0.95);
}

#[test]
fn after_longer_vectors_came_under_the_inner_product() {
    let mut rows = vectors(23, 5460, 50);
    for value in &mut rows[5000 * DIM..5060 * DIM] {
        *value *= 17.0;
    }
    let index = index(Metric::Dot, Codes::F32, 0);
    add(&index, &rows[..5000 * DIM], None, 2);
    add(&index, &rows[5000 * DIM..5060 * DIM], None, 2);
    let found = recall(&index, &rows[5060 * DIM..]);
    println!("recall@10 {found:.4} with longer vectors added");
    assert!(found >= 0.95);
}

#[test]
fn for_rows_added_while_there_were_too_few_for_a_graph() {
    let rows = vectors(24, 2200, 20);
    let index = index(Metric::Cosine, Codes::F32, 0);
    add(&index, &rows[..2100 * DIM], None, 2);
    index
        .delete(&(0..110).collect::<Vec<u64>>(), 1, &Control::default())
        .unwrap();
    add(&index, &rows[2100 * DIM..2105 * DIM], None, 1);
    add(&index, &rows[2105 * DIM..2120 * DIM], None, 1);
    let mut queries = rows[2100 * DIM..2120 * DIM].to_vec();
    index.prepare(&mut queries).unwrap();
    let state = index.snapshot();
    let wide = Ask {
        ef: Some(200),
        ..ask(1)
    };
    let found = index
        .search(&state, &queries, wide, 1, &Control::default())
        .unwrap();
    assert!(
        found.scores.iter().all(|&score| score > 0.9999),
        "{:?}",
        found.scores
    );
}
