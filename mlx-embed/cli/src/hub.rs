//! Models by name, with a progress bar while they come.

use std::path::{Path, PathBuf};

use crate::error::CliError;

/// The directory of a model, which is fetched if `model` is a hub's name for it and no path.
#[cfg(not(feature = "hub"))]
pub(crate) fn find(model: &Path, _: bool) -> Result<PathBuf, CliError> {
    Ok(model.to_owned())
}

/// The directory of a model, which is fetched if `model` is a hub's name for it and no path.
#[cfg(feature = "hub")]
pub(crate) fn find(model: &Path, quiet: bool) -> Result<PathBuf, CliError> {
    let bar = bar::Bar::new(quiet);
    let found = mlx_embed::hub::find(model, bar.watcher());
    bar.clear();
    Ok(found.map_err(mlx_embed::Error::from)?)
}

#[cfg(feature = "hub")]
pub(crate) mod bar {
    use std::io::{self, IsTerminal};

    use indicatif::ProgressBar;
    use mlx_embed::hub::Progress;

    use crate::notes::Notes;
    use crate::progress::set_style;

    /// How far a model is; what people should know besides is said above it.
    #[derive(Debug)]
    pub(crate) struct Bar {
        bar: ProgressBar,
        notes: Notes,
    }

    impl Bar {
        pub(crate) fn new(quiet: bool) -> Self {
            let notes = Notes::new(quiet);
            if quiet || !io::stderr().is_terminal() {
                return Self { bar: ProgressBar::hidden(), notes };
            }
            let bar = ProgressBar::new(0);
            let template = "[{wide_bar}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left  {msg}";
            set_style(&bar, template);
            Self { bar, notes }
        }

        /// What a hub is to tell.
        pub(crate) fn watcher(&self) -> impl Fn(Progress<'_>) + Send + Sync + 'static + use<> {
            let (bar, notes) = (self.bar.clone(), self.notes);
            move |progress| match progress {
                Progress::Fetching { file, done, of } => {
                    bar.set_length(of);
                    bar.set_position(done);
                    bar.set_message(file.to_owned());
                }
                Progress::Waiting { file } => {
                    bar.suspend(|| notes.say(&format!("another program fetches {file}; waiting for it")));
                }
                Progress::Retrying { reason, seconds } => {
                    bar.suspend(|| notes.say(&format!("{reason}; asking again in {seconds} s")));
                }
                Progress::FromCache { reason } => {
                    bar.suspend(|| notes.say(&format!("the model is taken as it is in the cache: {reason}")));
                }
                _ => {}
            }
        }

        pub(crate) fn clear(&self) {
            self.bar.finish_and_clear();
        }
    }
}
