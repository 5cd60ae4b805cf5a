use std::process::Command;

use crate::clustered::{DIM, vectors};
use osler_core::error::Error;
use osler_core::graph::NONE;
use osler_core::graph::bytes::ByteRows;
use osler_core::graph::edges::{build, fill};
use osler_core::graph::partition::Params;
use osler_core::graph::prune::Rule;
use osler_core::pool::{Control, Pool};
use osler_core::random::Stream;

/// Codes of a row: the next multiple of 64 above `DIM`.
const WIDE: usize = 64;

/// Small leaves, so that few rows are cut several times.
const SMALL: Params = Params {
    degree: 32,
    fan_out: [6, 2],
    cap: 48,
    leaf_k: 8,
    reservoir: 64,
    rule: Rule {
        alpha: [1.05, 1.2],
        sizes: [16, 32],
    },
    seed: 5,
};

struct Bytes {
    codes: Vec<i8>,
    scales: Vec<f32>,
}

impl Bytes {
    fn of(vectors: &[f32]) -> Bytes {
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for vector in vectors.chunks(DIM) {
            let scale = vector.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0;
            codes.extend(vector.iter().map(|x| (x / scale).round() as i8));
            codes.resize(codes.len().next_multiple_of(WIDE), 0);
            scales.push(scale);
        }
        Bytes { codes, scales }
    }

    fn rows(&self) -> ByteRows<'_> {
        ByteRows::new(WIDE, &self.codes, &self.scales).unwrap()
    }

    fn build(&self, params: Params, threads: usize) -> Vec<u32> {
        let build = || build(&self.rows(), params, &Control::default());
        Pool::default().run(threads, build).unwrap()
    }
}

fn neighbours(edges: &[u32], row: usize) -> &[u32] {
    let edges = &edges[row * SMALL.degree..][..SMALL.degree];
    &edges[..edges.partition_point(|&row| row != NONE)]
}

/// Every list names other rows, each once, nearest first.
fn check_lists(bytes: &Bytes, edges: &[u32]) {
    let rows = bytes.rows();
    assert_eq!(edges.len(), rows.len() * SMALL.degree);
    for row in 0..rows.len() {
        let list = neighbours(edges, row);
        let mut nearest = 0.0;
        for (i, &other) in list.iter().enumerate() {
            assert!((other as usize) < rows.len() && other as usize != row);
            assert!(!list[..i].contains(&other), "row {row} has {list:?}");
            let [distance, ..] = rows.distances(row as u32, [other; 4]);
            assert!(distance >= nearest, "row {row} has {list:?}");
            nearest = distance;
        }
    }
}

fn reached(edges: &[u32], from: u32) -> usize {
    let mut seen = vec![false; edges.len() / SMALL.degree];
    seen[from as usize] = true;
    let (mut open, mut count) = (vec![from], 0);
    while let Some(row) = open.pop() {
        count += 1;
        for &next in neighbours(edges, row as usize) {
            if !std::mem::replace(&mut seen[next as usize], true) {
                open.push(next);
            }
        }
    }
    count
}

/// Share of the ten nearest rows that a best-first walk of width `ef` from 64 rows finds, over rows as queries.
fn recall(bytes: &Bytes, edges: &[u32], ef: usize) -> f64 {
    let rows = bytes.rows();
    let count = rows.len();
    let mut stream = Stream::new(1, 1, 1);
    let mut hits = 0;
    for query in (0..count as u32).step_by(count / 200) {
        let to = |row: u32| (rows.distances(query, [row; 4])[0], row);
        let mut all: Vec<_> = (0..count as u32).map(to).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut seen = vec![false; count];
        let mut beam: Vec<(f32, u32, bool)> = Vec::new();
        let mut fresh: Vec<u32> = (0..64).map(|_| stream.below(count as u64) as u32).collect();
        loop {
            fresh.retain(|&row| !std::mem::replace(&mut seen[row as usize], true));
            beam.extend(fresh.iter().map(|&row| (to(row).0, row, false)));
            beam.sort_by(|a, b| a.0.total_cmp(&b.0));
            beam.truncate(ef);
            let Some(next) = beam.iter_mut().find(|entry| !entry.2) else {
                break;
            };
            next.2 = true;
            fresh = neighbours(edges, next.1 as usize).to_vec();
        }
        hits += beam.iter().take(10).filter(|b| b.0 <= all[9].0).count();
    }
    hits as f64 / 10.0 / (0..count).step_by(count / 200).count() as f64
}

fn mixed() -> Bytes {
    Bytes::of(&vectors(31, 4000, 60))
}

fn hash(edges: &[u32]) -> u64 {
    edges.iter().fold(0, |hash, &edge| {
        (hash ^ u64::from(edge)).wrapping_mul(0x100_0000_01b3)
    })
}

#[test]
fn the_same_edges_at_any_thread_count() {
    let bytes = mixed();
    let one = bytes.build(SMALL, 1);
    println!("edges {:x}", hash(&one));
    check_lists(&bytes, &one);
    for threads in [2, 3, 8] {
        assert!(bytes.build(SMALL, threads) == one, "{threads} threads");
    }
    assert!(bytes.build(Params { seed: 6, ..SMALL }, 1) != one);
}

#[test]
fn the_same_edges_at_every_simd_level() {
    let wanted = format!("edges {:x}", hash(&mixed().build(SMALL, 2)));
    for level in osler_kernels::levels() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("partition_links_every_row::the_same_edges_at_any_thread_count")
            .env("OSLER_SIMD", level.name())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&wanted), "{}: {text}", level.name());
    }
}

#[test]
fn a_walk_finds_the_nearest_rows_of_clusters() {
    let bytes = Bytes::of(&vectors(32, 6000, 120));
    let mut edges = bytes.build(SMALL, 2);
    let small = (0..6000).filter(|&row| neighbours(&edges, row).len() <= 16);
    let small = small.count() as f64 / 6000.0;
    fill(&mut edges, SMALL.degree, &SMALL.rule, 1);
    let found = recall(&bytes, &edges, 24);
    println!("recall@10 {found:.4}, {small:.3} of rows have 16 edges or fewer");
    assert!(found >= 0.98 && small >= 0.7);
    let near = SMALL.rule.alpha.map(|alpha| alpha * 4.0);
    let near_only = bytes.build(
        Params {
            rule: Rule {
                alpha: near,
                ..SMALL.rule
            },
            degree: 32,
            ..SMALL
        },
        2,
    );
    assert!(recall(&bytes, &near_only, 24) < found);
}

#[test]
fn equal_rows_lead_to_each_other_and_to_the_rest() {
    let mut rows = vectors(33, 2000, 20);
    for copy in 0..700 {
        rows.extend_from_within(17 * DIM..18 * DIM);
        if copy % 7 == 0 {
            rows.extend_from_within(18 * DIM..19 * DIM);
        }
    }
    let bytes = Bytes::of(&rows);
    let mut edges = bytes.build(SMALL, 2);
    check_lists(&bytes, &edges);
    let count = bytes.scales.len();
    fill(&mut edges, SMALL.degree, &SMALL.rule, 1);
    for row in [0, 17, 2100, count as u32 - 1] {
        assert_eq!(reached(&edges, row), count, "from row {row}");
    }
    // Their own links alone suffice: a walk that stands on one finds ten.
    assert!(recall(&bytes, &edges, 16) >= 0.95);
}

#[test]
fn few_rows_and_rows_that_no_leader_tells_apart() {
    for count in [0, 1, 2, 3, 16, 33, 49] {
        let bytes = Bytes::of(&vectors(34, count, 3));
        let mut edges = bytes.build(SMALL, 2);
        check_lists(&bytes, &edges);
        fill(&mut edges, SMALL.degree, &SMALL.rule, 1);
        for row in 0..count {
            let least = (count - 1).min(16);
            assert!(neighbours(&edges, row).len() >= least, "{count} rows");
            assert_eq!(reached(&edges, row as u32), count);
        }
    }
    let equal = Bytes::of(&vectors(35, 1, 1).repeat(3000));
    let edges = equal.build(SMALL, 2);
    check_lists(&equal, &edges);
    assert_eq!(reached(&edges, 2999), 3000);

    // All at nearly one place, far from the origin: every distance is rounding, so cuts by leaders get nowhere.
    let mut stream = Stream::new(36, 0, 0);
    let mut near = vec![127i8; 3000 * WIDE];
    for row in near.chunks_mut(WIDE) {
        row[..12].fill_with(|| 126 - (stream.below(2) as i8));
    }
    let near = Bytes {
        codes: near,
        scales: vec![1e3; 3000],
    };
    let edges = near.build(SMALL, 2);
    assert!((0..3000).all(|row| !neighbours(&edges, row).is_empty()));
}

#[test]
fn work_is_told_in_rows_and_stops_when_asked() {
    let bytes = mixed();
    let control = Control::default();
    build(&bytes.rows(), SMALL, &control).unwrap();
    assert_eq!(control.progress().0, 4000);
    control.cancel();
    let stopped = build(&bytes.rows(), SMALL, &control);
    assert!(matches!(stopped, Err(Error::Cancelled)));
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    for (dim, codes, scales) in [
        (63, vec![0; 63], vec![1.0]),
        (64, vec![0; 63], vec![1.0]),
        (64, vec![0; 128], vec![1.0]),
        (0, vec![], vec![]),
        (64, vec![i8::MIN; 64], vec![1.0]),
        (64, vec![1; 64], vec![f32::NAN]),
        (64, vec![1; 64], vec![1e20]),
    ] {
        assert!(matches!(
            ByteRows::new(dim, &codes, &scales),
            Err(Error::Input(_))
        ));
    }
}
