//! Which checkpoints the kernels can run.

use crate::checkpoint::spec::{
    Activation, EmbeddingSpec, LayerSpec, ModelSpec, NormKind, NormSpec, ProjectionSpec, Sees,
};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::mlx::Dtype;
use crate::mlx::cuda::Geometry;
use crate::mlx::ops::QuantMode;

/// How a checkpoint looks to the kernels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Form {
    pub(crate) geometry: Geometry,
    /// Whether its matrices have 4 bits, rather than being dense.
    pub(crate) packed: bool,
}

/// The checkpoint's form, or why it runs on MLX's own operations instead.
pub(crate) fn form(
    checkpoint: &Checkpoint,
    spec: &ModelSpec,
) -> Result<Result<Form, String>, CheckpointError> {
    let not = |reason: &str| Ok(Err(reason.to_owned()));
    let Some(norm) = &spec.norm else { return not("no norm follows its layers") };
    if checkpoint.dtype_of(&norm.weight) != Some(Dtype::Bf16) {
        return not("its norms are not bf16");
    }
    let [LayerSpec { attention, mlp }, ..] = &spec.layers[..] else { return not("it has no layers") };
    let head_dim = attention.heads.head_dim;
    if ![64, 128].contains(&head_dim) {
        return not("its heads have neither 64 nor 128 elements");
    }
    if [spec.hidden, mlp.down.inputs, attention.heads.queries()].iter().any(|n| n % 64 != 0) {
        return not("one of its sizes is not a multiple of 64");
    }
    if let Some(what) = beyond_the_kernels(spec) {
        return Ok(Err(format!("these kernels don't compute {what}")));
    }
    let biased = |projection: &ProjectionSpec| projection.parts.iter().any(|part| part.bias);
    let (mut forms, mut biases, mut head_norms) = (Vec::new(), Vec::new(), Vec::new());
    for LayerSpec { attention, mlp } in &spec.layers {
        for projection in [&attention.qkv, &attention.output, &mlp.up, &mlp.down] {
            for part in &projection.parts {
                forms.push(checkpoint.quantization_of(&part.path)?);
            }
        }
        if [&attention.output, &mlp.up, &mlp.down].into_iter().any(biased) {
            return not("one of its matrices has a bias that queries, keys and values alone may have");
        }
        biases.extend(attention.qkv.parts.iter().map(|part| part.bias));
        head_norms.extend([attention.q_norm.is_some(), attention.k_norm.is_some()]);
    }
    let same = |all: &[bool]| all.iter().all(|one| *one == all[0]);
    if !same(&biases) || !same(&head_norms) {
        return not("not all of its layers are alike");
    }
    if forms.iter().any(|form| *form != forms[0]) {
        return not("its matrices are stored in different ways");
    }
    let group = match forms[0] {
        None => None,
        Some(q) if q.mode == QuantMode::Affine && q.bits == 4 && [32, 64, 128].contains(&q.group_size) => {
            Some(q.group_size)
        }
        Some(other) => return Ok(Err(format!("its matrices are stored as {other}"))),
    };
    let table = match checkpoint.quantization_of(&spec.embedding.tokens.path)? {
        None => (16, 64),
        Some(q) if q.mode == QuantMode::Affine && [4, 8].contains(&q.bits) => (q.bits, q.group_size),
        Some(other) => return Ok(Err(format!("its embedding table is stored as {other}"))),
    };
    Ok(Ok(Form {
        geometry: Geometry {
            hidden: spec.hidden as i32,
            heads: attention.heads.heads as i32,
            kv_heads: attention.heads.kv_heads as i32,
            head_dim: head_dim as i32,
            vocab: spec.embedding.tokens.rows as i32,
            group: group.unwrap_or(64),
            table,
            traditional: spec.ropes[0].traditional,
            bias: biases[0],
            head_norms: head_norms[0],
            eps: norm.eps,
        },
        packed: group.is_some(),
    }))
}

/// What of the model they were not written for.
fn beyond_the_kernels(spec: &ModelSpec) -> Option<&'static str> {
    let EmbeddingSpec { scale, positions, token_types, norm, .. } = &spec.embedding;
    if *scale != 1.0 || positions.is_some() || token_types.is_some() || norm.is_some() {
        return Some("an embedding that is more than rows of a table");
    }
    if spec.ropes.len() != 1 {
        return Some("several rotary embeddings, or none");
    }
    let first = &spec.layers[0];
    let eps = spec.norm.as_ref().map(|norm| norm.eps);
    let plain = |norm: &NormSpec| norm.kind == NormKind::Rms { offset: 0.0 } && Some(norm.eps) == eps;
    for LayerSpec { attention, mlp } in &spec.layers {
        for norms in [&attention.norms, &mlp.norms] {
            if norms.output.is_some() || norms.sum.is_some() || !norms.input.as_ref().is_some_and(plain) {
                return Some("norms other than an RMSNorm before each half of a layer");
            }
        }
        if ![&attention.q_norm, &attention.k_norm].into_iter().flatten().all(plain) {
            return Some("head norms other than RMSNorm");
        }
        if attention.sees != Sees::Before {
            return Some("attention other than to all tokens before");
        }
        if attention.rope != Some(0) || attention.scale != (attention.heads.head_dim as f32).powf(-0.5) {
            return Some("scores that are not scaled by the head's width, or layers without rotation");
        }
        if attention.heads != first.attention.heads {
            return Some("layers with other heads than the first");
        }
        if mlp.activation != Activation::Silu || !mlp.gated {
            return Some("feed-forward parts other than SwiGLU");
        }
        if attention.qkv.parts.len() != 3 || mlp.up.parts.len() != 2 {
            return Some("fused matrices");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn of(case: &str) -> Option<Result<Form, String>> {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
        golden.is_dir().then(|| {
            let checkpoint = Checkpoint::open(golden.join(case)).unwrap();
            form(&checkpoint, checkpoint.spec()).unwrap()
        })
    }

    #[test]
    fn forms_are_read_from_checkpoints() {
        let Some(dense) = of("qwen3-head-dim-64-yarn-bf16") else { return };
        let dense = dense.unwrap();
        assert!(!dense.packed && dense.geometry.head_norms && !dense.geometry.bias);
        assert_eq!(dense.geometry.table, (16, 64));
        let packed = of("qwen2-head-dim-64-affine-4bit-g128").unwrap().unwrap();
        assert!(packed.packed && packed.geometry.bias && !packed.geometry.head_norms);
        assert_eq!((packed.geometry.group, packed.geometry.table), (128, (4, 128)));
        let llama = of("llama-head-dim-64-affine-4bit-g32").unwrap().unwrap();
        assert!(llama.geometry.traditional && !llama.geometry.bias);
        assert_eq!(llama.geometry.table, (8, 64));
    }

    #[test]
    fn what_does_not_fit_says_why() {
        for (case, reason) in [
            ("qwen3-f32", "norms are not bf16"),
            ("qwen3-bf16", "neither 64 nor 128 elements"),
            ("qwen3-head-dim-128-bf16", "not a multiple of 64"),
            ("qwen3-affine-8bit-g128", "stored as affine 8-bit"),
        ] {
            let Some(form) = of(case) else { return };
            let why = form.unwrap_err();
            assert!(why.contains(reason), "{case}: {why}");
        }
    }
}
