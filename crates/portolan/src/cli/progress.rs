//! A bar on the standard error of a terminal while long work goes on; nothing otherwise.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The time from one sign of life to the next.
const TICK: Duration = Duration::from_millis(120);
/// Items after which a bar over many of them is told anew.
pub(crate) const ITEMS: u64 = 1_000;

/// The bar.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar over bytes.
    pub(crate) fn bytes() -> Self {
        Self::new("{msg:20!} {wide_bar} {bytes}/{total_bytes} {eta}")
    }

    /// A line that tells what goes on.
    pub(crate) fn text() -> Self {
        Self::new("{spinner} {msg}")
    }

    fn new(template: &str) -> Self {
        let target = match std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(style);
        Self(bar)
    }

    /// Whether there is a terminal that shows it.
    pub(crate) fn is_seen(&self) -> bool {
        !self.0.is_hidden()
    }

    /// Shows by itself that the work goes on, where nothing can be told of it for long.
    pub(crate) fn keep_moving(&self) {
        if self.is_seen() {
            self.0.enable_steady_tick(TICK);
        }
    }

    /// Shows how far the work is.
    pub(crate) fn show(&self, what: &str, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_message(what.to_owned());
        self.0.set_position(done);
    }

    /// Tells what goes on.
    pub(crate) fn tell(&self, what: impl Into<String>) {
        self.0.set_message(what.into());
        self.0.tick();
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }

    /// Takes the bar away for good.
    pub(crate) fn end(self) {}
}

impl Drop for Progress {
    /// Also where the work failed: nothing of the bar stays beside the message.
    fn drop(&mut self) {
        self.clear();
    }
}
