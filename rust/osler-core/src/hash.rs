//! BLAKE3 of bytes in memory, plain and keyed, for callers that name files or people by a hash.

/// The hash of some bytes.
pub fn blake3(bytes: &[u8]) -> [u8; 32] {
    *::blake3::hash(bytes).as_bytes()
}

/// The hash of some bytes under a key.
pub fn blake3_keyed(key: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
    *::blake3::keyed_hash(key, bytes).as_bytes()
}
