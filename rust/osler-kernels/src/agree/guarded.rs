//! Slices between two pages that may not be touched, so that a read or a write outside faults. Maps and
//! unmaps its own pages.

use std::ops::{Deref, DerefMut};
use std::ptr;

/// Where in its pages a slice lies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// Its last byte is the last that may be read.
    End,
    /// It begins so many elements behind the first byte that may be read.
    Start(usize),
}

/// A slice between two pages that may not be touched.
pub(super) struct Guarded<T: Copy> {
    map: *mut u8,
    mapped: usize,
    first: *mut T,
    len: usize,
}

impl<T: Copy> Guarded<T> {
    pub(super) fn new(values: &[T], place: Place) -> Guarded<T> {
        // SAFETY: asks for a number.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
        let shift = match place {
            Place::End => 0,
            Place::Start(elements) => elements * size_of::<T>(),
        };
        let middle = (size_of_val(values) + shift)
            .next_multiple_of(page)
            .max(page);
        let mapped = middle + 2 * page;
        // SAFETY: a new private mapping at an address of the kernel's choice touches nothing else.
        let map = unsafe {
            libc::mmap(
                ptr::null_mut(),
                mapped,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(map, libc::MAP_FAILED, "mmap failed");
        let map = map.cast::<u8>();
        // SAFETY: the range lies inside the mapping made above, at whole pages.
        let opened = unsafe {
            libc::mprotect(
                map.add(page).cast(),
                middle,
                libc::PROT_READ | libc::PROT_WRITE,
            )
        };
        assert_eq!(opened, 0, "mprotect failed");
        let offset = match place {
            Place::End => middle - size_of_val(values),
            Place::Start(_) => shift,
        };
        // SAFETY: `offset + size_of_val(values) <= middle`, by the choice of `middle`.
        let first = unsafe { map.add(page + offset).cast::<T>() };
        assert!(first.is_aligned());
        // SAFETY: the pages between the guards may be written, hold `values` and are not `values`.
        unsafe { ptr::copy_nonoverlapping(values.as_ptr(), first, values.len()) };
        Guarded {
            map,
            mapped,
            first,
            len: values.len(),
        }
    }

    /// The first address behind the slice.
    fn end(&self) -> *const T {
        self.first.wrapping_add(self.len)
    }
}

impl<T: Copy> Deref for Guarded<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `new` wrote `len` elements there and checked the alignment.
        unsafe { std::slice::from_raw_parts(self.first, self.len) }
    }
}

impl<T: Copy> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`; the borrow of `self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.first, self.len) }
    }
}

impl<T: Copy> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, to which no borrow can be left.
        let unmapped = unsafe { libc::munmap(self.map.cast(), self.mapped) };
        assert_eq!(unmapped, 0, "munmap failed");
    }
}

/// The guard itself: the kernel of the operating system refuses to read behind the slice.
#[test]
fn a_read_behind_or_before_the_slice_would_fault() {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    // SAFETY: `write` reports an address that may not be read as an error and does not fault.
    let readable = |address: *const u8| unsafe { libc::write(ends[1], address.cast(), 1) } == 1;
    for len in [1, 31, 32, 67, 1000, 4095, 4096, 4097] {
        let last = Guarded::new(&vec![0u8; len], Place::End);
        assert!(readable(last.end().wrapping_sub(1)));
        assert!(!readable(last.end()), "length {len}");
        let first = Guarded::new(&vec![0u8; len], Place::Start(0));
        assert!(readable(first.as_ptr()));
        assert!(!readable(first.as_ptr().wrapping_sub(1)), "length {len}");
    }
    for end in ends {
        // SAFETY: opened above, closed once.
        assert_eq!(unsafe { libc::close(end) }, 0);
    }
}
