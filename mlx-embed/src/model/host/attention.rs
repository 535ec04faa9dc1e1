//! Attention with the projections around it.

use std::sync::Arc;

use crate::checkpoint::{CheckpointError, Weights};
use crate::kernels::{AttentionOptions, Engine, Heads, Order, Output, Rotation};
use crate::mlx::host::{HostError, HostInput, HostKernel, HostOutput, OutputSpec, host_kernel};
use crate::mlx::{Array, Dtype, MlxError, Stream};
use crate::model::rope::Rope;
use crate::model::{Rule, Texts};

use super::norm::Norm;
use super::project::{Project, ProjectSpec};

/// Sizes of an attention layer and where its weights are.
pub(in crate::model) struct AttentionSpec<'a> {
    /// Path of the attention, and of the norm before it.
    pub(in crate::model) path: &'a str,
    pub(in crate::model) norm: Norm,
    pub(in crate::model) hidden: i32,
    pub(in crate::model) heads: Heads,
    pub(in crate::model) q_norm: Option<Norm>,
    pub(in crate::model) k_norm: Option<Norm>,
    pub(in crate::model) rule: Rule,
}

/// Causal self-attention of each text, with the projections around it.
#[derive(Debug)]
pub(in crate::model) struct Attention {
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
    pub(in crate::model) fn load(
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
    pub(in crate::model) fn mix(
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
    pub(in crate::model) fn output(
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
