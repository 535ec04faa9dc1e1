//! The stack of layers. Qwen2, Qwen3 and Llama are this with other parameters.

use crate::checkpoint::{Checkpoint, CheckpointError, ModelConfig, Weights};
use crate::error::Error;
use crate::mlx::{Array, MappedArrays, MlxError, Stream, ops};

use super::attention::Attention;
use super::linear::Embedding;
use super::mlp::Mlp;
use super::norm::RmsNorm;
use super::rope::Rope;

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
    norm: RmsNorm, // [D]
    rope: Rope,
    /// Arrays above lie in these.
    mappings: Vec<MappedArrays>,
}

#[derive(Debug)]
struct Layer {
    input_layernorm: RmsNorm, // [D]
    self_attn: Attention,
    post_attention_layernorm: RmsNorm, // [D]
    mlp: Mlp,
}

impl Layer {
    fn load(weights: &Weights<'_>, index: usize, config: &ModelConfig) -> Result<Self, CheckpointError> {
        let path = |name: &str| format!("layers.{index}.{name}");
        let norm = |name: &str| RmsNorm::load(weights, &path(name), config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: Attention::load(weights, &path("self_attn"), config)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: Mlp::load(weights, &path("mlp"), config)?,
        })
    }

    /// # Shape
    /// `x` `[B, L, D]`; result as [`Rows`] says.
    fn forward(&self, x: &Array, rows: Rows<'_>, rope: &Rope, stream: &Stream) -> Result<Array, MlxError> {
        let normed = self.input_layernorm.forward(x, stream)?;
        let mixed = self.self_attn.mix(&normed, rope, stream)?; // [B, L, H * E]
        let (x, mixed) = match rows {
            Rows::All => (x.clone(), mixed),
            Rows::Selected(rows) => (select(x, rows, stream)?, select(&mixed, rows, stream)?),
        };
        let x = ops::add(&x, &self.self_attn.output(&mixed, stream)?, stream)?;
        let normed = self.post_attention_layernorm.forward(&x, stream)?;
        ops::add(&x, &self.mlp.forward(&normed, stream)?, stream)
    }
}

impl Decoder {
    pub(crate) fn load(checkpoint: &Checkpoint, stream: &Stream) -> Result<Self, Error> {
        let config = checkpoint.config();
        let weights = Weights::new(checkpoint, stream)?;
        let embed_tokens = Embedding::load(&weights, "embed_tokens", config.vocab_size, config.hidden_size)?;
        let mut layers = Vec::new();
        for index in 0..config.layers {
            layers.push(Layer::load(&weights, index, config)?);
        }
        Ok(Self {
            embed_tokens,
            layers,
            norm: RmsNorm::load(&weights, "norm", config.hidden_size, config.rms_norm_eps)?,
            rope: Rope::new(config, weights.activation(), stream)?,
            mappings: weights.into_mappings(),
        })
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
    /// `ids` u32 `[B, L]`, padded on the right; result as [`Rows`] says.
    pub(crate) fn forward(
        &self,
        ids: &Array,
        rows: Rows<'_>,
        probe: &mut dyn FnMut(&Array) -> Result<(), MlxError>,
        stream: &Stream,
    ) -> Result<Array, MlxError> {
        let mut x = self.embed_tokens.forward(ids, stream)?; // [B, L, D]
        probe(&x)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let last = index + 1 == self.layers.len();
            x = layer.forward(&x, if last { rows } else { Rows::All }, &self.rope, stream)?;
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
