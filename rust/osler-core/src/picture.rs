//! Pictures made larger or smaller by weighted sums along their axes, for callers that prepare them for an encoder.
//! What the weights are is the caller's; see [`osler_kernels::Taps`].

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

#[cfg(test)]
mod tests {
    use super::*;

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
