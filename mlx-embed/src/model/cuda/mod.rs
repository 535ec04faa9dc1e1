//! The decoder's operations as this crate's kernels for NVIDIA GPUs.
//!
//! In general what follows a product is a kernel of its own. Where all of a model's layers admit it, norms, rotation, residual
//! connections and the activation are part of the products, and a layer is five kernels: with packed weights on every GPU,
//! with weights of bf16 on Hopper, and with those of f16, where norms are kernels of their own. Products of few tokens read
//! packed weights, those of many weights that are dequantised before, or are there as such (see [`policy`]); where nothing
//! is part of these they are cuBLASLt's.
//!
//! Activations are of bf16 where the checkpoint's norms are or [`Precision::Fast`](super::Precision) is asked for, and else
//! of f32, of which products multiply f16.

mod loading;
mod operations;
mod policy;
mod rotation;
mod shifts;
mod states;
mod support;
mod weight;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::batch::Batch;
use crate::checkpoint::spec::{EmbeddingSpec, ModelSpec, NormKind, NormSpec, ProjectionSpec};
use crate::checkpoint::{CheckpointError, Weights};
use crate::file::hex;
use crate::mlx::cuda::{self, Fixed, Norm, Numbers, Sum};
use crate::mlx::{Dtype, MlxError, Stream, memory, ops};
use crate::pooling::{Before, Pooling, PoolingMode};

use super::backend::{Backend, Operations, Place, Positions, Role};
use super::cache::KvCache;
use super::decoder::{Decoder, MlmHead, Rows};
use super::rounding::Rounding;

pub use policy::MatmulPolicy;
pub(crate) use support::{Form, form};

use loading::norm_weight;
use policy::Calibration;
use rotation::Rotation;
use states::{Heads, Hidden, KeysValues, Pass};
use weight::{Projection, RowOrder};

/// What calibration runs: few layers, as they are alike, and texts so short that attention counts for little.
const LAYERS_TO_MEASURE: usize = 8;
const TEXT_TO_MEASURE: usize = 64;

/// Most tokens whose logits are read at once: a launch has so many blocks along texts, and more.
const TOKENS_TO_READ: usize = 1 << 15;

/// The kernels, and what their batches share.
#[derive(Debug)]
pub(crate) struct Cuda {
    ops: cuda::Ops,
    digest: String,
    form: Form,
    policy: MatmulPolicy,
    /// From so many tokens on weights are dequantised.
    dequantize_from: Cell<i32>,
    ropes: Vec<Rotation>,
    /// What scores of all layers get by distance, as [`cuda::Attending`] takes it.
    distances: Option<Fixed>,
    /// Tensors are read into it.
    buffer: RefCell<Vec<u32>>,
    /// The checkpoint's, for messages.
    path: PathBuf,
    stream: Stream,
}

/// The embedding tables and the norm of their sum.
#[derive(Debug)]
pub(crate) struct Embedding {
    /// As [`cuda::Embedding`] takes it.
    tokens: Vec<Fixed>,
    scale: f32,
    positions: Option<(Fixed, Positions)>,
    token_types: Option<Fixed>,
    norm: Option<Norm>,
}

impl Cuda {
    /// For a model of this form.
    pub(crate) fn new(
        weights: &Weights<'_>,
        spec: &ModelSpec,
        kernels: &Arc<cuda::Kernels>,
        gpu: i32,
        form: Form,
        policy: MatmulPolicy,
        stream: Stream,
    ) -> Result<Self, CheckpointError> {
        let dequantize_from =
            if form.is_packed() && policy != MatmulPolicy::Dequantized { i32::MAX } else { 0 };
        let path = weights.dir().to_owned();
        let ops = cuda::Ops::new(kernels, gpu).map_err(|source| CheckpointError::Mlx {
            path: path.clone(),
            tensor: "(kernels)".into(),
            source,
        })?;
        let mut cuda = Self {
            ops,
            digest: kernels.digest().to_owned(),
            form,
            policy,
            dequantize_from: Cell::new(dequantize_from),
            ropes: spec.ropes.iter().map(Rotation::new).collect(),
            distances: None,
            buffer: RefCell::default(),
            path,
            stream,
        };
        cuda.distances = spec.relative.as_ref().map(|of| cuda.distances(weights, of)).transpose()?;
        Ok(cuda)
    }

    /// Gives memory that nobody uses back to the driver.
    fn trim(&self) -> Result<(), MlxError> {
        memory::clear_cache()?;
        self.ops.trim()
    }

    /// Waits for all that was launched.
    pub(crate) fn wait(&self) -> Result<(), MlxError> {
        self.ops.synchronize()
    }

    /// Finds out from how many tokens on weights are better dequantized, unless the policy or an earlier measurement says
    /// it. `run` runs a few layers with so many tokens.
    fn calibrate(&self, mut run: impl FnMut(i32) -> Result<(), MlxError>) -> Result<(), MlxError> {
        if !self.form.is_packed() || ![MatmulPolicy::Auto, MatmulPolicy::Resident].contains(&self.policy) {
            return Ok(());
        }
        let of = format!("{} {:?} {}", self.digest, self.form, self.policy);
        let path = cuda::cache_folder()
            .map(|folder| folder.join(format!("mlx_embed_matmul_{:.16}.json", hex(&Sha256::digest(&of)))));
        let calibration = match path.as_deref().and_then(|path| Calibration::read(&of, path)) {
            Some(known) => known,
            None => {
                let measured = Calibration::measure(of, |tokens, dequantized| {
                    self.dequantize_from.set(if dequantized { 0 } else { i32::MAX });
                    run(tokens)
                })?;
                if let Some(path) = path
                    && let Err(error) = measured.write(&path)
                {
                    tracing::warn!(path = %path.display(), %error, "what was measured can't be kept");
                }
                measured
            }
        };
        tracing::debug!(?calibration, "from so many tokens on weights are dequantized");
        self.dequantize_from.set(calibration.dequantize_from);
        Ok(())
    }

    fn is_packed(&self, tokens: i32) -> bool {
        tokens < self.dequantize_from.get()
    }
}

/// Each text's rows of a batch, but for its first `left_out`.
fn texts(batch: &Batch, left_out: usize) -> Vec<Range<usize>> {
    let text = |(&start, &length): (&usize, &usize)| start + left_out.min(length)..start + length;
    batch.starts.iter().zip(batch.lengths.iter()).map(text).collect()
}

impl Backend for Cuda {
    type Pass = Pass;
    type Hidden = Hidden;
    type Wide = cuda::Rows;
    type Heads = Heads;
    type KeysValues = KeysValues;
    type Embedding = Embedding;
    type Projection = Projection;
    type Norm = Norm;
    /// f32 `[2, E]`, of queries and of keys.
    type HeadNorms = Option<Fixed>;
    type Matrix = cuda::Dense;

    fn load_embedding(
        &self,
        weights: &Weights<'_>,
        spec: &EmbeddingSpec,
    ) -> Result<Embedding, CheckpointError> {
        // A model whose tokens share rows has no layers, and doesn't run here.
        let EmbeddingSpec { tokens, lookup: _, scale, positions, token_types, norm } = spec;
        let table = weights.table(tokens)?;
        let is_read_packed = table.groups.is_some() && self.form.geometry.table.is_some();
        let parts =
            if is_read_packed { self.parts_of(&table)? } else { vec![self.rows_of(weights, tokens)?] };
        let positions = match positions {
            Some(spec) => Some((self.rows_of(weights, &spec.table)?, Positions::new(spec))),
            None => None,
        };
        Ok(Embedding {
            tokens: parts,
            scale: *scale,
            positions,
            token_types: token_types.as_ref().map(|table| self.rows_of(weights, table)).transpose()?,
            norm: norm.as_ref().map(|norm| self.load_norm(weights, norm)).transpose()?,
        })
    }

    fn load_projection(
        &self,
        weights: &Weights<'_>,
        spec: &ProjectionSpec,
        place: Place,
    ) -> Result<Projection, CheckpointError> {
        let alternates = place.role == Role::GateUp && self.form.geometry.fused;
        let order = if alternates { RowOrder::ByEights } else { RowOrder::Stacked };
        let mut matrices = Vec::new();
        for part in &spec.parts {
            matrices.push(weights.matrix(part, spec.inputs)?);
        }
        let bias = self.bias(weights, spec, place)?;
        Projection::new(self, &matrices, order, bias)
    }

    fn load_norm(&self, weights: &Weights<'_>, spec: &NormSpec) -> Result<Norm, CheckpointError> {
        let failed = |source| self.error(&spec.weight, source);
        let vector = |numbers: &[f32]| self.numbers(numbers, &[numbers.len() as i32]).map_err(failed);
        let weight = vector(&norm_weight(weights, spec)?)?;
        let bias = match weights.norm_bias(spec)? {
            Some(bias) => Some(vector(&bias.to_f32()?)?),
            None => None,
        };
        let kind = match spec.kind {
            NormKind::Rms { .. } => cuda::NormKind::Rms,
            NormKind::Layer => cuda::NormKind::Layer,
        };
        Norm::new(weight, bias, kind, spec.eps).map_err(failed)
    }

    fn load_head_norms(
        &self,
        weights: &Weights<'_>,
        queries_keys: [Option<&NormSpec>; 2],
    ) -> Result<Option<Fixed>, CheckpointError> {
        let [Some(queries), Some(keys)] = queries_keys else { return Ok(None) };
        let both = [norm_weight(weights, queries)?, norm_weight(weights, keys)?].concat();
        let fixed = self.numbers(&both, &[2, (both.len() / 2) as i32]);
        fixed.map(Some).map_err(|source| self.error(&queries.weight, source))
    }

    fn load_matrix(&self, numbers: &[f32], shape: [usize; 2]) -> Result<cuda::Dense, MlxError> {
        cuda::Dense::fixed(self.numbers(numbers, &shape.map(|size| size as i32))?)
    }

    /// All are copies in the GPU's memory.
    fn reads_files(&self) -> bool {
        false
    }

    fn rounding(&self, _projection: &Projection) -> Rounding {
        let floats = |bits| Rounding { activations: Some(bits), weights: Some(bits), attention: None };
        match self.form.geometry.numbers {
            Numbers::F16 => floats(11),
            Numbers::Bf16 if self.form.has_precisions() => floats(8),
            Numbers::Bf16 | Numbers::F32 => Rounding::default(),
        }
    }

    fn loaded(&self, decoder: &Decoder<Self>) -> Result<(), MlxError> {
        self.buffer.take();
        self.find_shifts(decoder)?;
        let layers = 0..LAYERS_TO_MEASURE.min(decoder.layers());
        let vocabulary = self.form.geometry.vocab as u32;
        self.calibrate(|tokens| {
            let ids: Vec<u32> = (0..tokens as u32).map(|i| i * 31 % vocabulary).collect();
            let texts: Vec<&[u32]> = ids.chunks(TEXT_TO_MEASURE).collect();
            let batch = Batch::packed(&texts);
            decoder.forward_with(self, layers.clone(), &batch, Rows::All, KvCache::None, None)?;
            self.wait()
        })?;
        // What the weights were made of; batches have memory of their own.
        self.ops.loaded()?;
        self.trim()?;
        self.ops.record();
        Ok(())
    }

    fn packs(&self) -> bool {
        true
    }

    fn activation(&self) -> Dtype {
        self.form.geometry.numbers.dtype()
    }

    fn stream(&self) -> Option<&Stream> {
        Some(&self.stream)
    }

    fn begin(&self, batch: &Batch, cached: usize, _keeps: bool) -> Result<Pass, MlxError> {
        let plan = self.ops.plan(&batch.ids, &batch.lengths, &batch.seen, cached)?;
        let positions = plan.positions();
        let all_angles = self.ropes.iter().map(|rotation| rotation.of(positions));
        let all_angles = all_angles.collect::<Result<_, _>>()?;
        self.ops.begin();
        let meta = self.ops.meta(&plan, &self.stream)?;
        let fused = self.form.geometry.fused && (self.ops.fuses() || self.is_packed(plan.tokens()));
        Ok(Pass {
            plan,
            meta,
            all_angles,
            angles: RefCell::default(),
            ids: batch.ids.clone(),
            types: batch.types.clone(),
            lengths: Arc::clone(&batch.lengths),
            cached,
            fused,
        })
    }

    fn finish_cache(&self, layers: &[KeysValues]) -> Result<(), MlxError> {
        ops::eval(layers.iter().flat_map(|layer| [&layer.keys, &layer.values]))
    }

    fn pool_logits(
        &self,
        x: &Hidden,
        norm: Option<&Norm>,
        head: &MlmHead<Self>,
        batch: &Batch,
        pass: &Pass,
    ) -> Result<Vec<f32>, MlxError> {
        let stream = &self.stream;
        let product = self.product_of(x, norm, &head.dense, pass)?;
        let x = self.ops.activate_head(&product, head.dense.bias.as_ref(), stream)?;
        drop(product);
        let (x, _) = self.ops.sum(&x, None, Sum { sum: Some(&head.norm), ..Sum::default() }, stream)?;
        let of_texts = texts(batch, 0);
        // Sums are computed by the CPU, which reads the logits: the largest of each token alone.
        let tokens: Vec<_> = (0..batch.ids.len()).map(|token| token..token + 1).collect();
        let (mut pooled, mut first) = (vec![0.0; of_texts.len() * head.bias.len()], 0);
        for rows in &head.decoder {
            let logits = self.matmul(cuda::Left::Plain(&x), rows, pass)?;
            let width = rows.outputs as usize;
            if head.pooling.sums {
                let mut numbers = Vec::new();
                for tokens in tokens.chunks(TOKENS_TO_READ) {
                    numbers.extend(self.ops.largest(&logits, tokens, stream)?);
                }
                for (text, sums) in of_texts.iter().zip(pooled.chunks_exact_mut(head.bias.len())) {
                    head.add_weights(&numbers[text.start * width..text.end * width], width, first, sums);
                }
            } else {
                head.put(&self.ops.largest(&logits, &of_texts, stream)?, width, first, &mut pooled);
            }
            first += width;
        }
        Ok(pooled)
    }

    /// Means are computed where the states are, since one vector is read sooner than all states.
    fn pool(
        &self,
        x: &Hidden,
        norm: Option<&Norm>,
        pooling: Pooling,
        batch: &Batch,
        before: Before<'_>,
    ) -> Result<Vec<f32>, MlxError> {
        if pooling != PoolingMode::Mean || !before.hidden.is_empty() {
            return Ok(pooling.pool(self.finish(x, norm)?, batch, before));
        }
        self.ops.means(&x.x, norm, &texts(batch, before.left_out), &self.stream)
    }

    fn product(&self, x: &[f32], weight: &cuda::Dense) -> Result<Vec<f32>, MlxError> {
        self.ops.multiply(x, weight, &self.stream)
    }

    fn read(&self, x: &Hidden) -> Result<Vec<f32>, MlxError> {
        self.ops.finish(&x.x, None, &self.stream)
    }
}
