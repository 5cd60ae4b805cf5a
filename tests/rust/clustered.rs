//! Clustered unit vectors with equal rows among them, from a seed; and exact answers by plain loops.

use osler_core::index::Index;
use osler_core::metric::Metric;
use osler_core::pool::Control;
use osler_core::query::Ask;
use osler_core::random::Stream;
use osler_core::state::Params;
use osler_core::vectors::{Codes, Keep};

pub const DIM: usize = 24;

fn centred(stream: &mut Stream) -> f32 {
    (stream.next_u64() >> 40) as f32 / (1 << 24) as f32 - 0.5
}

/// `count` rows around `clusters` centres; every twentieth row repeats an earlier one.
pub fn vectors(seed: u64, count: usize, clusters: u64) -> Vec<f32> {
    let centre = |c: u64| {
        let mut stream = Stream::new(seed, 100, c);
        (0..DIM)
            .map(move |_| centred(&mut stream))
            .collect::<Vec<f32>>()
    };
    let mut all = Vec::with_capacity(count * DIM);
    for row in 0..count as u64 {
        let mut stream = Stream::new(seed, 101, row);
        if row % 20 == 19 {
            let from = stream.below(row) as usize * DIM;
            all.extend_from_within(from..from + DIM);
        } else {
            let centre = centre(stream.below(clusters));
            all.extend(centre.iter().map(|x| x + 0.3 * centred(&mut stream)));
        }
    }
    all
}

pub fn index(metric: Metric, codes: Codes, seed: u64) -> Index {
    index_that_keeps(metric, codes, Keep::Ram, seed)
}

pub fn index_that_keeps(metric: Metric, codes: Codes, keep: Keep, seed: u64) -> Index {
    Index::new(Params {
        dim: DIM,
        metric,
        codes,
        keep,
        seed,
    })
    .unwrap()
}

pub fn add(index: &Index, vectors: &[f32], keys: Option<&[u64]>, threads: usize) -> Vec<u64> {
    index
        .add(vectors.to_vec(), keys, threads, &Control::default())
        .unwrap()
}

pub fn ask(k: usize) -> Ask<'static> {
    Ask {
        k,
        recall: 0.95,
        ef: None,
        exact: false,
        allowed: None,
        limit: None,
        exclude: None,
    }
}

/// Share of queries' exact top 10 (by score) that the index returns.
pub fn recall(index: &Index, queries: &[f32]) -> f64 {
    recall_with(index, queries, ask(10))
}

/// The same at one width of the beam.
pub fn recall_at(index: &Index, queries: &[f32], ef: usize) -> f64 {
    recall_with(
        index,
        queries,
        Ask {
            ef: Some(ef),
            ..ask(10)
        },
    )
}

fn recall_with(index: &Index, queries: &[f32], how: Ask<'_>) -> f64 {
    let mut prepared = queries.to_vec();
    index.prepare(&mut prepared).unwrap();
    let state = index.snapshot();
    let search = |ask| {
        index
            .search(&state, &prepared, ask, 1, &Control::default())
            .unwrap()
            .scores
    };
    let found = search(how);
    let truth = search(Ask {
        exact: true,
        ..ask(10)
    });
    let hits = found.chunks(10).zip(truth.chunks(10));
    let hits: usize = hits
        .map(|(found, truth)| found.iter().filter(|&&s| s >= truth[9] - 1e-6).count())
        .sum();
    hits as f64 / found.len() as f64
}
