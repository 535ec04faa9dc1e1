//! The decoder's operations as this crate's kernels for NVIDIA GPUs.
//!
//! Norms, rotation, residual connections and the activation are part of the products; a layer is five kernels. Products of
//! few tokens read packed weights, those of many weights that are dequantised to bf16 before, or are there as such (see
//! [`policy`]). On GPUs other than Hopper products of dequantised weights are cuBLASLt's, and what follows them are kernels of
//! their own.

mod policy;
mod support;
mod weight;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::batch::Batch;
use crate::checkpoint::spec::{EmbeddingSpec, HalfNorms, ModelSpec, NormSpec, ProjectionSpec};
use crate::checkpoint::{CheckpointError, Tensor as StoredTensor, Weights};
use crate::file::hex;
use crate::mlx::cuda::{self, Fixed, Plan, Scaled, Tensor};
use crate::mlx::{Array, Dtype, MlxError, Stream, memory, ops};

use super::backend::{Backend, Operations, Place, Role};
use super::cache::{KvCache, LayerKvCache};
use super::decoder::{AttentionLayer, Decoder, MlpLayer, Rows};
use super::mlx::{Arrays, Table};
use super::rope::Rope;

pub use policy::MatmulPolicy;
pub(crate) use support::{Form, form};

use policy::Calibration;
use weight::{RowOrder, Weight, on_gpu};

/// What calibration runs: few layers, as they are alike, and texts so short that attention counts for little.
const LAYERS_TO_MEASURE: usize = 8;
const TEXT_TO_MEASURE: usize = 64;

/// The kernels, and what their batches share.
#[derive(Debug)]
pub(crate) struct Cuda {
    ops: cuda::Ops,
    digest: String,
    form: Form,
    policy: MatmulPolicy,
    /// From so many tokens on weights are dequantised.
    dequantize_from: Cell<i32>,
    rope: Rope,
    angles: RefCell<Option<Angles>>,
    arrays: Arrays,
    stream: Stream,
}

/// Cosines and sines on the GPU: of the last base, for as many positions as were asked for so far.
#[derive(Debug)]
struct Angles {
    base: u64,
    positions: usize,
    angles: Rc<Fixed>,
}

/// A batch on its way through the layers.
#[derive(Debug)]
pub(crate) struct Pass {
    plan: Plan,
    /// The plan on the GPU.
    meta: Tensor,
    /// Of every position.
    all_angles: Rc<Fixed>,
    /// Of every token, `[T, E]`; [`Operations::embed`] fills them in.
    angles: RefCell<Option<Tensor>>,
    /// Whether norms are part of the products that follow them.
    fused: bool,
}

/// The residual stream, and what was computed of it for the next norm.
#[derive(Debug)]
pub(crate) struct Hidden {
    x: Tensor, // bf16 [T, D]
    /// Nothing where rows were selected: a sum follows.
    deferred: Option<DeferredNorm>,
}

/// What a sum left for the norm that follows it.
#[derive(Debug)]
enum DeferredNorm {
    /// For products that the norm is part of.
    Scaled(Scaled),
    /// For products by cuBLASLt: bf16 `[T, D]`.
    Normed(Tensor),
}

/// Queries, keys and values, rotated, and what texts continue.
#[derive(Debug)]
pub(crate) struct Heads {
    qkv: Tensor, // bf16 [T, (H + 2K) * E]
    /// Keys and values, `[at least cached, K * E]`.
    cached: Option<[Array; 2]>,
}

/// Keys and values, `[L, K * E]`.
#[derive(Debug)]
pub(crate) struct KeysValues {
    keys: Array,
    values: Array,
}

/// Matrices that read the same rows.
#[derive(Debug)]
pub(crate) struct Projection {
    weight: Weight,
    bias: Option<Fixed>,
}

#[cold]
fn no_norm() -> MlxError {
    MlxError::new("cuda", "a sum was not told which norm follows it")
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
        let arrays = Arrays::new(weights, spec, &stream)?;
        let dequantize_from = if form.packed && policy != MatmulPolicy::Dequantized { i32::MAX } else { 0 };
        Ok(Self {
            ops: cuda::Ops::new(kernels, gpu).map_err(|source| arrays.error("(kernels)", source))?,
            digest: kernels.digest().to_owned(),
            form,
            policy,
            dequantize_from: Cell::new(dequantize_from),
            rope: Rope::new(&spec.ropes[0]),
            angles: RefCell::default(),
            arrays,
            stream,
        })
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

    /// `x` plus the product of `a`, and what the norm `next` is computed from.
    fn sum(
        &self,
        x: &Tensor,
        a: &Tensor,
        weight: &Weight,
        next: &Fixed,
        pass: &Pass,
    ) -> Result<Hidden, MlxError> {
        let w = weight.matrix(self, pass.fused, a.shape()[0], &self.stream)?;
        if pass.fused {
            let (x, scaled) = self.ops.add(x, a, &w, next, &self.stream)?;
            Ok(Hidden { x, deferred: Some(DeferredNorm::Scaled(scaled)) })
        } else {
            let (x, normed) = self.ops.add_apart(x, a, &w, next, &self.stream)?;
            Ok(Hidden { x, deferred: Some(DeferredNorm::Normed(normed)) })
        }
    }

    /// Vectors of the file, one behind the other, as an array of this shape.
    fn vectors(&self, vectors: &[StoredTensor], shape: &[i32]) -> Result<Fixed, CheckpointError> {
        let mut all = Vec::new();
        for vector in vectors {
            all.push(self.arrays.vector(vector, &self.stream)?);
        }
        let joined = ops::concatenate(&all, 0, &self.stream)
            .and_then(|all| ops::reshape(&all, shape, &self.stream))
            .and_then(Fixed::new);
        joined.map_err(|source| self.arrays.error(vectors.first().map_or("", StoredTensor::name), source))
    }

    /// `[T, K * E]` each.
    fn keys_values(&self, qkv: &Array) -> Result<KeysValues, MlxError> {
        let geometry = &self.form.geometry;
        let [queries, keys] = [geometry.heads, geometry.kv_heads].map(|heads| heads * geometry.head_dim);
        let part = |start| {
            ops::contiguous(&ops::slice_axis(qkv, 1, start, start + keys, &self.stream)?, &self.stream)
        };
        Ok(KeysValues { keys: part(queries)?, values: part(queries + keys)? })
    }

    /// Finds out from how many tokens on weights are better dequantized, unless the policy or an earlier measurement says
    /// it. `run` runs a few layers with so many tokens.
    fn calibrate(&self, mut run: impl FnMut(i32) -> Result<(), MlxError>) -> Result<(), MlxError> {
        if !self.form.packed || ![MatmulPolicy::Auto, MatmulPolicy::Resident].contains(&self.policy) {
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

    /// See [`Ops::embed`](cuda::Ops::embed).
    fn angles(&self, positions: usize) -> Result<Rc<Fixed>, MlxError> {
        let base = self.rope.base(positions).to_bits();
        let mut angles = self.angles.borrow_mut();
        if let Some(kept) = &*angles
            && kept.base == base
            && kept.positions >= positions
        {
            return Ok(Rc::clone(&kept.angles));
        }
        let numbers = self.rope.angles(positions);
        let positions = numbers.len() / self.form.geometry.head_dim as usize;
        let made = Array::from_slice(&numbers, &[numbers.len() as i32])?;
        let made = Rc::new(Fixed::new(made)?);
        *angles = Some(Angles { base, positions, angles: Rc::clone(&made) });
        Ok(made)
    }
}

impl Backend for Cuda {
    type Pass = Pass;
    type Hidden = Hidden;
    type Wide = Tensor;
    type Heads = Heads;
    type KeysValues = KeysValues;
    /// As [`Ops::embed`](cuda::Ops::embed) takes it.
    type Embedding = Vec<Fixed>;
    type Projection = Projection;
    type Norm = Fixed;
    /// `[2, E]`, of queries and of keys.
    type HeadNorms = Option<Fixed>;

    fn load_embedding(
        &self,
        weights: &Weights<'_>,
        spec: &EmbeddingSpec,
    ) -> Result<Vec<Fixed>, CheckpointError> {
        let table = weights.table(&spec.tokens)?;
        let parts = match self.arrays.matrix(&table, &self.stream)? {
            Table::Dense(table) => vec![table],
            Table::Quantized { weight, scales, biases, .. } => {
                [weight, scales].into_iter().chain(biases).collect()
            }
        };
        let fixed = |array: Array| Fixed::new(on_gpu(&array, &self.stream)?);
        let failed = |source| self.arrays.error(&spec.tokens.path, source);
        let parts = parts.into_iter().map(|part| fixed(part).map_err(failed)).collect();
        table.release();
        parts
    }

    fn load_projection(
        &self,
        weights: &Weights<'_>,
        spec: &ProjectionSpec,
        place: Place,
    ) -> Result<Projection, CheckpointError> {
        let order = if place.role == Role::GateUp { RowOrder::ByEights } else { RowOrder::Stacked };
        let mut matrices = Vec::new();
        let mut biases = Vec::new();
        for part in &spec.parts {
            matrices.push(weights.matrix(part, spec.inputs)?);
            biases.extend(weights.bias(part)?);
        }
        let mut arrays = Vec::new();
        for matrix in &matrices {
            arrays.push(self.arrays.matrix(matrix, &self.stream)?);
        }
        let weight = Weight::new(self, &arrays, order, &self.stream);
        let weight = weight.map_err(|source| self.arrays.error(&spec.parts[0].path, source))?;
        drop(arrays);
        matrices.iter().for_each(crate::checkpoint::Matrix::release);
        let bias = if biases.is_empty() { None } else { Some(self.vectors(&biases, &[-1])?) };
        Ok(Projection { weight, bias })
    }

    fn load_norm(&self, weights: &Weights<'_>, spec: &NormSpec) -> Result<Fixed, CheckpointError> {
        self.vectors(&[weights.norm_weight(spec)?], &[-1])
    }

    fn load_head_norms(
        &self,
        weights: &Weights<'_>,
        queries_keys: [Option<&NormSpec>; 2],
    ) -> Result<Option<Fixed>, CheckpointError> {
        let [Some(queries), Some(keys)] = queries_keys else { return Ok(None) };
        let norms = [weights.norm_weight(queries)?, weights.norm_weight(keys)?];
        self.vectors(&norms, &[2, -1]).map(Some)
    }

    fn loaded(&self, decoder: &Decoder<Self>) -> Result<(), MlxError> {
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
        self.trim()
    }

    fn packs(&self) -> bool {
        true
    }

    fn activation(&self) -> Dtype {
        Dtype::Bf16
    }

    fn stream(&self) -> Option<&Stream> {
        Some(&self.stream)
    }

    fn begin(&self, batch: &Batch, cached: usize, _keeps: bool) -> Result<Pass, MlxError> {
        let plan = self.ops.plan(&batch.ids, &batch.lengths, cached)?;
        let all_angles = self.angles(plan.positions())?;
        let meta = self.ops.meta(&plan, &self.stream)?;
        let fused = self.ops.fuses() || self.is_packed(plan.tokens());
        Ok(Pass { plan, meta, all_angles, angles: RefCell::default(), fused })
    }

    fn finish_cache(&self, layers: &[KeysValues]) -> Result<(), MlxError> {
        ops::eval(layers.iter().flat_map(|layer| [&layer.keys, &layer.values]))
    }

    fn read(&self, x: &Hidden) -> Result<Vec<f32>, MlxError> {
        self.ops.finish(&x.x, None, &self.stream)
    }
}

impl Operations<Self> for Cuda {
    fn embed(&self, table: &Vec<Fixed>, next: Option<&Fixed>, pass: &Pass) -> Result<Hidden, MlxError> {
        let (stream, next) = (&self.stream, next.ok_or_else(no_norm)?);
        let (x, scaled, angles) =
            self.ops.embed(&pass.plan, &pass.meta, table, next, &pass.all_angles, stream)?;
        pass.angles.replace(Some(angles));
        let deferred = if pass.fused {
            DeferredNorm::Scaled(scaled)
        } else {
            DeferredNorm::Normed(self.ops.norm(&x, next, stream)?)
        };
        Ok(Hidden { x, deferred: Some(deferred) })
    }

    fn qkv(&self, x: &Hidden, layer: &AttentionLayer<Self>, pass: &Pass) -> Result<Tensor, MlxError> {
        let of_heads = [layer.qkv.bias.as_ref(), layer.head_norms.as_ref()];
        let w = layer.qkv.weight.matrix(self, pass.fused, pass.plan.tokens(), &self.stream)?;
        let angles = pass.angles.borrow();
        let angles = angles.as_ref().ok_or_else(no_norm)?;
        match x.deferred.as_ref().ok_or_else(no_norm)? {
            DeferredNorm::Scaled(x) => self.ops.qkv(x, &w, of_heads, angles, &self.stream),
            DeferredNorm::Normed(x) => self.ops.qkv_apart(x, &w, of_heads, angles, &self.stream),
        }
    }

    /// They are rotated already, as part of the product.
    fn heads(
        &self,
        qkv: Tensor,
        _layer: &AttentionLayer<Self>,
        cache: LayerKvCache<'_, KeysValues>,
        _pass: &Pass,
    ) -> Result<Heads, MlxError> {
        let cached = match cache {
            LayerKvCache::None => None,
            LayerKvCache::Continue(KeysValues { keys, values }) => Some([keys.clone(), values.clone()]),
            LayerKvCache::Keep(kept) => {
                let own = self.keys_values(&self.ops.array(&qkv, &self.stream)?)?;
                // The memory behind the array is free for others once `qkv` goes.
                self.finish_cache(std::slice::from_ref(&own))?;
                kept.push(own);
                None
            }
        };
        Ok(Heads { qkv, cached })
    }

    fn attend(&self, heads: Heads, _layer: &AttentionLayer<Self>, pass: &Pass) -> Result<Tensor, MlxError> {
        let cached = heads.cached.as_ref().map(|[keys, values]| [keys, values]);
        self.ops.attention(&heads.qkv, cached, &pass.plan, &pass.meta, &self.stream)
    }

    fn up(&self, x: &Hidden, layer: &MlpLayer<Self>, pass: &Pass) -> Result<Tensor, MlxError> {
        let w = layer.up.weight.matrix(self, pass.fused, x.x.shape()[0], &self.stream)?;
        match x.deferred.as_ref().ok_or_else(no_norm)? {
            DeferredNorm::Scaled(x) => self.ops.gated(x, &w, &self.stream),
            DeferredNorm::Normed(x) => self.ops.gated_apart(x, &w, &self.stream),
        }
    }

    fn add(
        &self,
        x: Hidden,
        y: &Tensor,
        weight: &Projection,
        _norms: &HalfNorms<Fixed>,
        next: Option<&Fixed>,
        pass: &Pass,
    ) -> Result<Hidden, MlxError> {
        self.sum(&x.x, y, &weight.weight, next.ok_or_else(no_norm)?, pass)
    }

    fn rows(&self, x: &Hidden, y: &Tensor, rows: &[u32], _pass: &Pass) -> Result<(Hidden, Tensor), MlxError> {
        let select = |x| self.ops.rows(x, rows, &self.stream);
        Ok((Hidden { x: select(&x.x)?, deferred: None }, select(y)?))
    }

    fn finish(&self, x: &Hidden, norm: Option<&Fixed>) -> Result<Vec<f32>, MlxError> {
        match &x.deferred {
            Some(DeferredNorm::Normed(normed)) => self.ops.finish(normed, None, &self.stream),
            _ => self.ops.finish(&x.x, norm, &self.stream),
        }
    }
}
