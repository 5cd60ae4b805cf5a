//! Weighted sums along an axis at every level, against their plain meaning.

use super::{PLACES, Place, Random, random, vector_levels};
use crate::agree::guarded::Guarded;
use crate::{Taps, scalar};

/// What one shape is resampled by: taps, results, bits.
type Each = (usize, usize, u32);

fn places(random: &mut Random, source: usize, (width, results, _): Each) -> Guarded<u32> {
    let range = (source - width + 1) as u64;
    let first: Vec<u32> = (0..results)
        .map(|_| (random.next() % range) as u32)
        .collect();
    Guarded::new(&first, Place::End)
}

fn check(random: &mut Random, shape: [usize; 3], each: Each, place: Place) {
    let [outer, length, inner] = shape;
    let (width, results, bits) = each;
    if width > length {
        return;
    }
    let size = outer * length * inner;
    let first = places(random, length, each);
    // those of an ordinary resize, or any at all
    let shift = if results.is_multiple_of(3) { 0 } else { 10 };
    let weights: Vec<i32> = (0..results * width)
        .map(|_| random.next() as i32 >> shift)
        .collect();
    let weights = Guarded::new(&weights, Place::End);
    let bytes: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
    let bytes = Guarded::new(&bytes, place);
    let taps = Taps {
        first: &first,
        weights: &weights,
        bits,
    };
    let mut wanted = vec![0; outer * results * inner];
    scalar::resample(&bytes, shape, taps, &mut wanted);
    let floats = Guarded::new(&random.f32s(size, results.is_multiple_of(3)), place);
    let shares: Vec<f64> = (0..results * width)
        .map(|_| f64::from(random.ordinary()) / 3.0)
        .collect();
    let shares = Guarded::new(&shares, Place::End);
    let float_taps = Taps {
        first: &first,
        weights: &shares,
        bits: 0,
    };
    let mut wanted_floats = vec![0.0; wanted.len()];
    scalar::resample(&floats, shape, float_taps, &mut wanted_floats);
    for kernels in vector_levels() {
        let what = format!(
            "{} of {shape:?}, {each:?}, {place:?}",
            kernels.level().name()
        );
        let mut out = Guarded::new(&vec![7; wanted.len()], place);
        kernels.resample_u8(&bytes, shape, taps, &mut out);
        assert_eq!(&*out, &*wanted, "resample_u8 at {what}");
        let mut out = Guarded::new(&vec![f32::NAN; wanted.len()], place);
        kernels.resample_f32(&floats, shape, float_taps, &mut out);
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&out), bits(&wanted_floats), "resample_f32 at {what}");
    }
}

#[test]
fn resampled_pictures_have_the_same_bits_in_every_shape_and_place() {
    let mut random = random();
    for outer in [1, 2, 15, 16, 17, 33] {
        for length in [1, 2, 5, 15, 16, 17, 31, 32, 33, 64, 65] {
            for inner in [1, 2, 3, 4, 16, 17, 67] {
                for place in PLACES {
                    for each in [(1, 1, 1), (2, 5, 8), (5, 6, 22), (1, 21, 15), (13, 16, 30)] {
                        check(&mut random, [outer, length, inner], each, place);
                    }
                }
            }
        }
    }
}

#[test]
fn sums_are_rounded_to_the_nearest_and_cut_to_a_byte() {
    for kernels in vector_levels() {
        for (weights, wanted) in [
            (&[1, 0], 25),
            (&[0, 1], 26),
            (&[4, 4], 201),
            (&[8, 4], 255),
            (&[-4, 1], 0),
        ] {
            let taps = Taps {
                first: &[0],
                weights,
                bits: 2,
            };
            let mut out = [7; 40];
            kernels.resample_u8(&[99, 102].repeat(40), [40, 2, 1], taps, &mut out);
            assert_eq!(out, [wanted; 40], "{weights:?}");
        }
    }
}

#[test]
fn taps_that_do_not_fit_are_refused() {
    fn refused(call: impl FnOnce() + std::panic::UnwindSafe) {
        assert!(std::panic::catch_unwind(call).is_err());
    }
    let good = Taps {
        first: &[0, 2],
        weights: &[1, 1, 1, 1],
        bits: 1,
    };
    for kernels in vector_levels() {
        kernels.resample_u8(&[0; 8], [2, 4, 1], good, &mut [0; 4]);
        for shape in [
            [2, 4, 2],
            [0, 4, 1],
            [2, 2, 2],
            [usize::MAX, 4, 2],
            [4, 2, 1],
        ] {
            refused(|| kernels.resample_u8(&[0; 8], shape, good, &mut [0; 4]));
        }
        refused(|| kernels.resample_u8(&[0; 8], [2, 4, 1], good, &mut [0; 5]));
        refused(|| kernels.resample_u8(&[], [0, 4, 1], good, &mut []));
        for wrong in [
            Taps { bits: 0, ..good },
            Taps { bits: 31, ..good },
            Taps {
                first: &[],
                weights: &[],
                ..good
            },
            Taps {
                weights: &[],
                ..good
            },
            Taps {
                weights: &[1; 3],
                ..good
            },
            Taps {
                first: &[0, u32::MAX],
                ..good
            },
        ] {
            refused(|| kernels.resample_u8(&[0; 8], [2, 4, 1], wrong, &mut [0; 4]));
        }
        let floats = Taps {
            first: &[0],
            weights: &[0.5, 0.5],
            bits: 1,
        };
        refused(|| kernels.resample_f32(&[0.0; 2], [1, 2, 1], floats, &mut [0.0]));
    }
}
