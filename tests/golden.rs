//! Every golden case: token ids, each layer's hidden states and vectors equal the reference's.
//!
//! The reference is mlx-lm in f32 (see `tests/golden/README.md`). On a GPU set `MLX_EMBED_TEST_DEVICE=gpu`.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use mlx_embed::EmbedOptions;
use mlx_embed_tests::compare::{cosine, magnitude, max_abs};
use mlx_embed_tests::golden::{self, Golden};

include!(concat!(env!("OUT_DIR"), "/golden_cases.rs"));

/// How far from the reference a result may be.
struct Tolerance {
    /// Least cosine of a vector to the reference's.
    cosine: f64,
    /// Largest difference of a normalised vector's component.
    vector: f32,
    /// Largest difference in a hidden state, as a share of its largest magnitude.
    hidden: f32,
}

/// On the CPU everything is f32, so only the order of additions differs: a few units in the last place a layer. A GPU
/// multiplies f32 through TF32 (10 bits of mantissa), and computes in the checkpoint's type where that is shorter
/// still; bf16 has 8 bits.
fn tolerance(dtype: &str) -> Tolerance {
    match (golden::on_gpu(), dtype) {
        (false, _) => Tolerance { cosine: 0.99999, vector: 1e-5, hidden: 1e-5 },
        (true, "float32") => Tolerance { cosine: 0.99999, vector: 4e-3, hidden: 1e-2 },
        (true, "float16") => Tolerance { cosine: 0.9999, vector: 1e-2, hidden: 2e-2 },
        (true, _) => Tolerance { cosine: 0.9995, vector: 2e-2, hidden: 6e-2 },
    }
}

fn check(case: &str) {
    let golden = Golden::read(case);
    let tolerance = tolerance(&golden.dtype);
    let embedder = golden::load(case);
    let mut worst = Tolerance { cosine: 1.0, vector: 0.0, hidden: 0.0 };
    for (index, text) in golden.texts.iter().enumerate() {
        let options = EmbedOptions { prompt: text.prompt(), ..Default::default() };
        let ids = embedder.token_ids(&text.text, &options).unwrap();
        assert_eq!(ids, text.ids, "{case}: token ids of {:?}", text.text);

        if text.hidden {
            let expected = golden.hidden_states(index);
            let found = embedder.hidden_states(&text.ids).unwrap();
            assert_eq!(found.len(), expected.len(), "{case}: number of hidden states");
            for (layer, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let share = max_abs(found, expected) / magnitude(expected);
                assert!(
                    share <= tolerance.hidden,
                    "{case}: text {index}, hidden state {layer}: off by {share:e}"
                );
                worst.hidden = worst.hidden.max(share);
            }
        }

        let found = embedder.embed_with(&[&text.text], &options).unwrap().remove(0);
        let expected = golden.embedding(index);
        let (cosine, max_abs) = (cosine(&found.vector, &expected), max_abs(&found.vector, &expected));
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
