//! The feed-forward part.

use std::sync::Arc;

use crate::checkpoint::{CheckpointError, Weights};
use crate::kernels::{Engine, Order, Output};
use crate::mlx::host::{HostError, HostInput, HostKernel, HostOutput, OutputSpec, host_kernel};
use crate::mlx::{Array, Dtype, MlxError, Stream};
use crate::model::{Part, Rule, Texts};

use super::norm::Norm;
use super::project::{Project, ProjectSpec};

/// The feed-forward part, added to the residual stream.
#[derive(Debug)]
pub(in crate::model) struct Mlp {
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
    pub(in crate::model) fn load(
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
    pub(in crate::model) fn forward(
        &self,
        x: &Array,
        texts: &Arc<Texts>,
        stream: &Stream,
    ) -> Result<Array, MlxError> {
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
            let mut laps = self.texts.watched().laps();
            let gated = gate_up.run(engine, x, &self.texts, gate_up_arrays, Output::SwiGlu(between))?;
            laps.done(&[Part::PostAttentionNorm, Part::GateUp, Part::SwiGlu], gate_up.arithmetic());
            down.run(engine, gated, &self.texts, down_arrays, Output::Add(x))?;
            laps.done(&[Part::Down], down.arithmetic());
            Ok(())
        })
    }
}
