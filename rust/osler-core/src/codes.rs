//! Small codes of all rows, in blocks that are scanned: training, encoding, scanning, and dropping rows.
//!
//! Reads vectors through a closure. Codes of a row depend on the quantizer and on the row alone, so that blocks are the
//! same bytes however rows came and at any number of threads.

use std::sync::Arc;

use rayon::prelude::*;

use crate::chunks::Rows;
use crate::error::{Read, Result};
use crate::graph::repair::GONE;
use crate::metric::{LARGEST, squares};
use crate::pool::Control;
use crate::quantize::{LANES, Method, Prepared, Quantizer};
use crate::queue::{Collect, Entry};

/// Blocks that are encoded before they are stored.
const TOGETHER: usize = 256;

/// Codes of rows `0..rows`.
#[derive(Clone)]
pub struct CodeTable {
    quantizer: Arc<Quantizer>,
    blocks: Rows<u8>,
    rows: usize,
    /// Rows that there were when the quantizer was trained.
    trained: usize,
}

impl CodeTable {
    /// A table without rows, of a quantizer that was trained when there were `trained` rows.
    pub fn new(quantizer: Quantizer, trained: usize) -> Self {
        CodeTable {
            blocks: Rows::new(quantizer.block_bytes()),
            quantizer: Arc::new(quantizer),
            rows: 0,
            trained,
        }
    }

    /// The table of blocks that were read from a file; None if they are not as many as the rows need.
    pub fn from_blocks(
        quantizer: Quantizer,
        blocks: Rows<u8>,
        rows: usize,
        trained: usize,
    ) -> Option<Self> {
        let fits =
            blocks.width() == quantizer.block_bytes() && blocks.len() == rows.div_ceil(LANES);
        fits.then(|| CodeTable {
            quantizer: Arc::new(quantizer),
            blocks,
            rows,
            trained,
        })
    }

    /// What made the codes.
    pub fn quantizer(&self) -> &Quantizer {
        &self.quantizer
    }

    /// The blocks, to be written to a file.
    pub fn blocks(&self) -> &Rows<u8> {
        &self.blocks
    }

    /// Rows that have codes.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Rows that there were when the quantizer was trained.
    pub fn trained(&self) -> usize {
        self.trained
    }

    /// Bytes that blocks take.
    pub fn bytes(&self) -> usize {
        self.blocks.bytes()
    }

    /// Encodes rows from the first that has no code up to `rows`.
    ///
    /// # Errors
    /// [`crate::error::Error::Cancelled`], or what `read` reports; the table is then unusable.
    pub fn extend(
        &mut self,
        rows: usize,
        dim: usize,
        read: impl Fn(u32, &mut [f32]) -> Read<()> + Sync,
        control: &Control,
    ) -> Result<()> {
        let size = self.quantizer.bytes();
        let first = self.rows / LANES;
        let last = rows.div_ceil(LANES);
        for from in (first..last).step_by(TOGETHER) {
            control.check()?;
            let to = (from + TOGETHER).min(last);
            let this = &*self;
            let encode = |block: usize| -> Result<Vec<u8>> {
                let mut vector = vec![0.0; dim];
                let lanes = (rows - block * LANES).min(LANES);
                let mut codes = vec![0; lanes * size];
                for (lane, code) in codes.chunks_exact_mut(size).enumerate() {
                    let row = block * LANES + lane;
                    if row < this.rows {
                        let packed = this.blocks.row(block)?;
                        this.quantizer.unpack(packed, lane, code);
                    } else {
                        read(row as u32, &mut vector)?;
                        this.quantizer.encode(&vector, code);
                    }
                }
                let mut packed = vec![0; this.quantizer.block_bytes()];
                this.quantizer.pack(&codes, &mut packed);
                Ok(packed)
            };
            let blocks = (from..to)
                .into_par_iter()
                .map(encode)
                .collect::<Result<Vec<_>>>()?;
            for (block, packed) in (from..to).zip(&blocks) {
                if block < self.blocks.len() {
                    self.blocks.row_mut(block)?.copy_from_slice(packed);
                } else {
                    self.blocks.push(packed)?;
                }
            }
            let before = self.rows;
            self.rows = (to * LANES).min(rows).max(before);
            control.advance(self.rows - before);
        }
        Ok(())
    }

    /// Writes out the code of a row.
    ///
    /// # Errors
    /// The damage, where it lies in a damaged block of a file.
    pub fn read(&self, row: u32, code: &mut Vec<u8>) -> Read<()> {
        code.resize(self.quantizer.bytes(), 0);
        let block = self.blocks.row(row as usize / LANES)?;
        self.quantizer.unpack(block, row as usize % LANES, code);
        Ok(())
    }

    /// Writes out the vector that a row's code stands for.
    ///
    /// # Errors
    /// The damage, where it lies in a damaged block of a file.
    pub fn decode(&self, row: u32, out: &mut [f32]) -> Read<()> {
        let mut code = Vec::new();
        self.read(row, &mut code)?;
        self.quantizer.decode(&code, out);
        Ok(())
    }

    /// Offers the rows of `blocks` that `mask` (given the block, a bit a row) has and `accept` takes, by estimates of
    /// their scores; under RaBitQ of several bits, by all bits of those whose first bit promises enough.
    ///
    /// # Errors
    /// The damage, where codes lie in a damaged block of a file.
    pub fn scan(
        &self,
        blocks: std::ops::Range<usize>,
        query: &Prepared,
        mask: impl Fn(usize) -> u32,
        accept: impl Fn(u32) -> bool,
        collect: &mut impl Collect,
    ) -> Read<()> {
        let refined = matches!(self.quantizer.method(), Method::Rabitq { bits } if bits > 1);
        let (mut scores, mut errors) = ([0.0; LANES], [0.0; LANES]);
        let mut code = vec![0; self.quantizer.bytes()];
        for block in blocks {
            let mut mask = mask(block);
            let lanes = (self.rows - block * LANES).min(LANES);
            if lanes < LANES {
                mask &= (1 << lanes) - 1;
            }
            if mask == 0 {
                continue;
            }
            let packed = self.blocks.row(block)?;
            query.score_block(packed, &mut scores, &mut errors);
            // No number where there is room still, and no score is below that.
            let floor = collect.floor().score();
            let mut above = 0;
            for lane in 0..LANES {
                let most = if refined {
                    scores[lane] + errors[lane]
                } else {
                    scores[lane]
                };
                let below = most < floor;
                above |= u32::from(!below) << lane;
            }
            mask &= above;
            while mask != 0 {
                let lane = mask.trailing_zeros() as usize;
                mask &= mask - 1;
                let row = (block * LANES + lane) as u32;
                if !accept(row) {
                    continue;
                }
                let mut score = scores[lane];
                if refined {
                    self.quantizer.unpack(packed, lane, &mut code);
                    score = query.score(&code);
                }
                let entry = Entry::new(score, row);
                if entry > collect.floor() {
                    collect.offer(entry);
                }
            }
        }
        Ok(())
    }

    /// The codes of the rows that stay, in order.
    ///
    /// # Errors
    /// [`crate::error::Error::Cancelled`], or damage of the file that codes lie in.
    pub fn without(&self, new_row: &[u32], control: &Control) -> Result<Self> {
        let quantizer = self.quantizer.clone();
        let mut table = CodeTable {
            blocks: Rows::new(quantizer.block_bytes()),
            quantizer,
            rows: 0,
            trained: self.trained,
        };
        let size = self.quantizer.bytes();
        let mut packed = vec![0; self.quantizer.block_bytes()];
        let (mut code, mut codes) = (Vec::new(), Vec::new());
        let staying = (0..self.rows).filter(|&row| new_row[row] != GONE);
        for row in staying {
            self.read(row as u32, &mut code)?;
            codes.extend_from_slice(&code);
            table.rows += 1;
            if codes.len() == LANES * size {
                control.check()?;
                table.quantizer.pack(&codes, &mut packed);
                table.blocks.push(&packed)?;
                codes.clear();
            }
        }
        if !codes.is_empty() {
            table.quantizer.pack(&codes, &mut packed);
            table.blocks.push(&packed)?;
        }
        Ok(table)
    }

    /// Checks what checksums cannot: that every code can be scored.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Read<()> {
        let query = self.quantizer.prepare(&vec![0.0; self.quantizer.dim()]);
        let (mut scores, mut errors) = ([0.0; LANES], [0.0; LANES]);
        let mut code = Vec::new();
        for row in 0..self.rows {
            let (block, lane) = (row / LANES, row % LANES);
            if lane == 0 {
                query.score_block(self.blocks.row(block)?, &mut scores, &mut errors);
            }
            self.read(row as u32, &mut code)?;
            // A row and the centre are within the limit; what they differ by may be twice as long, and its code longer.
            let length = squares(&self.quantizer.rotated(&code));
            let sound = scores[lane].is_finite()
                && errors[lane].is_finite()
                && query.score(&code).is_finite()
                && length <= 8.0 * LARGEST;
            if !sound {
                return Err(self.blocks.damage(block, "a code stands for no vector"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::{Metric, shorten};
    use crate::random::Stream;

    const DIM: usize = 16;

    fn rows(stream: &mut Stream, length: f64) -> Vec<f32> {
        let mut rows: Vec<f32> = (0..40 * DIM)
            .map(|_| stream.below(2001) as f32 / 1000.0 - 1.0)
            .collect();
        for row in rows.chunks_exact_mut(DIM) {
            let by = (length / squares(row)).sqrt();
            row.iter_mut()
                .for_each(|x| *x = (f64::from(*x) * by) as f32);
        }
        // Around a centre of zeros, from which a query of zeros tells nothing of a code.
        let (first, second) = rows.split_at_mut(20 * DIM);
        for (x, opposite) in first.iter().zip(second) {
            *opposite = -x;
        }
        rows
    }

    fn table(method: Method, metric: Metric, rows: &[f32]) -> CodeTable {
        let quantizer = Quantizer::train(method, metric, rows, DIM, 3);
        let mut table = CodeTable::new(quantizer, 40);
        let read = |row: u32, out: &mut [f32]| {
            out.copy_from_slice(&rows[row as usize * DIM..][..DIM]);
            Ok(())
        };
        table.extend(40, DIM, read, &Control::default()).unwrap();
        table
    }

    /// Whether all codes answer, and a quantizer can be trained on what they stand for.
    fn is_of_use(table: &CodeTable, method: Method, metric: Metric) -> bool {
        let mut decoded = vec![0.0; 40 * DIM];
        for (row, out) in decoded.chunks_exact_mut(DIM).enumerate() {
            table.decode(row as u32, out).unwrap();
            shorten(out);
        }
        let mut longest = vec![0.0; DIM];
        longest[3] = LARGEST.sqrt() as f32;
        let answers = [vec![0.5; DIM], longest].iter().all(|query| {
            let query = table.quantizer.prepare(query);
            let (mut scores, mut errors) = ([0.0; LANES], [0.0; LANES]);
            query.score_block(table.blocks.row(0).unwrap(), &mut scores, &mut errors);
            !scores.iter().any(|score| score.is_nan())
        });
        let again = self::table(method, metric, &decoded);
        answers && again.validate().is_ok()
    }

    #[test]
    fn what_is_sound_can_be_scored_and_trained_on() {
        let mut stream = Stream::new(5, 1, 0);
        let (mut sound, mut refused) = (0, 0);
        for name in ["rabitq:1", "rabitq:7", "pq"] {
            let method = Method::parse(name, DIM).unwrap();
            for metric in [Metric::L2, Metric::Dot] {
                let right = table(method, metric, &rows(&mut stream, 16.0));
                for at in (0..right.blocks.width() - 3).step_by(4) {
                    for value in [
                        1e9_f32,
                        1e15,
                        1e17,
                        3e18,
                        1e19,
                        1e20,
                        1e30,
                        3e36,
                        1e38,
                        f32::NAN,
                    ] {
                        let mut wrong = right.clone();
                        let block = wrong.blocks.row_mut(0).unwrap();
                        block[at..at + 4].copy_from_slice(&value.to_le_bytes());
                        if wrong.validate().is_err() {
                            refused += 1;
                            continue;
                        }
                        sound += 1;
                        let of_use = is_of_use(&wrong, method, metric);
                        assert!(of_use, "{name}, {metric:?}, {value} at {at}");
                    }
                }
            }
        }
        assert!(
            sound > 100 && refused > 100,
            "{sound} sound, {refused} refused"
        );
    }

    #[test]
    fn codes_of_the_longest_rows_are_sound() {
        let mut stream = Stream::new(6, 1, 0);
        for name in ["rabitq:1", "rabitq:2", "rabitq:7", "pq"] {
            let method = Method::parse(name, DIM).unwrap();
            for metric in [Metric::L2, Metric::Dot] {
                let table = table(method, metric, &rows(&mut stream, LARGEST * 0.999));
                table.validate().unwrap();
                let floats = table.quantizer.floats();
                assert!(Quantizer::from_floats(method, metric, DIM, 3, &floats).is_some());
                assert!(is_of_use(&table, method, metric), "{name}, {metric:?}");
            }
        }
    }
}
