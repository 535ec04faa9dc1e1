//! Which kernels run a model.

use std::sync::Arc;

use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::kernels::Family;
use crate::mlx::{self, CompiledKernels, cuda};
use crate::model::{self, Form, Precision};

/// The variable that names a family of kernels where [`LoadOptions`](crate::LoadOptions) doesn't.
const KERNELS_VARIABLE: &str = "MLX_EMBED_KERNELS";

/// What the model's operations are made of.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// MLX's own.
    Mlx,
    /// This crate's for the CPU.
    Host(&'static Family),
    /// This crate's for NVIDIA GPUs, for checkpoints of this form.
    Cuda(Arc<cuda::Kernels>, Form),
}

impl Kind {
    /// As users name it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Mlx => "mlx",
            Self::Host(family) => family.name(),
            Self::Cuda(..) => CUDA,
        }
    }

    /// Whether [`Precision`] makes a difference to it.
    pub(crate) fn has_precisions(&self) -> bool {
        match self {
            Self::Host(_) => true,
            Self::Cuda(_, form) => form.has_precisions(),
            Self::Mlx => false,
        }
    }

    /// What was compiled for it.
    pub(crate) fn compiled(&self) -> Option<CompiledKernels> {
        match self {
            Self::Cuda(kernels, _) => Some(kernels.compiled()),
            Self::Mlx | Self::Host(_) => None,
        }
    }
}

const CUDA: &str = "cuda";

/// The kernels to run `checkpoint` with on `backend`.
pub(crate) fn kind(
    checkpoint: &Checkpoint,
    backend: mlx::Backend,
    gpus: &[i32],
    wanted: Option<&str>,
    precision: Precision,
) -> Result<Kind, Error> {
    let variable = std::env::var(KERNELS_VARIABLE).ok();
    let (option, wanted) = match (wanted, &variable) {
        (Some(wanted), _) => ("kernels", Some(wanted)),
        (None, variable) => (KERNELS_VARIABLE, variable.as_deref().filter(|name| !name.is_empty())),
    };
    match (backend, wanted) {
        (_, Some("mlx")) | (mlx::Backend::Metal, _) => Ok(Kind::Mlx),
        (mlx::Backend::Cuda, wanted) => match for_cuda(checkpoint, gpus, precision)? {
            Ok(kind) => Ok(kind),
            Err(reason) if wanted == Some(CUDA) => {
                Err(Error::Option { option, reason: format!("is {CUDA}, but {reason}; leave it out") })
            }
            Err(reason) => {
                tracing::warn!(%reason, "the model runs on MLX's own operations, which takes longer");
                Ok(Kind::Mlx)
            }
        },
        (mlx::Backend::Cpu, None) => Ok(Family::available().next().map_or(Kind::Mlx, Kind::Host)),
        (mlx::Backend::Cpu, Some(name)) => match Family::available().find(|family| family.name() == name) {
            Some(family) => Ok(Kind::Host(family)),
            None => {
                let names: Vec<&str> = Family::available().map(Family::name).collect();
                let reason = format!(
                    "is {name}; this machine runs {} and mlx (MLX's own operations)",
                    names.join(", ")
                );
                Err(Error::Option { option, reason })
            }
        },
    }
}

/// This crate's kernels for NVIDIA GPUs, compiled, or why not.
fn for_cuda(
    checkpoint: &Checkpoint,
    gpus: &[i32],
    precision: Precision,
) -> Result<Result<Kind, String>, Error> {
    let form = match model::form(checkpoint, checkpoint.spec(), precision)? {
        Ok(form) => form,
        Err(why) => return Ok(Err(format!("this crate's kernels can't run the checkpoint: {why}"))),
    };
    let mut architectures = Vec::new();
    for &gpu in gpus {
        architectures.push(cuda::Architecture::of_gpu(gpu)?);
    }
    let Some(architecture) = architectures.pop() else { return Ok(Err("no GPU is named".into())) };
    if let Some(other) = architectures.iter().find(|other| **other != architecture) {
        let reason =
            format!("names GPUs of different kinds, {other:?} and {architecture:?}; name those of one");
        return Err(Error::Option { option: "gpus", reason });
    }
    let form = form.on(&architecture);
    Ok(match cuda::Kernels::new(form.geometry, &form.formats, &architecture) {
        Ok(Some(kernels)) => Ok(Kind::Cuda(Arc::new(kernels), form)),
        Ok(None) => {
            let cuda::Architecture { device, major, minor } = architecture;
            let (least, least_minor) = cuda::LEAST_CAPABILITY;
            Err(format!(
                "{device} has compute capability {major}.{minor}; this crate's kernels need {least}.{least_minor}"
            ))
        }
        Err(error) => Err(error.to_string()),
    })
}
