//! The kernels of a graph node at every level, against their plain meaning and against what they stand for.

use half::f16;

use super::{PLACES, Place, random, same, vector_levels};
use crate::agree::guarded::Guarded;
use crate::{CODE_DIMS, Kernels, Level, PLANE, Terms, scalar};

/// Beyond the last, sums of look-ups leave 16 bits.
const DIMS: [usize; 5] = [64, 128, 384, 448, 4160];

#[test]
fn estimates_have_the_same_bits_at_every_size_and_place() {
    let mut random = random();
    for dim in DIMS {
        for planes in [1, 2] {
            for place in PLACES {
                let count = planes * PLANE;
                let query = random.f32s(dim, false);
                let mut table = vec![0; 4 * dim];
                let scale = scalar::tables(&query, &mut table);
                let tables = Guarded::new(&table, place);
                let codes: Vec<u8> = (0..planes * 2 * dim).map(|_| random.next() as u8).collect();
                let codes = Guarded::new(&codes, place);
                let (centres, slopes) = (random.f16s(count, false), random.f16s(count, false));
                let (centres, slopes) =
                    (Guarded::new(&centres, place), Guarded::new(&slopes, place));
                let terms = Terms {
                    scale,
                    base: 1.25,
                    limit: 1.5,
                };
                let mut wanted = [0.0; 32];
                let mask =
                    scalar::neighbours(&codes, &tables, &centres, &slopes, terms, &mut wanted);
                for kernels in vector_levels() {
                    let name = kernels.level().name();
                    let mut got = [0.0; 32];
                    let found =
                        kernels.neighbours(&codes, &tables, &centres, &slopes, terms, &mut got);
                    assert!(found == mask, "{name}: mask at {dim} dims, {planes} planes");
                    assert!(
                        got.iter().zip(&wanted).all(|(&a, &b)| same(a, b)),
                        "{name}: estimates at {dim} dims, {planes} planes"
                    );
                }
            }
        }
    }
}

#[test]
fn the_largest_sums_of_look_ups_are_exact() {
    for dim in DIMS {
        let tables = vec![127; 4 * dim];
        let mut estimates = [0.0; 32];
        let terms = Terms {
            scale: crate::TableScale {
                step: 1.0,
                shift: 0.0,
            },
            ..Terms::default()
        };
        for kernels in vector_levels() {
            let codes = vec![0xa5; 4 * dim];
            kernels.neighbours(
                &codes,
                &tables,
                &[f16::ZERO; 32],
                &[f16::NEG_ONE; 32],
                terms,
                &mut estimates,
            );
            let wanted = (127 * dim / 4) as f32;
            assert_eq!(
                estimates,
                [wanted; 32],
                "{} at {dim} dims",
                kernels.level().name()
            );
        }
    }
}

#[test]
fn tables_and_residuals_have_the_same_bits_at_every_level() {
    let mut random = random();
    for dim in DIMS {
        for place in [Place::End, Place::Start(1)] {
            for extreme in [false, true] {
                let (a, b) = (random.f32s(dim, extreme), random.f32s(dim, extreme));
                let (a, b) = (Guarded::new(&a, place), Guarded::new(&b, place));
                let (mut table, mut signs) = (vec![0; 4 * dim], vec![0; dim / 8]);
                let scale = scalar::tables(&a, &mut table);
                let sums = scalar::residual(&a, &b, &mut signs);
                let mut wide = vec![0; dim];
                let unit = scalar::to_i16(&b, 30_000.0, &mut wide);
                for kernels in vector_levels() {
                    let name = kernels.level().name();
                    let (mut other, mut others) = (vec![0; 4 * dim], vec![0; dim / 8]);
                    let found = kernels.tables(&a, &mut other);
                    assert!(
                        same(found.step, scale.step) && same(found.shift, scale.shift),
                        "{name}"
                    );
                    assert!(other == table, "{name}: table at {dim} dims");
                    let mut same_wide = vec![0; dim];
                    let found = kernels.to_i16(&b, 30_000.0, &mut same_wide);
                    assert!(
                        same(found, unit) && same_wide == wide,
                        "{name}: wide at {dim} dims"
                    );
                    let found = kernels.residual(&a, &b, &mut others);
                    assert!(
                        same(found.squares, sums.squares)
                            && same(found.magnitudes, sums.magnitudes)
                            && same(found.along, sums.along)
                            && others == signs,
                        "{name}: residual at {dim} dims"
                    );
                }
            }
        }
    }
}

#[test]
fn wide_products_are_exact_at_every_length_and_place() {
    let mut random = random();
    for len in super::lengths() {
        for place in PLACES {
            let query: Vec<i16> = (0..len).map(|_| random.next() as i16).collect();
            let query = Guarded::new(&query, place);
            let row = Guarded::new(&random.i8s(len, false), place);
            let others = [(); 3].map(|()| Guarded::new(&random.i8s(len, false), place));
            let rows: [&[i8]; 4] = [&row, &others[0], &others[1], &others[2]];
            let exact = rows.map(|row| -> i64 {
                let pairs = query.iter().zip(row);
                pairs.map(|(&q, &r)| i64::from(q) * i64::from(r)).sum()
            });
            for kernels in vector_levels() {
                let single = rows.map(|row| i64::from(kernels.dot_i16_i8(&query, row)));
                assert_eq!(single, exact, "length {len}");
                let four = kernels.dot4_i16_i8(&query, rows).map(i64::from);
                assert_eq!(four, exact, "length {len}");
            }
        }
    }
}

/// A table stands for inner products with sign vectors, to within one rounding a dimension.
#[test]
fn a_sum_of_look_ups_is_the_inner_product_with_the_signs() {
    let mut random = random();
    let kernels = Kernels::at(Level::Scalar).unwrap();
    for dim in [64, 384] {
        let query = random.f32s(dim, false);
        let other = random.f32s(dim, false);
        let (mut table, mut signs) = (vec![0; 4 * dim], vec![0; dim / 8]);
        let scale = kernels.tables(&query, &mut table);
        let sums = kernels.residual(&vec![0.0; dim], &other, &mut signs);
        assert!((sums.squares - other.iter().map(|x| x * x).sum::<f32>()).abs() < 1e-3);
        let nibble = |group: usize| signs[group / 2] >> (4 * (group % 2)) & 15;
        let half = dim / 8;
        let mut codes = vec![0; 2 * dim];
        for group in 0..half {
            codes[PLANE * group + 5] = nibble(group) | nibble(half + group) << 4;
        }
        let mut estimates = [0.0; 32];
        let terms = Terms {
            scale,
            ..Terms::default()
        };
        kernels.neighbours(
            &codes,
            &table,
            &[f16::ZERO; 16],
            &[f16::NEG_ONE; 16],
            terms,
            &mut estimates,
        );
        let wanted: f32 = query
            .iter()
            .zip(&other)
            .map(|(q, o)| if *o >= 0.0 { *q } else { -*q })
            .sum();
        let most = 0.5 * scale.step * dim as f32;
        assert!(
            (estimates[5] - wanted).abs() < most / 4.0,
            "{} and {wanted}",
            estimates[5]
        );
    }
}

#[test]
fn blocks_that_do_not_fit_are_refused_before_a_kernel_runs() {
    fn refused<R>(call: impl FnOnce() -> R + std::panic::UnwindSafe) {
        assert!(std::panic::catch_unwind(call).is_err());
    }
    const D: usize = CODE_DIMS;
    for kernels in vector_levels() {
        let (codes, tables, factors) = ([0; 4 * D], [0; 4 * D], [f16::ZERO; 32]);
        let terms = Terms::default();
        refused(|| {
            kernels.neighbours(
                &codes,
                &tables,
                &factors[..16],
                &factors[..16],
                terms,
                &mut [0.0; 32],
            )
        });
        refused(|| {
            kernels.neighbours(
                &codes[..D],
                &tables,
                &factors[..16],
                &factors[..16],
                terms,
                &mut [0.0; 32],
            )
        });
        refused(|| {
            kernels.neighbours(
                &codes,
                &tables,
                &factors,
                &factors[..16],
                terms,
                &mut [0.0; 32],
            )
        });
        refused(|| {
            kernels.neighbours(
                &codes,
                &tables[..3 * D],
                &factors,
                &factors,
                terms,
                &mut [0.0; 32],
            )
        });
        refused(|| kernels.neighbours(&[], &[], &factors, &factors, terms, &mut [0.0; 32]));
        refused(|| kernels.tables(&[0.0; D - 1], &mut [0; 4 * D]));
        refused(|| kernels.tables(&[0.0; D], &mut [0; 4 * D - 1]));
        refused(|| kernels.to_i16(&[0.0; D], 1.0, &mut [0; D / 2]));
        refused(|| kernels.residual(&[0.0; D], &[0.0; 2 * D], &mut [0; D / 8]));
        refused(|| kernels.residual(&[0.0; D], &[0.0; D], &mut [0; D / 4]));
        refused(|| kernels.dot_i16_i8(&[0; 3], &[0; 4]));
        refused(|| kernels.dot4_i16_i8(&[0; 3], [&[0; 3], &[0; 3], &[0; 4], &[0; 3]]));
    }
}
