//! The sums along the axes of a picture at every level, against their plain meaning.

use super::{PLACES, Place, Random, random, vector_levels};
use crate::agree::guarded::Guarded;
use crate::{Kernels, Taps, scalar};

fn bytes(random: &mut Random, len: usize) -> Vec<u8> {
    (0..len).map(|_| random.next() as u8).collect()
}

/// Results with the weights of an ordinary resize, or with any weights at all.
fn taps(random: &mut Random, source: usize, width: usize, results: usize) -> (Vec<u32>, Vec<i32>) {
    let first = (0..results).map(|_| (random.next() % (source - width + 1) as u64) as u32);
    let first = first.collect();
    let wild = results.is_multiple_of(3);
    let weight = |random: &mut Random| {
        let any = random.next() as i32;
        if wild { any } else { any >> 10 }
    };
    let weights = (0..results * width).map(|_| weight(random)).collect();
    (first, weights)
}

fn check(
    random: &mut Random,
    shape: [usize; 3],
    (width, results, bits): (usize, usize, u32),
    place: Place,
) {
    let [rows, columns, channels] = shape;
    let picture = bytes(random, rows * columns * channels);
    let picture = Guarded::new(&picture, place);
    let same = |kernels: Kernels, name: &str, out: &[u8], wanted: &[u8]| {
        let level = kernels.level().name();
        assert_eq!(
            out, wanted,
            "{name} at {level} of {shape:?}, {width} taps, {results} results, {place:?}"
        );
    };
    if width <= rows {
        let (first, weights) = taps(random, rows, width, results);
        let (first, weights) = (
            Guarded::new(&first, Place::End),
            Guarded::new(&weights, Place::End),
        );
        let taps = Taps {
            first: &first,
            weights: &weights,
            bits,
        };
        let stride = columns * channels;
        let mut wanted = vec![0; results * stride];
        scalar::resample_rows(&picture, stride, taps, &mut wanted);
        for kernels in vector_levels() {
            let mut out = Guarded::new(&vec![7; wanted.len()], place);
            kernels.resample_rows(&picture, stride, taps, &mut out);
            same(kernels, "resample_rows", &out, &wanted);
        }
    }
    if width <= columns {
        let (first, weights) = taps(random, columns, width, results);
        let (first, weights) = (
            Guarded::new(&first, Place::End),
            Guarded::new(&weights, Place::End),
        );
        let taps = Taps {
            first: &first,
            weights: &weights,
            bits,
        };
        let mut wanted = vec![0; rows * results * channels];
        scalar::resample_columns(&picture, columns, channels, taps, &mut wanted);
        for kernels in vector_levels() {
            let mut out = Guarded::new(&vec![7; wanted.len()], place);
            kernels.resample_columns(&picture, columns, channels, taps, &mut out);
            same(kernels, "resample_columns", &out, &wanted);
        }
    }
}

#[test]
fn resampled_pictures_have_the_same_bytes_in_every_shape_and_place() {
    let mut random = random();
    for rows in [1, 2, 15, 16, 17, 33] {
        for columns in [1, 2, 5, 15, 16, 17, 31, 32, 33, 64, 65] {
            for channels in [1, 2, 3, 4] {
                for (number, place) in PLACES.into_iter().enumerate() {
                    let each =
                        [(1, 1, 1), (2, 5, 8), (5, 6, 22), (1, 21, 15), (13, 16, 30)][number];
                    check(&mut random, [rows, columns, channels], each, place);
                }
            }
        }
    }
}

#[test]
fn sums_are_rounded_to_the_nearest_and_cut_to_a_byte() {
    let taps = |weights| Taps {
        first: &[0],
        weights,
        bits: 2,
    };
    for kernels in vector_levels() {
        for (weights, wanted) in [
            (&[1, 0], 25),
            (&[0, 1], 26),
            (&[4, 4], 201),
            (&[8, 4], 255),
            (&[-4, 1], 0),
        ] {
            let (mut down, mut along) = ([7], [7]);
            kernels.resample_rows(&[99, 102], 1, taps(weights), &mut down);
            kernels.resample_columns(&[99, 102], 2, 1, taps(weights), &mut along);
            assert_eq!((down, along), ([wanted], [wanted]), "{weights:?}");
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
        kernels.resample_rows(&[0; 4], 1, good, &mut [0; 2]);
        refused(|| kernels.resample_rows(&[0; 3], 1, good, &mut [0; 2]));
        refused(|| kernels.resample_rows(&[0; 4], 1, good, &mut [0; 3]));
        refused(|| kernels.resample_rows(&[0; 9], 2, good, &mut [0; 4]));
        refused(|| kernels.resample_rows(&[0; 4], 0, good, &mut []));
        kernels.resample_columns(&[0; 8], 4, 1, good, &mut [0; 4]);
        refused(|| kernels.resample_columns(&[0; 9], 4, 1, good, &mut [0; 4]));
        refused(|| kernels.resample_columns(&[0; 8], 4, 1, good, &mut [0; 5]));
        refused(|| kernels.resample_columns(&[0; 8], 2, 2, good, &mut [0; 8]));
        refused(|| kernels.resample_columns(&[0; 8], 0, 1, good, &mut []));
        refused(|| kernels.resample_columns(&[0; 8], usize::MAX, 2, good, &mut []));
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
            refused(|| kernels.resample_rows(&[0; 4], 1, wrong, &mut [0; 2]));
            refused(|| kernels.resample_columns(&[0; 4], 4, 1, wrong, &mut [0; 2]));
        }
    }
}
