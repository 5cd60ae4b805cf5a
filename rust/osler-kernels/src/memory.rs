//! Where bytes lie: buffers that begin at a cache line, and hints to the caches. Allocates; never
//! reads or writes through a hint.

use std::fmt;
use std::ops::{Deref, DerefMut};

use half::f16;

/// Bytes that one hint brings in.
const CACHE_LINE: usize = 64;

/// Bytes that [`prefetch`] asks for at most: the hardware's own prefetcher follows a longer run.
const PREFETCH_BYTES: usize = 512;

/// A number of which any bytes are a valid value and which divides a cache line.
///
/// ```
/// let buffer: osler_kernels::AlignedVec<u16> = osler_kernels::AlignedVec::zeroed(3);
/// assert_eq!(*buffer, [0u16, 0, 0]);
/// ```
pub trait Number: Copy + Default + fmt::Debug + sealed::Sealed + 'static {}

mod sealed {
    /// # Safety
    ///
    /// Any bytes are a valid value, and a cache line is a whole number of values.
    pub unsafe trait Sealed {}
}

macro_rules! number {
    ($($number:ty),*) => {
        $(
            // SAFETY: a plain number: any bytes are valid, and its size is a power of two below 64.
            unsafe impl sealed::Sealed for $number {}
            impl Number for $number {}
        )*
    };
}
number!(f32, f16, i8, u8, u16, u32, u64);

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; CACHE_LINE]);

/// A growable array of numbers that begins at a multiple of 64 bytes, so that whole rows of whole
/// cache lines stay whole.
///
/// ```
/// let mut rows = osler_kernels::AlignedVec::from(&[1.0f32, 2.0][..]);
/// rows.extend_from_slice(&[3.0]);
/// assert_eq!(*rows, [1.0, 2.0, 3.0]);
/// assert_eq!(rows.as_ptr() as usize % 64, 0);
/// ```
#[derive(Clone)]
pub struct AlignedVec<T: Number> {
    lines: Vec<Line>,
    len: usize,
    number: std::marker::PhantomData<T>,
}

impl<T: Number> AlignedVec<T> {
    const PER_LINE: usize = CACHE_LINE / size_of::<T>();

    /// An empty array, without an allocation.
    ///
    /// ```
    /// assert!(osler_kernels::AlignedVec::<f32>::new().is_empty());
    /// ```
    pub const fn new() -> AlignedVec<T> {
        AlignedVec {
            lines: Vec::new(),
            len: 0,
            number: std::marker::PhantomData,
        }
    }

    /// An array of `len` zeros.
    ///
    /// ```
    /// assert_eq!(*osler_kernels::AlignedVec::<f32>::zeroed(2), [0.0, 0.0]);
    /// ```
    pub fn zeroed(len: usize) -> AlignedVec<T> {
        let mut zeroed = AlignedVec::new();
        zeroed.resize_zeroed(len);
        zeroed
    }

    /// Makes room for `additional` more numbers.
    ///
    /// ```
    /// let mut rows = osler_kernels::AlignedVec::<f32>::new();
    /// rows.reserve(384);
    /// assert!(rows.is_empty());
    /// ```
    pub fn reserve(&mut self, additional: usize) {
        let wanted = (self.len + additional).div_ceil(Self::PER_LINE);
        self.lines.reserve(wanted.saturating_sub(self.lines.len()));
    }

    /// Changes the length; new numbers are zero.
    ///
    /// ```
    /// let mut rows = osler_kernels::AlignedVec::from(&[7u32, 8][..]);
    /// rows.resize_zeroed(1);
    /// rows.resize_zeroed(3);
    /// assert_eq!(*rows, [7, 0, 0]);
    /// ```
    pub fn resize_zeroed(&mut self, len: usize) {
        let old = self.len;
        self.lines
            .resize(len.div_ceil(Self::PER_LINE), Line([0; CACHE_LINE]));
        self.len = len;
        if len > old {
            let end = len.min(old.next_multiple_of(Self::PER_LINE));
            self[old..end].fill(T::default());
        }
    }

    /// Appends numbers.
    ///
    /// ```
    /// let mut rows = osler_kernels::AlignedVec::new();
    /// rows.extend_from_slice(&[1u16, 2]);
    /// assert_eq!(*rows, [1, 2]);
    /// ```
    pub fn extend_from_slice(&mut self, numbers: &[T]) {
        let old = self.len;
        self.resize_zeroed(old + numbers.len());
        self[old..].copy_from_slice(numbers);
    }
}

impl<T: Number> Default for AlignedVec<T> {
    fn default() -> AlignedVec<T> {
        AlignedVec::new()
    }
}

impl<T: Number> From<&[T]> for AlignedVec<T> {
    fn from(numbers: &[T]) -> AlignedVec<T> {
        let mut copy = AlignedVec::new();
        copy.extend_from_slice(numbers);
        copy
    }
}

impl<T: Number> Deref for AlignedVec<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `resize_zeroed`, the only writer of `len`, keeps `lines` long enough for it; the
        // bytes are initialised, aligned to 64, and `Sealed` promises that any of them are a number.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Number> DerefMut for AlignedVec<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`; the borrow of `self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl<T: Number> fmt::Debug for AlignedVec<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, formatter)
    }
}

/// Asks the CPU to bring the beginning of a slice into its caches. Only a hint: no effect but speed,
/// and nothing at all on CPUs that it is not written for.
///
/// ```
/// osler_kernels::prefetch(&[0.0f32; 384]);
/// ```
#[inline(always)]
pub fn prefetch<T>(slice: &[T]) {
    let start = slice.as_ptr().cast::<i8>();
    let mut offset = 0;
    while offset < size_of_val(slice).min(PREFETCH_BYTES) {
        hint(start.wrapping_add(offset));
        offset += CACHE_LINE;
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn hint(address: *const i8) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: SSE belongs to x86-64; a prefetch never faults, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address) }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn hint(_: *const i8) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_at_a_cache_line_and_keeps_its_content_at_any_length() {
        let mut grown = AlignedVec::<f32>::new();
        let mut plain = Vec::new();
        for value in 0..200u16 {
            grown.extend_from_slice(&[f32::from(value)]);
            plain.push(f32::from(value));
            assert_eq!(grown.as_ptr() as usize % CACHE_LINE, 0);
            assert_eq!(*grown, *plain);
            let copy = grown.clone();
            assert_eq!(copy.as_ptr() as usize % CACHE_LINE, 0);
            assert_eq!(*copy, *plain);
        }
    }

    #[test]
    fn numbers_that_were_cut_off_do_not_come_back() {
        for (cut, len) in [(3, 40), (16, 17), (0, 5), (17, 33), (40, 40)] {
            let mut numbers = AlignedVec::from(&[7u16; 40][..]);
            numbers.resize_zeroed(cut);
            numbers.resize_zeroed(len);
            let mut expected = vec![7; cut];
            expected.resize(len, 0);
            assert_eq!(*numbers, *expected);
        }
    }
}
