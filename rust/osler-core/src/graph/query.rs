//! A query in the forms that blocks are scored with: wide integers for rows, look-up tables for the 1-bit codes of many
//! neighbours at once, and small integers for those that lie apart.
//!
//! Allocates when its size changes only.

use osler_kernels::TableScale;

use super::frame::{Coded, Frame, REACH};
use super::node::Blocks;

/// A prepared query.
#[derive(Debug, Default)]
pub struct Query {
    pub(super) wide: Vec<i16>,
    pub(super) wide_unit: f32,
    pub(super) square: f32,
    pub(super) tables: Vec<u8>,
    pub(super) table_scale: TableScale,
    /// For single blocks: small integers, their sum, and what a unit of them is worth.
    pub(super) small: Vec<i8>,
    pub(super) small_sum: i32,
    pub(super) small_unit: f32,
    /// How many times longer the vector is than what blocks are scored with: more than once only beyond [`REACH`].
    pub(super) times: f64,
    turned: Vec<f32>,
    vector: Vec<f32>,
}

impl Query {
    /// Prepares `vector` for a graph. It is multiplied with `scale` and gets the coordinate `lift` where rows have one.
    pub fn prepare(&mut self, frame: &Frame, vector: &[f32], scale: f32, lift: Option<f32>) {
        self.take(vector, scale, lift);
        self.turned.resize(frame.padded(), 0.0);
        frame.turn(&mut self.vector, &mut self.turned);
        self.times = 1.0;
        let square = osler_kernels::sum_of_squares(&self.turned);
        if square.is_nan() || f64::from(square) > REACH * REACH {
            self.take(vector, 1.0, lift.map(|lift| lift / scale));
            self.times =
                frame.turn_within_reach(&mut self.vector, f64::from(scale), &mut self.turned);
        }
        self.set(frame.blocks());
    }

    fn take(&mut self, vector: &[f32], scale: f32, lift: Option<f32>) {
        self.vector.clear();
        self.vector.extend(vector.iter().map(|x| x * scale));
        self.vector.extend(lift);
    }

    /// Makes a row of the graph the query.
    pub fn set_row(&mut self, row: Coded<'_>, blocks: Blocks) {
        self.turned.resize(row.codes.len(), 0.0);
        row.decode(&mut self.turned);
        self.times = 1.0;
        self.set(blocks);
    }

    /// The query in the graph's frame.
    pub fn turned(&self) -> &[f32] {
        &self.turned
    }

    fn set(&mut self, blocks: Blocks) {
        let padded = self.turned.len();
        self.wide.resize(padded, 0);
        self.tables.resize(4 * padded, 0);
        self.square = osler_kernels::sum_of_squares(&self.turned);
        // No sum of products with 8-bit numbers may leave 32 bits.
        let widest = (i32::MAX as usize / (128 * padded)).min(i16::MAX as usize) as f32;
        self.wide_unit = osler_kernels::to_i16(&self.turned, widest, &mut self.wide);
        self.table_scale = osler_kernels::tables(&self.turned, &mut self.tables);
        if blocks != Blocks::Fused {
            self.small.resize(padded, 0);
            let [unit, _] = Frame::encode(&self.turned, &mut self.small);
            self.small_unit = unit;
            self.small_sum = self.small.iter().map(|&x| i32::from(x)).sum();
        }
    }
}
