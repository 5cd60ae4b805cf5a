//! Every kernel at every level this CPU has, against [`scalar`](crate::scalar): the same bits for
//! every length, tail and place in memory. Touches its own memory only; the seed is `OSLER_TEST_SEED` and printed.

use half::f16;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

mod guarded;
mod neighbours;
mod panels;
mod resample;
mod signs;
mod slivers;

use self::guarded::{Guarded, Place};
use crate::lanes::LANES;
use crate::{Kernels, levels, scalar};

/// All tails with and without whole blocks before them, then lengths of real vectors.
fn lengths() -> impl Iterator<Item = usize> {
    (0..=67).chain([96, 127, 128, 384, 512, 1000])
}

const PLACES: [Place; 5] = [
    Place::End,
    Place::Start(0),
    Place::Start(1),
    Place::Start(3),
    Place::Start(7),
];

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Between -1 and 1.
    fn ordinary(&mut self) -> f32 {
        (self.next() >> 40) as f32 / 8_388_608.0 - 1.0
    }

    /// Signed zeros, subnormal numbers, numbers whose products underflow or overflow.
    fn extreme(&mut self) -> f32 {
        let sign = (self.next() & 1) as u32 * 0x8000_0000;
        let magnitude = match self.next() % 6 {
            0 => 0,
            1 => (self.next() as u32) & 0x007f_ffff,
            2 => f32::MIN_POSITIVE.to_bits() + (self.next() as u32 & 0x00ff_ffff),
            3 => 1e-22f32.to_bits() + (self.next() as u32 & 0x00ff_ffff),
            4 => 1e18f32.to_bits() + (self.next() as u32 & 0x00ff_ffff),
            _ => self.ordinary().abs().to_bits(),
        };
        f32::from_bits(sign | magnitude)
    }

    fn f32s(&mut self, len: usize, extreme: bool) -> Vec<f32> {
        (0..len)
            .map(|_| {
                if extreme {
                    self.extreme()
                } else {
                    self.ordinary()
                }
            })
            .collect()
    }

    /// `f16` values: any finite bits if `extreme`.
    fn f16s(&mut self, len: usize, extreme: bool) -> Vec<f16> {
        (0..len)
            .map(|_| {
                let any = f16::from_bits(self.next() as u16);
                if extreme && any.is_finite() {
                    any
                } else {
                    f16::from_f32(self.ordinary())
                }
            })
            .collect()
    }

    fn i8s(&mut self, len: usize, extreme: bool) -> Vec<i8> {
        (0..len)
            .map(|_| if extreme { i8::MIN } else { self.next() as i8 })
            .collect()
    }
}

#[allow(clippy::print_stdout, reason = "a failure must be repeatable")]
fn random() -> Random {
    let seed = std::env::var("OSLER_TEST_SEED").map_or(0, |text| text.parse().unwrap());
    println!("seed {seed} (OSLER_TEST_SEED)");
    Random(seed)
}

fn vector_levels() -> impl Iterator<Item = Kernels> {
    levels().iter().map(|&level| Kernels::at(level).unwrap())
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

fn same_f16(a: f16, b: f16) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

/// Asserts that two results agree, and names the kernel where they do not.
#[track_caller]
fn agree(kernels: Kernels, kernel: &str, len: usize, place: Place, got: &[f32], wanted: &[f32]) {
    assert_eq!(got.len(), wanted.len());
    for (i, (&got, &wanted)) in got.iter().zip(wanted).enumerate() {
        assert!(
            same(got, wanted),
            "{kernel} at {} of length {len}, {place:?}, result {i}: {got:e} ({:#010x}), scalar \
             {wanted:e} ({:#010x})",
            kernels.level().name(),
            got.to_bits(),
            wanted.to_bits()
        );
    }
}

/// Every kernel of one query and one or four rows.
fn check_pairs(a: &[f32], rows: [&[f32]; 4], halves: [&[f16]; 4], place: Place) {
    let len = a.len();
    let (b, half) = (rows[0], halves[0]);
    let one = [
        scalar::dot(a, b),
        scalar::l2(a, b),
        scalar::dot_f16(a, half),
        scalar::l2_f16(a, half),
        scalar::sum_of_squares(a),
    ];
    let four = [
        scalar::dot4(a, rows),
        scalar::l2_4(a, rows),
        scalar::dot4_f16(a, halves),
        scalar::l2_4_f16(a, halves),
    ];
    for kernels in vector_levels() {
        let agree = |kernel, got: &[f32], wanted: &[f32]| {
            agree(kernels, kernel, len, place, got, wanted);
        };
        agree("dot", &[kernels.dot(a, b)], &one[..1]);
        agree("l2", &[kernels.l2(a, b)], &one[1..2]);
        agree("dot_f16", &[kernels.dot_f16(a, half)], &one[2..3]);
        agree("l2_f16", &[kernels.l2_f16(a, half)], &one[3..4]);
        agree("sum_of_squares", &[kernels.sum_of_squares(a)], &one[4..]);
        agree("dot4", &kernels.dot4(a, rows), &four[0]);
        agree("l2_4", &kernels.l2_4(a, rows), &four[1]);
        agree("dot4_f16", &kernels.dot4_f16(a, halves), &four[2]);
        agree("l2_4_f16", &kernels.l2_4_f16(a, halves), &four[3]);
    }
}

/// Every kernel that looks at values one by one.
fn check_values(a: &[f32], halves: &[f16], place: Place) {
    let mut narrowed = vec![f16::ZERO; a.len()];
    scalar::to_f16(a, &mut narrowed);
    let mut widened = vec![0.0; halves.len()];
    scalar::to_f32(halves, &mut widened);
    for kernels in vector_levels() {
        let mut got = Guarded::new(&vec![f16::NAN; a.len()], place);
        kernels.to_f16(a, &mut got);
        for (i, (&got, &wanted)) in got.iter().zip(&narrowed).enumerate() {
            assert!(
                same_f16(got, wanted),
                "to_f16 at {} of length {}, {place:?}, value {i}: {got} for {:e}, scalar {wanted}",
                kernels.level().name(),
                a.len(),
                a[i]
            );
        }
        let mut got = Guarded::new(&vec![f32::NAN; halves.len()], place);
        kernels.to_f32(halves, &mut got);
        agree(kernels, "to_f32", halves.len(), place, &got, &widened);
        assert_eq!(kernels.all_finite(a), scalar::all_finite(a));
        assert_eq!(
            kernels.all_finite_f16(halves),
            scalar::all_finite_f16(halves)
        );
    }
}

#[test]
fn sums_have_the_same_bits_at_every_length_and_place() {
    let mut random = random();
    for extreme in [false, true] {
        for len in lengths() {
            for place in PLACES {
                let query = Guarded::new(&random.f32s(len, extreme), place);
                let rows: [_; 4] =
                    std::array::from_fn(|_| Guarded::new(&random.f32s(len, extreme), place));
                let halves: [_; 4] =
                    std::array::from_fn(|_| Guarded::new(&random.f16s(len, extreme), place));
                check_pairs(
                    &query,
                    std::array::from_fn(|i| &*rows[i]),
                    std::array::from_fn(|i| &*halves[i]),
                    place,
                );
            }
        }
    }
}

#[test]
fn values_convert_to_the_same_bits_at_every_length_and_place() {
    let mut random = random();
    for extreme in [false, true] {
        for len in lengths() {
            for place in PLACES {
                let values = Guarded::new(&random.f32s(len, extreme), place);
                let halves = Guarded::new(&random.f16s(len, extreme), place);
                check_values(&values, &halves, place);
            }
        }
    }
}

#[test]
fn every_f16_converts_to_the_same_bits_both_ways() {
    let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    let mut values = vec![0.0; halves.len()];
    scalar::to_f32(&halves, &mut values);
    // Each value, the ties half-way to its neighbours, and what lies next to them.
    let around: Vec<f32> = values
        .iter()
        .flat_map(|value| {
            [-1, 0, 1, 0x0fff, 0x1000, 0x1001]
                .map(|step: i32| f32::from_bits(value.to_bits().wrapping_add_signed(step)))
        })
        .collect();
    check_values(&values, &halves, Place::End);
    check_values(&around, &halves, Place::End);
}

#[test]
fn a_value_that_is_not_finite_is_found_wherever_it_is() {
    for len in [1, 31, 32, 33, 511, 512, 513, 1200] {
        for position in 0..len {
            for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut values = vec![f32::MAX; len];
                let mut halves = vec![f16::MIN; len];
                for kernels in vector_levels() {
                    assert!(kernels.all_finite(&values) && kernels.all_finite_f16(&halves));
                }
                values[position] = special;
                halves[position] = f16::from_f32(special);
                for kernels in vector_levels() {
                    assert!(!kernels.all_finite(&values) && !kernels.all_finite_f16(&halves));
                }
            }
        }
    }
}

#[test]
fn a_hadamard_transform_has_the_same_bits_in_every_size_and_place() {
    let mut random = random();
    for extreme in [false, true] {
        for len in [64, 128, 256, 512, 1024, 2048, 4096] {
            for place in PLACES {
                let values = random.f32s(len, extreme);
                let factors = Guarded::new(&random.f32s(len, extreme), place);
                let mut wanted = values.clone();
                scalar::hadamard(&mut wanted, &factors);
                for kernels in vector_levels() {
                    let mut got = Guarded::new(&values, place);
                    kernels.hadamard(&mut got, &factors);
                    agree(kernels, "hadamard", len, place, &got, &wanted);
                }
            }
        }
    }
}

#[test]
fn columns_have_the_same_bits_in_every_shape_and_place() {
    let mut random = random();
    for extreme in [false, true] {
        for count in lengths().filter(|&count| count <= 256) {
            for rows in [0, 1, 2, 5] {
                for place in PLACES {
                    let vector = Guarded::new(&random.f32s(rows, extreme), place);
                    let matrix = Guarded::new(&random.f32s(rows * count, extreme), place);
                    let starts = Guarded::new(&random.f32s(count, extreme), place);
                    let mut wanted = vec![0.0; count];
                    scalar::columns(&vector, &matrix, &starts, &mut wanted);
                    for kernels in vector_levels() {
                        let mut got = Guarded::new(&vec![f32::NAN; count], place);
                        kernels.columns(&vector, &matrix, &starts, &mut got);
                        agree(kernels, "columns", count, place, &got, &wanted);
                    }
                }
            }
        }
    }
}

#[test]
fn the_first_of_equal_maxima_is_found_at_every_length_and_place() {
    let mut random = random();
    for len in lengths() {
        for place in PLACES {
            let few = (0..len).map(|_| (random.next() % 7) as f32 - 9.0);
            let values = Guarded::new(&few.collect::<Vec<_>>(), place);
            for kernels in vector_levels() {
                let wanted = scalar::position_of_max(&values);
                assert_eq!(kernels.position_of_max(&values), wanted, "length {len}");
            }
        }
    }
}

#[test]
fn scans_are_exact_with_any_number_of_groups() {
    let mut random = random();
    for groups in (0..=9).chain([96, 255, 256, 257, 300, 513, 1024]) {
        for place in [Place::End, Place::Start(1)] {
            for extreme in [false, true] {
                let mut bytes = |_| if extreme { 255 } else { random.next() as u8 };
                let tables: Vec<u8> = (0..16 * groups).map(&mut bytes).collect();
                let codes: Vec<u8> = (0..16 * groups).map(&mut bytes).collect();
                let mut wanted = [7; 32];
                scalar::scan(&tables, &codes, &mut wanted);
                let (tables, codes) = (Guarded::new(&tables, place), Guarded::new(&codes, place));
                for kernels in vector_levels() {
                    let mut got = [7; 32];
                    kernels.scan(&tables, &codes, &mut got);
                    assert_eq!(got, wanted, "{} of {groups}", kernels.level().name());
                }
            }
        }
    }
}

#[test]
fn numbers_in_planes_are_multiplied_exactly() {
    let mut random = random();
    for len in [64, 128, 192, 384, 1024, crate::MAX_PLANES_LEN] {
        for planes in 1..=8 {
            for extreme in [false, true] {
                let query = Guarded::new(&random.i8s(len, extreme), Place::End);
                let bytes = (0..planes * len / 8)
                    .map(|_| if extreme { 255 } else { random.next() as u8 })
                    .collect::<Vec<_>>();
                let bytes = Guarded::new(&bytes, Place::End);
                let wanted = scalar::dot_planes(&query, &bytes);
                for kernels in vector_levels() {
                    let name = kernels.level().name();
                    let got = kernels.dot_planes(&query, &bytes);
                    assert_eq!(got, wanted, "{name} of {planes} x {len}");
                }
            }
        }
    }
}

#[test]
fn integers_are_exact_at_every_length_and_place() {
    let mut random = random();
    for extreme in [false, true] {
        for len in lengths().chain([crate::MAX_I8_LEN]) {
            for place in PLACES {
                let a = Guarded::new(&random.i8s(len, extreme), place);
                let b = Guarded::new(&random.i8s(len, extreme), place);
                let exact: i64 = a
                    .iter()
                    .zip(&*b)
                    .map(|(&a, &b)| i64::from(a) * i64::from(b))
                    .sum();
                for kernels in vector_levels() {
                    let name = kernels.level().name();
                    assert_eq!(
                        i64::from(kernels.dot_i8(&a, &b)),
                        exact,
                        "{name} of length {len}"
                    );
                }
            }
        }
    }
}

/// All four tiles of one shape against one call for each pair.
fn check_tiles(random: &mut Random, shape: (usize, usize, usize), extreme: bool, place: Place) {
    let (query_count, row_count, dim) = shape;
    let queries = Guarded::new(&random.f32s(query_count * dim, extreme), place);
    let rows = Guarded::new(&random.f32s(row_count * dim, extreme), place);
    let halves = Guarded::new(&random.f16s(row_count * dim, extreme), place);
    let mut wanted: [Vec<f32>; 4] = Default::default();
    for query in queries.chunks_exact(dim) {
        for (row, half) in rows.chunks_exact(dim).zip(halves.chunks_exact(dim)) {
            wanted[0].push(scalar::dot(query, row));
            wanted[1].push(scalar::l2(query, row));
            wanted[2].push(scalar::dot_f16(query, half));
            wanted[3].push(scalar::l2_f16(query, half));
        }
    }
    for kernels in vector_levels() {
        let mut out = Guarded::new(&vec![f32::NAN; query_count * row_count], place);
        let name = |kernel| format!("{kernel} {query_count} x {row_count}");
        kernels.dot_tile(&queries, &rows, dim, &mut out);
        agree(kernels, &name("dot_tile"), dim, place, &out, &wanted[0]);
        kernels.l2_tile(&queries, &rows, dim, &mut out);
        agree(kernels, &name("l2_tile"), dim, place, &out, &wanted[1]);
        kernels.dot_tile_f16(&queries, &halves, dim, &mut out);
        agree(kernels, &name("dot_tile_f16"), dim, place, &out, &wanted[2]);
        kernels.l2_tile_f16(&queries, &halves, dim, &mut out);
        agree(kernels, &name("l2_tile_f16"), dim, place, &out, &wanted[3]);
    }
}

#[test]
fn a_tile_equals_single_calls_in_every_shape() {
    let mut random = random();
    for query_count in 0..=9 {
        for row_count in 0..=9 {
            for dim in [1, 31, 32, 33, 100, 128] {
                for place in [Place::End, Place::Start(1)] {
                    let shape = (query_count, row_count, dim);
                    check_tiles(&mut random, shape, dim.is_multiple_of(2), place);
                }
            }
        }
    }
}

#[test]
fn a_tile_larger_than_the_cache_equals_single_calls() {
    let mut random = random();
    for shape in [(70, 9, 1000), (7, 5, 70_000), (300, 301, 64)] {
        check_tiles(&mut random, shape, false, Place::End);
    }
}

#[test]
fn any_bits_at_all_give_the_same_result() {
    let mut random = random();
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 512,
        rng_seed: RngSeed::Fixed(random.next()),
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let value = prop_oneof![
        any::<f32>(),
        any::<u32>().prop_map(f32::from_bits),
        prop_oneof![
            Just(0.0f32),
            Just(-0.0),
            Just(f32::MIN_POSITIVE),
            Just(-f32::from_bits(1))
        ],
    ];
    let pair = (value.clone(), value, any::<u16>().prop_map(f16::from_bits));
    runner
        .run(&prop::collection::vec(pair, 0..200), |columns| {
            let a: Vec<f32> = columns.iter().map(|column| column.0).collect();
            let b: Vec<f32> = columns.iter().map(|column| column.1).collect();
            let half: Vec<f16> = columns.iter().map(|column| column.2).collect();
            let reversed: Vec<f32> = b.iter().rev().copied().collect();
            check_pairs(
                &a,
                [&b, &a, &reversed, &b],
                [&half; 4].map(Vec::as_slice),
                Place::End,
            );
            check_values(&a, &half, Place::End);
            Ok(())
        })
        .unwrap();
}

/// What a lane holds after an underflow, `-0.0`, is a place where padding could differ between levels.
#[test]
fn a_lane_that_underflowed_keeps_or_loses_its_sign_alike() {
    for len in 1..=2 * LANES {
        let a = vec![f32::from_bits(1); len];
        let b = vec![-f32::MIN_POSITIVE; len];
        let half = vec![f16::from_bits(0x8001); len];
        check_pairs(
            &a,
            [&b; 4].map(Vec::as_slice),
            [&half; 4].map(Vec::as_slice),
            Place::End,
        );
        let sign = scalar::dot(&a, &b).is_sign_negative();
        assert_eq!(sign, len.is_multiple_of(LANES), "length {len}");
    }
}

/// The comparison itself: another order of adding, or a product that is rounded before it is added,
/// must show on the vectors used above.
#[test]
fn the_comparison_notices_another_order_and_an_unfused_product() {
    let mut random = random();
    let (mut other_order, mut unfused) = (0, 0);
    for len in lengths().filter(|&len| len >= 64) {
        let (a, b) = (random.f32s(len, false), random.f32s(len, false));
        let wanted = scalar::dot(&a, &b);
        let in_sequence = a
            .iter()
            .zip(&b)
            .fold(0.0f32, |sum, (a, b)| a.mul_add(*b, sum));
        other_order += usize::from(!same(in_sequence, wanted));
        let mut lanes = [0.0f32; LANES];
        for i in 0..len {
            lanes[i % LANES] += a[i] * b[i];
        }
        for width in [16, 8, 4, 2, 1] {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
        }
        unfused += usize::from(!same(lanes[0], wanted));
    }
    assert!(
        other_order >= 5,
        "noticed another order {other_order} times"
    );
    assert!(unfused >= 5, "noticed an unfused product {unfused} times");
}

#[test]
fn wrong_lengths_are_refused_before_a_kernel_runs() {
    fn refused<R>(call: impl FnOnce() -> R + std::panic::UnwindSafe) {
        assert!(std::panic::catch_unwind(call).is_err());
    }
    for kernels in vector_levels() {
        let (a, b) = ([1.0f32; 40], [1.0f32; 39]);
        let (half, i8s) = ([f16::ONE; 39], [1i8; 39]);
        refused(|| kernels.dot(&a, &b));
        refused(|| kernels.l2(&b, &a));
        refused(|| kernels.dot_f16(&a, &half));
        refused(|| kernels.l2_f16(&a, &half));
        refused(|| kernels.dot_i8(&[1; 40], &i8s));
        let long = vec![0; crate::MAX_I8_LEN + 1];
        refused(|| kernels.dot_i8(&long, &long));
        refused(|| kernels.dot4(&a, [&a, &a, &a, &b]));
        refused(|| kernels.dot4(&b, [&b, &b, &b, &a]));
        refused(|| kernels.l2_4(&b, [&b, &a, &b, &b]));
        refused(|| kernels.dot4_f16(&b[..38], [&half; 4]));
        refused(|| kernels.l2_4_f16(&b[..38], [&half; 4]));
        refused(|| kernels.l2_4(&a, [&b, &a, &a, &a]));
        refused(|| kernels.dot4_f16(&a, [&half; 4]));
        refused(|| kernels.l2_4_f16(&a, [&half; 4]));
        refused(|| kernels.to_f16(&a, &mut [f16::ZERO; 39]));
        refused(|| kernels.to_f32(&half, &mut [0.0; 40]));
        refused(|| kernels.hadamard(&mut [0.0; 64], &[1.0; 63]));
        refused(|| kernels.hadamard(&mut [0.0; 32], &[1.0; 32]));
        refused(|| kernels.hadamard(&mut [0.0; 96], &[1.0; 96]));
        refused(|| kernels.columns(&a, &a, &b, &mut [0.0; 40]));
        refused(|| kernels.columns(&a, &a, &b[..1], &mut [0.0; 2]));
        refused(|| kernels.scan(&[0; 16], &[0; 32], &mut [0; 32]));
        refused(|| kernels.scan(&[0; 24], &[0; 24], &mut [0; 32]));
        refused(|| kernels.dot_planes(&[0; 64], &[0; 7]));
        refused(|| kernels.dot_planes(&[0; 64], &[0; 72]));
        refused(|| kernels.dot_planes(&[0; 32], &[0; 4]));
        refused(|| kernels.dot_planes(&[], &[]));
        refused(|| kernels.dot4_signs(&[0; 64], [&[0; 8], &[0; 8], &[0; 8], &[0; 7]]));
        refused(|| kernels.dot4_signs(&[0; 32], [&[0; 4]; 4]));
        refused(|| kernels.dot_fives(&[0; 64], &[0; 8], &[0; 31]));
        refused(|| kernels.dot_fives(&[0; 32], &[0; 4], &[0; 16]));
        refused(|| kernels.dot_tile(&a, &a, 0, &mut []));
        refused(|| kernels.dot_tile(&a, &b, 40, &mut [0.0]));
        refused(|| kernels.l2_tile(&a, &a, 20, &mut [0.0; 3]));
        refused(|| kernels.dot_tile_f16(&b, &half, 13, &mut [0.0; 8]));
        refused(|| kernels.l2_tile_f16(&a, &half, 20, &mut [0.0; 2]));
    }
}
