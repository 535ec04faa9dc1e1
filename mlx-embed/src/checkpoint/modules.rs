//! What stands behind pooling, and where its weights are.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as FileDtype, TensorInfo};
use serde::Serialize;

use super::activation::DenseActivation;
use super::json::JsonObject;
use super::spec::StepSpec;
use super::torch_file::{self, Stored};
use super::{Checkpoint, CheckpointError, holds};
use crate::file::Files;
use crate::pooling::{Pooling, PoolingMode};

/// Bytes of a module's weights: 16,384 by 16,384 in f32.
const MODULE_BYTES: u64 = 1 << 30;

/// A module behind the pooled vector.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type")]
#[non_exhaustive]
pub enum ModuleSpec {
    /// A projection.
    Dense {
        /// Its folder, the file with its weights, or the matrix in the model's own weights.
        at: String,
        /// Width before.
        inputs: usize,
        /// Width behind.
        outputs: usize,
        /// Whether it adds a bias.
        bias: bool,
        /// The function of its products.
        activation: DenseActivation,
        /// Whether what comes in is added to what goes out, by a projection where the widths differ.
        residual: bool,
    },
    /// A layer norm of the vector.
    LayerNorm {
        /// Its folder.
        at: String,
        /// Width.
        size: usize,
    },
    /// Scaling to length 1.
    Normalize,
    /// What comes behind the first numbers is cut off.
    Truncate {
        /// How many are left, where there are more.
        size: usize,
    },
    /// `127 tanh(x)`, rounded to a whole number: pplx-embed's vectors, to be compared by their cosine.
    TanhInt8,
}

/// What a module is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// The pooled vector.
    Pooled,
    /// Each token's state.
    Tokens,
    /// The pooled vector, of which a score is made.
    Scored,
}

impl Input {
    /// As sentence-transformers calls it, and in words.
    pub(super) fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Pooled | Self::Scored => ("sentence_embedding", "the pooled vector"),
            Self::Tokens => ("token_embeddings", "each token's state"),
        }
    }

    /// What sentence-transformers has to call the result of a Dense module.
    fn output(self) -> &'static str {
        match self {
            Self::Pooled | Self::Tokens => self.name().0,
            Self::Scored => "scores",
        }
    }
}

impl ModuleSpec {
    /// A Dense module by its folder's config; without one by `own`, the matrix in the model's own weights. A folder whose config
    /// says the same and that has no weights stands for that one, too.
    pub(super) fn dense(
        files: &Files,
        folder: &Path,
        own: Option<&StepSpec>,
        input: Input,
    ) -> Result<Self, CheckpointError> {
        let Some(config) = JsonObject::open(files, folder.join("config.json"))? else {
            return match own {
                Some(own) => Ok(Self::of_weights(own)),
                None => Err(missing(files, folder)),
            };
        };
        let activation =
            DenseActivation::named(&config, "activation_function")?.unwrap_or(DenseActivation::Tanh);
        let (expected, what) = input.name();
        let name = |field: &str| config.optional::<String>(field);
        let input_name = name("module_input_name")?.unwrap_or_else(|| expected.into());
        if input_name != expected {
            let reason = format!("is `{input_name}`; only {what}, `{expected}`, can be projected here");
            return Err(config.invalid("module_input_name", reason));
        }
        let output_name = name("module_output_name")?.unwrap_or(input_name);
        if output_name != input.output() {
            let reason = match &*output_name {
                "scores" => {
                    "is `scores`, which the last module of a reranker makes; load a reranker with `Reranker` \
                             (mlx-embed rerank)"
                        .into()
                }
                _ => format!(
                    "is `{output_name}`; what this module makes of {what} has to be called `{}`",
                    input.output()
                ),
            };
            return Err(config.invalid("module_output_name", reason));
        }
        let module = |at: String| {
            Ok(Self::Dense {
                at,
                inputs: config.required("in_features")?,
                outputs: config.required("out_features")?,
                bias: config.optional("bias")?.unwrap_or(true),
                activation,
                residual: config.optional("use_residual")?.unwrap_or(false),
            })
        };
        let own =
            own.map(Self::of_weights).filter(|_| weights(files, folder).is_ok_and(|file| file.is_none()));
        if let Some(own @ Self::Dense { at, .. }) = &own
            && module(at.clone())? == *own
        {
            return Ok(own.clone());
        }
        module(folder.display().to_string())
    }

    /// A step whose weights are among the model's own.
    pub(super) fn of_weights(own: &StepSpec) -> Self {
        match own {
            StepSpec::Dense { projection, activation } => Self::Dense {
                at: own.at().to_owned(),
                inputs: projection.inputs,
                outputs: projection.outputs(),
                bias: projection.parts.iter().any(|part| part.bias),
                activation: *activation,
                residual: false,
            },
            StepSpec::Norm(norm) => Self::LayerNorm { at: own.at().to_owned(), size: norm.size },
        }
    }

    /// Whether a Dense module is a file with its weights, and no folder.
    pub(crate) fn is_file(at: &Path) -> bool {
        at.extension().is_some_and(|extension| extension == "safetensors" || extension == "pt")
    }

    pub(super) fn layer_norm(files: &Files, folder: &Path) -> Result<Self, CheckpointError> {
        let Some(config) = JsonObject::open(files, folder.join("config.json"))? else {
            return Err(missing(files, folder));
        };
        Ok(Self::LayerNorm { at: folder.display().to_string(), size: config.required("dimension")? })
    }
}

impl std::fmt::Display for ModuleSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dense { at, inputs, outputs, activation, .. } => {
                write!(f, "Dense {inputs} to {outputs}")?;
                if *activation != DenseActivation::Identity {
                    write!(f, ", {activation:?}")?;
                }
                write!(f, " ({at})")
            }
            Self::LayerNorm { at, size } => write!(f, "LayerNorm {size} ({at})"),
            Self::Normalize => f.write_str("Normalize"),
            Self::Truncate { size } => write!(f, "the first {size} numbers"),
            Self::TanhInt8 => f.write_str("127 tanh(x), rounded"),
        }
    }
}

#[cold]
fn missing(files: &Files, folder: &Path) -> CheckpointError {
    CheckpointError::MissingFile {
        path: files.path(folder.join("config.json")),
        hint: "modules.json names it as a module's settings",
    }
}

impl Checkpoint {
    /// How hidden states become a vector where the caller doesn't say.
    pub(crate) fn pooling(&self) -> Pooling {
        match (&self.spec().head, self.sentence_transformers().pooling) {
            (Some(head), _) => head.pooling,
            (None, Some(pooling)) => pooling,
            // As sentence-transformers does without a word about pooling; under a causal mask the last token has seen the
            // whole text.
            (None, None) if !self.config().causal => PoolingMode::Mean.into(),
            (None, None) => PoolingMode::LastToken.into(),
        }
    }

    /// Numbers of a vector that an [`Embedder`](crate::Embedder) gives, with this pooling or the checkpoint's own.
    ///
    /// # Errors
    /// When a module is made for vectors of another width than those that come to it.
    pub fn dimensions(&self, pooling: Option<Pooling>) -> Result<usize, CheckpointError> {
        self.embedding_size(pooling.unwrap_or_else(|| self.pooling()))
    }

    /// Numbers of a vector: what the last module gives of what `pooling` gives.
    ///
    /// # Errors
    /// When a module is made for vectors of another width than those that come to it.
    pub(crate) fn embedding_size(&self, pooling: Pooling) -> Result<usize, CheckpointError> {
        if self.spec().projection.is_some() && pooling.modes().any(|mode| mode == PoolingMode::Max) {
            let file = self.sentence_transformers().pooling_file.as_deref().unwrap_or("config.json");
            return Err(CheckpointError::InvalidField {
                path: self.place().path(file),
                field: "pooling_mode".into(),
                reason: format!(
                    "is {pooling}, but this model projects each token's state, of which the largest are not those of \
                     what is projected; choose another pooling than max"
                ),
            });
        }
        self.width_behind(pooling.width(self.spec().hidden), &format!("pooling is {pooling}"))
    }

    /// What the last module gives of vectors of `width` numbers, which are what `origin` says.
    ///
    /// # Errors
    /// When a module is made for vectors of another width than those that come to it.
    pub(crate) fn width_behind(&self, mut width: usize, origin: &str) -> Result<usize, CheckpointError> {
        for module in self.modules().iter() {
            let (at, field, inputs, outputs) = match module {
                ModuleSpec::Dense { at, inputs, outputs, .. } => (at, "in_features", *inputs, *outputs),
                ModuleSpec::LayerNorm { at, size } => (at, "dimension", *size, *size),
                ModuleSpec::Truncate { size } => {
                    width = width.min(*size);
                    continue;
                }
                ModuleSpec::Normalize | ModuleSpec::TanhInt8 => continue,
            };
            if inputs != width {
                let own = self.own_step(module).is_some();
                let file = if own { "config.json".into() } else { Path::new(at).join("config.json") };
                return Err(CheckpointError::InvalidField {
                    path: self.place().path(file),
                    field: field.into(),
                    reason: format!("is {inputs}, but vectors of {width} numbers come to it; {origin}"),
                });
            }
            width = outputs;
        }
        Ok(width)
    }

    /// The step that a module is, where its weights are among the model's own.
    pub(crate) fn own_step(&self, module: &ModuleSpec) -> Option<StepSpec> {
        self.spec().steps().find(|own| ModuleSpec::of_weights(own) == *module)
    }

    /// The weights in a module's folder, or the file itself that a head's are in.
    pub(crate) fn module_file(&self, at: &str) -> Result<ModuleFile<'_>, CheckpointError> {
        let (files, at) = (self.place(), Path::new(at));
        if ModuleSpec::is_file(at) {
            return ModuleFile::open(files, at);
        }
        match weights(files, at)? {
            Some(file) => ModuleFile::open(files, &file),
            None => Err(CheckpointError::MissingFile {
                path: files.path(at.join(WEIGHTS[0])),
                hint: "modules.json names its folder",
            }),
        }
    }
}

/// What a module's folder may have its weights in, in the order in which they are looked for.
const WEIGHTS: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];

/// The file with a module's weights, if there is one.
fn weights(files: &Files, folder: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    for file in WEIGHTS.map(|name| folder.join(name)) {
        if holds(files, &file.display().to_string())? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// A module's weights, read once for all its tensors.
pub(crate) struct ModuleFile<'a> {
    path: PathBuf,
    bytes: Cow<'a, [u8]>,
    tensors: BTreeMap<String, Stored>,
}

impl ModuleFile<'_> {
    /// Safetensors, or a state dict of torch.save.
    pub(super) fn open(files: &Files, name: &Path) -> Result<Self, CheckpointError> {
        let path = files.path(name);
        let bytes = files.read(name, MODULE_BYTES);
        let bytes = bytes.map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
        let tensors = if name.extension().is_some_and(|extension| extension == "safetensors") {
            stored(&bytes).map_err(|reason| CheckpointError::NotSafetensors { path: path.clone(), reason })?
        } else {
            torch_file::tensors(&bytes[..])
                .map_err(|reason| CheckpointError::NotStateDict { path: path.clone(), reason })?
        };
        Ok(Self { path, bytes, tensors })
    }

    /// Whether there is such a tensor.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Rows of a matrix.
    pub(super) fn rows(&self, name: &str) -> Result<usize, CheckpointError> {
        self.stored(name).map(|tensor| tensor.shape.first().copied().unwrap_or(0))
    }

    pub(super) fn check_shape(&self, name: &str, shape: &[usize]) -> Result<&Stored, CheckpointError> {
        let tensor = self.stored(name)?;
        if tensor.shape == shape {
            return Ok(tensor);
        }
        Err(CheckpointError::WrongShape {
            path: self.path.clone(),
            tensor: name.to_owned(),
            expected: shape.to_vec(),
            found: tensor.shape.clone(),
        })
    }

    /// A tensor's numbers as f32, row after row.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let tensor = self.check_shape(name, shape)?;
        let data = &self.bytes[tensor.bytes.clone()];
        let pairs = || data.as_chunks::<2>().0.iter();
        match tensor.dtype {
            FileDtype::F32 => Ok(data.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect()),
            FileDtype::F16 => Ok(pairs().map(|x| f16::from_le_bytes(*x).to_f32()).collect()),
            FileDtype::BF16 => Ok(pairs().map(|x| bf16::from_le_bytes(*x).to_f32()).collect()),
            other => Err(CheckpointError::WrongDtype {
                path: self.path.clone(),
                tensor: name.to_owned(),
                expected: "f32, f16 or bf16",
                found: format!("{other:?}"),
            }),
        }
    }

    /// Refuses tensors that a module has no use for: they say that it is another module than its settings describe.
    pub(crate) fn check_all_used(&self, used: &[String]) -> Result<(), CheckpointError> {
        match self.tensors.keys().find(|name| !used.contains(name)) {
            None => Ok(()),
            Some(name) => Err(CheckpointError::InvalidTensor {
                path: self.path.clone(),
                tensor: name.clone(),
                reason: "is no part of the module that config.json describes in this folder; if the module has it, say so \
                         there (`bias`, `use_residual`), and if not, take it out of this file"
                    .into(),
            }),
        }
    }

    fn stored(&self, name: &str) -> Result<&Stored, CheckpointError> {
        self.tensors.get(name).ok_or_else(|| CheckpointError::MissingTensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
        })
    }
}

/// The tensors of a safetensors file.
fn stored(bytes: &[u8]) -> Result<BTreeMap<String, Stored>, String> {
    // Holds the header against the file's length, too.
    SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let start = size_of::<u64>() + header;
    let of = |(name, info): (String, &TensorInfo)| {
        let (first, end) = info.data_offsets;
        let bytes = start + first..start + end;
        (name, Stored { dtype: info.dtype, shape: info.shape.clone(), bytes })
    };
    Ok(metadata.tensors().into_iter().map(of).collect())
}
