//! What holds for any texts and limits: truncation keeps the beginning and the end token, batching keeps each vector.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::num::NonZeroUsize;
use std::sync::LazyLock;

use mlx_embed::{EmbedOptions, Embedder, LoadOptions, Prompt};
use mlx_embed_tests::golden;
use proptest::collection::vec;
use proptest::prelude::*;

const LIMITS: std::ops::Range<usize> = 2..24;

fn load(case: &str, options: LoadOptions) -> Embedder {
    Embedder::load_with(golden::directory(case), options).unwrap()
}

/// An embedder for each limit, and one with room for everything.
static LIMITED: LazyLock<Vec<Embedder>> = LazyLock::new(|| {
    let limited =
        |limit| load("st-last-token", LoadOptions { max_tokens: Some(limit), ..golden::load_options() });
    LIMITS.map(limited).collect()
});
static WHOLE: LazyLock<Embedder> = LazyLock::new(|| golden::load("st-last-token"));

/// Batches of a few texts each, and the same model with room for all.
static SMALL_BATCHES: LazyLock<Embedder> = LazyLock::new(|| {
    let options = LoadOptions { batch_tokens: NonZeroUsize::new(24), ..golden::load_options() };
    load("qwen3-affine-4bit-g64", options)
});
static LARGE_BATCHES: LazyLock<Embedder> = LazyLock::new(|| golden::load("qwen3-affine-4bit-g64"));

fn options(prompt: &str) -> EmbedOptions {
    EmbedOptions { prompt: Prompt::Text(prompt.to_owned()), ..Default::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_text_is_cut_to_the_limit_and_ends_as_it_would(
        text in "\\PC{0,40}|[a-z ]{0,60}", prompt in "|query: |\\PC{0,6}", limit in LIMITS,
    ) {
        let options = options(&prompt);
        let whole = WHOLE.token_ids(&text, &options).unwrap();
        let embedder = &LIMITED[limit - LIMITS.start];
        let cut = embedder.token_ids(&text, &options).unwrap();
        prop_assert_eq!(cut.len(), whole.len().min(limit));
        let content = cut.len() - 1;
        prop_assert_eq!(&cut[..content], &whole[..content]);
        prop_assert_eq!(cut.last(), whole.last());
        let embedding = embedder.embed_with(&[&text], &options).unwrap().remove(0);
        prop_assert_eq!((embedding.tokens, embedding.truncated), (cut.len(), whole.len() > limit));
    }
}

proptest! {
    // Each case runs a model some thirty times.
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_vector_does_not_depend_on_the_batch(texts in vec("\\PC{0,12}|[a-z ]{0,50}", 1..12)) {
        let together = SMALL_BATCHES.embed(&texts).unwrap();
        let at_once = LARGE_BATCHES.embed(&texts).unwrap();
        for ((text, one), other) in texts.iter().zip(&together).zip(&at_once) {
            let alone = LARGE_BATCHES.embed_one(text).unwrap();
            if golden::on_gpu() {
                let cosine = mlx_embed_tests::compare::cosine(&one.vector, &alone.vector);
                prop_assert!(cosine > 0.999, "{}", cosine);
            } else {
                prop_assert_eq!(&one.vector, &alone.vector);
                prop_assert_eq!(&other.vector, &alone.vector);
            }
            prop_assert_eq!(one.tokens, alone.tokens);
        }
    }
}
