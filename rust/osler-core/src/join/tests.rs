//! A join against a plain double loop over the same scores: the same pairs, with the same bits.
//!
//! The seed is `OSLER_TEST_SEED` and printed.

use super::*;
use crate::random::Stream;

/// Enough rows for images and cells.
const COUNT: usize = 2300;

#[allow(clippy::print_stdout, reason = "a failure must be repeatable")]
fn stream() -> Stream {
    let seed = std::env::var("OSLER_TEST_SEED").map_or(0, |text| text.parse().unwrap());
    println!("seed {seed} (OSLER_TEST_SEED)");
    Stream::new(seed, 0, 0)
}

fn unit(stream: &mut Stream) -> f32 {
    (stream.next_u64() >> 40) as f32 / 8_388_608.0 - 1.0
}

/// Rows around centres, some of them exact copies, at some distance from the origin.
fn clustered(stream: &mut Stream, count: usize, dim: usize, spread: f32) -> Vec<f32> {
    let centres: Vec<f32> = (0..40 * dim).map(|_| unit(stream) + 0.3).collect();
    let mut rows: Vec<f32> = Vec::new();
    for row in 0..count {
        if row > 0 && stream.below(20) == 0 {
            let copied = stream.below(row as u64) as usize;
            rows.extend_from_within(copied * dim..(copied + 1) * dim);
            continue;
        }
        let centre = stream.below(40) as usize * dim;
        let spread = spread * [0.02, 0.3, 1.0][stream.below(3) as usize];
        rows.extend((0..dim).map(|d| centres[centre + d] + spread * unit(stream)));
    }
    rows
}

fn rows(vectors: Vec<f32>, old: usize, dim: usize, metric: Metric, threshold: f32) -> Rows {
    let fresh = vectors.len() - old * dim;
    Rows {
        against: vectors[fresh..].to_vec(),
        vectors: vectors[..fresh].to_vec(),
        dim,
        metric,
        threshold,
    }
}

/// Scores of all pairs of rows of which one at least is new.
fn scores(mut vectors: Vec<f32>, old: usize, dim: usize, metric: Metric) -> Vec<Pair> {
    for (at, row) in vectors.chunks_exact_mut(dim).enumerate() {
        metric.prepare(row, "vectors", at).unwrap();
    }
    let row = |row: usize| &vectors[row * dim..][..dim];
    let count = vectors.len() / dim;
    let mut pairs = Vec::new();
    for a in 0..count - old {
        for b in a + 1..count {
            let score = match metric {
                Metric::L2 => -osler_kernels::l2(row(a), row(b)),
                _ => osler_kernels::dot(row(a), row(b)),
            };
            pairs.push((a as u32, b as u32, metric.presented(score)));
        }
    }
    pairs
}

#[track_caller]
fn same(found: &[Pair], wanted: &[Pair], what: &str) {
    let bits = |pairs: &[Pair]| -> Vec<(u32, u32, u32)> {
        pairs
            .iter()
            .map(|&(a, b, s)| (a, b, (s + 0.0).to_bits()))
            .collect()
    };
    assert_eq!(found.len(), wanted.len(), "{what}: number of pairs");
    assert!(bits(found) == bits(wanted), "{what}: other pairs");
}

/// Joins at several thresholds, some of them exactly a pair's score, and says how often it pruned.
fn check(vectors: &[f32], old: usize, dim: usize, metric: Metric, what: &str) -> usize {
    let all = scores(vectors.to_vec(), old, dim, metric);
    let mut order: Vec<f32> = all.iter().map(|pair| pair.2).collect();
    order.sort_unstable_by(|a, b| b.total_cmp(a));
    let mut pruned = 0;
    for (threads, at) in [1, 3, 1, 3].into_iter().zip([0, 10, 3000, all.len() / 4]) {
        let threshold = order[at.min(order.len() - 1)];
        let wanted: Vec<Pair> = all
            .iter()
            .copied()
            .filter(|pair| pair.2 >= threshold)
            .collect();
        let (pool, control) = (Pool::default(), Control::default());
        let rows = rows(vectors.to_vec(), old, dim, metric, threshold);
        let mut join = Join::new(rows, threads, &pool, &control).unwrap();
        let mut found = Vec::new();
        while let Some(batch) = join.next(&pool, &control).unwrap() {
            found.extend(batch);
        }
        found.sort_unstable_by_key(|&(a, b, _)| (a, b));
        let what = format!("{what}, {metric:?}, threshold {threshold}, old {old}");
        same(&found, &wanted, &what);
        pruned += usize::from(join.image.is_some());
    }
    pruned
}

#[test]
fn pairs_equal_a_double_loop_in_every_bit() {
    let mut stream = stream();
    let mut pruned = [0; 3];
    for dim in [3, 40, 97] {
        let vectors = clustered(&mut stream, COUNT, dim, 0.3);
        for old in [0, COUNT - 200] {
            for (metric, pruned) in [Metric::Cosine, Metric::Dot, Metric::L2]
                .into_iter()
                .zip(&mut pruned)
            {
                *pruned += check(&vectors, old, dim, metric, &format!("dim {dim}"));
            }
        }
    }
    assert!(
        pruned.iter().all(|&times| times > 4),
        "pruned only {pruned:?} times"
    );
}

#[test]
fn rows_of_all_sizes_are_paired_right() {
    let mut stream = stream();
    for size in [1e-30, 1e15] {
        let mut vectors = clustered(&mut stream, COUNT, 24, 0.3);
        vectors.iter_mut().for_each(|x| *x *= size);
        for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
            check(&vectors, 0, 24, metric, &format!("size {size}"));
        }
    }
    let mut vectors = clustered(&mut stream, COUNT, 24, 0.3);
    for (row, values) in vectors.chunks_exact_mut(24).enumerate() {
        let size = [1e-20, 1.0, 1e-3, 1e3][row % 4];
        values.iter_mut().for_each(|x| *x *= size);
    }
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        check(&vectors, 100, 24, metric, "mixed sizes");
    }
}

#[test]
fn equal_rows_and_rows_without_structure_are_paired_right() {
    let mut stream = stream();
    let one: Vec<f32> = (0..20).map(|_| unit(&mut stream)).collect();
    for metric in [Metric::Cosine, Metric::L2] {
        check(&one.repeat(COUNT), 0, 20, metric, "all equal");
    }
    let noise: Vec<f32> = (0..COUNT * 50).map(|_| unit(&mut stream)).collect();
    check(&noise, 0, 50, Metric::Cosine, "noise");
    let line: Vec<f32> = (0..COUNT).map(|_| unit(&mut stream) + 2.0).collect();
    check(&line, 0, 1, Metric::L2, "one column");
}

#[test]
fn few_rows_are_paired_without_images() {
    let mut stream = stream();
    for count in [2, 3, 63, 64, 65, 200] {
        let vectors = clustered(&mut stream, count, 33, 0.3);
        for old in [0, 1, count / 2] {
            assert_eq!(check(&vectors, old, 33, Metric::Cosine, "few"), 0);
        }
    }
    let (pool, control) = (Pool::default(), Control::default());
    for (vectors, old) in [(vec![], 0), (vec![1.0, 2.0], 0), (vec![1.0, 2.0], 1)] {
        let rows = rows(vectors, old, 2, Metric::Dot, -9.0);
        assert_eq!(join(rows, 1, &pool, &control).unwrap(), []);
    }
}

#[test]
fn batches_are_the_same_at_any_thread_count_and_bounded() {
    let mut stream = stream();
    let vectors = clustered(&mut stream, COUNT, 32, 0.3);
    let one: Vec<f32> = (0..20).map(|_| unit(&mut stream)).collect();
    for (vectors, dim, threshold) in [(vectors, 32, 0.99), (one.repeat(COUNT), 20, 0.5)] {
        let batches = |threads| {
            let (pool, control) = (Pool::default(), Control::default());
            let rows = rows(vectors.clone(), 500, dim, Metric::Cosine, threshold);
            let mut join = Join::new(rows, threads, &pool, &control).unwrap();
            let mut batches = Vec::new();
            while let Some(batch) = join.next(&pool, &control).unwrap() {
                batches.push(batch);
            }
            batches
        };
        let alone = batches(1);
        assert_eq!(alone, batches(3));
        let most = TOGETHER * (PAUSE + BLOCK * SLIVERS * SLIVER);
        assert!(
            alone
                .iter()
                .all(|batch| !batch.is_empty() && batch.len() <= most)
        );
    }
}

#[test]
fn what_cannot_be_joined_says_why() {
    let (pool, control) = (Pool::default(), Control::default());
    let fails = |rows: Rows| join(rows, 1, &pool, &control).unwrap_err().to_string();
    let endless = rows(vec![1.0; 4], 0, 2, Metric::Dot, f32::NAN);
    assert!(fails(endless).contains("threshold is not a finite number"));
    let zero = rows(vec![1.0, 1.0, 0.0, 0.0], 1, 2, Metric::Cosine, 0.5);
    assert!(fails(zero).contains("against row 0 is all zeros"));
    control.cancel();
    let many = rows(vec![1.0; 400], 0, 2, Metric::Dot, 0.5);
    assert!(matches!(
        join(many, 1, &pool, &control),
        Err(Error::Cancelled)
    ));
}
