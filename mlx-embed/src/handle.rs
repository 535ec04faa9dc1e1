//! What all public handles have: loading, what they are made of, and their end.

/// The methods of a handle, a struct with a field `shared`. `$open` opens a directory's checkpoint for it, and `$of` is how
/// its documentation calls what it is asked for.
macro_rules! handle {
    ($name:ident, $open:expr, $of:literal) => {
        /// Loading.
        impl $name {
            fn open(dir: &std::path::Path) -> Result<crate::checkpoint::Checkpoint, crate::CheckpointError> {
                $open(dir)
            }

            fn of_checkpoint(
                checkpoint: crate::checkpoint::Checkpoint,
                options: &crate::LoadOptions,
                steps: std::sync::Arc<crate::loading::Steps>,
            ) -> Result<Self, crate::Error> {
                let shared = crate::loading::load(checkpoint, options, steps)?;
                Ok(Self { shared: std::sync::Arc::new(shared) })
            }

            #[doc = concat!("Loads the model that a hub has under this name, `owner/name` or `owner/name@revision`, as [`", stringify!($name), "::load`] loads")]
            /// a directory. [`hub::Hub`](crate::hub::Hub) says what is fetched and where it is kept.
            ///
            /// ```no_run
            #[doc = concat!("let model = mlx_embed::", stringify!($name), "::from_hub(\"owner/name\")?;")]
            /// # Ok::<(), mlx_embed::Error>(())
            /// ```
            ///
            /// # Errors
            #[doc = concat!("As [`", stringify!($name), "::load`]; also when the model can't be fetched.")]
            #[cfg(feature = "hub")]
            pub fn from_hub(name: &str) -> Result<Self, crate::Error> {
                Self::load(crate::hub::fetch(name)?)
            }

            #[doc = concat!("As [`", stringify!($name), "::load_with`], on a thread of its own. The result tells how much is loaded.")]
            ///
            /// ```no_run
            #[doc = concat!("use mlx_embed::{LoadOptions, ", stringify!($name), "};")]
            ///
            #[doc = concat!("let loading = ", stringify!($name), "::load_in_background(\"path/to/model\", LoadOptions::default());")]
            /// while !loading.is_done() {
            ///     let progress = loading.progress();
            ///     println!("{} of {} layers", progress.layers, progress.of);
            ///     std::thread::sleep(std::time::Duration::from_millis(100));
            /// }
            /// let model = loading.wait()?;
            /// # Ok::<(), mlx_embed::Error>(())
            /// ```
            pub fn load_in_background(
                dir: impl Into<std::path::PathBuf>,
                options: crate::LoadOptions,
            ) -> crate::Loading<Self> {
                let dir = dir.into();
                crate::Loading::start(move |steps| Self::of_checkpoint(Self::open(&dir)?, &options, steps))
            }
        }

        /// What it is, and its end.
        impl $name {
            /// What it is made of: geometry, device, limits, and how results are made.
            pub fn info(&self) -> &crate::Info {
                &self.shared.info
            }

            /// Whether it still works.
            pub fn state(&self) -> crate::State {
                self.shared.engine.state()
            }

            #[doc = concat!("How many ", $of, " wait, in the query lane and in the bulk lane. Each counts from the call until it runs.")]
            pub fn queued(&self) -> [usize; 2] {
                self.shared.engine.queued()
            }

            /// The SHA-256 of each weights file, by name: as `sha256sum` prints it, and as model hubs show it. The files
            /// are read through, which takes about a second a gigabyte. They are the files in use, also where others have
            /// taken their names since.
            ///
            /// # Errors
            /// When a file was written to since it was loaded, or can't be read any more.
            pub fn weights_sha256(&self) -> Result<Vec<(String, String)>, crate::Error> {
                self.shared.weights_sha256()
            }

            /// Runs batches of the shapes that requests will make, so that the first requests find kernels compiled, memory
            /// at hand and weights read. Returns what ran and how long it took, the first time and the second.
            ///
            /// # Errors
            /// When the model fails.
            pub fn warm_up(&self) -> Result<Vec<crate::WarmUp>, crate::Error> {
                self.shared.warm_up()
            }

            /// Takes no more requests, on this handle or any other, and returns when the model is freed. Meant for a thread
            /// that may block.
            pub fn shut_down(&self, queued: crate::Shutdown) {
                self.shared.shut_down(queued);
            }

            pub(crate) fn shared(&self) -> &std::sync::Arc<crate::request::Shared> {
                &self.shared
            }
        }
    };
}

pub(crate) use handle;
