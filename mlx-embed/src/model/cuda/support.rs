//! Which checkpoints the kernels can run.

use crate::checkpoint::spec::{
    Activation, AttentionSpec, EmbeddingSpec, HalfNorms, LayerSpec, MlpSpec, ModelSpec, NormKind, NormSpec,
    ProjectionSpec, Sees,
};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::mlx::Dtype;
use crate::mlx::cuda::{self, Format, Geometry, Numbers};
use crate::model::Precision;

/// How a checkpoint looks to the kernels.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Form {
    pub(crate) geometry: Geometry,
    /// Those of its layers' packed matrices.
    pub(crate) formats: Vec<Format>,
    /// Whether [`Precision`] decides what is multiplied.
    has_precisions: bool,
}

impl Form {
    /// Whether any of its layers' matrices is packed.
    pub(super) fn is_packed(&self) -> bool {
        !self.formats.is_empty()
    }

    /// Whether activations are of f32, and so are weights.
    pub(crate) fn is_wide(&self) -> bool {
        self.geometry.numbers.is_wide()
    }

    pub(crate) fn has_precisions(&self) -> bool {
        self.has_precisions
    }
}

/// Widest residual stream: a row of it in f32 has room in a block's shared memory.
const WIDEST: usize = 1 << 14;

/// The checkpoint's form, or why it runs on MLX's own operations instead.
pub(crate) fn form(
    checkpoint: &Checkpoint,
    spec: &ModelSpec,
    precision: Precision,
) -> Result<Result<Form, String>, CheckpointError> {
    let dtype = norm_dtype(checkpoint, spec);
    let numbers = match (dtype, precision) {
        (Some(Dtype::Bf16), _) | (_, Precision::Fast) => Numbers::Bf16,
        (Some(Dtype::F16), Precision::Exact) => Numbers::Tf32,
        (_, Precision::Exact) => Numbers::F32,
    };
    if let Some(why) = beyond_the_kernels(spec, numbers) {
        return Ok(Err(why));
    }
    // Products of packed weights have scales of bf16. Those of another type would lose bits which count for much where a
    // group's smallest weight is far from zero: such matrices are dequantised at load.
    let keeps_packed = dtype == Some(Dtype::Bf16);
    let (mut formats, mut alike) = (Vec::new(), true);
    let of_layers = spec.layers.iter().flat_map(|LayerSpec { attention, mlp, .. }| {
        [(&attention.qkv, false), (&attention.output, false), (&mlp.up, true), (&mlp.down, false)]
    });
    let of_head = spec.mlm.iter().flat_map(|head| std::iter::once(&head.dense).chain(&head.decoder));
    for (projection, is_up) in of_layers.chain(of_head.map(|projection| (projection, false))) {
        let mut of_parts = Vec::new();
        for part in &projection.parts {
            let stored = checkpoint.quantization_of(&part.path)?;
            let format = stored.map(|q| (q, Format::new(q.mode, q.bits, q.group_size)));
            match format {
                Some((_, Some(_))) if !keeps_packed => (),
                Some((q, None)) => return Ok(Err(format!("its matrices are stored as {q}"))),
                Some((_, Some(_))) if projection.inputs % 64 != 0 => {
                    let why = format!("{} has {} inputs, no multiple of 64", part.path, projection.inputs);
                    return Ok(Err(why));
                }
                Some((_, Some(format))) if !formats.contains(&format) => formats.push(format),
                _ => (),
            }
            of_parts.push(stored);
        }
        alike &= !is_up || of_parts.windows(2).all(|pair| pair[0] == pair[1]);
    }
    let table = match checkpoint.quantization_of(&spec.embedding.tokens.path)? {
        // Rows are read in whichever type the scales have, into activations of that type.
        Some(_) if !keeps_packed && !numbers.is_wide() => None,
        None => None,
        Some(q) => match Format::new(q.mode, q.bits, q.group_size) {
            None => return Ok(Err(format!("its embedding table is stored as {q}"))),
            format => format,
        },
    };
    let LayerSpec { attention, mlp, .. } = &spec.layers[0];
    let fused = alike && !numbers.is_wide() && is_fused(spec);
    let eps = attention.q_norm.as_ref().or(spec.norm.as_ref()).map_or(0.0, |norm| norm.eps);
    Ok(Ok(Form {
        geometry: Geometry {
            hidden: spec.hidden as i32,
            heads: attention.heads.heads as i32,
            kv_heads: attention.heads.kv_heads as i32,
            head_dim: attention.heads.head_dim as i32,
            vocab: spec.embedding.tokens.rows as i32,
            numbers,
            table,
            traditional: spec.ropes.first().is_some_and(|rope| rope.traditional),
            bias: spec.layers.iter().any(|layer| has_bias(&layer.attention.qkv)),
            head_norms: attention.q_norm.is_some(),
            eps,
            activation: function(mlp.activation),
            gated: mlp.gated,
            mlm: spec.mlm.as_ref().map(|head| function(head.activation)),
            causal: spec.layers.iter().all(|layer| layer.attention.sees == Sees::Before),
            fused,
        },
        formats,
        has_precisions: dtype != Some(Dtype::Bf16),
    }))
}

fn function(activation: Activation) -> cuda::Activation {
    match activation {
        Activation::Silu => cuda::Activation::Silu,
        Activation::GeluErf => cuda::Activation::GeluErf,
        Activation::GeluTanh => cuda::Activation::GeluTanh,
        Activation::Relu => cuda::Activation::Relu,
    }
}

fn has_bias(projection: &ProjectionSpec) -> bool {
    projection.parts.iter().any(|part| part.bias)
}

/// The type of the model's norms.
fn norm_dtype(checkpoint: &Checkpoint, spec: &ModelSpec) -> Option<Dtype> {
    let first = spec.layers.first().map(|layer| &layer.attention.norms);
    let norms = first.and_then(|norms| norms.input.as_ref().or(norms.sum.as_ref()));
    spec.norm.as_ref().or(norms).and_then(|norm| checkpoint.dtype_of(&norm.weight))
}

/// What of the model the kernels were not written for.
fn beyond_the_kernels(spec: &ModelSpec, numbers: Numbers) -> Option<String> {
    let ModelSpec {
        hidden,
        embedding: _,
        relative,
        layer_inputs,
        ropes,
        layers,
        norm: _,
        projection: _,
        behind: _,
        head: _,
        mlm: _,
    } = spec;
    let Some(first) = layers.first() else { return Some("it has no layers".into()) };
    let heads = first.attention.heads;
    let pieces = if numbers.is_wide() { 4 } else { 16 };
    if heads.head_dim % pieces != 0 || heads.head_dim > 256 {
        return Some(format!(
            "its heads have {} elements, no multiple of {pieces} up to 256",
            heads.head_dim
        ));
    }
    if hidden % 8 != 0 || *hidden > WIDEST || first.mlp.down.inputs % 8 != 0 {
        return Some("one of its sizes is not a multiple of 8, or too large".into());
    }
    if ropes.iter().any(|rope| rope.dims != heads.head_dim || rope.traditional != ropes[0].traditional) {
        return Some("parts of its heads rotate, or they do in several ways".into());
    }
    let more = |layer: &LayerSpec| {
        layer.input.is_some() || layer.scalar.is_some() || layer.attention.v_norm.is_some()
    };
    if layer_inputs.is_some() || layers.iter().any(more) {
        return Some("its layers have inputs of their own, scalars or norms of values".into());
    }
    if relative.is_some() {
        return Some("its layers add numbers to scores by distance".into());
    }
    let head_norms = |attention: &AttentionSpec| {
        [&attention.q_norm, &attention.k_norm].map(|norm| norm.as_ref().map(|norm| (norm.kind, norm.eps)))
    };
    let rms = |norm: (NormKind, f32)| matches!(norm.0, NormKind::Rms { .. });
    let of_first = head_norms(&first.attention);
    let same = of_first[0].map(|(_, eps)| eps) == of_first[1].map(|(_, eps)| eps);
    if !same || !of_first.into_iter().flatten().all(rms) {
        return Some("its head norms are not RMSNorm of queries and of keys".into());
    }
    let alike = |LayerSpec { attention, mlp, .. }: &LayerSpec| {
        attention.heads == heads
            && head_norms(attention) == of_first
            && (mlp.activation, mlp.gated) == (first.mlp.activation, first.mlp.gated)
            && mlp.down.inputs % 8 == 0
    };
    if !layers.iter().all(alike) {
        return Some("its layers have other heads, norms of heads or activations than the first".into());
    }
    None
}

/// Whether the parts of a layer around products can be within them.
fn is_fused(spec: &ModelSpec) -> bool {
    let EmbeddingSpec { norm, .. } = &spec.embedding;
    let grows = spec.ropes.iter().any(|rope| rope.query_growth.is_some());
    let Some(last) = &spec.norm else { return false };
    let plain = |norm: &NormSpec| matches!(norm.kind, NormKind::Rms { .. }) && norm.eps == last.eps;
    let before = |norms: &HalfNorms| {
        norms.output.is_none() && norms.sum.is_none() && norms.input.as_ref().is_some_and(plain)
    };
    let layer = |LayerSpec { attention, mlp, .. }: &LayerSpec| {
        let AttentionSpec { norms, q_norm, k_norm, heads, rope, output, .. } = attention;
        let MlpSpec { norms: mlp_norms, up, gated, down, .. } = mlp;
        let sizes = [spec.hidden, down.inputs, heads.queries()];
        before(norms)
            && before(mlp_norms)
            && [q_norm, k_norm].into_iter().flatten().all(plain)
            && *rope == Some(0)
            && [64, 128].contains(&heads.head_dim)
            && sizes.iter().all(|size| size % 64 == 0)
            && ![output, up, down].into_iter().any(has_bias)
            && *gated
            && matches!(&up.parts[..], [gate, up] if gate.outputs() == up.outputs())
    };
    let alone = norm.is_none() && spec.mlm.is_none() && !grows;
    alone && plain(last) && spec.ropes.len() == 1 && spec.layers.iter().all(layer)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::mlx::ops::QuantMode;

    fn of(case: &str) -> Option<Result<Form, String>> {
        with(case, Precision::Exact)
    }

    fn with(case: &str, precision: Precision) -> Option<Result<Form, String>> {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
        golden.is_dir().then(|| {
            let checkpoint = Checkpoint::open(golden.join(case)).unwrap();
            form(&checkpoint, checkpoint.spec(), precision).unwrap()
        })
    }

    #[test]
    fn forms_are_read_from_checkpoints() {
        let affine = |bits, group| Format::new(QuantMode::Affine, bits, group);
        let Some(dense) = of("qwen3-head-dim-64-yarn-bf16") else { return };
        let dense = dense.unwrap();
        assert!(!dense.is_packed() && dense.geometry.head_norms && !dense.geometry.bias);
        assert!(dense.geometry.fused && dense.geometry.causal && dense.geometry.table.is_none());
        let packed = of("qwen2-head-dim-64-affine-4bit-g128").unwrap().unwrap();
        assert!(packed.geometry.fused && packed.geometry.bias && !packed.geometry.head_norms);
        assert_eq!((packed.formats, packed.geometry.table), (vec![affine(4, 128).unwrap()], affine(4, 128)));
        let llama = of("llama-head-dim-64-affine-4bit-g32").unwrap().unwrap();
        assert!(llama.geometry.traditional && !llama.geometry.bias);
        assert_eq!(llama.geometry.table, affine(8, 64));
        let mixed = of("qwen3-mixed-modes").unwrap().unwrap();
        assert!(mixed.formats.len() > 1 && !mixed.geometry.fused, "{:?}", mixed.formats);
        let gemma = of("families/embedding-gemma-head-dim-256-bf16").unwrap().unwrap();
        assert!(!gemma.geometry.fused && !gemma.geometry.causal);
        assert_eq!((gemma.geometry.head_dim, gemma.geometry.activation), (256, cuda::Activation::GeluTanh));
        let of_f32 = of("qwen3-f32").unwrap().unwrap();
        assert!(of_f32.geometry.numbers == Numbers::F32 && !of_f32.geometry.fused && of_f32.has_precisions());
        let of_f16 = of("qwen3-affine-8bit-g32-f16-scales").unwrap().unwrap();
        assert!(of_f16.geometry.numbers == Numbers::Tf32 && of_f16.has_precisions() && !of_f16.is_packed());
        assert!(of_f16.geometry.table.is_some());
        let fast = with("qwen3-affine-8bit-g32-f16-scales", Precision::Fast).unwrap().unwrap();
        assert!(fast.geometry.numbers == Numbers::Bf16 && fast.has_precisions() && !fast.is_packed());
        assert!(fast.geometry.table.is_none());
        let encoder = of("families/bert-gamma-beta-bf16").unwrap().unwrap();
        assert!(!encoder.geometry.gated && encoder.geometry.bias && !encoder.geometry.fused);
    }

    #[test]
    fn what_does_not_fit_says_why() {
        for (case, reason) in [
            ("qwen2-odd-sizes-bf16", "20 elements, no multiple of 16"),
            ("families/embedding-gemma2-bf16", "parts of its heads rotate"),
        ] {
            let Some(form) = of(case) else { return };
            let why = form.unwrap_err();
            assert!(why.contains(reason), "{case}: {why}");
        }
    }
}
