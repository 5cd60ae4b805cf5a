//! Rows of few bits that are scored one at a time: 1-bit codes and 5-bit rows. Touches nothing but its arguments.
//!
//! A 1-bit code is the signs of a row (RaBitQ, Gao and Long, SIGMOD 2024, arXiv 2405.12497). A 5-bit row is its signs and
//! four bits more of each number. Where a row has `D` dimensions, dimension `t D / 8 + b` is bit `t` of byte `b` of the
//! signs; its other bits are the low half of byte `t D / 8 + b` of the rest for `t` below 4, else the high half of byte
//! `(t - 4) D / 8 + b`: so loops over bytes meet neighbouring dimensions.

/// Greatest magnitude of a number of a 5-bit row; all of them are odd. Number `2 n - 31` is level `n`.
pub const MOST_OF_FIVE: i8 = 31;

#[inline(always)]
fn number(sign: u8, rest: u8) -> i8 {
    2 * (sign << 4 | rest).cast_signed() - MOST_OF_FIVE
}

/// Writes the signs of a row: a bit is set where the number is above zero.
///
/// # Panics
///
/// Where there are not eight numbers for each byte.
///
/// ```
/// let mut signs = [0];
/// osler_kernels::pack_signs(&[5, -5, 5, -5, -5, -5, -5, -5], &mut signs);
/// assert_eq!(signs, [0b101]);
/// ```
pub fn pack_signs(row: &[i8], signs: &mut [u8]) {
    let eighth = signs.len();
    assert!(
        row.len() == 8 * eighth,
        "{} numbers have other than {eighth} bytes of signs",
        row.len()
    );
    signs.fill(0);
    for t in 0..8 {
        for b in 0..eighth {
            signs[b] |= u8::from(row[t * eighth + b] > 0) << t;
        }
    }
}

/// Writes a row of odd numbers from -31 to 31 as signs and rest.
///
/// # Panics
///
/// Where the lengths do not fit each other.
///
/// ```
/// let row: [i8; 8] = [-31, 31, 1, -1, 3, 17, -17, 29];
/// let (mut signs, mut rest) = ([0], [0; 4]);
/// osler_kernels::pack_fives(&row, &mut signs, &mut rest);
/// let mut back = [0; 8];
/// osler_kernels::unpack_fives(&signs, &rest, &mut back);
/// assert_eq!(back, row);
/// ```
pub fn pack_fives(row: &[i8], signs: &mut [u8], rest: &mut [u8]) {
    pack_signs(row, signs);
    let eighth = signs.len();
    same_size(rest, eighth);
    rest.fill(0);
    for t in 0..8 {
        let shift = if t < 4 { 0 } else { 4 };
        for b in 0..eighth {
            let level = (row[t * eighth + b] + MOST_OF_FIVE).cast_unsigned() / 2;
            rest[t % 4 * eighth + b] |= (level & 15) << shift;
        }
    }
}

/// Writes out a row that [`pack_fives`] has packed.
///
/// # Panics
///
/// Where the lengths do not fit each other.
pub fn unpack_fives(signs: &[u8], rest: &[u8], row: &mut [i8]) {
    let eighth = signs.len();
    same_size(rest, eighth);
    assert!(
        row.len() == 8 * eighth,
        "{} numbers have other than {eighth} bytes of signs",
        row.len()
    );
    for t in 0..8 {
        let shift = if t < 4 { 0 } else { 4 };
        for b in 0..eighth {
            let rest = rest[t % 4 * eighth + b] >> shift & 15;
            row[t * eighth + b] = number(signs[b] >> t & 1, rest);
        }
    }
}

fn same_size(rest: &[u8], eighth: usize) {
    assert!(
        rest.len() == 4 * eighth,
        "{} bytes are not four for each of {eighth} bytes of signs",
        rest.len()
    );
}
