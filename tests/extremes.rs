//! Numbers at their ends and texts that nobody would write: each option is refused by its name or does what it says, and
//! each text has a result or an error of its own.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};

use half::bf16;
use mlx_embed::{
    EmbedOptions, Embedder, Error, Gpus, InputError, LoadOptions, MultiVectorEmbedder, Prompt, RerankOptions,
    Reranker, Role, SparseEmbedder, State, WhenFull,
};
use mlx_embed_tests::golden::{self, own_limit};
use mlx_embed_tests::scratch::Scratch;
use safetensors::{Dtype, SafeTensors};

const TEXTS: [&str; 3] = ["a cat", "a text of some more words than the others", "漢字 🦀"];

/// Nothing here takes so long but what hangs.
const HANGS: Duration = Duration::from_secs(120);

fn vectors(embedder: &Embedder, options: &EmbedOptions) -> Result<Vec<Vec<f32>>, Error> {
    let embeddings = embedder.embed_with(&TEXTS, options)?;
    Ok(embeddings.into_iter().map(|embedding| embedding.vector).collect())
}

fn counts() -> impl Iterator<Item = NonZeroUsize> {
    let ends = [1, 2, 1025, u32::MAX as usize, isize::MAX as usize, usize::MAX];
    ends.into_iter().filter_map(NonZeroUsize::new)
}

fn times() -> [Duration; 4] {
    [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(u64::MAX), Duration::MAX]
}

/// Whether the error is the option's.
fn is_refused(error: &Error, option: &str) -> bool {
    matches!(error, Error::Option { option: named, .. } if *named == option)
}

#[test]
fn options_of_loading_at_their_ends() {
    type Set = fn(&mut LoadOptions, NonZeroUsize);
    let set: [(&str, Set); 9] = [
        ("threads", |options, n| options.threads = Some(n)),
        ("gpus", |options, n| options.gpus = Gpus::At(vec![n.get()])),
        ("max_tokens", |options, n| options.max_tokens = Some(n.get())),
        ("batch_tokens", |options, n| options.batch_tokens = Some(n)),
        ("queue_texts", |options, n| options.queue_texts = Some(n)),
        ("queue_bytes", |options, n| options.queue_bytes = Some(n)),
        ("max_text_bytes", |options, n| options.max_text_bytes = Some(n)),
        ("vector_cache", |options, n| options.vector_cache = n.get()),
        ("prompt_cache", |options, n| options.prompt_cache = Some(n.get())),
    ];
    let load = |options| Embedder::load_with(golden::directory("st-mean"), options);
    let expected = vectors(&load(golden::load_options()).unwrap(), &EmbedOptions::default()).unwrap();
    for (option, set) in set {
        for n in counts() {
            let mut options = golden::load_options();
            set(&mut options, n);
            let run = |embedder: Embedder| {
                embedder.warm_up()?;
                vectors(&embedder, &EmbedOptions::default())
            };
            match load(options).and_then(run) {
                Ok(vectors) => assert!(vectors == expected || option == "max_tokens", "{option} {n}"),
                // Texts have more bytes.
                Err(Error::Input { .. }) if option == "max_text_bytes" && n.get() < 3 => {}
                Err(error) => assert!(is_refused(&error, option), "{option} {n}: {error}"),
            }
        }
    }
    let none = load(LoadOptions { max_tokens: Some(0), ..golden::load_options() }).unwrap_err();
    assert!(is_refused(&none, "max_tokens"), "{none}");
    for batch_time in times() {
        let options = LoadOptions { batch_time: Some(batch_time), ..golden::load_options() };
        match load(options).and_then(|embedder| vectors(&embedder, &EmbedOptions::default())) {
            Ok(vectors) => assert_eq!(vectors, expected, "{batch_time:?}"),
            Err(error) => assert!(is_refused(&error, "batch_time"), "{batch_time:?}: {error}"),
        }
    }
}

#[test]
fn options_of_calls_at_their_ends() {
    let embedder = golden::load("st-mean");
    let expected = vectors(&embedder, &EmbedOptions::default()).unwrap();
    for n in counts() {
        match vectors(&embedder, &EmbedOptions { dims: Some(n), ..Default::default() }) {
            Ok(vectors) => assert!(vectors.iter().all(|vector| vector.len() == n.get()), "{n}"),
            Err(error) => assert!(is_refused(&error, "dims"), "{n}: {error}"),
        }
    }
    for timeout in times() {
        let start = Instant::now();
        match vectors(&embedder, &EmbedOptions { timeout: Some(timeout), ..Default::default() }) {
            Ok(vectors) => assert_eq!(vectors, expected),
            Err(error) => assert!(
                matches!(error, Error::DeadlineExceeded { .. }) && timeout < HANGS,
                "{timeout:?}: {error}"
            ),
        }
        assert!(start.elapsed() < HANGS);
    }
    for ids in [vec![u32::MAX], vec![], vec![0; 1 << 20], vec![u32::MAX; 1 << 20]] {
        for error in [
            embedder.hidden_states(&ids).unwrap_err(),
            embedder.embed_token_ids(vec![ids], &EmbedOptions::default()).unwrap_err(),
        ] {
            assert!(matches!(error, Error::Input { index: 0, .. }), "{error}");
        }
    }
    let many = vec![vec![1_u32]; 1 << 16];
    assert_eq!(embedder.embed_token_ids(many, &EmbedOptions::default()).unwrap().len(), 1 << 16);
    for prompt in [Prompt::Text("word ".repeat(1_000_000)), Prompt::Named("\0".into())] {
        let options = EmbedOptions { prompt, when_full: Some(WhenFull::Refuse), ..Default::default() };
        assert!(vectors(&embedder, &options).is_err());
    }
    assert_eq!(vectors(&embedder, &EmbedOptions::default()).unwrap(), expected, "it goes on as before");
}

/// Texts of the kinds that break tokenizers, templates and terminals.
fn hostile() -> Vec<String> {
    let mut texts: Vec<String> = [
        "\0",
        "\u{feff}",
        "\u{202e}[SEP]\u{202d}",
        "[CLS] [SEP] [MASK] [PAD]",
        "<s></s><|im_end|><|endoftext|>",
        "<Instruct>: x <Query>: y <Document>: z",
        "{query}{doc}{{}}%s%n\\",
        "\r\n\t\u{b}\u{c}\u{85}\u{2028}",
        "\u{10ffff}\u{e000}",
        " ",
    ]
    .map(str::to_owned)
    .into();
    texts.push(format!("e{}", "\u{301}".repeat(20_000)));
    texts.push("x".repeat(200_000));
    texts.push("👨‍👩‍👧‍👦".repeat(5_000));
    texts.push("\u{fdfa}".repeat(20_000));
    texts
}

#[test]
fn rerankers_take_any_text_for_query_and_document() {
    for case in
        ["reranker-bert-sigmoid", "reranker-xlm-roberta", "reranker-modernbert-mean", "reranker-qwen3-tied"]
    {
        let folder = golden::directory("families").join(case);
        let reranker = Reranker::load_with(folder, own_limit()).unwrap();
        let documents = hostile();
        let before = reranker.rerank("a cat", &["a feline", "stocks"]).unwrap();
        for query in &documents {
            // Either the query leaves no room, or each document has a score or an error of its own.
            let Ok(ranked) = reranker.rerank_each(query, &documents, &RerankOptions::default()) else {
                continue;
            };
            assert_eq!(ranked.len(), documents.len(), "{case}");
            for ranked in ranked.into_iter().flatten() {
                assert!(ranked.score.is_finite() && ranked.index < documents.len(), "{case}: {ranked:?}");
            }
        }
        for n in counts() {
            let options = RerankOptions { top_n: Some(n), ..Default::default() };
            let ranked = reranker.rerank_with("a cat", &["a feline", "stocks"], &options).unwrap();
            assert_eq!(ranked.len(), n.get().min(2), "{case}");
        }
        for timeout in times() {
            let options = RerankOptions { timeout: Some(timeout), ..Default::default() };
            match reranker.rerank_with("a cat", &["a feline", "stocks"], &options) {
                Ok(ranked) => assert_eq!(ranked[0].score, before[0].score, "{case}"),
                Err(error) => assert!(matches!(error, Error::DeadlineExceeded { .. }), "{case}: {error}"),
            }
        }
        let mut endless = reranker.tokens("a cat", "a feline", &RerankOptions::default()).unwrap();
        for ids in [vec![], vec![u32::MAX], vec![1; 1 << 20]] {
            (endless.types, endless.ids) = (vec![0; ids.len()], ids);
            let error = reranker.hidden_states(&endless).unwrap_err();
            assert!(matches!(error, Error::Input { index: 0, .. }), "{case}: {error}");
        }
        let none = reranker.rerank::<&str>("a cat", &[]).unwrap_err();
        assert!(is_refused(&none, "documents"), "{case}: {none}");
        let after = reranker.rerank("a cat", &["a feline", "stocks"]).unwrap();
        let scores = |all: &[mlx_embed::Ranked]| all.iter().map(|each| each.score).collect::<Vec<_>>();
        assert_eq!(scores(&before), scores(&after), "{case}");
    }
}

#[test]
fn sparse_and_dense_embedders_take_any_text() {
    let folder = golden::directory("families/splade-bert");
    let sparse = SparseEmbedder::load_with(folder, own_limit()).unwrap();
    let texts = hostile();
    for vector in sparse.embed_each(&texts, &EmbedOptions::default()).unwrap().into_iter().flatten() {
        assert!(vector.weights.iter().all(|(_, weight)| weight.is_finite() && *weight > 0.0));
        assert!(vector.weights.is_sorted_by(|a, b| a.0 < b.0));
        assert!(vector.dot(&vector).is_finite());
    }
    for timeout in times() {
        let _ = sparse.embed_with(&TEXTS, &EmbedOptions { timeout: Some(timeout), ..Default::default() });
    }
    let dims = EmbedOptions { dims: NonZeroUsize::new(usize::MAX), ..Default::default() };
    assert!(is_refused(&sparse.embed_with(&TEXTS, &dims).unwrap_err(), "dims"));
    let dense = golden::load("st-mean");
    for vector in dense.embed_each(&texts, &EmbedOptions::default()).unwrap().into_iter().flatten() {
        assert!(vector.vector.iter().all(|number| number.is_finite()));
    }
}

/// All numbers that a model makes of two texts, and its state afterwards.
type Numbers = fn(&Path) -> Result<(Result<Vec<f32>, Error>, State), Error>;

const DENSE: Numbers = |folder| {
    let embedder = Embedder::load_with(folder, own_limit())?;
    let numbers = embedder.embed(TEXTS).map(|found| found.into_iter().flat_map(|each| each.vector).collect());
    Ok((numbers, embedder.state()))
};

const SPARSE: Numbers = |folder| {
    let embedder = SparseEmbedder::load_with(folder, own_limit())?;
    let weights = |each: mlx_embed::SparseVector| each.weights.into_iter().map(|(_, weight)| weight);
    let numbers = embedder.embed(&TEXTS).map(|found| found.into_iter().flat_map(weights).collect());
    Ok((numbers, embedder.state()))
};

const OF_TOKENS: Numbers = |folder| {
    let embedder = MultiVectorEmbedder::load_with(folder, own_limit())?;
    let numbers = embedder.embed(&TEXTS, Role::Document);
    Ok((numbers.map(|found| found.into_iter().flat_map(|each| each.vectors).collect()), embedder.state()))
};

const SCORES: Numbers = |folder| {
    let reranker = Reranker::load_with(folder, own_limit())?;
    let numbers =
        reranker.rerank("a cat", &TEXTS).map(|found| found.into_iter().map(|each| each.score).collect());
    Ok((numbers, reranker.state()))
};

#[test]
fn weights_that_are_no_numbers_never_reach_a_result() {
    let cases: [(&str, &str, Numbers); 8] = [
        ("modules-dense-activations", "model.safetensors", DENSE),
        ("modules-dense-activations", "2_Dense/model.safetensors", DENSE),
        ("modules-layer-norm", "2_LayerNorm/model.safetensors", DENSE),
        ("late-interaction-bert", "1_Dense/model.safetensors", OF_TOKENS),
        ("late-interaction-colbert", "model.safetensors", OF_TOKENS),
        ("bge-m3-safetensors-heads", "sparse_linear.safetensors", SPARSE),
        ("splade-bert", "model.safetensors", SPARSE),
        ("reranker-bert-sigmoid", "model.safetensors", SCORES),
    ];
    for (case, file, numbers) in cases {
        let scratch = Scratch::of(&format!("families/{case}"));
        let original = fs::read(scratch.file(file)).unwrap();
        let (mut refused, mut tensors) = (0, 0);
        for (name, tensor) in SafeTensors::deserialize(&original).unwrap().iter() {
            tensors += 1;
            for number in [f32::NAN, f32::INFINITY] {
                let element = match tensor.dtype() {
                    Dtype::F32 => number.to_le_bytes().to_vec(),
                    Dtype::BF16 => bf16::from_f32(number).to_le_bytes().to_vec(),
                    other => panic!("{case}: {name} is of {other}"),
                };
                scratch.write(file, &original);
                scratch.edit_tensor(file, name, |bytes| {
                    bytes.chunks_exact_mut(element.len()).for_each(|each| each.copy_from_slice(&element));
                });
                // Weights that are packed may say so at once.
                let Ok((found, state)) = numbers(scratch.path()) else { continue };
                match found {
                    Ok(found) => {
                        assert!(
                            found.iter().all(|number| number.is_finite()),
                            "{case}: {file}: {name}: {number}"
                        );
                    }
                    Err(Error::Input { source: InputError::NotFinite, .. }) => refused += 1,
                    Err(error) => panic!("{case}: {file}: {name}: {number}: {error}"),
                }
                assert_eq!(state, State::Running, "{case}: {file}: {name}: {number}");
            }
        }
        assert!(refused > 0, "{case}: {file}: {tensors} tensors, and none matters");
    }
}
