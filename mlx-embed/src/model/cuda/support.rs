//! Which checkpoints the kernels can run.

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

/// A layer's matrices.
const MATRICES: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// The checkpoint's form, or why it runs on MLX's own operations instead.
pub(crate) fn form(checkpoint: &Checkpoint) -> Result<Result<Form, String>, CheckpointError> {
    let config = checkpoint.config();
    let has = |name: &str| checkpoint.has(name);
    let not = |reason: &str| Ok(Err(reason.to_owned()));
    if checkpoint.dtype_of("norm.weight") != Some(Dtype::Bf16) {
        return not("its norms are not bf16");
    }
    if ![64, 128].contains(&config.head_dim) {
        return not("its heads have neither 64 nor 128 elements");
    }
    if [config.hidden_size, config.intermediate_size, config.heads * config.head_dim]
        .iter()
        .any(|n| n % 64 != 0)
    {
        return not("one of its sizes is not a multiple of 64");
    }
    let mut forms = Vec::new();
    let (mut biases, mut head_norms) = (Vec::new(), Vec::new());
    for layer in 0..config.layers {
        let of = |name: &str| format!("layers.{layer}.{name}");
        for (index, name) in MATRICES.iter().enumerate() {
            forms.push(checkpoint.quantization_of(&of(name))?);
            let bias = has(&of(&format!("{name}.bias")));
            match index {
                0..3 => biases.push(bias),
                _ if bias => {
                    return not(
                        "one of its matrices has a bias that queries, keys and values alone may have",
                    );
                }
                _ => {}
            }
        }
        head_norms.extend(["q_norm", "k_norm"].map(|name| has(&of(&format!("self_attn.{name}.weight")))));
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
    let table = match checkpoint.quantization_of("embed_tokens")? {
        None => (16, 64),
        Some(q) if q.mode == QuantMode::Affine && [4, 8].contains(&q.bits) => (q.bits, q.group_size),
        Some(other) => return Ok(Err(format!("its embedding table is stored as {other}"))),
    };
    Ok(Ok(Form {
        geometry: Geometry {
            hidden: config.hidden_size,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            vocab: config.vocab_size,
            group: group.unwrap_or(64),
            table,
            traditional: config.rope_traditional,
            bias: biases[0],
            head_norms: head_norms[0],
            eps: config.rms_norm_eps,
        },
        packed: group.is_some(),
    }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn of(case: &str) -> Option<Result<Form, String>> {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
        golden.is_dir().then(|| form(&Checkpoint::open(golden.join(case)).unwrap()).unwrap())
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
