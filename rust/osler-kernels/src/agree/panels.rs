//! The kernels of panels at every level this CPU has: the same keys as sorting all distances. Touches its own memory
//! only; the seed is `OSLER_TEST_SEED` and printed.

use super::guarded::{Guarded, Place};
use super::{Random, random, vector_levels};
use crate::{Kernels, MAX_PANEL_ROWS, PANEL_DIM_STEP, Panels, nearest_of, scalar};

const PLACES: [Place; 3] = [Place::End, Place::Start(0), Place::Start(3)];

/// Rows of bytes with scales, and what panels make of them.
struct Rows {
    dim: usize,
    codes: Vec<i8>,
    scales: Vec<f32>,
    halves: Vec<i8>,
    squares: Vec<f32>,
}

impl Rows {
    /// With many equal rows if `coarse`, and the largest sums that codes can give if `extreme`.
    fn new(random: &mut Random, count: usize, dim: usize, coarse: bool, extreme: bool) -> Rows {
        let code = |random: &mut Random| match (extreme, random.next() % 255) {
            (true, value) => [-127, 127][value as usize % 2],
            (false, value) => (value as i16 - 127) as i8,
        };
        let mut codes: Vec<i8> = (0..count * dim).map(|_| code(random)).collect();
        if coarse {
            for row in 1..count {
                let from = random.next() as usize % row.min(3) * dim;
                codes.copy_within(from..from + dim, row * dim);
            }
        }
        let scale = |random: &mut Random| if coarse { 0.5 } else { random.ordinary().abs() };
        let scales: Vec<f32> = (0..count).map(|_| scale(random)).collect();
        let half = |&code: &i8| (f32::from(code) / 2.0 + 0.25).round().min(63.0) as i8;
        let halves: Vec<i8> = codes.iter().map(half).collect();
        let square =
            |(row, scale): (&[i8], &f32)| 4.0 * scale * scale * scalar::dot_i8(row, row) as f32;
        let squares = halves.chunks(dim).zip(&scales).map(square).collect();
        Rows {
            dim,
            codes,
            scales,
            halves,
            squares,
        }
    }

    fn len(&self) -> usize {
        self.scales.len()
    }

    fn codes(&self, row: usize) -> &[i8] {
        &self.codes[row * self.dim..][..self.dim]
    }

    fn halves(&self, row: usize) -> &[i8] {
        &self.halves[row * self.dim..][..self.dim]
    }

    fn panels(&self, kernels: Kernels) -> Panels {
        let mut panels = Panels::default();
        let rows = (0..self.len()).map(|i| (self.codes(i), self.scales[i]));
        kernels.fill_panels(&mut panels, self.dim, rows);
        assert_eq!(panels.len(), self.len());
        panels
    }

    /// The rows of `others` nearest to one of these, by sorting.
    fn nearest(
        &self,
        row: usize,
        others: &Rows,
        most: usize,
        but: Option<usize>,
    ) -> Vec<(f32, usize)> {
        let mut all: Vec<(u32, usize)> = (0..others.len())
            .filter(|&other| Some(other) != but)
            .map(|other| {
                let dot = scalar::dot_i8(self.halves(row), others.halves(other));
                let (own, other_unit) = (2.0 * self.scales[row], 2.0 * others.scales[other]);
                let product = (2.0 * (own * other_unit)) * dot as f32;
                let distance = (self.squares[row] + others.squares[other]) - product;
                (distance.max(0.0).to_bits() >> 10, other)
            })
            .collect();
        all.sort_unstable();
        all.truncate(most);
        let exact = |(bits, other)| (f32::from_bits(bits << 10), other);
        all.into_iter().map(exact).collect()
    }
}

fn check_among<const MOST: usize>(kernels: Kernels, rows: &Rows, others: &Rows) {
    let mut keys = vec![3; 5];
    kernels.nearest_among::<MOST>(&rows.panels(kernels), &others.panels(kernels), &mut keys);
    for row in 0..rows.len() {
        let got: Vec<_> = nearest_of::<MOST>(&keys, row).collect();
        let wanted = rows.nearest(row, others, MOST, None);
        assert_eq!(
            got,
            wanted,
            "{MOST} of {} for row {row} of {}, {} codes, at {}",
            others.len(),
            rows.len(),
            rows.dim,
            kernels.level().name()
        );
    }
}

#[test]
fn the_nearest_within_a_leaf_are_those_of_sorting_all_pairs() {
    let mut random = random();
    for count in [0, 1, 2, 8, 9, 15, 16, 17, 33, 70] {
        for (dim, coarse, extreme) in [(64, false, false), (128, true, false), (384, false, true)] {
            let rows = Rows::new(&mut random, count, dim, coarse, extreme);
            for kernels in vector_levels() {
                let mut keys = vec![7];
                kernels.nearest_within(&rows.panels(kernels), &mut keys);
                for row in 0..count {
                    let got: Vec<_> = nearest_of::<8>(&keys, row).collect();
                    let wanted = rows.nearest(row, &rows, 8, Some(row));
                    let level = kernels.level().name();
                    assert_eq!(got, wanted, "row {row} of {count}, {dim} codes, at {level}");
                }
            }
        }
    }
}

#[test]
fn the_nearest_of_others_are_those_of_sorting_all_pairs() {
    let mut random = random();
    for (count, others) in [(0, 5), (1, 0), (1, 1), (17, 3), (5, 40), (33, 65)] {
        for coarse in [false, true] {
            let rows = Rows::new(&mut random, count, 128, coarse, false);
            let others = Rows::new(&mut random, others, 128, coarse, false);
            for kernels in vector_levels() {
                check_among::<1>(kernels, &rows, &others);
                check_among::<2>(kernels, &rows, &others);
                check_among::<4>(kernels, &rows, &others);
                check_among::<8>(kernels, &rows, &others);
                check_among::<16>(kernels, &rows, &others);
            }
        }
    }
}

#[test]
fn a_full_leaf_has_a_place_for_every_row() {
    let mut random = random();
    let rows = Rows::new(&mut random, MAX_PANEL_ROWS, PANEL_DIM_STEP, false, false);
    let last = MAX_PANEL_ROWS - 1;
    for kernels in vector_levels() {
        let mut keys = Vec::new();
        kernels.nearest_within(&rows.panels(kernels), &mut keys);
        let got: Vec<_> = nearest_of::<8>(&keys, last).collect();
        assert_eq!(got, rows.nearest(last, &rows, 8, Some(last)));
    }
}

#[test]
fn four_products_of_bytes_are_exact_at_every_length_and_place() {
    let mut random = random();
    for extreme in [false, true] {
        for len in (0..=130).chain([384, 512, 1000, 65_536]) {
            for place in PLACES {
                let mut codes = || -> Vec<i8> {
                    let codes = random.i8s(len, extreme).into_iter();
                    codes.map(|code| code.max(-i8::MAX)).collect()
                };
                let query = Guarded::new(&codes(), place);
                let rows: [_; 4] = std::array::from_fn(|_| Guarded::new(&codes(), place));
                let rows: [&[i8]; 4] = std::array::from_fn(|i| &*rows[i]);
                let wanted = rows.map(|row| scalar::dot_i8(&query, row));
                for kernels in vector_levels() {
                    let level = kernels.level().name();
                    assert_eq!(kernels.dot4_i8(&query, rows), wanted, "{len} at {level}");
                }
            }
        }
    }
}

#[test]
fn panels_refuse_what_they_cannot_hold() {
    fn refused(call: impl FnOnce() + std::panic::UnwindSafe) {
        assert!(std::panic::catch_unwind(call).is_err());
    }
    let row = |len: usize| vec![0i8; len];
    for (dim, len) in [(0, 0), (63, 63), (64, 63), (64, 65), (65_600, 65_600)] {
        let codes = row(len);
        refused(move || Panels::default().fill(dim, [(&codes[..], 1.0)].into_iter()));
    }
    let codes = row(64);
    refused(move || {
        let rows = std::iter::repeat_n((&codes[..], 1.0), MAX_PANEL_ROWS + 1);
        Panels::default().fill(64, rows);
    });
    let (mut a, mut b) = (Panels::default(), Panels::default());
    let codes = row(128);
    a.fill(64, [(&codes[..64], 1.0)].into_iter());
    b.fill(128, [(&codes[..], 1.0)].into_iter());
    for kernels in vector_levels() {
        let (a, b) = (&a, &b);
        refused(std::panic::AssertUnwindSafe(move || {
            kernels.nearest_among::<1>(a, b, &mut Vec::new());
        }));
        refused(move || {
            kernels.dot4_i8(&[1; 3], [&[1; 3], &[1; 3], &[1; 2], &[1; 3]]);
        });
    }
}
