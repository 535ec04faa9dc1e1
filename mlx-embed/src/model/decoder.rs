//! The stack of layers: the one place that knows the order of operations.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::batch::Batch;
use crate::checkpoint::spec::{
    Activation, AttentionSpec, HalfNorms, HeadsSpec, LayerInputsSpec, LayerSpec, MlmSpec, MlpSpec, ModelSpec,
    NormSpec, Sees, Splade,
};
use crate::checkpoint::{Checkpoint, CheckpointError, Weights};
use crate::error::Error;
use crate::file::OpenFile;
use crate::mlx::MlxError;
use crate::pooling::{Before, Pooling, Started};

use super::backend::{Backend, Operations, Place, Role, Then};
use super::cache::KvCache;
use super::relative::Relative;
use super::rounding::Rounding;

/// What sees the hidden states on the way: f32, row after row.
pub(crate) type Probe<'a> = dyn FnMut(Vec<f32>) + 'a;

/// Which rows of the last layer the caller needs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rows<'a> {
    All,
    /// These, counted over all tokens of the batch. Other rows skip what follows the last attention.
    Selected(&'a [u32]),
}

/// Rows of a model without layers that are held at once.
const ROWS_AT_ONCE: usize = 2048;

/// A model whose weights are in `B`'s form.
pub(crate) struct Decoder<B: Backend> {
    backend: B,
    /// D
    hidden: usize,
    embedding: B::Embedding,
    layer_inputs: Option<LayerInputs<B>>,
    layers: Vec<Layer<B>>,
    norm: Option<B::Norm>,
    mlm: Option<MlmHead<B>>,
    /// Weights may lie in these.
    files: Vec<Arc<OpenFile>>,
}

/// What makes the inputs of layers; see [`LayerInputsSpec`].
pub(crate) struct LayerInputs<B: Backend> {
    pub(super) projection: B::Projection,
    pub(super) norm: B::Norm,
}

pub(crate) struct Layer<B: Backend> {
    attention: AttentionLayer<B>,
    mlp: MlpLayer<B>,
    input: Option<InputLayer<B>>,
    scalar: Option<f32>,
}

/// The third part of a layer; see [`LayerInputSpec`](crate::checkpoint::spec::LayerInputSpec).
pub(crate) struct InputLayer<B: Backend> {
    /// Which of the inputs is this layer's.
    pub(super) index: usize,
    pub(super) gate: B::Projection,
    pub(super) activation: Activation,
    norms: HalfNorms<B::Norm>,
    output: B::Projection,
}

/// The first half of a layer; see [`AttentionSpec`].
pub(crate) struct AttentionLayer<B: Backend> {
    pub(super) norms: HalfNorms<B::Norm>,
    pub(super) qkv: B::Projection,
    pub(super) heads: HeadsSpec,
    pub(super) head_norms: B::HeadNorms,
    /// Epsilon of the norm of values.
    pub(super) v_norm: Option<f32>,
    pub(super) rope: Option<usize>,
    pub(super) scale: f32,
    pub(super) sees: Sees,
    /// All layers have the same.
    pub(super) relative: Option<Arc<Relative>>,
    output: B::Projection,
}

/// The second half of a layer; see [`MlpSpec`].
pub(crate) struct MlpLayer<B: Backend> {
    pub(super) norms: HalfNorms<B::Norm>,
    pub(super) up: B::Projection,
    pub(super) activation: Activation,
    pub(super) gated: bool,
    down: B::Projection,
}

/// The head of a masked language model; see [`MlmSpec`].
pub(crate) struct MlmHead<B: Backend> {
    pub(super) dense: B::Projection,
    pub(super) activation: Activation,
    pub(super) norm: B::Norm,
    pub(super) decoder: Vec<B::Projection>,
    pub(super) bias: Vec<f32>,
    pub(super) pooling: Splade,
}

impl<B: Backend> MlmHead<B> {
    fn load(b: &B, weights: &Weights<'_>, spec: &MlmSpec, layers: usize) -> Result<Self, CheckpointError> {
        // Behind the last layer.
        let place = Place { layer: layers, layers, role: Role::Up, causal: false, norms_products: false };
        let projection = |spec| b.load_projection(weights, spec, place);
        Ok(Self {
            dense: projection(&spec.dense)?,
            activation: spec.activation,
            norm: b.load_norm(weights, &spec.norm)?,
            decoder: spec.decoder.iter().map(projection).collect::<Result<_, _>>()?,
            bias: match weights.mlm_bias(spec)? {
                Some(bias) => bias.to_f32()?,
                None => vec![0.0; spec.vocabulary],
            },
            pooling: spec.pooling,
        })
    }
}

impl<B: Backend> MlmHead<B> {
    /// Puts the logits of some tokens, `[texts, width]`, among those of all, `[texts, vocabulary]`, from token `first` on.
    pub(super) fn put(&self, logits: &[f32], width: usize, first: usize, all: &mut [f32]) {
        for (all, logits) in all.chunks_exact_mut(self.bias.len()).zip(logits.chunks_exact(width)) {
            all[first..first + width].copy_from_slice(logits);
        }
    }

    /// Adds the weights of the logits of a text's tokens, `[tokens, width]`, to its own, `[vocabulary]`, from token `first` on.
    pub(super) fn add_weights(&self, logits: &[f32], width: usize, first: usize, sums: &mut [f32]) {
        let (sums, bias) = (&mut sums[first..first + width], &self.bias[first..first + width]);
        for token in logits.chunks_exact(width) {
            for ((sum, logit), bias) in sums.iter_mut().zip(token).zip(bias) {
                *sum += self.pooling.weight(logit + bias);
            }
        }
    }
}

impl<B: Backend> Decoder<B> {
    /// Loads every layer, and calls `loaded` after each.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        spec: &ModelSpec,
        backend: B,
        loaded: &dyn Fn(),
    ) -> Result<Self, Error> {
        let weights = &Weights::new(checkpoint);
        let embedding = backend.load_embedding(weights, &spec.embedding)?;
        let layer_inputs = match &spec.layer_inputs {
            Some(LayerInputsSpec { projection, norm }) => {
                let place = Place {
                    layer: 0,
                    layers: spec.layers.len(),
                    role: Role::Up,
                    causal: false,
                    norms_products: false,
                };
                let projection = backend.load_projection(weights, projection, place)?;
                Some(LayerInputs { projection, norm: backend.load_norm(weights, norm)? })
            }
            None => None,
        };
        let relative =
            spec.relative.as_ref().map(|relative| Relative::load(weights, relative)).transpose()?;
        let relative = relative.map(Arc::new);
        let mut layers = Vec::new();
        for (index, layer) in spec.layers.iter().enumerate() {
            let causal = matches!(layer.attention.sees, Sees::Before | Sees::BeforeWithin(_));
            let norms_products = layer.attention.norms.output.is_some() || layer.mlp.norms.output.is_some();
            let place =
                |role| Place { layer: index, layers: spec.layers.len(), role, causal, norms_products };
            layers.push(Layer::load(&backend, weights, layer, relative.as_ref(), place)?);
            loaded();
        }
        let norm = spec.norm.as_ref().map(|norm| backend.load_norm(weights, norm)).transpose()?;
        let files = if backend.reads_files() { weights.files().to_vec() } else { Vec::new() };
        let mlm =
            spec.mlm.as_ref().map(|head| MlmHead::load(&backend, weights, head, layers.len())).transpose()?;
        let hidden = spec.hidden;
        let decoder = Self { backend, hidden, embedding, layer_inputs, layers, norm, mlm, files };
        decoder.backend.loaded(&decoder)?;
        Ok(decoder)
    }

    pub(crate) fn backend(&self) -> &B {
        &self.backend
    }

    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Both halves of each layer.
    pub(super) fn halves(&self) -> impl Iterator<Item = (&AttentionLayer<B>, &MlpLayer<B>)> {
        self.layers.iter().map(|layer| (&layer.attention, &layer.mlp))
    }

    /// What any layer rounds.
    pub(crate) fn rounding(&self) -> Rounding {
        let of_layers = self.layers.iter().flat_map(Layer::projections);
        let inputs = self.layer_inputs.iter().map(|inputs| &inputs.projection);
        let head = self.mlm.iter().flat_map(|head| std::iter::once(&head.dense).chain(&head.decoder));
        let all = of_layers.chain(inputs).chain(head);
        let products = all.map(|projection| self.backend.rounding(projection));
        let attention = self.halves().map(|(layer, _)| self.backend.attention_rounding(layer));
        products.chain(attention).fold(Rounding::default(), Rounding::with)
    }

    /// Runs a batch while the files that weights are read from stay what was loaded. If they don't, that is the error, whatever
    /// the batch gave: vectors of a mixture, or a row that could not be read.
    pub(crate) fn hold_weights<T>(&self, batch: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        // Where files are mapped, a process that touches pages that a shrunken one no longer has ends by a signal.
        self.check_weights()?;
        let result = batch();
        self.check_weights()?;
        result
    }

    /// Whether the files that weights are read from are still what was loaded. Cheap.
    pub(crate) fn check_weights(&self) -> Result<(), Error> {
        for file in &self.files {
            file.check_unchanged().map_err(|error| Error::WeightsChanged {
                path: file.path().display().to_string(),
                reason: error.to_string(),
            })?;
        }
        Ok(())
    }

    /// Hidden states after the final norm: f32, row after row, `[T, D]` or as many as `rows` selects.
    ///
    /// `probe` sees every hidden state on the way: the embeddings, then the residual stream after each layer, then the
    /// result.
    pub(crate) fn forward(
        &self,
        batch: &Batch,
        rows: Rows<'_>,
        cache: KvCache<'_, B::KeysValues>,
        probe: Option<&mut Probe<'_>>,
    ) -> Result<Vec<f32>, MlxError> {
        self.forward_with(&self.backend, 0..self.layers.len(), batch, rows, cache, probe)
    }

    /// As [`Decoder::forward`], through some of the layers, by the operations `b`.
    pub(crate) fn forward_with(
        &self,
        b: &impl Operations<B>,
        layers: Range<usize>,
        batch: &Batch,
        rows: Rows<'_>,
        cache: KvCache<'_, B::KeysValues>,
        mut probe: Option<&mut Probe<'_>>,
    ) -> Result<Vec<f32>, MlxError> {
        let mut show = |x: &B::Hidden| match &mut probe {
            Some(probe) => self.backend.read(x).map(probe),
            None => Ok(()),
        };
        let (x, _) = self.through(b, layers, batch, rows, cache, &mut show)?;
        let states = b.finish(&x, self.norm.as_ref())?;
        if let Some(probe) = probe {
            probe(states.clone());
        }
        Ok(states)
    }

    /// A pooled vector of each text, f32, row after row.
    pub(crate) fn pooled(
        &self,
        batch: &Batch,
        pooling: Pooling,
        cache: KvCache<'_, B::KeysValues>,
        before: Before<'_>,
    ) -> Result<Vec<f32>, MlxError> {
        if self.layers.is_empty() {
            return self.pooled_in_parts(batch, pooling, before.left_out);
        }
        let rows = pooling.rows(batch, before.left_out);
        let rows = rows.as_deref().map_or(Rows::All, Rows::Selected);
        let (b, layers) = (&self.backend, 0..self.layers.len());
        let (x, _) = self.through(b, layers, batch, rows, cache, &mut |_| Ok(()))?;
        b.pool(&x, self.norm.as_ref(), pooling, batch, before)
    }

    /// The same without layers, where no row depends on another: some rows at a time, so that a text of any length takes
    /// little memory. A text without tokens has no row, and is pooled, too.
    fn pooled_in_parts(
        &self,
        batch: &Batch,
        pooling: Pooling,
        left_out: usize,
    ) -> Result<Vec<f32>, MlxError> {
        let mut texts = vec![pooling.start(self.hidden); batch.lengths.len()];
        let places = batch.starts.iter().zip(batch.lengths.iter());
        let ids: Vec<u32> =
            places.flat_map(|(&start, &length)| &batch.ids[start..start + length]).copied().collect();
        let (mut text, mut seen) = (0, 0);
        for part in ids.chunks(ROWS_AT_ONCE) {
            let rows = self.forward(&Batch::packed(&[part]), Rows::All, KvCache::None, None)?;
            let mut rows = &rows[..];
            while !rows.is_empty() {
                while seen == batch.lengths[text] {
                    (text, seen) = (text + 1, 0);
                }
                let count = (batch.lengths[text] - seen).min(rows.len() / self.hidden);
                let (own, rest) = rows.split_at(count * self.hidden);
                let started = std::mem::replace(&mut texts[text], pooling.start(0));
                texts[text] = started.over(own, seen, left_out);
                (rows, seen) = (rest, seen + count);
            }
        }
        Ok(texts.into_iter().flat_map(Started::finish).collect())
    }

    /// The residual stream behind these layers, which `show` sees at each step.
    fn through(
        &self,
        b: &impl Operations<B>,
        layers: Range<usize>,
        batch: &Batch,
        rows: Rows<'_>,
        mut cache: KvCache<'_, B::KeysValues>,
        show: &mut dyn FnMut(&B::Hidden) -> Result<(), MlxError>,
    ) -> Result<(B::Hidden, B::Pass), MlxError> {
        let keeps = matches!(cache, KvCache::Keep(_));
        let pass = self.backend.begin(batch, cache.cached(), keeps)?;
        let mut x = b.embed(&self.embedding, self.norm_before(layers.start), &pass)?;
        show(&x)?;
        let inputs = self.layer_inputs.as_ref();
        let mut inputs = inputs.map(|inputs| b.layer_inputs(&x, inputs, &pass)).transpose()?;
        for index in layers {
            let Layer { attention, mlp, input, scalar } = &self.layers[index];
            let qkv = b.qkv(&x, attention, &pass)?;
            let heads = b.heads(qkv, attention, cache.layer(index), &pass)?;
            let mut mixed = b.attend(heads, attention, &pass)?;
            if let (Rows::Selected(rows), true) = (rows, index + 1 == self.layers.len()) {
                if let Some(of_all) = &inputs {
                    inputs = Some(b.rows(&x, of_all, rows, &pass)?.1);
                }
                (x, mixed) = b.rows(&x, &mixed, rows, &pass)?;
            }
            let then = Then { factor: None, next: mlp.norms.input.as_ref() };
            x = b.add(x, &mixed, &attention.output, &attention.norms, then, &pass)?;
            drop(mixed);
            let inner = b.up(&x, mlp, &pass)?;
            let own_input = input.as_ref().zip(inputs.as_ref());
            // What follows the layer follows its last sum.
            let then = |last: bool| {
                let next = self.norm_before(index + 1).filter(|_| last);
                Then { factor: scalar.filter(|_| last), next }
            };
            x = b.add(x, &inner, &mlp.down, &mlp.norms, then(own_input.is_none()), &pass)?;
            drop(inner);
            if let Some((input, inputs)) = own_input {
                let gated = b.gate(&x, inputs, input, &pass)?;
                x = b.add(x, &gated, &input.output, &input.norms, then(true), &pass)?;
            }
            show(&x)?;
        }
        Ok((x, pass))
    }

    /// Of each text the weight of each token of the vocabulary, `[texts, vocabulary]`; nothing where the model has no head
    /// for that.
    pub(crate) fn pool_logits(&self, batch: &Batch) -> Result<Vec<f32>, MlxError> {
        let Some(head) = &self.mlm else { return Ok(Vec::new()) };
        let (b, layers) = (&self.backend, 0..self.layers.len());
        let (x, pass) = self.through(b, layers, batch, Rows::All, KvCache::None, &mut |_| Ok(()))?;
        let mut all = b.pool_logits(&x, self.norm.as_ref(), head, batch, &pass)?;
        if !head.pooling.sums {
            for logits in all.chunks_exact_mut(head.bias.len()) {
                for (logit, bias) in logits.iter_mut().zip(&head.bias) {
                    *logit = head.pooling.weight(*logit + bias);
                }
            }
        }
        Ok(all)
    }

    /// The norm that layer `index` begins with, or that follows the last.
    fn norm_before(&self, index: usize) -> Option<&B::Norm> {
        match self.layers.get(index) {
            Some(layer) => layer.attention.norms.input.as_ref(),
            None => self.norm.as_ref(),
        }
    }
}

#[cfg(feature = "bench")]
impl<B: Backend> AttentionLayer<B> {
    pub(crate) fn qkv(&self) -> &B::Projection {
        &self.qkv
    }
}

#[cfg(feature = "bench")]
impl<B: Backend> InputLayer<B> {
    pub(crate) fn gate(&self) -> &B::Projection {
        &self.gate
    }
}

#[cfg(feature = "bench")]
impl<B: Backend> LayerInputs<B> {
    pub(crate) fn projection(&self) -> &B::Projection {
        &self.projection
    }
}

#[cfg(feature = "bench")]
impl<B: Backend> MlpLayer<B> {
    pub(crate) fn up(&self) -> &B::Projection {
        &self.up
    }
}

impl<B: Backend> Layer<B> {
    fn projections(&self) -> impl Iterator<Item = &B::Projection> {
        let Self { attention, mlp, input, .. } = self;
        let always = [&attention.qkv, &attention.output, &mlp.up, &mlp.down];
        always.into_iter().chain(input.iter().flat_map(|input| [&input.gate, &input.output]))
    }

    fn load(
        b: &B,
        weights: &Weights<'_>,
        LayerSpec { attention, mlp, input, scalar }: &LayerSpec,
        relative: Option<&Arc<Relative>>,
        place: impl Fn(Role) -> Place,
    ) -> Result<Self, CheckpointError> {
        let norms = |of: &HalfNorms| -> Result<HalfNorms<B::Norm>, CheckpointError> {
            let load =
                |norm: &Option<NormSpec>| norm.as_ref().map(|norm| b.load_norm(weights, norm)).transpose();
            Ok(HalfNorms { input: load(&of.input)?, output: load(&of.output)?, sum: load(&of.sum)? })
        };
        let projection = |spec, role| b.load_projection(weights, spec, place(role));
        let AttentionSpec { heads, v_norm, rope, scale, sees, .. } = *attention;
        let MlpSpec { activation, gated, .. } = *mlp;
        Ok(Self {
            attention: AttentionLayer {
                norms: norms(&attention.norms)?,
                qkv: projection(
                    &attention.qkv,
                    if is_sharp(attention) { Role::SharpQkv } else { Role::Qkv },
                )?,
                head_norms: b
                    .load_head_norms(weights, [attention.q_norm.as_ref(), attention.k_norm.as_ref()])?,
                output: projection(&attention.output, Role::Output)?,
                heads,
                v_norm,
                rope,
                scale,
                sees,
                relative: relative.cloned(),
            },
            mlp: MlpLayer {
                norms: norms(&mlp.norms)?,
                up: projection(&mlp.up, if gated { Role::GateUp } else { Role::Up })?,
                down: projection(&mlp.down, Role::Down)?,
                activation,
                gated,
            },
            input: match input {
                Some(input) => Some(InputLayer {
                    index: place(Role::Up).layer,
                    gate: projection(&input.gate, Role::Up)?,
                    activation: input.activation,
                    norms: norms(&input.norms)?,
                    output: projection(&input.output, Role::Down)?,
                }),
                None => None,
            },
            scalar: scalar.as_ref().map(|name| weights.number(name)).transpose()?,
        })
    }
}

/// Whether scores are much larger than those of the paper, which divides them by the root of the head's width.
fn is_sharp(attention: &AttentionSpec) -> bool {
    attention.scale * (attention.heads.head_dim as f32).sqrt() > 2.0
}

impl<B: Backend> fmt::Debug for Decoder<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("layers", &self.layers.len()).finish_non_exhaustive()
    }
}
