//! A graph from the candidates of its rows: which become edges, their way back, and random ones in the free places.
//!
//! Reads rows as bytes; writes only what it returns. RobustPrune is that of DiskANN (Subramanya and others, 2019,
//! Algorithm 2); its factor is the sharp knob: a little too large, and rows of a cluster keep only each other. So edges
//! are chosen by a strict factor first, and by a looser one only for the places that are then left.

use rayon::prelude::*;

use super::NONE;
use super::bytes::ByteRows;
use super::partition::{Params, STRIPE, Share, candidates};
use super::prune::{Pruner, Rule, row_of};
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
        .try_for_each_init(
            Default::default,
            |(pruner, near): &mut (Pruner, Vec<u32>), (stripe, edges)| {
                for (i, edges) in edges.chunks_exact_mut(params.degree).enumerate() {
                    let row = (stripe * STRIPE + i) as u32;
                    near.clear();
                    near.extend(found.of(row).map(row_of));
                    write(edges, pruner.of(rows, row, near, &params.rule)?);
                }
                told.advance(edges.len() / params.degree)
            },
        )?;
    told.finish();
    drop(found);

    let told = Share::new(control, count - share[0] - share[1], count);
    add_ways_back(rows, &mut edges, params.degree, &params.rule, |count| {
        told.advance(count)
    })?;
    told.finish();
    keep_dependants(&mut edges, params.degree);
    link_equal(&equal, &mut edges, &params);
    Ok(edges)
}

/// Gives every row an edge from its nearest neighbour where that one has a place left: a walk towards a row ends there, and
/// a row that lies alone is no near neighbour of anyone, so that pruning may leave no other way to it. A full list is left
/// alone: measured, its far edges are worth more.
pub(super) fn keep_dependants(edges: &mut [u32], degree: usize) {
    for row in 0..edges.len() / degree {
        for rank in 0..DEPENDS_ON {
            let near = edges[row * degree + rank];
            if near == NONE {
                break;
            }
            let list = &mut edges[near as usize * degree..][..degree];
            let there = list.partition_point(|&other| other != NONE);
            if there < degree && !list[..there].contains(&(row as u32)) {
                list[there] = row as u32;
            }
        }
    }
}

/// Neighbours that lead back to a row, whatever pruning says.
const DEPENDS_ON: usize = 1;

/// Adds each edge's way back where it is missing, and prunes lists that grow: a graph whose edges go one way only is walked
/// badly. Calls `told` with the number of rows done.
///
/// # Errors
/// What `told` reports.
pub fn add_ways_back(
    rows: &ByteRows<'_>,
    edges: &mut [u32],
    degree: usize,
    rule: &Rule,
    told: impl Fn(usize) -> Result<()> + Sync,
) -> Result<()> {
    let back = Back::new(edges, degree);
    edges
        .par_chunks_mut(STRIPE * degree)
        .enumerate()
        .try_for_each_init(
            Default::default,
            |(pruner, all): &mut (Pruner, Vec<u32>), (stripe, edges)| {
                for (i, edges) in edges.chunks_exact_mut(degree).enumerate() {
                    let row = (stripe * STRIPE + i) as u32;
                    let there = edges.partition_point(|&row| row != NONE);
                    let back = back.of(row);
                    if back.iter().all(|row| edges[..there].contains(row)) {
                        continue;
                    }
                    all.clear();
                    all.extend(&edges[..there]);
                    all.extend(back);
                    edges.fill(NONE);
                    write(edges, pruner.of(rows, row, all, rule)?);
                }
                told(edges.len() / degree)
            },
        )
}

fn write(edges: &mut [u32], rows: impl Iterator<Item = u32>) {
    for (edge, row) in edges.iter_mut().zip(rows) {
        *edge = row;
    }
}

/// Fills the free places of each row with random other rows: up to the first of `sizes` that its neighbours do not
/// exceed. Of fewer rows, it takes what there are.
pub fn fill(edges: &mut [u32], degree: usize, rule: &Rule, seed: u64) {
    let count = edges.len() / degree;
    edges
        .par_chunks_exact_mut(degree)
        .enumerate()
        .for_each(|(row, edges)| {
            let there = edges.partition_point(|&row| row != NONE);
            let places = rule.places(there).min(degree);
            fill_row(&mut edges[..places], there, row as u32, seed, count);
        });
}

/// Fills the free places of one list, of which `there` are taken, with random ones of `count` rows other than `own`. They
/// cost nothing, as the places are there, and lead out of clusters.
pub(super) fn fill_row(list: &mut [u32], mut there: usize, own: u32, seed: u64, count: usize) {
    let mut stream = Stream::new(seed, FILL, u64::from(own));
    if count <= list.len() + 1 {
        for other in 0..count as u32 {
            if there < list.len() && other != own && !list[..there].contains(&other) {
                list[there] = other;
                there += 1;
            }
        }
        return;
    }
    while there < list.len() {
        let other = stream.below(count as u64) as u32;
        if other != own && !list[..there].contains(&other) {
            list[there] = other;
            there += 1;
        }
    }
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
        let size = params.rule.places(shared.len()).min(degree);
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
