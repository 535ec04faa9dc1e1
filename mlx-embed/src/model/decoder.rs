//! The stack of layers. Qwen2, Qwen3 and Llama are this with other parameters.

use std::sync::Arc;

use crate::batch::Batch;
use crate::checkpoint::{Checkpoint, Weights};
use crate::error::Error;
use crate::mlx::{Array, MappedArrays, MlxError, Stream, ops};

use super::attention::Attention;
use super::linear::Embedding;
use super::mlp::Mlp;
use super::norm::FinalNorm;
use super::reuse::LayerReuse;
use super::rope::Rope;
use super::{Kernels, Reuse, Texts};

/// Which rows of the last layer the caller needs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// All; the result is `[B, L, D]`.
    All,
    /// These, counted over `B * L`, u32 `[N]`; the result is `[N, D]`. Other rows skip what follows the last attention.
    Selected(&'a Array),
}

#[derive(Debug)]
pub(crate) struct Decoder {
    embed_tokens: Embedding, // [vocab, D]
    layers: Vec<Layer>,
    norm: FinalNorm, // [D]
    rope: Rope,
    joins: bool,
    /// Arrays above lie in these.
    mappings: Vec<MappedArrays>,
}

#[derive(Debug)]
struct Layer {
    attention: Attention,
    mlp: Mlp,
}

impl Layer {
    /// # Shape
    /// `x` `[B, L, D]`; result as [`Rows`] says.
    fn forward(
        &self,
        x: &Array,
        texts: &Arc<Texts>,
        rows: Rows<'_>,
        reuse: LayerReuse<'_>,
        rope: &Rope,
        stream: &Stream,
    ) -> Result<Array, MlxError> {
        let mixed = self.attention.mix(x, texts, reuse, rope, stream)?; // [B, L, H * E]
        let x = match rows {
            Rows::All => self.attention.output(x, &mixed, texts, stream)?,
            Rows::Selected(rows) => {
                let (x, mixed) = (select(x, rows, stream)?, select(&mixed, rows, stream)?);
                self.attention.output(&x, &mixed, texts, stream)?
            }
        };
        self.mlp.forward(&x, texts, stream)
    }
}

impl Decoder {
    /// Loads every layer, and calls `loaded` after each.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        kernels: &Kernels,
        loaded: &mut dyn FnMut(),
        stream: &Stream,
    ) -> Result<Self, Error> {
        let config = checkpoint.config();
        let weights = Weights::new(checkpoint, stream)?;
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let embed_tokens = Embedding::load(&weights, "embed_tokens", vocab, hidden, kernels)?;
        let mut layers = Vec::new();
        for index in 0..config.layers {
            layers.push(Layer {
                attention: Attention::load(&weights, index, config, kernels)?,
                mlp: Mlp::load(&weights, index, config, kernels)?,
            });
            loaded();
        }
        Ok(Self {
            embed_tokens,
            layers,
            norm: FinalNorm::load(&weights, hidden, config.rms_norm_eps, kernels)?,
            rope: Rope::new(config, weights.activation(), stream)?,
            joins: matches!(kernels, Kernels::Host(..)),
            mappings: weights.into_mappings(),
        })
    }

    /// Whether texts of a batch lie one behind the other ([`Batch::joined`]) rather than padded.
    pub(crate) fn joins(&self) -> bool {
        self.joins
    }

    /// Whether the mapped weights are still all there. Cheap, and better than the signal that ends a process which
    /// touches pages that a shrunken file no longer has.
    pub(crate) fn check_weights(&self) -> Result<(), Error> {
        for mapping in &self.mappings {
            mapping.check_length().map_err(|error| Error::WeightsChanged {
                path: mapping.path().display().to_string(),
                reason: error.to_string(),
            })?;
        }
        Ok(())
    }

    /// Hidden states after the final norm.
    ///
    /// `probe` sees every hidden state on the way: the embeddings, then the residual stream after each layer, then the
    /// result. It is the hook of verification and tracing.
    ///
    /// # Shape
    /// Token ids `[B, L]`; result as [`Rows`] says.
    pub(crate) fn forward(
        &self,
        batch: &Batch,
        rows: Rows<'_>,
        mut reuse: Reuse<'_>,
        probe: &mut dyn FnMut(&Array) -> Result<(), MlxError>,
        stream: &Stream,
    ) -> Result<Array, MlxError> {
        let texts = Arc::new(Texts::new(&batch.lengths, &reuse));
        let ids = Array::from_slice(&batch.ids, &batch.shape)?;
        let mut x = self.embed_tokens.forward(&ids, stream)?; // [B, L, D]
        probe(&x)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let last = index + 1 == self.layers.len();
            let rows = if last { rows } else { Rows::All };
            x = layer.forward(&x, &texts, rows, reuse.layer(index), &self.rope, stream)?;
            probe(&x)?;
        }
        let x = self.norm.forward(&x, stream)?;
        probe(&x)?;
        Ok(x)
    }
}

/// # Shape
/// `x` `[B, L, W]`, `rows` `[N]`, result `[N, W]`.
fn select(x: &Array, rows: &Array, stream: &Stream) -> Result<Array, MlxError> {
    let width = x.shape()[2];
    ops::take(&ops::reshape(x, &[-1, width], stream)?, rows, 0, stream)
}
