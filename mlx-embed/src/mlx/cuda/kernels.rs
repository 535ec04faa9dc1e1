//! What is compiled for a model, and checks of what its kernels are given.

use std::env;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::super::CompiledKernels;
use super::plan::Plan;
use super::program::{Architecture, Program, Source};
use super::tiles::{After, DENSE_TILES, DenseTile, Tile, tiles};
use crate::file::hex;
use crate::mlx::array::Array;
use crate::mlx::dtype::Dtype;
use crate::mlx::error::MlxError;

const COMMON: &str = include_str!("source/common.cuh");
const WGMMA: &str = include_str!("source/wgmma.cuh");
const TMA: &str = include_str!("source/tma.cuh");

/// The variable that makes a Hopper GPU run what the others run, to compare the two or to get around one.
const GENERIC_VARIABLE: &str = "MLX_EMBED_CUDA_GENERIC";

/// Threads of a block, as the sources have them.
const EMBED_THREADS: i32 = 128;
const PACK_THREADS: i32 = 256;
const DEQUANTIZE_THREADS: i32 = 128;
const ATTENTION_THREADS: i32 = 128;
const HOPPER_ATTENTION_THREADS: i32 = 384;
const DENSE_THREADS: i32 = 384;
const ROTATE_THREADS: i32 = 128;
const NORM_THREADS: i32 = 128;
const SWIGLU_THREADS: i32 = 256;
const ROWS_THREADS: i32 = 128;
const FINISH_THREADS: i32 = 128;

/// Sizes and constants of a model that are compiled into its kernels or go with every call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Geometry {
    pub(crate) hidden: i32,
    pub(crate) heads: i32,
    pub(crate) kv_heads: i32,
    pub(crate) head_dim: i32,
    pub(crate) vocab: i32,
    /// Numbers that share a scale, of packed matrices.
    pub(crate) group: i32,
    /// Bits of the embedding table's numbers, 16 for bf16, and its group.
    pub(crate) table: (i32, i32),
    /// Whether neighbours rotate together rather than halves.
    pub(crate) traditional: bool,
    /// Of queries, keys and values.
    pub(crate) bias: bool,
    /// Of queries and keys.
    pub(crate) head_norms: bool,
    pub(crate) eps: f32,
}

impl Geometry {
    /// (H + 2K) * E: of queries, keys and values together.
    pub(crate) fn qkv(&self) -> i32 {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

/// The kernels for one model and GPU, compiled.
#[derive(Debug)]
pub(crate) struct Kernels {
    pub(super) geometry: Geometry,
    pub(super) embed: Program,
    pub(super) attention: Program,
    pub(super) rows: Program,
    pub(super) finish: Program,
    pub(super) dequantized: DequantizedKernels,
    /// Where matrices are packed.
    pub(super) packed: Option<PackedKernels>,
    compiled: CompiledKernels,
    digest: String,
}

/// What products of matrices of bf16 and long texts are computed with.
#[derive(Debug)]
pub(super) enum DequantizedKernels {
    Hopper {
        attention: Program,
        products: Vec<(After, DenseTile, Program)>,
    },
    /// Products are cuBLASLt's, and what follows them are kernels of their own.
    Other {
        rotate: Program,
        norm: Program,
        swiglu: Program,
    },
}

#[derive(Debug)]
pub(super) struct PackedKernels {
    pub(super) pack: Program,
    pub(super) dequantize: Program,
    /// With the highest number of tokens that each is for, in order.
    pub(super) products: Vec<(After, i32, Tile, Program)>,
}

pub(super) fn wrong(what: &'static str, message: String) -> MlxError {
    MlxError::new(what, message)
}

pub(super) fn expect(what: &'static str, array: &Array, shape: &[i32], dtype: Dtype) -> Result<(), MlxError> {
    if array.shape() == shape && array.dtype() == Some(dtype) {
        return Ok(());
    }
    Err(wrong(what, format!("{array:?} where {shape:?} of {dtype} is needed")))
}

impl Kernels {
    /// Compiles what isn't compiled yet; `packed` where matrices are of 4 bits.
    pub(crate) fn new(
        geometry: Geometry,
        packed: bool,
        architecture: &Architecture,
    ) -> Result<Self, MlxError> {
        let hopper = architecture.is_hopper() && env::var_os(GENERIC_VARIABLE).is_none();
        let defines = [
            ("HEAD_DIM", geometry.head_dim),
            ("TRADITIONAL", i32::from(geometry.traditional)),
            ("HAS_BIAS", i32::from(geometry.bias)),
            ("HAS_HEAD_NORMS", i32::from(geometry.head_norms)),
        ];
        let source =
            |name: &'static str, text: &str, more: &[(&'static str, i32)], threads, shared_memory| Source {
                name,
                text: [COMMON, text].concat(),
                defines: [&defines[..], more].concat(),
                threads,
                shared_memory,
            };
        let (bits, table_group) = geometry.table;
        let of_table = [("BITS", bits), ("GROUP", table_group)];
        // Queries, and keys and values twice: 64 rows of a head, 16 bytes apart.
        let attention_memory = 5 * 64 * (geometry.head_dim * 2 + 16);
        // Queries of two heads, keys and values three times, seven pairs of barriers, and room to align them.
        let hopper_memory = 1024 + 8 * 64 * geometry.head_dim * 2 + 7 * 16;
        let mut sources = vec![
            source("embed", include_str!("source/embed.cu"), &of_table, EMBED_THREADS, 0),
            source(
                "attention",
                include_str!("source/attention.cu"),
                &[],
                ATTENTION_THREADS,
                attention_memory,
            ),
            source("rows", include_str!("source/rows.cu"), &[], ROWS_THREADS, 0),
            source("finish", include_str!("source/finish.cu"), &[], FINISH_THREADS, 0),
        ];
        let dense: Vec<(After, DenseTile)> = After::ALL
            .into_iter()
            .flat_map(|after| DENSE_TILES.map(|tile| (after, tile)))
            .filter(|(after, tile)| tile.suits(*after, geometry.head_dim))
            .collect();
        if hopper {
            let text = [WGMMA, TMA, include_str!("source/attention_hopper.cu")].concat();
            sources.push(source("attention_hopper", &text, &[], HOPPER_ATTENTION_THREADS, hopper_memory));
            let text = [WGMMA, TMA, include_str!("source/dense.cu")].concat();
            for &(after, tile) in &dense {
                let more = tile.defines(after);
                sources.push(source("dense", &text, &more, DENSE_THREADS, tile.shared_memory(after)));
            }
        } else {
            sources.push(source("rotate", include_str!("source/rotate.cu"), &[], ROTATE_THREADS, 0));
            sources.push(source("norm", include_str!("source/norm.cu"), &[], NORM_THREADS, 0));
            sources.push(source("swiglu", include_str!("source/swiglu.cu"), &[], SWIGLU_THREADS, 0));
        }
        let products: Vec<(After, i32, Tile)> = After::ALL
            .into_iter()
            .flat_map(|after| tiles(after, hopper).into_iter().map(move |(most, tile)| (after, most, tile)))
            .collect();
        if packed {
            let group = [("GROUP", geometry.group)];
            sources.push(source("pack", include_str!("source/pack.cu"), &group, PACK_THREADS, 0));
            sources.push(source(
                "dequantize",
                include_str!("source/dequantize.cu"),
                &group,
                DEQUANTIZE_THREADS,
                0,
            ));
            let text = [WGMMA, include_str!("source/product.cu")].concat();
            for &(after, _, tile) in &products {
                let more = [&group[..], &tile.defines(after)].concat();
                sources.push(source("product", &text, &more, tile.threads(), tile.shared_memory()));
            }
        }
        let digest = digest(&sources, architecture);
        let (programs, compiled) = compile(&sources, architecture)?;
        let mut programs = programs.into_iter();
        let mut next = || programs.next().ok_or_else(|| wrong("cuda_compile", "a kernel is missing".into()));
        Ok(Self {
            geometry,
            embed: next()?,
            attention: next()?,
            rows: next()?,
            finish: next()?,
            dequantized: if hopper {
                let attention = next()?;
                let mut products = Vec::new();
                for (after, tile) in dense {
                    products.push((after, tile, next()?));
                }
                DequantizedKernels::Hopper { attention, products }
            } else {
                DequantizedKernels::Other { rotate: next()?, norm: next()?, swiglu: next()? }
            },
            packed: if packed {
                let (pack, dequantize) = (next()?, next()?);
                let mut of_products = Vec::new();
                for (after, most, tile) in products {
                    of_products.push((after, most, tile, next()?));
                }
                Some(PackedKernels { pack, dequantize, products: of_products })
            } else {
                None
            },
            compiled,
            digest,
        })
    }

    /// Stands for these kernels on this GPU.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// What [`Kernels::new`] had to do.
    pub(crate) fn compiled(&self) -> CompiledKernels {
        self.compiled
    }

    pub(super) fn packed(&self) -> Result<&PackedKernels, MlxError> {
        self.packed.as_ref().ok_or_else(|| wrong("product", "these kernels know no packed matrices".into()))
    }

    /// Checks the token ids, the table `[vocab, D]` as [`Geometry::table`] says, one array of bf16 or weight, scales and
    /// biases, the first norm's weight and the angles, f32 `[at least the plan's positions, 2, E / 2]`, flat.
    pub(super) fn expect_embedding(
        &self,
        plan: &Plan,
        table: &[&Array],
        scale: &Array,
        angles: &Array,
    ) -> Result<(), MlxError> {
        let what = "embed";
        let Geometry { hidden, head_dim, vocab, table: (bits, group), .. } = self.geometry;
        match table {
            [rows] if bits == 16 => expect(what, rows, &[vocab, hidden], Dtype::Bf16)?,
            [words, scales, biases] if bits != 16 => {
                expect(what, words, &[vocab, hidden * bits / 32], Dtype::U32)?;
                expect(what, scales, &[vocab, hidden / group], Dtype::Bf16)?;
                expect(what, biases, &[vocab, hidden / group], Dtype::Bf16)?;
            }
            _ => return Err(wrong(what, format!("{} arrays for a table of {bits} bits", table.len()))),
        }
        expect(what, scale, &[hidden], Dtype::Bf16)?;
        if plan.ids() > vocab as u32 {
            return Err(wrong(what, format!("token id {} in a vocabulary of {vocab}", plan.ids() - 1)));
        }
        if angles.dtype() != Some(Dtype::F32) || angles.size() < plan.positions() * head_dim as usize {
            return Err(wrong(what, format!("{angles:?} for {} positions", plan.positions())));
        }
        Ok(())
    }

    /// Checks bias and head norms, which are there where the geometry has them.
    pub(super) fn of_heads(
        &self,
        what: &'static str,
        bias: Option<&Array>,
        norms: Option<&Array>,
    ) -> Result<(), MlxError> {
        let geometry = &self.geometry;
        if bias.is_some() != geometry.bias || norms.is_some() != geometry.head_norms {
            return Err(wrong(what, "bias or head norms are not as the kernels were compiled for".into()));
        }
        if let Some(bias) = bias {
            expect(what, bias, &[geometry.qkv()], Dtype::Bf16)?;
        }
        if let Some(norms) = norms {
            expect(what, norms, &[2, geometry.head_dim], Dtype::Bf16)?;
        }
        Ok(())
    }

    /// Checks keys and values of a plan's cache.
    pub(super) fn expect_cache(&self, cached: Option<[&Array; 2]>, plan: &Plan) -> Result<(), MlxError> {
        let what = "attention";
        let Geometry { kv_heads, head_dim, .. } = self.geometry;
        if cached.is_some() != (plan.cached > 0) {
            return Err(wrong(
                what,
                format!("keys before the texts, or none, for a cache of {}", plan.cached),
            ));
        }
        for array in cached.iter().flatten() {
            let kept = array.shape().first().copied().unwrap_or(0);
            expect(what, array, &[kept, kv_heads * head_dim], Dtype::Bf16)?;
            if kept < plan.cached {
                return Err(wrong(what, format!("{kept} tokens are kept of a cache of {}", plan.cached)));
            }
        }
        Ok(())
    }
}

/// `count / each`, rounded up.
pub(super) fn up(count: i32, each: i32) -> i32 {
    (count + each - 1) / each
}

pub(super) fn grid(tile: Tile, tokens: i32, outputs: i32) -> [i32; 3] {
    [up(outputs, tile.outputs()), up(tokens, tile.tokens), 1]
}

fn digest(sources: &[Source], architecture: &Architecture) -> String {
    let mut digest = Sha256::new();
    digest.update(format!("{architecture:?} {}", crate::mlx::version()));
    for source in sources {
        digest.update(format!("{} {:?}", source.text, source.defines));
    }
    hex(&digest.finalize())
}

/// A kernel, and whether it was compiled anew.
type Done = Result<(Program, bool), MlxError>;

/// Compiles on all cores.
fn compile(
    sources: &[Source],
    architecture: &Architecture,
) -> Result<(Vec<Program>, CompiledKernels), MlxError> {
    let start = Instant::now();
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Option<Done>>> = Mutex::new(sources.iter().map(|_| None).collect());
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(sources.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(source) = sources.get(index) else { return };
                    let program = Program::new(source, architecture);
                    done.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(program);
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut compiled = CompiledKernels { anew: 0, of: sources.len(), time: start.elapsed() };
    let mut programs = Vec::new();
    for program in done {
        let missing = || Err(wrong("cuda_compile", "a thread that compiled ended early".into()));
        let (program, anew) = program.unwrap_or_else(missing)?;
        compiled.anew += usize::from(anew);
        programs.push(program);
    }
    Ok((programs, compiled))
}
