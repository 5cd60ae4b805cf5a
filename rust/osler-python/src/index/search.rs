//! Searches of `_native.Index`.

use osler_core::items::ItemAsk;
use osler_core::parts::Score;
use osler_core::query::Ask;
use pyo3::prelude::*;

use super::Index;
use crate::arrays::Whole;
use crate::results::{Found, FoundItems, Pairs};
use crate::{arrays, enter, options};

#[pymethods]
impl Index {
    /// Find the nearest vectors.
    ///
    /// Parameters
    /// ----------
    /// queries : array of shape (m, dim) or (dim,)
    /// k : int
    ///     Hits wanted; fewer are a normal answer.
    /// recall : float
    ///     Share of the exact answer wanted, in (0, 1]; 1 means exact.
    /// ef : int, optional
    ///     Width of the beam instead of the measured one, for experts.
    /// filter : array of bool aligned with `keys`, array of allowed keys, or Bitmap, optional
    ///     Unknown keys are ignored.
    /// groups : array of int64 aligned with `keys`, or Groups, optional
    ///     At most `group_size` hits come from a group.
    /// group_size : int or None
    ///     None: no limit.
    /// exclude_groups : array of int64 of shape (m,), optional
    ///     The group in `exclude_by`, or in `groups`, whose members each query does not get; -1: none.
    /// exclude_by : array of int64 aligned with `keys`, or Groups, optional
    /// exact : bool
    ///     Score every vector.
    /// threads : int, optional
    ///     A single query runs on the caller's thread.
    ///
    /// Returns
    /// -------
    /// Found
    ///     ``keys`` uint64 (m, k), ``scores`` float32 (m, k) descending, ``counts`` int64 (m,): how many are real; the
    ///     rest are key 2**64-1 and score -inf. A query of shape (dim,) gives (k,), (k,) and an int.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     For shapes, values that are not finite, k < 1, and a mask or groups of another length.
    /// CorruptIndexError
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler
    /// >>> index = osler.Index.build(np.eye(4, dtype=np.float32))
    /// >>> index.search(np.eye(4, dtype=np.float32)[:2], k=1).keys
    /// array([[0],
    ///        [1]], dtype=uint64)
    /// >>> index.search(np.ones(4, dtype=np.float32), k=3, filter=[2, 3]).counts
    /// 2
    #[pyo3(signature = (queries, k=Whole(10), *, recall=0.95, ef=None, filter=None, groups=None, group_size=Some(Whole(1)),
                        exclude_groups=None, exclude_by=None, exact=false, threads=None),
           text_signature = "($self, queries, k=10, *, recall=0.95, ef=None, filter=None, groups=None, group_size=1, exclude_groups=None, exclude_by=None, exact=False, threads=None)")]
    #[allow(clippy::too_many_arguments, reason = "the public signature")]
    fn search<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        k: Whole,
        recall: f32,
        ef: Option<Whole>,
        filter: Option<&Bound<'py, PyAny>>,
        groups: Option<&Bound<'py, PyAny>>,
        group_size: Option<Whole>,
        exclude_groups: Option<&Bound<'py, PyAny>>,
        exclude_by: Option<&Bound<'py, PyAny>>,
        exact: bool,
        threads: Option<Whole>,
    ) -> PyResult<Found> {
        let state = self.engine.snapshot();
        let mut matrix = arrays::matrix(queries, "queries", Some(state.params.dim), true)?;
        let k = arrays::positive("k", &k)?;
        let ef = ef.map(|ef| arrays::positive("ef", &ef)).transpose()?;
        let group_size = group_size
            .map(|size| arrays::positive("group_size", &size))
            .transpose()?;
        let allowed = options::filter(&self.engine, py, &state, filter)?;
        let groups = options::grouping(&self.engine, py, &state, groups, "groups")?;
        let exclude_by = options::grouping(&self.engine, py, &state, exclude_by, "exclude_by")?;
        let excluded = exclude_groups
            .map(|ids| arrays::ids(ids, "exclude_groups"))
            .transpose()?;
        let exclude = options::excluded(
            excluded.as_deref(),
            exclude_by.as_deref(),
            groups.as_deref(),
            matrix.rows,
        )?;
        let limit = match (&groups, group_size) {
            (Some(groups), Some(size)) => Some((&groups[..], size)),
            _ => None,
        };
        let ask = Ask {
            k,
            recall,
            ef,
            exact,
            allowed: allowed.as_deref(),
            limit,
            exclude,
        };
        let size = self
            .engine
            .cost_of_search(matrix.rows, exact || recall >= 1.0);
        let threads = match (threads, matrix.rows) {
            (None, 1) => 1,
            _ => arrays::threads(threads)?,
        };
        let answers = options::run(py, size, None, |control| {
            self.engine.prepare(&mut matrix.values)?;
            self.engine
                .search(&state, &matrix.values, ask, threads, control)
        })?;
        Found::new(py, answers, matrix.rows, k, matrix.single)
    }

    /// Find the nearest items, whose parts are vectors, for one vector or for a set of them.
    ///
    /// Parameters
    /// ----------
    /// queries : array of shape (dim,) or (q, dim)
    ///     One query of one or of q vectors; with `offsets`, the vectors of several queries.
    /// items : array of int64 aligned with `keys`, or Groups
    ///     The item of which each vector is a part. Groups are prepared once for many searches.
    /// k : int
    ///     Items wanted; fewer are a normal answer.
    /// score : {"max", "mean", "sum", "count", "maxsim", "median_min"}
    ///     How an item is scored from its parts. ``max``: the best part. ``mean``, ``sum``: over its parts. ``count``: how
    ///     many of its parts are among the 20 nearest vectors (as in 3D-MIR). Under these a query of several vectors
    ///     takes the best vector's value, and ``count`` adds theirs up. ``maxsim``: the sum over the query's vectors of the
    ///     best part for each (ColBERT). ``median_min``: the median over them (as in Yottixel; the mean of the middle two
    ///     if there is an even number).
    /// offsets : array of int64 of shape (m + 1,), optional
    ///     Query i has the vectors ``queries[offsets[i]:offsets[i + 1]]``, at least one.
    /// recall : float
    ///     Share of the exact answer wanted, in (0, 1]; 1 means exact.
    /// filter : as for `search`, optional
    ///     The vectors that count as parts. An item without one is not found.
    /// groups : array of int64 aligned with `keys`, or Groups, optional
    ///     At most `group_size` items come from a group; all parts of an item must be of one group.
    /// group_size : int or None
    ///     None: no limit.
    /// exclude_groups : array of int64 of shape (m,), optional
    ///     The group in `exclude_by`, or in `groups`, or in `items`, whose members do not count for each query; -1: none.
    /// exclude_by : array of int64 aligned with `keys`, or Groups, optional
    /// exact : bool
    ///     Score every part.
    /// threads : int, optional
    ///     A single query runs on the caller's thread.
    ///
    /// Returns
    /// -------
    /// FoundItems
    ///     ``items`` int64 (m, k), ``scores`` float32 (m, k) descending, ``parts`` uint64 (m, k): the key of the part that
    ///     any vector of the query matches best, ``counts`` int64 (m,): how many are real; the rest are item -1, score -inf
    ///     and part 2**64-1. Without `offsets`, (k,), (k,), (k,) and an int. Of equal scores the item with the better best
    ///     part comes first, then the one whose best part was added first.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     As for `search`, and for offsets that do not split `queries`.
    ///
    /// Notes
    /// -----
    /// Below 2,000 vectors, with ``exact`` and with ``recall=1`` the answer is that of brute force; for ``mean`` and
    /// ``sum`` it always is, and where `items` are prepared groups of four vectors or more on average the items' mean
    /// vectors, kept with them, tell which few have to be scored. Else ``max`` is the grouped search, and ``count`` takes
    /// the 20 nearest vectors from the graph. For ``maxsim`` and ``median_min`` the graph gives, for each vector of the
    /// query, the items with the nearest parts, which are scored exactly. If no other item can reach the k-th of them (the
    /// bound of the threshold algorithm, Fagin et al. 2001) the answer is as good as those lists. If that cannot be said,
    /// the lists are doubled until that changes no more of the best max(k, 20) items than half of what `recall` allows to miss,
    /// which is an estimate and no proof; and where that would cost more than scoring every part, every part is scored.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler
    /// >>> index = osler.Index.build(np.array([[1, 0], [0, 1], [1, 1], [1, 2]], dtype=np.float32), metric="dot")
    /// >>> volumes = index.groups([70, 70, 80, 80])
    /// >>> slices = np.array([[1, 0], [0, 1]], dtype=np.float32)
    /// >>> found = index.search_items(slices, volumes, k=2, score="maxsim")
    /// >>> found.items, found.scores, found.parts
    /// (array([80, 70]), array([3., 2.], dtype=float32), array([3, 0], dtype=uint64))
    /// >>> index.search_items(slices, volumes, k=1, score="mean", offsets=[0, 1, 2]).scores
    /// array([[1. ],
    ///        [1.5]], dtype=float32)
    #[pyo3(signature = (queries, items, k=Whole(10), *, score="max", offsets=None, recall=0.95, filter=None, groups=None,
                        group_size=Some(Whole(1)), exclude_groups=None, exclude_by=None, exact=false, threads=None),
           text_signature = "($self, queries, items, k=10, *, score='max', offsets=None, recall=0.95, filter=None, groups=None, group_size=1, exclude_groups=None, exclude_by=None, exact=False, threads=None)")]
    #[allow(clippy::too_many_arguments, reason = "the public signature")]
    fn search_items<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        items: &Bound<'py, PyAny>,
        k: Whole,
        score: &str,
        offsets: Option<&Bound<'py, PyAny>>,
        recall: f32,
        filter: Option<&Bound<'py, PyAny>>,
        groups: Option<&Bound<'py, PyAny>>,
        group_size: Option<Whole>,
        exclude_groups: Option<&Bound<'py, PyAny>>,
        exclude_by: Option<&Bound<'py, PyAny>>,
        exact: bool,
        threads: Option<Whole>,
    ) -> PyResult<FoundItems> {
        let state = self.engine.snapshot();
        let mut matrix = arrays::matrix(queries, "queries", Some(state.params.dim), true)?;
        let offsets = offsets
            .map(|offsets| arrays::offsets(offsets, "offsets"))
            .transpose()?;
        let single = offsets.is_none();
        let offsets = offsets.unwrap_or_else(|| vec![0, matrix.rows]);
        let k = arrays::positive("k", &k)?;
        let score = enter::quick(py, || Score::parse(score))?;
        let group_size = group_size
            .map(|size| arrays::positive("group_size", &size))
            .transpose()?;
        let allowed = options::filter(&self.engine, py, &state, filter)?;
        let items = options::items(&self.engine, py, &state, items)?;
        let groups = options::grouping(&self.engine, py, &state, groups, "groups")?;
        let exclude_by = options::grouping(&self.engine, py, &state, exclude_by, "exclude_by")?;
        let excluded = exclude_groups
            .map(|ids| arrays::ids(ids, "exclude_groups"))
            .transpose()?;
        let exclude = options::excluded(
            excluded.as_deref(),
            exclude_by.as_deref(),
            groups.as_deref().or(Some(items.of_row())),
            offsets.len().saturating_sub(1),
        )?;
        let ask = ItemAsk {
            k,
            score,
            recall,
            exact,
            allowed: allowed.as_deref(),
            items: &items,
            limit: groups.as_deref().zip(group_size),
            exclude,
        };
        let whole = exact || recall >= 1.0 || !matches!(score, Score::Max | Score::Count);
        let size = self.engine.cost_of_search(matrix.rows, whole);
        let threads = match (threads, offsets.len()) {
            (None, 2) => 1,
            _ => arrays::threads(threads)?,
        };
        let answers = options::run(py, size, None, |control| {
            self.engine.prepare(&mut matrix.values)?;
            self.engine
                .search_items(&state, &matrix.values, &offsets, ask, threads, control)
        })?;
        FoundItems::new(py, answers, k, single)
    }

    /// Find every vector at or above a score.
    ///
    /// Parameters
    /// ----------
    /// queries : array of shape (m, dim) or (dim,)
    /// threshold : float
    ///     The lowest score to return.
    /// filter : as for `search`, optional
    /// threads : int, optional
    ///
    /// Returns
    /// -------
    /// Pairs
    ///     ``keys`` uint64 and ``scores`` float32, query after query, best first; query i has the entries
    ///     ``offsets[i]:offsets[i + 1]``.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler
    /// >>> index = osler.Index.build(np.eye(3, dtype=np.float32))
    /// >>> pairs = index.search_range(np.array([[1, 1, 0]], dtype=np.float32), 0.5)
    /// >>> pairs.keys, pairs.offsets
    /// (array([0, 1], dtype=uint64), array([0, 2]))
    #[pyo3(signature = (queries, threshold, *, filter=None, threads=None))]
    fn search_range<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        threshold: f32,
        filter: Option<&Bound<'py, PyAny>>,
        threads: Option<Whole>,
    ) -> PyResult<Pairs> {
        let state = self.engine.snapshot();
        let mut matrix = arrays::matrix(queries, "queries", Some(state.params.dim), true)?;
        let allowed = options::filter(&self.engine, py, &state, filter)?;
        let threads = arrays::threads(threads)?;
        let found = enter::long(py, None, |control| {
            self.engine.prepare(&mut matrix.values)?;
            self.engine.search_range(
                &state,
                &matrix.values,
                threshold,
                allowed.as_deref(),
                threads,
                control,
            )
        })?;
        Ok(Pairs::new(py, found))
    }
}
