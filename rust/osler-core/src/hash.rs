//! BLAKE3 of bytes in memory, plain and keyed, for callers that name files or people by a hash.

/// The hash of some bytes.
pub fn blake3(bytes: &[u8]) -> [u8; 32] {
    *::blake3::hash(bytes).as_bytes()
}

/// The hash of some bytes under a key.
pub fn blake3_keyed(key: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
    *::blake3::keyed_hash(key, bytes).as_bytes()
}

/// The first 64 bits, little-endian, of the BLAKE3 of each of some pieces that lie one after another and end at `ends`;
/// None if they do not.
pub fn blake3_each(bytes: &[u8], ends: &[u64]) -> Option<Vec<u64>> {
    let mut start = 0;
    let mut hashes = Vec::with_capacity(ends.len());
    for &end in ends {
        let end = usize::try_from(end).ok()?;
        let hash = blake3(bytes.get(start..end)?);
        let mut first = [0; 8];
        first.copy_from_slice(&hash[..8]);
        hashes.push(u64::from_le_bytes(first));
        start = end;
    }
    Some(hashes)
}
