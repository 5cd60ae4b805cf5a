//! Rows grouped into cells around centres, in an order of their own, and which cells can hold no partner of a row.
//!
//! Works on images alone; allocates one more copy of them and a table of cell against cell. Two rows on different sides of
//! the plane between two centres are at least as far from each other as their distances to that plane add up to
//! (generalised hyperplanes: Uhlmann, "Satisfying general proximity queries with metric trees", IPL 1991), whichever
//! centre each row is nearest to.

use osler_kernels::SLIVER;
use rayon::prelude::*;

use super::bound::{Image, up};
use crate::error::{Error, Result};
use crate::pool::Control;
use crate::random::Stream;

/// Cells for a square of so many rows: more cost more comparisons with centres than they save between rows.
const CELLS_PER_ROOT: f64 = 6.0;

/// Bounds the table of cell against cell to 64 MiB.
const MOST_CELLS: usize = 4096;

/// Rows for each cell that centres are learnt from.
const SAMPLE_PER_CELL: usize = 16;

/// Rounds of Lloyd's algorithm. Any centres give the same pairs.
const ROUNDS: usize = 3;

/// Rows whose distances to all centres are held at once.
const BLOCK: usize = 32;

/// Purpose of the random stream.
const PURPOSE: u64 = 0x6365_6c6c;

/// Rows in the order of their cells; within a cell new rows come before old ones.
pub struct Cells {
    /// Row at each place.
    pub order: Vec<u32>,
    /// Place of each cell's first row, and their number at the end.
    pub starts: Vec<usize>,
    /// Place after each cell's last new row.
    pub fresh: Vec<usize>,
    /// Images and terms by place.
    pub values: Vec<f32>,
    pub terms: Vec<f32>,
    /// Long images by place.
    pub long: Vec<f32>,
    /// Images and terms in slivers, a cell's rows from a sliver's first lane on.
    pub slivers: Slivers,
    /// Sliver of each cell's first row, and their number at the end.
    pub first_sliver: Vec<usize>,
    centres: Centres,
    /// For cells a and b, the least over the rows of a of how much nearer they are to the centre of a than to that of b, as
    /// half a difference of squared distances.
    gaps: Vec<f32>,
    /// Largest squared length in each cell.
    squares: Vec<f32>,
}

/// Vectors as the kernels of slivers read them; lanes without one have a term of minus infinity.
#[derive(Default)]
pub struct Slivers {
    pub values: Vec<f32>,
    pub terms: Vec<f32>,
}

impl Slivers {
    /// Appends vectors from a fresh sliver on.
    pub fn push(&mut self, vectors: &[f32], width: usize, terms: &[f32]) {
        for (rows, terms) in vectors.chunks(SLIVER * width).zip(terms.chunks(SLIVER)) {
            let start = self.values.len();
            self.values.resize(start + SLIVER * width, 0.0);
            for (i, row) in rows.chunks_exact(width).enumerate() {
                for (d, &x) in row.iter().enumerate() {
                    self.values[start + d * SLIVER + i] = x;
                }
            }
            self.terms.extend_from_slice(terms);
            let whole = self.terms.len().next_multiple_of(SLIVER);
            self.terms.resize(whole, f32::NEG_INFINITY);
        }
    }

    pub fn clear(&mut self) {
        self.values.clear();
        self.terms.clear();
    }
}

struct Centres {
    width: usize,
    rows: Vec<f32>,
    /// Minus half of the squared lengths, so that the nearest centre has the greatest sum.
    terms: Vec<f32>,
    slivers: Slivers,
}

impl Centres {
    fn new(rows: Vec<f32>, width: usize) -> Self {
        let terms: Vec<f32> = rows
            .chunks_exact(width)
            .map(|row| -osler_kernels::sum_of_squares(row) / 2.0)
            .collect();
        let mut slivers = Slivers::default();
        slivers.push(&rows, width, &terms);
        Centres {
            width,
            rows,
            terms,
            slivers,
        }
    }

    fn count(&self) -> usize {
        self.terms.len()
    }

    fn row(&self, cell: usize) -> &[f32] {
        &self.rows[cell * self.width..][..self.width]
    }

    /// Calls `take` with each of `rows`, by number, and its sums with all centres.
    fn each(&self, rows: &[f32], mut take: impl FnMut(usize, &[f32])) {
        let mut sums = vec![0.0; BLOCK * self.slivers.terms.len()];
        for (block, rows) in rows.chunks(BLOCK * self.width).enumerate() {
            let count = rows.len() / self.width;
            let sums = &mut sums[..count * self.slivers.terms.len()];
            osler_kernels::sliver_sums(
                rows,
                &self.slivers.values,
                &self.slivers.terms,
                self.width,
                sums,
            );
            for (i, sums) in sums.chunks_exact(self.slivers.terms.len()).enumerate() {
                take(block * BLOCK + i, &sums[..self.count()]);
            }
        }
    }

    fn nearest(&self, rows: &[f32]) -> Vec<u32> {
        let mut cells = Vec::with_capacity(rows.len() / self.width);
        self.each(rows, |_, sums| cells.push(first_of_greatest(sums)));
        cells
    }

    fn nearest_in_parallel(&self, rows: &[f32], control: &Control) -> Result<Vec<u32>> {
        let parts: Result<Vec<Vec<u32>>> = rows
            .par_chunks(16 * BLOCK * self.width)
            .map(|rows| {
                control.check()?;
                Ok(self.nearest(rows))
            })
            .collect();
        Ok(parts?.concat())
    }
}

fn first_of_greatest(sums: &[f32]) -> u32 {
    let mut most = [f32::NEG_INFINITY; 16];
    let (blocks, rest) = sums.as_chunks::<16>();
    for block in blocks {
        for i in 0..16 {
            most[i] = if block[i] > most[i] {
                block[i]
            } else {
                most[i]
            };
        }
    }
    let most = most
        .iter()
        .chain(rest)
        .fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    sums.iter().position(|&sum| sum == most).unwrap_or(0) as u32
}

impl Cells {
    /// All rows as one cell in their own order, without images.
    pub fn one(count: usize, fresh: usize) -> Self {
        Cells {
            order: (0..count as u32).collect(),
            starts: vec![0, count],
            fresh: vec![fresh],
            values: Vec::new(),
            terms: Vec::new(),
            long: Vec::new(),
            slivers: Slivers::default(),
            first_sliver: vec![0, count.div_ceil(SLIVER)],
            centres: Centres::new(Vec::new(), 1),
            gaps: Vec::new(),
            squares: Vec::new(),
        }
    }

    /// Groups the rows of `image`, the first `fresh` of which are new, and takes the images over.
    pub fn new(image: &mut Image, fresh: usize, control: &Control) -> Result<Self> {
        let (width, count) = (image.width, image.terms.len());
        let wanted = (CELLS_PER_ROOT * (fresh as f64).sqrt()) as usize;
        let centres = learn(image, wanted.clamp(1, MOST_CELLS.min(count)), control)?;
        let cells = centres.count();
        let of_row = centres.nearest_in_parallel(&image.values, control)?;
        let mut starts = vec![0; cells + 1];
        for &cell in &of_row {
            starts[cell as usize + 1] += 1;
        }
        for cell in 0..cells {
            starts[cell + 1] += starts[cell];
        }
        let mut next = starts.clone();
        let mut ends = starts[..cells].to_vec();
        let mut order = vec![0; count];
        for (row, &cell) in of_row.iter().enumerate() {
            let place = &mut next[cell as usize];
            order[*place] = row as u32;
            *place += 1;
            if row < fresh {
                ends[cell as usize] = *place;
            }
        }
        let mut values = Vec::with_capacity(count * width);
        for &row in &order {
            values.extend_from_slice(&image.values[row as usize * width..][..width]);
        }
        image.values = Vec::new();
        let long_width = image.long_width;
        let mut long = Vec::with_capacity(image.long.len());
        for &row in &order {
            long.extend_from_slice(&image.long[row as usize * long_width..][..long_width]);
        }
        image.long = Vec::new();
        let terms: Vec<f32> = order.iter().map(|&row| image.terms[row as usize]).collect();
        let mut slivers = Slivers::default();
        let mut first_sliver = vec![0];
        let mut squares = vec![0.0_f32; cells];
        for cell in 0..cells {
            let places = starts[cell]..starts[cell + 1];
            let rows = &values[places.start * width..places.end * width];
            slivers.push(rows, width, &terms[places.clone()]);
            first_sliver.push(slivers.terms.len() / SLIVER);
            for &row in &order[places] {
                squares[cell] = squares[cell].max(image.squares[row as usize]);
            }
        }
        let mut gaps = vec![f32::INFINITY; cells * cells];
        gaps.par_chunks_mut(cells)
            .enumerate()
            .try_for_each(|(cell, gaps)| {
                control.check()?;
                let rows = &values[starts[cell] * width..starts[cell + 1] * width];
                centres.each(rows, |_, sums| {
                    let own = sums[cell];
                    for (gap, &sum) in gaps.iter_mut().zip(sums) {
                        let nearer = own - sum;
                        *gap = if nearer < *gap { nearer } else { *gap };
                    }
                });
                Ok::<_, Error>(())
            })?;
        Ok(Cells {
            order,
            starts,
            fresh: ends,
            values,
            terms,
            long,
            slivers,
            first_sliver,
            centres,
            gaps,
            squares,
        })
    }

    /// Number of cells.
    pub fn count(&self) -> usize {
        self.fresh.len()
    }

    /// Cells that can hold partners of rows of `cell`, in order, with how much nearer a row may be to its own centre than to
    /// the other cell's to have one there. Of cells before this one only those with old rows count.
    pub fn partners(&self, image: &Image, cell: usize, found: &mut Vec<(u32, f32)>) {
        found.clear();
        let count = self.count();
        for other in 0..count {
            let old = self.fresh[other] < self.starts[other + 1];
            if other == cell {
                found.push((other as u32, f32::INFINITY));
            } else if old || (other > cell && self.starts[other] < self.starts[other + 1]) {
                let Some(radius) = image.radius([self.squares[cell], self.squares[other]]) else {
                    continue;
                };
                let [own, theirs] = [self.centres.row(cell), self.centres.row(other)];
                let apart = f64::from(osler_kernels::l2(own, theirs)).sqrt() * (1.0 + 1e-5);
                let gap = f64::from(self.gaps[other * count + cell]);
                let most = up(radius * apart + image.error - gap);
                if self.gaps[cell * count + other] <= most {
                    found.push((other as u32, most));
                }
            }
        }
    }

    /// The centres of `partners` as slivers.
    pub fn centres_of(&self, partners: &[(u32, f32)], slivers: &mut Slivers) {
        let mut rows = Vec::with_capacity(partners.len() * self.centres.width);
        let mut terms = Vec::with_capacity(partners.len());
        for &(cell, _) in partners {
            rows.extend_from_slice(self.centres.row(cell as usize));
            terms.push(self.centres.terms[cell as usize]);
        }
        slivers.clear();
        slivers.push(&rows, self.centres.width, &terms);
    }
}

/// Lloyd's k-means from random rows, on some rows. The rest of an image, which is a length and no coordinate, is left out:
/// centres have 0 there.
fn learn(image: &Image, wanted: usize, control: &Control) -> Result<Centres> {
    let (width, count) = (image.width, image.terms.len());
    let mut stream = Stream::new(0, PURPOSE, 0);
    let taken = (wanted * SAMPLE_PER_CELL).min(count);
    let mut sample = Vec::with_capacity(taken * width);
    for _ in 0..taken {
        let row = stream.below(count as u64) as usize;
        sample.extend_from_slice(&image.values[row * width..][..width - 1]);
        sample.push(0.0);
    }
    let mut centres = Centres::new(sample[..wanted * width].to_vec(), width);
    for _ in 0..ROUNDS {
        let nearest = centres.nearest_in_parallel(&sample, control)?;
        let mut sums = vec![0.0_f64; wanted * width];
        let mut members = vec![0_u32; wanted];
        for (row, &cell) in sample.chunks_exact(width).zip(&nearest) {
            members[cell as usize] += 1;
            let sums = &mut sums[cell as usize * width..][..width];
            for (sum, &x) in sums.iter_mut().zip(row) {
                *sum += f64::from(x);
            }
        }
        let mut rows = centres.rows;
        for (cell, &members) in members.iter().enumerate() {
            if members > 0 {
                for d in cell * width..(cell + 1) * width {
                    rows[d] = (sums[d] / f64::from(members)) as f32;
                }
            }
        }
        centres = Centres::new(rows, width);
    }
    Ok(centres)
}
