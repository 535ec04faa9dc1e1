//! What Ballista tells, on stderr.

/// `RUST_LOG` chooses what.
pub(crate) fn to_stderr() {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
}
