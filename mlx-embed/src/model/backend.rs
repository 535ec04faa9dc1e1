//! What a device has to be able to do.

use crate::batch::Batch;
use crate::checkpoint::spec::{
    EmbeddingSpec, HalfNorms, HeadsSpec, ModelSpec, NormSpec, PositionsSpec, ProjectionSpec,
};
use crate::checkpoint::{CheckpointError, Weights};
use crate::mlx::{Dtype, MlxError, Stream};
use crate::pooling::{Before, Pooling};

use super::cache::LayerKvCache;
use super::decoder::{AttentionLayer, Decoder, InputLayer, LayerInputs, MlmHead, MlpLayer};
use super::rounding::Rounding;

/// A device's form of weights and states, and how they are made. What it computes with them is [`Operations`].
///
/// Shapes use one set of letters: T tokens of a batch, padding included, D hidden, H heads, K key and value heads,
/// E head_dim, I intermediate, P a layer's input.
pub(crate) trait Backend: Sized + Operations<Self> {
    /// What one batch needs besides its states: where its texts are, masks, angles.
    type Pass;
    /// The residual stream, `[T, D]`, and what the device has computed of the norm that comes next (a deferred norm).
    type Hidden;
    /// What lies between two projections of one half of a layer: `[T, width]`.
    type Wide;
    /// Queries, keys and values, normed and rotated.
    type Heads;
    /// Keys and values of one layer, kept for texts that begin alike.
    type KeysValues;
    /// The embedding tables.
    type Embedding;
    /// Matrices that read the same rows, with their biases.
    type Projection;
    type Norm;
    /// The norms of heads of queries and keys.
    type HeadNorms;
    /// A matrix behind pooling.
    type Matrix: std::fmt::Debug;

    fn load_embedding(
        &self,
        weights: &Weights<'_>,
        spec: &EmbeddingSpec,
    ) -> Result<Self::Embedding, CheckpointError>;

    /// `place` says what of a layer it is.
    fn load_projection(
        &self,
        weights: &Weights<'_>,
        spec: &ProjectionSpec,
        place: Place,
    ) -> Result<Self::Projection, CheckpointError>;

    fn load_norm(&self, weights: &Weights<'_>, spec: &NormSpec) -> Result<Self::Norm, CheckpointError>;

    fn load_head_norms(
        &self,
        weights: &Weights<'_>,
        queries_keys: [Option<&NormSpec>; 2],
    ) -> Result<Self::HeadNorms, CheckpointError>;

    /// The matrix `[outputs, inputs]` of a module behind pooling, in f32.
    fn load_matrix(&self, numbers: &[f32], shape: [usize; 2]) -> Result<Self::Matrix, MlxError>;

    /// What products with these matrices round.
    fn rounding(&self, _projection: &Self::Projection) -> Rounding {
        Rounding::default()
    }

    /// What the attention of this layer rounds.
    fn attention_rounding(&self, _layer: &AttentionLayer<Self>) -> Rounding {
        Rounding::default()
    }

    /// Whether weights are read from their files or where these are mapped, and so have to stay as they were.
    fn reads_files(&self) -> bool {
        true
    }

    /// Comes after all weights. A backend that finds out what is fastest runs the decoder here.
    fn loaded(&self, _decoder: &Decoder<Self>) -> Result<(), MlxError> {
        Ok(())
    }

    /// Whether texts of a batch are packed ([`Batch::packed`]) rather than padded.
    fn packs(&self) -> bool;

    /// The type of activations.
    fn activation(&self) -> Dtype;

    /// The stream of MLX's that it uses, if it uses MLX.
    fn stream(&self) -> Option<&Stream>;

    /// Bytes that keys and values of `tokens` tokens take, of all layers.
    fn cache_bytes(&self, spec: &ModelSpec, tokens: usize) -> usize {
        let numbers = |heads: HeadsSpec| 2 * heads.kv_heads * heads.head_dim * tokens;
        spec.layers.iter().map(|layer| numbers(layer.attention.heads)).sum::<usize>()
            * self.activation().size()
    }

    /// Starts a batch whose texts continue `cached` tokens. Where `keeps`, the batch is what longer texts begin with.
    fn begin(&self, batch: &Batch, cached: usize, keeps: bool) -> Result<Self::Pass, MlxError>;

    /// Computes what was built so far, so that nothing else of it is held.
    fn finish_cache(&self, layers: &[Self::KeysValues]) -> Result<(), MlxError>;

    /// Of each text and each token of the vocabulary the largest logit over the text's tokens, without the head's bias; or,
    /// where the head sums, the sum of their weights: `[texts, vocabulary]`. `norm` is what follows the layers.
    fn pool_logits(
        &self,
        x: &Self::Hidden,
        norm: Option<&Self::Norm>,
        head: &MlmHead<Self>,
        batch: &Batch,
        pass: &Self::Pass,
    ) -> Result<Vec<f32>, MlxError>;

    /// The pooled vector of each text of the batch, as [`Pooling::pool`] makes it of `norm(x)` and what was before: f32,
    /// row after row.
    fn pool(
        &self,
        x: &Self::Hidden,
        norm: Option<&Self::Norm>,
        pooling: Pooling,
        batch: &Batch,
        before: Before<'_>,
    ) -> Result<Vec<f32>, MlxError> {
        Ok(pooling.pool(self.finish(x, norm)?, batch, before))
    }

    /// `x W^T` of rows behind pooling, in f32: `[rows, outputs]`.
    fn product(&self, x: &[f32], weight: &Self::Matrix) -> Result<Vec<f32>, MlxError>;

    /// A state as f32, row after row, `[T, D]`.
    fn read(&self, x: &Self::Hidden) -> Result<Vec<f32>, MlxError>;
}

/// The operations of a layer, on what the backend `B` has. A backend implements them for itself, and whoever measures
/// implements them around it.
///
/// `next` is the norm that will be asked for next, for a backend that computes it, or part of it, together with a state.
pub(crate) trait Operations<B: Backend> {
    /// The first hidden state.
    fn embed(
        &self,
        embedding: &B::Embedding,
        next: Option<&B::Norm>,
        pass: &B::Pass,
    ) -> Result<B::Hidden, MlxError>;

    /// What each layer takes in, `norm(x W^T)`, the norm of each layer's part: `[T, layers * P]`.
    fn layer_inputs(
        &self,
        x: &B::Hidden,
        inputs: &LayerInputs<B>,
        pass: &B::Pass,
    ) -> Result<B::Wide, MlxError>;

    /// `norm(x) W^T + b`, for queries, keys and values: `[T, (H + 2K) * E]`.
    fn qkv(&self, x: &B::Hidden, layer: &AttentionLayer<B>, pass: &B::Pass) -> Result<B::Wide, MlxError>;

    /// Norms of heads, rotation by each token's position, and the keys and values of what texts continue.
    fn heads(
        &self,
        qkv: B::Wide,
        layer: &AttentionLayer<B>,
        cache: LayerKvCache<'_, B::KeysValues>,
        pass: &B::Pass,
    ) -> Result<B::Heads, MlxError>;

    /// `softmax(scale * q k^T + r) v` over the keys that each token sees, r by their distance where layers have that:
    /// `[T, H * E]`.
    fn attend(&self, heads: B::Heads, layer: &AttentionLayer<B>, pass: &B::Pass)
    -> Result<B::Wide, MlxError>;

    /// `act(norm(x) W^T + b)`, or, gated, `act(gate) * up`: `[T, I]`.
    fn up(&self, x: &B::Hidden, layer: &MlpLayer<B>, pass: &B::Pass) -> Result<B::Wide, MlxError>;

    /// `act(x W^T)` times what the layer takes in: `[T, P]`.
    fn gate(
        &self,
        x: &B::Hidden,
        inputs: &B::Wide,
        layer: &InputLayer<B>,
        pass: &B::Pass,
    ) -> Result<B::Wide, MlxError>;

    /// `x + y W^T + b`, with the norms of the product and of the sum where a layer has them, and what is `then` done.
    fn add(
        &self,
        x: B::Hidden,
        y: &B::Wide,
        weight: &B::Projection,
        norms: &HalfNorms<B::Norm>,
        then: Then<'_, B::Norm>,
        pass: &B::Pass,
    ) -> Result<B::Hidden, MlxError>;

    /// These rows, counted over all tokens of the batch.
    fn rows(
        &self,
        x: &B::Hidden,
        y: &B::Wide,
        rows: &[u32],
        pass: &B::Pass,
    ) -> Result<(B::Hidden, B::Wide), MlxError>;

    /// `norm(x)` as f32, row after row, `[T, D]`.
    fn finish(&self, x: &B::Hidden, norm: Option<&B::Norm>) -> Result<Vec<f32>, MlxError>;
}

/// What follows a sum.
#[derive(Debug)]
pub(crate) struct Then<'a, N> {
    /// What it is multiplied with.
    pub(crate) factor: Option<f32>,
    /// See [`Operations`].
    pub(crate) next: Option<&'a N>,
}

/// What of a model a projection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) layer: usize,
    /// Of so many.
    pub(crate) layers: usize,
    pub(crate) role: Role,
    /// Whether tokens of the layer see nothing behind them.
    pub(crate) causal: bool,
    /// Whether what attention or feed-forward part gives is normed before it is added.
    pub(crate) norms_products: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Qkv,
    /// The same where scores aren't divided by the root of the head's width, and an error of queries and keys counts for
    /// as many times as much.
    SharpQkv,
    Output,
    Up,
    /// Gate and up, of which pairs of outputs are multiplied.
    GateUp,
    Down,
}

/// Rows of a table of positions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Positions {
    first: usize,
    padding: Option<u32>,
}

impl Positions {
    pub(super) fn new(spec: &PositionsSpec) -> Self {
        Self { first: spec.first, padding: spec.padding }
    }

    /// The row of each token of a text that continues `cached` tokens.
    pub(super) fn rows(self, ids: &[u32], cached: usize) -> impl Iterator<Item = u32> {
        ids.iter().scan(self.first + cached, move |next, &id| match self.padding {
            Some(padding) if id == padding => Some(padding),
            _ => {
                *next += 1;
                Some((*next - 1) as u32)
            }
        })
    }
}
