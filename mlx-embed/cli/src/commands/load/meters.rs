//! What ran together, as the library tells it to the `metrics` facade.

use std::sync::{Arc, Mutex, PoisonError};

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SetRecorderError, SharedString,
    Unit,
};

/// How many values there were, and their sum.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    pub(super) count: u64,
    pub(super) sum: f64,
}

impl Sum {
    /// The mean, if there was any value.
    pub(super) fn mean(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }

    fn since(self, before: Self) -> Self {
        Self { count: self.count - before.count, sum: self.sum - before.sum }
    }
}

#[derive(Debug, Default)]
struct Summing(Mutex<Sum>);

impl Summing {
    fn read(&self) -> Sum {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HistogramFn for Summing {
    fn record(&self, value: f64) {
        let mut sum = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sum.count += 1;
        sum.sum += value;
    }
}

/// Batches up to now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batches {
    pub(super) texts: Sum,
    pub(super) tokens: Sum,
    pub(super) seconds: Sum,
}

impl Batches {
    /// Those that came after `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            texts: self.texts.since(before.texts),
            tokens: self.tokens.since(before.tokens),
            seconds: self.seconds.since(before.seconds),
        }
    }
}

/// Sums of the library's histograms of batches; its other metrics go nowhere.
#[derive(Debug, Clone, Default)]
pub(super) struct Meters {
    texts: Arc<Summing>,
    tokens: Arc<Summing>,
    seconds: Arc<Summing>,
}

impl Meters {
    /// Meters of every model that is loaded from now on.
    pub(super) fn install() -> Result<Self, SetRecorderError<Self>> {
        let meters = Self::default();
        metrics::set_global_recorder(meters.clone())?;
        Ok(meters)
    }

    pub(super) fn batches(&self) -> Batches {
        Batches { texts: self.texts.read(), tokens: self.tokens.read(), seconds: self.seconds.read() }
    }
}

impl Recorder for Meters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let summing = match key.name() {
            "mlx_embed_batch_texts" => &self.texts,
            "mlx_embed_batch_tokens" => &self.tokens,
            "mlx_embed_batch_duration_seconds" => &self.seconds,
            _ => return Histogram::noop(),
        };
        Histogram::from_arc(Arc::clone(summing))
    }
}
