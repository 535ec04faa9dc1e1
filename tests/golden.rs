//! Every golden case: token ids, each layer's hidden states and vectors equal the reference's.
//!
//! The reference is mlx-lm in f32 (see `tests/golden/README.md`). On the CPU each case runs on MLX's own operations and
//! on every family of kernels that the machine has. On a GPU set `MLX_EMBED_TEST_DEVICE=gpu`.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use mlx_embed::verify::{Golden as GoldenFile, GoldenText};
use mlx_embed::{EmbedOptions, Embedder, Info, LoadOptions, MatmulPolicy, RerankOptions, Reranker};
use mlx_embed_tests::compare::{cosine, magnitude, max_abs};
use mlx_embed_tests::golden::{self, Golden};

include!(concat!(env!("OUT_DIR"), "/golden_cases.rs"));

/// How far from the reference a result may be.
struct Tolerance {
    /// Least cosine of a vector to the reference's.
    cosine: f64,
    /// Largest difference of a vector's component, as a share of the vector's length.
    vector: f32,
    /// Largest difference in a hidden state, as a share of its largest magnitude.
    hidden: f32,
}

/// What the activations that enter a product are rounded to.
#[derive(Clone, Copy, PartialEq)]
enum Rounding {
    /// Nothing: f32.
    None,
    /// 16 bits a group of inputs.
    Sixteen,
    /// 8 bits a group of inputs, with exceptions.
    Eight,
}

/// In f32 only the order of additions differs: a few units in the last place a layer.
///
/// Rounding a group's numbers to 16 bits errs by up to 2^-16 of its largest, evenly spread: 9e-6 of that a number, and
/// so 3e-5 of a product's size where a group's largest number is 3.5 times its root mean square. The largest of the
/// thousands of differences compared here is some five times their root mean square, and errors of a few layers add up:
/// 2.5e-4 of a hidden state, and of a vector's component, which is below a third, 1e-4. 8 bits err 257 times as much.
///
/// A GPU multiplies f32 through TF32 (10 bits of mantissa), and computes in the checkpoint's type where that is shorter
/// still; bf16 has 8 bits.
fn tolerance(dtype: &str, rounding: Rounding) -> Tolerance {
    match (golden::on_gpu(), dtype, rounding) {
        (false, _, Rounding::None) => Tolerance { cosine: 0.99999, vector: 1e-5, hidden: 1e-5 },
        (false, _, Rounding::Sixteen) => Tolerance { cosine: 0.99999, vector: 1e-4, hidden: 2.5e-4 },
        (false, _, Rounding::Eight) => Tolerance { cosine: 0.999, vector: 2.5e-2, hidden: 6e-2 },
        (true, "float32", _) => Tolerance { cosine: 0.99999, vector: 4e-3, hidden: 1e-2 },
        (true, "float16", _) => Tolerance { cosine: 0.9999, vector: 1e-2, hidden: 2e-2 },
        (true, ..) => Tolerance { cosine: 0.9995, vector: 2e-2, hidden: 6e-2 },
    }
}

/// Options that make a difference to what computes a case.
fn ways() -> Vec<LoadOptions> {
    if golden::on_gpu() {
        // By default this crate's kernels, where they can run the case, on packed weights and on dequantised ones.
        let policies = [MatmulPolicy::Packed, MatmulPolicy::Dequantized, MatmulPolicy::Resident];
        let own = policies.map(|matmul| LoadOptions { matmul, ..golden::load_options() });
        return own.into_iter().chain(golden::ways(&golden::load_options(), &[])).collect();
    }
    golden::ways(&golden::load_options(), &mlx_embed::kernel_families())
}

/// What the error names for cases that are made for something else and tell so.
fn refusal(case: &str) -> Option<&'static str> {
    match case.split('-').next()? {
        _ if WITHOUT_VECTORS.contains(&case) => None,
        _ if case == "late-interaction-colbert" => Some("architectures"),
        "late" | "splade" => Some("modules.json"),
        "reranker" if case.starts_with("reranker-modules") => Some("`Reranker`"),
        "reranker" => Some("architectures"),
        _ => None,
    }
}

/// Cases that are made for something else, of which nothing in their files tells. Their weights give vectors of texts, too,
/// and their references have none.
const WITHOUT_VECTORS: [&str; 4] = [
    "reranker-qwen3-tied",
    "reranker-qwen3-untied-affine-4bit-g64",
    "splade-bert-affine-4bit-g64",
    "splade-bert-without-modules",
];

/// A case that the reference for other families made, or its refusal.
fn check_family(case: &str) {
    if case.starts_with("reranker-") {
        check_reranker(&format!("families/{case}"));
    }
    match refusal(case) {
        None if WITHOUT_VECTORS.contains(&case) => {
            let folder = golden::directory(&format!("families/{case}"));
            let embedder = Embedder::load_with(folder, golden::own_limit());
            assert!(embedder.unwrap().embed(["a text"]).is_ok(), "{case}");
        }
        None => check(&format!("families/{case}")),
        Some(what) => {
            let folder = golden::directory(&format!("families/{case}"));
            let error = Embedder::load_with(folder, golden::load_options()).unwrap_err().to_string();
            assert!(error.contains(what), "{case}: {error}");
        }
    }
}

fn rounding(info: &Info) -> Rounding {
    match info.rounding.activations {
        None => Rounding::None,
        Some(16) => Rounding::Sixteen,
        Some(_) => Rounding::Eight,
    }
}

/// Scores and hidden states of pairs.
fn check_reranker(case: &str) {
    let golden = GoldenFile::open(golden::directory(case).join("golden.safetensors")).unwrap();
    for options in ways() {
        let options = LoadOptions { max_tokens: None, ..options };
        let reranker = Reranker::load_with(golden::directory(case), options.clone()).unwrap();
        let kernels = reranker.info().kernels;
        if kernels == "mlx" && options.matmul != MatmulPolicy::Auto {
            continue;
        }
        let tolerance = tolerance("bfloat16", rounding(reranker.info()));
        let case = format!("{case} on {kernels}, {}, {}", options.precision, options.matmul);
        let mut worst = 0.0_f32;
        for (index, text) in golden.texts().iter().enumerate() {
            check_pair(&case, &golden, index, &reranker, &tolerance);
            let found = reranker.rerank(text.query.as_ref().unwrap(), &[&text.text]).unwrap().remove(0);
            let off = (found.score - golden.score(index).unwrap()).abs();
            worst = worst.max(off);
            assert_eq!((found.tokens, found.truncated), (text.ids.len(), false), "{case}: pair {index}");
        }
        println!("{case}: score {worst:.1e}");
        // A logit is a product of a state with one row, of which each has the size of a few of a vector's components.
        assert!(worst <= tolerance.vector, "{case}: scores are off by {worst:e}");
    }
}

/// Tokens and hidden states of a pair.
fn check_pair(case: &str, golden: &GoldenFile, index: usize, reranker: &Reranker, tolerance: &Tolerance) {
    let text = &golden.texts()[index];
    let pair = reranker.tokens(text.query.as_ref().unwrap(), &text.text, &RerankOptions::default()).unwrap();
    assert_eq!(pair.ids, text.ids, "{case}: token ids of pair {index}");
    let types = text.token_type_ids.clone().unwrap_or(vec![0; text.ids.len()]);
    assert_eq!(pair.types, types, "{case}: token types of pair {index}");
    let expected = golden.hidden_states(index);
    compare_states(case, text, index, &expected, || reranker.hidden_states(&pair).unwrap(), tolerance);
}

fn check(case: &str) {
    let golden = Golden::read(case);
    for options in ways() {
        // Positions that are rows of a table have an end of their own.
        let max_tokens = if case.starts_with("families/") { None } else { options.max_tokens };
        let pooling = case.starts_with("families/").then(|| golden.file.poolings()[0]);
        let options = LoadOptions { max_tokens, pooling, ..options };
        let embedder = Embedder::load_with(golden::directory(case), options.clone()).unwrap();
        let LoadOptions { precision, matmul, .. } = options;
        let kernels = embedder.info().kernels;
        if kernels == "mlx" && matmul != MatmulPolicy::Auto {
            continue;
        }
        let tolerance = tolerance(&golden.dtype, rounding(embedder.info()));
        let case = format!("{case} on {kernels}, {precision}, {matmul}");
        check_one(&case, &golden, &embedder, &tolerance);
        // What users run; its tolerances are those of trained models. Families differ in nothing that it looks at.
        if kernels == "mlx" || kernels == "cuda" || kernels == mlx_embed::kernel_families()[0] {
            let found = embedder.verify(Some(&golden.file)).unwrap();
            assert!(found.passed, "{case}: {}", found.failures.join("; "));
            assert!(found.against.is_some_and(|against| against.same_weights), "{case}");
        }
    }
}

/// Holds the rows of hidden states that the file has against those found. Returns by how much they differ at most.
fn compare_states(
    case: &str,
    text: &GoldenText,
    index: usize,
    expected: &[&[f32]],
    found: impl Fn() -> Vec<Vec<f32>>,
    tolerance: &Tolerance,
) -> f32 {
    let mut worst = 0.0_f32;
    if text.rows.is_empty() {
        return worst;
    }
    let found = found();
    assert_eq!(found.len(), expected.len(), "{case}: number of hidden states");
    for (layer, (found, expected)) in found.iter().zip(expected).enumerate() {
        let width = expected.len() / text.rows.len();
        let found: Vec<&[f32]> = found.chunks(width).collect();
        let found: Vec<f32> = text.rows.iter().flat_map(|&row| found[row]).copied().collect();
        let share = max_abs(&found, expected) / magnitude(expected);
        assert!(share <= tolerance.hidden, "{case}: text {index}, hidden state {layer}: off by {share:e}");
        worst = worst.max(share);
    }
    worst
}

fn check_one(case: &str, golden: &Golden, embedder: &Embedder, tolerance: &Tolerance) {
    let mut worst = Tolerance { cosine: 1.0, vector: 0.0, hidden: 0.0 };
    for (index, text) in golden.texts.iter().enumerate() {
        let options = EmbedOptions { prompt: text.prompt(), ..Default::default() };
        let ids = embedder.token_ids(&text.text, &options).unwrap();
        assert_eq!(ids, text.ids, "{case}: token ids of {:?}", text.text);

        let share = compare_states(
            case,
            text,
            index,
            &golden.file.hidden_states(index),
            || embedder.hidden_states(&text.ids).unwrap(),
            tolerance,
        );
        worst.hidden = worst.hidden.max(share);

        let found = embedder.embed_with(&[&text.text], &options).unwrap().remove(0);
        let expected = golden.file.embedding(index, embedder.info().pooling).unwrap();
        let length = expected.iter().map(|x| x * x).sum::<f32>().sqrt();
        let (cosine, max_abs) = (cosine(&found.vector, expected), max_abs(&found.vector, expected) / length);
        assert!(cosine >= tolerance.cosine, "{case}: text {index}: cosine {cosine}");
        assert!(max_abs <= tolerance.vector, "{case}: text {index}: off by {max_abs:e}");
        worst.cosine = worst.cosine.min(cosine);
        worst.vector = worst.vector.max(max_abs);
        assert_eq!(found.tokens, text.ids.len(), "{case}: tokens of text {index}");
        assert!(!found.truncated);
    }
    // Shown by `--nocapture`: how much of the tolerance is used.
    println!("{case}: cosine {:.8}, vector {:.1e}, hidden {:.1e}", worst.cosine, worst.vector, worst.hidden);
}
