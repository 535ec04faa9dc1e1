//! The stack of layers. Qwen2, Qwen3 and Llama are this with other parameters.

use std::ops::Range;
use std::sync::Arc;

use crate::batch::Batch;
use crate::checkpoint::{Checkpoint, Weights};
use crate::error::Error;
use crate::mlx::{Array, Dtype, MappedArrays, MlxError, Stream, ops};

use super::attention::Attention;
use super::linear::Embedding;
use super::mlp::Mlp;
use super::norm::FinalNorm;
use super::reuse::LayerReuse;
use super::rope::Rope;
use super::{Hidden, Kernels, Part, Pass, Reuse, State, Texts, Watch, cuda};

/// What calibration runs: few layers, as they are alike, and texts so short that attention counts for little.
const LAYERS_TO_MEASURE: usize = 8;
const TEXT_TO_MEASURE: usize = 64;

/// What sees the hidden states on the way.
pub(crate) type Probe<'a> = dyn FnMut(&Array) -> Result<(), MlxError> + 'a;

/// Hidden states after the final norm.
#[derive(Debug)]
pub(crate) enum Output {
    /// On MLX's graph: `[.., D]`.
    Array(Array),
    /// At hand: f32, in rows of D.
    Host(Vec<f32>),
}

/// Which rows of the last layer the caller needs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// All; the result is `[B, L, D]`.
    All,
    /// These, counted over `B * L`; the result is `[N, D]`. Other rows skip what follows the last attention.
    Selected(&'a [u32]),
}

#[derive(Debug)]
pub(crate) struct Decoder {
    embed_tokens: Embedding, // [vocab, D]
    layers: Vec<Layer>,
    norm: FinalNorm, // [D]
    rope: Rope,
    /// D.
    width: usize,
    kernels: Kernels,
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
        hidden: Hidden,
        pass: &Pass<'_>,
        rows: Rows<'_>,
        reuse: LayerReuse<'_>,
        kernels: &Kernels,
    ) -> Result<Hidden, MlxError> {
        let watched = pass.texts.watched().beside(kernels);
        let mixed = watched
            .stage(&[Part::InputNorm, Part::Qkv, Part::HeadNorms, Part::Rope, Part::Attention], || {
                self.attention.mix(&hidden, pass, reuse)
            })?; // [B, L, H * E]
        let after = watched.stage(&[Part::Output], || match rows {
            Rows::All => self.attention.output(&hidden.x, &mixed, hidden.ahead.as_ref(), pass),
            Rows::Selected(rows) => {
                let (x, mixed) =
                    (select(&hidden.x, rows, kernels, pass)?, select(&mixed, rows, kernels, pass)?);
                self.attention.output(&x, &mixed, hidden.ahead.as_ref(), pass)
            }
        })?;
        // Their memory is free for what follows.
        drop((hidden, mixed));
        watched.stage(&[Part::PostAttentionNorm, Part::GateUp, Part::SwiGlu, Part::Down], || {
            self.mlp.forward(&after, pass)
        })
    }
}

impl Decoder {
    /// Loads every layer, and calls `loaded` after each.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        kernels: Kernels,
        loaded: &mut dyn FnMut(),
        stream: &Stream,
    ) -> Result<Self, Error> {
        let config = checkpoint.config();
        let weights = Weights::new(checkpoint, stream)?;
        let hidden = config.hidden_size;
        let embed_tokens = Embedding::load(&weights, "embed_tokens", config, &kernels, stream)?;
        let mut layers = Vec::new();
        for index in 0..config.layers {
            layers.push(Layer {
                attention: Attention::load(&weights, index, config, &kernels, stream)?,
                mlp: Mlp::load(&weights, index, config, &kernels, stream)?,
            });
            loaded();
        }
        let decoder = Self {
            embed_tokens,
            layers,
            norm: FinalNorm::load(&weights, hidden, config.rms_norm_eps, &kernels)?,
            rope: Rope::new(config)?,
            width: hidden as usize,
            kernels,
            mappings: weights.into_mappings(),
        };
        if let Kernels::Cuda(cuda) = &decoder.kernels {
            decoder.calibrate(cuda, config.vocab_size, stream)?;
            // What the weights were made of; batches have memory of their own.
            cuda.trim()?;
        }
        Ok(decoder)
    }

    /// Whether texts of a batch lie one behind the other ([`Batch::joined`]) rather than padded.
    pub(crate) fn joins(&self) -> bool {
        !matches!(self.kernels, Kernels::Mlx)
    }

    #[cfg(feature = "bench")]
    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// The type that activations have, where it isn't that of the states that a probe sees.
    pub(crate) fn activation(&self) -> Option<Dtype> {
        matches!(self.kernels, Kernels::Cuda(_)).then_some(Dtype::Bf16)
    }

    /// Whether the mapped weights are still what was loaded. Cheap, and better than vectors of a mixture, or the signal
    /// that ends a process which touches pages that a shrunken file no longer has. For before a batch and after it.
    pub(crate) fn check_weights(&self) -> Result<(), Error> {
        for mapping in &self.mappings {
            mapping.check_unchanged().map_err(|error| Error::WeightsChanged {
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
        reuse: Reuse<'_>,
        probe: Option<&mut Probe<'_>>,
        stream: &Stream,
    ) -> Result<Output, MlxError> {
        self.forward_through(0..self.layers.len(), batch, rows, reuse, probe, None, stream)
    }

    /// As [`Decoder::forward`], through some of the layers, watched or not.
    #[expect(clippy::too_many_arguments, reason = "what a pass is, and who measures it")]
    pub(crate) fn forward_through(
        &self,
        layers: Range<usize>,
        batch: &Batch,
        rows: Rows<'_>,
        mut reuse: Reuse<'_>,
        mut probe: Option<&mut Probe<'_>>,
        watch: Option<&Arc<Watch>>,
        stream: &Stream,
    ) -> Result<Output, MlxError> {
        let texts = Arc::new(Texts::new(&batch.lengths, &reuse, watch));
        let watched = texts.watched().beside(&self.kernels);
        let (mut hidden, cuda) = watched
            .stage(&[Part::Gather], || self.embed_tokens.forward(batch, texts.past, &self.rope, stream))?;
        let pass = Pass { texts: Arc::clone(&texts), cuda, rope: &self.rope, stream };
        self.show(&hidden.x, probe.as_deref_mut(), stream)?;
        for index in layers {
            let last = index + 1 == self.layers.len();
            let rows = if last { rows } else { Rows::All };
            hidden = watched.layer(index, || {
                self.layers[index].forward(hidden, &pass, rows, reuse.layer(index), &self.kernels)
            })?;
            self.show(&hidden.x, probe.as_deref_mut(), stream)?;
        }
        let output = watched.stage(&[Part::FinalNorm], || self.norm.forward(&hidden, stream))?;
        match (&output, probe) {
            (Output::Array(x), Some(probe)) => probe(x)?,
            (Output::Host(x), Some(probe)) => {
                let width = self.width as i32;
                probe(&Array::from_slice(x, &[x.len() as i32 / width, width])?)?;
            }
            (_, None) => {}
        }
        Ok(output)
    }

    fn show(&self, x: &State, probe: Option<&mut Probe<'_>>, stream: &Stream) -> Result<(), MlxError> {
        match (x, probe, &self.kernels) {
            (_, None, _) => Ok(()),
            (State::Array(x), Some(probe), _) => probe(x),
            (State::Tensor(x), Some(probe), Kernels::Cuda(cuda)) => probe(&cuda.read(x, stream)?),
            (State::Tensor(_), Some(_), _) => x.array().map(drop),
        }
    }

    /// Lets the kernels for NVIDIA GPUs find out how products are computed best.
    fn calibrate(&self, cuda: &cuda::Cuda, vocab: i32, stream: &Stream) -> Result<(), MlxError> {
        let Some(layer) = self.layers.first() else { return Ok(()) };
        cuda.calibrate(|tokens| {
            let ids: Vec<u32> = (0..tokens as u32).map(|i| i * 31 % vocab as u32).collect();
            let texts: Vec<&[u32]> = ids.chunks(TEXT_TO_MEASURE).collect();
            let batch = Batch::joined(&texts);
            let texts = Arc::new(Texts::new(&batch.lengths, &Reuse::Nothing, None));
            let (mut hidden, call) = self.embed_tokens.forward(&batch, 0, &self.rope, stream)?;
            let pass = Pass { texts, cuda: call, rope: &self.rope, stream };
            for _ in 0..LAYERS_TO_MEASURE {
                hidden = layer.forward(hidden, &pass, Rows::All, LayerReuse::Nothing, &self.kernels)?;
            }
            cuda.wait()
        })
    }
}

/// # Shape
/// `x` `[.., W]`, result `[N, W]`.
fn select(x: &State, rows: &[u32], kernels: &Kernels, pass: &Pass<'_>) -> Result<State, MlxError> {
    let stream = pass.stream;
    match (x, kernels) {
        (State::Tensor(x), Kernels::Cuda(cuda)) => cuda.rows(x, rows, stream).map(State::Tensor),
        _ => {
            let x = x.array()?;
            let width = x.shape().last().copied().unwrap_or(0);
            let rows = Array::from_slice(rows, &[rows.len() as i32])?;
            ops::take(&ops::reshape(x, &[-1, width], stream)?, &rows, 0, stream).map(State::Array)
        }
    }
}
