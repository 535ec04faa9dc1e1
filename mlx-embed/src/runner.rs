//! The model on one thread: token ids in, pooled vectors out.

#[cfg(feature = "bench")]
mod measure;
mod prefix;
#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;

use crate::batch::Batch;
use crate::checkpoint::Checkpoint;
use crate::engine::Model;
use crate::error::{Error, InputError};
use crate::info::CompiledKernels;
use crate::kernels::{Engine, Family, KEYS_AT_ONCE};
use crate::mlx::{self, Array, Backend, Dtype, Stream, cuda, memory, ops};
use crate::model::cuda::{Cuda, Form};
use crate::model::{
    self, Decoder, Kernels, KeysValues, LEAST_REUSED, MatmulPolicy, Output, Precision, Reuse, Rows,
};
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
        let cpu = || {
            if mlx::has_cpu() {
                return Ok(Backend::Cpu);
            }
            Err(Error::Option {
                option: "device",
                reason: "would be the CPU, as no NVIDIA GPU with a driver is found, but MLX's CUDA build computes \
                         nothing without one; use MLX's CPU build (tools/bundle/run --runtime cpu, or no feature cuda)"
                    .into(),
            })
        };
        match self {
            // Without a look for GPUs, which wakes their driver, where it can be helped.
            Self::Cpu => cpu(),
            Self::Auto => mlx::gpu_backend().map_or_else(cpu, Ok),
            Self::Gpu => mlx::gpu_backend().ok_or_else(|| Error::Option {
                option: "device",
                reason: "is gpu, but this build of MLX finds no GPU that it can use; use the CPU".into(),
            }),
        }
    }
}

/// The index of the GPU that was asked for, where there is one.
pub(crate) fn gpu(backend: Backend, wanted: usize) -> Result<i32, Error> {
    let count = if backend == Backend::Cpu { 0 } else { mlx::gpu_count() };
    match i32::try_from(wanted) {
        Ok(gpu) if gpu == 0 || gpu < count => Ok(gpu),
        _ => {
            let seen = match count {
                0 => "the model runs on the CPU".to_owned(),
                1 => "this process sees one GPU, number 0".to_owned(),
                _ => format!("this process sees {count} GPUs, counted from 0"),
            };
            Err(Error::Option { option: "gpu", reason: format!("is {wanted}, but {seen}") })
        }
    }
}

/// What the runner needs to know besides the checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct RunnerOptions {
    pub(crate) backend: Backend,
    /// The index of the GPU.
    pub(crate) gpu: i32,
    pub(crate) threads: Option<NonZeroUsize>,
    pub(crate) kind: Kind,
    pub(crate) precision: Precision,
    pub(crate) matmul: MatmulPolicy,
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
    #[cfg(feature = "bench")]
    threads: usize,
}

impl Runner {
    /// Loads the model, and calls `loaded` after each layer. Where it fails the thread is to end.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        options: &RunnerOptions,
        loaded: &mut dyn FnMut(),
    ) -> Result<Self, Error> {
        let turn = options.backend.turn();
        let runner = Self::load_within_turn(checkpoint, options, loaded);
        if runner.is_err() {
            mlx::end_thread(turn);
        }
        runner
    }

    fn load_within_turn(
        checkpoint: &Checkpoint,
        options: &RunnerOptions,
        loaded: &mut dyn FnMut(),
    ) -> Result<Self, Error> {
        let stream = Stream::new(options.backend, options.gpu)?;
        if let Some(threads) = options.threads {
            mlx::set_blas_threads(threads.get())?;
        }
        memory::set_cache_limit(options.cache_limit)?;
        match options.memory_limit {
            Some(bytes) => {
                memory::set_limit(bytes)?;
            }
            // On top of what other models have.
            None if options.backend == Backend::Cuda => {
                let weights = usize::try_from(checkpoint.weights_bytes()).unwrap_or(usize::MAX);
                let times = if options.matmul == MatmulPolicy::Resident { 6 } else { 2 };
                let room = weights.saturating_mul(times).saturating_add(ROOM_FOR_BATCHES);
                memory::set_limit(memory::active()?.saturating_add(room))?;
            }
            None => {}
        }
        let config = checkpoint.config();
        let kernels = match &options.kind {
            Kind::Host(family) => {
                let threads = options.threads.map_or_else(default_threads, NonZeroUsize::get);
                let engine = Engine::new(family, threads).map_err(|error| Error::Stopped {
                    reason: format!("its {threads} threads could not start: {error}"),
                })?;
                Kernels::Host(Arc::new(engine), options.precision)
            }
            Kind::Cuda(kernels, form) => {
                Kernels::Cuda(Rc::new(Cuda::new(kernels, options.gpu, *form, options.matmul)?))
            }
            Kind::Mlx => Kernels::Mlx,
        };
        let decoder = Decoder::load(checkpoint, kernels, loaded, &stream)?;
        checkpoint.check_unchanged()?;
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
            #[cfg(feature = "bench")]
            threads: options.threads.map_or_else(default_threads, NonZeroUsize::get),
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
            let rows = self.pooling.rows(&batch);
            let rows = rows.as_deref().map_or(Rows::All, Rows::Selected);
            let keep = Reuse::Keep(&mut layers);
            let states = self.decoder.forward(&batch, rows, keep, None, &self.stream)?;
            match states {
                Output::Array(states) if self.pooling == Pooling::Mean => {
                    hidden = ops::astype(&states, Dtype::F32, &self.stream)?.to_vec(&self.stream)?;
                }
                Output::Host(states) if self.pooling == Pooling::Mean => hidden = states,
                _ => {}
            }
            // On MLX's graph, what follows the last layer's attention is computed only if the mean asked for it.
            KeysValues::eval(&layers)?;
            self.decoder.check_weights()?;
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
        let rows = self.pooling.rows(&batch);
        let rows = rows.as_deref().map_or(Rows::All, Rows::Selected);
        let hidden = self.decoder.forward(&batch, rows, reuse, None, &self.stream)?;
        let pooled = self.pooling.pool(hidden, &batch, before, &self.stream)?;
        self.decoder.check_weights()?;
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
        self.decoder.forward(&batch, Rows::All, Reuse::Nothing, Some(&mut keep), &self.stream)?;
        self.decoder.check_weights()?;
        // The probe sees those of the kernels for NVIDIA GPUs in f32.
        found.dtype = self.decoder.activation().unwrap_or(found.dtype);
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
        let turn = self.stream.turn();
        mlx::survive_failure();
        drop(self);
        mlx::end_thread(turn);
    }

    fn may_end_thread() -> bool {
        mlx::may_end_thread()
    }
}

/// What batches of the usual size may take on a GPU, in bytes.
const ROOM_FOR_BATCHES: usize = 512 << 20;

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// The variable that names a family of kernels where [`LoadOptions`](crate::LoadOptions) doesn't.
pub(crate) const KERNELS_VARIABLE: &str = "MLX_EMBED_KERNELS";

/// What the model's operations are made of.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// MLX's own.
    Mlx,
    /// This crate's for the CPU.
    Host(&'static Family),
    /// This crate's for NVIDIA GPUs, for checkpoints of this form.
    Cuda(Arc<cuda::Kernels>, Form),
}

impl Kind {
    /// As users name it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Mlx => "mlx",
            Self::Host(family) => family.name(),
            Self::Cuda(..) => CUDA,
        }
    }

    /// What was compiled for it.
    pub(crate) fn compiled(&self) -> Option<CompiledKernels> {
        match self {
            Self::Cuda(kernels, _) => Some(kernels.compiled()),
            Self::Mlx | Self::Host(_) => None,
        }
    }
}

const CUDA: &str = "cuda";

/// The kernels to run `checkpoint` with on `backend`.
pub(crate) fn kind(
    checkpoint: &Checkpoint,
    backend: Backend,
    gpu: i32,
    wanted: Option<&str>,
) -> Result<Kind, Error> {
    let variable = std::env::var(KERNELS_VARIABLE).ok();
    let (option, wanted) = match (wanted, &variable) {
        (Some(wanted), _) => ("kernels", Some(wanted)),
        (None, variable) => (KERNELS_VARIABLE, variable.as_deref().filter(|name| !name.is_empty())),
    };
    match (backend, wanted) {
        (_, Some("mlx")) | (Backend::Metal, _) => Ok(Kind::Mlx),
        (Backend::Cuda, wanted) => match for_cuda(checkpoint, gpu)? {
            Ok(kind) => Ok(kind),
            Err(reason) if wanted == Some(CUDA) => {
                Err(Error::Option { option, reason: format!("is {CUDA}, but {reason}; leave it out") })
            }
            Err(reason) => {
                tracing::warn!(%reason, "the model runs on MLX's own operations, which takes longer");
                Ok(Kind::Mlx)
            }
        },
        (Backend::Cpu, None) => Ok(Family::available().next().map_or(Kind::Mlx, Kind::Host)),
        (Backend::Cpu, Some(name)) => match Family::available().find(|family| family.name() == name) {
            Some(family) => Ok(Kind::Host(family)),
            None => {
                let names: Vec<&str> = Family::available().map(Family::name).collect();
                let reason = format!(
                    "is {name}; this machine runs {} and mlx (MLX's own operations)",
                    names.join(", ")
                );
                Err(Error::Option { option, reason })
            }
        },
    }
}

/// This crate's kernels for NVIDIA GPUs, compiled, or why not.
fn for_cuda(checkpoint: &Checkpoint, gpu: i32) -> Result<Result<Kind, String>, Error> {
    let form = match model::cuda::form(checkpoint)? {
        Ok(form) => form,
        Err(why) => return Ok(Err(format!("this crate's kernels can't run the checkpoint: {why}"))),
    };
    let architecture = cuda::Architecture::of_gpu(gpu)?;
    if architecture.major < 8 {
        let reason = format!(
            "{} has compute capability {}; this crate's kernels need 8.0",
            architecture.device, architecture.major
        );
        return Ok(Err(reason));
    }
    let kernels = cuda::Kernels::new(form.geometry, form.packed, &architecture);
    Ok(kernels.map(|kernels| Kind::Cuda(Arc::new(kernels), form)).map_err(|error| error.to_string()))
}
