//! Options that every command has: which model, and how it makes vectors.

use std::cell::OnceCell;
use std::fmt::Display;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use clap::builder::{OsStringValueParser, PossibleValuesParser, TypedValueParser};
use mlx_embed::{
    Checkpoint, Device, EmbedOptions, Embedder, Embedding, EndToken, Error, Gpus, LoadOptions, MatmulPolicy,
    Pooling, Precision, Prompt, Reranker,
};

use crate::error::CliError;
use crate::hub;
use crate::kind::Kind;
use crate::notes::Notes;

/// The library's own default.
const MAX_TEXT_BYTES: usize = 1 << 20;

/// Of `--batch-tokens`. The defaults are the library's, but for `embed`'s: see [`ModelArgs::expect_bulk`].
pub(crate) const BATCH_TOKENS: &str = "Most tokens in a batch, padding included; larger batches take more memory [default: \
     4096 on a GPU, 8192 there for `embed`; on the CPU 512, from 5 threads on 128 for each, at most 2048]";

/// What `--model` takes.
#[cfg(feature = "hub")]
pub(crate) const MODEL: &str = "Checkpoint directory, or owner/name[@revision] of a hub";
/// What `--model` takes.
#[cfg(not(feature = "hub"))]
pub(crate) const MODEL: &str = "Checkpoint directory";

/// Which model, and what runs it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model options")]
pub(crate) struct ModelArgs {
    #[arg(short, long, value_name = "MODEL", env = "MLX_EMBED_MODEL", hide_env_values = true)]
    #[arg(help = format!("{MODEL} [default: the built-in English model]"))]
    #[arg(value_parser = OsStringValueParser::new().map(PathBuf::from))] // an empty path is no model
    model: Option<PathBuf>,

    /// The directory, once it was asked for.
    #[arg(skip)]
    found: OnceCell<PathBuf>,

    /// Longest text in tokens, prompt and special tokens included; longer ones are cut [default: the model's limit]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    max_tokens: Option<NonZeroUsize>,

    /// Longest text in bytes, prompt included; a longer one is an error [default: 1048576]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    max_text_bytes: Option<NonZeroUsize>,

    #[arg(long, value_name = "N", value_parser = at_least_one, help = BATCH_TOKENS)]
    batch_tokens: Option<NonZeroUsize>,

    /// Where the model runs; `auto` is the GPU if there is one
    #[arg(long, value_name = "WHERE", default_value = "auto", value_parser = one_of(Device::ALL))]
    device: Device,

    /// NVIDIA GPUs, counted from 0: one, several separated by commas, or `all`. Several share the work, and each loads the
    /// whole model
    #[arg(long, value_name = "N,..", default_value_t = Gpus::default())]
    gpu: Gpus,

    /// Threads on the CPU [default: every core]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<NonZeroUsize>,

    /// How much is rounded. On the CPU, with weights of 2 to 8 bits, `exact` rounds activations to 16 bits and `fast` mostly
    /// to 8. `fast` rounds dense weights to 8 bits, too, and with AVX-512 BF16 it may compute attention in bf16. On an
    /// NVIDIA GPU, `exact` computes f32 and f16 models in f32 (products of f16 models multiply f16), `fast` in bf16
    #[arg(long, value_name = "HOW", default_value = "exact", value_parser = one_of(Precision::ALL))]
    precision: Precision,

    /// Kernels that compute. On the CPU: amx-int8, avx512-vnni, avx512, avx2-vnni, avx2, neon-dotprod, neon or portable; on
    /// an NVIDIA GPU: cuda; on both: mlx, for MLX's own [default: the fastest that the machine has]
    #[arg(long, value_name = "NAME", env = "MLX_EMBED_KERNELS", hide_env = true)]
    kernels: Option<String>,

    /// How an NVIDIA GPU multiplies with quantised weights: `packed` uses them as they are, `dequantized` converts them to
    /// bf16 or f16 for each product, `resident` keeps them in memory as such, `auto` takes what was fastest when the model
    /// was first loaded
    #[arg(long, value_name = "HOW", default_value = "auto", value_parser = one_of(MatmulPolicy::ALL))]
    matmul: MatmulPolicy,

    /// Load a checkpoint in spite of settings or tensors that this program doesn't know. They are left out, so vectors may
    /// differ from those of the model's authors
    #[arg(long)]
    lenient: bool,

    /// Print no notes and no progress bar to stderr
    #[arg(short, long)]
    quiet: bool,
}

/// Which model, and how it makes vectors.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Vector options")]
pub(crate) struct CommonArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// How a text's hidden states become one vector: last-token, mean, cls, max, mean-sqrt-len, weighted-mean, or several
    /// joined by + [default: as the checkpoint says, else last-token for
    /// causal decoders and mean for other models]
    #[arg(long, value_name = "HOW", value_parser = pooling)]
    pooling: Option<Pooling>,

    /// Prompt: a string that is put before each text, unchanged; "" for none [default: the checkpoint's]
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_name")]
    prompt: Option<String>,

    /// One of the checkpoint's prompts, such as `query`; `inspect` lists them
    #[arg(long, value_name = "NAME")]
    prompt_name: Option<String>,

    /// Keep the first N numbers of each vector, then normalise (Matryoshka models)
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    dims: Option<NonZeroUsize>,

    /// Scale vectors to length 1 [default: as the checkpoint says, else yes]
    #[arg(long, overrides_with = "no_normalize")]
    normalize: bool,

    /// Leave vectors at the length the model gives them
    #[arg(long, overrides_with = "normalize")]
    no_normalize: bool,

    /// Token at the end of each text: a token of the vocabulary, `tokenizer` for what the tokenizer appends and nothing
    /// else, or `auto`, which adds one where last-token pooling needs it
    #[arg(long, value_name = "TOKEN", default_value = "auto", value_parser = end_token)]
    end_token: EndToken,
}

/// One of an option's words, which `--help` lists.
pub(crate) fn one_of<T>(all: &'static [T]) -> impl TypedValueParser<Value = T>
where
    T: Display + FromStr<Err: std::error::Error + Send + Sync> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(all.iter().map(ToString::to_string)).try_map(|word| word.parse::<T>())
}

pub(crate) fn at_least_one(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "give a whole number from 1 to 2^64 - 1".to_owned())
}

fn pooling(text: &str) -> Result<Pooling, String> {
    text.parse().map_err(|error: mlx_embed::PoolingError| error.to_string())
}

fn end_token(text: &str) -> Result<EndToken, String> {
    match text {
        "auto" => Ok(EndToken::Auto),
        "tokenizer" => Ok(EndToken::TokenizerOnly),
        "" => Err("give auto, tokenizer or a token".to_owned()),
        token => Ok(EndToken::Token(token.to_owned())),
    }
}

impl ModelArgs {
    pub(crate) fn quiet(&self) -> bool {
        self.quiet
    }

    pub(crate) fn notes(&self) -> Notes {
        Notes::new(self.quiet)
    }

    /// Longest text in bytes.
    pub(crate) fn max_text_bytes(&self) -> usize {
        self.max_text_bytes.map_or(MAX_TEXT_BYTES, NonZeroUsize::get)
    }

    /// Whether `--precision fast` was given.
    pub(crate) fn is_fast(&self) -> bool {
        self.precision == Precision::Fast
    }

    /// The checkpoint directory, which is fetched here if need be; `None` is the built-in model.
    pub(crate) fn model_dir(&self) -> Result<Option<&Path>, CliError> {
        let Some(model) = self.model.as_deref().filter(|model| !model.as_os_str().is_empty()) else {
            return Ok(None);
        };
        if self.found.get().is_none() {
            let dir = hub::find(model, self.quiet)?;
            return Ok(Some(self.found.get_or_init(|| dir)));
        }
        Ok(self.found.get().map(PathBuf::as_path))
    }

    /// What the command line calls it; `None` is the built-in model.
    #[cfg(feature = "parquet")]
    pub(crate) fn name(&self) -> Option<&Path> {
        self.model.as_deref().filter(|model| !model.as_os_str().is_empty())
    }

    /// Takes this model instead.
    pub(crate) fn set_model(&mut self, model: PathBuf) {
        (self.model, self.found) = (Some(model), OnceCell::new());
    }

    /// Loads the checkpoint as a reranker.
    pub(crate) fn load_reranker(&self) -> Result<Reranker, CliError> {
        let Some(dir) = self.model_dir()? else {
            let reason = "the built-in model gives vectors and no scores; name a reranker by --model";
            return Err(CliError::Usage(reason.to_owned()));
        };
        Ok(Reranker::load_with(dir, self.load_options())?)
    }

    /// What the files of a checkpoint say that it gives.
    pub(crate) fn kind_of(&self, dir: &Path) -> Result<Kind, CliError> {
        if Checkpoint::is_sparse_encoder(dir).map_err(Error::from)? {
            return Ok(Kind::Sparse);
        }
        let tokens = Checkpoint::is_multi_vector(dir).map_err(Error::from)?;
        Ok(if tokens { Kind::Tokens } else { Kind::Vector })
    }

    /// Whether the checkpoint says of itself that it is a reranker.
    pub(crate) fn is_reranker(&self) -> Result<bool, CliError> {
        match self.model_dir()? {
            Some(dir) => Ok(Checkpoint::is_reranker(dir).map_err(Error::from)?),
            None => Ok(false),
        }
    }

    /// Many texts are to come, and nobody waits for a single one: fewer pauses between batches are worth more memory.
    pub(crate) fn expect_bulk(&mut self) {
        const TOKENS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(8191);
        if self.device != Device::Cpu && mlx_embed::mlx::gpu_backend().is_some() {
            self.batch_tokens.get_or_insert(TOKENS);
        }
    }

    fn load_options(&self) -> LoadOptions {
        LoadOptions {
            device: self.device,
            gpus: self.gpu.clone(),
            threads: self.threads,
            precision: self.precision,
            kernels: self.kernels.clone().filter(|name| !name.is_empty()),
            matmul: self.matmul,
            max_tokens: self.max_tokens.map(NonZeroUsize::get),
            max_text_bytes: self.max_text_bytes,
            batch_tokens: self.batch_tokens,
            lenient: self.lenient,
            ..Default::default()
        }
    }
}

impl CommonArgs {
    /// Loads the model and holds the options against it, before anything is read or written.
    pub(crate) fn load(&self) -> Result<Model, CliError> {
        let embedder = match self.model.model_dir()? {
            Some(dir) => Embedder::load_with(dir, self.load_options())?,
            None => Embedder::default_model_with(self.load_options())?,
        };
        let model = Model { embedder, options: self.embed_options() };
        model.embedder.check_options(&model.options)?;
        Ok(model)
    }

    /// The same options with `--precision exact`.
    pub(crate) fn exactly(&self) -> Self {
        let model = ModelArgs { precision: Precision::Exact, ..self.model.clone() };
        Self { model, ..self.clone() }
    }

    /// Refuses what concerns vectors, of a model that gives none.
    pub(crate) fn refuse_vectors(&self) -> Result<(), CliError> {
        let given = [
            ("--pooling", self.pooling.is_some()),
            ("--prompt", self.prompt.is_some()),
            ("--prompt-name", self.prompt_name.is_some()),
            ("--dims", self.dims.is_some()),
            ("--normalize", self.normalize),
            ("--no-normalize", self.no_normalize),
            ("--end-token", self.end_token != EndToken::Auto),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((option, _)) => {
                Err(CliError::Usage(format!("{option} is for vectors, and a reranker gives scores")))
            }
            None => Ok(()),
        }
    }

    /// What is wanted of each text: as given, or as the checkpoint's files say.
    pub(crate) fn kind(&self, given: Option<Kind>) -> Result<Kind, CliError> {
        match (given, self.model.model_dir()?) {
            (Some(Kind::Sparse | Kind::Tokens), None) => {
                let reason = "the built-in model gives one vector per text; name another by --model";
                Err(CliError::Usage(reason.to_owned()))
            }
            (Some(kind), _) => Ok(kind),
            (None, None) => Ok(Kind::Vector),
            (None, Some(dir)) => Ok(self.model.kind_of(dir)?),
        }
    }

    pub(crate) fn load_options(&self) -> LoadOptions {
        LoadOptions { pooling: self.pooling, end_token: self.end_token.clone(), ..self.model.load_options() }
    }

    pub(crate) fn embed_options(&self) -> EmbedOptions {
        EmbedOptions {
            prompt: match (&self.prompt, &self.prompt_name) {
                (Some(text), _) => Prompt::Text(text.clone()),
                (None, Some(name)) => Prompt::Named(name.clone()),
                (None, None) => Prompt::Default,
            },
            dims: self.dims,
            normalize: match (self.normalize, self.no_normalize) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => None,
            },
            ..Default::default()
        }
    }
}

/// A loaded model with the options of its calls.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) embedder: Embedder,
    pub(crate) options: EmbedOptions,
}

impl Model {
    /// Numbers in each vector.
    pub(crate) fn dims(&self) -> usize {
        let hidden = self.embedder.info().embedding_size;
        self.options.dims.map_or(hidden, NonZeroUsize::get)
    }

    /// What becomes of each of `texts`. `place` names a text of the call.
    pub(crate) fn embed_each(
        &self,
        texts: &[String],
        place: impl Fn(usize) -> String,
    ) -> Result<Vec<Result<Embedding, CliError>>, CliError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let results = self.embedder.embed_each(texts, &self.options);
        let results = results.map_err(|error| CliError::of_texts(error, place(0)))?;
        let named = |(index, result): (usize, Result<_, _>)| {
            result.map_err(|error| CliError::of_text(&error, place(index)))
        };
        Ok(results.into_iter().enumerate().map(named).collect())
    }

    /// The vectors of `texts` up to the first that fails, and that failure. `place` names a text of the call.
    pub(crate) fn embed(
        &self,
        texts: &[String],
        place: impl Fn(usize) -> String,
    ) -> (Vec<Embedding>, Option<CliError>) {
        let results = match self.embed_each(texts, place) {
            Ok(results) => results,
            Err(error) => return (Vec::new(), Some(error)),
        };
        let mut embeddings = Vec::with_capacity(results.len());
        for result in results {
            match result {
                Ok(embedding) => embeddings.push(embedding),
                Err(error) => return (embeddings, Some(error)),
            }
        }
        (embeddings, None)
    }
}
