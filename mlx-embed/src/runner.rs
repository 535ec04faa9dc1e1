//! The model on one thread: token ids in, pooled vectors out.

use std::num::NonZeroUsize;

use crate::batch::{self, Sharing};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, InputError};
use crate::mlx::{self, Array, Backend, Dtype, Stream, memory, ops};
use crate::model::{Decoder, Rows};
use crate::pooling::Pooling;

/// Where the model runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// The GPU if this build and this machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU; loading fails where there is none.
    Gpu,
}

impl Device {
    /// What runs the model on this machine.
    pub(crate) fn backend(self) -> Result<Backend, Error> {
        match self {
            // Without a look for GPUs, which wakes their driver.
            Self::Cpu => Ok(Backend::Cpu),
            Self::Auto => Ok(mlx::gpu_backend().unwrap_or(Backend::Cpu)),
            Self::Gpu => mlx::gpu_backend().ok_or_else(|| Error::Option {
                option: "device",
                reason: "is gpu, but this build of MLX finds no GPU that it can use; use the CPU".into(),
            }),
        }
    }
}

/// What the runner needs to know besides the checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct RunnerOptions {
    pub(crate) backend: Backend,
    pub(crate) threads: Option<NonZeroUsize>,
    pub(crate) pooling: Pooling,
    pub(crate) batch_tokens: usize,
    pub(crate) max_tokens: usize,
    pub(crate) cache_limit: usize,
    pub(crate) memory_limit: Option<usize>,
}

/// A decoder on its stream. Belongs to the thread that made it.
#[derive(Debug)]
pub(crate) struct Runner {
    decoder: Decoder,
    stream: Stream,
    pooling: Pooling,
    batch_tokens: usize,
    hidden: usize,
    sharing: Sharing,
}

impl Runner {
    pub(crate) fn load(checkpoint: &Checkpoint, options: &RunnerOptions) -> Result<Self, Error> {
        let stream = Stream::new(options.backend)?;
        let _turn = stream.turn();
        if let Some(threads) = options.threads {
            mlx::set_blas_threads(threads.get())?;
        }
        memory::set_cache_limit(options.cache_limit)?;
        if let Some(bytes) = options.memory_limit {
            memory::set_limit(bytes)?;
        }
        let config = checkpoint.config();
        let sharing = if config.frequencies_depend_on_length(options.max_tokens) {
            Sharing::EqualLengths
        } else {
            Sharing::Padded
        };
        Ok(Self {
            decoder: Decoder::load(checkpoint, &stream)?,
            stream,
            pooling: options.pooling,
            batch_tokens: options.batch_tokens,
            hidden: config.hidden_size as usize,
            sharing,
        })
    }

    /// Frees the model, which on a GPU takes a turn as any other use of it.
    pub(crate) fn unload(self) {
        let _turn = self.stream.turn();
        drop(self);
    }

    /// Pooled vectors, not normalised yet, in the order of `texts`; no text is empty. A text whose vector is not finite
    /// has an error in its place.
    pub(crate) fn embed(&self, texts: &[Vec<u32>]) -> Result<Vec<Result<Vec<f32>, InputError>>, Error> {
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        // Every text is in one batch, which replaces this.
        let mut vectors = vec![Err(InputError::Empty); texts.len()];
        for batch in batch::plan(&lengths, self.batch_tokens, self.sharing) {
            let rows: Vec<&[u32]> = batch.iter().map(|&text| texts[text].as_slice()).collect();
            for (vector, &text) in self.embed_batch(&rows)?.into_iter().zip(&batch) {
                let finite = vector.iter().all(|x| x.is_finite());
                vectors[text] = if finite { Ok(vector) } else { Err(InputError::NotFinite) };
            }
        }
        Ok(vectors)
    }

    fn embed_batch(&self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, Error> {
        let _turn = self.stream.turn();
        self.decoder.check_weights()?;
        let (ids, padded) = batch::pad(texts.iter().copied(), 0);
        let ids = Array::from_slice(&ids, &[texts.len() as i32, padded as i32])?; // [B, L]
        let lengths: Vec<usize> = texts.iter().map(|text| text.len()).collect();
        let rows = self.pooling.rows(&lengths, padded)?;
        let rows = rows.as_ref().map_or(Rows::All, Rows::Selected);
        let hidden = self.decoder.forward(&ids, rows, &mut |_| Ok(()), &self.stream)?;
        let pooled = self.pooling.pool(&hidden, &lengths, &self.stream)?;
        Ok(pooled.chunks(self.hidden).map(<[f32]>::to_vec).collect())
    }

    /// Every hidden state of one text, f32 `[L * D]` each: the embeddings, after each layer, after the final norm.
    pub(crate) fn hidden_states(&self, text: &[u32]) -> Result<Vec<Vec<f32>>, Error> {
        let _turn = self.stream.turn();
        self.decoder.check_weights()?;
        let ids = Array::from_slice(text, &[1, text.len() as i32])?;
        let mut states = Vec::new();
        let mut keep = |state: &Array| {
            states.push(ops::astype(state, Dtype::F32, &self.stream)?.to_vec(&self.stream)?);
            Ok(())
        };
        self.decoder.forward(&ids, Rows::All, &mut keep, &self.stream)?;
        Ok(states)
    }
}
