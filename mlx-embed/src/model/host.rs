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

/// Matrices that read the same rows, and the norm before them.
#[derive(Debug)]
struct Project {
    norm: Option<Norm>,
    rule: Rule,
    inputs: usize,
    outputs: usize,
    parts: Vec<HostPart>,
    /// How many of a kernel's inputs are matrices of this that could not be packed.
    arrays: usize,
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
struct ProjectSpec<'a> {
    /// Paths of the matrices and their heights.
    matrices: &'a [(String, i32)],
    inputs: i32,
    norm: Option<Norm>,
    order: Order,
    rule: Rule,
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

impl Project {
    /// Loads and packs it; returns it with the arrays of what could not be packed.
    fn load(
        engine: &Engine,
        weights: &Weights<'_>,
        spec: ProjectSpec<'_>,
    ) -> Result<(Self, Vec<Array>), CheckpointError> {
        let ProjectSpec { matrices, inputs, norm, order, rule } = spec;
        let mut loaded = Vec::new();
        for (path, outputs) in matrices {
            loaded.push(Loaded::read(weights, path, *outputs, inputs)?);
        }
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
        let outputs = matrices.iter().map(|(_, outputs)| *outputs as usize).sum();
        let project = Self { norm, rule, inputs: inputs as usize, outputs, parts, arrays: kept.len() };
        Ok((project, kept))
    }

    /// Products of rows `x`; `arrays` are those that [`Project::load`] returned.
    fn run<'a>(
        &self,
        engine: &Engine,
        x: &[f32],
        texts: &Texts,
        mut arrays: &[HostInput<'_>],
        output: Output<'a>,
    ) -> Result<&'a mut [f32], MlxError> {
        let mut parts = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let weights = match &part.weights {
                HostWeights::Packed(packed) => kernels::Weights::Packed(packed),
                HostWeights::Expanded { form, arrays: count, outputs } => {
                    let (own, others) = arrays.split_at(*count);
                    arrays = others;
                    kernels::Weights::Expanded { source: form.source(own)?, outputs: *outputs }
                }
            };
            parts.push(Part { weights, bias: part.bias.as_deref() });
        }
        let norm = self.norm.as_ref().map(Norm::parts);
        let digits = texts.digits(self.rule, x.len() / self.inputs);
        Ok(engine.project(x, norm, self.inputs, digits, &parts, output))
    }
}

/// Sizes of an attention layer and where its weights are.
pub(super) struct AttentionSpec<'a> {
    /// Path of the attention, and of the norm before it.
    pub(super) path: &'a str,
    pub(super) norm: Norm,
    pub(super) hidden: i32,
    pub(super) heads: Heads,
    pub(super) q_norm: Option<Norm>,
    pub(super) k_norm: Option<Norm>,
    pub(super) rule: Rule,
}

/// Causal self-attention of each text, with the projections around it.
#[derive(Debug)]
pub(super) struct Attention {
    mix: Arc<Mix>,
    mix_arrays: Vec<Array>,
    output: Arc<OutputProjection>,
    output_arrays: Vec<Array>,
}

/// Norm, projections to queries, keys and values, and attention.
#[derive(Debug)]
struct Mix {
    engine: Arc<Engine>,
    qkv: Project,
    heads: Heads,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
}

#[derive(Debug)]
struct OutputProjection {
    engine: Arc<Engine>,
    project: Project,
}

impl Attention {
    pub(super) fn load(
        engine: &Arc<Engine>,
        weights: &Weights<'_>,
        spec: AttentionSpec<'_>,
    ) -> Result<Self, CheckpointError> {
        let AttentionSpec { path, norm, hidden, heads, q_norm, k_norm, rule } = spec;
        let of = |name: &str| format!("{path}.{name}");
        let width = |heads_of: usize| (heads_of * heads.head_dim) as i32;
        let qkv = ProjectSpec {
            matrices: &[
                (of("q_proj"), width(heads.heads)),
                (of("k_proj"), width(heads.kv_heads)),
                (of("v_proj"), width(heads.kv_heads)),
            ],
            inputs: hidden,
            norm: Some(norm),
            order: Order::Stacked,
            rule,
        };
        let output = ProjectSpec {
            matrices: &[(of("o_proj"), hidden)],
            inputs: width(heads.heads),
            norm: None,
            order: Order::Stacked,
            rule,
        };
        let (qkv, mix_arrays) = Project::load(engine, weights, qkv)?;
        let (project, output_arrays) = Project::load(engine, weights, output)?;
        Ok(Self {
            mix: Arc::new(Mix { engine: Arc::clone(engine), qkv, heads, q_norm, k_norm }),
            mix_arrays,
            output: Arc::new(OutputProjection { engine: Arc::clone(engine), project }),
            output_arrays,
        })
    }

    /// # Shape
    /// `x` `[1, T, D]`, result `[1, T, H * E]`.
    pub(super) fn mix(
        &self,
        x: &Array,
        texts: &Arc<Texts>,
        rope: &Rope,
        stream: &Stream,
    ) -> Result<Array, MlxError> {
        let longest = texts.lengths.iter().copied().max().unwrap_or(0);
        let heads = self.mix.heads;
        let call = MixCall {
            layer: Arc::clone(&self.mix),
            texts: Arc::clone(texts),
            angles: rope.angles(longest)?,
            traditional: rope.traditional(),
        };
        let inputs: Vec<&Array> = std::iter::once(x).chain(&self.mix_arrays).collect();
        let shape = [1, x.shape()[1], (heads.heads * heads.head_dim) as i32];
        let [out] = host_kernel(Arc::new(call), &inputs, [OutputSpec::new(&shape, Dtype::F32)], stream)?;
        Ok(out)
    }

    /// # Shape
    /// `mixed` `[.., H * E]`, `x` and result `[.., D]`.
    pub(super) fn output(
        &self,
        x: &Array,
        mixed: &Array,
        texts: &Arc<Texts>,
        stream: &Stream,
    ) -> Result<Array, MlxError> {
        let call = OutputCall { layer: Arc::clone(&self.output), texts: Arc::clone(texts) };
        let inputs: Vec<&Array> = [x, mixed].into_iter().chain(&self.output_arrays).collect();
        let output = OutputSpec::in_place(0, x.shape(), Dtype::F32);
        let [out] = host_kernel(Arc::new(call), &inputs, [output], stream)?;
        Ok(out)
    }
}

/// [`Mix`] of one batch.
struct MixCall {
    layer: Arc<Mix>,
    texts: Arc<Texts>,
    angles: Arc<[f32]>,
    traditional: bool,
}

impl HostKernel for MixCall {
    fn name(&self) -> &str {
        "attention"
    }

    fn run(&self, inputs: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]) -> Result<(), HostError> {
        let Mix { engine, qkv, heads, q_norm, k_norm } = &*self.layer;
        let options = AttentionOptions {
            heads: *heads,
            q_norm: q_norm.as_ref().map(Norm::parts),
            k_norm: k_norm.as_ref().map(Norm::parts),
            rotation: Rotation { angles: &self.angles, traditional: self.traditional },
            scale: (heads.head_dim as f32).powf(-0.5),
        };
        let x: &[f32] = inputs[0].as_slice()?;
        engine.between(x.len() / qkv.inputs * qkv.outputs, |between| {
            let projected = qkv.run(engine, x, &self.texts, &inputs[1..], Output::Store(between))?;
            let lengths = &self.texts.lengths;
            Ok(outputs[0].fill_with(|out| engine.attention(projected, lengths, &options, out))?)
        })
    }
}

/// [`OutputProjection`] of one batch, added to the residual stream.
struct OutputCall {
    layer: Arc<OutputProjection>,
    texts: Arc<Texts>,
}

impl HostKernel for OutputCall {
    fn name(&self) -> &str {
        "o_proj"
    }

    fn run(&self, inputs: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]) -> Result<(), HostError> {
        let OutputProjection { engine, project } = &*self.layer;
        let output = Output::Add(outputs[0].as_mut_slice()?);
        project.run(engine, inputs[1].as_slice()?, &self.texts, &inputs[2..], output)?;
        Ok(())
    }
}

/// The feed-forward part, added to the residual stream.
#[derive(Debug)]
pub(super) struct Mlp {
    layer: Arc<MlpLayer>,
    arrays: Vec<Array>,
}

#[derive(Debug)]
struct MlpLayer {
    engine: Arc<Engine>,
    gate_up: Project,
    down: Project,
}

impl Mlp {
    /// `path` is the part's, `norm` the one before it.
    pub(super) fn load(
        engine: &Arc<Engine>,
        weights: &Weights<'_>,
        path: &str,
        norm: Norm,
        [hidden, intermediate]: [i32; 2],
        rule: Rule,
    ) -> Result<Self, CheckpointError> {
        let of = |name: &str| format!("{path}.{name}");
        let gate_up = ProjectSpec {
            matrices: &[(of("gate_proj"), intermediate), (of("up_proj"), intermediate)],
            inputs: hidden,
            norm: Some(norm),
            order: Order::Interleaved,
            rule,
        };
        let down = ProjectSpec {
            matrices: &[(of("down_proj"), hidden)],
            inputs: intermediate,
            norm: None,
            order: Order::Stacked,
            rule,
        };
        let (gate_up, mut arrays) = Project::load(engine, weights, gate_up)?;
        let (down, down_arrays) = Project::load(engine, weights, down)?;
        arrays.extend(down_arrays);
        let engine = Arc::clone(engine);
        Ok(Self { layer: Arc::new(MlpLayer { engine, gate_up, down }), arrays })
    }

    /// # Shape
    /// `x` and result `[.., D]`.
    pub(super) fn forward(&self, x: &Array, texts: &Arc<Texts>, stream: &Stream) -> Result<Array, MlxError> {
        let call = MlpCall { layer: Arc::clone(&self.layer), texts: Arc::clone(texts) };
        let inputs: Vec<&Array> = std::iter::once(x).chain(&self.arrays).collect();
        let output = OutputSpec::in_place(0, x.shape(), Dtype::F32);
        let [out] = host_kernel(Arc::new(call), &inputs, [output], stream)?;
        Ok(out)
    }
}

/// [`MlpLayer`] of one batch.
struct MlpCall {
    layer: Arc<MlpLayer>,
    texts: Arc<Texts>,
}

impl HostKernel for MlpCall {
    fn name(&self) -> &str {
        "mlp"
    }

    fn run(&self, inputs: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]) -> Result<(), HostError> {
        let MlpLayer { engine, gate_up, down } = &*self.layer;
        let (gate_up_arrays, down_arrays) = inputs[1..].split_at(gate_up.arrays);
        let x: &mut [f32] = outputs[0].as_mut_slice()?;
        engine.between(x.len() / gate_up.inputs * gate_up.outputs / 2, |between| {
            let gated = gate_up.run(engine, x, &self.texts, gate_up_arrays, Output::SwiGlu(between))?;
            down.run(engine, gated, &self.texts, down_arrays, Output::Add(x))?;
            Ok(())
        })
    }
}
