//! Which checkpoints the kernels can run.

use crate::checkpoint::spec::{
    Activation, AttentionSpec, EmbeddingSpec, HalfNorms, HeadsSpec, LayerInputSpec, LayerInputsSpec,
    LayerSpec, MlpSpec, ModelSpec, NormKind, NormSpec, ProjectionSpec, RelativeSpec, Sees,
};
use crate::checkpoint::{Checkpoint, CheckpointError, Groups, Matrix, Tensor};
use crate::mlx::Dtype;
use crate::mlx::cuda::{self, Format, Geometry, LayerInputs, Numbers};
use crate::model::Precision;

use super::operations::sizes;

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

    /// The same where the kernels for this GPU have nothing in products but them, if that is so.
    pub(crate) fn on(mut self, architecture: &cuda::Architecture) -> Self {
        self.geometry.fused &= architecture.fuses(self.geometry.numbers);
        self
    }

    /// Whether products read the quantised matrix packed.
    pub(super) fn keeps_packed(&self, Matrix { weight, groups }: &Matrix) -> bool {
        let Some(Groups { scales, biases, quantization }) = groups else { return false };
        let inputs = weight.shape()[1] * 32 / quantization.bits as usize;
        let types = [Some(scales), biases.as_ref()].map(|tensor| tensor.map(Tensor::dtype));
        keeps_packed(self.geometry.numbers, self.has_precisions, inputs, types)
    }
}

/// Whether products read matrices packed that have so many inputs, and scales and biases of these types.
///
/// Products have these in the type that they multiply. In another type they would lose bits, which count for much where a
/// group's smallest weight is far from zero.
fn keeps_packed(
    numbers: Numbers,
    has_precisions: bool,
    inputs: usize,
    scales_biases: [Option<Dtype>; 2],
) -> bool {
    match numbers {
        Numbers::Bf16 => !has_precisions,
        Numbers::F16 => {
            inputs.is_multiple_of(64)
                && scales_biases.into_iter().flatten().all(|dtype| dtype == Dtype::F16 || !dtype.is_float())
        }
        Numbers::F32 => false,
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
        (Some(Dtype::F16), Precision::Exact) => Numbers::F16,
        (_, Precision::Exact) => Numbers::F32,
    };
    if let Some(why) = beyond_the_kernels(spec, numbers) {
        return Ok(Err(why));
    }
    let has_precisions = dtype != Some(Dtype::Bf16);
    let (mut formats, mut alike, mut short) = (Vec::new(), true, true);
    let of_layers = spec.layers.iter().flat_map(|LayerSpec { attention, mlp, input, .. }| {
        let halves =
            [(&attention.qkv, false), (&attention.output, false), (&mlp.up, true), (&mlp.down, false)];
        let own = input.iter().flat_map(|input| [&input.gate, &input.output]);
        halves.into_iter().chain(own.map(|projection| (projection, false)))
    });
    let of_head = spec.mlm.iter().flat_map(|head| std::iter::once(&head.dense).chain(&head.decoder));
    let apart = spec.layer_inputs.iter().map(|inputs| &inputs.projection).chain(of_head);
    for (projection, is_up) in of_layers.chain(apart.map(|projection| (projection, false))) {
        let mut of_parts = Vec::new();
        for part in &projection.parts {
            let stored = checkpoint.quantization_of(&part.path)?;
            let format = stored.map(|q| (q, Format::new(q.mode, q.bits, q.group_size)));
            let types =
                ["scales", "biases"].map(|name| checkpoint.dtype_of(&format!("{}.{name}", part.path)));
            match format {
                Some((_, Some(_))) if !keeps_packed(numbers, has_precisions, projection.inputs, types) => (),
                Some((q, None)) => return Ok(Err(format!("its matrices are stored as {q}"))),
                Some((_, Some(_))) if projection.inputs % 64 != 0 => {
                    let why = format!("{} has {} inputs, no multiple of 64", part.path, projection.inputs);
                    return Ok(Err(why));
                }
                Some((_, Some(format))) if !formats.contains(&format) => formats.push(format),
                _ => (),
            }
            let dtype = checkpoint.dtype_of(&format!("{}.weight", part.path));
            short &= stored.is_some() || matches!(dtype, Some(Dtype::F16 | Dtype::Bf16));
            of_parts.push(stored);
        }
        alike &= !is_up || of_parts.windows(2).all(|pair| pair[0] == pair[1]);
    }
    let table = match checkpoint.quantization_of(&spec.embedding.tokens.path)? {
        // Rows are read in whichever type the scales have, into activations of that type.
        Some(_) if has_precisions && !numbers.is_wide() => None,
        None => None,
        Some(q) => match Format::new(q.mode, q.bits, q.group_size) {
            None => return Ok(Err(format!("its embedding table is stored as {q}"))),
            format => format,
        },
    };
    let LayerSpec { attention, mlp, .. } = &spec.layers[0];
    // A product of f16 that has all in it multiplies 11 bits of each weight.
    let fused = match numbers {
        Numbers::Bf16 => true,
        Numbers::F16 => short,
        Numbers::F32 => false,
    };
    let fused = fused && alike && is_fused(spec);
    let eps = attention.q_norm.as_ref().or(spec.norm.as_ref()).map_or(0.0, |norm| norm.eps);
    let layer_inputs = spec.layer_inputs.as_ref().zip(spec.layers[0].input.as_ref());
    Ok(Ok(Form {
        geometry: Geometry {
            hidden: spec.hidden as i32,
            heads: sizes(attention.heads),
            other_heads: other_heads(spec).next().map(sizes),
            vocab: spec.embedding.tokens.rows as i32,
            numbers,
            table,
            traditional: spec.ropes.first().is_some_and(|rope| rope.traditional),
            bias: spec.layers.iter().any(|layer| has_bias(&layer.attention.qkv)),
            head_norms: attention.q_norm.is_some(),
            eps,
            value_eps: attention.v_norm,
            activation: function(mlp.activation),
            gated: mlp.gated,
            layer_inputs: layer_inputs.map(|(inputs, own)| LayerInputs {
                width: inputs.norm.size as i32,
                activation: function(own.activation),
            }),
            scalars: spec.layers.iter().any(|layer| layer.scalar.is_some()),
            mlm: spec.mlm.as_ref().map(|head| function(head.activation)),
            far: spec.relative.is_some().then_some(RelativeSpec::FAR as i32),
            causal: spec.layers.iter().all(|layer| layer.attention.sees == Sees::Before),
            fused,
        },
        formats,
        has_precisions,
    }))
}

fn function(activation: Activation) -> cuda::Activation {
    match activation {
        Activation::Silu => cuda::Activation::Silu,
        Activation::Gelu => cuda::Activation::GeluErf,
        Activation::GeluTanh => cuda::Activation::GeluTanh,
        Activation::Relu => cuda::Activation::Relu,
        Activation::Identity => cuda::Activation::Identity,
        Activation::Tanh => cuda::Activation::Tanh,
        Activation::Sigmoid => cuda::Activation::Sigmoid,
        Activation::QuickGelu => cuda::Activation::QuickGelu,
        Activation::ClippedGelu => cuda::Activation::ClippedGelu,
        Activation::Relu6 => cuda::Activation::Relu6,
        Activation::LeakyRelu => cuda::Activation::LeakyRelu,
        Activation::SquaredRelu => cuda::Activation::SquaredRelu,
        Activation::HardSwish => cuda::Activation::HardSwish,
        Activation::Mish => cuda::Activation::Mish,
        Activation::Laplace => cuda::Activation::Laplace,
    }
}

fn has_bias(projection: &ProjectionSpec) -> bool {
    projection.parts.iter().any(|part| part.bias)
}

/// Heads of layers that have others than the first.
fn other_heads(spec: &ModelSpec) -> impl Iterator<Item = HeadsSpec> {
    let first = spec.layers.first().map(|layer| layer.attention.heads);
    spec.layers.iter().map(|layer| layer.attention.heads).filter(move |heads| Some(*heads) != first)
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
        normalizes: _,
        relative: _,
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
    let of_heads = layers.iter().find_map(|layer| beyond_heads(layer.attention.heads, numbers));
    if of_heads.is_some() {
        return of_heads;
    }
    let others = other_heads(spec).next();
    if other_heads(spec).any(|heads| Some(heads) != others) {
        return Some("its layers have more than two kinds of heads".into());
    }
    if hidden % 8 != 0 || *hidden > WIDEST || first.mlp.down.inputs % 8 != 0 {
        return Some("one of its sizes is not a multiple of 8, or too large".into());
    }
    let in_part = |AttentionSpec { heads, rope, .. }: &AttentionSpec| {
        rope.is_some_and(|rope| ropes.get(rope).is_none_or(|rope| rope.dims != heads.head_dim))
    };
    let traditional = ropes.first().map(|rope| rope.traditional);
    if ropes.iter().any(|rope| Some(rope.traditional) != traditional)
        || layers.iter().any(|layer| in_part(&layer.attention))
    {
        return Some("parts of its heads rotate, or they do in several ways".into());
    }
    let of_inputs = layers.iter().find_map(|layer| beyond_inputs(layer, first, layer_inputs.as_ref()));
    if of_inputs.is_some() {
        return of_inputs;
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
        head_norms(attention) == of_first
            && attention.v_norm == first.attention.v_norm
            && (mlp.activation, mlp.gated) == (first.mlp.activation, first.mlp.gated)
            && mlp.down.inputs % 8 == 0
    };
    if !layers.iter().all(alike) {
        return Some("its layers have other norms of heads or activations than the first".into());
    }
    None
}

/// What of a layer's heads they were not written for.
fn beyond_heads(HeadsSpec { head_dim, .. }: HeadsSpec, numbers: Numbers) -> Option<String> {
    let pieces = match numbers {
        Numbers::F32 | Numbers::F16 => 4,
        Numbers::Bf16 if head_dim > 256 => 32,
        Numbers::Bf16 => 16,
    };
    (head_dim % pieces != 0 || head_dim > 512)
        .then(|| format!("its heads have {head_dim} elements, no multiple of {pieces} up to 512"))
}

/// What of a layer's own input they were not written for.
fn beyond_inputs(layer: &LayerSpec, first: &LayerSpec, all: Option<&LayerInputsSpec>) -> Option<String> {
    let (own, all) = match (&layer.input, all) {
        (None, None) => return None,
        (Some(own), Some(all)) => (own, all),
        _ => return Some("some of its layers have inputs of their own".into()),
    };
    let LayerInputSpec { gate, activation, output, norms: _ } = own;
    let width = all.norm.size;
    if gate.parts.len() != 1 || [gate.outputs(), output.inputs] != [width; 2] || has_bias(&all.projection) {
        return Some("inputs of its layers have several sizes, or biases".into());
    }
    if width % 8 != 0 || width > WIDEST {
        return Some(format!("inputs of its layers have {width} numbers, no multiple of 8 up to {WIDEST}"));
    }
    (first.input.as_ref().map(|input| input.activation) != Some(*activation))
        .then(|| "inputs of its layers are gated by several functions".into())
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
    let more = spec.layer_inputs.is_some()
        || other_heads(spec).next().is_some()
        || spec.layers.iter().any(|layer| layer.scalar.is_some() || layer.attention.v_norm.is_some());
    let alone = norm.is_none() && spec.mlm.is_none() && !grows && !more;
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
        assert_eq!(
            (gemma.geometry.heads.head_dim, gemma.geometry.activation),
            (256, cuda::Activation::GeluTanh)
        );
        let of_f32 = of("qwen3-f32").unwrap().unwrap();
        assert!(of_f32.geometry.numbers == Numbers::F32 && !of_f32.geometry.fused && of_f32.has_precisions());
        let of_f16 = of("qwen3-affine-8bit-g32-f16-scales").unwrap().unwrap();
        assert!(of_f16.geometry.numbers == Numbers::F16 && of_f16.has_precisions());
        assert_eq!(of_f16.formats, vec![affine(8, 32).unwrap()]);
        let scales_of_f32 = of("qwen3-affine-4bit-g64-f32-scales").unwrap().unwrap();
        assert!(!scales_of_f32.is_packed() && scales_of_f32.geometry.table.is_some());
        assert!(of_f16.geometry.table.is_some());
        let fast = with("qwen3-affine-8bit-g32-f16-scales", Precision::Fast).unwrap().unwrap();
        assert!(fast.geometry.numbers == Numbers::Bf16 && fast.has_precisions() && !fast.is_packed());
        assert!(fast.geometry.table.is_none());
        let encoder = of("families/bert-gamma-beta-bf16").unwrap().unwrap();
        assert!(!encoder.geometry.gated && encoder.geometry.bias && !encoder.geometry.fused);
        assert_eq!(encoder.geometry.far, None);
        let by_distance = of("families/mpnet-head-dim-64-bf16").unwrap().unwrap();
        assert_eq!((by_distance.geometry.far, by_distance.geometry.numbers), (Some(128), Numbers::Bf16));
        let wide = of("families/mpnet-f32").unwrap().unwrap();
        assert_eq!((wide.geometry.far, wide.geometry.numbers), (Some(128), Numbers::F32));
    }

    #[test]
    fn matrices_stay_packed_where_products_have_all_of_their_scales() {
        let keeps = keeps_packed;
        let [f16, bf16, f32] = [Dtype::F16, Dtype::Bf16, Dtype::F32].map(|dtype| [Some(dtype); 2]);
        let of_floats = [Some(Dtype::U8), None];
        assert!(keeps(Numbers::Bf16, false, 64, bf16) && !keeps(Numbers::Bf16, true, 64, f16));
        assert!(keeps(Numbers::F16, true, 64, f16) && keeps(Numbers::F16, true, 128, of_floats));
        for (inputs, types) in [(96, f16), (64, f32), (64, bf16), (64, [f16[0], f32[1]])] {
            assert!(!keeps(Numbers::F16, true, inputs, types), "{inputs} inputs, {types:?}");
        }
        assert!(!keeps(Numbers::F32, true, 64, f16));
    }

    #[test]
    fn products_of_f16_have_all_in_them_on_hopper() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
        if !golden.is_dir() {
            return;
        }
        let of = |case: &str, head_dim: usize| {
            let checkpoint = Checkpoint::open(golden.join(case)).unwrap();
            let mut spec = checkpoint.spec().clone();
            (spec.hidden, spec.ropes[0].dims) = (64, head_dim);
            for LayerSpec { attention, mlp, .. } in &mut spec.layers {
                (attention.heads.head_dim, mlp.down.inputs) = (head_dim, 64);
            }
            form(&checkpoint, &spec, Precision::Exact).unwrap().unwrap()
        };
        let on = |form: &Form, major| {
            let architecture = cuda::Architecture { device: "a GPU".into(), major, minor: 0 };
            form.clone().on(&architecture).geometry
        };
        for case in ["qwen3-f16", "qwen3-affine-8bit-g32-f16-scales"] {
            let form = of(case, 64);
            let [ampere, hopper] = [8, 9].map(|major| on(&form, major));
            assert!(hopper.fuses_halves() && hopper.of_heads() == Dtype::F16, "{case}");
            assert!(!ampere.fused && ampere.of_heads() == Dtype::F32, "{case}");
            assert!(!of(case, 16).geometry.fused, "{case}");
        }
        let bf16 = of("qwen3-bf16", 64);
        assert!([8, 9].map(|major| on(&bf16, major)).iter().all(|of| of.fused && !of.fuses_halves()));
        assert!(!of("qwen3-f32", 64).geometry.fused);
    }

    #[test]
    fn what_does_not_fit_says_why() {
        let Some(form) = of("qwen2-odd-sizes-bf16") else { return };
        let why = form.unwrap_err();
        assert!(why.contains("20 elements, no multiple of 16"), "{why}");
    }

    #[test]
    fn layers_may_have_other_heads_and_inputs_of_their_own() {
        let Some(form) = of("families/embedding-gemma2-f32") else { return };
        let geometry = form.unwrap().geometry;
        let heads = |heads, kv_heads, head_dim| cuda::Heads { heads, kv_heads, head_dim };
        assert_eq!((geometry.heads, geometry.other_heads), (heads(2, 2, 16), Some(heads(2, 1, 32))));
        let inputs = geometry.layer_inputs.unwrap();
        assert_eq!((inputs.width, inputs.activation), (32, cuda::Activation::GeluTanh));
        assert!(geometry.value_eps.is_some() && geometry.scalars && !geometry.fused && !geometry.causal);
        let wide = of("families/embedding-gemma2-head-dim-512-bf16").unwrap().unwrap().geometry;
        assert_eq!((wide.heads, wide.other_heads), (heads(2, 1, 256), Some(heads(2, 1, 512))));
        let packed = of("families/embedding-gemma2-affine-8bit-g64").unwrap().unwrap();
        assert!(packed.is_packed() && packed.geometry.layer_inputs.is_some());
    }

    #[test]
    fn kinds_of_layers_beyond_the_kernels_say_so() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
        if !golden.is_dir() {
            return;
        }
        let checkpoint = Checkpoint::open(golden.join("families/embedding-gemma2-f32")).unwrap();
        let of = |change: &dyn Fn(&mut ModelSpec)| {
            let mut spec = checkpoint.spec().clone();
            // One that slides, one that doesn't, one that slides.
            spec.layers.push(spec.layers[0].clone());
            change(&mut spec);
            beyond_the_kernels(&spec, Numbers::Bf16)
        };
        let heads_of = |spec: &mut ModelSpec, layer: usize, head_dim: usize| {
            let attention = &mut spec.layers[layer].attention;
            (attention.heads.head_dim, attention.rope) = (head_dim, None);
        };
        assert_eq!(of(&|_| ()), None);
        assert_eq!(of(&|spec| heads_of(spec, 1, 512)), None);
        let holds = |why: Option<String>, reason: &str| {
            assert!(why.as_ref().is_some_and(|why| why.contains(reason)), "{reason}: {why:?}");
        };
        holds(of(&|spec| heads_of(spec, 1, 1024)), "1024 elements");
        holds(of(&|spec| heads_of(spec, 1, 272)), "no multiple of 32");
        holds(of(&|spec| heads_of(spec, 2, 64)), "two kinds of heads");
        holds(of(&|spec| spec.ropes[0].dims = 8), "parts of its heads rotate");
        holds(of(&|spec| spec.layers[1].input = None), "some of its layers");
        holds(of(&|spec| spec.layers[1].attention.v_norm = None), "norms of heads");
        holds(of(&|spec| spec.layer_inputs.as_mut().unwrap().norm.size = 16), "several sizes");
    }
}
