//! Blocks of 32 rows whose half-byte codes lie side by side, and the tables that a query scans them with.
//!
//! Works on slices. The layout is that of [`osler_kernels::scan`].

use std::ops::Range;

/// Rows of a block.
pub const LANES: usize = 32;

/// Entries of one table.
const ENTRIES: usize = 16;

/// One of so many tables may be wide, and those are the first: rotated parts are in the order of their variance.
const WIDE_SHARE: usize = 8;

/// A query's tables in whole steps: of one byte each, but the first may be wide and have two.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    low: Vec<u8>,
    /// Higher bytes of the wide tables.
    high: Vec<u8>,
    /// Sum of what was taken off each table.
    base: f32,
    step: f32,
}

impl Lookup {
    /// From tables of 16 floats, one after another. All get the same step: that of the widest which has but one byte.
    pub(super) fn new(tables: &[f32]) -> Self {
        let tables = tables.as_chunks::<ENTRIES>().0;
        let mut base = 0.0;
        let mut lows = Vec::with_capacity(tables.len());
        let mut widths = Vec::with_capacity(tables.len());
        for table in tables {
            let (mut low, mut high) = (table[0], table[0]);
            for &x in table {
                low = if x < low { x } else { low };
                high = if x > high { x } else { high };
            }
            base += low;
            lows.push(low);
            widths.push(high - low);
        }
        let widest = |widths: &[f32]| widths.iter().copied().fold(0.0, f32::max);
        // Whole registers of the scan.
        let mut wide = (tables.len() / WIDE_SHARE)
            .next_multiple_of(4)
            .min(tables.len());
        let (first, others) = (widest(&widths[..wide]), widest(&widths[wide..]));
        let mut step = (others / 255.0).max(first / 65_535.0);
        // A second byte for tables that are not much wider would cost more than it gives.
        if first <= 1.5 * others {
            wide = 0;
            step = first.max(others) / 255.0;
        }
        let per_step = if step > f32::MIN_POSITIVE {
            1.0 / step
        } else {
            0.0
        };
        let (mut low, mut high) = (Vec::new(), Vec::new());
        for (i, (table, lowest)) in tables.iter().zip(lows).enumerate() {
            let steps = table.map(|x| ((x - lowest) * per_step + 0.5) as u16);
            low.extend(steps.map(|steps| (steps & 255) as u8));
            if i < wide {
                high.extend(steps.map(|steps| (steps >> 8) as u8));
            }
        }
        Lookup {
            low,
            high,
            base,
            step,
        }
    }

    /// The sum of every row's entries.
    #[inline]
    pub(super) fn sums(&self, nibbles: &[u8], sums: &mut [f32; LANES]) {
        let mut steps = [0; LANES];
        if !self.high.is_empty() {
            osler_kernels::scan(&self.high, &nibbles[..self.high.len()], &mut steps);
            steps.iter_mut().for_each(|steps| *steps <<= 8);
        }
        osler_kernels::scan(&self.low, nibbles, &mut steps);
        for (sum, steps) in sums.iter_mut().zip(steps) {
            // Signed, because old CPUs have no instruction for unsigned ones; the sum never needs the last bit.
            *sum = self.base + self.step * (steps as i32) as f32;
        }
    }
}

/// Puts the half-bytes of up to 32 rows side by side. A row has `bytes` bytes, of which `part` holds its half-bytes, the
/// low one first.
pub(super) fn pack_nibbles(codes: &[u8], bytes: usize, part: Range<usize>, nibbles: &mut [u8]) {
    nibbles.fill(0);
    for (lane, code) in codes.chunks_exact(bytes).enumerate() {
        let shift = 4 * (lane / ENTRIES);
        let groups = nibbles.as_chunks_mut::<{ 2 * ENTRIES }>().0;
        for (&byte, group) in code[part.clone()].iter().zip(groups) {
            group[lane % ENTRIES] |= (byte & 15) << shift;
            group[ENTRIES + lane % ENTRIES] |= (byte >> 4) << shift;
        }
    }
}

/// The half-bytes of one row.
pub(super) fn unpack_nibbles(nibbles: &[u8], lane: usize, out: &mut [u8]) {
    let shift = 4 * (lane / ENTRIES);
    let groups = nibbles.as_chunks::<{ 2 * ENTRIES }>().0;
    for (byte, group) in out.iter_mut().zip(groups) {
        let low = group[lane % ENTRIES] >> shift & 15;
        let high = group[ENTRIES + lane % ENTRIES] >> shift & 15;
        *byte = low | high << 4;
    }
}
