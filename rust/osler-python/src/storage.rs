//! Which storage calls from Python use.

use std::sync::Arc;

use osler_core::fs::Storage;
use osler_core::fs::real::Real;

/// The storage of this process.
pub fn current() -> &'static dyn Storage {
    &Real
}

/// The same, for those who keep it.
pub fn shared() -> Arc<dyn Storage> {
    Arc::new(Real)
}
