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
use super::{Hidden, Kernels, Pass, Reuse, Texts, cuda};

/// What calibration runs: few layers, as they are alike, and texts so short that attention counts for little.
const LAYERS_TO_MEASURE: usize = 4;
const TEXT_TO_MEASURE: usize = 64;

/// Which rows of the last layer the caller needs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// All; the result is `[B, L, D]`, or `[T, D]` with the kernels for NVIDIA GPUs.
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
    /// The result is as [`Rows`] says.
    fn forward(
        &self,
        hidden: &Hidden,
        pass: &Pass<'_>,
        rows: Rows<'_>,
        reuse: LayerReuse<'_>,
    ) -> Result<Hidden, MlxError> {
        let mixed = self.attention.mix(hidden, pass, reuse)?; // [B, L, H * E]
        let hidden = match rows {
            Rows::All => self.attention.output(&hidden.x, &mixed, pass)?,
            Rows::Selected(rows) => {
                let (x, mixed) = (select(&hidden.x, rows, pass.stream)?, select(&mixed, rows, pass.stream)?);
                self.attention.output(&x, &mixed, pass)?
            }
        };
        self.mlp.forward(&hidden, pass)
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
        let hidden = config.hidden_size;
        let embed_tokens = Embedding::load(&weights, "embed_tokens", config, kernels)?;
        let mut layers = Vec::new();
        for index in 0..config.layers {
            layers.push(Layer {
                attention: Attention::load(&weights, index, config, kernels, stream)?,
                mlp: Mlp::load(&weights, index, config, kernels, stream)?,
            });
            loaded();
        }
        let decoder = Self {
            embed_tokens,
            layers,
            norm: FinalNorm::load(&weights, hidden, config.rms_norm_eps, kernels)?,
            rope: Rope::new(config, weights.activation(), stream)?,
            joins: !matches!(kernels, Kernels::Mlx),
            mappings: weights.into_mappings(),
        };
        if let Kernels::Cuda(cuda) = kernels {
            decoder.calibrate(cuda, config.vocab_size, stream)?;
        }
        Ok(decoder)
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
        let (mut hidden, cuda) = self.embed_tokens.forward(batch, texts.past, &self.rope, stream)?;
        let pass = Pass { texts, cuda, rope: &self.rope, stream };
        probe(&hidden.x)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let last = index + 1 == self.layers.len();
            let rows = if last { rows } else { Rows::All };
            hidden = layer.forward(&hidden, &pass, rows, reuse.layer(index))?;
            if let (Some(ahead), false) = (&hidden.ahead, last) {
                cuda::Cuda::start(index, &hidden.x, ahead)?;
            }
            probe(&hidden.x)?;
        }
        let x = self.norm.forward(&hidden, stream)?;
        probe(&x)?;
        Ok(x)
    }

    /// Lets the kernels for NVIDIA GPUs find out how products are computed best.
    fn calibrate(&self, cuda: &cuda::Cuda, vocab: i32, stream: &Stream) -> Result<(), MlxError> {
        let Some(layer) = self.layers.first() else { return Ok(()) };
        cuda.calibrate(|tokens| {
            let ids: Vec<u32> = (0..tokens as u32).map(|i| i * 31 % vocab as u32).collect();
            let texts: Vec<&[u32]> = ids.chunks(TEXT_TO_MEASURE).collect();
            let batch = Batch::joined(&texts);
            let texts = Arc::new(Texts::new(&batch.lengths, &Reuse::Nothing));
            let (mut hidden, cuda) = self.embed_tokens.forward(&batch, 0, &self.rope, stream)?;
            let pass = Pass { texts, cuda, rope: &self.rope, stream };
            for _ in 0..LAYERS_TO_MEASURE {
                hidden = layer.forward(&hidden, &pass, Rows::All, LayerReuse::Nothing)?;
            }
            hidden.x.eval()
        })
    }
}

/// # Shape
/// `x` `[.., W]`, `rows` `[N]`, result `[N, W]`.
fn select(x: &Array, rows: &Array, stream: &Stream) -> Result<Array, MlxError> {
    let width = x.shape().last().copied().unwrap_or(0);
    ops::take(&ops::reshape(x, &[-1, width], stream)?, rows, 0, stream)
}
