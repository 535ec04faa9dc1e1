//! What is compiled for a model, and checks of what its kernels are given.

use std::any::TypeId;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::super::CompiledKernels;
use super::arguments::{
    ActivateArguments, Arguments, AttentionArguments, DenseArguments, DequantizeArguments, EmbedArguments,
    FinishArguments, HalveArguments, HopperAttentionArguments, HopperProductArguments, LargestArguments,
    MeanArguments, PackArguments, ProductArguments, RotateArguments, RowNormsArguments, RowsArguments,
    SumArguments,
};
use super::chips::Chip;
use super::format::{Format, Numbers};
use super::plan::Plan;
use super::program::{Architecture, Program, Source};
use super::tiles::{After, DENSE_TILES, DenseTile, HopperTile, Tile, up};
use crate::file::hex;
use crate::mlx::array::Array;
use crate::mlx::dtype::Dtype;
use crate::mlx::error::MlxError;

/// Threads of a block, as the sources have them.
const BLOCK_THREADS: i32 = 128;
/// The same of `activate.cu` and `texts.cuh`.
const MANY_THREADS: i32 = 256;
const HOPPER_THREADS: i32 = 384;

/// Sizes and constants of a model that are compiled into its kernels or go with every call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Geometry {
    pub(crate) hidden: i32,
    /// Of the first layer.
    pub(crate) heads: Heads,
    /// Of layers that have others.
    pub(crate) other_heads: Option<Heads>,
    pub(crate) vocab: i32,
    /// What activations are, and what is multiplied.
    pub(crate) numbers: Numbers,
    /// How the embedding table is packed; without, it is of what activations are.
    pub(crate) table: Option<Format>,
    /// Whether neighbours rotate together rather than halves.
    pub(crate) traditional: bool,
    /// Of queries, keys and values.
    pub(crate) bias: bool,
    /// Of queries and keys.
    pub(crate) head_norms: bool,
    /// Of head norms; of all norms where they are fused.
    pub(crate) eps: f32,
    /// Of the norm of values, which has no weight, where there is one.
    pub(crate) value_eps: Option<f32>,
    pub(crate) activation: Activation,
    pub(crate) gated: bool,
    pub(crate) layer_inputs: Option<LayerInputs>,
    /// Whether layers multiply the residual stream with a number.
    pub(crate) scalars: bool,
    /// That of the head of a masked language model, where weights of the vocabulary's tokens are asked for.
    pub(crate) mlm: Option<Activation>,
    /// From which distance on what scores get by distance stays the same, where they get such.
    pub(crate) far: Option<i32>,
    /// Whether every token sees those before it, and all of them.
    pub(crate) causal: bool,
    /// Whether norms, rotation, activation and residual connections can be part of the products: all norms are by the root
    /// mean square and before a half, and biases are of queries, keys and values alone.
    pub(crate) fused: bool,
}

/// Sizes of a layer's attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heads {
    pub(crate) heads: i32,
    pub(crate) kv_heads: i32,
    pub(crate) head_dim: i32,
}

impl Heads {
    /// (H + 2K) * E: of queries, keys and values together.
    pub(crate) fn qkv(self) -> i32 {
        self.queries() + 2 * self.keys()
    }

    /// H * E
    pub(crate) fn queries(self) -> i32 {
        self.heads * self.head_dim
    }

    /// K * E
    pub(crate) fn keys(self) -> i32 {
        self.kv_heads * self.head_dim
    }

    fn defines(self) -> [(&'static str, i32); 1] {
        [("HEAD_DIM", self.head_dim)]
    }

    /// Numbers side by side that a thread of `rotate.cu` has: halves of a head are so many pieces.
    fn numbers_per_thread(self) -> i32 {
        [8, 4].into_iter().find(|numbers| self.head_dim % (2 * numbers) == 0).unwrap_or(2)
    }

    /// Threads of `rotate.cu` that share a head.
    pub(super) fn threads_per_head(self) -> i32 {
        let pieces = self.head_dim / self.numbers_per_thread();
        pieces.unsigned_abs().next_power_of_two().min(32) as i32
    }
}

/// What layers take in beside the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerInputs {
    /// P, of each layer.
    pub(crate) width: i32,
    /// Of what they are multiplied with.
    pub(crate) activation: Activation,
}

/// The function inside the feed-forward part, as `common.cuh` numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    Silu = 0,
    GeluErf = 1,
    GeluTanh = 2,
    Relu = 3,
    Identity = 4,
    Tanh = 5,
    Sigmoid = 6,
    QuickGelu = 7,
    ClippedGelu = 8,
    Relu6 = 9,
    LeakyRelu = 10,
    SquaredRelu = 11,
    HardSwish = 12,
    Mish = 13,
    Laplace = 14,
}

impl Geometry {
    /// Whether products of f16 have in them what is around them; the residual stream is of f32.
    pub(crate) fn fuses_halves(&self) -> bool {
        self.fused && self.numbers.is_wide()
    }

    /// The type of queries, keys, values and what attention makes of them.
    pub(crate) fn of_heads(&self) -> Dtype {
        if self.fuses_halves() { Dtype::F16 } else { self.numbers.dtype() }
    }

    /// Blocks of `attention.cu` that share 64 queries.
    pub(super) fn attention_blocks(&self, heads: Heads) -> i32 {
        64 / AttentionTile::of(heads, self.of_heads()).queries
    }

    /// Whether Hopper's attention of long texts is for it.
    fn suits_hopper(&self) -> bool {
        let known = self.other_heads.is_none() && [64, 128].contains(&self.heads.head_dim);
        self.causal && self.far.is_none() && self.of_heads() != Dtype::F32 && known
    }

    /// Heads of every width that it has.
    fn head_widths(&self) -> impl Iterator<Item = Heads> {
        let other = self.other_heads.filter(|other| other.head_dim != self.heads.head_dim);
        [self.heads].into_iter().chain(other)
    }

    /// Numbers of the widest row that `sum.cu` is for: of the residual stream, or a layer's input.
    fn sum_width(&self) -> i32 {
        self.layer_inputs.map_or(0, |inputs| inputs.width).max(self.hidden)
    }

    /// Threads of `sum.cu` that share a row, so that each has at most 32 of its numbers in registers.
    pub(super) fn threads_per_sum(&self) -> i32 {
        match self.sum_width() {
            0..=1024 => 32,
            1025..=4096 => 128,
            _ => 512,
        }
    }
}

/// Which of a model's kernels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Name {
    Embed,
    /// Of heads of this width.
    Attention(i32),
    HopperAttention,
    Rows,
    Halve,
    RowNorms,
    Finish,
    Mean,
    /// Of heads of this width.
    Rotate(i32),
    Activate,
    /// Of what gates the inputs of layers.
    ActivateGate,
    /// Of the head of a masked language model.
    ActivateHead,
    Largest,
    Sum,
    Pack(Format),
    Dequantize(Format),
    Product(Format, After, Tile),
    HopperProduct(Format, After, HopperTile),
    Dense(After, DenseTile),
}

/// The kernels for one model and GPU, compiled.
#[derive(Debug)]
pub(crate) struct Kernels {
    pub(super) geometry: Geometry,
    chip: &'static Chip,
    programs: Vec<(Name, Program)>,
    compiled: CompiledKernels,
    digest: String,
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

/// What is to be compiled for a model whose packed matrices have these formats.
fn sources(geometry: &Geometry, formats: &[Format], chip: &Chip) -> Vec<(Name, Source)> {
    let defines = [
        ("TRADITIONAL", i32::from(geometry.traditional)),
        ("HAS_BIAS", i32::from(geometry.bias)),
        ("HAS_HEAD_NORMS", i32::from(geometry.head_norms)),
        ("OF_F32", i32::from(geometry.numbers.is_wide())),
    ];
    let mut all = Sources { defines: defines.to_vec(), sources: Vec::new() };
    let (threads, row) = (BLOCK_THREADS, geometry.hidden * 4);
    let act = |activation, by: Gated| [("ACTIVATION", activation as i32), ("GATED", by as i32)];
    let inner = act(geometry.activation, if geometry.gated { Gated::ByUp } else { Gated::Not });
    // What products follow.
    let halved = [("HALVED", i32::from(geometry.numbers.is_wide()))];
    let of_f16 = ("OF_F16", i32::from(geometry.fuses_halves()));
    let table = geometry.table.map_or_else(Vec::new, Format::defines);
    let of_heads = geometry.heads.defines();
    all.add::<EmbedArguments>(Name::Embed, "embed", &[&of_heads[..], &table].concat(), threads, 0);
    for heads in geometry.head_widths() {
        let far = ("FAR", geometry.far.unwrap_or(0));
        let (width, of) = (heads.head_dim, [&heads.defines()[..], &[far]].concat());
        let tile = AttentionTile::of(heads, geometry.of_heads());
        let terms = ("TERMS", if geometry.numbers == Numbers::F32 { 3 } else { 1 });
        let more = [&of[..], &tile.defines(), &[terms, of_f16]].concat();
        all.add::<AttentionArguments>(Name::Attention(width), "attention", &more, threads, tile.memory());
    }
    all.add::<RowsArguments>(Name::Rows, "rows", &[], threads, 0);
    if geometry.numbers.is_wide() {
        all.add::<HalveArguments>(Name::Halve, "halve", &[], threads, 0);
    }
    if geometry.fuses_halves() {
        all.add::<RowNormsArguments>(Name::RowNorms, "row_norms", &[], threads, 0);
    }
    all.add::<FinishArguments>(Name::Finish, "finish", &[], threads, row);
    all.add::<MeanArguments>(Name::Mean, "mean", &[], MANY_THREADS, 0);
    if chip.warpgroups && geometry.suits_hopper() {
        // Queries of two heads, keys and values three times, seven pairs of barriers, and room to align them.
        let memory = 1024 + 8 * 64 * geometry.heads.head_dim * 2 + 7 * 16;
        let name = "attention_hopper";
        let more = [&of_heads[..], &[of_f16]].concat();
        all.add::<HopperAttentionArguments>(Name::HopperAttention, name, &more, HOPPER_THREADS, memory);
    }
    if chip.warpgroups && geometry.fused {
        for (after, tile) in After::FUSED.into_iter().flat_map(|after| DENSE_TILES.map(|tile| (after, tile)))
        {
            if tile.suits(after, geometry.heads.head_dim) {
                let more = [&of_heads[..], &inner, &tile.defines(after), &[of_f16]].concat();
                let memory = tile.shared_memory(after);
                all.add::<DenseArguments>(Name::Dense(after, tile), "dense", &more, HOPPER_THREADS, memory);
            }
        }
    } else {
        for heads in geometry.head_widths() {
            let norms_values = ("HAS_VALUE_NORMS", i32::from(geometry.value_eps.is_some()));
            let lanes = [("PER", heads.numbers_per_thread()), ("LANES", heads.threads_per_head())];
            let more = [&heads.defines()[..], &[norms_values], &lanes].concat();
            all.add::<RotateArguments>(Name::Rotate(heads.head_dim), "rotate", &more, threads, 0);
        }
        let more = [&inner[..], &halved].concat();
        all.add::<ActivateArguments>(Name::Activate, "activate", &more, MANY_THREADS, 0);
    }
    if !(chip.warpgroups && geometry.fused) || geometry.fuses_halves() {
        let (width, per_row) = (geometry.sum_width(), geometry.threads_per_sum());
        let has_factor = ("HAS_FACTOR", i32::from(geometry.scalars));
        let of_rows = [("WIDTH", width), ("PER_ROW", per_row), has_factor];
        all.add::<SumArguments>(Name::Sum, "sum", &of_rows, per_row.max(threads), 0);
    }
    if let Some(inputs) = geometry.layer_inputs {
        let of_gate = [&act(inputs.activation, Gated::ByOther)[..], &halved].concat();
        all.add::<ActivateArguments>(Name::ActivateGate, "activate", &of_gate, MANY_THREADS, 0);
    }
    if let Some(activation) = geometry.mlm {
        let of_head = [&act(activation, Gated::Not)[..], &[("HALVED", 0)]].concat();
        all.add::<ActivateArguments>(Name::ActivateHead, "activate", &of_head, MANY_THREADS, 0);
        all.add::<LargestArguments>(Name::Largest, "largest", &[], MANY_THREADS, 0);
    }
    for &format in formats {
        let of = format.defines();
        all.add::<PackArguments>(Name::Pack(format), "pack", &of, threads, 0);
        all.add::<DequantizeArguments>(Name::Dequantize(format), "dequantize", &of, threads, 0);
    }
    let rows = (!geometry.numbers.is_wide() || geometry.fuses_halves()).then_some(Format::ROWS);
    for format in formats.iter().copied().chain(rows) {
        for &after in afters(geometry) {
            for (_, tile) in chip.tiles(format, after, geometry.numbers) {
                let more =
                    [&of_heads[..], &format.defines(), &inner, &tile.defines(after), &[of_f16]].concat();
                let name = Name::Product(format, after, tile);
                all.add::<ProductArguments>(name, "product", &more, tile.threads(), tile.shared_memory());
            }
            for (_, tile) in chip.splits(format, after) {
                if tile.suits(after, geometry.heads.head_dim) {
                    let more =
                        [&of_heads[..], &format.defines(), &inner, &tile.defines(after), &[of_f16]].concat();
                    let (name, memory) =
                        (Name::HopperProduct(format, after, tile), tile.shared_memory(format));
                    let file = "product_hopper";
                    all.add::<HopperProductArguments>(name, file, &more, tile.threads(), memory);
                }
            }
        }
    }
    all.sources
}

/// What follows products of packed weights.
fn afters(geometry: &Geometry) -> &'static [After] {
    if geometry.fused { &After::FUSED } else { &[After::Nothing] }
}

/// What an activation is multiplied with, as `activate.cu` numbers it.
#[derive(Debug, Clone, Copy)]
enum Gated {
    Not = 0,
    ByUp = 1,
    /// Columns of another matrix.
    ByOther = 2,
}

/// How `attention.cu` divides its work.
#[derive(Debug, Clone, Copy)]
struct AttentionTile {
    /// Of a block.
    queries: i32,
    /// That it takes at once.
    keys: i32,
    /// Warps that have the same queries.
    sharing: i32,
    /// Bytes of a row of queries, keys or values.
    row: i32,
}

impl AttentionTile {
    /// For heads of this type.
    fn of(heads: Heads, dtype: Dtype) -> Self {
        let width = heads.head_dim;
        let ((queries, keys, sharing), size) = match (dtype == Dtype::F32, width) {
            (false, ..=128) => ((64, 64, 1), 2),
            (false, ..=256) => ((64, 32, 1), 2),
            (false, _) => ((32, 16, 2), 2),
            (true, ..=128) => ((64, 16, 1), 4),
            (true, ..=256) => ((32, 16, 2), 4),
            (true, _) => ((16, 8, 4), 4),
        };
        // A warp has eights of numbers; 16 bytes more keep eight rows on different banks.
        let row = up(width / sharing, 8) * 8 * sharing * size + 16;
        Self { queries, keys, sharing, row }
    }

    /// Bytes: queries, and keys and values twice.
    fn memory(self) -> i32 {
        (self.queries + 4 * self.keys) * self.row
    }

    fn defines(self) -> [(&'static str, i32); 3] {
        [("QUERIES", self.queries), ("KEYS", self.keys), ("SHARING", self.sharing)]
    }
}

/// A list of sources in the making.
struct Sources {
    /// Of all of them.
    defines: Vec<(&'static str, i32)>,
    sources: Vec<(Name, Source)>,
}

impl Sources {
    /// The kernel that is launched with `A`.
    fn add<A: Arguments>(
        &mut self,
        name: Name,
        file: &'static str,
        more: &[(&'static str, i32)],
        threads: i32,
        shared_memory: i32,
    ) {
        let defines = [&self.defines[..], more].concat();
        let (arguments, text) = (TypeId::of::<A>(), A::text());
        self.sources.push((name, Source { name: file, arguments, text, defines, threads, shared_memory }));
    }
}

impl Kernels {
    /// Compiles what isn't compiled yet; `formats` are those of packed matrices. `None` for a GPU that is too old.
    pub(crate) fn new(
        geometry: Geometry,
        formats: &[Format],
        architecture: &Architecture,
    ) -> Result<Option<Self>, MlxError> {
        let Some(chip) = Chip::of(architecture) else { return Ok(None) };
        let (names, sources): (Vec<Name>, Vec<Source>) =
            self::sources(&geometry, formats, chip).into_iter().unzip();
        if let Some(source) = sources.iter().find(|source| source.shared_memory > chip.shared_memory << 10) {
            let (name, needed) = (source.name, source.shared_memory >> 10);
            let device = &architecture.device;
            let most = chip.shared_memory;
            let message = format!("{name} needs {needed} KiB a block, and {device} has {most}");
            return Err(wrong("cuda_compile", message));
        }
        let digest = digest(&sources, architecture);
        let (programs, compiled) = compile(&sources, architecture)?;
        let programs = names.into_iter().zip(programs).collect();
        Ok(Some(Self { geometry, chip, programs, compiled, digest }))
    }

    /// Stands for these kernels on this GPU.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// What [`Kernels::new`] had to do.
    pub(crate) fn compiled(&self) -> CompiledKernels {
        self.compiled
    }

    /// All of them, by name.
    pub(super) fn programs(&self) -> impl Iterator<Item = (Name, &Program)> {
        self.programs.iter().map(|(name, program)| (*name, program))
    }

    /// The highest number of tokens that a tile is for.
    pub(super) fn most_tokens(&self, format: Format, after: After, tile: Tile) -> i32 {
        let tiles = self.chip.tiles(format, after, self.geometry.numbers);
        tiles.into_iter().find(|(_, other)| *other == tile).map_or(0, |(most, _)| most)
    }

    /// The numbers of tokens that a tile is for.
    pub(super) fn tokens_of(
        &self,
        format: Format,
        after: After,
        tile: HopperTile,
    ) -> Option<RangeInclusive<i32>> {
        let tiles = self.chip.splits(format, after);
        tiles.into_iter().find(|(_, other)| *other == tile).map(|(tokens, _)| tokens)
    }

    pub(super) fn program(&self, name: Name) -> Result<&Program, MlxError> {
        let found = self.programs().find(|(other, _)| *other == name);
        found
            .map(|(_, program)| program)
            .ok_or_else(|| wrong("cuda_compile", format!("{name:?} was not compiled for this model")))
    }

    /// Checks keys and values of a plan's cache.
    pub(super) fn expect_cache(
        &self,
        cached: Option<[&Array; 2]>,
        heads: Heads,
        plan: &Plan,
    ) -> Result<(), MlxError> {
        let what = "attention";
        if cached.is_some() != (plan.cached > 0) {
            return Err(wrong(
                what,
                format!("keys before the texts, or none, for a cached of {}", plan.cached),
            ));
        }
        for array in cached.iter().flatten() {
            let kept = array.shape().first().copied().unwrap_or(0);
            expect(what, array, &[kept, heads.keys()], self.geometry.of_heads())?;
            if kept < plan.cached {
                return Err(wrong(what, format!("{kept} tokens are kept of a cached of {}", plan.cached)));
            }
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::super::chips::CHIPS;
    use super::super::program::compile_strictly;
    use super::*;
    use crate::mlx::ops::QuantMode;

    const DECODER: Geometry = Geometry {
        hidden: 1024,
        heads: Heads { heads: 16, kv_heads: 8, head_dim: 128 },
        other_heads: None,
        vocab: 151_669,
        numbers: Numbers::Bf16,
        table: None,
        traditional: false,
        bias: false,
        head_norms: true,
        eps: 1e-6,
        value_eps: None,
        activation: Activation::Silu,
        gated: true,
        layer_inputs: None,
        scalars: false,
        mlm: None,
        far: None,
        causal: true,
        fused: true,
    };

    const fn heads_of(head_dim: i32) -> Heads {
        Heads { head_dim, ..DECODER.heads }
    }

    /// Those that there are for the chip.
    fn geometries(chip: &Chip) -> Vec<Geometry> {
        let biases =
            Geometry { heads: heads_of(64), bias: true, head_norms: false, traditional: true, ..DECODER };
        let gemma = Geometry {
            hidden: 768,
            heads: heads_of(256),
            activation: Activation::GeluTanh,
            causal: false,
            fused: false,
            ..DECODER
        };
        let two_widths = Geometry {
            hidden: 512,
            other_heads: Some(heads_of(512)),
            value_eps: Some(1e-6),
            layer_inputs: Some(LayerInputs { width: 512, activation: Activation::GeluTanh }),
            scalars: true,
            ..gemma
        };
        let encoder = Geometry {
            hidden: 384,
            heads: heads_of(32),
            activation: Activation::GeluErf,
            gated: false,
            mlm: Some(Activation::GeluErf),
            head_norms: false,
            ..gemma
        };
        let rare = [
            Activation::Identity,
            Activation::Tanh,
            Activation::Sigmoid,
            Activation::QuickGelu,
            Activation::ClippedGelu,
            Activation::Relu6,
            Activation::LeakyRelu,
            Activation::SquaredRelu,
            Activation::HardSwish,
            Activation::Mish,
            Activation::Laplace,
        ];
        let rare = rare.map(|activation| Geometry { activation, ..encoder });
        let by_distance = Geometry { hidden: 768, heads: heads_of(64), far: Some(128), ..encoder };
        let large = Geometry { hidden: 1024, heads: heads_of(80), activation: Activation::Relu, ..encoder };
        let [smallest, small] =
            [4, 8].map(|width| Geometry { hidden: 32, heads: heads_of(width), ..encoder });
        let of_f32 = [DECODER, gemma, two_widths, encoder, by_distance, large, small, smallest];
        let of = |numbers| of_f32.map(|geometry| Geometry { numbers, fused: false, ..geometry });
        let fused = [DECODER, biases].map(|geometry| Geometry { numbers: Numbers::F16, ..geometry });
        let of_f32 = [&of(Numbers::F32)[..], &of(Numbers::F16), &fused].concat();
        [
            vec![DECODER, biases, gemma, two_widths, encoder, by_distance, large],
            rare.to_vec(),
            of_f32.to_vec(),
        ]
        .concat()
        .into_iter()
        .map(|geometry| Geometry { fused: geometry.fused && chip.fuses(geometry.numbers), ..geometry })
        .collect()
    }

    /// Every format for one model, and for the others those that take fewest and most registers.
    fn all_sources(chip: &Chip) -> Vec<(Name, Source)> {
        let of = |mode, bits, group| Format::new(mode, bits, group).unwrap();
        let few = [of(QuantMode::Affine, 4, 64), of(QuantMode::Nvfp4, 4, 16)];
        let mut all = sources(&DECODER, &Format::all(), chip);
        let wide = Geometry { numbers: Numbers::F32, fused: false, ..DECODER };
        for (table, decoder) in Format::all().into_iter().flat_map(|table| [(table, DECODER), (table, wide)])
        {
            all.extend(sources(&Geometry { table: Some(table), ..decoder }, &[], chip));
        }
        let halves = Geometry { numbers: Numbers::F16, ..wide };
        for fused in [false, chip.fuses(Numbers::F16)] {
            all.extend(sources(&Geometry { fused, ..halves }, &Format::all(), chip));
        }
        for geometry in geometries(chip) {
            let packed = if geometry.numbers == Numbers::F32 { &[][..] } else { &few };
            all.extend(sources(&geometry, packed, chip));
        }
        all.sort_by_cached_key(|(_, source)| (source.text.clone(), source.defines.clone()));
        all.dedup_by_key(|(_, source)| (source.text.clone(), source.defines.clone()));
        all
    }

    /// As `tools/checks/run cuda` runs it. Registers that spill to memory fail it, and so does a block that needs more
    /// shared memory than the chip has.
    fn compile_for(from: (usize, usize)) {
        let chip = CHIPS.iter().find(|chip| chip.from == from).unwrap();
        let architecture = Architecture { device: "a GPU".into(), major: from.0, minor: from.1 };
        let (all, next, failed) = (all_sources(chip), AtomicUsize::new(0), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, NonZeroUsize::get) {
                scope.spawn(|| {
                    while let Some((name, source)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let memory = source.shared_memory;
                        if memory > chip.shared_memory << 10 {
                            failed.lock().unwrap().push(format!("{name:?} takes {memory} bytes"));
                        }
                        if let Err(error) = compile_strictly(source, &architecture) {
                            failed.lock().unwrap().push(format!("{name:?}: {error}"));
                        }
                    }
                });
            }
        });
        println!("{from:?}: {} kernels", all.len());
        let failed = failed.into_inner().unwrap();
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }

    macro_rules! compiles {
        ($($test:ident: $chip:expr),*) => {$(
            #[test]
            #[ignore = "needs NVIDIA's compiler library (NVRTC), and minutes: tools/checks/run cuda"]
            fn $test() {
                compile_for($chip);
            }
        )*};
    }

    compiles!(
        every_kernel_compiles_for_sm_80: (8, 0),
        every_kernel_compiles_for_sm_86: (8, 6),
        every_kernel_compiles_for_sm_89: (8, 9),
        every_kernel_compiles_for_sm_90: (9, 0),
        every_kernel_compiles_for_sm_100: (10, 0),
        every_kernel_compiles_for_sm_120: (12, 0)
    );

    #[test]
    fn a_kernel_has_a_name_and_values_of_its_own() {
        for (chip, geometry) in
            CHIPS.iter().flat_map(|chip| geometries(chip).into_iter().map(move |of| (chip, of)))
        {
            let all = sources(&geometry, &[], chip);
            for (index, (name, source)) in all.iter().enumerate() {
                assert!(all[..index].iter().all(|(other, _)| other != name), "{name:?} stands there twice");
                let mut macros: Vec<_> = source.defines.iter().map(|(name, _)| name).collect();
                macros.sort_unstable();
                assert!(macros.windows(2).all(|pair| pair[0] != pair[1]), "{name:?}: {macros:?}");
            }
            for heads in geometry.head_widths() {
                let width = heads.head_dim;
                let attention = Name::Attention(width);
                assert!(all.iter().any(|(name, _)| *name == attention), "none for heads of {width}");
            }
        }
    }

    #[test]
    fn the_tests_compile_for_every_row() {
        let tested = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)];
        assert_eq!(CHIPS.map(|chip| chip.from), tested);
    }
}
