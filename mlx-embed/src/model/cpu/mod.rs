//! The decoder on this crate's kernels for the CPU. MLX has no part in it.
//!
//! States are f32, all tokens of a batch, text behind text, without padding.

mod precision;
mod projection;
mod table;
mod weights;

use std::sync::Arc;

use crate::batch::Batch;
use crate::checkpoint::spec::{
    Activation, EmbeddingSpec, HalfNorms, HeadsSpec, ModelSpec, NormSpec, ProjectionSpec, Sees,
};
use crate::checkpoint::{CheckpointError, Weights};
use crate::kernels::{
    self, AttentionOptions, Buffer, Engine, Floats, Heads, InMemory, KvCache, Limbs, Output, PackError, Part,
    Prepared, Reuse, Rotation, Source, Span,
};
use crate::mlx::{Dtype, MlxError, Stream};

use super::backend::{Backend, Operations, Place, Positions, Then};
use super::cache::LayerKvCache;
use super::decoder::{AttentionLayer, InputLayer, LayerInputs, MlmHead, MlpLayer};
use super::lookup::Lookup;
use super::rope::Rope;
use super::rounding::Rounding;
pub use precision::Precision;
use precision::SHORT_TEXT;
pub(crate) use precision::{LEAST_CACHED, Rule};
use projection::Projection;
use table::Table;
pub(crate) use weights::dequantized;
use weights::{Norm, Stored};

/// The kernels, and what their batches share.
#[derive(Debug)]
pub(crate) struct Cpu {
    engine: Engine,
    precision: Precision,
    ropes: Vec<Rope>,
}

impl Cpu {
    pub(crate) fn new(engine: Engine, precision: Precision, spec: &ModelSpec) -> Self {
        Self { engine, precision, ropes: spec.ropes.iter().map(Rope::new).collect() }
    }
}

/// A batch on its way through the layers.
#[derive(Debug)]
pub(crate) struct Pass {
    ids: Vec<u32>,
    /// Of each token, where not all are 0.
    types: Option<Vec<u32>>,
    lengths: Arc<[usize]>,
    /// Of each text how many tokens are seen.
    seen: Arc<[usize]>,
    /// Tokens that each text continues.
    cached: usize,
    /// For each token whether it is one of a short text.
    short: Vec<bool>,
    /// For each text whether it is short.
    short_texts: Vec<bool>,
    /// Of each rotary embedding.
    angles: Vec<Arc<[f32]>>,
    /// The same for queries.
    query_angles: Vec<Arc<[f32]>>,
    /// Of the states of its layers.
    _memory: Reuse,
}

/// The embedding tables and the norm of their sum.
#[derive(Debug)]
pub(crate) struct Embedding {
    tokens: Table,
    lookup: Lookup,
    width: usize,
    scale: f32,
    positions: Option<(Table, Positions)>,
    token_types: Option<TokenTypes>,
    norm: Option<Norm>,
}

/// Rows by the types of tokens.
#[derive(Debug)]
pub(crate) struct TokenTypes {
    table: Table,
    /// Of it, the row that every token of a text alone has.
    first: Vec<f32>,
}

impl TokenTypes {
    fn new(table: Table, width: usize, engine: &Engine) -> Result<Self, CheckpointError> {
        let mut first = vec![0.0; width];
        table.gather(engine, &[0], &mut first)?;
        Ok(Self { table, first })
    }
}

impl Backend for Cpu {
    type Pass = Pass;
    type Hidden = Buffer;
    type Wide = Buffer;
    type Heads = Prepared;
    type KeysValues = Arc<kernels::KeysValues>;
    type Embedding = Embedding;
    type Projection = Projection;
    type Norm = Norm;
    type HeadNorms = [Option<Norm>; 2];
    type Matrix = kernels::Dense;

    fn load_embedding(
        &self,
        weights: &Weights<'_>,
        spec: &EmbeddingSpec,
    ) -> Result<Embedding, CheckpointError> {
        let width = spec.tokens.width;
        let table = |spec| Ok::<_, CheckpointError>(Table::new(Stored(weights.table(spec)?), width));
        Ok(Embedding {
            tokens: table(&spec.tokens)?,
            lookup: Lookup::load(weights, spec)?,
            width,
            scale: spec.scale,
            positions: match &spec.positions {
                Some(positions) => Some((table(&positions.table)?, Positions::new(positions))),
                None => None,
            },
            token_types: match &spec.token_types {
                Some(types) => Some(TokenTypes::new(table(types)?, width, &self.engine)?),
                None => None,
            },
            norm: spec.norm.as_ref().map(|norm| Norm::load(weights, norm)).transpose()?,
        })
    }

    fn load_projection(
        &self,
        weights: &Weights<'_>,
        spec: &ProjectionSpec,
        place: Place,
    ) -> Result<Projection, CheckpointError> {
        let rule = self.precision.rule(place);
        let fit = self.precision.fit(place, &self.engine);
        Projection::load(&self.engine, weights, spec, place.role, rule, fit)
    }

    fn load_norm(&self, weights: &Weights<'_>, spec: &NormSpec) -> Result<Norm, CheckpointError> {
        Norm::load(weights, spec)
    }

    fn load_head_norms(
        &self,
        weights: &Weights<'_>,
        queries_keys: [Option<&NormSpec>; 2],
    ) -> Result<[Option<Norm>; 2], CheckpointError> {
        let load = |norm: Option<&NormSpec>| norm.map(|norm| Norm::load(weights, norm)).transpose();
        Ok([load(queries_keys[0])?, load(queries_keys[1])?])
    }

    fn load_matrix(&self, numbers: &[f32], [_, inputs]: [usize; 2]) -> Result<kernels::Dense, MlxError> {
        let matrix = InMemory { source: Source::Dense(Floats::F32(numbers)), columns: inputs };
        kernels::Dense::pack_one(&matrix, inputs, self.engine.pool()).map_err(|error| match error {
            PackError::Memory(error) => MlxError::new("load_matrix", error.to_string()),
            PackError::Rows(never) => match never {},
        })
    }

    fn rounding(&self, projection: &Projection) -> Rounding {
        projection.rounding()
    }

    fn attention_rounding(&self, layer: &AttentionLayer<Self>) -> Rounding {
        let rounds = self.engine.rounds_attention() && layer.qkv.rule().round_above(layer.sees).is_some();
        Rounding { attention: rounds.then_some(8), ..Rounding::default() }
    }

    fn packs(&self) -> bool {
        true
    }

    fn activation(&self) -> Dtype {
        Dtype::F32
    }

    fn stream(&self) -> Option<&Stream> {
        None
    }

    fn cache_bytes(&self, spec: &ModelSpec, tokens: usize) -> usize {
        let bytes = |heads: HeadsSpec| kernels::KeysValues::bytes_of(sizes(heads), tokens);
        spec.layers.iter().map(|layer| bytes(layer.attention.heads)).sum()
    }

    fn begin(&self, batch: &Batch, cached: usize, keeps: bool) -> Result<Pass, MlxError> {
        let lengths = &batch.lengths;
        // What is kept is the start of longer texts.
        let short = |length: usize| !keeps && cached + length <= SHORT_TEXT;
        let longest = cached + lengths.iter().copied().max().unwrap_or(0);
        Ok(Pass {
            ids: batch.ids.clone(),
            types: batch.types.clone(),
            lengths: Arc::clone(lengths),
            seen: Arc::clone(&batch.seen),
            cached,
            short: lengths.iter().flat_map(|&length| std::iter::repeat_n(short(length), length)).collect(),
            short_texts: lengths.iter().map(|&length| short(length)).collect(),
            angles: self.ropes.iter().map(|rope| rope.angles(longest)).collect(),
            query_angles: self.ropes.iter().map(|rope| rope.query_angles(longest)).collect(),
            _memory: self.engine.reuse(),
        })
    }

    fn finish_cache(&self, _layers: &[Arc<kernels::KeysValues>]) -> Result<(), MlxError> {
        Ok(())
    }

    fn pool_logits(
        &self,
        x: &Buffer,
        norm: Option<&Norm>,
        head: &MlmHead<Self>,
        batch: &Batch,
        pass: &Pass,
    ) -> Result<Vec<f32>, MlxError> {
        let mut inner = self.engine.buffer(head.dense.rows(x) * head.dense.outputs);
        let output = Output::Activated(act(head.activation), &mut inner);
        head.dense.run(&self.engine, x, norm, pass, output);
        let inner = self.normed(Some(&head.norm), inner);
        let vocabulary = head.bias.len();
        let least = if head.pooling.sums { 0.0 } else { f32::NEG_INFINITY };
        let mut pooled = vec![least; batch.lengths.len() * vocabulary];
        let mut first = 0;
        for rows in &head.decoder {
            let mut logits = self.engine.buffer(rows.rows(&inner) * rows.outputs);
            rows.run(&self.engine, &inner, None, pass, Output::Store(&mut logits));
            let texts = batch.starts.iter().zip(batch.lengths.iter());
            for ((&start, &length), pooled) in texts.zip(pooled.chunks_exact_mut(vocabulary)) {
                let of_text = &logits[start * rows.outputs..(start + length) * rows.outputs];
                if head.pooling.sums {
                    head.add_weights(of_text, rows.outputs, first, pooled);
                    continue;
                }
                let largest = &mut pooled[first..first + rows.outputs];
                of_text.chunks_exact(rows.outputs).for_each(|token| keep_larger(largest, token));
            }
            first += rows.outputs;
        }
        Ok(pooled)
    }

    fn product(&self, x: &[f32], weight: &kernels::Dense) -> Result<Vec<f32>, MlxError> {
        let (outputs, inputs) = (weight.outputs(), weight.inputs());
        let mut products = vec![0.0; x.len() / inputs * outputs];
        let part = Part { weights: kernels::Weights::Dense(weight), bias: None };
        self.engine.project(x, None, inputs, Limbs::Two, &[part], Output::Store(&mut products));
        Ok(products)
    }

    fn read(&self, x: &Buffer) -> Result<Vec<f32>, MlxError> {
        Ok(x.to_vec())
    }
}

impl Operations<Self> for Cpu {
    fn embed(&self, embedding: &Embedding, _next: Option<&Norm>, pass: &Pass) -> Result<Buffer, MlxError> {
        let Embedding { tokens, lookup, width, scale, positions, token_types, norm } = embedding;
        let mut x = self.engine.buffer(pass.ids.len() * width);
        self.gather(tokens, &lookup.rows(&pass.ids), &mut x)?;
        if let Some(factors) = lookup.factors(&pass.ids) {
            for (row, factor) in x.chunks_exact_mut(*width).zip(factors) {
                row.iter_mut().for_each(|x| *x *= factor);
            }
        }
        self.engine.scale_and_add(&mut x, *scale, None);
        if let Some((table, positions)) = positions {
            let mut rows = Vec::with_capacity(pass.ids.len());
            let mut rest = &pass.ids[..];
            for &length in pass.lengths.iter() {
                let (text, behind) = rest.split_at(length);
                rows.extend(positions.rows(text, pass.cached));
                rest = behind;
            }
            let mut added = self.engine.buffer(x.len());
            self.gather(table, &rows, &mut added)?;
            self.engine.add(&mut x, &added);
        }
        match (token_types, &pass.types) {
            (None, _) => {}
            (Some(TokenTypes { first, .. }), None) => {
                self.engine.scale_and_add(&mut x, 1.0, Some(first));
            }
            (Some(TokenTypes { table, .. }), Some(types)) => {
                let mut added = self.engine.buffer(x.len());
                self.gather(table, types, &mut added)?;
                self.engine.add(&mut x, &added);
            }
        }
        Ok(self.normed(norm.as_ref(), x))
    }

    fn layer_inputs(&self, x: &Buffer, inputs: &LayerInputs<Self>, pass: &Pass) -> Result<Buffer, MlxError> {
        let LayerInputs { projection, norm } = inputs;
        let mut all = self.engine.buffer(projection.rows(x) * projection.outputs);
        projection.run(&self.engine, x, None, pass, Output::Store(&mut all));
        Ok(self.normed(Some(norm), all))
    }

    fn qkv(&self, x: &Buffer, layer: &AttentionLayer<Self>, pass: &Pass) -> Result<Buffer, MlxError> {
        let mut qkv = self.engine.buffer(layer.qkv.rows(x) * layer.qkv.outputs);
        layer.qkv.run(&self.engine, x, layer.norms.input.as_ref(), pass, Output::Store(&mut qkv));
        Ok(qkv)
    }

    fn heads(
        &self,
        qkv: Buffer,
        layer: &AttentionLayer<Self>,
        cache: LayerKvCache<'_, Arc<kernels::KeysValues>>,
        pass: &Pass,
    ) -> Result<Prepared, MlxError> {
        let [q_norm, k_norm] = &layer.head_norms;
        let rotation = layer.rope.map(|rope| Rotation {
            angles: &pass.angles[rope],
            query_angles: &pass.query_angles[rope],
            traditional: self.ropes[rope].traditional(),
        });
        let options = AttentionOptions {
            heads: sizes(layer.heads),
            q_norm: q_norm.as_ref().and_then(Norm::rms),
            k_norm: k_norm.as_ref().and_then(Norm::rms),
            v_norm: layer.v_norm,
            rotation,
            scale: layer.scale,
            span: span(layer.sees),
            round_above: layer.qkv.rule().round_above(layer.sees),
        };
        let prepare = |cache| self.engine.prepare(&qkv, &pass.lengths, &pass.seen, &options, cache);
        Ok(match cache {
            LayerKvCache::None => prepare(KvCache::None),
            LayerKvCache::Keep(kept) => {
                let prepared = prepare(KvCache::Keep);
                kept.extend(prepared.kept().cloned());
                prepared
            }
            LayerKvCache::Continue(cached) => {
                prepare(KvCache::Continue { cached: Arc::clone(cached), tokens: pass.cached })
            }
        })
    }

    fn attend(&self, heads: Prepared, layer: &AttentionLayer<Self>, pass: &Pass) -> Result<Buffer, MlxError> {
        let mut mixed = self.engine.buffer(pass.ids.len() * layer.heads.queries());
        let distances = layer.relative.as_ref().map(|relative| relative.distances());
        self.engine.attend(heads, distances, &mut mixed);
        Ok(mixed)
    }

    fn up(&self, x: &Buffer, layer: &MlpLayer<Self>, pass: &Pass) -> Result<Buffer, MlxError> {
        let activation = act(layer.activation);
        let width = if layer.gated { layer.up.outputs / 2 } else { layer.up.outputs };
        let mut inner = self.engine.buffer(layer.up.rows(x) * width);
        let output = if layer.gated { Output::Gated } else { Output::Activated }(activation, &mut inner);
        layer.up.run(&self.engine, x, layer.norms.input.as_ref(), pass, output);
        Ok(inner)
    }

    fn gate(
        &self,
        x: &Buffer,
        inputs: &Buffer,
        layer: &InputLayer<Self>,
        pass: &Pass,
    ) -> Result<Buffer, MlxError> {
        let width = layer.gate.outputs;
        let mut gated = self.engine.buffer(layer.gate.rows(x) * width);
        layer.gate.run(&self.engine, x, None, pass, Output::Activated(act(layer.activation), &mut gated));
        let all = inputs.len() / gated.len() * width;
        for (gated, inputs) in gated.chunks_exact_mut(width).zip(inputs.chunks_exact(all)) {
            let own = &inputs[layer.index * width..][..width];
            gated.iter_mut().zip(own).for_each(|(x, y)| *x *= y);
        }
        Ok(gated)
    }

    fn add(
        &self,
        mut x: Buffer,
        y: &Buffer,
        weight: &Projection,
        norms: &HalfNorms<Norm>,
        then: Then<'_, Norm>,
        pass: &Pass,
    ) -> Result<Buffer, MlxError> {
        match &norms.output {
            None => weight.run(&self.engine, y, None, pass, Output::Add(&mut x)),
            Some(norm) => {
                let mut product = self.engine.buffer(x.len());
                weight.run(&self.engine, y, None, pass, Output::Store(&mut product));
                let product = self.normed(Some(norm), product);
                self.engine.add(&mut x, &product);
            }
        }
        let mut x = self.normed(norms.sum.as_ref(), x);
        if let Some(factor) = then.factor {
            x.iter_mut().for_each(|x| *x *= factor);
        }
        Ok(x)
    }

    fn rows(&self, x: &Buffer, y: &Buffer, rows: &[u32], pass: &Pass) -> Result<(Buffer, Buffer), MlxError> {
        let select = |from: &Buffer| {
            let width = from.len() / pass.ids.len();
            let mut to = self.engine.buffer(rows.len() * width);
            for (&row, to) in rows.iter().zip(to.chunks_exact_mut(width)) {
                to.copy_from_slice(&from[row as usize * width..][..width]);
            }
            to
        };
        Ok((select(x), select(y)))
    }

    fn finish(&self, x: &Buffer, norm: Option<&Norm>) -> Result<Vec<f32>, MlxError> {
        let Some(norm) = norm else { return Ok(x.to_vec()) };
        let mut states = vec![0.0; x.len()];
        self.engine.norm(x, norm.as_kernel(), &mut states);
        Ok(states)
    }
}

impl Cpu {
    fn gather(&self, table: &Table, ids: &[u32], out: &mut [f32]) -> Result<(), MlxError> {
        table.gather(&self.engine, ids, out).map_err(|error| MlxError::new("embed", error.to_string()))
    }

    fn normed(&self, norm: Option<&Norm>, x: Buffer) -> Buffer {
        let Some(norm) = norm else { return x };
        let mut normed = self.engine.buffer(x.len());
        self.engine.norm(&x, norm.as_kernel(), &mut normed);
        normed
    }
}

/// Of each pair the larger; NaN stays, to be told.
fn keep_larger(largest: &mut [f32], numbers: &[f32]) {
    for (largest, &x) in largest.iter_mut().zip(numbers) {
        *largest = if x > *largest || x.is_nan() { x } else { *largest };
    }
}

fn act(activation: Activation) -> kernels::Activation {
    match activation {
        Activation::Silu => kernels::Activation::Silu,
        Activation::Gelu => kernels::Activation::GeluErf,
        Activation::GeluTanh => kernels::Activation::GeluTanh,
        Activation::Relu => kernels::Activation::Relu,
        rare => kernels::Activation::Other(kernels::Function(rare.function().unwrap_or(|x| x))),
    }
}

fn sizes(HeadsSpec { heads, kv_heads, head_dim }: HeadsSpec) -> Heads {
    Heads { heads, kv_heads, head_dim }
}

fn span(sees: Sees) -> Span {
    match sees {
        Sees::Before => Span::CAUSAL,
        Sees::BeforeWithin(window) => Span { before: window.saturating_sub(1), after: 0 },
        Sees::All => Span { before: usize::MAX, after: usize::MAX },
        Sees::AllWithin(away) => Span { before: away, after: away },
    }
}
