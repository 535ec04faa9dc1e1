//! First tokens beside those of the whole text, for every kind of tokenizer.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::models::ModelWrapper;

use super::*;

/// What the vocabularies below are made of.
const SAMPLE: &str = "the quick brown fox jumps over the lazy dog's back, don't you see? hello world \
    many words 1234 été Straße кот сидит 猫在垫子上 猫猫 カタカナ 한국어 سلام ▁ . , ! ? ' - _";

fn files() -> Vec<(&'static str, Value)> {
    let read = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    vec![
        ("the built-in model", read("models/default/tokenizer.json")),
        ("Qwen's pattern", read("../tests/golden/tokenizer/tokenizer.json")),
        ("Qwen's pattern, no end token", read("../tests/golden/tokenizer-plain/tokenizer.json")),
    ]
}

fn tokenizer(normalizer: Value, pre_tokenizer: Value, model: Value, added: Value) -> Value {
    json!({ "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null,
        "model": model })
}

fn added(id: u32, content: &str, flags: &[&str]) -> Value {
    let has = |flag| flags.contains(&flag);
    json!({ "id": id, "content": content, "single_word": has("single_word"), "lstrip": has("lstrip"),
        "rstrip": has("rstrip"), "normalized": has("normalized"), "special": !has("normalized") })
}

/// Words of the sample, their beginnings, and single characters.
fn pieces(space: &str) -> Vec<String> {
    let mut pieces: Vec<String> = SAMPLE.chars().map(String::from).collect();
    for word in SAMPLE.split(' ') {
        let word = format!("{space}{word}");
        let ends = word.char_indices().map(|(at, c)| at + c.len_utf8());
        pieces.extend(ends.map(|end| word[..end].to_owned()));
    }
    pieces.sort();
    pieces.dedup();
    pieces
}

fn unigram() -> Value {
    let score = |piece: &String| -8.0 - 0.37 * (piece.len() % 5) as f64 + 1.9 * piece.chars().count() as f64;
    let vocab: Vec<Value> = std::iter::once(json!(["<unk>", 0.0]))
        .chain(pieces("▁").iter().map(|piece| json!([piece, score(piece)])))
        .collect();
    json!({ "type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": false })
}

fn word_piece() -> Value {
    let mut vocab: BTreeMap<String, usize> = BTreeMap::new();
    for token in std::iter::once("[UNK]".to_owned()).chain(pieces("")) {
        let next = vocab.len();
        vocab.entry(token.clone()).or_insert(next);
        let next = vocab.len();
        vocab.entry(format!("##{token}")).or_insert(next);
    }
    json!({ "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": vocab })
}

/// Merges that build the sample's words from the left.
fn bpe(space: &str) -> Value {
    let mut vocab: BTreeMap<String, usize> = BTreeMap::new();
    let mut merges = Vec::new();
    for piece in pieces(space).into_iter().chain(["<unk>".into(), "aa".into(), "bb".into(), "▁▁".into()])
    {
        let next = vocab.len();
        vocab.entry(piece).or_insert(next);
    }
    for token in ["a", "b", "▁"] {
        let next = vocab.len();
        vocab.entry(token.into()).or_insert(next);
    }
    let mut tokens: Vec<String> = vocab.keys().cloned().collect();
    tokens.sort_by_key(|token| (token.chars().count(), token.clone()));
    for token in tokens {
        let Some((at, _)) = token.char_indices().last() else { continue };
        if at > 0 && vocab.contains_key(&token[..at]) && vocab.contains_key(&token[at..]) {
            merges.push(json!([&token[..at], &token[at..]]));
        }
    }
    json!({ "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": false, "ignore_merges": false,
        "vocab": vocab, "merges": merges })
}

/// The kinds of tokenizers that are in use, each with what its family has around the model.
fn kinds() -> Vec<(&'static str, Value)> {
    let byte_level = &files()[1].1["model"];
    let bytes = |space: bool| json!({ "type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": true });
    let split = |pattern: &str, behavior: &str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": behavior, "invert": false });
    let metaspace = |scheme: &str| json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true });
    let spaces = json!({ "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " });
    let bert = json!({ "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
        "strip_accents": null, "lowercase": true });
    let underscores = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    let specials =
        json!([added(900, "<s>", &[]), added(901, "</s>", &[]), added(902, "<mask>", &["lstrip"])]);
    let odd = json!([
        added(900, "<r>", &["rstrip"]),
        added(901, "word", &["single_word", "normalized"]),
        added(902, "  ", &[]),
        added(903, "the lazy", &["normalized"]),
        added(904, "<l>", &["lstrip", "rstrip"]),
    ]);
    let mut kinds = vec![
        ("GPT-2", tokenizer(Value::Null, bytes(false), byte_level.clone(), json!([]))),
        ("RoBERTa", tokenizer(Value::Null, bytes(true), byte_level.clone(), specials.clone())),
        (
            "o200k",
            tokenizer(
                Value::Null,
                json!({ "type": "Sequence", "pretokenizers": [
                    split(r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+", "Isolated"),
                    { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false }] }),
                byte_level.clone(),
                json!([added(900, "<|endoftext|>", &[])]),
            ),
        ),
        (
            "DeepSeek",
            tokenizer(
                json!({ "type": "Sequence", "normalizers": [] }),
                json!({ "type": "Sequence", "pretokenizers": [
                    split(r"\p{N}{1,3}", "Isolated"),
                    split("[一-龥぀-ゟ゠-ヿ]+", "Isolated"),
                    split(r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##, "Isolated"),
                    { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false }] }),
                byte_level.clone(),
                specials.clone(),
            ),
        ),
        (
            "BERT",
            tokenizer(bert.clone(), json!({ "type": "BertPreTokenizer" }), word_piece(), specials.clone()),
        ),
        (
            "BERT with odd added tokens",
            tokenizer(bert, json!({ "type": "BertPreTokenizer" }), word_piece(), odd.clone()),
        ),
        (
            "XLM-RoBERTa",
            tokenizer(
                json!({ "type": "Sequence", "normalizers": [{ "type": "NFKC" }, spaces.clone()] }),
                json!({ "type": "Sequence", "pretokenizers": [{ "type": "WhitespaceSplit" }, metaspace("always")] }),
                unigram(),
                specials.clone(),
            ),
        ),
        (
            "T5",
            tokenizer(
                json!({ "type": "Sequence", "normalizers": [{ "type": "NFKC" },
                    { "type": "Strip", "strip_left": false, "strip_right": true }, spaces.clone()] }),
                metaspace("first"),
                unigram(),
                specials.clone(),
            ),
        ),
        (
            "T5 with odd added tokens",
            tokenizer(json!({ "type": "NFKC" }), metaspace("first"), unigram(), odd.clone()),
        ),
        ("Unigram without splits", tokenizer(underscores.clone(), Value::Null, unigram(), specials.clone())),
        (
            "Llama 2",
            tokenizer(
                json!({ "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": "▁" }, underscores.clone()] }),
                Value::Null,
                bpe("▁"),
                specials.clone(),
            ),
        ),
        (
            "Gemma",
            tokenizer(
                underscores,
                json!({ "type": "Split", "pattern": { "String": " " }, "behavior": "MergedWithPrevious", "invert": false }),
                bpe("▁"),
                json!([added(900, "<bos>", &[]), added(901, "\n\n", &[]), added(902, "▁▁", &["normalized"])]),
            ),
        ),
    ];
    for behavior in ["Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"] {
        let name = Box::leak(format!("split and {behavior}").into_boxed_str());
        kinds.push((
            name,
            tokenizer(json!({ "type": "NFC" }), split(r"\s+|,", behavior), word_piece(), odd.clone()),
        ));
    }
    let marks = json!({ "type": "Sequence", "normalizers": [
        { "type": "Replace", "pattern": { "String": "b" }, "content": "\u{301}" }, { "type": "NFC" },
        { "type": "Replace", "pattern": { "Regex": "é+" }, "content": "e" }] });
    kinds.push((
        "a replacement that combines",
        tokenizer(marks, bytes(false), byte_level.clone(), odd.clone()),
    ));
    for kind in ["Whitespace", "UnicodeScripts", "WhitespaceSplit"] {
        kinds.push((
            kind,
            tokenizer(json!({ "type": "NFD" }), json!({ "type": kind }), word_piece(), odd.clone()),
        ));
    }
    let digits = json!({ "type": "Sequence", "pretokenizers": [{ "type": "Digits", "individual_digits": false },
        { "type": "Punctuation", "behavior": "MergedWithNext" }, { "type": "FixedLength", "length": 3 }] });
    kinds.push((
        "digits, punctuation, fixed lengths",
        tokenizer(json!({ "type": "StripAccents" }), digits, word_piece(), odd),
    ));
    kinds.extend(files());
    kinds
}

fn open(json: &Value) -> Tokenizer {
    Tokenizer::from_bytes(serde_json::to_vec(json).unwrap()).unwrap()
}

fn whole(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec()
}

/// Text with all that tokenizers are sensitive to.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        8 => "[a-z]{1,8}",
        4 => prop::sample::select(SAMPLE.split(' ').map(String::from).collect::<Vec<_>>()),
        4 => Just(" ".to_owned()),
        1 => "[ \\n\\r\\t\u{a0}\u{3000}]{1,6}",
        1 => "[0-9]{1,6}",
        2 => "['.,!?<>|/_~-]{1,3}",
        2 => "[猫在垫子上一二三四カタナ한국어]{1,9}",
        1 => prop::sample::select(vec!["<s>", "</s>", "<mask>", " <mask> ", "<r>  ", "<l>", "word", " word ", "the lazy",
            "<|endoftext|>", "<|im_start|>", "\n\n", "  ", "'s", "'LL", "ſ", "▁▁"]).prop_map(String::from),
        1 => prop::sample::select(vec!["e\u{301}", "\u{301}", "\u{344}", "ﬁ", "ß", "İ", "가\u{11a8}", "क्ष", "🥲", "👩‍👩‍👧",
            "\u{1e94b}", "\u{fdfa}", "\u{600}1", "が", "か\u{3099}", "\u{200d}", "\u{0}", "\u{ad}"]).prop_map(String::from),
        1 => "\\PC{1,4}",
        1 => "(ab|aab){20,90}",
    ];
    vec(part, 1..60).prop_map(|parts| parts.concat())
}

fn check(name: &str, tokenizer: &Tokenizer, certain: &Certain, text: &str, at: usize, wanted: usize) -> bool {
    let beginning = &text[..(0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap()];
    let found = certain.first_ids(tokenizer, beginning, wanted, &|| false).unwrap();
    let Some(found) = found else { return false };
    let whole = whole(tokenizer, text);
    assert_eq!(found, whole[..wanted.min(whole.len())], "{name}: {beginning:?} of {text:?}");
    true
}

#[test]
fn first_tokens_are_those_of_the_whole_text_for_every_kind_of_tokenizer() {
    for (name, json) in kinds() {
        let tokenizer = open(&json);
        let certain = Certain::new(&tokenizer).unwrap_or_else(|| panic!("{name} is not understood"));
        let told = std::cell::Cell::new(0);
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(150));
        let texts = (text(), 0..400_usize, 1..12_usize);
        let result = runner.run(&texts, |(text, at, wanted)| {
            told.set(told.get() + usize::from(check(name, &tokenizer, &certain, &text, at, wanted)));
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(told.get() > 15, "{name}: {} of 150 beginnings told", told.get());
    }
}

/// Tokenizers of large models, which `tools/tokenizers/run` gets.
fn real() -> Vec<(String, Tokenizer)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tokenizers");
    let Ok(entries) = std::fs::read_dir(&folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let open = |path: &Path| Tokenizer::from_bytes(std::fs::read(path).unwrap()).unwrap();
    paths.iter().map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), open(path))).collect()
}

#[test]
fn first_tokens_are_those_of_the_whole_text_for_every_real_tokenizer() {
    let tokenizers = real();
    if tokenizers.is_empty() {
        eprintln!("skipped: real tokenizers are not here; tools/tokenizers/run gets them");
    }
    for (name, tokenizer) in &tokenizers {
        let certain = Certain::new(tokenizer).unwrap_or_else(|| panic!("{name} is not understood"));
        let told = std::cell::Cell::new(0);
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(500));
        let texts = (vec(text(), 1..6), 0..1200_usize, 1..30_usize);
        let result = runner.run(&texts, |(texts, at, wanted)| {
            told.set(told.get() + usize::from(check(name, tokenizer, &certain, &texts.concat(), at, wanted)));
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{name}: {error}"));
        eprintln!("{name}: {} of 500 beginnings told", told.get());
        assert!(told.get() > 50, "{name}: {} of 500 beginnings told", told.get());
    }
}

#[test]
fn plain_text_tells_its_first_tokens_soon() {
    let english = "the quick brown fox jumps over the lazy dog. ".repeat(100);
    for (name, json) in kinds() {
        let tokenizer = open(&json);
        let certain = Certain::new(&tokenizer).unwrap();
        assert!(check(name, &tokenizer, &certain, &english, 2000, 100), "{name}");
    }
}

#[test]
fn text_without_spaces_tells_its_first_tokens_where_the_vocabulary_does() {
    let chinese = "猫在垫子上".repeat(400);
    for (name, json) in kinds() {
        if matches!(
            name,
            "BERT" | "XLM-RoBERTa" | "Gemma" | "Llama 2" | "Unigram without splits" | "the built-in model"
        ) {
            let tokenizer = open(&json);
            let certain = Certain::new(&tokenizer).unwrap();
            assert!(check(name, &tokenizer, &certain, &chinese, 3000, 100), "{name}");
        }
    }
}

#[test]
fn a_tokenizer_that_looks_as_far_as_it_likes_reads_texts_whole() {
    let mut json = files().remove(1).1;
    json["pre_tokenizer"]["pretokenizers"][0]["pattern"] = json!({ "Regex": r"(\w)\1" });
    assert!(Certain::new(&open(&json)).is_none());
    json["pre_tokenizer"]["pretokenizers"][0]["pattern"] = json!({ "Regex": r"(?m:.)+x|\w" });
    assert!(Certain::new(&open(&json)).is_none(), "an inline flag is not understood");
    json["pre_tokenizer"]["pretokenizers"][0]["pattern"] = json!({ "Regex": r".+x|\p{L}" });
    let tokenizer = open(&json);
    let certain = Certain::new(&tokenizer).unwrap();
    let ids = certain.first_ids(&tokenizer, &"a b ".repeat(500), 10, &|| false).unwrap();
    assert_eq!(ids, None, "an x may follow");
}

#[test]
fn a_model_that_takes_whole_words_from_its_vocabulary_is_not_cut_within_them() {
    let mut model = bpe("▁");
    model["ignore_merges"] = true.into();
    let json = tokenizer(Value::Null, Value::Null, model, json!([]));
    let tokenizer = open(&json);
    assert!(matches!(tokenizer.get_model(), ModelWrapper::BPE(_)));
    let certain = Certain::new(&tokenizer).unwrap();
    assert_eq!(certain.first_ids(&tokenizer, &"xyz".repeat(500), 10, &|| false).unwrap(), None);
}
