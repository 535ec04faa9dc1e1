//! The decoder on MLX's own operations, on any device: Metal's way, the fallback elsewhere, and what this crate's kernels
//! are held to.
//!
//! States are `[B, L, width]`, padded on the right.

mod attention;
mod linear;
mod weights;

use std::borrow::Cow;
use std::sync::Arc;

use crate::batch::Batch;
use crate::checkpoint::spec::{
    Activation, EmbeddingSpec, HalfNorms, ModelSpec, NormKind, NormSpec, ProjectionSpec,
};
use crate::checkpoint::{CheckpointError, Weights};
use crate::mlx::{Array, Backend as Device, Dtype, MlxError, Stream, ops};

use super::backend::{Backend, Operations, Place, Positions, Then};
use super::cache::LayerKvCache;
use super::decoder::{AttentionLayer, Decoder, InputLayer, LayerInputs, MlmHead, MlpLayer};
use super::lookup::Lookup;
use super::rope::{Frequencies, Rope};
use attention::Masks;
use linear::{Linear, gather};
pub(super) use linear::{Table, quantized_ref};
pub(super) use weights::Arrays;

/// MLX on one stream.
#[derive(Debug)]
pub(crate) struct Mlx {
    stream: Stream,
    arrays: Arrays,
    ropes: Vec<(Rope, Option<Array>)>,
}

impl Mlx {
    /// For a checkpoint's model, whose files must outlive what is computed.
    pub(crate) fn new(
        weights: &Weights<'_>,
        spec: &ModelSpec,
        stream: Stream,
    ) -> Result<Self, CheckpointError> {
        let arrays = Arrays::new(weights, spec, &stream)?;
        let mut ropes = Vec::new();
        for rope in spec.ropes.iter().map(Rope::new) {
            let periods = match rope.frequencies() {
                Frequencies::Periods(periods) => {
                    let array = Array::from_slice(periods, &[periods.len() as i32]);
                    Some(array.map_err(|source| arrays.error("rope", source))?)
                }
                Frequencies::Base(_) | Frequencies::Dynamic { .. } => None,
            };
            ropes.push((rope, periods));
        }
        Ok(Self { stream, arrays, ropes })
    }
}

/// A batch on its way through the layers.
#[derive(Debug)]
pub(crate) struct Pass {
    ids: Array, // [B, L]
    host_ids: Vec<u32>,
    /// `[B, L]`, where not all tokens are of type 0.
    types: Option<Array>,
    lengths: Arc<[usize]>,
    /// Of each text how many tokens are seen.
    seen: Arc<[usize]>,
    /// L
    tokens: usize,
    /// Tokens that each text continues.
    cached: usize,
    masks: Masks,
}

/// Keys and values, rotated: `[B, K, L, E]`.
#[derive(Debug)]
pub(crate) struct KeysValues {
    keys: Array,
    values: Array,
}

#[cfg(test)]
impl KeysValues {
    pub(crate) fn bytes(&self) -> usize {
        self.keys.nbytes() + self.values.nbytes()
    }
}

/// The embedding tables and the norm of their sum.
#[derive(Debug)]
pub(crate) struct Embedding {
    tokens: Table,
    lookup: Lookup,
    scale: f32,
    positions: Option<(Table, Positions)>,
    token_types: Option<Table>,
    norm: Option<Norm>,
}

#[derive(Debug)]
pub(crate) struct Norm {
    weight: Array,
    bias: Option<Array>,
    kind: NormKind,
    eps: f32,
}

impl Norm {
    fn forward(&self, x: &Array, stream: &Stream) -> Result<Array, MlxError> {
        match self.kind {
            NormKind::Rms { .. } => ops::rms_norm(x, Some(&self.weight), self.eps, stream),
            NormKind::Layer => ops::layer_norm(x, &self.weight, self.bias.as_ref(), self.eps, stream),
        }
    }
}

/// `norm(x)`, or `x` without one.
fn normed(norm: Option<&Norm>, x: &Array, stream: &Stream) -> Result<Array, MlxError> {
    norm.map_or_else(|| Ok(x.clone()), |norm| norm.forward(x, stream))
}

impl Backend for Mlx {
    type Pass = Pass;
    type Hidden = Array;
    /// What each part of a projection comes to.
    type Wide = Vec<Array>;
    type Heads = [Array; 3];
    type KeysValues = KeysValues;
    type Embedding = Embedding;
    type Projection = Vec<Linear>;
    type Norm = Norm;
    type HeadNorms = [Option<Norm>; 2];
    /// `[inputs, outputs]`
    type Matrix = Array;

    fn load_embedding(
        &self,
        weights: &Weights<'_>,
        spec: &EmbeddingSpec,
    ) -> Result<Embedding, CheckpointError> {
        let table = |spec| self.arrays.matrix(&weights.table(spec)?, &self.stream);
        Ok(Embedding {
            tokens: table(&spec.tokens)?,
            lookup: Lookup::load(weights, spec)?,
            scale: spec.scale,
            positions: match &spec.positions {
                Some(positions) => Some((table(&positions.table)?, Positions::new(positions))),
                None => None,
            },
            token_types: spec.token_types.as_ref().map(table).transpose()?,
            norm: spec.norm.as_ref().map(|norm| self.load_norm(weights, norm)).transpose()?,
        })
    }

    fn load_projection(
        &self,
        weights: &Weights<'_>,
        spec: &ProjectionSpec,
        _place: Place,
    ) -> Result<Vec<Linear>, CheckpointError> {
        let part = |part| -> Result<Linear, CheckpointError> {
            let weight = self.arrays.matrix(&weights.matrix(part, spec.inputs)?, &self.stream)?;
            let bias = match weights.bias(part)? {
                Some(bias) => Some(self.arrays.vector(&bias, &self.stream)?),
                None => None,
            };
            Ok(Linear { weight, bias })
        };
        spec.parts.iter().map(part).collect()
    }

    fn load_norm(&self, weights: &Weights<'_>, spec: &NormSpec) -> Result<Norm, CheckpointError> {
        let weight = weights.norm_weight(spec)?;
        let bias = weights.norm_bias(spec)?;
        Ok(Norm {
            weight: match spec.kind {
                NormKind::Rms { offset } if offset != 0.0 => {
                    let numbers: Vec<f32> = weight.to_f32()?.iter().map(|x| x + offset).collect();
                    self.arrays.numbers(&weight, &numbers, &self.stream)?
                }
                _ => self.arrays.vector(&weight, &self.stream)?,
            },
            bias: bias.map(|bias| self.arrays.vector(&bias, &self.stream)).transpose()?,
            kind: spec.kind,
            eps: spec.eps,
        })
    }

    fn load_head_norms(
        &self,
        weights: &Weights<'_>,
        queries_keys: [Option<&NormSpec>; 2],
    ) -> Result<[Option<Norm>; 2], CheckpointError> {
        let load = |norm: Option<&NormSpec>| norm.map(|norm| self.load_norm(weights, norm)).transpose();
        Ok([load(queries_keys[0])?, load(queries_keys[1])?])
    }

    fn load_matrix(&self, numbers: &[f32], shape: [usize; 2]) -> Result<Array, MlxError> {
        let [outputs, inputs] = shape.map(|size| size as i32);
        ops::transpose(&Array::from_slice(numbers, &[outputs, inputs])?, &[1, 0], &self.stream)
    }

    fn packs(&self) -> bool {
        false
    }

    fn activation(&self) -> Dtype {
        self.arrays.activation()
    }

    fn stream(&self) -> Option<&Stream> {
        Some(&self.stream)
    }

    fn begin(&self, batch: &Batch, cached: usize, _keeps: bool) -> Result<Pass, MlxError> {
        Ok(Pass {
            ids: Array::from_slice(&batch.ids, &batch.shape)?,
            host_ids: batch.ids.clone(),
            types: batch.types.as_ref().map(|types| Array::from_slice(types, &batch.shape)).transpose()?,
            lengths: Arc::clone(&batch.lengths),
            seen: Arc::clone(&batch.seen),
            tokens: batch.shape[1] as usize,
            cached,
            masks: Masks::default(),
        })
    }

    fn loaded(&self, _decoder: &Decoder<Self>) -> Result<(), MlxError> {
        self.arrays.loaded();
        Ok(())
    }

    fn finish_cache(&self, layers: &[KeysValues]) -> Result<(), MlxError> {
        ops::eval(layers.iter().flat_map(|layer| [&layer.keys, &layer.values]))
    }

    fn pool_logits(
        &self,
        x: &Array,
        norm: Option<&Norm>,
        head: &MlmHead<Self>,
        batch: &Batch,
        _pass: &Pass,
    ) -> Result<Vec<f32>, MlxError> {
        let stream = &self.stream;
        let ([dense], texts) = (&head.dense[..], batch.lengths.len()) else {
            return Err(MlxError::new("pool_logits", "the head's first matrix is one"));
        };
        let x = dense.forward(&normed(norm, x, stream)?, stream)?;
        let x = head.norm.forward(&self.act(head.activation, &x)?, stream)?;
        let padding = self.behind_texts(batch)?;
        let (mut pooled, mut first) = (vec![0.0; texts * head.bias.len()], 0);
        for rows in head.decoder.iter().flatten() {
            let logits = rows.forward(&x, stream)?; // [B, L, rows]
            if head.pooling.sums {
                let (numbers, width) = (self.read(&logits)?, logits.shape()[2] as usize);
                let of_texts = numbers.chunks_exact(batch.shape[1] as usize * width);
                let sums = pooled.chunks_exact_mut(head.bias.len());
                for ((of_text, sums), &length) in of_texts.zip(sums).zip(batch.lengths.iter()) {
                    head.add_weights(&of_text[..length * width], width, first, sums);
                }
                first += width;
                continue;
            }
            let mut logits = ops::add(&logits, &padding, stream)?;
            // Halves, which overlap by one where their number is odd.
            while let tokens @ 2.. = logits.shape()[1] {
                let half = (tokens + 1) / 2;
                let front = ops::slice_axis(&logits, 1, 0, half, stream)?;
                let back = ops::slice_axis(&logits, 1, tokens - half, tokens, stream)?;
                logits = ops::maximum(&front, &back, stream)?;
            }
            // Now, so that one part's logits are held at a time.
            let numbers = self.read(&logits)?;
            let width = numbers.len() / texts;
            head.put(&numbers, width, first, &mut pooled);
            first += width;
        }
        Ok(pooled)
    }

    fn product(&self, x: &[f32], weight: &Array) -> Result<Vec<f32>, MlxError> {
        let inputs = weight.shape()[0];
        let x = Array::from_slice(x, &[x.len() as i32 / inputs, inputs])?;
        ops::matmul(&x, weight, &self.stream)?.to_vec(&self.stream)
    }

    fn read(&self, x: &Array) -> Result<Vec<f32>, MlxError> {
        ops::astype(x, Dtype::F32, &self.stream)?.to_vec(&self.stream)
    }
}

impl Operations<Self> for Mlx {
    fn embed(&self, embedding: &Embedding, _next: Option<&Norm>, pass: &Pass) -> Result<Array, MlxError> {
        let (stream, activation) = (&self.stream, self.activation());
        let rows = match embedding.lookup.rows(&pass.host_ids) {
            Cow::Borrowed(_) => pass.ids.clone(),
            Cow::Owned(rows) => Array::from_slice(&rows, pass.ids.shape())?,
        };
        let mut x = gather(&embedding.tokens, activation, &rows, stream)?; // [B, L, D]
        if let Some(factors) = embedding.lookup.factors(&pass.host_ids) {
            let shape = [pass.ids.shape(), &[1]].concat();
            let factors = ops::astype(&Array::from_slice(&factors, &shape)?, activation, stream)?;
            x = ops::multiply(&x, &factors, stream)?;
        }
        if embedding.scale != 1.0 {
            x = ops::multiply(&x, &self.number(embedding.scale)?, stream)?;
        }
        if let Some((table, positions)) = &embedding.positions {
            let mut rows = Vec::with_capacity(pass.ids.size());
            for (text, &length) in pass.host_ids.chunks(pass.tokens).zip(pass.lengths.iter()) {
                rows.extend(positions.rows(&text[..length], pass.cached));
                // Nobody sees what is added to padding.
                rows.resize(rows.len() + pass.tokens - length, 0);
            }
            let rows = Array::from_slice(&rows, pass.ids.shape())?;
            x = ops::add(&x, &gather(table, activation, &rows, stream)?, stream)?;
        }
        if let Some(table) = &embedding.token_types {
            let first = Array::from_slice(&[0_u32], &[1, 1])?;
            let types = pass.types.as_ref().unwrap_or(&first);
            x = ops::add(&x, &gather(table, activation, types, stream)?, stream)?;
        }
        normed(embedding.norm.as_ref(), &x, stream)
    }

    fn layer_inputs(
        &self,
        x: &Array,
        inputs: &LayerInputs<Self>,
        _pass: &Pass,
    ) -> Result<Vec<Array>, MlxError> {
        let stream = &self.stream;
        let LayerInputs { projection, norm } = inputs;
        let part = |part: &Linear| {
            let all = part.forward(x, stream)?; // [B, L, layers * P]
            let [batch, tokens, width] = [0, 1, 2].map(|axis| all.shape()[axis]);
            let size = norm.weight.size() as i32;
            let of_layers = ops::reshape(&all, &[batch, tokens, width / size, size], stream)?;
            ops::reshape(&norm.forward(&of_layers, stream)?, &[batch, tokens, width], stream)
        };
        projection.iter().map(part).collect()
    }

    fn qkv(&self, x: &Array, layer: &AttentionLayer<Self>, _pass: &Pass) -> Result<Vec<Array>, MlxError> {
        let x = normed(layer.norms.input.as_ref(), x, &self.stream)?;
        layer.qkv.iter().map(|part| part.forward(&x, &self.stream)).collect()
    }

    fn heads(
        &self,
        qkv: Vec<Array>,
        layer: &AttentionLayer<Self>,
        cache: LayerKvCache<'_, KeysValues>,
        pass: &Pass,
    ) -> Result<[Array; 3], MlxError> {
        let [q, k, v] = self.rotate(&qkv, layer, pass)?;
        Ok(match cache {
            LayerKvCache::None => [q, k, v],
            LayerKvCache::Keep(kept) => {
                kept.push(KeysValues { keys: k.clone(), values: v.clone() });
                [q, k, v]
            }
            LayerKvCache::Continue(before) => [
                q,
                self.continued(&before.keys, pass.cached, k)?,
                self.continued(&before.values, pass.cached, v)?,
            ],
        })
    }

    fn attend(
        &self,
        [q, k, v]: [Array; 3],
        layer: &AttentionLayer<Self>,
        pass: &Pass,
    ) -> Result<Vec<Array>, MlxError> {
        self.mix(&q, &k, &v, layer, pass).map(|mixed| vec![mixed])
    }

    fn up(&self, x: &Array, layer: &MlpLayer<Self>, _pass: &Pass) -> Result<Vec<Array>, MlxError> {
        let stream = &self.stream;
        let x = normed(layer.norms.input.as_ref(), x, stream)?;
        let parts = layer.up.iter().map(|part| part.forward(&x, stream)).collect::<Result<Vec<_>, _>>()?;
        let inner = match &parts[..] {
            [gate, up] if layer.gated => ops::multiply(&self.act(layer.activation, gate)?, up, stream)?,
            [up] if !layer.gated => self.act(layer.activation, up)?,
            _ => return Err(MlxError::new("up", format!("{} parts where 2 are gate and up", parts.len()))),
        };
        Ok(vec![inner])
    }

    fn gate(
        &self,
        x: &Array,
        inputs: &Vec<Array>,
        layer: &InputLayer<Self>,
        _pass: &Pass,
    ) -> Result<Vec<Array>, MlxError> {
        let ([inputs], [gate]) = (&inputs[..], &layer.gate[..]) else {
            return Err(MlxError::new("gate", "one matrix gates one input"));
        };
        let gate = self.act(layer.activation, &gate.forward(x, &self.stream)?)?;
        let (axis, width) = (gate.shape().len() - 1, gate.shape().last().copied().unwrap_or(0));
        let start = layer.index as i32 * width;
        let own = ops::slice_axis(inputs, axis, start, start + width, &self.stream)?;
        Ok(vec![ops::multiply(&gate, &own, &self.stream)?])
    }

    fn add(
        &self,
        x: Array,
        y: &Vec<Array>,
        weight: &Vec<Linear>,
        norms: &HalfNorms<Norm>,
        then: Then<'_, Norm>,
        _pass: &Pass,
    ) -> Result<Array, MlxError> {
        let ([y], [weight]) = (&y[..], &weight[..]) else {
            return Err(MlxError::new("add", "one matrix of one state is added"));
        };
        let product = normed(norms.output.as_ref(), &weight.forward(y, &self.stream)?, &self.stream)?;
        let x = normed(norms.sum.as_ref(), &ops::add(&x, &product, &self.stream)?, &self.stream)?;
        match then.factor {
            Some(factor) => ops::multiply(&x, &self.number(factor)?, &self.stream),
            None => Ok(x),
        }
    }

    fn rows(
        &self,
        x: &Array,
        y: &Vec<Array>,
        rows: &[u32],
        _pass: &Pass,
    ) -> Result<(Array, Vec<Array>), MlxError> {
        let list = Array::from_slice(rows, &[rows.len() as i32])?;
        let select = |x: &Array| {
            let width = x.shape().last().copied().unwrap_or(0);
            ops::take(&ops::reshape(x, &[-1, width], &self.stream)?, &list, 0, &self.stream)
        };
        Ok((select(x)?, y.iter().map(select).collect::<Result<_, _>>()?))
    }

    fn finish(&self, x: &Array, norm: Option<&Norm>) -> Result<Vec<f32>, MlxError> {
        self.read(&normed(norm, x, &self.stream)?)
    }
}

impl Mlx {
    /// A scalar in the activation's type.
    fn number(&self, number: f32) -> Result<Array, MlxError> {
        ops::astype(&Array::from_slice(&[number], &[1])?, self.activation(), &self.stream)
    }

    /// Minus infinity for each token behind a text's end, else 0: `[B, L, 1]`.
    fn behind_texts(&self, batch: &Batch) -> Result<Array, MlxError> {
        let [texts, tokens] = batch.shape;
        let of_text = |&length: &usize| {
            (0..tokens as usize).map(move |token| if token < length { 0.0_f32 } else { f32::NEG_INFINITY })
        };
        let numbers: Vec<f32> = batch.lengths.iter().flat_map(of_text).collect();
        ops::astype(&Array::from_slice(&numbers, &[texts, tokens, 1])?, self.activation(), &self.stream)
    }

    fn act(&self, activation: Activation, x: &Array) -> Result<Array, MlxError> {
        let stream = &self.stream;
        let times = |a: &Array, number| ops::multiply(a, &self.number(number)?, stream);
        let plus = |a: &Array, number| ops::add(a, &self.number(number)?, stream);
        let from = |a: &Array, least| ops::maximum(a, &self.number(least)?, stream);
        let up_to = |a: &Array, most: f32| times(&from(&times(a, -1.0)?, -most)?, -1.0);
        match activation {
            Activation::Silu => ops::multiply(x, &ops::sigmoid(x, stream)?, stream),
            // x / 2 * (1 + erf(x / sqrt(2)))
            Activation::Gelu => {
                let erf = ops::erf(&times(x, std::f32::consts::FRAC_1_SQRT_2)?, stream)?;
                ops::multiply(&times(x, 0.5)?, &plus(&erf, 1.0)?, stream)
            }
            // x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))
            Activation::GeluTanh => {
                let cube = ops::multiply(&ops::multiply(x, x, stream)?, x, stream)?;
                let inner = times(&ops::add(x, &times(&cube, 0.044_715)?, stream)?, 0.797_884_6)?;
                ops::multiply(&times(x, 0.5)?, &plus(&ops::tanh(&inner, stream)?, 1.0)?, stream)
            }
            Activation::Relu => from(x, 0.0),
            Activation::Identity => Ok(x.clone()),
            Activation::Tanh => ops::tanh(x, stream),
            Activation::Sigmoid => ops::sigmoid(x, stream),
            Activation::QuickGelu => ops::multiply(x, &ops::sigmoid(&times(x, 1.702)?, stream)?, stream),
            Activation::ClippedGelu => up_to(&self.act(Activation::Gelu, x)?, 10.0),
            Activation::Relu6 => up_to(&from(x, 0.0)?, 6.0),
            Activation::LeakyRelu => ops::maximum(x, &times(x, 0.01)?, stream),
            Activation::SquaredRelu => {
                let relu = from(x, 0.0)?;
                ops::multiply(&relu, &relu, stream)
            }
            Activation::HardSwish => {
                let gate = up_to(&from(&plus(x, 3.0)?, 0.0)?, 6.0)?;
                times(&ops::multiply(x, &gate, stream)?, 1.0 / 6.0)
            }
            // With s = sigmoid(x) and t = sigmoid(-x), which is 1 - s, it is x * s * (1 + t) / (1 + t^2).
            Activation::Mish => {
                let s = ops::sigmoid(x, stream)?;
                let t = ops::sigmoid(&times(x, -1.0)?, stream)?;
                let above = ops::multiply(&ops::multiply(x, &s, stream)?, &plus(&t, 1.0)?, stream)?;
                ops::divide(&above, &plus(&ops::multiply(&t, &t, stream)?, 1.0)?, stream)
            }
            Activation::Laplace => {
                let inner = times(&plus(x, -Activation::LAPLACE_MEAN)?, Activation::LAPLACE_FACTOR)?;
                times(&plus(&ops::erf(&inner, stream)?, 1.0)?, 0.5)
            }
        }
    }

    /// The first `cached` of the keys or values `before`, in front of each text's `own`.
    ///
    /// # Shape
    /// `before` `[1, K, at least cached, E]`, `own` `[B, K, L, E]`, result `[B, K, cached + L, E]`.
    fn continued(&self, before: &Array, cached: usize, own: Array) -> Result<Array, MlxError> {
        let cached = cached as i32;
        let shared = ops::slice_axis(before, 2, 0, cached, &self.stream)?;
        let shape = [own.shape()[0], own.shape()[1], cached, own.shape()[3]];
        ops::concatenate(&[ops::broadcast_to(&shared, &shape, &self.stream)?, own], 2, &self.stream)
    }

    /// Whether arrays are computed on the CPU, where MLX holds the scores of attention.
    fn on_cpu(&self) -> bool {
        self.stream.backend() == Device::Cpu
    }
}
