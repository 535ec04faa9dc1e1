//! A progress bar for long input, for people only.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::error::CliError;

/// Texts in a first window that are too few to be worth a bar.
const FEW: usize = 32;

/// A progress bar that shows up once the input turns out to be long.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    /// Bytes of the whole input, where known and not shown yet.
    total: Option<u64>,
    wanted: bool,
}

impl Progress {
    /// `to_terminal` says that results go to a terminal, where a bar would mix with them.
    pub(crate) fn new(quiet: bool, to_terminal: bool, total: Option<u64>) -> Self {
        Self { bar: None, total, wanted: !quiet && !to_terminal && io::stderr().is_terminal() }
    }

    /// Before a window of `texts` texts is worked on, with `done` behind it.
    pub(crate) fn start_window(&mut self, texts: usize, done: usize) {
        if self.wanted && self.bar.is_none() && (texts > FEW || (done > 0 && texts > 0)) {
            self.bar = Some(spinner(texts));
        }
    }

    /// After a window: texts done, and bytes of the input read.
    pub(crate) fn update(&mut self, done: usize, read: u64) {
        let Some(bar) = &self.bar else { return };
        if let Some(total) = self.total.take() {
            // Only now is there a pace to tell the rest from.
            bar.set_length(total);
            set_style(bar, "[{wide_bar}] {percent:>3} %  {msg}  {elapsed} elapsed, {eta} left");
        }
        bar.set_message(format!("{done} texts"));
        bar.set_position(read);
    }

    /// Tells what is wrong with texts that are skipped, above the bar.
    pub(crate) fn say(&self, skipped: &[CliError]) {
        let say = || {
            for error in skipped {
                // With stderr closed there is nobody left to tell.
                let _ = writeln!(io::stderr(), "skipped: {error}");
            }
        };
        match &self.bar {
            Some(bar) => bar.suspend(say),
            None => say(),
        }
    }

    /// Removes the bar, so that what follows on stderr stands alone.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn spinner(texts: usize) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_finish(ProgressFinish::AndClear);
    set_style(&bar, "{spinner} {msg}  {elapsed} elapsed");
    bar.set_message(format!("the first {texts} texts"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

pub(crate) fn set_style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
}
