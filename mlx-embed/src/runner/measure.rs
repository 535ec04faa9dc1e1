//! Passes that are measured, and what the device could do at best.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::mlx::{self, Array, Building, Dtype, MlxError, Stream, ops};
use crate::model::{KvCache, Rows};
use crate::pooling::Before;
use crate::watch::{Arithmetic, Level, Measurable, Part, Record, Watched};

use super::Runner;

/// Rows and columns of the matrices whose product a GPU is asked for.
const GPU_MATRIX: i32 = 4096;
/// Products that follow each other in one graph.
const GPU_PRODUCTS: u32 = 8;
/// Numbers that a GPU is asked to read and write: 512 MiB each way, more than its caches hold.
const GPU_NUMBERS: i32 = 128 << 20;

/// A model whose passes and device are measured.
pub(crate) trait Measured {
    /// Threads on the CPU.
    fn threads(&self) -> usize;

    /// Whether passes run on a GPU.
    fn on_gpu(&self) -> bool;

    /// Runs texts through some of the layers and returns the time of everything on the way. What follows the last layer
    /// is told only if that is among them.
    fn measure(&self, texts: &[&[u32]], level: Level, layers: Range<usize>) -> Result<Vec<Record>, Error>;

    /// Reads and writes more than the GPU's caches hold, and returns the bytes a second.
    fn gpu_reading(&self) -> Result<f64, Error>;

    /// Operations a second of large matrix products in `dtype`.
    fn gpu_products(&self, dtype: Dtype) -> Result<f64, Error>;

    /// How long MLX's device takes for the least that it can be asked; nothing where the model doesn't use it.
    fn waiting(&self) -> Result<Duration, Error>;
}

impl<B: Measurable> Measured for Runner<B> {
    fn threads(&self) -> usize {
        self.threads
    }

    fn on_gpu(&self) -> bool {
        self.decoder.backend().stream().is_some_and(|stream| stream.backend() != mlx::Backend::Cpu)
    }

    fn measure(&self, texts: &[&[u32]], level: Level, layers: Range<usize>) -> Result<Vec<Record>, Error> {
        let _turn = self.turn();
        self.decoder.check_weights()?;
        let batch = self.batch(texts);
        let backend = self.decoder.backend();
        let whole = layers.end == self.decoder.layers();
        let record =
            |parts, host, device| Record { parts, arithmetic: Arithmetic::F32, layer: None, host, device };
        if whole && level == Level::Model {
            let building = Building::start();
            self.decoder.pooled(&batch, self.pooling, KvCache::None, Before::default())?;
            let host = if B::DEFERS { building.host() } else { Duration::ZERO };
            return Ok(vec![record(&[Part::Model], host, building.elapsed().saturating_sub(host))]);
        }
        let rows = if whole { self.pooling.rows(&batch, 0) } else { None };
        let rows = rows.as_deref().map_or(Rows::All, Rows::Selected);
        let watched = Watched::new(backend, &self.spec, level, layers.start);
        let hidden = self.decoder.forward_with(&watched, layers, &batch, rows, KvCache::None, None)?;
        let mut records = watched.into_records();
        if !whole {
            records.retain(|record| record.layer.is_some());
            return Ok(records);
        }
        let start = Instant::now();
        self.pooling.pool(hidden, &batch, Before::default());
        if level == Level::Operations {
            records.push(record(&[Part::Pooling], Duration::ZERO, start.elapsed()));
        }
        Ok(records)
    }

    fn gpu_reading(&self) -> Result<f64, Error> {
        let _turn = self.turn();
        let stream = self.mlx()?;
        let numbers = ops::broadcast_to(&Array::from_slice(&[1.0_f32], &[1])?, &[GPU_NUMBERS], stream)?;
        let one = Array::from_slice(&[1.0_f32], &[1])?;
        let numbers = ops::add(&ops::contiguous(&numbers, stream)?, &one, stream)?;
        let time = timed(&numbers, |numbers| ops::add(numbers, &one, stream))?;
        Ok(2.0 * f64::from(GPU_NUMBERS) * size_of::<f32>() as f64 / time.as_secs_f64())
    }

    fn gpu_products(&self, dtype: Dtype) -> Result<f64, Error> {
        let _turn = self.turn();
        let stream = self.mlx()?;
        // So that products of products stay where they are.
        let value = Array::from_slice(&[1.0 / GPU_MATRIX as f32], &[1, 1])?;
        let matrix = ops::broadcast_to(&value, &[GPU_MATRIX, GPU_MATRIX], stream)?;
        let matrix = ops::contiguous(&ops::astype(&matrix, dtype, stream)?, stream)?;
        let time = timed(&matrix, |x| {
            (0..GPU_PRODUCTS).try_fold(x.clone(), |x, _| ops::matmul(&x, &matrix, stream))
        })?;
        let operations = 2.0 * f64::from(GPU_MATRIX).powi(3) * f64::from(GPU_PRODUCTS);
        Ok(operations / time.as_secs_f64())
    }

    fn waiting(&self) -> Result<Duration, Error> {
        let Some(stream) = self.decoder.backend().stream() else { return Ok(Duration::ZERO) };
        let _turn = self.turn();
        let one = Array::from_slice(&[1.0_f32], &[1])?;
        Ok(timed(&one, |one| ops::add(one, one, stream))?)
    }
}

impl<B: Measurable> Runner<B> {
    fn mlx(&self) -> Result<&Stream, Error> {
        let none =
            || Error::Stopped { reason: "it runs without MLX, whose device was to be measured".into() };
        self.decoder.backend().stream().ok_or_else(none)
    }
}

/// The time of computing what `build` makes of `x`.
fn timed(x: &Array, build: impl Fn(&Array) -> Result<Array, MlxError>) -> Result<Duration, MlxError> {
    x.eval()?;
    let result = build(x)?;
    let start = Instant::now();
    result.eval()?;
    Ok(start.elapsed())
}
