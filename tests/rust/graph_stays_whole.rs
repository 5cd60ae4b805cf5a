use std::collections::HashMap;

use crate::clustered::{DIM, add, ask, index, recall, recall_at, vectors};
use osler_core::index::Index;
use osler_core::metric::Metric;
use osler_core::pool::Control;
use osler_core::query::Ask;
use osler_core::random::Stream;
use osler_core::vectors::Codes;

/// A path leads to every live row, so a walk as wide as the index finds it; no deleted one is returned.
fn check(index: &Index, model: &HashMap<u64, Vec<f32>>) {
    assert!(index.verify(&Control::default()).unwrap().is_empty());
    let state = index.snapshot();
    assert_eq!(state.live(), model.len());
    for (key, vector) in model.iter().filter(|(key, _)| **key % 7 == 0) {
        let mut query = vector.clone();
        index.prepare(&mut query).unwrap();
        let wide = Ask {
            ef: Some(model.len()),
            ..ask(10)
        };
        let found = index
            .search(&state, &query, wide, 1, &Control::default())
            .unwrap();
        assert!(found.keys.iter().all(|key| model.contains_key(key)));
        let exact = Ask {
            exact: true,
            ..ask(10)
        };
        let exact = index
            .search(&state, &query, exact, 1, &Control::default())
            .unwrap();
        assert_eq!(found.scores, exact.scores, "around key {key}");
    }
}

#[test]
fn through_adds_and_deletes() {
    let seed = 5;
    println!("seed {seed}");
    for (metric, codes) in [
        (Metric::Cosine, Codes::F32),
        (Metric::L2, Codes::F32),
        (Metric::Dot, Codes::F32),
        (Metric::Dot, Codes::Sq8),
        (Metric::L2, Codes::Sq5),
    ] {
        let rows = vectors(seed, 9000, 60);
        let index = index(metric, codes, seed);
        let mut model = HashMap::new();
        let mut next = 0;
        let mut stream = Stream::new(seed, 102, metric as u64);
        for round in 0..5 {
            let end = if round == 0 { 3000 } else { next + 1000 };
            let keys = add(&index, &rows[next * DIM..end * DIM], None, 2);
            for (key, row) in keys
                .into_iter()
                .zip(rows[next * DIM..end * DIM].chunks(DIM))
            {
                model.insert(key, row.to_vec());
            }
            next = end;
            let mut keys: Vec<u64> = model.keys().copied().collect();
            keys.sort_unstable();
            stream.shuffle(&mut keys);
            keys.truncate(model.len() / if round % 2 == 0 { 3 } else { 8 });
            index.delete(&keys, 2, &Control::default()).unwrap();
            for key in keys {
                model.remove(&key);
            }
            check(&index, &model);
        }
        let queries = &rows[8000 * DIM..8400 * DIM];
        let fresh = crate::clustered::index(metric, codes, seed);
        let mut pairs: Vec<(&u64, &Vec<f32>)> = model.iter().collect();
        pairs.sort_unstable_by_key(|p| p.0);
        let all: Vec<f32> = pairs.iter().flat_map(|p| p.1.iter().copied()).collect();
        add(&fresh, &all, None, 2);
        for ef in [10, 20, 40] {
            let (churned, new) = (
                recall_at(&index, queries, ef),
                recall_at(&fresh, queries, ef),
            );
            println!(
                "{metric:?}, ef {ef}: recall@10 {churned:.4} after 5 rounds, {new:.4} built at once"
            );
            assert!(churned >= new - 0.025, "{metric:?}, ef {ef}");
        }
        let recall = recall(&index, queries);
        println!("{metric:?}: recall@10 {recall:.4} where 0.95 was asked");
        assert!(recall >= 0.95, "{metric:?}");
    }
}

#[test]
fn twenty_rounds_of_deleting_half_and_adding_a_third_lose_no_recall() {
    for codes in [Codes::F32, Codes::Sq5] {
        twenty_rounds(codes);
    }
}

fn twenty_rounds(codes: Codes) {
    const FIRST: usize = 6000;
    let seed = 17;
    println!("seed {seed}");
    let rows = vectors(seed, FIRST + 20 * FIRST / 3 + 400, 60);
    let (rows, queries) = rows.split_at(rows.len() - 400 * DIM);
    let index = index(Metric::Cosine, codes, seed);
    let mut live: Vec<(u64, &[f32])> = Vec::new();
    let mut stream = Stream::new(seed, 103, 0);
    let mut next = 0;
    for round in 0..=20 {
        let end = FIRST + round * FIRST / 3;
        let keys = add(&index, &rows[next * DIM..end * DIM], None, 2);
        live.extend(
            keys.into_iter()
                .zip(rows[next * DIM..end * DIM].chunks(DIM)),
        );
        next = end;
        if round < 20 {
            stream.shuffle(&mut live);
            let gone: Vec<u64> = live.drain(..live.len() / 2).map(|row| row.0).collect();
            index.delete(&gone, 2, &Control::default()).unwrap();
        }
    }
    assert_eq!(index.snapshot().live(), live.len());
    let all: Vec<f32> = live.iter().flat_map(|row| row.1.iter().copied()).collect();
    let fresh = crate::clustered::index(Metric::Cosine, codes, seed);
    add(&fresh, &all, None, 2);
    for ef in [10, 20, 40, 80] {
        let (churned, new) = (
            recall_at(&index, queries, ef),
            recall_at(&fresh, queries, ef),
        );
        println!("ef {ef}: recall@10 {churned:.4} after 20 rounds, {new:.4} built at once");
        assert!(churned >= new - 0.01, "ef {ef}");
    }
    let mut themselves = all;
    index.prepare(&mut themselves).unwrap();
    let found = index
        .search(
            &index.snapshot(),
            &themselves,
            ask(1),
            2,
            &Control::default(),
        )
        .unwrap();
    // Some rows are equal, so a row has found itself when it found its like.
    let lost = found.scores.iter().filter(|&&score| score < 0.999_999);
    assert_eq!(lost.count(), 0, "of {} live rows", live.len());
}

#[test]
fn with_hundreds_of_equal_rows() {
    let index = index(Metric::Cosine, Codes::F32, 0);
    let mut rows = vectors(1, 2500, 20);
    for row in 1000..1400 {
        rows.copy_within(0..DIM, row * DIM);
    }
    add(&index, &rows, None, 2);
    let mut query = rows[..DIM].to_vec();
    index.prepare(&mut query).unwrap();
    let ask = Ask {
        ef: Some(300),
        ..ask(200)
    };
    let found = index
        .search(&index.snapshot(), &query, ask, 1, &Control::default())
        .unwrap();
    let equal = found
        .scores
        .iter()
        .filter(|&&score| score > 0.999_999)
        .count();
    assert!(equal >= 190, "{equal} of 200");
}

#[test]
fn a_file_gives_the_answers_of_the_index_it_was_written_from() {
    let rows = vectors(9, 3000, 25);
    for (metric, codes) in [
        (Metric::Cosine, Codes::F16),
        (Metric::Dot, Codes::F32),
        (Metric::L2, Codes::F16),
    ] {
        let index = index(metric, codes, 9);
        add(&index, &rows, None, 2);
        index.delete(&[5, 6, 7], 1, &Control::default()).unwrap();
        let bytes = index.to_bytes(2, &Control::default()).unwrap();
        let again = Index::from_bytes(&bytes, &Control::default()).unwrap();
        let mut queries = vectors(10, 100, 25);
        index.prepare(&mut queries).unwrap();
        let answers = |index: &Index| {
            let found = index
                .search(&index.snapshot(), &queries, ask(10), 2, &Control::default())
                .unwrap();
            (found.keys, found.scores)
        };
        assert_eq!(answers(&index), answers(&again));
        assert!(again.to_bytes(1, &Control::default()).unwrap() == bytes);
        add(&again, &rows[..DIM], Some(&[5]), 1);
        assert_eq!(again.snapshot().live(), 2998);
    }
}
