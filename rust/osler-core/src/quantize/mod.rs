//! Small codes in place of vectors: trained on rows, then scored against a query without decoding.
//!
//! Arithmetic on slices in memory; knows no file, no graph and no key. Training uses the threads that it is called on,
//! inside [`Pool::run`](crate::pool::Pool::run), and gives the same bytes at any number of them and at any SIMD level.
//!
//! Every estimate is of the metric's score, higher for nearer. A residual is a row less the mean of the rows trained on;
//! its rotation is where codes are made, and where [`Quantizer::rotated`] can be compared with any other.
//!
//! ```
//! use osler_core::{metric::Metric, quantize::{Method, Quantizer}};
//!
//! # fn main() -> osler_core::error::Result<()> {
//! let rows: Vec<f32> = (0..400).map(|i| ((i * i) % 17) as f32).collect();
//! let method = Method::parse("rabitq:8", 4)?;
//! let quantizer = Quantizer::train(method, Metric::L2, &rows, 4, 0);
//! let mut code = vec![0; quantizer.bytes()];
//! quantizer.encode(&rows[40..44], &mut code);
//! let score = quantizer.prepare(&rows[..4]).score(&code);
//! assert!((score + osler_kernels::l2(&rows[..4], &rows[40..44])).abs() < 2.0);
//! # Ok(())
//! # }
//! ```

mod blocks;
mod eigen;
pub mod kmeans;
mod opq;
mod product;
mod rabitq;
pub mod rotation;
mod space;

pub use blocks::LANES;
use product::Product;
use rabitq::Rabitq;
use space::Space;

use crate::error::{Error, Result};
use crate::metric::{LARGEST, Metric, squares};

/// How rows are made small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Product quantization.
    Pq {
        /// Parts that a vector is cut into.
        parts: usize,
        /// Bits of a part's code: 4 or 8.
        bits: usize,
    },
    /// RaBitQ.
    Rabitq {
        /// Bits of a value's code: 1 to 8.
        bits: usize,
    },
}

impl Method {
    /// The method of a public name: `pq`, `pq:96x4` (parts x bits), `rabitq` or `rabitq:4` (bits).
    ///
    /// ```
    /// use osler_core::quantize::Method;
    /// assert_eq!(Method::parse("pq:192x4", 384).unwrap(), Method::parse("pq", 384).unwrap());
    /// assert!(Method::parse("pq:96x5", 384).is_err());
    /// ```
    ///
    /// # Errors
    /// [`Error::Input`] for any other name.
    pub fn parse(name: &str, dim: usize) -> Result<Self> {
        let (family, parameters) = match name.split_once(':') {
            Some((family, parameters)) => (family, Some(parameters)),
            None => (name, None),
        };
        let method = match (family, parameters) {
            // A sixteenth of the bytes of f32.
            ("pq", None) => Some(Method::Pq {
                parts: dim.div_ceil(2),
                bits: 4,
            }),
            ("pq", Some(parameters)) => parse_parts(parameters, dim),
            ("rabitq", None) => Some(Method::Rabitq { bits: 1 }),
            ("rabitq", Some(bits)) => parse_number(bits)
                .filter(|bits| (1..=8).contains(bits))
                .map(|bits| Method::Rabitq { bits }),
            _ => None,
        };
        method.ok_or_else(|| {
            Error::input(format!(
                "codes is {name:?}; it can be \"pq\", \"pq:PARTSxBITS\" with 1 to {dim} parts of 4 or 8 bits, \
                 \"rabitq\" or \"rabitq:BITS\" with 1 to 8 bits"
            ))
        })
    }

    /// The public name, with all parameters.
    pub fn name(self) -> String {
        match self {
            Method::Pq { parts, bits } => format!("pq:{parts}x{bits}"),
            Method::Rabitq { bits } => format!("rabitq:{bits}"),
        }
    }

    /// Bytes of one row's code.
    pub fn bytes(self, metric: Metric, dim: usize) -> usize {
        match self {
            Method::Pq { parts, bits } => Product::bytes(parts, bits),
            Method::Rabitq { bits } => Rabitq::bytes(metric, bits, dim),
        }
    }
}

fn parse_parts(parameters: &str, dim: usize) -> Option<Method> {
    let (parts, bits) = parameters.split_once('x')?;
    let (parts, bits) = (parse_number(parts)?, parse_number(bits)?);
    let fits = (1..=dim).contains(&parts) && (bits == 4 || bits == 8);
    fits.then_some(Method::Pq { parts, bits })
}

/// Digits only: what `parse` takes besides would be a second spelling of one name.
fn parse_number(text: &str) -> Option<usize> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| plain)
}

/// A trained method. Rows and queries have `dim` finite values, prepared as their metric asks.
#[derive(Clone, Debug)]
pub struct Quantizer {
    method: Method,
    coder: Coder,
}

#[derive(Clone, Debug)]
enum Coder {
    Product(Product),
    Rabitq(Rabitq),
}

/// A query ready to score codes of one quantizer.
#[derive(Clone, Debug)]
pub enum Prepared {
    /// For [`Method::Pq`].
    Product(product::Prepared),
    /// For [`Method::Rabitq`].
    Rabitq(rabitq::Prepared),
}

impl Quantizer {
    /// Trains on rows that lie one after another. A pure function of its arguments.
    pub fn train(method: Method, metric: Metric, rows: &[f32], dim: usize, seed: u64) -> Self {
        let space = Space::around_mean(metric, rows, dim);
        let coder = match method {
            Method::Pq { parts, bits } => {
                Coder::Product(Product::train(space, parts, bits, rows, seed, true))
            }
            Method::Rabitq { bits } => Coder::Rabitq(Rabitq::new(space, bits, seed)),
        };
        Quantizer { method, coder }
    }

    /// What training made, to be stored: together with method, metric, dim and seed it is all.
    pub fn floats(&self) -> Vec<f32> {
        let mut floats = self.space().centre.clone();
        if let Coder::Product(product) = &self.coder {
            floats.extend(product.floats());
        }
        floats
    }

    /// The quantizer of which [`floats`](Quantizer::floats) are given; `None` if they are not as many as they must be,
    /// or such that rows cannot be scored.
    pub fn from_floats(
        method: Method,
        metric: Metric,
        dim: usize,
        seed: u64,
        floats: &[f32],
    ) -> Option<Self> {
        let (centre, rest) = floats.split_at_checked(dim)?;
        let wanted = match method {
            Method::Rabitq { .. } => 0,
            Method::Pq { parts, bits } => Product::float_count(dim, parts, bits)?,
        };
        let fits = |x: &f32| f64::from(*x).abs() <= (8.0 * LARGEST).sqrt();
        if rest.len() != wanted || !floats.iter().all(fits) || squares(centre) > 2.0 * LARGEST {
            return None;
        }
        let space = Space {
            metric,
            centre: centre.to_vec(),
        };
        let coder = match method {
            Method::Pq { parts, bits } => {
                Coder::Product(Product::from_floats(space, parts, bits, rest))
            }
            Method::Rabitq { bits } => Coder::Rabitq(Rabitq::new(space, bits, seed)),
        };
        Some(Quantizer { method, coder })
    }

    /// How it makes rows small.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Values of a row.
    pub fn dim(&self) -> usize {
        self.space().dim()
    }

    /// Bytes of one row's code.
    pub fn bytes(&self) -> usize {
        let space = self.space();
        self.method.bytes(space.metric, space.dim())
    }

    fn space(&self) -> &Space {
        match &self.coder {
            Coder::Product(coder) => &coder.space,
            Coder::Rabitq(coder) => &coder.space,
        }
    }

    /// Writes the code of a row, [`bytes`](Quantizer::bytes) long.
    pub fn encode(&self, row: &[f32], code: &mut [u8]) {
        match &self.coder {
            Coder::Product(coder) => coder.encode(row, code),
            Coder::Rabitq(coder) => coder.encode(row, code),
        }
    }

    /// A query made ready.
    pub fn prepare(&self, query: &[f32]) -> Prepared {
        match &self.coder {
            Coder::Product(coder) => Prepared::Product(coder.prepare(query)),
            Coder::Rabitq(coder) => Prepared::Rabitq(coder.prepare(query)),
        }
    }

    /// The rotated residual that a code stands for: distances and inner products of two are nearly those of the rows'
    /// residuals. Not comparable with one of another quantizer.
    pub fn rotated(&self, code: &[u8]) -> Vec<f32> {
        match &self.coder {
            Coder::Product(coder) => coder.rotated(code),
            Coder::Rabitq(coder) => coder.rotated(code),
        }
    }

    /// Writes the vector that a code stands for.
    pub fn decode(&self, code: &[u8], out: &mut [f32]) {
        let mut rotated = self.rotated(code);
        match &self.coder {
            Coder::Product(coder) => out.copy_from_slice(&coder.turned_back(&rotated)),
            Coder::Rabitq(coder) => coder.rotation.invert(&mut rotated, out),
        }
        for (value, centre) in out.iter_mut().zip(&self.space().centre) {
            *value += centre;
        }
    }

    /// The score of two rows by their codes.
    pub fn between(&self, a: &[u8], b: &[u8]) -> f32 {
        match &self.coder {
            Coder::Product(coder) => coder.between(a, b),
            Coder::Rabitq(coder) => coder.between(a, b),
        }
    }

    /// Bytes of a block of [`LANES`] rows.
    pub fn block_bytes(&self) -> usize {
        LANES * self.bytes()
    }

    /// Arranges the codes of up to [`LANES`] rows, one after another, for scanning.
    pub fn pack(&self, codes: &[u8], block: &mut [u8]) {
        block.fill(0);
        match &self.coder {
            Coder::Product(coder) => coder.pack(codes, block),
            Coder::Rabitq(coder) => coder.pack(codes, block),
        }
    }

    /// Writes the code of row `lane` of a block.
    pub fn unpack(&self, block: &[u8], lane: usize, code: &mut [u8]) {
        match &self.coder {
            Coder::Product(coder) => coder.unpack(block, lane, code),
            Coder::Rabitq(coder) => coder.unpack(block, lane, code),
        }
    }
}

impl Prepared {
    /// An estimate of the metric's score of one row.
    #[inline]
    pub fn score(&self, code: &[u8]) -> f32 {
        match self {
            Prepared::Product(query) => query.score(code),
            Prepared::Rabitq(query) => query.score(code),
        }
    }

    /// How far [`score`](Prepared::score) may be off, at 1.9 standard deviations of a random rotation, under
    /// [`Method::Rabitq`]; the others have no bound. Rounding of the query comes on top.
    #[inline]
    pub fn error(&self, code: &[u8]) -> Option<f32> {
        match self {
            Prepared::Product(_) => None,
            Prepared::Rabitq(query) => Some(query.error(code)),
        }
    }

    /// Estimates of the scores of a block's rows; those of lanes without a row mean nothing. Under
    /// [`Method::Rabitq`] they are those of one bit, and `errors` is how far they may be off; otherwise it is left alone.
    pub fn score_block(&self, block: &[u8], scores: &mut [f32; LANES], errors: &mut [f32; LANES]) {
        match self {
            Prepared::Product(query) => query.score_block(block, scores),
            Prepared::Rabitq(query) => query.score_block(block, scores, errors),
        }
    }
}

#[cfg(test)]
mod tests;
