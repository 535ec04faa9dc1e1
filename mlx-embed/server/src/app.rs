//! What every endpoint sees.

use std::fmt;
use std::sync::Arc;

use crate::config::Limits;
use crate::models::Models;

/// What every handler sees.
pub(crate) struct App {
    pub(crate) models: Arc<Models>,
    pub(crate) limits: Limits,
    pub(crate) metrics: Option<Metrics>,
    /// In seconds since 1970.
    pub(crate) started: u64,
}

/// The function that gives `/metrics` its text, such as `PrometheusHandle::render` of `metrics-exporter-prometheus`.
#[derive(Clone)]
pub struct Metrics(Arc<dyn Fn() -> String + Send + Sync>);

impl Metrics {
    /// Takes the function.
    pub fn new(render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self(Arc::new(render))
    }

    pub(crate) fn render(&self) -> String {
        (self.0)()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}
