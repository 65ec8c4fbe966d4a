//! Named points at which a crash campaign kills the process.
//!
//! With the feature `failpoints`, `FAILPOINTS="commit::before_commit=return"` (or `5*off->return` for the sixth time)
//! ends the process at that point without a word, as a power cut would. Without the feature nothing is left of them.

/// Every point, in the order in which a commit or a job passes them.
pub const FAILPOINTS: &[&str] = &[
    "stage::after_file_write",
    "stage::after_file_fsync",
    "commit::after_folder_fsync",
    "commit::transaction_begun",
    "commit::ground_stands",
    "commit::rows_inserted",
    "commit::before_commit",
    "commit::after_commit",
    "flush::file_written",
    "flush::before_commit",
    "flush::after_commit",
    "settle::before_commit",
    "settle::after_commit",
    "merge::file_written",
    "merge::before_commit",
    "merge::after_commit",
    "expire::before_commit",
    "expire::after_commit",
    "orphans::file_removed",
    "checkpoint::before",
];

/// Reads `FAILPOINTS` from the environment, once a process.
#[cfg(feature = "failpoints")]
pub(crate) fn arm() {
    static ARMED: std::sync::Once = std::sync::Once::new();
    // The scenario disarms every point when it is dropped: it is kept for as long as the process lives.
    ARMED.call_once(|| std::mem::forget(fail::FailScenario::setup()));
}

/// Reads nothing, without the feature.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn arm() {}

/// Passes the point `name`: with the feature on and the point armed, the process ends here.
#[cfg(feature = "failpoints")]
pub(crate) fn pass(name: &'static str) {
    fail::fail_point!(name, |_| std::process::abort());
}

/// Passes the point `name`: nothing, without the feature.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn pass(_name: &'static str) {}
