//! A node's 8-bit row in place of its full vector: decoded to the user's space, and scored against a user's query.
//!
//! Reads blocks of nodes. Under cosine and l2 the score comes from the distance in the graph's frame, whose error shrinks
//! with the distance; under dot, where rows are lifted, from the inner product itself.

use super::frame::Frame;
use super::query::Query;
use super::{Graph, NONE};
use crate::error::Read;
use crate::metric::Metric;

/// A user's query in the forms that 8-bit rows are scored with.
#[derive(Debug)]
pub struct RowQuery {
    metric: Metric,
    query: Query,
    /// Under dot: the inner product with the centre, and what one of `wide` is worth.
    at_centre: f32,
    /// Worth of a squared distance of the frame, or of an inner product there, in the user's space.
    worth: f64,
}

impl RowQuery {
    /// A query that `metric` has prepared.
    pub fn new(frame: &Frame, metric: Metric, query: &[f32]) -> Self {
        let per_unit = f64::from(frame.per_unit());
        let mut prepared = Query::default();
        match metric {
            Metric::Cosine | Metric::L2 => {
                prepared.prepare(frame, query, 1.0, None);
                RowQuery {
                    metric,
                    query: prepared,
                    at_centre: 0.0,
                    worth: 1.0 / (per_unit * per_unit),
                }
            }
            Metric::Dot => {
                let mut centred = query.to_vec();
                centred.push(0.0);
                // The centre is added so that centring takes it away again: what is turned is the query itself.
                for (x, centre) in centred.iter_mut().zip(frame.centre()) {
                    *x += centre;
                }
                prepared.prepare(frame, &centred, 1.0, None);
                RowQuery {
                    metric,
                    query: prepared,
                    at_centre: osler_kernels::dot(query, &frame.centre()[..query.len()]),
                    worth: 1.0 / (per_unit * per_unit),
                }
            }
        }
    }
}

impl Graph {
    /// The score of a linked row by its 8-bit form.
    ///
    /// # Errors
    /// The damage, where the row lies in a damaged block of a file.
    pub fn score_of(&self, row: u32, query: &RowQuery) -> Read<f32> {
        let node = self.node(self.linked(row)?)?;
        let RowQuery {
            metric,
            query,
            at_centre,
            worth,
        } = query;
        let product = || query.times * f64::from(node.product(query));
        let distance = || {
            if query.times > 1.0 {
                query.times.powi(2) * f64::from(query.square) + f64::from(node.square())
                    - 2.0 * product()
            } else {
                f64::from(node.distance(query))
            }
        };
        let score = match metric {
            Metric::Cosine => 1.0 - distance() * worth / 2.0,
            Metric::L2 => -(distance() * worth).max(0.0),
            Metric::Dot => f64::from(*at_centre) + product() * worth,
        };
        // Only a file made to do harm says of its rows that they lie farther.
        Ok(score.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32)
    }

    /// Writes out the vector that a linked row's 8-bit form stands for, without its lift.
    ///
    /// # Errors
    /// The damage, where the row lies in a damaged block of a file.
    pub fn decode(&self, row: u32, out: &mut [f32]) -> Read<()> {
        let node = self.node(self.linked(row)?)?;
        let mut turned = vec![0.0; self.frame.padded()];
        node.coded(&mut Vec::new()).decode(&mut turned);
        let mut whole = vec![0.0; self.frame.dim()];
        self.frame.turn_back(&mut turned, &mut whole);
        out.copy_from_slice(&whole[..out.len()]);
        Ok(())
    }

    fn linked(&self, row: u32) -> Read<u32> {
        let node = self.node_of(row)?;
        if node == NONE || !self.exists(node) {
            return Err(self.node_of.damage(row as usize, super::BROKEN_LINKS));
        }
        Ok(node)
    }
}
