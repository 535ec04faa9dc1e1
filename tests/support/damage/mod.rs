//! Golden checkpoints damaged as a fuzzer's bytes say, and what has to hold for each of them: it loads, or an error says
//! why not; and if it loads, every text gets finite numbers or an error of its own.
//!
//! A function here is the body of the fuzz target of its name (`fuzz/`). `tests/damage.rs` runs the same functions on
//! the committed inputs, so each finding stays a test where no fuzzer is.

mod json;
mod weights;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::{fs, panic};

use arbitrary::{Result, Unstructured};
use mlx_embed::{
    Checkpoint, Device, EmbedOptions, Embedder, Error, InputError, LoadOptions, MultiVectorEmbedder,
    PoolingMode, Precision, Role, SparseEmbedder,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{files, golden};
use weights::{TensorEdit, Tensors};

const WEIGHTS: &str = "model.safetensors";

/// A fuzz target's body: its name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// The targets that read checkpoints.
pub const TARGETS: [Target; 5] = [
    ("safetensors", safetensors),
    ("config", config),
    ("tokenizer", tokenizer),
    ("quantization", quantization),
    ("torch_file", torch_file),
];

/// Golden cases by number: inputs mean the same however many cases are added.
const CASES: [&str; 18] = [
    "qwen3-f32",
    "qwen2-bf16",
    "llama-f32",
    "qwen3-affine-4bit-g64",
    "qwen2-affine-4bit-g64",
    "qwen3-mixed-bits",
    "qwen3-rope-yarn",
    "qwen3-rope-llama3",
    "qwen3-rope-longrope",
    "qwen3-rope-dynamic",
    "qwen3-rope-proportional",
    "qwen3-rope-parameters",
    "qwen3-sharded-bf16",
    "qwen3-head-dim-128-bf16",
    "qwen2-odd-sizes-bf16",
    "st-last-token",
    "st-mean",
    "st-cls",
];
const QUANTISED: [&str; 14] = [
    "qwen3-affine-4bit-g64",
    "qwen3-affine-8bit-g32",
    "qwen3-affine-4bit-g128",
    "qwen3-affine-2bit-g64",
    "qwen3-affine-3bit-g32",
    "qwen3-affine-5bit-g64",
    "qwen3-affine-6bit-g128",
    "qwen3-affine-4bit-g64-f32-scales",
    "qwen3-mxfp4",
    "qwen3-mxfp8",
    "qwen3-nvfp4",
    "qwen3-mixed-bits",
    "qwen3-mixed-modes",
    "qwen3-untied-affine-4bit-g64",
];

/// Weights whose header is the input's text, or all of whose bytes are the input.
///
/// The first byte chooses: checkpoint, whole file or header, and how much of the data is there.
pub fn safetensors(input: &[u8]) {
    let Some((&choice, rest)) = input.split_first() else { return };
    let case =
        ["qwen3-f32", "qwen3-affine-4bit-g64", "llama-f32", "qwen3-mixed-modes"][usize::from(choice & 3)];
    let mut damaged = Damaged::of(case);
    let sound = damaged.files.remove(WEIGHTS).unwrap_or_default();
    let data = weights::data(&sound);
    let file = match choice >> 2 & 3 {
        0 | 1 => weights::file(rest, data),
        2 => weights::file(rest, &data[..data.len() / 2]),
        _ => rest.to_vec(),
    };
    damaged.files.insert(WEIGHTS.into(), file);
    damaged.check("cats sleep", &LoadOptions::default());
}

/// Any golden checkpoint with changes to its JSON files but the tokenizer's.
pub fn config(input: &[u8]) {
    let _ = config_of(&mut Unstructured::new(input));
}

fn config_of(bytes: &mut Unstructured<'_>) -> Result<()> {
    let mut damaged = Damaged::of(pick(bytes, &CASES)?);
    let options = options(bytes)?;
    let files: Vec<String> = damaged.files.keys().filter(|name| is_config(name)).cloned().collect();
    for _ in 0..bytes.int_in_range(1..=3)? {
        let name = pick(bytes, &files)?;
        let file = damaged.files.entry(name.clone()).or_default();
        if bytes.ratio(1, 8)? {
            *file = bytes.arbitrary()?;
        } else {
            edit(file, &json::edits(bytes, 6)?);
        }
    }
    damaged.check("cats sleep in boxes", &options);
    Ok(())
}

/// A tokenizer with changes, and a text for it.
pub fn tokenizer(input: &[u8]) {
    let _ = tokenizer_of(&mut Unstructured::new(input));
}

fn tokenizer_of(bytes: &mut Unstructured<'_>) -> Result<()> {
    let mut damaged = Damaged::of(pick(bytes, &["qwen3-bf16", "plain-tokenizer", "st-mean"])?);
    let options = options(bytes)?;
    let file = damaged.files.entry("tokenizer.json".into()).or_default();
    if bytes.ratio(1, 8)? {
        let at = bytes.int_in_range(0..=file.len())?;
        let put_in: Vec<u8> = bytes.arbitrary()?;
        let end = (at + bytes.int_in_range(0..=64_usize)?).min(file.len());
        file.splice(at..end, put_in);
    } else {
        edit(file, &json::edits(bytes, 6)?);
    }
    let text: &str = bytes.arbitrary()?;
    damaged.check(text, &options);
    Ok(())
}

/// A quantised checkpoint with changes to its `quantization` entry, and to its tensors' types, shapes and numbers.
pub fn quantization(input: &[u8]) {
    let _ = quantization_of(&mut Unstructured::new(input));
}

fn quantization_of(bytes: &mut Unstructured<'_>) -> Result<()> {
    let mut damaged = Damaged::of(pick(bytes, &QUANTISED)?);
    let options = options(bytes)?;
    let config = damaged.files.entry("config.json".into()).or_default();
    let edits = json::edits(bytes, 4)?;
    if let Ok(Value::Object(mut object)) = serde_json::from_slice(config) {
        let entry = object.entry("quantization").or_insert(Value::Null);
        edits.iter().for_each(|edit| edit.apply(entry));
        object.remove("quantization_config");
        *config = Value::Object(object).to_string().into_bytes();
    }
    if let Some(mut tensors) = damaged.files.get(WEIGHTS).and_then(|file| Tensors::of(file)) {
        for edit in bytes.arbitrary_iter::<TensorEdit>()?.take(6) {
            tensors.apply(&edit?);
        }
        damaged.files.insert(WEIGHTS.into(), tensors.file());
    }
    damaged.check("cats sleep", &options);
    Ok(())
}

/// A state dict of `torch.save` with other bytes, which makes sparse vectors or vectors of tokens.
pub fn torch_file(input: &[u8]) {
    let _ = torch_file_of(&mut Unstructured::new(input));
}

/// Where the archive's pickle and its records end, in the smaller of the two files.
const TORCH_BYTES: usize = 2048;

fn torch_file_of(bytes: &mut Unstructured<'_>) -> Result<()> {
    let mut damaged = Damaged::of("families/bge-m3-pickled-heads");
    let (options, is_sparse) = (options(bytes)?, bytes.arbitrary()?);
    let name = if is_sparse { "sparse_linear.pt" } else { "colbert_linear.pt" };
    let file = damaged.files.entry(name.into()).or_default();
    match bytes.int_in_range(0..=7)? {
        0 => *file = bytes.arbitrary()?,
        1 => {
            let at = bytes.int_in_range(0..=file.len())?;
            let end = (at + bytes.int_in_range(0..=64_usize)?).min(file.len());
            file.splice(at..end, bytes.arbitrary::<Vec<u8>>()?);
        }
        // Files in the archive are stored as they are: other bytes in the pickle leave it an archive.
        _ => {
            for _ in 0..bytes.int_in_range(1..=8)? {
                let at = bytes.int_in_range(0..=TORCH_BYTES.min(file.len()) - 1)?;
                file[at] = bytes.arbitrary()?;
            }
        }
    }
    let (dir, options) = (damaged.write(), damaged.options(&options));
    let (texts, call) = (["cats sleep", ""], EmbedOptions::default());
    let finite = |numbers: &[f32]| assert!(numbers.iter().all(|x| x.is_finite()), "{numbers:?}");
    let each = if is_sparse {
        SparseEmbedder::load_with(dir.path(), options).and_then(|model| {
            let results = model.embed_each(&texts, &call)?;
            let weights = results.iter().flatten().flat_map(|found| &found.weights);
            finite(&weights.map(|(_, weight)| *weight).collect::<Vec<_>>());
            Ok(())
        })
    } else {
        MultiVectorEmbedder::load_with(dir.path(), options).and_then(|model| {
            let results = model.embed_each(&texts, Role::Document, &call)?;
            results.iter().flatten().for_each(|found| finite(&found.vectors));
            Ok(())
        })
    };
    if let Err(error) = each {
        assert_is_explained(&error);
    }
    Ok(())
}

/// A checkpoint in memory, on its way to a directory.
struct Damaged {
    files: BTreeMap<String, Vec<u8>>,
}

impl Damaged {
    /// A golden case as it is.
    fn of(case: impl AsRef<Path>) -> Self {
        let folder = golden_file(case, "");
        let name =
            |path: &PathBuf| path.strip_prefix(&folder).expect("below it").to_string_lossy().into_owned();
        let files = files::below(&folder).into_iter().map(|path| (name(&path), path));
        let files = files.filter(|(name, _)| !name.starts_with("golden."));
        Self { files: files.map(|(name, path)| (name, fs::read(path).expect("readable"))).collect() }
    }

    fn write(&self) -> TempDir {
        // Memory that looks like a file system, where there is such.
        let memory = Path::new("/dev/shm");
        let dir =
            if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.expect("a directory");
        for (name, content) in &self.files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("inside the directory")).expect("writable");
            fs::write(path, content).expect("writable");
        }
        dir
    }

    fn options(&self, options: &LoadOptions) -> LoadOptions {
        LoadOptions {
            device: Device::Cpu,
            threads: NonZeroUsize::new(1),
            max_tokens: options.max_tokens.or(Some(64)),
            // What is only unknown ends the way early, before anything can go wrong.
            lenient: true,
            ..options.clone()
        }
    }

    /// Loads it and embeds `text`.
    fn check(&self, text: &str, options: &LoadOptions) {
        let dir = self.write();
        if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
            let _ = (checkpoint.parameters(), checkpoint.storage_by_kind());
        }
        match Embedder::load_with(dir.path(), self.options(options)) {
            Ok(embedder) => check_vectors(&embedder, text),
            Err(error) => assert_is_explained(&error),
        }
    }
}

/// What has to hold for any embedder and text: finite numbers of the right count, length 1, the same bits twice, and in
/// any company where that is promised; or an error.
///
/// # Panics
/// When it doesn't.
pub fn check_vectors(embedder: &Embedder, text: &str) {
    let texts = [text, "a", ""];
    let Some(together) = embed(embedder, &texts) else { return };
    assert_eq!(embed(embedder, &texts).as_ref(), Some(&together), "twice the same: {text:?}");
    for (text, result) in texts.iter().zip(&together) {
        if let Ok(vector) = result {
            check_vector(embedder, vector);
        }
        if is_exact_in_company(embedder) {
            let alone = embed(embedder, &[text]).map(|mut results| results.remove(0));
            assert_eq!(alone.as_ref(), Some(result), "alone and in company: {text:?}");
        }
    }
}

type Vector = std::result::Result<Vec<f32>, InputError>;

fn embed(embedder: &Embedder, texts: &[&str]) -> Option<Vec<Vector>> {
    match embedder.embed_each(texts, &EmbedOptions::default()) {
        Ok(results) => {
            assert_eq!(results.len(), texts.len());
            Some(results.into_iter().map(|result| result.map(|embedding| embedding.vector)).collect())
        }
        Err(error) => {
            assert_is_explained(&error);
            None
        }
    }
}

/// This crate's kernels add up in an order that doesn't depend on the batch; MLX's operations don't.
fn is_exact_in_company(embedder: &Embedder) -> bool {
    embedder.info().precision.is_some()
}

fn check_vector(embedder: &Embedder, vector: &[f32]) {
    let info = embedder.info();
    assert_eq!(vector.len(), info.config.hidden_size as usize);
    assert!(vector.iter().all(|x| x.is_finite()), "{vector:?}");
    let length = vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let zero = vector.iter().all(|&x| x == 0.0);
    assert!(!info.normalize || zero || (length - 1.0).abs() < 1e-3, "length {length} of {vector:?}");
}

/// An error is for the user to act on: it has words, and it is not that a thread of the model's died.
fn assert_is_explained(error: &Error) {
    assert!(!error.to_string().is_empty());
    assert!(!matches!(error, Error::Stopped { .. }), "{error}");
}

fn options(bytes: &mut Unstructured<'_>) -> Result<LoadOptions> {
    Ok(LoadOptions {
        precision: pick(bytes, &[Precision::Exact, Precision::Fast])?,
        kernels: pick(bytes, &[None, None, Some("mlx".into()), Some("portable".into())])?,
        pooling: pick(bytes, &[None, None, Some(PoolingMode::Mean.into()), Some(PoolingMode::Cls.into())])?,
        max_tokens: pick(bytes, &[None, None, Some(1), Some(3)])?,
        ..Default::default()
    })
}

fn pick<T: Clone>(bytes: &mut Unstructured<'_>, from: &[T]) -> Result<T> {
    bytes.choose(from).cloned()
}

fn is_config(name: &str) -> bool {
    name.ends_with(".json") && !name.starts_with("tokenizer")
}

/// The document with the changes; what is no document stays.
fn edit(file: &mut Vec<u8>, edits: &[json::Edit]) {
    if let Ok(mut document) = serde_json::from_slice::<Value>(file) {
        edits.iter().for_each(|edit| edit.apply(&mut document));
        *file = document.to_string().into_bytes();
    }
}

/// Fuzz targets run in their own directory.
fn golden_file(case: impl AsRef<Path>, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(golden::directory("")).join(case).join(name)
}

/// The tokenizer library, and what it calls that panics too: its regular expressions and its character maps.
const TOKENIZER_CRATES: [&str; 3] = ["tokenizers-", "onig-", "spm_precompiled-"];

/// Lets panics pass that the crate catches, those of the tokenizer library, and calls `then` on every other one. Fuzzers
/// end the process on any panic; this one is an expected way for damaged files to be refused.
pub fn on_panic(then: impl Fn(&panic::PanicHookInfo<'_>) + Send + Sync + 'static) {
    panic::set_hook(Box::new(move |info| {
        let file = info.location().map_or("", |location| location.file());
        if !TOKENIZER_CRATES.iter().any(|name| file.contains(name)) {
            then(info);
        }
    }));
}
