//! Which neighbours to keep: near ones, but none that is clearly nearer to a kept one than to its owner.
//!
//! RobustPrune (Subramanya et al., DiskANN, NeurIPS 2019, Algorithm 2), which is HNSW's heuristic (Algorithm 4) with slack.
//! Equal distances count as nearer, so that of many equal rows one is kept and the rest of the list leads elsewhere.

use rayon::prelude::*;

use super::assemble::DEGREE;
use super::frame::CodedRows;
use super::node::NONE;
use super::real;
use crate::error::{Read, Result};
use crate::pool::Control;

/// Slack of the rule, on squared distances. Higher keeps more links that lead the same way, and where rows lie in clusters
/// the list is then full before any link leaves the cluster: 20 points of recall are lost that even data do not show.
pub const ALPHA: f32 = 1.1;

/// Picks at most `most` of `candidates`, (squared distance from their owner, name), sorted; `distance` is that between two
/// of them. Returns their places.
///
/// # Errors
/// What `distance` reports.
pub fn select(
    candidates: &[(f32, u32)],
    most: usize,
    mut distance: impl FnMut(u32, u32) -> Read<f32>,
) -> Read<Vec<usize>> {
    let mut kept: Vec<usize> = Vec::with_capacity(most.min(candidates.len()));
    'candidates: for (i, &(own, name)) in candidates.iter().enumerate() {
        if kept.len() == most {
            break;
        }
        for &j in &kept {
            if ALPHA * distance(candidates[j].1, name)? <= own {
                continue 'candidates;
            }
        }
        kept.push(i);
    }
    Ok(kept)
}

/// At most `most` of `candidates`, given by places of `coded`, as the neighbours of `owner`, sorted by distance.
pub fn shortened(coded: &CodedRows, owner: u32, candidates: &[u32], most: usize) -> Vec<u32> {
    let own = coded.row(owner as usize);
    let mut sorted: Vec<(f32, u32)> = candidates
        .iter()
        .map(|&other| (own.distance(&coded.row(other as usize)), other))
        .collect();
    sorted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let kept = select(&sorted, most, |a, b| {
        Ok(coded.row(a as usize).distance(&coded.row(b as usize)))
    });
    let kept = kept.unwrap_or_else(|_| unreachable!("rows in memory have no damage"));
    kept.into_iter().map(|at| sorted[at].1).collect()
}

/// Adds each link's way back where it is missing: a graph whose links go one way only is walked badly.
///
/// # Errors
/// [`crate::error::Error::Cancelled`].
pub fn add_ways_back(
    coded: &CodedRows,
    lists: &mut [[u32; DEGREE]],
    control: &Control,
) -> Result<()> {
    let mut ends = vec![0usize; lists.len() + 1];
    for list in &*lists {
        for &to in real(list) {
            ends[to as usize + 1] += 1;
        }
    }
    for i in 1..ends.len() {
        ends[i] += ends[i - 1];
    }
    let starts = ends.clone();
    let mut back = vec![NONE; ends[lists.len()]];
    for (from, list) in lists.iter().enumerate() {
        for &to in real(list) {
            back[ends[to as usize]] = from as u32;
            ends[to as usize] += 1;
        }
    }
    lists
        .par_iter_mut()
        .enumerate()
        .try_for_each(|(owner, list)| {
            if owner % 1024 == 0 {
                control.check()?;
            }
            let mut all = real(&*list).to_vec();
            let new = &back[starts[owner]..starts[owner + 1]];
            all.extend(new.iter().filter(|other| !list.contains(other)));
            if all.len() > DEGREE {
                all = shortened(coded, owner as u32, &all, DEGREE);
            }
            list.fill(NONE);
            list[..all.len()].copy_from_slice(&all);
            Ok(())
        })
}
