//! How rows lie in a section. A pure value.

/// How rows lie in a section; all counts are in elements unless named bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Bytes of an element.
    pub element: usize,
    /// Base-two logarithm of the rows of a block, the unit of checksums in a file and of copies in memory.
    pub shift: u32,
}

impl Shape {
    /// Bytes from one row to the next.
    pub fn row_bytes(self) -> usize {
        self.stride * self.element
    }

    /// Bytes of a full block.
    pub fn block_bytes(self) -> usize {
        self.row_bytes() << self.shift
    }

    /// Bytes of all rows.
    pub fn bytes(self) -> usize {
        self.rows * self.row_bytes()
    }

    /// The same rows in blocks of at most `bytes`, or of one row.
    pub fn in_blocks_of(self, bytes: usize) -> Self {
        let rows = (bytes / self.row_bytes()).max(1);
        Shape {
            shift: self.shift.min(rows.ilog2()),
            ..self
        }
    }

    /// Number of blocks.
    pub fn blocks(self) -> usize {
        self.rows.div_ceil(1 << self.shift)
    }

    /// Whether every count is within its limits and their products fit.
    pub fn check(self) -> bool {
        let limits =
            self.rows < 1 << 40 && self.stride < 1 << 24 && self.element <= 8 && self.shift <= 20;
        let whole =
            self.width <= self.stride && self.stride >= 1 && matches!(self.element, 1 | 2 | 4 | 8);
        limits && whole && self.rows.checked_mul(self.stride * self.element).is_some()
    }
}
