//! `mlx-embed inspect`: what a checkpoint is and how it would run.

use std::collections::BTreeMap;

use clap::Args;
use mlx_embed::mlx::memory;
use mlx_embed::verify::SAMPLES;
use mlx_embed::{
    EmbedOptions, Embedding, EndTokenSource, Error, Info, LateInteractionInfo, ModelConfig, Prompt,
    RerankerInfo, RopeScaling, Rounding, TruncationSide, vectors,
};
use serde::Serialize;

use crate::any_model::{AnyModel, AnyModelArgs};
use crate::error::CliError;
use crate::found::Encoder;
use crate::kind::Kind;
use crate::options::{CommonArgs, Model};
use crate::process::Resident;
use crate::report;

/// Arguments of `inspect`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    model: AnyModelArgs,
}

const EXAMPLES: &str = "\
Examples:
  mlx-embed inspect --model DIR
  mlx-embed inspect --json | jq .storage

The model is loaded, so that what you see is what runs. With --precision fast, a
dozen texts are embedded and compared with `exact`; otherwise none is. The
weights are read for their SHA-256, which takes about a second a gigabyte.";

/// Everything that is printed.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    info: Info,
    #[serde(skip)]
    kind: Kind,
    /// Numbers in each vector, with `--dims`; of a reranker logits of each pair.
    dims: usize,
    /// Of each weights file, by name.
    weights_sha256: BTreeMap<String, String>,
    memory: Memory,
    mlx_embed_version: &'static str,
    /// With `--precision fast` where that makes a difference.
    fast_against_exact: Option<Comparison>,
}

/// Cosines of the vectors of sample texts in two precisions.
#[derive(Debug, Serialize)]
struct Comparison {
    texts: usize,
    lowest_cosine: f64,
    mean_cosine: f64,
}

impl Comparison {
    /// Embeds the samples with `model`, and again exactly; `None` where there is nothing to compare.
    fn measure(args: &CommonArgs, model: Model) -> Result<Option<Self>, CliError> {
        if !args.model.is_fast() || model.embedder.info().precision.is_none() {
            return Ok(None);
        }
        let vectors = |model: &Model| -> Result<Vec<Embedding>, CliError> {
            Ok(model.embedder.embed_with(&SAMPLES, &model.options)?)
        };
        let fast = vectors(&model)?;
        // One at a time: two take twice the memory.
        drop(model);
        let exact = vectors(&args.exactly().load()?)?;
        let cosines: Vec<f64> = fast.iter().zip(&exact).map(|(a, b)| vectors::cosine(a, b)).collect();
        Ok(Some(Self {
            texts: cosines.len(),
            lowest_cosine: cosines.iter().copied().fold(1.0, f64::min),
            mean_cosine: cosines.iter().sum::<f64>() / cosines.len() as f64,
        }))
    }
}

/// Bytes, after loading.
#[derive(Debug, Serialize)]
struct Memory {
    mlx_active_bytes: usize,
    mlx_peak_bytes: usize,
    mlx_cache_bytes: usize,
    /// Of the process; `null` where the system doesn't tell.
    resident_bytes: Option<u64>,
}

impl Memory {
    fn read() -> Result<Self, CliError> {
        Ok(Self {
            mlx_active_bytes: memory::active().map_err(Error::from)?,
            mlx_peak_bytes: memory::peak().map_err(Error::from)?,
            mlx_cache_bytes: memory::cached().map_err(Error::from)?,
            resident_bytes: Resident::read().map(|memory| memory.now),
        })
    }
}

pub(crate) fn run(args: &InspectArgs) -> Result<(), CliError> {
    let AnyModelArgs { common, json, .. } = &args.model;
    let model = args.model.load()?;
    // Before the files are read through for their hashes.
    let memory = Memory::read()?;
    let mut report = Report {
        info: model.info().clone(),
        kind: model.kind(),
        dims: model.dims(),
        weights_sha256: model.weights_sha256()?.into_iter().collect(),
        memory,
        mlx_embed_version: env!("CARGO_PKG_VERSION"),
        fast_against_exact: None,
    };
    if let AnyModel::Encoder(Encoder::Vector(model), _) = model {
        report.add_options(&model.options);
        report.fast_against_exact = Comparison::measure(common, model)?;
    }
    report::print(*json, &report, Report::text)
}

impl Report {
    /// What the caller has decided in place of the files.
    fn add_options(&mut self, options: &EmbedOptions) {
        let caller = || "the caller".to_owned();
        if let Some(normalize) = options.normalize {
            self.info.normalize = normalize;
            self.info.decided_by.insert("normalize", caller());
        }
        if options.prompt != Prompt::Default {
            self.info.decided_by.insert("prompt", caller());
        }
    }

    /// For people: a line a fact.
    fn text(&self) -> String {
        let info = &self.info;
        let mut lines = Lines(String::new());
        lines.add("model", info.model.display().to_string());
        self.decoder(&mut lines);
        for (name, hash) in &self.weights_sha256 {
            lines.add("SHA-256", format!("{hash}  {name}"));
        }
        match (&info.reranker, &info.late_interaction, self.kind) {
            (Some(reranker), ..) => self.scores(reranker, &mut lines),
            (None, Some(late), _) => self.vectors_of_tokens(late, &mut lines),
            (None, None, Kind::Sparse) => self.weights_of_tokens(&mut lines),
            (None, None, _) => self.vectors(&mut lines),
        }
        self.texts(&mut lines);
        lines.add("device", info.backend.to_string());
        let precision = info.precision.map_or(String::new(), |precision| format!(", {precision}"));
        lines.add("kernels", format!("{}{precision}", info.kernels));
        if info.precision.is_some() {
            lines.add("  rounds", rounds(info.rounding));
        }
        if let Some(Comparison { texts, lowest_cosine, mean_cosine }) = &self.fast_against_exact {
            let value =
                format!("cosine {lowest_cosine:.6} at least, {mean_cosine:.6} on average, {texts} texts");
            lines.add("fast against exact", value);
        }
        let memory = &self.memory;
        lines.add(
            "MLX memory",
            format!(
                "{} active, {} peak, {} cached; mapped weights are not counted",
                mebibytes(memory.mlx_active_bytes as u64),
                mebibytes(memory.mlx_peak_bytes as u64),
                mebibytes(memory.mlx_cache_bytes as u64)
            ),
        );
        if let Some(bytes) = memory.resident_bytes {
            lines.add("process memory", format!("{} resident", mebibytes(bytes)));
        }
        lines.add(
            "versions",
            format!(
                "mlx-embed {}, MLX {}, mlx-c {}",
                self.mlx_embed_version, info.mlx_version, info.mlx_c_version
            ),
        );
        lines.0
    }

    fn decoder(&self, lines: &mut Lines) {
        let (info, config) = (&self.info, &self.info.config);
        let architecture = written(&config.architecture);
        if config.layers == 0 {
            let width = config.hidden_size;
            lines.add("architecture", format!("{architecture}, no layers, width {width}"));
        } else {
            lines.add(
                "architecture",
                format!(
                    "{architecture}, {} layers, width {}, feed-forward {}",
                    config.layers, config.hidden_size, config.intermediate_size
                ),
            );
            self.attention(lines);
        }
        lines.add("vocabulary", format!("{} tokens", config.vocab_size));
        lines.add("parameters", format!("{} ({})", millions(info.parameters), info.parameters));
        lines.add("weights", format!("{} in files", mebibytes(info.weights_bytes)));
        for (kind, storages) in &info.storage {
            let storages: Vec<String> =
                storages.iter().map(|(storage, count)| format!("{count} x {storage}")).collect();
            lines.add(&format!("  {kind}"), storages.join("; "));
        }
        let rope = match &config.rope_scaling {
            RopeScaling::None => "not scaled".to_owned(),
            scaling => format!("scaled: {}", written(scaling)),
        };
        let local = config.rope_local_theta.map(|theta| format!(", {theta} in layers with a window"));
        if let Some(theta) = config.rope_theta {
            let theta = format!("theta {theta}{}", local.unwrap_or_default());
            lines.add("rotary embedding", format!("{theta}, {rope}{}", self.by("rope")));
        }
        for doubt in &info.warnings {
            lines.add("left out", doubt.to_string());
        }
        if !info.unknown_fields.is_empty() {
            lines.add("unknown fields", format!("{} of config.json", info.unknown_fields.join(", ")));
        }
    }

    fn attention(&self, lines: &mut Lines) {
        let config = &self.info.config;
        lines.add(
            "attention",
            format!("{} heads of {}, {} for keys and values", config.heads, config.head_dim, config.kv_heads),
        );
        lines.add("  sees", format!("{}{}", sees(config), self.by("attention")));
        let windows = match windows(&config.layer_windows) {
            Some(windows) => format!("{windows}{}", self.by("windows")),
            None => "none".to_owned(),
        };
        lines.add("  windows", windows);
        lines.add("  biases", format!("{}{}", biases(config), self.by("biases")));
    }

    /// What decided a setting, as the end of a line.
    fn by(&self, setting: &str) -> String {
        self.info.decided_by.get(setting).map_or(String::new(), |by| format!(", by {by}"))
    }

    fn vectors(&self, lines: &mut Lines) {
        let info = &self.info;
        let files = &info.sentence_transformers;
        let part = if files.include_prompt { "" } else { " without the prompt's tokens" };
        lines.add("pooling", format!("{}{part}{}", info.pooling, self.by("pooling")));
        for module in &files.behind {
            lines.add("after pooling", module.to_string());
        }
        let normalised = if info.normalize { "yes" } else { "no" };
        lines.add("normalised", format!("{normalised}{}", self.by("normalize")));
        lines.add("dimensions", self.dims.to_string());
        let end = match &info.end_token {
            None => format!("none{}", self.by("end_token")),
            Some(end) => {
                let by = match end.appended_by {
                    EndTokenSource::Tokenizer => "the tokenizer",
                    _ => "mlx-embed, since the tokenizer doesn't",
                };
                format!("{} ({}), appended by {by}{}", end.token, end.id, self.by("end_token"))
            }
        };
        lines.add("end token", end);
    }

    fn weights_of_tokens(&self, lines: &mut Lines) {
        let behind = &self.info.sentence_transformers.behind;
        lines.add("gives", format!("{} of the vocabulary", Kind::Sparse.words()));
        if behind.is_empty() {
            lines.add("weight", "log(1 + relu(largest logit)) of the head for masked tokens".to_owned());
        }
        for module in behind {
            lines.add("for each token", module.to_string());
        }
    }

    fn vectors_of_tokens(&self, late: &LateInteractionInfo, lines: &mut Lines) {
        let side = |marker: &Option<String>, tokens: usize| {
            let marker =
                marker.as_ref().map_or("no marker".to_owned(), |marker| format!("marker {marker:?}"));
            format!("{marker}, up to {tokens} tokens")
        };
        let filled = match (late.expands_queries, late.attends_to_expansion) {
            (false, _) => "",
            (true, false) => ", filled up with mask tokens that no token attends to",
            (true, true) => ", filled up with mask tokens",
        };
        let skipped = match late.skipped_tokens {
            0 => String::new(),
            count => format!(", {count} tokens of the vocabulary without a vector"),
        };
        lines.add("gives", Kind::Tokens.words().to_owned());
        lines.add("queries", format!("{}{filled}", side(&late.query_marker, late.query_tokens)));
        lines.add("documents", format!("{}{skipped}", side(&late.document_marker, late.document_tokens)));
        for module in &self.info.sentence_transformers.behind {
            lines.add("for each token", module.to_string());
        }
        lines.add("dimensions", self.dims.to_string());
    }

    fn scores(&self, reranker: &RerankerInfo, lines: &mut Lines) {
        let info = &self.info;
        let pairs = match reranker.pairs {
            "tokenizer" => "the tokenizer's template of a pair",
            "chat-template" => "the checkpoint's chat template",
            _ => "the conversation of Qwen3-Reranker",
        };
        lines.add("pairs", pairs.to_owned());
        if let Some(instruction) = &reranker.instruction {
            lines.add("instruction", format!("{instruction:?}"));
        }
        lines.add("pooling", format!("{}{}", info.pooling, self.by("pooling")));
        for module in &info.sentence_transformers.behind {
            lines.add("after pooling", module.to_string());
        }
        match &reranker.answers[..] {
            [] => lines.add("logit", "the label's".to_owned()),
            [right] => lines.add("logit", format!("{right:?}")),
            answers => lines.add("logit", format!("{:?} minus {:?}", answers[1], answers[0])),
        }
        lines.add("score", format!("{:?} of it{}", reranker.activation, self.by("activation")));
    }

    fn texts(&self, lines: &mut Lines) {
        let (info, files) = (&self.info, &self.info.sentence_transformers);
        let cut = if info.truncation_side == TruncationSide::Left { "beginning" } else { "end" };
        lines.add(
            if info.reranker.is_some() { "longest pair" } else { "longest text" },
            format!("{} tokens{}; longer ones lose their {cut}", info.max_tokens, self.by("max_tokens")),
        );
        if files.do_lower_case {
            lines.add("lower case", "yes, by sentence_bert_config.json".to_owned());
        }
        for token in &info.added_tokens {
            lines.add("added token", format!("{:?} ({}), by {}", token.token, token.id, token.file));
        }
        lines.add("batches", format!("up to {} tokens", info.batch_tokens));
        if files.prompts.is_empty() {
            lines.add("prompts", "none".to_owned());
        }
        for (name, prompt) in &files.prompts {
            let default = if files.default_prompt_name.as_ref() == Some(name) { " (default)" } else { "" };
            lines.add(&format!("prompt {name}{default}"), format!("{prompt:?}"));
        }
    }
}

fn sees(config: &ModelConfig) -> &'static str {
    if config.causal { "the tokens before it, causal" } else { "all tokens, bidirectional" }
}

/// What products and attention round.
fn rounds(rounding: Rounding) -> String {
    let bits = |what: &str, bits: Option<u32>| bits.map(|bits| format!("{what} to {bits} bits"));
    let all = [
        bits("activations", rounding.activations),
        bits("dense weights", rounding.weights),
        rounding.attention.map(|_| "attention to bf16 in texts of more than 5 tokens".to_owned()),
    ];
    let all: Vec<String> = all.into_iter().flatten().collect();
    if all.is_empty() { "nothing".into() } else { all.join(", ") }
}

/// Which layers have a window, and of how many tokens.
fn windows(layers: &[Option<usize>]) -> Option<String> {
    let window = layers.iter().flatten().next()?;
    let count = layers.iter().flatten().count();
    Some(format!("{window} tokens in {count} of {} layers", layers.len()))
}

fn biases(config: &ModelConfig) -> String {
    let parts = [
        (config.qkv_bias, "queries, keys and values"),
        (config.o_bias, "attention's output"),
        (config.mlp_bias, "feed-forward part"),
    ];
    let with: Vec<&str> = parts.iter().filter(|(has, _)| *has).map(|(_, part)| *part).collect();
    let head_norms = if config.head_norms { "; a norm on each head" } else { "" };
    let with = if with.is_empty() { "none".to_owned() } else { with.join(", ") };
    format!("{with}{head_norms}")
}

/// Lines of a name and a value, the values in one column.
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: String) {
        self.0.push_str(&format!("{name:<18} {value}\n"));
    }
}

/// A value as JSON writes it, without the marks.
fn written(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default().replace(['"', '{', '}'], "").replace([':', ','], " ")
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn millions(count: u64) -> String {
    if count < 1_000_000 {
        format!("{:.1} thousand", count as f64 / 1e3)
    } else {
        format!("{:.0} million", count as f64 / 1e6)
    }
}
