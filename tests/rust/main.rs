//! The engine's claims, a module each, in one binary.
#![allow(
    missing_docs,
    clippy::print_stdout,
    reason = "tests, which print their seeds and what they measured"
)]

mod a_commit_is_all_or_nothing;
mod a_key_is_made_once;
mod a_save_is_all_or_nothing;
mod clustered;
mod directories;
mod graph_stays_whole;
mod partition_links_every_row;
mod recall_is_what_was_measured;
mod recovering_leaves_one_state;
mod same_bytes_at_any_thread_count;
mod snapshots_do_not_move;
mod what_was_erased_is_gone;
