//! Groups of rows: at most so many hits of one group, groups whose rows are not returned, and items, whose parts the
//! rows of a group are.
//!
//! Pure values. An inverted list gives the rows of each item.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;

use crate::error::Result;
use crate::means::Means;

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

/// Rows as parts of items: the item of each row, and the rows of each item.
#[derive(Debug)]
pub struct Items {
    of_row: Arc<[GroupId]>,
    item_of_row: Vec<u32>,
    /// Rows sorted by item, then by number.
    rows: Vec<u32>,
    /// Where each item's rows begin in `rows`, and their number.
    starts: Vec<u32>,
    means: OnceLock<Means>,
    /// Whether later searches will have them too.
    kept: bool,
}

/// Mean vectors are kept where they are few beside the rows: items of so many rows on average.
const MEANS_FROM: usize = 4;

impl Items {
    /// Items whose ids are given row by row; they are numbered in the order of their ids.
    pub fn new(of_row: Arc<[GroupId]>) -> Self {
        let mut rows: Vec<u32> = (0..of_row.len() as u32).collect();
        rows.sort_by_key(|&row| of_row[row as usize]);
        let mut item_of_row = vec![0; rows.len()];
        let mut starts = Vec::new();
        let mut before = None;
        for (at, &row) in rows.iter().enumerate() {
            let id = of_row[row as usize];
            if before != Some(id) {
                starts.push(at as u32);
                before = Some(id);
            }
            item_of_row[row as usize] = starts.len() as u32 - 1;
        }
        starts.push(rows.len() as u32);
        Items {
            of_row,
            item_of_row,
            rows,
            starts,
            means: OnceLock::new(),
            kept: false,
        }
    }

    /// The mean vectors of the items, made by `make` if they are not there; None where they are not worth it.
    pub fn means(&self, make: impl FnOnce() -> Result<Means>) -> Result<Option<&Means>> {
        if !self.kept || self.count() * MEANS_FROM > self.rows.len() {
            return Ok(None);
        }
        if self.means.get().is_none() {
            // Another thread may have been faster, with the same vectors.
            let _ = self.means.set(make()?);
        }
        Ok(self.means.get())
    }

    /// How many items there are.
    pub fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// The id of each row's item.
    pub fn of_row(&self) -> &[GroupId] {
        &self.of_row
    }

    /// The number of a row's item.
    #[inline(always)]
    pub fn item(&self, row: u32) -> u32 {
        self.item_of_row[row as usize]
    }

    /// The rows of an item, ascending.
    pub fn rows(&self, item: u32) -> &[u32] {
        let item = item as usize;
        &self.rows[self.starts[item] as usize..self.starts[item + 1] as usize]
    }

    /// All rows, item after item.
    pub fn all_rows(&self) -> &[u32] {
        &self.rows
    }

    /// Whether every row is an item of its own.
    pub fn are_rows(&self) -> bool {
        self.count() == self.rows.len()
    }
}

/// Items that were made of one set of groups, kept for the next search while rows keep their numbers.
#[derive(Debug, Default)]
pub struct ItemsOnce(ArcSwapOption<(u64, Arc<Items>)>);

impl ItemsOnce {
    /// The items in a numbering of rows, made by `make` if they are not there.
    pub fn get(&self, numbering: u64, make: impl FnOnce() -> Result<Items>) -> Result<Arc<Items>> {
        if let Some(made) = self.0.load().as_ref()
            && made.0 == numbering
        {
            return Ok(made.1.clone());
        }
        let items = Arc::new(Items {
            kept: true,
            ..make()?
        });
        self.0.store(Some(Arc::new((numbering, items.clone()))));
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_have_their_rows_in_order() {
        let items = Items::new([7, -3, 7, 2, 7, 2].into());
        assert_eq!(items.count(), 3);
        let rows: Vec<&[u32]> = (0..3).map(|item| items.rows(item)).collect();
        assert_eq!(rows, [&[1][..], &[3, 5], &[0, 2, 4]]);
        assert!((0..6).all(|row| items.rows(items.item(row)).contains(&row)));
        assert!(!items.are_rows() && Items::new([3, 1].into()).are_rows());
        assert_eq!(Items::new([].into()).count(), 0);
    }
}
