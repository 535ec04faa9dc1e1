//! Attention with the projections around it.

use std::sync::Arc;

use crate::checkpoint::{CheckpointError, Weights};
use crate::kernels::{AttentionOptions, Engine, Heads, Order, Output, Past, Reuse, Rotation};
use crate::mlx::host::{HostError, HostInput, HostKernel, HostOutput, OutputSpec, host_kernel};
use crate::mlx::{Array, Dtype, MlxError, Stream};
use crate::model::reuse::{KeysValues, LayerReuse};
use crate::model::rope::Rope;
use crate::model::{Arithmetic, Part, Rule, Texts, rotation};

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
        reuse: LayerReuse<'_>,
        rope: &Rope,
        stream: &Stream,
    ) -> Result<Array, MlxError> {
        let longest = texts.past + texts.lengths.iter().copied().max().unwrap_or(0);
        let heads = self.mix.heads;
        let call = MixCall {
            layer: Arc::clone(&self.mix),
            texts: Arc::clone(texts),
            angles: rope.angles(longest),
            traditional: rope.traditional(),
        };
        let mut inputs: Vec<&Array> = std::iter::once(x).chain(&self.mix_arrays).collect();
        let tokens = x.shape()[1];
        let shape = [1, tokens, (heads.heads * heads.head_dim) as i32];
        let mixed = OutputSpec::new(&shape, Dtype::F32);
        match reuse {
            LayerReuse::Keep(kept) => {
                let keys_shape = heads.keys_shape(tokens as usize).map(|size| size as i32);
                let values_shape = heads.values_shape(tokens as usize).map(|size| size as i32);
                let keys = OutputSpec::new(&keys_shape, Dtype::F32);
                let values = OutputSpec::new(&values_shape, Dtype::F32);
                let [mixed, keys, values] =
                    host_kernel(Arc::new(call), &inputs, [mixed, keys, values], stream)?;
                kept.push(KeysValues { keys, values });
                return Ok(mixed);
            }
            LayerReuse::Continue(past) => inputs.extend([&past.keys, &past.values]),
            LayerReuse::Nothing => {}
        }
        let [mixed] = host_kernel(Arc::new(call), &inputs, [mixed], stream)?;
        Ok(mixed)
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
        let (arrays, past) = inputs[1..].split_at(qkv.arrays);
        let (mixed, kept) = outputs.split_at_mut(1);
        let reuse = match (past, kept) {
            ([keys, values], _) => Reuse::Continue(Past {
                tokens: self.texts.past,
                length: values.shape()[1] as usize,
                keys: keys.as_slice()?,
                values: values.as_slice()?,
            }),
            (_, [keys, values]) => Reuse::Keep { keys: keys.as_mut_slice()?, values: values.as_mut_slice()? },
            _ => Reuse::Nothing,
        };
        let x: &[f32] = inputs[0].as_slice()?;
        engine.between(x.len() / qkv.inputs * qkv.outputs, |between| {
            let mut laps = self.texts.watched().laps();
            let projected = qkv.run(engine, x, &self.texts, arrays, Output::Store(between))?;
            laps.done(&[Part::InputNorm, Part::Qkv], qkv.arithmetic());
            let lengths = &self.texts.lengths;
            let mut prepared = || laps.done(rotation(q_norm.is_some()), Arithmetic::F32);
            mixed[0]
                .fill_with(|out| engine.attention(projected, lengths, &options, reuse, &mut prepared, out))?;
            laps.done(&[Part::Attention], Arithmetic::F32);
            Ok(())
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
        let mut laps = self.texts.watched().laps();
        project.run(engine, inputs[1].as_slice()?, &self.texts, &inputs[2..], output)?;
        laps.done(&[Part::Output], project.arithmetic());
        Ok(())
    }
}
