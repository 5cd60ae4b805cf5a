//! Which storage calls from Python use: the real one, but for a build for tests, where one may be put in its place.

use std::sync::Arc;

use osler_core::fs::Storage;
use osler_core::fs::real::Real;

/// The storage of this process.
pub fn current() -> Arc<dyn Storage> {
    #[cfg(feature = "testing")]
    if let Some(other) = crate::testing::storage() {
        return other;
    }
    Arc::new(Real)
}
