//! Kinds of sections and their names, as in `FORMAT.md`.

/// Parameters and counts.
pub const SETTINGS: u32 = 1;
/// Full vectors.
pub const VECTORS: u32 = 2;
/// Keys, row by row.
pub const KEYS: u32 = 3;
/// Blocks of the graph's nodes, a section a size.
pub const NODES: u32 = 4;
/// The row of each node, a section a size.
pub const NODE_ROWS: u32 = 5;
/// The node of each row.
pub const NODE_OF: u32 = 6;
/// Blocks that walks begin with.
pub const ROOTS: u32 = 7;
/// Coordinates that turn inner products into distances.
pub const LIFTS: u32 = 8;
/// Measured recall.
pub const CALIBRATION: u32 = 9;
/// Centre and unit of the graph's frame.
pub const FRAME: u32 = 10;
/// What training a quantizer made.
pub const QUANTIZER: u32 = 11;
/// Blocks of small codes.
pub const CODES: u32 = 12;
/// Fronts of the graph's nodes where they lie apart from the blocks, a section a size.
pub const FRONTS: u32 = 13;

/// Version and id of a collection.
pub const COLLECTION: u32 = 20;
/// Number, id and parent of a commit.
pub const COMMIT: u32 = 21;
/// What the owner of a collection keeps in a manifest.
pub const STATE: u32 = 22;
/// Names of the files that a manifest lists.
pub const FILE_NAMES: u32 = 23;
/// Length and root of each of these.
pub const FILE_FACTS: u32 = 24;

/// The name of kinds that the format does not have.
pub const UNKNOWN: &str = "unknown";

/// The name of a kind, for messages.
pub fn name(kind: u32) -> &'static str {
    match kind {
        SETTINGS => "settings",
        VECTORS => "vectors",
        KEYS => "keys",
        NODES => "nodes",
        NODE_ROWS => "node-rows",
        NODE_OF => "node-of",
        ROOTS => "roots",
        LIFTS => "lifts",
        CALIBRATION => "calibration",
        FRAME => "frame",
        QUANTIZER => "quantizer",
        CODES => "codes",
        FRONTS => "fronts",
        COLLECTION => "collection",
        COMMIT => "commit",
        STATE => "state",
        FILE_NAMES => "file-names",
        FILE_FACTS => "file-facts",
        _ => UNKNOWN,
    }
}
