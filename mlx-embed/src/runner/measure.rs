//! Passes that are measured, and what the device could do at best.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::mlx::{Array, Backend, Building, Dtype, MlxError, ops};
use crate::model::{Arithmetic, Level, Output, Part, Record, Reuse, Rows, Watch};
use crate::pooling::Before;

use super::Runner;

/// Rows and columns of the matrices whose product a GPU is asked for.
const GPU_MATRIX: i32 = 4096;
/// Products that follow each other in one graph.
const GPU_PRODUCTS: u32 = 8;
/// Numbers that a GPU is asked to read and write: 512 MiB each way, more than its caches hold.
const GPU_NUMBERS: i32 = 128 << 20;

impl Runner {
    /// Threads on the CPU.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Runs texts through some of the layers and returns the time of everything on the way. What follows the last layer
    /// is told only if that is among them.
    pub(crate) fn measure(
        &self,
        texts: &[&[u32]],
        level: Level,
        layers: Range<usize>,
    ) -> Result<Vec<Record>, Error> {
        let _turn = self.stream.turn();
        self.decoder.check_weights()?;
        let batch = self.batch(texts);
        let whole = layers.end == self.decoder.layers();
        let rows = if whole { self.pooling.rows(&batch, 0) } else { None };
        let rows = rows.as_deref().map_or(Rows::All, Rows::Selected);
        let watch = (level != Level::Model).then(|| Arc::new(Watch::new(level)));
        let building = Building::start();
        let hidden = self.decoder.forward_through(
            layers,
            &batch,
            rows,
            Reuse::Nothing,
            None,
            watch.as_ref(),
            &self.stream,
        )?;
        let host = building.host();
        let computed = building.elapsed() - host;
        let mut records = watch.map_or_else(Vec::new, |watch| watch.take());
        if !whole {
            if let Output::Array(hidden) = &hidden {
                hidden.eval()?;
            }
            records.retain(|record| record.layer.is_some());
            return Ok(records);
        }
        let behind = Instant::now();
        self.pooling.pool(hidden, &batch, &Before::default(), &self.stream)?;
        let pooled = behind.elapsed();
        let (arithmetic, layer) = (Arithmetic::F32, None);
        match level {
            Level::Operations => records.push(Record {
                parts: &[Part::Pooling],
                arithmetic,
                layer,
                host: Duration::ZERO,
                device: pooled,
            }),
            Level::Layers => {}
            Level::Model => {
                let device = computed + pooled;
                records.push(Record { parts: &[Part::Model], arithmetic, layer, host, device });
            }
        }
        Ok(records)
    }

    /// Reads and writes more than the GPU's caches hold, and returns the bytes a second.
    pub(crate) fn gpu_reading(&self) -> Result<f64, Error> {
        let _turn = self.stream.turn();
        let numbers = ops::broadcast_to(&Array::from_slice(&[1.0_f32], &[1])?, &[GPU_NUMBERS], &self.stream)?;
        let one = Array::from_slice(&[1.0_f32], &[1])?;
        let numbers = ops::add(&ops::contiguous(&numbers, &self.stream)?, &one, &self.stream)?;
        let time = self.timed(&numbers, |numbers| ops::add(numbers, &one, &self.stream))?;
        Ok(2.0 * f64::from(GPU_NUMBERS) * size_of::<f32>() as f64 / time.as_secs_f64())
    }

    /// Operations a second of large matrix products in `dtype`.
    pub(crate) fn gpu_products(&self, dtype: Dtype) -> Result<f64, Error> {
        let _turn = self.stream.turn();
        // So that products of products stay where they are.
        let value = Array::from_slice(&[1.0 / GPU_MATRIX as f32], &[1, 1])?;
        let matrix = ops::broadcast_to(&value, &[GPU_MATRIX, GPU_MATRIX], &self.stream)?;
        let matrix = ops::contiguous(&ops::astype(&matrix, dtype, &self.stream)?, &self.stream)?;
        let time = self.timed(&matrix, |x| {
            (0..GPU_PRODUCTS).try_fold(x.clone(), |x, _| ops::matmul(&x, &matrix, &self.stream))
        })?;
        let operations = 2.0 * f64::from(GPU_MATRIX).powi(3) * f64::from(GPU_PRODUCTS);
        Ok(operations / time.as_secs_f64())
    }

    /// How long the device is asked for the least that it can be asked.
    pub(crate) fn waiting(&self) -> Result<Duration, Error> {
        let _turn = self.stream.turn();
        let one = Array::from_slice(&[1.0_f32], &[1])?;
        Ok(self.timed(&one, |one| ops::add(one, one, &self.stream))?)
    }

    /// The time of computing what `build` makes of `x`.
    fn timed(
        &self,
        x: &Array,
        build: impl Fn(&Array) -> Result<Array, MlxError>,
    ) -> Result<Duration, MlxError> {
        x.eval()?;
        let result = build(x)?;
        let start = Instant::now();
        result.eval()?;
        Ok(start.elapsed())
    }

    /// Whether passes run on a GPU.
    pub(crate) fn on_gpu(&self) -> bool {
        self.stream.backend() != Backend::Cpu
    }
}
