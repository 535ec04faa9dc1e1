//! The decoder's operations as this crate's kernels for NVIDIA GPUs.
//!
//! In general what follows a product is a kernel of its own. Where all of a model's layers admit it, norms, rotation, residual
//! connections and the activation are part of the products, and a layer is five kernels: with packed weights on every GPU,
//! with weights of bf16 on Hopper. Products of few tokens read packed weights, those of many weights that are dequantised to
//! bf16 before, or are there as such (see [`policy`]); where nothing is part of these they are cuBLASLt's.
//!
//! Activations are of bf16 where the checkpoint's norms are or [`Precision::Fast`](super::Precision) is asked for, and else
//! of f32, with weights that are f32 in memory.

mod policy;
mod support;
mod weight;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::batch::Batch;
use crate::checkpoint::spec::{
    EmbeddingSpec, HalfNorms, ModelSpec, NormKind, NormSpec, ProjectionSpec, Sees, TableSpec,
};
use crate::checkpoint::{CheckpointError, Weights};
use crate::file::hex;
use crate::mlx::cuda::{self, Fixed, Norm, Numbers, Plan, Scaled, Seen, Sum, Tensor};
use crate::mlx::{Array, Dtype, MlxError, Stream, memory, ops};
use crate::pooling::{Before, Pooling, PoolingMode};

use super::backend::{Backend, Operations, Place, Positions, Role};
use super::cache::{KvCache, LayerKvCache};
use super::decoder::{AttentionLayer, Decoder, InputLayer, LayerInputs, MlmHead, MlpLayer, Rows};
use super::mlx::{Arrays, Table};
use super::rope::Rope;
use super::rounding::Rounding;

pub use policy::MatmulPolicy;
pub(crate) use support::{Form, form};

use policy::Calibration;
use weight::{Projection, RowOrder, dense, on_gpu};

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
    ropes: Vec<Rotation>,
    arrays: Arrays,
    stream: Stream,
}

/// A rotary embedding, and cosines and sines on the GPU: of the last base, for as many positions as were asked for so far,
/// of queries and of keys.
#[derive(Debug)]
struct Rotation {
    rope: Rope,
    angles: RefCell<Option<Angles>>,
}

#[derive(Debug)]
struct Angles {
    base: u64,
    positions: usize,
    angles: OfHeads,
}

/// Cosines and sines of queries and of keys.
type OfHeads = [Rc<Fixed>; 2];

/// A batch on its way through the layers.
#[derive(Debug)]
pub(crate) struct Pass {
    plan: Plan,
    /// The plan on the GPU.
    meta: Tensor,
    /// Of every position, for each rotary embedding.
    all_angles: Vec<OfHeads>,
    /// Of every token, `[T, E]`; [`Operations::embed`] fills them in where norms are part of products.
    angles: RefCell<Option<Tensor>>,
    /// The texts, for tables of positions.
    ids: Vec<u32>,
    /// Of each token, where not all are 0.
    types: Option<Vec<u32>>,
    lengths: Arc<[usize]>,
    cached: usize,
    /// Whether norms are part of the products that follow them.
    fused: bool,
}

/// The residual stream, and what was computed of it for the next norm.
#[derive(Debug)]
pub(crate) struct Hidden {
    x: Tensor, // [T, D]
    ahead: Ahead,
}

/// What a sum left for the norm that follows it.
#[derive(Debug)]
enum Ahead {
    /// No norm follows, or rows were selected and a sum follows.
    Nothing,
    /// For products that the norm is part of.
    Scaled(Scaled),
    /// The norm, `[T, D]`.
    Normed(Tensor),
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

/// Queries, keys and values, rotated, and what texts continue.
#[derive(Debug)]
pub(crate) struct Heads {
    qkv: Tensor, // [T, (H + 2K) * E]
    /// Keys and values, `[at least cached, K * E]`.
    cached: Option<[Array; 2]>,
}

/// Keys and values, `[L, K * E]`.
#[derive(Debug)]
pub(crate) struct KeysValues {
    keys: Array,
    values: Array,
}

#[cold]
fn no_norm() -> MlxError {
    MlxError::new("cuda", "a sum was not told which norm follows it")
}

/// [`form`] takes no checkpoint that asks for it.
#[cold]
fn not_here() -> MlxError {
    MlxError::new("cuda", "these kernels have no inputs of layers")
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
        let dequantize_from =
            if form.is_packed() && policy != MatmulPolicy::Dequantized { i32::MAX } else { 0 };
        Ok(Self {
            ops: cuda::Ops::new(kernels, gpu).map_err(|source| arrays.error("(kernels)", source))?,
            digest: kernels.digest().to_owned(),
            form,
            policy,
            dequantize_from: Cell::new(dequantize_from),
            ropes: spec
                .ropes
                .iter()
                .map(|rope| Rotation { rope: Rope::new(rope), angles: RefCell::default() })
                .collect(),
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

    /// The projection's matrices as a product of so many tokens reads them.
    fn read<'a>(
        &self,
        of: &'a Projection,
        pass: &Pass,
        tokens: i32,
    ) -> Result<Vec<(i32, cuda::Matrix<'a>)>, MlxError> {
        // Packed weights are read by the products that the model is compiled for: with all in them, or without. Those
        // write two outputs at once.
        let suits = (pass.fused || !self.form.geometry.fused) && of.outputs % 2 == 0;
        of.read(self, suits && self.is_packed(tokens), &self.stream)
    }

    /// As [`Cuda::read`], of a projection that is one matrix.
    fn read_one<'a>(
        &self,
        of: &'a Projection,
        pass: &Pass,
        tokens: i32,
    ) -> Result<cuda::Matrix<'a>, MlxError> {
        let several = || MlxError::new("product", "one matrix was expected");
        let mut matrices = self.read(of, pass, tokens)?.into_iter();
        match (matrices.next(), matrices.next()) {
            (Some((_, matrix)), None) => Ok(matrix),
            _ => Err(several()),
        }
    }

    /// The product of `x`'s norm, or of `x` without one, by a kernel of its own: `[T, outputs]`.
    fn product_of(
        &self,
        x: &Hidden,
        norm: Option<&Norm>,
        of: &Projection,
        pass: &Pass,
    ) -> Result<Tensor, MlxError> {
        let x = match (&x.ahead, norm) {
            (Ahead::Normed(normed), Some(_)) => normed,
            (Ahead::Nothing, None) => &x.x,
            _ => return Err(no_norm()),
        };
        let matrices = self.read(of, pass, x.shape()[0])?;
        self.ops.product(x, &matrices, of.outputs, &self.stream)
    }

    /// `x` and, where a norm is next, what was made of it.
    fn hidden((x, normed): (Tensor, Option<Tensor>)) -> Hidden {
        Hidden { x, ahead: normed.map_or(Ahead::Nothing, Ahead::Normed) }
    }

    /// Numbers in the GPU's memory.
    fn numbers(&self, numbers: &[f32], shape: &[i32]) -> Result<Fixed, MlxError> {
        Fixed::new(on_gpu(&Array::from_slice(numbers, shape)?, &self.stream)?)
    }

    /// A table's rows in the type of activations, `[rows, D]`.
    fn rows_of(&self, weights: &Weights<'_>, spec: &TableSpec) -> Result<Fixed, CheckpointError> {
        let table = weights.table(spec)?;
        let rows = dense(&self.arrays.matrix(&table, &self.stream)?, self.activation(), &self.stream);
        let fixed = rows.and_then(|rows| Fixed::new(on_gpu(&rows, &self.stream)?));
        table.release();
        fixed.map_err(|source| self.arrays.error(&spec.path, source))
    }

    /// Of all parts, f32; a part without has zeros. Nothing where no part has one and none is asked for.
    fn bias(
        &self,
        weights: &Weights<'_>,
        spec: &ProjectionSpec,
        place: Place,
    ) -> Result<Option<Fixed>, CheckpointError> {
        let asked = place.role == Role::Qkv && self.form.geometry.bias;
        let mut numbers = Vec::new();
        let mut any = asked;
        for part in &spec.parts {
            let bias = weights.bias(part)?;
            any |= bias.is_some();
            numbers.extend(bias.map_or_else(|| vec![0.0; part.outputs()], |bias| bias.to_f32()));
        }
        if !any {
            return Ok(None);
        }
        let fixed = self.numbers(&numbers, &[numbers.len() as i32]);
        fixed.map(Some).map_err(|source| self.arrays.error(&spec.parts[0].path, source))
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

    /// Cosines and sines, f32 `[at least positions, 2, E / 2]`, flat.
    fn angles(&self, rotation: &Rotation, positions: usize) -> Result<OfHeads, MlxError> {
        let Rotation { rope, angles } = rotation;
        let base = rope.base(positions).to_bits();
        let mut angles = angles.borrow_mut();
        if let Some(kept) = &*angles
            && kept.base == base
            && kept.positions >= positions
        {
            return Ok(kept.angles.clone());
        }
        let fixed = |numbers: &[f32]| -> Result<_, MlxError> {
            Ok(Rc::new(Fixed::new(Array::from_slice(numbers, &[numbers.len() as i32])?)?))
        };
        let numbers = rope.angles(positions);
        let of_keys = fixed(&numbers)?;
        let of_queries =
            if rope.grows() { fixed(&rope.query_angles(positions))? } else { Rc::clone(&of_keys) };
        let positions = numbers.len() / self.form.geometry.head_dim as usize;
        let made = [of_queries, of_keys];
        *angles = Some(Angles { base, positions, angles: made.clone() });
        Ok(made)
    }
}

/// What a norm multiplies with.
fn norm_weight(weights: &Weights<'_>, spec: &NormSpec) -> Result<Vec<f32>, CheckpointError> {
    let weight = weights.norm_weight(spec)?.to_f32();
    Ok(match spec.kind {
        NormKind::Rms { offset } => weight.iter().map(|x| x + offset).collect(),
        NormKind::Layer => weight,
    })
}

/// Each text's rows of a batch, but for its first `left_out`.
fn texts(batch: &Batch, left_out: usize) -> Vec<Range<usize>> {
    let text = |(&start, &length): (&usize, &usize)| start + left_out.min(length)..start + length;
    batch.starts.iter().zip(batch.lengths.iter()).map(text).collect()
}

/// What a layer's queries see.
fn seen(sees: Sees) -> Seen {
    let within = |tokens: usize| i32::try_from(tokens).unwrap_or(Seen::ALL).min(Seen::ALL);
    match sees {
        Sees::Before => Seen::BEFORE,
        Sees::BeforeWithin(tokens) => Seen { before: within(tokens.saturating_sub(1)), after: 0 },
        Sees::All => Seen { before: Seen::ALL, after: Seen::ALL },
        Sees::AllWithin(tokens) => Seen { before: within(tokens), after: within(tokens) },
    }
}

impl Backend for Cuda {
    type Pass = Pass;
    type Hidden = Hidden;
    type Wide = Tensor;
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
        let EmbeddingSpec { tokens, scale, positions, token_types, norm } = spec;
        let table = weights.table(tokens)?;
        let failed = |source| self.arrays.error(&tokens.path, source);
        let parts = match (self.arrays.matrix(&table, &self.stream)?, self.form.geometry.table) {
            (Table::Quantized { weight, scales, biases, .. }, Some(_)) => {
                [weight, scales].into_iter().chain(biases).collect()
            }
            (rows, _) => vec![dense(&rows, self.activation(), &self.stream).map_err(failed)?],
        };
        let fixed = |array: Array| Fixed::new(on_gpu(&array, &self.stream)?);
        let parts = parts.into_iter().map(|part| fixed(part).map_err(failed)).collect::<Result<_, _>>()?;
        table.release();
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
        let mut arrays = Vec::new();
        for matrix in &matrices {
            arrays.push(self.arrays.matrix(matrix, &self.stream)?);
        }
        let bias = self.bias(weights, spec, place)?;
        let projection = Projection::new(self, &arrays, order, bias, &self.stream);
        let projection = projection.map_err(|source| self.arrays.error(&spec.parts[0].path, source))?;
        drop(arrays);
        matrices.iter().for_each(crate::checkpoint::Matrix::release);
        Ok(projection)
    }

    fn load_norm(&self, weights: &Weights<'_>, spec: &NormSpec) -> Result<Norm, CheckpointError> {
        let failed = |source| self.arrays.error(&spec.weight, source);
        let vector = |numbers: &[f32]| self.numbers(numbers, &[numbers.len() as i32]).map_err(failed);
        let weight = vector(&norm_weight(weights, spec)?)?;
        let bias = weights.norm_bias(spec)?.map(|bias| vector(&bias.to_f32())).transpose()?;
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
        fixed.map(Some).map_err(|source| self.arrays.error(&queries.weight, source))
    }

    fn load_matrix(&self, numbers: &[f32], shape: [usize; 2]) -> Result<cuda::Dense, MlxError> {
        let array = Array::from_slice(numbers, &shape.map(|size| size as i32))?;
        cuda::Dense::new(on_gpu(&array, &self.stream)?)
    }

    /// All are copies in the GPU's memory.
    fn reads_files(&self) -> bool {
        false
    }

    fn rounding(&self, _projection: &Projection) -> Rounding {
        match self.form.geometry.numbers {
            Numbers::Tf32 => Rounding { activations: Some(11), weights: Some(11) },
            Numbers::Bf16 if self.form.has_precisions() => {
                Rounding { activations: Some(8), weights: Some(8) }
            }
            Numbers::Bf16 | Numbers::F32 => Rounding::default(),
        }
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
        self.form.geometry.numbers.dtype()
    }

    fn stream(&self) -> Option<&Stream> {
        Some(&self.stream)
    }

    fn begin(&self, batch: &Batch, cached: usize, _keeps: bool) -> Result<Pass, MlxError> {
        let plan = self.ops.plan(&batch.ids, &batch.lengths, &batch.seen, cached)?;
        let positions = plan.positions();
        let all_angles = self.ropes.iter().map(|rotation| self.angles(rotation, positions));
        let all_angles = all_angles.collect::<Result<_, _>>()?;
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

    fn largest_logits(
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
        let texts = texts(batch, 0);
        let (mut largest, mut first) = (vec![0.0; texts.len() * head.bias.len()], 0);
        for rows in &head.decoder {
            let matrices = self.read(rows, pass, x.shape()[0])?;
            let logits = self.ops.product(&x, &matrices, rows.outputs, stream)?;
            let (numbers, width) = (self.ops.largest(&logits, &texts, stream)?, rows.outputs as usize);
            head.put(&numbers, width, first, &mut largest);
            first += width;
        }
        Ok(largest)
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

impl Operations<Self> for Cuda {
    fn embed(&self, of: &Embedding, next: Option<&Norm>, pass: &Pass) -> Result<Hidden, MlxError> {
        let Pass { plan, meta, all_angles, ids, types, lengths, cached, fused, .. } = pass;
        let stream = &self.stream;
        let mut rows = Vec::new();
        if let Some((_, positions)) = &of.positions {
            let mut ids = &ids[..];
            for &length in lengths.iter() {
                let (text, rest) = ids.split_at(length);
                rows.extend(positions.rows(text, *cached));
                ids = rest;
            }
        }
        let embedding = cuda::Embedding {
            table: &of.tokens,
            factor: of.scale,
            positions: of.positions.as_ref().map(|(table, _)| (table, &rows[..])),
            types: of.token_types.as_ref().map(|table| (table, types.as_deref())),
        };
        if *fused {
            let (next, [_, angles]) = next.zip(all_angles.first()).ok_or_else(no_norm)?;
            let (x, ahead) = self.ops.embed(plan, meta, &embedding, Some((next.weight(), angles)), stream)?;
            let (scaled, angles) = ahead.ok_or_else(no_norm)?;
            pass.angles.replace(Some(angles));
            return Ok(Hidden { x, ahead: Ahead::Scaled(scaled) });
        }
        let (x, _) = self.ops.embed(plan, meta, &embedding, None, stream)?;
        if of.norm.is_none() && next.is_none() {
            return Ok(Hidden { x, ahead: Ahead::Nothing });
        }
        let norms = Sum { sum: of.norm.as_ref(), next, ..Sum::default() };
        self.ops.sum(&x, None, norms, stream).map(Self::hidden)
    }

    fn layer_inputs(
        &self,
        _x: &Hidden,
        _inputs: &LayerInputs<Self>,
        _pass: &Pass,
    ) -> Result<Tensor, MlxError> {
        Err(not_here())
    }

    fn gate(
        &self,
        _x: &Hidden,
        _inputs: &Tensor,
        _layer: &InputLayer<Self>,
        _pass: &Pass,
    ) -> Result<Tensor, MlxError> {
        Err(not_here())
    }

    fn scale(&self, _x: Hidden, _factor: f32) -> Result<Hidden, MlxError> {
        Err(not_here())
    }

    fn qkv(&self, x: &Hidden, layer: &AttentionLayer<Self>, pass: &Pass) -> Result<Tensor, MlxError> {
        let of_heads = [layer.qkv.bias.as_ref(), layer.head_norms.as_ref()];
        if let Ahead::Scaled(x) = &x.ahead {
            let matrices = self.read(&layer.qkv, pass, pass.plan.tokens())?;
            let angles = pass.angles.borrow();
            let angles = angles.as_ref().ok_or_else(no_norm)?;
            return self.ops.qkv(x, &matrices, of_heads, angles, &self.stream);
        }
        let product = self.product_of(x, layer.norms.input.as_ref(), &layer.qkv, pass)?;
        let angles = layer.rope.and_then(|rope| pass.all_angles.get(rope));
        let angles = angles.map(|[of_queries, of_keys]| [&**of_queries, &**of_keys]);
        self.ops.rotate(&product, of_heads, angles, &pass.plan, &pass.meta, &self.stream)
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

    fn attend(&self, heads: Heads, layer: &AttentionLayer<Self>, pass: &Pass) -> Result<Tensor, MlxError> {
        let cached = heads.cached.as_ref().map(|[keys, values]| [keys, values]);
        let how = (seen(layer.sees), layer.scale);
        self.ops.attention(&heads.qkv, cached, how, &pass.plan, &pass.meta, &self.stream)
    }

    fn up(&self, x: &Hidden, layer: &MlpLayer<Self>, pass: &Pass) -> Result<Tensor, MlxError> {
        if let Ahead::Scaled(scaled) = &x.ahead {
            let w = self.read_one(&layer.up, pass, x.x.shape()[0])?;
            return self.ops.gated(scaled, &w, &self.stream);
        }
        let product = self.product_of(x, layer.norms.input.as_ref(), &layer.up, pass)?;
        let alternating = self.form.geometry.fused;
        self.ops.activate(&product, layer.up.bias.as_ref(), alternating, &self.stream)
    }

    fn add(
        &self,
        x: Hidden,
        y: &Tensor,
        weight: &Projection,
        norms: &HalfNorms<Norm>,
        next: Option<&Norm>,
        pass: &Pass,
    ) -> Result<Hidden, MlxError> {
        let (x, stream, tokens) = (&x.x, &self.stream, y.shape()[0]);
        if pass.fused {
            let (w, next) = (self.read_one(weight, pass, tokens)?, next.ok_or_else(no_norm)?);
            let (x, scaled) = self.ops.add(x, y, &w, next.weight(), stream)?;
            return Ok(Hidden { x, ahead: Ahead::Scaled(scaled) });
        }
        let matrices = self.read(weight, pass, tokens)?;
        let product = self.ops.product(y, &matrices, weight.outputs, stream)?;
        drop(matrices);
        let HalfNorms { output, sum, .. } = norms;
        let (bias, output, sum) = (weight.bias.as_ref(), output.as_ref(), sum.as_ref());
        self.ops.sum(x, Some(&product), Sum { bias, output, sum, next }, stream).map(Self::hidden)
    }

    fn rows(&self, x: &Hidden, y: &Tensor, rows: &[u32], _pass: &Pass) -> Result<(Hidden, Tensor), MlxError> {
        let select = |x| self.ops.rows(x, rows, &self.stream);
        Ok((Hidden { x: select(&x.x)?, ahead: Ahead::Nothing }, select(y)?))
    }

    fn finish(&self, x: &Hidden, norm: Option<&Norm>) -> Result<Vec<f32>, MlxError> {
        self.ops.finish(&x.x, norm, &self.stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_count_the_query_as_the_spec_does() {
        assert_eq!(seen(Sees::Before), Seen { before: Seen::ALL, after: 0 });
        assert_eq!(seen(Sees::BeforeWithin(4)), Seen { before: 3, after: 0 });
        assert_eq!(seen(Sees::AllWithin(4)), Seen { before: 4, after: 4 });
        assert_eq!(seen(Sees::BeforeWithin(usize::MAX)), Seen { before: Seen::ALL, after: 0 });
    }
}
