//! The bytes of one file, mapped or owned, and the only unsafe code of this crate.
//!
//! Owned bytes lie in lines of 64 bytes, so both forms are aligned for every element type.

#![allow(
    unsafe_code,
    reason = "memory mapping has no safe form; see the blocks below"
)]

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};
use crate::fs::{Opened, Storage};

/// One cache line of bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Line([u8; 64]);

impl Line {
    /// Bytes in a line.
    pub const BYTES: usize = 64;
}

enum Bytes {
    Mapped(memmap2::Mmap),
    Owned(Vec<Line>, usize),
    Huge(Arc<Huge>, usize),
}

/// Fewer bytes are not worth a huge page.
pub const HUGE_FROM_BYTES: usize = 4 << 20;

/// Immutable bytes with a name for messages.
#[derive(Clone)]
pub struct Map {
    bytes: Arc<Bytes>,
    name: Arc<str>,
    mapped: bool,
}

impl Map {
    /// Maps a file, read-only; a storage without maps copies it.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened or mapped.
    pub fn open(storage: &dyn Storage, path: &Path) -> Result<Self> {
        let name = crate::error::file_name(path);
        let file = match storage.open(path).map_err(|e| Error::io("open", path, e))? {
            Opened::File(file) => file,
            Opened::Bytes(bytes) => return Ok(Map::owned(&bytes, &name)),
        };
        let length = file
            .metadata()
            .map_err(|e| Error::io("read", path, e))?
            .len();
        if length == 0 {
            return Ok(Map::owned(&[], &name));
        }
        // SAFETY: the map is read-only and only ever viewed as integers and floats, for which every bit pattern is a
        // value; lengths and ids read from it are compared with its length before use. Files are written once and
        // replaced by rename, never in place, so no writer of ours shortens a mapped file.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        Ok(Map {
            bytes: Arc::new(Bytes::Mapped(map)),
            name: name.into(),
            mapped: true,
        })
    }

    /// Maps a temporary file of this process that has no name.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be mapped.
    pub fn of_file(file: &std::fs::File, name: &str) -> Result<Self> {
        // SAFETY: the map is read-only and only ever viewed as integers and floats, for which every bit pattern is a
        // value. The file has no name, so only this process and its forks have it, and none writes to it again.
        let map = unsafe { memmap2::Mmap::map(file) }
            .map_err(|e| Error::io("map", Path::new(name), e))?;
        Ok(Map {
            bytes: Arc::new(Bytes::Mapped(map)),
            name: name.into(),
            mapped: true,
        })
    }

    /// Reads a whole file into memory.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read.
    pub fn read(storage: &dyn Storage, path: &Path) -> Result<Self> {
        let name = crate::error::file_name(path);
        let mut file = match storage.open(path).map_err(|e| Error::io("open", path, e))? {
            Opened::File(file) => file,
            Opened::Bytes(bytes) => return Ok(Map::owned(&bytes, &name)),
        };
        let failed = |e| Error::io("read", path, e);
        let length = file.metadata().map_err(failed)?.len();
        let length = usize::try_from(length).map_err(|_| Error::Memory(usize::MAX))?;
        Self::filled(length, &name, |bytes| {
            file.read_exact(bytes).map_err(failed)
        })
    }

    /// A copy of `bytes` in memory.
    pub fn owned(bytes: &[u8], name: &str) -> Self {
        let copied: Result<Self> = Self::filled(bytes.len(), name, |to| {
            to.copy_from_slice(bytes);
            Ok(())
        });
        copied.unwrap_or_else(|_| unreachable!("a copy does not fail"))
    }

    /// So many bytes of memory that `fill` fills, in huge pages if they are many.
    fn filled(
        length: usize,
        name: &str,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<Self> {
        let huge = (length >= HUGE_FROM_BYTES).then(|| Huge::zeroed(length));
        let bytes = if let Some(mut huge) = huge.flatten() {
            fill(&mut huge.bytes_mut()[..length])?;
            Bytes::Huge(Arc::new(huge), length)
        } else {
            let mut lines = vec![Line::zeroed(); length.div_ceil(Line::BYTES)];
            fill(&mut bytemuck::cast_slice_mut::<Line, u8>(&mut lines)[..length])?;
            Bytes::Owned(lines, length)
        };
        Ok(Map {
            bytes: Arc::new(bytes),
            name: name.into(),
            mapped: false,
        })
    }

    /// All bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match &*self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Owned(lines, length) => &bytemuck::cast_slice(lines)[..*length],
            Bytes::Huge(huge, length) => &huge.bytes()[..*length],
        }
    }

    /// The huge pages that the bytes begin in, if they lie there.
    pub fn huge(&self) -> Option<&Arc<Huge>> {
        match &*self.bytes {
            Bytes::Huge(huge, _) => Some(huge),
            Bytes::Mapped(_) | Bytes::Owned(..) => None,
        }
    }

    /// Says of a part of a mapped file that it will be read here and there, so that the system reads a page and not its
    /// neighbours. Only a hint.
    pub fn random(&self, start: usize, length: usize) {
        #[cfg(unix)]
        self.advise(memmap2::Advice::Random, start, length);
    }

    /// Asks for a part of a mapped file that will be read now, in one go. Only a hint.
    pub fn will_need(&self, start: usize, length: usize) {
        #[cfg(unix)]
        self.advise(memmap2::Advice::WillNeed, start, length);
    }

    #[cfg(unix)]
    fn advise(&self, advice: memmap2::Advice, start: usize, length: usize) {
        if let Bytes::Mapped(map) = &*self.bytes {
            let _ = map.advise_range(advice, start, length);
        }
    }

    /// The file's name, without its folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same bytes under another name.
    pub fn named(self, name: &str) -> Self {
        Map {
            name: name.into(),
            ..self
        }
    }

    /// Whether the bytes are a mapped file rather than memory of this process.
    pub fn is_mapped(&self) -> bool {
        self.mapped
    }
}

/// Memory of this process in huge pages, where the system has them.
pub struct Huge {
    map: memmap2::MmapMut,
    start: usize,
}

impl Huge {
    /// Zeros; None if the system gives no memory.
    pub fn zeroed(bytes: usize) -> Option<Self> {
        /// The usual size of a huge page.
        const PAGE: usize = 2 << 20;
        let map = memmap2::MmapMut::map_anon(bytes.checked_add(PAGE)?).ok()?;
        #[cfg(any(test, feature = "testing"))]
        super::testing::MAPPED.fetch_add(bytes, std::sync::atomic::Ordering::SeqCst);
        let start = map.as_ptr().align_offset(PAGE).min(PAGE);
        // Advice only: without huge pages the same memory is slower.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Some(Huge { map, start })
    }

    /// The memory, aligned to a huge page.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        &self.map[self.start..]
    }

    /// The same, to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.start..]
    }
}
