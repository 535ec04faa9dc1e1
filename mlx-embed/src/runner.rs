//! The model on one thread: token ids in, pooled vectors out.

mod devices;
mod kind;
#[cfg(feature = "bench")]
mod measure;
mod prefix;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::batch::{Batch, Entry};
use crate::checkpoint::spec::{MlmSpec, ModelSpec};
use crate::checkpoint::{Checkpoint, Purpose, Weights};
use crate::engine::{Engine, EngineOptions, Model, Output, Outputs, Starting};
use crate::error::{Error, InputError};
use crate::kernels::{self, Family};
use crate::mlx::{self, Array, Dtype, Stream, Turn, cuda, memory, ops};
use crate::model::{
    Backend, Cpu, Cuda, Decoder, Form, KvCache, LEAST_CACHED, MatmulPolicy, Mlx, Precision, Rounding, Rows,
};
use crate::modules::Modules;
use crate::pooling::{Before, Pooling};

pub use devices::{Device, Gpus};
pub(crate) use kind::{Kind, kind};
#[cfg(feature = "bench")]
pub(crate) use measure::Measured;
pub(crate) use prefix::Prefix;

/// What the runner needs to know besides the checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct RunnerOptions {
    pub(crate) backend: mlx::Backend,
    /// The indices of the GPUs that each get a runner. Elsewhere there is one.
    pub(crate) gpus: Vec<i32>,
    pub(crate) threads: Option<NonZeroUsize>,
    pub(crate) kind: Kind,
    pub(crate) precision: Precision,
    pub(crate) matmul: MatmulPolicy,
    pub(crate) pooling: Pooling,
    pub(crate) cache_limit: usize,
    pub(crate) memory_limit: Option<usize>,
}

/// A decoder on its device. Belongs to the thread that made it.
#[derive(Debug)]
pub(crate) struct Runner<B: Backend> {
    decoder: Decoder<B>,
    spec: ModelSpec,
    purpose: Purpose,
    pooling: Pooling,
    modules: Modules<B>,
    #[cfg(feature = "bench")]
    threads: usize,
}

#[cfg(not(feature = "bench"))]
use crate::model::Backend as Inspectable;
/// What a backend has to be for its model to be inspected.
#[cfg(feature = "bench")]
use crate::watch::Measurable as Inspectable;

/// What is asked of a model besides the vectors of its queue, whatever it runs on.
pub(crate) trait Inspect {
    /// Results as of a batch from the queue.
    fn embed(&self, texts: &[&[u32]]) -> Result<Outputs, Error>;

    /// What its products round.
    fn rounding(&self) -> Rounding;

    /// Every hidden state of each text of one batch.
    fn hidden_states(&self, texts: &[&[u32]]) -> Result<HiddenStates, Error>;

    /// For whoever measures it.
    #[cfg(feature = "bench")]
    fn measured(&self) -> &dyn Measured;
}

/// Starts the engine of a checkpoint's model on the devices that `options` name. It calls `loaded` after each layer.
pub(crate) fn start(
    checkpoint: Checkpoint,
    options: RunnerOptions,
    engine: &EngineOptions,
    loaded: impl Fn() + Send + Sync + 'static,
) -> Result<Starting<dyn Inspect>, Error> {
    let all = Arc::new((checkpoint, options, loaded));
    let (_, options, _) = &*all;
    match options.kind.clone() {
        Kind::Host(family) => {
            let all = Arc::clone(&all);
            let load = move || on_cpu(&all.0, &all.1, family, &all.2);
            Engine::start(vec![load], engine)
        }
        Kind::Mlx => {
            let load = |&gpu: &i32| {
                let all = Arc::clone(&all);
                move || on_mlx(&all.0, &all.1, gpu, &all.2)
            };
            Engine::start(options.gpus.iter().map(load).collect(), engine)
        }
        Kind::Cuda(kernels, form) => {
            let load = |&gpu: &i32| {
                let (all, kernels, form) = (Arc::clone(&all), Arc::clone(&kernels), form.clone());
                move || on_cuda(&all.0, &all.1, gpu, &kernels, form, &all.2)
            };
            Engine::start(options.gpus.iter().map(load).collect(), engine)
        }
    }
}

/// On this crate's kernels for the CPU.
fn on_cpu(
    checkpoint: &Checkpoint,
    options: &RunnerOptions,
    family: &'static Family,
    loaded: &impl Fn(),
) -> Result<Runner<Cpu>, Error> {
    let threads = threads(options.threads);
    let engine = kernels::Engine::new(family, threads).map_err(|error| Error::Stopped {
        reason: format!("its {threads} threads could not start: {error}"),
    })?;
    let spec = checkpoint.spec().clone();
    let cpu = Cpu::new(engine, options.precision, &spec);
    Runner::load(checkpoint, spec, cpu, options, loaded)
}

/// On MLX's own operations. Where it fails the thread is to end.
fn on_mlx(
    checkpoint: &Checkpoint,
    options: &RunnerOptions,
    gpu: i32,
    loaded: &impl Fn(),
) -> Result<Runner<Mlx>, Error> {
    within_turn(options, || {
        let stream = prepare_mlx(checkpoint, options, gpu)?;
        let spec = checkpoint.spec().clone();
        let mlx = Mlx::new(&Weights::new(checkpoint), &spec, stream)?;
        Runner::load(checkpoint, spec, mlx, options, loaded)
    })
}

/// On this crate's kernels for NVIDIA GPUs. Where it fails the thread is to end.
fn on_cuda(
    checkpoint: &Checkpoint,
    options: &RunnerOptions,
    gpu: i32,
    kernels: &Arc<cuda::Kernels>,
    form: Form,
    loaded: &impl Fn(),
) -> Result<Runner<Cuda>, Error> {
    within_turn(options, || {
        let stream = prepare_mlx(checkpoint, options, gpu)?;
        let spec = checkpoint.spec().clone();
        let weights = Weights::new(checkpoint);
        let cuda = Cuda::new(&weights, &spec, kernels, gpu, form, options.matmul, stream)?;
        Runner::load(checkpoint, spec, cuda, options, loaded)
    })
}

fn within_turn<T>(options: &RunnerOptions, load: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let turn = options.backend.turn();
    let loaded = load();
    if loaded.is_err() {
        mlx::end_thread(turn);
    }
    loaded
}

/// A stream for a model, and MLX's limits.
fn prepare_mlx(checkpoint: &Checkpoint, options: &RunnerOptions, gpu: i32) -> Result<Stream, Error> {
    let stream = Stream::new(options.backend, gpu)?;
    if let Some(threads) = options.threads {
        mlx::set_blas_threads(threads.get())?;
    }
    memory::set_cache_limit(options.cache_limit)?;
    match options.memory_limit {
        Some(bytes) => {
            memory::set_limit(bytes)?;
        }
        // On top of what other models have.
        None if options.backend == mlx::Backend::Cuda => {
            let weights = usize::try_from(checkpoint.weights_bytes()).unwrap_or(usize::MAX);
            let times = match &options.kind {
                // Of 2 bits f32 may be made, by way of a copy, at least at first.
                Kind::Cuda(_, form) if form.is_wide() || form.has_precisions() => 32,
                _ if options.matmul == MatmulPolicy::Resident => 6,
                _ => 2,
            };
            let room = weights.saturating_mul(times).saturating_add(ROOM_FOR_BATCHES);
            memory::set_limit(memory::active()?.saturating_add(room))?;
        }
        None => {}
    }
    Ok(stream)
}

impl<B: Backend> Runner<B> {
    fn load(
        checkpoint: &Checkpoint,
        spec: ModelSpec,
        backend: B,
        options: &RunnerOptions,
        loaded: &impl Fn(),
    ) -> Result<Self, Error> {
        let decoder = Decoder::load(checkpoint, &spec, backend, loaded)?;
        checkpoint.check_unchanged()?;
        let width = match checkpoint.purpose() {
            Purpose::Vectors | Purpose::Scores => options.pooling.width(spec.hidden),
            Purpose::Sparse | Purpose::TokenVectors => spec.hidden,
        };
        let modules = Modules::load(checkpoint, decoder.backend(), width)?;
        Ok(Self {
            decoder,
            spec,
            purpose: checkpoint.purpose(),
            pooling: options.pooling,
            modules,
            #[cfg(feature = "bench")]
            threads: threads(options.threads),
        })
    }

    /// Held around everything that touches a GPU.
    fn turn(&self) -> Option<Turn> {
        self.decoder.backend().stream().and_then(Stream::turn)
    }

    /// Computes what texts that begin with `ids` have in common.
    pub(crate) fn prefix(&self, ids: &[u32]) -> Result<Prefix<B>, Error> {
        // Before all states, so that they are dropped within it.
        let _turn = self.turn();
        let mut layers = Vec::new();
        let mut hidden = Vec::new();
        if ids.len() >= LEAST_CACHED {
            let batch = Batch::packed(&[ids]);
            let rows = self.pooling.rows(&batch, 0);
            let rows = rows.as_deref().map_or(Rows::All, Rows::Selected);
            self.decoder.hold_weights(|| {
                let states = self.decoder.forward(&batch, rows, KvCache::Keep(&mut layers), None)?;
                if matches!(rows, Rows::All) {
                    hidden = states;
                }
                Ok(self.decoder.backend().finish_cache(&layers)?)
            })?;
        }
        let device = self.decoder.backend().stream().map(Stream::backend);
        Ok(Prefix { ids: ids.to_vec(), layers, hidden, device })
    }

    /// Pooled vectors, not normalised yet, of one batch, in the order of `texts`; no text is empty. A text whose vector
    /// is not finite has an error in its place.
    ///
    /// With a prefix, which then is this runner's own, `texts` are what follows its first tokens, as many as said.
    pub(crate) fn embed_batch(
        &self,
        texts: &[Entry<'_>],
        prefix: Option<(&Prefix<B>, usize)>,
    ) -> Result<Outputs, Error> {
        let left_out = texts.first().map_or(0, |text| text.reading.left_out);
        let before = Before { hidden: &[], left_out };
        match prefix {
            Some((prefix, shared)) if shared >= LEAST_CACHED => {
                debug_assert!(self.pooling.continues() && shared <= prefix.len());
                // None where pooling is of the last token.
                let hidden = prefix.hidden.get(..shared * self.spec.hidden).unwrap_or_default();
                let cache = KvCache::Continue { layers: &prefix.layers, tokens: shared };
                self.run(texts, cache, Before { hidden, left_out })
            }
            Some((prefix, shared)) => {
                let whole = |text: &Entry<'_>| ([&prefix.ids[..shared], text.ids].concat(), text.reading);
                let whole: Vec<_> = texts.iter().map(whole).collect();
                let whole: Vec<_> =
                    whole.iter().map(|(ids, reading)| Entry { ids, reading: *reading }).collect();
                self.run(&whole, KvCache::None, before)
            }
            None => self.run(texts, KvCache::None, before),
        }
    }

    fn run(
        &self,
        texts: &[Entry<'_>],
        cache: KvCache<'_, B::KeysValues>,
        before: Before<'_>,
    ) -> Result<Outputs, Error> {
        let _turn = self.turn();
        let ids: Vec<&[u32]> = texts.iter().map(|text| text.ids).collect();
        let batch = self.batch(&ids);
        self.decoder.hold_weights(|| self.outputs(&batch, cache, before))
    }

    fn outputs(
        &self,
        batch: &Batch,
        cache: KvCache<'_, B::KeysValues>,
        before: Before<'_>,
    ) -> Result<Outputs, Error> {
        if let Some(mlm) = &self.spec.mlm {
            let weights = self.decoder.pool_logits(batch)?;
            return Ok(weights.chunks(mlm.vocabulary).map(|weights| splade(weights, mlm)).collect());
        }
        if matches!(self.purpose, Purpose::TokenVectors | Purpose::Sparse) {
            let hidden = self.decoder.forward(batch, Rows::All, cache, None)?;
            return self.of_tokens(hidden, batch);
        }
        let pooled = self.decoder.pooled(batch, self.pooling, cache, before)?;
        // Before the modules, which may hide what is not, and behind them.
        let finite: Vec<bool> = pooled.chunks(self.pooling.width(self.spec.hidden)).map(is_finite).collect();
        let rows = self.modules.apply(self.decoder.backend(), pooled)?;
        let vectors = rows.chunks(rows.len() / finite.len().max(1)).zip(finite);
        let result = |(vector, finite): (&[f32], bool)| {
            if finite && is_finite(vector) { Ok(vector.to_vec().into()) } else { Err(InputError::NotFinite) }
        };
        Ok(vectors.map(result).collect())
    }

    /// What becomes of each token's state, text by text: vectors, or the largest weight of each token id.
    fn of_tokens(&self, hidden: Vec<f32>, batch: &Batch) -> Result<Outputs, Error> {
        let places = || batch.starts.iter().zip(batch.lengths.iter());
        let range = |numbers: &[f32], (&start, &length): (&usize, &usize)| {
            let width = numbers.len() / batch.ids.len().max(1);
            start * width..(start + length) * width
        };
        let finite: Vec<bool> = places().map(|place| is_finite(&hidden[range(&hidden, place)])).collect();
        let all = self.modules.apply(self.decoder.backend(), hidden)?;
        let of_text = |(place, finite): ((&usize, &usize), bool)| {
            let (numbers, start) = (&all[range(&all, place)], *place.0);
            if !finite || !is_finite(numbers) {
                return Err(InputError::NotFinite);
            }
            Ok(match self.purpose {
                Purpose::Sparse => largest_weights(&batch.ids[start..start + numbers.len()], numbers),
                _ => numbers.to_vec().into(),
            })
        };
        Ok(places().zip(finite).map(of_text).collect())
    }

    fn batch(&self, texts: &[&[u32]]) -> Batch {
        if self.decoder.backend().packs() { Batch::packed(texts) } else { Batch::padded(texts) }
    }
}

fn is_finite(numbers: &[f32]) -> bool {
    numbers.iter().all(|number| number.is_finite())
}

/// Of each id the largest of its tokens' weights, those above 0.
fn largest_weights(ids: &[u32], weights: &[f32]) -> Output {
    let mut largest = BTreeMap::new();
    for (&id, &weight) in ids.iter().zip(weights).filter(|(_, weight)| **weight > 0.0) {
        let most: &mut f32 = largest.entry(id).or_insert(weight);
        *most = most.max(weight);
    }
    Output::Weights(largest.into_iter().collect())
}

/// The weights of a text, of which most are 0 and left out, as are those beyond as many as the head keeps.
fn splade(weights: &[f32], head: &MlmSpec) -> Result<Output, InputError> {
    if !is_finite(weights) {
        return Err(InputError::NotFinite);
    }
    let weights = (0..).zip(weights.iter().copied());
    let mut weights: Vec<(u32, f32)> = weights.filter(|(_, weight)| *weight > 0.0).collect();
    if let Some(most) = head.most.filter(|&most| most < weights.len()) {
        // Of equal ones the first tokens stay.
        weights
            .select_nth_unstable_by(most, |one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
        weights.truncate(most);
        weights.sort_unstable_by_key(|(token, _)| *token);
    }
    Ok(Output::Weights(weights.into()))
}

impl<B: Inspectable> Inspect for Runner<B> {
    fn embed(&self, texts: &[&[u32]]) -> Result<Outputs, Error> {
        let texts: Vec<Entry<'_>> = texts.iter().map(|ids| Entry::plain(ids)).collect();
        self.embed_batch(&texts, None)
    }

    fn rounding(&self) -> Rounding {
        self.decoder.rounding()
    }

    fn hidden_states(&self, texts: &[&[u32]]) -> Result<HiddenStates, Error> {
        let _turn = self.turn();
        let batch = self.batch(texts);
        let width = self.spec.hidden;
        let mut found = vec![Vec::new(); texts.len()];
        let mut keep = |state: Vec<f32>| {
            let places = batch.starts.iter().zip(batch.lengths.iter());
            for (text, (&start, &length)) in found.iter_mut().zip(places) {
                text.push(state[start * width..(start + length) * width].to_vec());
            }
        };
        self.decoder.hold_weights(|| {
            Ok(self.decoder.forward(&batch, Rows::All, KvCache::None, Some(&mut keep))?)
        })?;
        Ok(HiddenStates { dtype: self.decoder.backend().activation(), texts: found })
    }

    #[cfg(feature = "bench")]
    fn measured(&self) -> &dyn Measured {
        self
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

impl<B: Inspectable + 'static> Model for Runner<B> {
    type Prefix = Prefix<B>;
    type Seen = dyn Inspect;

    fn seen(&self) -> &(dyn Inspect + 'static) {
        self
    }

    fn prefix(&self, ids: &[u32]) -> Result<Prefix<B>, Error> {
        self.prefix(ids)
    }

    fn prefix_bytes(&self, tokens: usize) -> usize {
        // And hidden states and ids.
        let beside = size_of::<f32>() * (self.spec.hidden + 1);
        self.decoder.backend().cache_bytes(&self.spec, tokens).saturating_add(tokens.saturating_mul(beside))
    }

    fn embed_batch(
        &self,
        texts: &[Entry<'_>],
        prefix: Option<(&Prefix<B>, usize)>,
    ) -> Result<Outputs, Error> {
        self.embed_batch(texts, prefix)
    }

    fn check(&self) -> Result<(), String> {
        if let Some(reason) = mlx::loss() {
            return Err(reason);
        }
        self.decoder.check_weights().map_err(|error| error.to_string())?;
        self.check_device().map_err(|error| format!("the device stopped working: {error}"))
    }

    fn unload(self) {
        if self.decoder.backend().stream().is_none() {
            return;
        }
        let turn = self.turn();
        mlx::survive_failure("a kernel of another model failed");
        drop(self);
        mlx::end_thread(turn);
    }

    fn may_end_thread() -> bool {
        mlx::may_end_thread()
    }
}

impl<B: Backend> Runner<B> {
    fn check_device(&self) -> Result<(), Error> {
        let Some(stream) = self.decoder.backend().stream() else { return Ok(()) };
        let _turn = self.turn();
        let one = Array::from_slice(&[1.0_f32], &[1])?;
        let two = ops::add(&one, &one, stream)?.to_vec::<f32>(stream)?;
        if two == [2.0] {
            Ok(())
        } else {
            Err(Error::Stopped { reason: format!("it says that 1 + 1 is {two:?}") })
        }
    }
}

/// What batches of the usual size may take on a GPU, in bytes.
const ROOM_FOR_BATCHES: usize = 512 << 20;

/// Threads on the CPU: as many as asked for, or one a processor that this process may use.
pub(crate) fn threads(asked: Option<NonZeroUsize>) -> usize {
    asked.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
}
