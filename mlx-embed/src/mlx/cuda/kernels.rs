//! The kernels by name, with checked arguments.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use sha2::{Digest, Sha256};

use super::plan::Plan;
use super::program::{Architecture, Program, Source};
use super::tiles::{After, Tile, tiles};
use crate::mlx::array::Array;
use crate::mlx::dtype::Dtype;
use crate::mlx::error::MlxError;
use crate::mlx::ops::{QuantMode, QuantizedRef};
use crate::mlx::{Stream, ops};

const COMMON: &str = include_str!("source/common.cuh");
const WGMMA: &str = include_str!("source/wgmma.cuh");

/// Threads of a block, as the sources have them.
const EMBED_THREADS: i32 = 128;
const PACK_THREADS: i32 = 256;
const EXPAND_THREADS: i32 = 128;
const ATTENTION_THREADS: i32 = 128;
const ROTATE_THREADS: i32 = 128;
const ADD_NORM_THREADS: i32 = 128;
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

/// What compiling came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Compiled {
    /// Kernels that were compiled.
    pub(crate) anew: usize,
    /// All of them.
    pub(crate) of: usize,
}

/// A 4-bit matrix as `product.cu` reads it.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(super) weight: Array,  // u32, see pack.cu
    pub(super) factors: Array, // u32, see pack.cu
    pub(super) outputs: i32,
    pub(super) inputs: i32,
}

/// The kernels for one model and GPU.
#[derive(Debug)]
pub(crate) struct Kernels {
    pub(super) geometry: Geometry,
    pub(super) embed: Program,
    pub(super) attention: Program,
    rotate: Program,
    add_norm: Program,
    swiglu: Program,
    /// Where matrices are packed.
    pub(super) packed: Option<PackedKernels>,
    compiled: Compiled,
    digest: String,
}

#[derive(Debug)]
pub(super) struct PackedKernels {
    pack: Program,
    expand: Program,
    pub(super) rows: Program,
    pub(super) finish: Program,
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
        let hopper = architecture.is_hopper();
        let defines = vec![
            ("HEAD_DIM", geometry.head_dim),
            ("TRADITIONAL", i32::from(geometry.traditional)),
            ("HAS_BIAS", i32::from(geometry.bias)),
            ("HAS_HEAD_NORMS", i32::from(geometry.head_norms)),
        ];
        let source = |name: &'static str, text: &str, more: &[(&'static str, i32)], threads, shared_memory| Source {
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
        let mut sources = vec![
            source("embed", include_str!("source/embed.cu"), &of_table, EMBED_THREADS, 0),
            source("attention", include_str!("source/attention.cu"), &[], ATTENTION_THREADS, attention_memory),
            source("rotate", include_str!("source/rotate.cu"), &[], ROTATE_THREADS, 0),
            source("add_norm", include_str!("source/add_norm.cu"), &[], ADD_NORM_THREADS, geometry.hidden * 2),
            source("swiglu", include_str!("source/swiglu.cu"), &[], SWIGLU_THREADS, 0),
        ];
        let kinds = [After::Rotate, After::Add, After::SwiGlu];
        let products: Vec<(After, i32, Tile)> = kinds
            .into_iter()
            .flat_map(|after| tiles(after, hopper).into_iter().map(move |(most, tile)| (after, most, tile)))
            .collect();
        if packed {
            let group = [("GROUP", geometry.group)];
            sources.push(source("pack", include_str!("source/pack.cu"), &group, PACK_THREADS, 0));
            sources.push(source("expand", include_str!("source/expand.cu"), &group, EXPAND_THREADS, 0));
            sources.push(source("rows", include_str!("source/rows.cu"), &[], ROWS_THREADS, 0));
            sources.push(source("finish", include_str!("source/finish.cu"), &[], FINISH_THREADS, 0));
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
            rotate: next()?,
            add_norm: next()?,
            swiglu: next()?,
            packed: if packed {
                let (pack, expand, rows, finish) = (next()?, next()?, next()?, next()?);
                let mut of_products = Vec::new();
                for (after, most, tile) in products {
                    of_products.push((after, most, tile, next()?));
                }
                Some(PackedKernels { pack, expand, rows, finish, products: of_products })
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

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// What [`Kernels::new`] had to do.
    pub(crate) fn compiled(&self) -> Compiled {
        self.compiled
    }

    pub(super) fn packed(&self) -> Result<&PackedKernels, MlxError> {
        self.packed.as_ref().ok_or_else(|| wrong("product", "these kernels know no packed matrices".into()))
    }

    /// The matrix `w`, affine, of 4 bits and the geometry's group, as products read it. Its number of inputs is a
    /// multiple of 64.
    pub(crate) fn pack(&self, w: QuantizedRef<'_>, stream: &Stream) -> Result<Packed, MlxError> {
        let what = "pack";
        let group = self.geometry.group;
        let (&[outputs, words], Some(biases)) = (w.weight.shape(), w.biases) else {
            return Err(wrong(what, format!("{w:?} is no affine matrix")));
        };
        let inputs = words.saturating_mul(8);
        if w.bits != 4 || w.group_size != group || w.mode != QuantMode::Affine || inputs % 64 != 0 || outputs < 1 {
            return Err(wrong(what, format!("{w:?} is not affine of 4 bits in groups of {group}, 64 inputs a time")));
        }
        // The kernel counts in 32 bits.
        let padded = up(outputs, 64) * 64;
        if i64::from(padded) * i64::from(inputs) >= 1 << 31 {
            return Err(wrong(what, format!("{outputs} outputs of {inputs} inputs are too many")));
        }
        expect(what, w.weight, &[outputs, words], Dtype::U32)?;
        expect(what, w.scales, &[outputs, inputs / group], Dtype::Bf16)?;
        expect(what, biases, &[outputs, inputs / group], Dtype::Bf16)?;
        let words = padded * (inputs / 8);
        let factors = padded * (inputs / group);
        let blocks = [up(words, PACK_THREADS), 1, 1];
        // SAFETY: pack.cu reads the three inputs at rows below `outputs`, and writes one word a thread below
        // `padded * inputs / 8` and one factor below `padded * inputs / group`, of which there are fewer than threads.
        let [weight, factors] = unsafe {
            self.packed()?.pack.call(
                &[w.weight, w.scales, biases],
                [(&[words], Dtype::U32), (&[factors], Dtype::U32)],
                &[outputs, inputs],
                &[],
                blocks,
                stream,
            )?
        };
        Ok(Packed { weight, factors, outputs, inputs })
    }

    /// The matrix in bf16, `[outputs, inputs]`.
    pub(crate) fn expand(&self, w: &Packed, stream: &Stream) -> Result<Array, MlxError> {
        // SAFETY: a block reads and writes one of `w`'s blocks of 64 by 64, and of the outputs those that there are.
        let [out] = unsafe {
            self.packed()?.expand.call(
                &[&w.weight, &w.factors],
                [(&[w.outputs, w.inputs], Dtype::Bf16)],
                &[w.outputs, w.inputs],
                &[],
                [w.inputs / 64, up(w.outputs, 64), 1],
                stream,
            )?
        };
        Ok(out)
    }

    /// The residual stream's start, and the cosines and sines of every token's angles, f32 `[T, 2, E / 2]`.
    ///
    /// `table` is `[vocab, D]` as [`Geometry::table`] says: one array of bf16, or weight, scales and biases. `angles` is
    /// f32 `[at least the plan's positions, 2, E / 2]`, flat.
    pub(crate) fn embed(
        &self,
        plan: &Plan,
        table: &[&Array],
        scale: &Array,
        angles: &Array,
        stream: &Stream,
    ) -> Result<[Array; 2], MlxError> {
        let what = "embed";
        let Geometry { hidden, head_dim, .. } = self.geometry;
        self.expect_embedding(plan, table, scale, angles)?;
        let tokens = plan.tokens;
        let meta = plan.meta()?;
        let mut inputs = vec![&meta];
        inputs.extend(table);
        inputs.extend([scale, angles]);
        // SAFETY: a block has a token; its id is below `vocab`, its position within `angles`, both checked above, and
        // its rows of the outputs are its own.
        let [x, _, _, angles] = unsafe {
            self.embed.call(
                &inputs,
                [
                    (&[tokens, hidden], Dtype::Bf16),
                    (&[tokens, hidden], Dtype::Bf16),
                    (&[tokens, 1], Dtype::F32),
                    (&[tokens, head_dim], Dtype::F32),
                ],
                &[hidden, tokens],
                &[],
                [tokens, 1, 1],
                stream,
            )?
        };
        Ok([x, angles])
    }

    /// Checks what [`Kernels::embed`] is given.
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

    /// Bias and head norms, where the geometry has them; else `otherwise`, which the kernels leave alone.
    pub(super) fn of_heads<'a>(
        &self,
        what: &'static str,
        bias: Option<&'a Array>,
        norms: Option<&'a Array>,
        otherwise: &'a Array,
    ) -> Result<[&'a Array; 2], MlxError> {
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
        Ok([bias.unwrap_or(otherwise), norms.unwrap_or(otherwise)])
    }

    /// What each token gathers from its text's tokens up to it, and from those before the text: bf16 `[T, H * E]`.
    ///
    /// `qkv` is as [`Kernels::rotate`] makes it, `past` keys and values of the plan's past, `[at least past, K * E]` each.
    pub(crate) fn attention(
        &self,
        qkv: &Array,
        past: Option<[&Array; 2]>,
        plan: &Plan,
        stream: &Stream,
    ) -> Result<Array, MlxError> {
        let what = "attention";
        let Geometry { heads, kv_heads, head_dim, .. } = self.geometry;
        let tokens = plan.tokens;
        expect(what, qkv, &[tokens, self.geometry.qkv()], Dtype::Bf16)?;
        self.expect_past(past, plan)?;
        let [keys, values] = past.unwrap_or([qkv, qkv]);
        // SAFETY: a plan's blocks lie within its tokens, of which `qkv` has a row each; the past was checked above.
        let [out] = unsafe {
            self.attention.call(
                &[qkv, keys, values, &plan.meta()?],
                [(&[tokens, heads * head_dim], Dtype::Bf16)],
                &[2 * tokens, heads, kv_heads, plan.past],
                &[(head_dim as f32).powf(-0.5)],
                [plan.blocks, heads, 1],
                stream,
            )?
        };
        Ok(out)
    }

    /// Checks keys and values of a plan's past.
    pub(super) fn expect_past(&self, past: Option<[&Array; 2]>, plan: &Plan) -> Result<(), MlxError> {
        let what = "attention";
        let Geometry { kv_heads, head_dim, .. } = self.geometry;
        if past.is_some() != (plan.past > 0) {
            return Err(wrong(what, format!("keys before the texts, or none, for a past of {}", plan.past)));
        }
        for array in past.iter().flatten() {
            let kept = array.shape().first().copied().unwrap_or(0);
            expect(what, array, &[kept, kv_heads * head_dim], Dtype::Bf16)?;
            if kept < plan.past {
                return Err(wrong(what, format!("{kept} tokens are kept of a past of {}", plan.past)));
            }
        }
        Ok(())
    }

    /// Bias, head norms and rotation of a product `[T, (H + 2K) * E]`. `bias` is `[(H + 2K) * E]`, `norms` the weights of
    /// queries' and keys' `[2, E]`, `angles` as [`Kernels::embed`] made them.
    pub(crate) fn rotate(
        &self,
        qkv: &Array,
        [bias, norms]: [Option<&Array>; 2],
        angles: &Array,
        stream: &Stream,
    ) -> Result<Array, MlxError> {
        let what = "rotate";
        let Geometry { heads, kv_heads, head_dim, eps, .. } = self.geometry;
        let &[tokens, width] = qkv.shape() else {
            return Err(wrong(what, format!("{qkv:?} is no matrix")));
        };
        expect(what, qkv, &[tokens, self.geometry.qkv()], Dtype::Bf16)?;
        expect(what, angles, &[tokens, head_dim], Dtype::F32)?;
        let [bias, norms] = self.of_heads(what, bias, norms, angles)?;
        let all_heads = heads + 2 * kv_heads;
        let warps = ROTATE_THREADS / 32;
        // SAFETY: a warp has one head of one token, and leaves out what is beyond the last.
        let [out] = unsafe {
            self.rotate.call(
                &[qkv, bias, norms, angles],
                [(&[tokens, width], Dtype::Bf16)],
                &[tokens, all_heads, heads, heads + kv_heads],
                &[eps],
                [up(tokens * all_heads, warps), 1, 1],
                stream,
            )?
        };
        Ok(out)
    }

    /// `x + y` and its norm with weight `scale`, bf16 `[T, D]` both.
    pub(crate) fn add_norm(
        &self,
        x: &Array,
        y: &Array,
        scale: &Array,
        stream: &Stream,
    ) -> Result<[Array; 2], MlxError> {
        let what = "add_norm";
        let Geometry { hidden, eps, .. } = self.geometry;
        let tokens = x.shape().first().copied().unwrap_or(0);
        expect(what, x, &[tokens, hidden], Dtype::Bf16)?;
        expect(what, y, &[tokens, hidden], Dtype::Bf16)?;
        expect(what, scale, &[hidden], Dtype::Bf16)?;
        // SAFETY: a block has a token's row of all four.
        unsafe {
            self.add_norm.call(
                &[x, y, scale],
                [(&[tokens, hidden], Dtype::Bf16), (&[tokens, hidden], Dtype::Bf16)],
                &[hidden],
                &[eps],
                [tokens, 1, 1],
                stream,
            )
        }
    }

    /// `silu(gate) * up`, bf16 `[T, I]`, of both `[T, 2 * I]`, which alternate eight by eight.
    pub(crate) fn swiglu(&self, both: &Array, stream: &Stream) -> Result<Array, MlxError> {
        let what = "swiglu";
        let &[tokens, width] = both.shape() else {
            return Err(wrong(what, format!("{both:?} is no matrix")));
        };
        expect(what, both, &[tokens, width], Dtype::Bf16)?;
        if width % 16 != 0 {
            return Err(wrong(what, format!("{width} numbers don't alternate eight by eight")));
        }
        let eights = tokens * (width / 16);
        // SAFETY: a thread has eight numbers of each, and leaves out what is beyond the last.
        let [out] = unsafe {
            self.swiglu.call(
                &[both],
                [(&[tokens, width / 2], Dtype::Bf16)],
                &[eights],
                &[],
                [up(eights, SWIGLU_THREADS), 1, 1],
                stream,
            )?
        };
        Ok(out)
    }
}

impl Packed {
    /// Computes it.
    pub(crate) fn eval(&self) -> Result<(), MlxError> {
        ops::eval([&self.weight, &self.factors])
    }
}

/// `count / each`, rounded up.
fn up(count: i32, each: i32) -> i32 {
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
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compiles on all cores.
fn compile(sources: &[Source], architecture: &Architecture) -> Result<(Vec<Program>, Compiled), MlxError> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Option<Result<(Program, bool), MlxError>>>> =
        Mutex::new(sources.iter().map(|_| None).collect());
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
    let mut compiled = Compiled { anew: 0, of: sources.len() };
    let mut programs = Vec::new();
    for program in done {
        let missing = || Err(wrong("cuda_compile", "a thread that compiled ended early".into()));
        let (program, anew) = program.unwrap_or_else(missing)?;
        compiled.anew += usize::from(anew);
        programs.push(program);
    }
    Ok((programs, compiled))
}
