//! The decoder's operations on the CPU, as nodes of MLX's graph that run this crate's own kernels.
//!
//! Hidden states are `[1, T, D]` here: all tokens of a batch, text behind text, without padding.

use std::sync::Arc;

use crate::checkpoint::{CheckpointError, Matrix, Weights};
use crate::kernels::{
    self, AttentionOptions, Engine, Floats, Heads, Order, Output, Packed, Part, Rotation, Scales, Source,
};
use crate::mlx::host::{HostError, HostInput, HostKernel, HostOutput, OutputSpec, host_kernel};
use crate::mlx::ops::QuantMode;
use crate::mlx::{Array, Dtype, MlxError, Stream};

use super::rope::Rope;
use super::{Rule, Texts};

/// An RMSNorm before a projection, or of heads.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    pub(super) weight: Vec<f32>,
    pub(super) eps: f32,
}

impl Norm {
    pub(super) fn load(
        weights: &Weights<'_>,
        path: &str,
        size: i32,
        eps: f32,
    ) -> Result<Self, CheckpointError> {
        Ok(Self { weight: numbers(weights, &format!("{path}.weight"), size)?, eps })
    }

    fn parts(&self) -> (&[f32], f32) {
        (&self.weight, self.eps)
    }
}

fn numbers(weights: &Weights<'_>, name: &str, size: i32) -> Result<Vec<f32>, CheckpointError> {
    let array = weights.vector(name, size)?;
    let numbers = array.as_slice::<f32>().map(<[f32]>::to_vec);
    numbers.map_err(|source| weights.tensor_error(name, source))
}

/// RMSNorm as an operation of its own.
#[derive(Debug)]
pub(super) struct NormNode {
    engine: Arc<Engine>,
    norm: Norm,
}

impl NormNode {
    pub(super) fn new(engine: &Arc<Engine>, norm: Norm) -> Arc<Self> {
        Arc::new(Self { engine: Arc::clone(engine), norm })
    }

    pub(super) fn forward(self: &Arc<Self>, x: &Array, stream: &Stream) -> Result<Array, MlxError> {
        let [out] = host_kernel(Arc::clone(self), &[x], [OutputSpec::new(x.shape(), Dtype::F32)], stream)?;
        Ok(out)
    }
}

impl HostKernel for NormNode {
    fn name(&self) -> &str {
        "rms_norm"
    }

    fn run(&self, inputs: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]) -> Result<(), HostError> {
        let (weight, eps) = self.norm.parts();
        let x = inputs[0].as_slice()?;
        Ok(outputs[0].fill_with(|out| self.engine.norm(x, weight, eps, out))?)
    }
}

/// How a matrix is stored, without its numbers.
#[derive(Debug, Clone, Copy)]
enum Form {
    Dense,
    Quantized { bits: usize, group_size: usize, mode: QuantMode },
}

/// The arrays of a matrix, and their form.
fn arrays(matrix: Matrix) -> (Form, Vec<Array>) {
    match matrix {
        Matrix::Dense(weight) => (Form::Dense, vec![weight]),
        Matrix::Quantized { weight, scales, biases, quantization } => {
            let form = Form::Quantized {
                bits: quantization.bits as usize,
                group_size: quantization.group_size as usize,
                mode: quantization.mode,
            };
            (form, [Some(weight), Some(scales), biases].into_iter().flatten().collect())
        }
    }
}

/// An array whose numbers can be looked at: at load an [`Array`], in a kernel a [`HostInput`].
trait Look {
    fn dtype(&self) -> Option<Dtype>;
    fn look<T: crate::mlx::Element>(&self) -> Result<&[T], MlxError>;
}

impl Look for Array {
    fn dtype(&self) -> Option<Dtype> {
        Array::dtype(self)
    }
    fn look<T: crate::mlx::Element>(&self) -> Result<&[T], MlxError> {
        self.as_slice()
    }
}

impl Look for HostInput<'_> {
    fn dtype(&self) -> Option<Dtype> {
        HostInput::dtype(self)
    }
    fn look<T: crate::mlx::Element>(&self) -> Result<&[T], MlxError> {
        self.as_slice()
    }
}

impl Form {
    fn source<'a>(&self, arrays: &'a [impl Look]) -> Result<Source<'a>, MlxError> {
        match *self {
            Self::Dense => Ok(Source::Dense(floats(&arrays[0])?)),
            Self::Quantized { bits, group_size, mode } => {
                let scales = match mode {
                    QuantMode::Affine => {
                        Scales::Affine { scales: floats(&arrays[1])?, biases: floats(&arrays[2])? }
                    }
                    QuantMode::Mxfp4 => Scales::Mxfp4(arrays[1].look()?),
                    QuantMode::Mxfp8 => Scales::Mxfp8(arrays[1].look()?),
                    QuantMode::Nvfp4 => Scales::Nvfp4(arrays[1].look()?),
                };
                Ok(Source::Quantized { words: arrays[0].look()?, bits, group_size, scales })
            }
        }
    }
}

fn floats(array: &impl Look) -> Result<Floats<'_>, MlxError> {
    Ok(match array.dtype() {
        Some(Dtype::F16) => Floats::F16(array.look()?),
        Some(Dtype::Bf16) => Floats::Bf16(array.look()?),
        _ => Floats::F32(array.look()?),
    })
}

/// The embedding table. Its rows are expanded as they are looked up.
#[derive(Debug)]
pub(super) struct Embedding {
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
    pub(super) fn load(
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
    pub(super) fn forward(&self, ids: &Array, stream: &Stream) -> Result<Array, MlxError> {
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

/// Matrices that read the same rows.
#[derive(Debug)]
pub(super) struct Projection {
    kernel: Arc<Project>,
    /// Matrices that could not be packed, in order.
    arrays: Vec<Array>,
    width: i32,
}

#[derive(Debug)]
struct Project {
    engine: Arc<Engine>,
    name: &'static str,
    norm: Option<Norm>,
    rule: Rule,
    inputs: usize,
    parts: Vec<HostPart>,
    then: Then,
}

/// What becomes of the products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// They are the result, side by side.
    Keep,
    /// They are added to the residual stream.
    AddToResidual,
    /// The first matrix's are the gate of SwiGLU for the second's.
    SwiGlu,
}

#[derive(Debug)]
struct HostPart {
    weights: HostWeights,
    bias: Option<Vec<f32>>,
}

#[derive(Debug)]
enum HostWeights {
    Packed(Packed),
    /// Expanded from so many of the kernel's inputs each time.
    Expanded {
        form: Form,
        arrays: usize,
        outputs: usize,
    },
}

/// What a projection is made of.
pub(super) struct ProjectionSpec<'a> {
    /// For messages.
    pub(super) name: &'static str,
    /// Paths of the matrices and their heights.
    pub(super) matrices: &'a [(String, i32)],
    pub(super) inputs: i32,
    pub(super) norm: Option<Norm>,
    pub(super) then: Then,
    pub(super) rule: Rule,
}

/// A matrix as the checkpoint has it.
struct Loaded<'a> {
    path: &'a str,
    form: Form,
    arrays: Vec<Array>,
    bias: Option<Vec<f32>>,
    outputs: usize,
}

impl<'a> Loaded<'a> {
    fn read(
        weights: &Weights<'_>,
        path: &'a str,
        outputs: i32,
        inputs: i32,
    ) -> Result<Self, CheckpointError> {
        let (form, arrays) = arrays(weights.matrix(path, outputs, inputs)?);
        let bias = format!("{path}.bias");
        let bias = if weights.has(&bias) { Some(numbers(weights, &bias, outputs)?) } else { None };
        Ok(Self { path, form, arrays, bias, outputs: outputs as usize })
    }

    fn bias_or_zeros(&self) -> Vec<f32> {
        self.bias.clone().unwrap_or_else(|| vec![0.0; self.outputs])
    }
}

impl Projection {
    pub(super) fn load(
        engine: &Arc<Engine>,
        weights: &Weights<'_>,
        spec: ProjectionSpec<'_>,
    ) -> Result<Self, CheckpointError> {
        let ProjectionSpec { name, matrices, inputs, norm, then, rule } = spec;
        let mut loaded = Vec::new();
        for (path, outputs) in matrices {
            loaded.push(Loaded::read(weights, path, *outputs, inputs)?);
        }
        let order = if then == Then::SwiGlu { Order::Interleaved } else { Order::Stacked };
        let any_bias = loaded.iter().any(|matrix| matrix.bias.is_some());
        let pack = |loaded: &[Loaded<'_>], order| {
            let path = loaded[0].path;
            let sources: Result<Vec<_>, _> =
                loaded.iter().map(|matrix| matrix.form.source(&matrix.arrays)).collect();
            let sources = sources.map_err(|source| weights.tensor_error(path, source))?;
            Packed::pack(&sources, inputs as usize, order, engine.pool())
                .map_err(|source| weights.memory_error(path, source))
        };
        // Biases would have to be added before what follows SwiGLU's two halves.
        let together = if order == Order::Interleaved && any_bias { None } else { pack(&loaded, order)? };
        let mut parts = Vec::new();
        let mut kept = Vec::new();
        if let Some(packed) = together {
            let bias = any_bias.then(|| loaded.iter().flat_map(Loaded::bias_or_zeros).collect());
            parts.push(HostPart { weights: HostWeights::Packed(packed), bias });
        } else {
            // Matrices of several kinds stay apart.
            for matrix in loaded.chunks(1) {
                let packed = pack(matrix, Order::Stacked)?;
                let Loaded { form, arrays, bias, outputs, .. } = &matrix[0];
                let weights = match packed {
                    Some(packed) => HostWeights::Packed(packed),
                    None => {
                        kept.extend(arrays.iter().cloned());
                        HostWeights::Expanded { form: *form, arrays: arrays.len(), outputs: *outputs }
                    }
                };
                parts.push(HostPart { weights, bias: bias.clone() });
            }
        }
        drop(loaded);
        for (path, _) in matrices {
            weights.release(path);
        }
        let outputs: i32 = matrices.iter().map(|(_, outputs)| outputs).sum();
        let width = if then == Then::SwiGlu { outputs / 2 } else { outputs };
        let inputs = inputs as usize;
        let engine = Arc::clone(engine);
        let kernel = Arc::new(Project { engine, name, norm, rule, inputs, parts, then });
        Ok(Self { kernel, arrays: kept, width })
    }

    /// # Shape
    /// `x` `[.., inputs]`, result `[.., width]`.
    pub(super) fn forward(&self, x: &Array, texts: &Arc<Texts>, stream: &Stream) -> Result<Array, MlxError> {
        let mut shape = x.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.width;
        }
        let inputs: Vec<&Array> = std::iter::once(x).chain(&self.arrays).collect();
        let output = OutputSpec::new(&shape, Dtype::F32);
        let [out] = host_kernel(self.call(texts), &inputs, [output], stream)?;
        Ok(out)
    }

    fn call(&self, texts: &Arc<Texts>) -> Arc<ProjectCall> {
        Arc::new(ProjectCall { layer: Arc::clone(&self.kernel), texts: Arc::clone(texts) })
    }

    /// # Shape
    /// `x` `[.., inputs]`, `residual` and result `[.., width]`.
    pub(super) fn add_to(
        &self,
        residual: &Array,
        x: &Array,
        texts: &Arc<Texts>,
        stream: &Stream,
    ) -> Result<Array, MlxError> {
        let inputs: Vec<&Array> = [x, residual].into_iter().chain(&self.arrays).collect();
        let output = OutputSpec::in_place(1, residual.shape(), Dtype::F32);
        let [out] = host_kernel(self.call(texts), &inputs, [output], stream)?;
        Ok(out)
    }
}

/// A projection of one batch.
struct ProjectCall {
    layer: Arc<Project>,
    texts: Arc<Texts>,
}

impl HostKernel for ProjectCall {
    fn name(&self) -> &str {
        self.layer.name
    }

    fn run(&self, inputs: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]) -> Result<(), HostError> {
        let Project { engine, norm, rule, inputs: width, parts, then, .. } = &*self.layer;
        let x: &[f32] = inputs[0].as_slice()?;
        let mut rest = &inputs[if *then == Then::AddToResidual { 2 } else { 1 }..];
        let mut matrices = Vec::with_capacity(parts.len());
        for part in parts {
            let weights = match &part.weights {
                HostWeights::Packed(packed) => kernels::Weights::Packed(packed),
                HostWeights::Expanded { form, arrays, outputs } => {
                    let (own, others) = rest.split_at(*arrays);
                    rest = others;
                    kernels::Weights::Expanded { source: form.source(own)?, outputs: *outputs }
                }
            };
            matrices.push(Part { weights, bias: part.bias.as_deref() });
        }
        let norm = norm.as_ref().map(Norm::parts);
        let digits = self.texts.digits(*rule, x.len() / width);
        let output = &mut outputs[0];
        match then {
            Then::AddToResidual => {
                engine.project(x, norm, *width, digits, &matrices, Output::Add(output.as_mut_slice()?));
                Ok(())
            }
            Then::Keep => Ok(output
                .fill_with(|out| engine.project(x, norm, *width, digits, &matrices, Output::Store(out)))?),
            Then::SwiGlu => Ok(output
                .fill_with(|out| engine.project(x, norm, *width, digits, &matrices, Output::SwiGlu(out)))?),
        }
    }
}

/// Causal self-attention of each text.
#[derive(Debug)]
pub(super) struct Attention {
    engine: Arc<Engine>,
    heads: Heads,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
}

impl Attention {
    pub(super) fn new(
        engine: &Arc<Engine>,
        heads: Heads,
        q_norm: Option<Norm>,
        k_norm: Option<Norm>,
    ) -> Arc<Self> {
        Arc::new(Self { engine: Arc::clone(engine), heads, q_norm, k_norm })
    }

    /// # Shape
    /// `qkv` `[1, T, (H + 2 K) * E]`, result `[1, T, H * E]`.
    pub(super) fn forward(
        self: &Arc<Self>,
        qkv: &Array,
        texts: &Arc<Texts>,
        rope: &Rope,
        stream: &Stream,
    ) -> Result<Array, MlxError> {
        let longest = texts.lengths.iter().copied().max().unwrap_or(0);
        let call = Attend {
            layer: Arc::clone(self),
            texts: Arc::clone(texts),
            angles: rope.angles(longest)?,
            traditional: rope.traditional(),
        };
        let width = (self.heads.heads * self.heads.head_dim) as i32;
        let shape = [1, qkv.shape()[1], width];
        let [out] = host_kernel(Arc::new(call), &[qkv], [OutputSpec::new(&shape, Dtype::F32)], stream)?;
        Ok(out)
    }
}

/// Attention over one batch.
struct Attend {
    layer: Arc<Attention>,
    texts: Arc<Texts>,
    angles: Arc<[f32]>,
    traditional: bool,
}

impl HostKernel for Attend {
    fn name(&self) -> &str {
        "attention"
    }

    fn run(&self, inputs: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]) -> Result<(), HostError> {
        let Attention { engine, heads, q_norm, k_norm } = &*self.layer;
        let options = AttentionOptions {
            heads: *heads,
            q_norm: q_norm.as_ref().map(Norm::parts),
            k_norm: k_norm.as_ref().map(Norm::parts),
            rotation: Rotation { angles: &self.angles, traditional: self.traditional },
            scale: (heads.head_dim as f32).powf(-0.5),
        };
        let qkv = inputs[0].as_slice()?;
        Ok(outputs[0].fill_with(|out| engine.attention(qkv, &self.texts.lengths, &options, out))?)
    }
}
