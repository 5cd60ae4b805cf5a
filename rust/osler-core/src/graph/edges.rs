//! A graph from the candidates of its rows: which become edges, their way back, and random ones in the free places.
//!
//! Reads rows as bytes; writes only what it returns. RobustPrune is that of DiskANN (Subramanya and others, 2019,
//! Algorithm 2); its factor is the sharp knob: a little too large, and rows of a cluster keep only each other. So edges
//! are chosen by a strict factor first, and by a looser one only for the places that are then left.

use rayon::prelude::*;

use super::NONE;
use super::bytes::ByteRows;
use super::partition::{AHEAD, Params, STRIPE, Share, candidates, distance_of, entry, row_of};
use crate::error::Result;
use crate::pool::Control;
use crate::random::Stream;

const FILL: u64 = 0x6669_6c6c;

/// Links among equal rows go this far ahead in their ring, so that a walk finds many of them in a few steps.
const RING: [usize; 4] = [1, 2, 4, 8];

/// For each row its neighbours, nearest first, ended by [`NONE`] where they are fewer than `params.degree`.
///
/// Advances `control` by the number of rows. Memory beside the result: for each row `8 * params.reservoir` bytes until
/// candidates are pruned, before that 16 to find equal rows and 6 for each leader that it follows in the first cut, and
/// 9 and 4 for each edge afterwards.
///
/// # Errors
/// [`Error::Cancelled`](crate::error::Error::Cancelled) if the work was asked to stop.
pub fn build(rows: &ByteRows<'_>, params: Params, control: &Control) -> Result<Vec<u32>> {
    let count = rows.len();
    let share = [count * 7 / 10, count / 5];
    let equal = equal_rows(rows);
    let mut first = vec![true; count];
    for class in &equal {
        for &row in &class[1..] {
            first[row as usize] = false;
        }
    }
    let members: Vec<u32> = (0..count as u32)
        .filter(|&row| first[row as usize])
        .collect();
    let found = candidates(rows, &members, params, share[0], control)?;
    drop(members);

    let mut edges = vec![NONE; count * params.degree];
    let told = Share::new(control, share[1], count);
    edges
        .par_chunks_mut(STRIPE * params.degree)
        .enumerate()
        .try_for_each_init(Scratch::default, |scratch, (stripe, edges)| {
            for (i, edges) in edges.chunks_exact_mut(params.degree).enumerate() {
                let row = (stripe * STRIPE + i) as u32;
                scratch.candidates.clear();
                let near = found.of(row).map(row_of);
                scratch.candidates.extend(near);
                prune(rows, row, &params, scratch, edges);
            }
            told.advance(edges.len() / params.degree)
        })?;
    told.finish();
    drop(found);

    let back = Back::new(&edges, params.degree);
    let told = Share::new(control, count - share[0] - share[1], count);
    edges
        .par_chunks_mut(STRIPE * params.degree)
        .enumerate()
        .try_for_each_init(Scratch::default, |scratch, (stripe, edges)| {
            for (i, edges) in edges.chunks_exact_mut(params.degree).enumerate() {
                let row = (stripe * STRIPE + i) as u32;
                let there = edges.partition_point(|&row| row != NONE);
                let back = back.of(row);
                if back.iter().all(|row| edges[..there].contains(row)) {
                    continue;
                }
                scratch.candidates.clear();
                scratch.candidates.extend(&edges[..there]);
                scratch.candidates.extend(back);
                edges.fill(NONE);
                prune(rows, row, &params, scratch, edges);
            }
            told.advance(edges.len() / params.degree)
        })?;
    told.finish();
    link_equal(&equal, &mut edges, &params);
    Ok(edges)
}

/// Fills the free places of each row with random other rows: up to the first of `sizes` that its neighbours do not
/// exceed. Of fewer rows, it takes what there are.
pub fn fill(edges: &mut [u32], degree: usize, sizes: &[usize], seed: u64) {
    let count = edges.len() / degree;
    edges
        .par_chunks_exact_mut(degree)
        .enumerate()
        .for_each(|(row, edges)| {
            let mut there = edges.partition_point(|&row| row != NONE);
            let size = places(there, sizes, degree);
            let mut stream = Stream::new(seed, FILL, row as u64);
            if count - 1 <= size {
                let others = (0..count as u32).filter(|&other| other as usize != row);
                for other in others {
                    if !edges[..there].contains(&other) {
                        edges[there] = other;
                        there += 1;
                    }
                }
            }
            while there < size.min(count - 1) {
                let other = stream.below(count as u64) as u32;
                if other as usize != row && !edges[..there].contains(&other) {
                    edges[there] = other;
                    there += 1;
                }
            }
        });
}

#[derive(Default)]
struct Scratch {
    candidates: Vec<u32>,
    sorted: Vec<u64>,
    kept: Vec<u64>,
    spare: Vec<u64>,
}

/// Keeps of the candidates in `scratch` the near ones that no kept one makes needless.
fn prune(
    rows: &ByteRows<'_>,
    owner: u32,
    params: &Params,
    scratch: &mut Scratch,
    edges: &mut [u32],
) {
    let Scratch {
        candidates,
        sorted,
        kept,
        spare,
    } = scratch;
    sorted.clear();
    for (i, four) in candidates.chunks(4).enumerate() {
        for &soon in candidates.iter().skip(4 * i + AHEAD).take(4) {
            osler_kernels::prefetch(rows.codes(soon));
        }
        let distances = rows.distances(owner, padded(four));
        let four = four.iter().zip(distances);
        sorted.extend(four.map(|(&row, distance)| entry(distance, row)));
    }
    sorted.sort_unstable();
    sorted.dedup();

    kept.clear();
    spare.clear();
    let [strict, loose] = params.alpha;
    let judge = |edges: &[u32], candidate: u64, alpha: f32| -> Verdict {
        let (row, distance) = (row_of(candidate), distance_of(candidate));
        for four in edges.chunks(4) {
            let between = rows.distances(row, padded(four));
            if between.iter().any(|between| alpha * between <= distance) {
                return if between.iter().any(|between| loose * between <= distance) {
                    Verdict::Never
                } else {
                    Verdict::Later
                };
            }
        }
        Verdict::Now
    };
    for &candidate in sorted.iter() {
        if kept.len() == edges.len() {
            break;
        }
        match judge(&edges[..kept.len()], candidate, strict) {
            Verdict::Now => {
                edges[kept.len()] = row_of(candidate);
                kept.push(candidate);
            }
            Verdict::Later => spare.push(candidate),
            Verdict::Never => {}
        }
    }
    let size = places(kept.len(), &params.sizes, edges.len());
    for &candidate in spare.iter() {
        if kept.len() >= size {
            break;
        }
        if let Verdict::Now = judge(&edges[..kept.len()], candidate, loose) {
            edges[kept.len()] = row_of(candidate);
            kept.push(candidate);
        }
    }
    kept.sort_unstable();
    for (edge, &candidate) in edges.iter_mut().zip(kept.iter()) {
        *edge = row_of(candidate);
    }
}

/// What neighbours kept so far say about a candidate: an edge, one if the looser factor leaves a place, or none.
enum Verdict {
    Now,
    Later,
    Never,
}

/// Places of a row with `count` neighbours: the first of `sizes` that they fit, at most `degree`.
fn places(count: usize, sizes: &[usize], degree: usize) -> usize {
    let size = sizes.iter().copied().find(|&size| count <= size);
    size.unwrap_or(degree).min(degree)
}

/// Four rows, of which the last may be the same.
fn padded(four: &[u32]) -> [u32; 4] {
    std::array::from_fn(|i| four[i.min(four.len() - 1)])
}

/// Who has an edge to a row.
struct Back {
    ends: Vec<u64>,
    from: Vec<u32>,
}

impl Back {
    fn new(edges: &[u32], degree: usize) -> Self {
        let mut places = vec![0u64; edges.len() / degree];
        for &to in edges.iter().filter(|&&to| to != NONE) {
            places[to as usize] += 1;
        }
        let mut total = 0;
        for place in &mut places {
            total += std::mem::replace(place, total);
        }
        let mut from = vec![0; total as usize];
        for (row, edges) in edges.chunks_exact(degree).enumerate() {
            for &to in edges.iter().take_while(|&&to| to != NONE) {
                let place = &mut places[to as usize];
                from[*place as usize] = row as u32;
                *place += 1;
            }
        }
        Back { ends: places, from }
    }

    fn of(&self, row: u32) -> &[u32] {
        let row = row as usize;
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.from[start as usize..self.ends[row] as usize]
    }
}

/// Classes of two or more equal rows, each ascending.
fn equal_rows(rows: &ByteRows<'_>) -> Vec<Vec<u32>> {
    let mut hashed: Vec<(u64, u32)> = (0..rows.len() as u32)
        .into_par_iter()
        .map(|row| (hash(rows, row), row))
        .collect();
    hashed.par_sort_unstable();
    let mut classes = Vec::new();
    for run in hashed
        .chunk_by(|a, b| a.0 == b.0)
        .filter(|run| run.len() > 1)
    {
        let same = |a: u32, b: u32| {
            rows.codes(a) == rows.codes(b) && rows.scale(a).to_bits() == rows.scale(b).to_bits()
        };
        let mut rest: Vec<u32> = run.iter().map(|&(_, row)| row).collect();
        while let Some(&first) = rest.first() {
            let (class, others) = rest.into_iter().partition(|&row| same(first, row));
            let class: Vec<u32> = class;
            if class.len() > 1 {
                classes.push(class);
            }
            rest = others;
        }
    }
    classes
}

/// Equal rows have equal hashes; unequal ones with the same hash are told apart by their codes.
fn hash(rows: &ByteRows<'_>, row: u32) -> u64 {
    let mut hash = u64::from(rows.scale(row).to_bits());
    for eight in rows.codes(row).as_chunks::<8>().0 {
        let word = u64::from_le_bytes(eight.map(i8::cast_unsigned));
        hash = (hash.rotate_left(29) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    hash ^ hash >> 32
}

/// Gives every row of a class the neighbours of its first, behind the next of the class in a ring; in as many places
/// as the neighbours alone would take.
fn link_equal(equal: &[Vec<u32>], edges: &mut [u32], params: &Params) {
    let degree = params.degree;
    for class in equal {
        let first = class[0] as usize * degree;
        let mut shared = edges[first..first + degree].to_vec();
        shared.retain(|&row| row != NONE);
        let size = places(shared.len(), &params.sizes, degree);
        for (i, &row) in class.iter().enumerate() {
            let ahead = RING.iter().filter(|&&step| step < class.len());
            let ahead = ahead.map(|step| class[(i + step) % class.len()]);
            let mut links = ahead.chain(shared.iter().copied()).take(size);
            for edge in &mut edges[row as usize * degree..][..degree] {
                *edge = links.next().unwrap_or(NONE);
            }
        }
    }
}
