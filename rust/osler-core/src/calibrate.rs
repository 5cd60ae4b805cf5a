//! Recall wanted to beam width, measured on this data.
//!
//! Recall is by score: a hit counts if it scores at least what the exact k-th neighbour does, so ties are no misses. The
//! width for a recall is the least one whose one-sided 95 % lower confidence bound reaches it.

/// The k that are measured; another k uses the next higher one.
pub const KS: [usize; 3] = [1, 10, 100];

/// Beam widths that are tried, until the larger [`KS`] are answered almost always.
pub const WIDTHS: [usize; 22] = [
    10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 100, 128, 160, 200, 256, 320, 400, 512, 800,
    1200,
];

/// Wider ones, which are tried where a scan of codes leaves so many rows to be ordered by their vectors.
pub const WIDER: [usize; 4] = [2000, 3200, 5000, 8000];

/// No more widths are tried once the lower bounds of the larger k are this high.
pub const ENOUGH: f32 = 0.995;

/// The 95 % point of the standard normal distribution.
const Z95: f64 = 1.6449;

/// Recall at one k and one width.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Number of neighbours asked for.
    pub k: u32,
    /// Width of the beam.
    pub ef: u32,
    /// Mean recall over the queries.
    pub recall: f32,
    /// One-sided 95 % lower confidence bound of the mean.
    pub lower: f32,
}

impl Point {
    /// The point of one k and width from each query's recall.
    pub fn new(k: usize, ef: usize, recalls: &[f64]) -> Self {
        let n = recalls.len().max(1) as f64;
        let mean = recalls.iter().sum::<f64>() / n;
        let variance =
            recalls.iter().map(|r| (r - mean) * (r - mean)).sum::<f64>() / (n - 1.0).max(1.0);
        // Where all queries agree the sample says nothing of its spread; then the rule of three bounds what was missed.
        let spread = Z95 * (variance / n).sqrt();
        let lower = if variance > 0.0 {
            mean - spread
        } else {
            mean.min(1.0 - 3.0 / (n * k as f64))
        };
        Point {
            k: k as u32,
            ef: ef as u32,
            recall: mean as f32,
            lower: lower as f32,
        }
    }
}

/// What was measured, and on how many rows and queries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calibration {
    /// Rows in the index when it was measured.
    pub rows: usize,
    /// Queries that were used.
    pub queries: usize,
    /// Points sorted by k, then by width.
    pub points: Vec<Point>,
}

impl Calibration {
    /// The width of the beam for a recall at k; None if only exact search promises it.
    pub fn width(&self, k: usize, recall: f32) -> Option<usize> {
        let of = KS
            .iter()
            .copied()
            .find(|&of| of >= k)
            .unwrap_or(KS[KS.len() - 1]);
        let point = self
            .points
            .iter()
            .find(|p| p.k as usize == of && p.lower >= recall)?;
        let ef = point.ef as usize;
        // Beyond the largest measured k the beam keeps its proportion to k.
        Some(if k > of { (ef * k).div_ceil(of) } else { ef }.max(k))
    }

    /// The mean recall at k that was measured at the width for `recall`, or the best one if none reaches it.
    pub fn measured(&self, k: usize, recall: f32) -> Option<f32> {
        let of_k = || self.points.iter().filter(|p| p.k as usize == k);
        let chosen = of_k().find(|p| p.lower >= recall);
        chosen
            .map(|p| p.recall)
            .or_else(|| of_k().map(|p| p.recall).reduce(f32::max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_width_is_given_by_its_lower_bound() {
        let point = |k, ef, recall, lower| Point {
            k,
            ef,
            recall,
            lower,
        };
        let points = vec![
            point(10, 10, 0.96, 0.94),
            point(10, 20, 0.97, 0.96),
            point(100, 100, 0.99, 0.985),
        ];
        let calibration = Calibration {
            rows: 0,
            queries: 0,
            points,
        };
        assert_eq!(calibration.width(10, 0.95), Some(20));
        assert_eq!(calibration.width(5, 0.95), Some(20));
        assert_eq!(calibration.width(50, 0.95), Some(100));
        assert_eq!(calibration.width(300, 0.95), Some(300));
        assert_eq!(calibration.width(10, 0.99), None);
    }

    #[test]
    fn more_queries_bring_the_bound_nearer() {
        let few = Point::new(10, 10, &[1.0, 0.9, 0.8, 1.0]);
        let many = Point::new(10, 10, &[1.0, 0.9, 0.8, 1.0].repeat(100));
        assert!(few.lower < many.lower && many.lower < many.recall);
        assert!((few.recall - many.recall).abs() < 1e-6);
    }
}
