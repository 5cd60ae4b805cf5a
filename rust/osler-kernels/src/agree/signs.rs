//! Rows of few bits at every level, against their plain meaning, and packed rows against what went in.

use super::{PLACES, random, vector_levels};
use crate::agree::guarded::Guarded;
use crate::{MOST_OF_FIVE, pack_fives, pack_signs, scalar, unpack_fives};

/// Signs of 8, 16, 24, 48, 56 and 520 bytes: with and without a last half of a register.
const DIMS: [usize; 6] = [64, 128, 192, 384, 448, 4160];

#[test]
fn sums_by_signs_are_exact_at_every_size_and_place() {
    let mut random = random();
    for dim in DIMS {
        for place in PLACES {
            for extreme in [false, true] {
                let query = Guarded::new(&random.i8s(dim, extreme), place);
                let rows: [Guarded<u8>; 4] = std::array::from_fn(|_| {
                    let bytes: Vec<u8> = (0..dim / 8)
                        .map(|_| if extreme { 255 } else { random.next() as u8 })
                        .collect();
                    Guarded::new(&bytes, place)
                });
                let rows = [&*rows[0], &*rows[1], &*rows[2], &*rows[3]];
                let wanted = scalar::dot4_signs(&query, rows);
                for kernels in vector_levels() {
                    let name = kernels.level().name();
                    assert_eq!(kernels.dot4_signs(&query, rows), wanted, "{name} of {dim}");
                }
            }
        }
    }
}

#[test]
fn products_with_rows_of_five_bits_are_exact_at_every_size_and_place() {
    let mut random = random();
    for dim in DIMS {
        for place in PLACES {
            for extreme in [false, true] {
                let query = Guarded::new(&random.i8s(dim, extreme), place);
                let mut bytes = |len: usize| {
                    let some = (0..len).map(|_| if extreme { 255 } else { random.next() as u8 });
                    Guarded::new(&some.collect::<Vec<_>>(), place)
                };
                let (signs, rest) = (bytes(dim / 8), bytes(dim / 2));
                let wanted = scalar::dot_fives(&query, &signs, &rest);
                for kernels in vector_levels() {
                    let name = kernels.level().name();
                    let got = kernels.dot_fives(&query, &signs, &rest);
                    assert_eq!(got, wanted, "{name} of {dim}");
                }
            }
        }
    }
}

#[test]
fn rows_of_five_bits_come_back_and_their_products_are_those_of_their_numbers() {
    let mut random = random();
    for dim in DIMS {
        let row: Vec<i8> = (0..dim)
            .map(|_| 2 * (random.next() % 32) as i8 - MOST_OF_FIVE)
            .collect();
        let (mut signs, mut rest) = (vec![1; dim / 8], vec![1; dim / 2]);
        pack_fives(&row, &mut signs, &mut rest);
        let mut back = vec![0; dim];
        unpack_fives(&signs, &rest, &mut back);
        assert_eq!(back, row);
        let mut alone = vec![1; dim / 8];
        pack_signs(&row, &mut alone);
        assert_eq!(alone, signs);
        let query = random.i8s(dim, false);
        let sum: i32 = query.iter().map(|&q| i32::from(q)).sum();
        let levels = crate::dot_fives(&query, &signs, &rest);
        let product = 2 * levels - i32::from(MOST_OF_FIVE) * sum;
        assert_eq!(product, crate::dot_i8(&query, &row));
        let positive = query.iter().zip(&row).filter(|&(_, &x)| x > 0);
        let positive: i32 = positive.map(|(&q, _)| i32::from(q)).sum();
        assert_eq!(crate::dot4_signs(&query, [&signs; 4]), [positive; 4]);
    }
}
