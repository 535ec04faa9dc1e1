//! The model on one thread: token ids in, pooled vectors out.

mod prefix;
#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::batch::Batch;
use crate::checkpoint::Checkpoint;
use crate::engine::Model;
use crate::error::{Error, InputError};
use crate::kernels::{Engine, Family, KEYS_AT_ONCE};
use crate::loading::Steps;
use crate::mlx::{self, Array, Backend, Dtype, Stream, memory, ops};
use crate::model::{Decoder, Kernels, KeysValues, LEAST_REUSED, Precision, Reuse, Rows};
use crate::pooling::{Before, Pooling};

pub(crate) use prefix::Prefix;

/// Where the model runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// The GPU if this build and this machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU; loading fails where there is none.
    Gpu,
}

impl Device {
    /// What runs the model on this machine.
    pub(crate) fn backend(self) -> Result<Backend, Error> {
        match self {
            // Without a look for GPUs, which wakes their driver.
            Self::Cpu => Ok(Backend::Cpu),
            Self::Auto => Ok(mlx::gpu_backend().unwrap_or(Backend::Cpu)),
            Self::Gpu => mlx::gpu_backend().ok_or_else(|| Error::Option {
                option: "device",
                reason: "is gpu, but this build of MLX finds no GPU that it can use; use the CPU".into(),
            }),
        }
    }
}

/// What the runner needs to know besides the checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct RunnerOptions {
    pub(crate) backend: Backend,
    pub(crate) threads: Option<NonZeroUsize>,
    /// The family of kernels for the CPU, if not MLX's own operations.
    pub(crate) family: Option<&'static Family>,
    pub(crate) precision: Precision,
    pub(crate) pooling: Pooling,
    pub(crate) cache_limit: usize,
    pub(crate) memory_limit: Option<usize>,
}

/// A decoder on its stream. Belongs to the thread that made it.
#[derive(Debug)]
pub(crate) struct Runner {
    decoder: Decoder,
    stream: Stream,
    pooling: Pooling,
    hidden: usize,
    prefix_bytes_per_token: usize,
}

impl Runner {
    /// Loads the model, and tells `steps` of each layer.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        options: &RunnerOptions,
        steps: &Steps,
    ) -> Result<Self, Error> {
        let stream = Stream::new(options.backend)?;
        let _turn = stream.turn();
        if let Some(threads) = options.threads {
            mlx::set_blas_threads(threads.get())?;
        }
        memory::set_cache_limit(options.cache_limit)?;
        if let Some(bytes) = options.memory_limit {
            memory::set_limit(bytes)?;
        }
        let config = checkpoint.config();
        let kernels = match options.family {
            Some(family) => {
                let threads = options.threads.map_or_else(default_threads, NonZeroUsize::get);
                let engine = Engine::new(family, threads).map_err(|error| Error::Stopped {
                    reason: format!("its {threads} threads could not start: {error}"),
                })?;
                Kernels::Host(Arc::new(engine), options.precision)
            }
            None => Kernels::Mlx,
        };
        let decoder = Decoder::load(checkpoint, &kernels, &mut || steps.layer(), &stream)?;
        let hidden = config.hidden_size as usize;
        let head_dim = (config.head_dim as usize).next_multiple_of(KEYS_AT_ONCE);
        let keys_values = config.layers * 2 * config.kv_heads as usize * head_dim;
        Ok(Self {
            decoder,
            stream,
            pooling: options.pooling,
            hidden,
            // And its id.
            prefix_bytes_per_token: size_of::<f32>() * (keys_values + hidden + 1),
        })
    }

    /// Computes what texts that begin with `ids` have in common.
    pub(crate) fn prefix(&self, ids: &[u32]) -> Result<Prefix, Error> {
        // Before all arrays, so that they are dropped within it.
        let _turn = self.stream.turn();
        let mut layers = Vec::new();
        let mut hidden = Vec::new();
        if ids.len() >= LEAST_REUSED {
            self.decoder.check_weights()?;
            let batch = Batch::joined(&[ids]);
            let keep = Reuse::Keep(&mut layers);
            let states = self.decoder.forward(&batch, Rows::All, keep, &mut |_| Ok(()), &self.stream)?;
            if self.pooling == Pooling::Mean {
                hidden = ops::astype(&states, Dtype::F32, &self.stream)?.to_vec(&self.stream)?;
            }
            // What follows the last layer's attention is computed only if the mean asked for it.
            KeysValues::eval(&layers)?;
        }
        Ok(Prefix { ids: ids.to_vec(), layers, hidden, backend: self.stream.backend() })
    }

    /// Pooled vectors, not normalised yet, of one batch, in the order of `texts`; no text is empty. A text whose vector
    /// is not finite has an error in its place.
    ///
    /// With a prefix, which then is this runner's own, `texts` are what follows its first tokens, as many as said.
    pub(crate) fn embed_batch(
        &self,
        texts: &[&[u32]],
        prefix: Option<(&Prefix, usize)>,
    ) -> Result<Vec<Result<Vec<f32>, InputError>>, Error> {
        match prefix {
            Some((prefix, shared)) if shared >= LEAST_REUSED => {
                debug_assert!(self.pooling != Pooling::Cls && shared <= prefix.len());
                let before = match self.pooling {
                    Pooling::Mean => Before::new(&prefix.hidden[..shared * self.hidden], self.hidden),
                    Pooling::LastToken | Pooling::Cls => Before::default(),
                };
                self.run(texts, Reuse::Continue { layers: &prefix.layers, tokens: shared }, &before)
            }
            Some((prefix, shared)) => {
                let whole: Vec<_> = texts.iter().map(|text| [&prefix.ids[..shared], text].concat()).collect();
                let whole: Vec<&[u32]> = whole.iter().map(Vec::as_slice).collect();
                self.run(&whole, Reuse::Nothing, &Before::default())
            }
            None => self.run(texts, Reuse::Nothing, &Before::default()),
        }
    }

    fn run(
        &self,
        texts: &[&[u32]],
        reuse: Reuse<'_>,
        before: &Before,
    ) -> Result<Vec<Result<Vec<f32>, InputError>>, Error> {
        let _turn = self.stream.turn();
        self.decoder.check_weights()?;
        let batch = self.batch(texts);
        let rows = self.pooling.rows(&batch)?;
        let rows = rows.as_ref().map_or(Rows::All, Rows::Selected);
        let hidden = self.decoder.forward(&batch, rows, reuse, &mut |_| Ok(()), &self.stream)?;
        let pooled = self.pooling.pool(&hidden, &batch, before, &self.stream)?;
        let vectors = pooled.chunks(self.hidden).map(|vector| {
            let finite = vector.iter().all(|x| x.is_finite());
            if finite { Ok(vector.to_vec()) } else { Err(InputError::NotFinite) }
        });
        Ok(vectors.collect())
    }

    /// Every hidden state of each text of one batch.
    pub(crate) fn hidden_states(&self, texts: &[&[u32]]) -> Result<HiddenStates, Error> {
        let _turn = self.stream.turn();
        self.decoder.check_weights()?;
        let batch = self.batch(texts);
        let mut found = HiddenStates { dtype: Dtype::F32, texts: vec![Vec::new(); texts.len()] };
        let mut keep = |state: &Array| {
            found.dtype = state.dtype().unwrap_or(Dtype::F32);
            let state = ops::astype(state, Dtype::F32, &self.stream)?.to_vec::<f32>(&self.stream)?;
            let places = batch.starts.iter().zip(batch.lengths.iter());
            for (text, (&start, &length)) in found.texts.iter_mut().zip(places) {
                text.push(state[start * self.hidden..(start + length) * self.hidden].to_vec());
            }
            Ok(())
        };
        self.decoder.forward(&batch, Rows::All, Reuse::Nothing, &mut keep, &self.stream)?;
        Ok(found)
    }

    fn batch(&self, texts: &[&[u32]]) -> Batch {
        if self.decoder.joins() { Batch::joined(texts) } else { Batch::padded(texts) }
    }
}

/// Every hidden state of a batch's texts: the embeddings, after each layer, after the final norm.
#[derive(Debug)]
pub(crate) struct HiddenStates {
    /// Their type in the model.
    pub(crate) dtype: Dtype,
    /// For each text each state, `[L * D]`.
    pub(crate) texts: Vec<Vec<Vec<f32>>>,
}

impl Model for Runner {
    type Prefix = Prefix;

    fn prefix(&self, ids: &[u32]) -> Result<Prefix, Error> {
        self.prefix(ids)
    }

    fn prefix_bytes(&self, tokens: usize) -> usize {
        self.prefix_bytes_per_token.saturating_mul(tokens.next_multiple_of(KEYS_AT_ONCE))
    }

    fn embed_batch(
        &self,
        texts: &[&[u32]],
        prefix: Option<(&Prefix, usize)>,
    ) -> Result<Vec<Result<Vec<f32>, InputError>>, Error> {
        self.embed_batch(texts, prefix)
    }

    fn check_device(&self) -> Result<(), Error> {
        let _turn = self.stream.turn();
        let one = Array::from_slice(&[1.0_f32], &[1])?;
        let two = ops::add(&one, &one, &self.stream)?.to_vec::<f32>(&self.stream)?;
        if two == [2.0] {
            Ok(())
        } else {
            Err(Error::Stopped { reason: format!("it says that 1 + 1 is {two:?}") })
        }
    }

    fn unload(self) {
        let _turn = self.stream.turn();
        drop(self);
    }
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// The variable that names a family of kernels where [`LoadOptions`](crate::LoadOptions) doesn't.
pub(crate) const KERNELS_VARIABLE: &str = "MLX_EMBED_KERNELS";

/// The family of kernels to use on `backend`; `None` stands for MLX's own operations.
pub(crate) fn family(backend: Backend, wanted: Option<&str>) -> Result<Option<&'static Family>, Error> {
    let variable = std::env::var(KERNELS_VARIABLE).ok();
    let (option, wanted) = match (wanted, &variable) {
        (Some(wanted), _) => ("kernels", Some(wanted)),
        (None, variable) => (KERNELS_VARIABLE, variable.as_deref().filter(|name| !name.is_empty())),
    };
    if backend != Backend::Cpu || wanted == Some("mlx") {
        return Ok(None);
    }
    let Some(name) = wanted else { return Ok(Family::available().next()) };
    match Family::available().find(|family| family.name() == name) {
        Some(family) => Ok(Some(family)),
        None => {
            let names: Vec<&str> = Family::available().map(Family::name).collect();
            let reason =
                format!("is {name}; this machine runs {} and mlx (MLX's own operations)", names.join(", "));
            Err(Error::Option { option, reason })
        }
    }
}
