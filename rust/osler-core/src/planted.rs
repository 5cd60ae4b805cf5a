//! Bugs that tests plant, one at a time, to show that a harness would see them. In a build for use there are none.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// A new file is not synced.
    FileNotSynced,
    /// A folder is not synced after files got their names in it.
    FolderNotSynced,
    /// The folder of manifests is not synced.
    ManifestsNotSynced,
    /// The manifest is published before the files that it lists have their names.
    PublishedFirst,
    /// A commit uses the number of the last one again, in the place of its manifest.
    NumberUsedAgain,
    /// Damage of a block is not noticed.
    ChecksumIgnored,
    /// The writer goes on after a failed write.
    NotPoisoned,
    /// A damaged manifest is passed over for an older one.
    OlderManifest,
    /// Files that a reader still holds are removed.
    LeaseIgnored,
    /// What a writer left unfinished stays.
    NotSwept,
    /// What only an earlier state lists stays after it was erased.
    OldStateKept,
    /// After deletes the graph's rows are not joined again.
    RepairLeftOut,
    /// Memory is taken for as many rows as a file states, with room for more.
    RowsTrusted,
    /// The key of a collection's pseudonyms is not made durable before they are.
    KeyNotSynced,
}

#[cfg(any(test, feature = "testing"))]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// One more than the bug that is planted in all threads.
#[cfg(any(test, feature = "testing"))]
static EVERYWHERE: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Plants a bug in all threads, or takes it away.
#[cfg(any(test, feature = "testing"))]
pub fn plant_everywhere(bug: Option<Bug>) {
    let number = bug.map_or(0, |bug| bug as u8 + 1);
    EVERYWHERE.store(number, std::sync::atomic::Ordering::SeqCst);
}

/// All bugs.
pub const ALL: [Bug; 14] = [
    Bug::FileNotSynced,
    Bug::FolderNotSynced,
    Bug::ManifestsNotSynced,
    Bug::PublishedFirst,
    Bug::NumberUsedAgain,
    Bug::ChecksumIgnored,
    Bug::NotPoisoned,
    Bug::OlderManifest,
    Bug::LeaseIgnored,
    Bug::NotSwept,
    Bug::OldStateKept,
    Bug::RepairLeftOut,
    Bug::RowsTrusted,
    Bug::KeyNotSynced,
];

/// Plants a bug in this thread, or takes it away.
#[cfg(any(test, feature = "testing"))]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether a bug is planted in this thread.
#[inline]
pub fn planted(bug: Bug) -> bool {
    #[cfg(any(test, feature = "testing"))]
    return PLANTED.get() == Some(bug)
        || EVERYWHERE.load(std::sync::atomic::Ordering::Relaxed) == bug as u8 + 1;
    #[cfg(not(any(test, feature = "testing")))]
    {
        let _ = bug;
        false
    }
}
