//! Which neighbours to keep: near ones, but none that is nearer to a kept one than to its owner.
//!
//! Malkov and Yashunin, Algorithm 4, without the extension. Equal distances count as nearer, so that of many equal
//! rows one is kept and the rest of the list leads elsewhere.

use crate::error::Read;
use crate::vectors::{Probe, Vectors};

/// Reads vectors for distances between rows, in the space that the graph is built in.
pub trait Space: Sync {
    /// The vectors.
    fn vectors(&self) -> &Vectors;
    /// A row as a query for its distances to others; `buffer` holds its vector.
    ///
    /// # Errors
    /// The damage, where the row lies in a damaged block of a file.
    fn probe<'a>(&'a self, row: u32, buffer: &'a mut Vec<f32>) -> Read<Probe<'a>>;
    /// A distance that orders as the score of such a probe does, not negative up to rounding.
    fn distance(&self, score: f32) -> f32;
}

/// Picks at most `most` of `candidates`, which are sorted by distance from their owner and given as (distance, row);
/// returns their places in `candidates`.
///
/// # Errors
/// The damage, where a row lies in a damaged block of a file.
pub fn select(space: &impl Space, candidates: &[(f32, u32)], most: usize) -> Read<Vec<usize>> {
    let mut kept: Vec<usize> = Vec::with_capacity(most);
    let mut buffer = Vec::new();
    for (i, &(distance, row)) in candidates.iter().enumerate() {
        if kept.len() == most {
            break;
        }
        let probe = space.probe(row, &mut buffer)?;
        let mut near_kept = false;
        let mut fours = kept.chunks_exact(4);
        for four in &mut fours {
            let scores = probe.score4([0, 1, 2, 3].map(|j: usize| candidates[four[j]].1))?;
            if scores
                .iter()
                .any(|&score| space.distance(score) <= distance)
            {
                near_kept = true;
                break;
            }
        }
        if !near_kept {
            for &j in fours.remainder() {
                if space.distance(probe.score(candidates[j].1)?) <= distance {
                    near_kept = true;
                    break;
                }
            }
        }
        if !near_kept {
            kept.push(i);
        }
    }
    Ok(kept)
}
