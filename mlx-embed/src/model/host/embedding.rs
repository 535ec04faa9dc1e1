//! The embedding table.

use std::sync::Arc;

use crate::checkpoint::{CheckpointError, Weights};
use crate::kernels::Engine;
use crate::mlx::host::{HostError, HostInput, HostKernel, HostOutput, OutputSpec, host_kernel};
use crate::mlx::{Array, Dtype, MlxError, Stream};

use super::form::{Form, arrays};

/// The embedding table. Its rows are expanded as they are looked up.
#[derive(Debug)]
pub(in crate::model) struct Embedding {
    kernel: Arc<Gather>,
    arrays: Vec<Array>,
    width: i32,
}

#[derive(Debug)]
struct Gather {
    engine: Arc<Engine>,
    form: Form,
    width: usize,
}

impl Embedding {
    pub(in crate::model) fn load(
        engine: &Arc<Engine>,
        weights: &Weights<'_>,
        path: &str,
        vocab: i32,
        width: i32,
    ) -> Result<Self, CheckpointError> {
        let (form, arrays) = arrays(weights.matrix(path, vocab, width)?);
        let kernel = Arc::new(Gather { engine: Arc::clone(engine), form, width: width as usize });
        Ok(Self { kernel, arrays, width })
    }

    /// # Shape
    /// `ids` u32 `[B, L]`, result f32 `[B, L, D]`. Ids are below the vocabulary's size.
    pub(in crate::model) fn forward(&self, ids: &Array, stream: &Stream) -> Result<Array, MlxError> {
        let inputs: Vec<&Array> = std::iter::once(ids).chain(&self.arrays).collect();
        let shape: Vec<i32> = ids.shape().iter().copied().chain([self.width]).collect();
        let [out] =
            host_kernel(Arc::clone(&self.kernel), &inputs, [OutputSpec::new(&shape, Dtype::F32)], stream)?;
        Ok(out)
    }
}

impl HostKernel for Gather {
    fn name(&self) -> &str {
        "embed_tokens"
    }

    fn run(&self, inputs: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]) -> Result<(), HostError> {
        let table = self.form.source(&inputs[1..])?;
        let ids = inputs[0].as_slice()?;
        Ok(outputs[0].fill_with(|out| self.engine.gather(&table, ids, self.width, out))?)
    }
}
