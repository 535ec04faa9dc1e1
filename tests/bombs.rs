//! Files made to take time and memory: each is refused, and before it takes much.
//!
//! `cargo test -p mlx-embed-tests --test bombs -- --nocapture` prints what each took, in processor time. The test holds them
//! to 200 MB, since that is the same on every machine, and sees that nothing hangs.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::fmt::Write as _;
use std::time::{Duration, Instant};
use std::{env, fs};

use base64::{Engine, prelude::BASE64_STANDARD};
use mlx_embed::Embedder;
use mlx_embed_tests::scratch::Scratch;
use mlx_embed_tests::{child, golden};
use serde_json::{Value, json};

/// Names the environment variable with the checkpoint that a child loads.
const CHECKPOINT: &str = "MLX_EMBED_BOMB";

/// All that the child may take, MLX and a small model included.
const MOST_KILOBYTES: u64 = 200 << 10;

/// What takes longer hangs, also on a machine with other things to do.
const HANGS: Duration = Duration::from_secs(120);

const CASE: &str = "st-mean";
const TOKENIZER: &str = "tokenizer.json";

#[test]
#[ignore = "a child of the others"]
fn child() {
    let Ok(dir) = env::var(CHECKPOINT) else { return };
    let start = Instant::now();
    let outcome = Embedder::load(dir).map(|embedder| embedder.embed(["a small text"]).map(drop));
    let took = start.elapsed();
    let outcome = match outcome {
        Ok(Ok(())) => "embeds".to_owned(),
        Ok(Err(error)) => format!("embedding: {error}"),
        Err(error) => error.to_string(),
    };
    let millis = processor_millis().unwrap_or(took.as_millis());
    // So much that a pipe takes it whole.
    println!("bomb: {millis} {} {:.1000}", peak_kilobytes("self"), outcome.replace('\n', " "));
}

/// What this process has had of processors, where the system tells: on a busy machine the clock tells of others, too.
fn processor_millis() -> Option<u128> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |field: &str| field.parse::<u128>().ok();
    // Hundredths of a second, in user and in kernel mode.
    Some(10 * (ticks(fields.get(11)?)? + ticks(fields.get(12)?)?))
}

/// Most memory that a process has had, where the system tells.
fn peak_kilobytes(process: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Loads a copy of a checkpoint as `make` changed it: it has to be refused with a word about `named`.
fn refused(bomb: &str, named: &str, make: impl FnOnce(&Scratch)) {
    let scratch = Scratch::of(CASE);
    make(&scratch);
    is_refused(bomb, named, &scratch);
}

/// As [`refused`], of any checkpoint.
fn is_refused(bomb: &str, named: &str, scratch: &Scratch) {
    let (output, _) = child::run(child::of("child").env(CHECKPOINT, scratch.path()), bomb, HANGS);
    let said = child::said(&output);
    assert!(output.status.success(), "{bomb}: {}: {said}", output.status);
    let line = said.split("bomb: ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
    let [millis, kilobytes, outcome] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
    println!("{bomb}: {millis} ms, {} MB: {outcome:.200}", kilobytes.parse::<u64>().unwrap() >> 10);
    assert!(outcome.contains(named) && outcome != "embeds", "{bomb}: {outcome}");
    assert!(kilobytes.parse::<u64>().unwrap() < MOST_KILOBYTES, "{bomb}: {kilobytes} kB");
}

fn normalizer(scratch: &Scratch, normalizer: Value) {
    scratch.edit_json(TOKENIZER, |tokenizer| drop(tokenizer.insert("normalizer".into(), normalizer)));
}

fn sequence(normalizers: Vec<Value>) -> Value {
    json!({ "type": "Sequence", "normalizers": normalizers })
}

/// Makes 16 letters of one.
fn multiplies(more: Value) -> Value {
    let mut replace = json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "a".repeat(16) });
    replace.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    replace
}

/// A table of characters: an index that puts what stands behind it in place of `a`.
fn table(index_bytes: u32, replacement: &str) -> Value {
    let mut table = index_bytes.to_le_bytes().to_vec();
    // A double array with a root, the letter and its leaf.
    let mut index = [0_u32; 256];
    index[0] = 1 << 10;
    index[1 ^ usize::from(b'a')] = u32::from(b'a') | 1 << 8 | 128 << 10;
    index[1 ^ usize::from(b'a') ^ 128] = 1 << 31;
    table.extend(index.iter().flat_map(|unit| unit.to_le_bytes()));
    table.extend(replacement.as_bytes());
    table.push(0);
    json!({ "type": "Precompiled", "precompiled_charsmap": BASE64_STANDARD.encode(table) })
}

#[test]
fn replacements_that_multiply_one_another() {
    refused("doubling", TOKENIZER, |scratch| normalizer(scratch, sequence(vec![multiplies(json!({})); 7])));
    refused("doubling, with a field of another kind", TOKENIZER, |scratch| {
        normalizer(scratch, sequence(vec![multiplies(json!({ "normalizers": [] })); 7]));
    });
    refused("doubling, in sequences", TOKENIZER, |scratch| {
        let pair = sequence(vec![multiplies(json!({})); 2]);
        normalizer(scratch, sequence(vec![pair; 4]));
    });
}

#[test]
fn tables_of_characters_that_make_much_of_one() {
    refused("a table of long replacements", TOKENIZER, |scratch| {
        normalizer(scratch, table(1024, &"b".repeat(1 << 20)));
    });
    refused("a table that says it is large", TOKENIZER, |scratch| {
        normalizer(scratch, table(u32::MAX - 3, "b"))
    });
    refused("a table without a type", TOKENIZER, |scratch| {
        let mut table = table(u32::MAX - 3, "b");
        table.as_object_mut().unwrap().remove("type");
        normalizer(scratch, table);
    });
}

#[test]
fn much_before_a_text() {
    let much = "a".repeat(1 << 20);
    refused("a long prefix", TOKENIZER, |scratch| {
        normalizer(scratch, json!({ "type": "Prepend", "prepend": much }));
    });
    refused("a long prefix without a type", TOKENIZER, |scratch| {
        normalizer(scratch, json!({ "prepend": much }))
    });
}

#[test]
fn templates() {
    let process = |scratch: &Scratch, processor: Value| {
        scratch.edit_json(TOKENIZER, |tokenizer| drop(tokenizer.insert("post_processor".into(), processor)));
    };
    let template = |single: Value, ids: Vec<u32>, more: Value| {
        let special = json!({ "x": { "id": "x", "ids": ids, "tokens": vec!["x"; ids.len()] } });
        let mut template = json!({ "type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special });
        template.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        template
    };
    let content = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    let x = json!({ "SpecialToken": { "id": "x", "type_id": 0 } });
    refused("3 million ids", TOKENIZER, |scratch| {
        process(scratch, template(json!([content, x]), vec![1; 3_000_000], json!({})))
    });
    refused("a text 400 times", "400 times", |scratch| {
        process(scratch, template(json!(vec![content.clone(); 400]), vec![1], json!({})));
    });
    refused("a text 400 times, with a field of another kind", "400 times", |scratch| {
        process(scratch, template(json!(vec![content.clone(); 400]), vec![1], json!({ "processors": [] })));
    });
    refused("200 times 1,000 ids", "200000 tokens", |scratch| {
        let mut single = vec![x.clone(); 200];
        single.push(content.clone());
        process(scratch, template(json!(single), vec![1; 1000], json!({})));
    });
}

#[test]
fn tables_of_tokens() {
    let added = |count: usize| {
        let flags = r#""single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":false"#;
        let mut json = String::new();
        for id in 0..count {
            write!(
                json,
                r#"{}{{"id":{},"content":"<{id}>",{flags}}}"#,
                if id == 0 { "" } else { "," },
                2048 + id
            )
            .unwrap();
        }
        json
    };
    let with = |scratch: &Scratch, field: &str, value: &str| {
        let mut rest = Value::Null;
        scratch.edit_json(TOKENIZER, |tokenizer| {
            tokenizer.remove(field);
            rest = Value::Object(tokenizer.clone());
        });
        scratch.write(TOKENIZER, rest.to_string().replacen('{', &format!("{{\"{field}\":{value},"), 1));
    };
    refused("a million added tokens", TOKENIZER, |scratch| {
        with(scratch, "added_tokens", &format!("[{}]", added(1_000_000)))
    });
    refused("120,000 added tokens", TOKENIZER, |scratch| {
        with(scratch, "added_tokens", &format!("[{}]", added(120_000)))
    });
    refused("a vocabulary of 4 million", "model.vocab", |scratch| {
        let mut vocab = String::from("[[\"<unk>\",0]");
        for id in 0..4_000_000 {
            write!(vocab, ",[\"{id:x}\",0]").unwrap();
        }
        with(scratch, "model", &format!(r#"{{"type":"Unigram","unk_id":0,"vocab":{vocab}]}}"#));
    });
    refused("a vocabulary of 3 million, as an object", "model.vocab", |scratch| {
        let mut vocab = String::from("{\"[UNK]\":0");
        for id in 1..3_000_000 {
            write!(vocab, ",\"{id:x}\":{id}").unwrap();
        }
        let rest = r###""type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100"###;
        with(scratch, "model", &format!("{{{rest},\"vocab\":{vocab}}}}}"));
    });
    let zeros = "0,".repeat(25 << 20);
    refused("a table of 25 million numbers in a model", "`model`", |scratch| {
        with(scratch, "model", &format!(r#"{{"type":"BPE","x":[{zeros}0],"vocab":{{}},"merges":[]}}"#));
    });
    refused("an entry of 25 million numbers", "model.vocab", |scratch| {
        with(scratch, "model", &format!(r#"{{"type":"Unigram","unk_id":0,"vocab":[["a",0],[{zeros}0]]}}"#));
    });
}

#[test]
fn sentencepiece_models() {
    let pieces = |bomb: &str, named: &str, piece: &[u8], count: usize| {
        let scratch = Scratch::of("families/xlm-roberta-f32");
        fs::remove_file(scratch.file(TOKENIZER)).unwrap();
        scratch.write("tokenizer_config.json", r#"{"tokenizer_class": "XLMRobertaTokenizer"}"#);
        scratch.write("sentencepiece.bpe.model", piece.repeat(count));
        is_refused(bomb, named, &scratch);
    };
    pieces("pieces without text", "sentencepiece.bpe.model", &[0x0a, 0], 32 << 20);
    pieces("pieces of users", "user-defined", &[0x0a, 5, 0x0a, 1, b'a', 0x18, 4], 9 << 20);
    // A message of 2^63 bytes.
    pieces("a piece that says it is large", "damaged", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 1);
}

#[test]
fn nested_json() {
    let nested = |opens: &str, count: usize| format!("{{\"model_type\": {}", opens.repeat(count));
    for file in [
        "config.json",
        "modules.json",
        "tokenizer_config.json",
        "config_sentence_transformers.json",
        TOKENIZER,
    ] {
        refused(&format!("{file}, nested"), file, |scratch| scratch.write(file, nested("[", 3 << 20)));
        refused(&format!("{file}, nested objects"), file, |scratch| {
            scratch.write(file, nested("{\"a\":", 600_000))
        });
    }
}

#[test]
fn large_json() {
    let large = format!("{{\"a\": \"{}\"}}", "a".repeat(120 << 20));
    for file in [
        "config.json",
        "modules.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
        "model.safetensors.index.json",
        TOKENIZER,
    ] {
        refused(&format!("{file} of 120 MB"), file, |scratch| {
            if file.ends_with("index.json") {
                fs::remove_file(scratch.file("model.safetensors")).unwrap();
            }
            scratch.write(file, &large);
        });
    }
    for file in ["config.json", "tokenizer_config.json"] {
        let zeros = "0,".repeat((2 << 20) - 100);
        refused(&format!("{file} of 2 million numbers"), file, |scratch| {
            scratch.write(file, format!("{{\"model_max_length\":\"x\",\"a\":[{zeros}0]}}"));
        });
    }
}

#[test]
fn many_tokens_beside_the_tokenizer() {
    refused("special_tokens_map.json with 300,000 tokens", "special_tokens_map.json", |scratch| {
        let tokens: Vec<String> = (0..300_000).map(|id| format!("<{id:x}>")).collect();
        scratch.write("special_tokens_map.json", json!({ "additional_special_tokens": tokens }).to_string());
    });
    refused("added_tokens.json with 200,000 tokens", "added_tokens.json", |scratch| {
        let tokens: serde_json::Map<String, Value> =
            (0..200_000).map(|id| (format!("<{id:x}>"), json!(2048 + id))).collect();
        scratch.write("added_tokens.json", Value::Object(tokens).to_string());
    });
}

#[test]
fn layers_without_weights() {
    for (base, field) in [
        ("qwen3-f32", "num_hidden_layers"),
        ("families/bert-f32", "num_hidden_layers"),
        ("families/distilbert-f32", "n_layers"),
        ("families/modernbert-f32", "num_hidden_layers"),
        ("families/nomic-bert-own-config", "n_layer"),
        ("families/t5-f32", "num_layers"),
        ("families/embedding-gemma-f32", "num_hidden_layers"),
    ] {
        let scratch = Scratch::with(base, "config.json", json!({ field: i32::MAX }));
        is_refused(&format!("{base}: {field}"), field, &scratch);
    }
    let scratch = Scratch::of("families/embedding-gemma2-f32");
    scratch.edit_json("config.json", |config| config["text_config"]["num_hidden_layers"] = json!(i32::MAX));
    is_refused("text_config", "text_config.num_hidden_layers", &scratch);
}

#[test]
fn headers_of_weights() {
    let file = "model.safetensors";
    let with_header = |scratch: &Scratch, header: &[u8]| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        scratch.write(file, bytes);
    };
    refused("a header of 99 MB", file, |scratch| {
        with_header(scratch, format!("{{\"a\": \"{}\"}}", "a".repeat(99 << 20)).as_bytes());
    });
    refused("a header of 7 MB of tensors", "in the weights", |scratch| {
        let mut header = String::from("{\"__metadata__\":{}");
        for tensor in 0..120_000 {
            write!(header, ",\"{tensor:x}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}")
                .unwrap();
        }
        with_header(scratch, (header + "}").as_bytes());
    });
    refused("a header of nested lists", file, |scratch| with_header(scratch, "[".repeat(7 << 20).as_bytes()));
    refused("a header of many sizes", "3145729 dimensions", |scratch| {
        let sizes = "1,".repeat(3 << 20);
        with_header(
            scratch,
            format!("{{\"x\":{{\"dtype\":\"U8\",\"shape\":[{sizes}1],\"data_offsets\":[0,0]}}}}").as_bytes(),
        );
    });
}

#[test]
fn golden_files_with_large_headers() {
    let scratch = Scratch::of(CASE);
    let mut bytes = (99_u64 << 20).to_le_bytes().to_vec();
    bytes.extend("[".repeat(99 << 20).as_bytes());
    scratch.write("golden.safetensors", bytes);
    let start = Instant::now();
    let error = mlx_embed::verify::Golden::open(scratch.file("golden.safetensors")).unwrap_err().to_string();
    println!("a golden file's header of 99 MB: {} ms: {error}", start.elapsed().as_millis());
    assert!(error.contains("golden.safetensors"), "{error}");
    assert!(golden::directory(CASE).exists());
}
