//! Pictures of 8 bits made larger or smaller by weighted sums along their axes, for callers that prepare them for an
//! encoder. What the weights are is the caller's; see [`osler_kernels::Taps`].

use osler_kernels::Taps;

use crate::error::{Error, Result};

/// Rows of columns of channels, one byte each.
#[derive(Debug)]
pub struct Picture {
    /// The bytes, row after row.
    pub values: Vec<u8>,
    /// Rows, columns, channels.
    pub shape: [usize; 3],
}

/// One pass: sums along an axis, 0 down the columns or 1 along the rows.
#[derive(Debug)]
pub struct Pass {
    /// 0 or 1.
    pub axis: usize,
    /// Where the taps of each result begin.
    pub first: Vec<u32>,
    /// As many for every result.
    pub weights: Vec<i32>,
    /// Bits behind the point of the weights.
    pub bits: u32,
}

/// Takes one pass after another; each rounds to bytes.
///
/// ```
/// use osler_core::picture::{Pass, Picture, resample};
/// let picture = Picture { values: vec![0, 100, 40, 20], shape: [2, 2, 1] };
/// let mean = Pass { axis: 1, first: vec![0], weights: vec![1, 1], bits: 1 };
/// assert_eq!(resample(picture, &[mean]).unwrap().values, [50, 30]);
/// ```
///
/// # Errors
///
/// [`Error::Input`] where a pass does not fit the picture, [`Error::Memory`] where the result does not fit into memory.
pub fn resample(mut picture: Picture, passes: &[Pass]) -> Result<Picture> {
    for pass in passes {
        let taps = Taps {
            first: &pass.first,
            weights: &pass.weights,
            bits: pass.bits,
        };
        let [rows, columns, channels] = picture.shape;
        let mut shape = picture.shape;
        let side = *shape
            .get_mut(pass.axis)
            .filter(|_| pass.axis < 2)
            .ok_or_else(|| Error::Input(format!("axis is {}; give 0 or 1", pass.axis)))?;
        if picture.values.is_empty() || !taps.fit(side) {
            return Err(Error::Input(format!(
                "weights do not fit axis {} of a picture of {rows} x {columns} x {channels}",
                pass.axis
            )));
        }
        shape[pass.axis] = pass.first.len();
        let bytes = shape
            .iter()
            .try_fold(1_usize, |n, &side| n.checked_mul(side));
        let mut values = Vec::new();
        let bytes = bytes.unwrap_or(usize::MAX);
        values
            .try_reserve_exact(bytes)
            .map_err(|_| Error::Memory(bytes))?;
        values.resize(bytes, 0);
        if pass.axis == 0 {
            osler_kernels::resample_rows(&picture.values, columns * channels, taps, &mut values);
        } else {
            osler_kernels::resample_columns(&picture.values, columns, channels, taps, &mut values);
        }
        picture = Picture { values, shape };
    }
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Picture {
        Picture {
            values: (0..24).collect(),
            shape: [2, 4, 3],
        }
    }

    fn halves(axis: usize) -> Pass {
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
            values: vec![],
            shape: [0, 4, 3],
        };
        assert!(resample(empty, &[halves(1)]).is_err());
    }
}
