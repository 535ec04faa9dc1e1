//! Texts of every kind: a vector or a clear error, and limits that are told.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::num::NonZeroUsize;

use mlx_embed::{
    EmbedOptions, Embedder, EndToken, EndTokenSource, Error, InputError, PoolingMode, Prompt, TextError,
};
use mlx_embed_tests::compare::{cosine, max_abs};
use mlx_embed_tests::golden::{self, Golden};
use mlx_embed_tests::scratch::Scratch;
use serde_json::json;

fn one(embedder: &Embedder, text: &str) -> Vec<f32> {
    embedder.embed([text]).unwrap().remove(0).vector
}

fn norm(vector: &[f32]) -> f32 {
    vector.iter().map(|x| x * x).sum::<f32>().sqrt()
}

#[test]
fn odd_texts_get_finite_unit_vectors() {
    let embedder = golden::load("st-last-token");
    for text in
        ["", " ", "   \t\n", "\0", "a\0b", "🦀", "👩‍👩‍👧‍👦", "e\u{301}", "\u{feff}", "\u{202e}abc", "<|endoftext|>"]
    {
        let vector = one(&embedder, text);
        assert!(vector.iter().all(|x| x.is_finite()), "{text:?}");
        assert!((norm(&vector) - 1.0).abs() < 1e-5, "{text:?}");
    }
}

#[test]
fn a_text_without_tokens_is_an_error_that_says_which() {
    let embedder =
        golden::load_with("plain-tokenizer", |options| options.pooling = Some(PoolingMode::Mean.into()));
    let error = embedder.embed(["something", ""]).unwrap_err();
    assert!(matches!(error, Error::Input { index: 1, source: InputError::Empty }), "{error:?}");
}

#[test]
fn a_text_that_fails_fails_alone() {
    let embedder =
        golden::load_with("plain-tokenizer", |options| options.pooling = Some(PoolingMode::Mean.into()));
    let results = embedder.embed_each(&["something", "", "else"], &EmbedOptions::default()).unwrap();
    assert_eq!(results[1], Err(InputError::Empty));
    for (result, text) in [(&results[0], "something"), (&results[2], "else")] {
        let difference = max_abs(&result.as_ref().unwrap().vector, &one(&embedder, text));
        assert!(difference < 1e-6, "{difference:e}");
    }
}

#[test]
fn no_texts_give_no_vectors() {
    assert!(golden::load("qwen3-f32").embed::<&str>(&[]).unwrap().is_empty());
}

#[test]
fn content_is_cut_before_the_end_token_and_the_result_says_so() {
    for (case, appended_by) in
        [("st-last-token", EndTokenSource::Tokenizer), ("plain-tokenizer", EndTokenSource::Embedder)]
    {
        let embedder = golden::load_with(case, |options| options.max_tokens = Some(8));
        let end = embedder.info().end_token.clone().unwrap();
        assert_eq!(end.appended_by, appended_by);

        let text = "Nineteen words would never fit into a limit of eight tokens, whatever the tokenizer makes of them.";
        let ids = embedder.token_ids(text, &EmbedOptions::default()).unwrap();
        assert_eq!(ids.len(), 8);
        assert_eq!(ids[7], end.id, "{case}");
        let whole = golden::load(case).token_ids(text, &EmbedOptions::default()).unwrap();
        assert_eq!(ids[..7], whole[..7], "{case}");

        let results = embedder.embed([text, "a"]).unwrap();
        assert!(results[0].truncated && results[0].tokens == 8);
        assert!(!results[1].truncated);
    }
}

#[test]
fn a_text_of_exactly_the_limit_is_not_cut() {
    let whole = golden::load("st-last-token").token_ids("exactly", &EmbedOptions::default()).unwrap();
    let embedder = golden::load_with("st-last-token", |options| options.max_tokens = Some(whole.len()));
    assert!(!embedder.embed(["exactly"]).unwrap()[0].truncated);
}

#[test]
fn a_limit_without_room_for_content_is_an_error() {
    let mut options = golden::load_options();
    options.max_tokens = Some(1);
    let error = Embedder::load_with(golden::directory("st-last-token"), options).unwrap_err();
    assert!(matches!(error, Error::Option { option: "max_tokens", .. }), "{error:?}");
}

#[test]
fn the_limit_is_the_models_own_by_default() {
    let embedder = Embedder::load(golden::directory("qwen3-f32")).unwrap();
    assert_eq!(embedder.info().max_tokens, embedder.info().config.max_position_embeddings);
}

/// Slow in MLX's scalar kernels with more layers or width; the point is that scores of 32,768 x 32,768 never exist.
#[test]
fn thirty_two_thousand_tokens_get_a_vector() {
    let embedder = golden::load_with("qwen3-affine-4bit-g32", |options| options.max_tokens = Some(32_768));
    let result = embedder.embed(&["many words ".repeat(32_768)]).unwrap().remove(0);
    assert_eq!(result.tokens, 32_768);
    assert!(result.truncated);
    assert!((norm(&result.vector) - 1.0).abs() < 1e-5);
}

#[test]
fn what_follows_a_token_does_not_change_it() {
    // 2,048 tokens take attention in several steps, 40 in one.
    let embedder = golden::load_with("qwen3-f32", |options| options.max_tokens = Some(2048));
    let ids: Vec<u32> = (0..2048).map(|i| (i * 37 + 11) % 256).collect();
    let (long, short) = (embedder.hidden_states(&ids).unwrap(), embedder.hidden_states(&ids[..40]).unwrap());
    for (long, short) in long.iter().zip(&short) {
        let difference = max_abs(&long[..short.len()], short);
        let tolerance = if golden::on_gpu() { 2e-2 } else { 1e-4 };
        assert!(difference < tolerance, "{difference:e}");
    }
}

#[test]
fn prompts_go_before_the_text() {
    let embedder = golden::load("st-last-token");
    let with = |prompt: Prompt, text: &str| {
        let options = EmbedOptions { prompt, ..Default::default() };
        embedder.embed_with(&[text], &options).unwrap().remove(0).vector
    };
    let named = embedder.info().sentence_transformers.prompts["query"].clone();
    let text = "what is a crab";
    assert_eq!(with(Prompt::Named("query".into()), text), with(Prompt::Text(named.clone()), text));
    assert_eq!(with(Prompt::IfNamed("query".into()), text), with(Prompt::Named("query".into()), text));
    assert_eq!(with(Prompt::IfNamed("sonnet".into()), text), with(Prompt::None, text));
    assert_eq!(with(Prompt::Named("query".into()), text), with(Prompt::None, &format!("{named}{text}")));
    assert!(cosine(with(Prompt::None, text), with(Prompt::Named("query".into()), text)) < 0.9999);
}

#[test]
fn an_unknown_prompt_lists_the_known_ones() {
    let options = EmbedOptions { prompt: Prompt::Named("sonnet".into()), ..Default::default() };
    let error = golden::load("st-last-token").embed_with(&["x"], &options).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("sonnet") && text.contains("query"), "{text}");
}

#[test]
fn fewer_dimensions_are_the_first_ones_normalised_again() {
    let embedder = golden::load("qwen3-f32");
    let with = |dims: usize, normalize: bool| {
        let options =
            EmbedOptions { dims: NonZeroUsize::new(dims), normalize: Some(normalize), ..Default::default() };
        embedder.embed_with(&["matryoshka"], &options).unwrap().remove(0).vector
    };
    let hidden = embedder.info().config.hidden_size as usize;
    let (raw, cut) = (with(hidden, false), with(8, true));
    assert_eq!(cut.len(), 8);
    assert!((norm(&cut) - 1.0).abs() < 1e-6);
    assert!(cosine(&raw[..8], &cut) > 0.999_999);
    assert!((norm(&raw) - 1.0).abs() > 1e-3, "the raw vector is not a unit vector by itself");
}

#[test]
fn more_dimensions_than_there_are_is_an_error() {
    let options = EmbedOptions { dims: NonZeroUsize::new(100_000), ..Default::default() };
    let error = golden::load("qwen3-f32").embed_with(&["x"], &options).unwrap_err();
    assert!(matches!(error, Error::Option { option: "dims", .. }), "{error:?}");
}

#[test]
fn the_caller_may_choose_the_end_token() {
    let ids = |end_token: EndToken| {
        let mut options = golden::load_options();
        options.end_token = end_token;
        let embedder = Embedder::load_with(golden::directory("plain-tokenizer"), options)?;
        embedder.token_ids("abc", &EmbedOptions::default())
    };
    let auto = ids(EndToken::Auto).unwrap();
    let (end, content) = auto.split_last().unwrap();
    assert_eq!(ids(EndToken::TokenizerOnly).unwrap(), content);
    assert_eq!(ids(EndToken::Token("<|endoftext|>".into())).unwrap().last(), Some(end));
    assert_ne!(ids(EndToken::Token("<|im_end|>".into())).unwrap().last(), Some(end));
    let error = ids(EndToken::Token("<no such token>".into())).unwrap_err();
    assert!(matches!(error, Error::Text(TextError::UnknownEndToken { .. })), "{error:?}");
}

#[test]
fn pooling_is_the_checkpoints_unless_the_caller_chooses() {
    assert_eq!(golden::load("st-mean").info().pooling, PoolingMode::Mean);
    assert_eq!(golden::load("st-cls").info().pooling, PoolingMode::Cls);
    let embedder =
        golden::load_with("st-mean", |options| options.pooling = Some(PoolingMode::LastToken.into()));
    assert_eq!(embedder.info().pooling, PoolingMode::LastToken);
    let golden = Golden::read("st-mean");
    assert!(cosine(one(&embedder, &golden.texts[5].text), golden.embedding(5)) < 0.9999);
}

#[test]
fn token_ids_outside_the_vocabulary_are_an_error() {
    let embedder = golden::load("qwen3-f32");
    let error = embedder.hidden_states(&[1, 1_000_000]).unwrap_err();
    assert!(
        matches!(error, Error::Input { source: InputError::OutsideVocabulary { token: 1_000_000, .. }, .. }),
        "{error:?}"
    );
    assert!(embedder.hidden_states(&[]).is_err());
}

#[test]
fn a_tokenizer_larger_than_the_model_is_an_error_not_a_wild_read() {
    let scratch = Scratch::of("qwen3-f32");
    scratch.edit_json("tokenizer.json", |tokenizer| tokenizer["model"]["vocab"]["b"] = 9999.into());
    let embedder = Embedder::load_with(scratch.path(), golden::load_options()).unwrap();
    let error = embedder.embed(["ok", "b"]).unwrap_err();
    assert!(
        matches!(error, Error::Input { index: 1, source: InputError::OutsideVocabulary { token: 9999, .. } }),
        "{error:?}"
    );
}

#[test]
fn a_tokenizers_dropout_is_for_training_and_leaves_texts_alone() {
    let scratch = Scratch::of("qwen3-f32");
    let text = "merges that are left out at random would give this text other tokens each time";
    let ids = |embedder: &Embedder| embedder.token_ids(text, &EmbedOptions::default()).unwrap();
    let whole = ids(&golden::load("qwen3-f32"));
    scratch.edit_json("tokenizer.json", |tokenizer| tokenizer["model"]["dropout"] = 0.5.into());
    let embedder = Embedder::load_with(scratch.path(), golden::load_options()).unwrap();
    assert_eq!(ids(&embedder), whole);
}

#[test]
fn a_text_on_which_the_tokenizers_regex_backtracks_without_end_fails_alone() {
    let scratch = Scratch::of("qwen3-f32");
    scratch.edit_json("tokenizer.json", |tokenizer| {
        tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"] = json!({"Regex": "(a|a|aa)+$"});
    });
    let embedder = Embedder::load_with(scratch.path(), golden::load_options()).unwrap();
    // The library's own limit stops it after a second or so.
    let text = format!("{}b", "a".repeat(50));
    let results = embedder.embed_each(&[text.as_str(), "b"], &EmbedOptions::default()).unwrap();
    assert!(matches!(&results[0], Err(InputError::Tokenizer { .. })), "{:?}", results[0]);
    assert!(results[1].is_ok());
}

#[test]
fn token_ids_beyond_the_limit_are_an_error() {
    let embedder = golden::load_with("qwen3-f32", |options| options.max_tokens = Some(8));
    let embed =
        |tokens| embedder.embed_token_ids(vec![vec![1; 8], vec![1; tokens]], &EmbedOptions::default());
    assert!(embed(8).is_ok());
    let error = embed(9).unwrap_err();
    let expected = InputError::TooLong { tokens: 9, max_tokens: 8 };
    assert!(matches!(error, Error::Input { index: 1, source } if source == expected));
}
