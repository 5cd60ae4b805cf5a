//! Groups of rows: at most so many hits of one group, and groups whose rows are not returned.

/// The user's number for a group, such as a patient.
pub type GroupId = i64;

/// Says that a query excludes no group.
pub const NO_GROUP: GroupId = -1;

/// Grouping that a search obeys, row by row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grouping<'a> {
    /// Group of each row, and how many hits of one group are returned; None: no limit.
    pub limit: Option<(&'a [GroupId], usize)>,
    /// Group of each row, and the one whose rows are not returned.
    pub exclude: Option<(&'a [GroupId], GroupId)>,
}

impl Grouping<'_> {
    /// Whether the row is in the excluded group.
    #[inline(always)]
    pub fn excludes(&self, row: u32) -> bool {
        self.exclude
            .is_some_and(|(groups, id)| groups[row as usize] == id)
    }
}
