//! Pictures prepared for an encoder: made larger or smaller by weighted sums along their axes, their values looked up in
//! tables, and counted. What the weights and the tables are is the caller's; see [`osler_kernels::Taps`].

use osler_kernels::{Sample, Taps};

use crate::error::{Error, Result};

/// Rows of columns of channels, `u8` or `f32`.
#[derive(Debug)]
pub struct Picture<T> {
    /// The samples, row after row.
    pub values: Vec<T>,
    /// Rows, columns, channels.
    pub shape: [usize; 3],
}

/// One pass: sums along an axis, 0 down the columns or 1 along the rows.
#[derive(Debug)]
pub struct Pass<T: Sample> {
    /// 0 or 1.
    pub axis: usize,
    /// Where the taps of each result begin.
    pub first: Vec<u32>,
    /// As many for every result.
    pub weights: Vec<T::Weight>,
    /// Bits behind the point of whole weights; 0 for floats.
    pub bits: u32,
}

/// Takes one pass after another; each rounds to the picture's type.
///
/// ```
/// use osler_core::picture::{Pass, Picture, resample};
/// let picture = Picture { values: vec![0_u8, 100, 40, 20], shape: [2, 2, 1] };
/// let mean = Pass { axis: 1, first: vec![0], weights: vec![1, 1], bits: 1 };
/// assert_eq!(resample(picture, &[mean]).unwrap().values, [50, 30]);
/// ```
///
/// # Errors
///
/// [`Error::Input`] where a pass does not fit the picture, [`Error::Memory`] where the result does not fit into memory.
pub fn resample<T: Sample>(mut picture: Picture<T>, passes: &[Pass<T>]) -> Result<Picture<T>> {
    for pass in passes {
        let taps = Taps {
            first: &pass.first,
            weights: &pass.weights,
            bits: pass.bits,
        };
        let [rows, columns, channels] = picture.shape;
        let results = pass.first.len();
        let (along, shape) = match pass.axis {
            0 => ([1, rows, columns * channels], [results, columns, channels]),
            1 => ([rows, columns, channels], [rows, results, channels]),
            axis => return Err(Error::Input(format!("axis is {axis}; give 0 or 1"))),
        };
        if picture.values.is_empty() || !taps.fit(along[1]) {
            return Err(Error::Input(format!(
                "weights do not fit axis {} of a picture of {rows} x {columns} x {channels}",
                pass.axis
            )));
        }
        let size = shape
            .iter()
            .try_fold(1_usize, |size, &side| size.checked_mul(side));
        let size = size.unwrap_or(usize::MAX);
        let mut values = Vec::new();
        values
            .try_reserve_exact(size)
            .map_err(|_| Error::Memory(size.saturating_mul(size_of::<T>())))?;
        values.resize(size, T::default());
        T::resample(&picture.values, along, taps, &mut values);
        picture = Picture { values, shape };
    }
    Ok(picture)
}

/// What a table is asked with: `u8` or `u16`.
pub trait Whole: Copy + Into<usize> + PartialEq {}

impl Whole for u8 {}
impl Whole for u16 {}

/// The planes of a picture, one a table, each value replaced by what its table has for it: entry `i` is of the value
/// `first + i`. A picture of one channel gives it to every table; otherwise each channel has its own.
///
/// ```
/// use osler_core::picture::{Picture, look_up};
/// let picture = Picture { values: vec![1_u8, 2, 2, 1], shape: [1, 2, 2] };
/// let planes = look_up(&picture, 1, &[0.1, 0.2, 10.0, 20.0], 2).unwrap();
/// assert_eq!(planes, [0.1, 0.2, 20.0, 10.0]);
/// ```
///
/// # Errors
///
/// [`Error::Input`] where the tables do not fit the channels or a value is in none of them, [`Error::Memory`] where the
/// result does not fit into memory.
pub fn look_up<V: Whole, T: Copy>(
    picture: &Picture<V>,
    first: usize,
    tables: &[T],
    planes: usize,
) -> Result<Vec<T>> {
    let [rows, columns, channels] = picture.shape;
    let pixels = rows.saturating_mul(columns);
    let entries = tables.len() / planes.max(1);
    if entries == 0 || entries * planes != tables.len() || !(channels == 1 || channels == planes) {
        return Err(Error::Input(format!(
            "{planes} tables of {} entries do not fit {channels} channels",
            tables.len()
        )));
    }
    let size = pixels.saturating_mul(planes);
    let mut found = Vec::new();
    found
        .try_reserve_exact(size)
        .map_err(|_| Error::Memory(size.saturating_mul(size_of::<T>())))?;
    for (plane, table) in tables.chunks_exact(entries).enumerate() {
        let start = if channels == 1 { 0 } else { plane };
        let mut missing = false;
        let place = |value: &V| (*value).into().wrapping_sub(first);
        let values = picture.values.get(start..).unwrap_or_default();
        found.extend(values.iter().step_by(channels).map(|value| {
            table.get(place(value)).copied().unwrap_or_else(|| {
                missing = true;
                table[0]
            })
        }));
        if missing {
            return Err(Error::Input(format!(
                "the table of plane {plane} has no entry for one of its values"
            )));
        }
    }
    Ok(found)
}

/// How often each value occurs, from 0 to the greatest that its type has.
///
/// ```
/// let counts = osler_core::picture::count(&[7_u8, 7, 0]);
/// assert_eq!((counts.len(), counts[0], counts[7]), (256, 1, 2));
/// ```
pub fn count<V: Whole>(values: &[V]) -> Vec<i64> {
    const STRETCH: usize = 8;
    let mut counts = vec![0; 1 << (8 * size_of::<V>())];
    let (stretches, rest) = values.as_chunks::<STRETCH>();
    for stretch in stretches {
        // Of a background one count would wait for the other.
        if stretch.iter().all(|value| *value == stretch[0]) {
            counts[stretch[0].into()] += STRETCH as i64;
        } else {
            for &value in stretch {
                counts[value.into()] += 1;
            }
        }
    }
    for &value in rest {
        counts[value.into()] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_looked_up_plane_by_plane() {
        let grey = Picture {
            values: vec![300_u16, 301, 302, 300],
            shape: [2, 2, 1],
        };
        let made = look_up(&grey, 300, &[5_u8, 6, 7, 0, 1, 2], 2).unwrap();
        assert_eq!(made, [5, 6, 7, 5, 0, 1, 2, 0]);
        let colour = Picture {
            values: vec![0_u8, 1, 2, 2, 1, 0],
            shape: [1, 2, 3],
        };
        let tables: Vec<u16> = (0..9).collect();
        let made = look_up(&colour, 0, &tables, 3).unwrap();
        assert_eq!(made, [0, 2, 4, 4, 8, 6]);
    }

    #[test]
    fn tables_that_do_not_fit_are_refused() {
        let grey = Picture {
            values: vec![1_u8, 2],
            shape: [1, 2, 1],
        };
        for (first, tables, planes) in [
            (0, &[1_u8, 2][..], 1),
            (2, &[1, 2], 1),
            (1, &[], 1),
            (1, &[1, 2], 0),
            (1, &[1, 2, 3], 2),
            (usize::MAX, &[1, 2], 1),
        ] {
            let error = look_up(&grey, first, tables, planes).unwrap_err();
            assert!(
                matches!(error, Error::Input(_)),
                "{first} {tables:?}: {error}"
            );
        }
        let colour = Picture {
            values: vec![0_u8; 6],
            shape: [1, 2, 3],
        };
        assert!(look_up(&colour, 0, &[1_u8, 2], 2).is_err());
        let empty = Picture {
            values: Vec::<u8>::new(),
            shape: [0, 2, 3],
        };
        assert!(look_up(&empty, 0, &[1_u8, 2, 3], 3).unwrap().is_empty());
    }

    #[test]
    fn counts_are_those_of_the_values() {
        // stretches of one value, of several, and a rest
        let values: Vec<u16> = (0..16).chain([9; 21]).chain([65535, 9, 65535]).collect();
        let counts = count(&values);
        assert_eq!(counts.len(), 65536);
        assert_eq!(counts.iter().sum::<i64>(), values.len() as i64);
        for (value, &found) in counts.iter().enumerate() {
            let wanted = values.iter().filter(|&&x| usize::from(x) == value).count();
            assert_eq!(found, wanted as i64, "{value}");
        }
        assert_eq!(count::<u8>(&[]), [0; 256]);
    }

    fn picture() -> Picture<u8> {
        Picture {
            values: (0..24).collect(),
            shape: [2, 4, 3],
        }
    }

    fn halves(axis: usize) -> Pass<u8> {
        Pass {
            axis,
            first: vec![0],
            weights: vec![1, 1],
            bits: 1,
        }
    }

    #[test]
    fn passes_follow_each_other() {
        let made = resample(picture(), &[halves(1), halves(0)]).unwrap();
        assert_eq!(made.shape, [1, 1, 3]);
        // each pass rounds a half up
        assert_eq!(made.values, [8, 9, 10]);
        assert_eq!(resample(picture(), &[]).unwrap().values, picture().values);
        let floats = Picture {
            values: vec![1.0_f32, 2.0],
            shape: [1, 2, 1],
        };
        let share = Pass {
            axis: 1,
            first: vec![0],
            weights: vec![0.25, 0.75],
            bits: 0,
        };
        assert_eq!(resample(floats, &[share]).unwrap().values, [1.75]);
    }

    #[test]
    fn a_pass_that_does_not_fit_is_refused() {
        let wrong = [
            Pass {
                axis: 2,
                ..halves(0)
            },
            Pass {
                first: vec![1],
                ..halves(0)
            },
            Pass {
                first: vec![u32::MAX],
                ..halves(1)
            },
            Pass {
                weights: vec![1, 1, 1],
                first: vec![0, 0],
                ..halves(1)
            },
            Pass {
                weights: vec![],
                ..halves(1)
            },
            Pass {
                first: vec![],
                ..halves(1)
            },
            Pass {
                bits: 0,
                ..halves(1)
            },
            Pass {
                bits: 31,
                ..halves(1)
            },
        ];
        for pass in wrong {
            let text = format!("{pass:?}");
            let error = resample(picture(), &[pass]).unwrap_err();
            assert!(matches!(error, Error::Input(_)), "{text}: {error}");
        }
        let empty = Picture {
            values: Vec::<u8>::new(),
            shape: [0, 4, 3],
        };
        assert!(resample(empty, &[halves(1)]).is_err());
    }
}
