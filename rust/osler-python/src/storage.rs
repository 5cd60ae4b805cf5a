//! Which storage calls from Python use.

use osler_core::fs::Storage;
use osler_core::fs::real::Real;

/// The storage of this process.
pub fn current() -> &'static dyn Storage {
    &Real
}
