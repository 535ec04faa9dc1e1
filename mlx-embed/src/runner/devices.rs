//! Where a model runs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, UnknownWord, of_word};
use crate::mlx;

/// Where the model runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Device {
    /// The GPU if this build and this machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU; loading fails where there is none.
    Gpu,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
        })
    }
}

impl FromStr for Device {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        of_word(word)
    }
}

impl Device {
    /// Every value.
    pub const ALL: &[Self] = &[Self::Auto, Self::Cpu, Self::Gpu];

    /// What runs the model on this machine.
    pub(crate) fn backend(self) -> Result<mlx::Backend, Error> {
        let cpu = || {
            if mlx::has_cpu() {
                return Ok(mlx::Backend::Cpu);
            }
            Err(Error::Option {
                option: "device",
                reason: "would be the CPU, as no NVIDIA GPU with a driver is found, but MLX's CUDA build computes \
                         nothing without one; use MLX's CPU build (tools/bundle/run --runtime cpu, or no feature cuda)"
                    .into(),
            })
        };
        match self {
            // Without a look for GPUs, which wakes their driver, where it can be helped.
            Self::Cpu => cpu(),
            Self::Auto => mlx::gpu_backend().map_or_else(cpu, Ok),
            Self::Gpu => mlx::gpu_backend().ok_or_else(|| Error::Option {
                option: "device",
                reason: "is gpu, but this build of MLX finds no GPU that it can use; use the CPU".into(),
            }),
        }
    }
}

/// NVIDIA GPUs, numbered from 0 as `CUDA_VISIBLE_DEVICES` leaves them.
///
/// As text it is `all`, a number, or several numbers with commas between.
///
/// ```
/// use mlx_embed::Gpus;
///
/// assert_eq!("0,2".parse(), Ok(Gpus::At(vec![0, 2])));
/// assert_eq!("all".parse(), Ok(Gpus::All));
/// assert_eq!(Gpus::default().to_string(), "0");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gpus {
    /// The GPUs with these numbers, each once.
    At(Vec<usize>),
    /// All GPUs that the process sees.
    All,
}

impl Default for Gpus {
    fn default() -> Self {
        Self::At(vec![0])
    }
}

impl fmt::Display for Gpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::At(gpus) => f.write_str(&gpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",")),
        }
    }
}

impl FromStr for Gpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        let number = |part: &str| {
            let wrong = || format!("`{text}` is not all, a number, or numbers with commas between");
            part.trim().parse().map_err(|_| wrong())
        };
        text.split(',').map(number).collect::<Result<_, _>>().map(Self::At)
    }
}

impl Gpus {
    /// The indices of the GPUs that were asked for, where there are any; else one that nobody reads.
    pub(crate) fn indices(&self, backend: mlx::Backend) -> Result<Vec<i32>, Error> {
        let count = if backend == mlx::Backend::Cpu { 0 } else { mlx::gpu_count() };
        let refuse = |reason: String| Err(Error::Option { option: "gpus", reason });
        let wanted = match self {
            Self::All => return usable((0..count.max(1)).collect()),
            Self::At(wanted) if wanted.is_empty() => {
                return refuse("names no GPU; leave it out for the first".into());
            }
            Self::At(wanted) => wanted,
        };
        let mut found = Vec::new();
        for &index in wanted {
            match i32::try_from(index) {
                Ok(gpu) if found.contains(&gpu) => return refuse(format!("names GPU {index} twice")),
                Ok(gpu) if gpu == 0 || gpu < count => found.push(gpu),
                _ => {
                    let seen = match count {
                        0 => "the model runs on the CPU".to_owned(),
                        1 => "this process sees one GPU, number 0".to_owned(),
                        _ => format!("this process sees {count} GPUs, counted from 0"),
                    };
                    return refuse(format!("is {index}, but {seen}"));
                }
            }
        }
        usable(found)
    }
}

/// These GPUs, if none of them has failed in this process before.
fn usable(gpus: Vec<i32>) -> Result<Vec<i32>, Error> {
    match gpus.iter().find_map(|&gpu| mlx::loss_of(gpu)) {
        Some(reason) => Err(Error::Option { option: "gpus", reason }),
        None => Ok(gpus),
    }
}
