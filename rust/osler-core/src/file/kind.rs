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

/// Metadata of items: tables, one after another.
pub const ITEM_TABLES: u32 = 30;
/// Where each of these ends.
pub const ITEM_TABLE_ENDS: u32 = 31;
/// Keys of items, one after another.
pub const ITEM_KEYS: u32 = 32;
/// Where each of these ends.
pub const ITEM_KEY_ENDS: u32 = 33;
/// Hashes of keys, ascending, each with its item.
pub const ITEM_KEY_HASHES: u32 = 34;
/// Digests of the files that items were made of.
pub const ITEM_CONTENTS: u32 = 35;
/// Ids of items, where they are not one after another.
pub const ITEM_IDS: u32 = 36;
/// The item of each part, where they are not one part an item.
pub const PART_ITEMS: u32 = 37;
/// Whether a part is an image or a text, where not all are images.
pub const PART_KINDS: u32 = 38;
/// Position of each part in its item, and where it lies there, where there is more to say than one after another.
pub const PART_PLACES: u32 = 39;
/// Ids of parts, where they are not one after another.
pub const PART_IDS: u32 = 40;
/// Ids of items that were deleted.
pub const TOMBSTONES: u32 = 41;
/// Where the files of items lie: a table as of metadata.
pub const LOCATORS: u32 = 42;
/// How many rows that table has.
pub const LOCATOR_ROWS: u32 = 43;

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
        ITEM_TABLES => "item-tables",
        ITEM_TABLE_ENDS => "item-table-ends",
        ITEM_KEYS => "item-keys",
        ITEM_KEY_ENDS => "item-key-ends",
        ITEM_KEY_HASHES => "item-key-hashes",
        ITEM_CONTENTS => "item-contents",
        ITEM_IDS => "item-ids",
        PART_ITEMS => "part-items",
        PART_KINDS => "part-kinds",
        PART_PLACES => "part-places",
        PART_IDS => "part-ids",
        TOMBSTONES => "tombstones",
        LOCATORS => "locators",
        LOCATOR_ROWS => "locator-rows",
        _ => UNKNOWN,
    }
}
