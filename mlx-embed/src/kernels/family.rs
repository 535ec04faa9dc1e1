//! Kernel families: the same kernels, compiled for each instruction set, and the choice between them.

use std::ops::Range;

use half::{bf16, f16};

#[cfg(all(target_arch = "x86_64", any(test, all(target_os = "linux", not(miri)))))]
use super::amx;
#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
use super::amx::Session;
use super::attend;
use super::emit::{self, Activation, Sink};
use super::layout::{Attention, Text};
use super::norm::{self, Norm};
use super::packed::Layout;
use super::prepare;
use super::product::{
    self, BYTE_WORDS, BYTES, FORMS, LIMB_FORMS, NIBBLE_WORDS, NIBBLES, PairWeights, SEVEN_ROWS, SEVENS,
    SMALL, SPREAD, TileRows, WORDS, form_on,
};
use super::round::{self, DIGITS, Input, Laid, Rounded};
use super::simd::{self, LANES, Nearest, Number};
use super::tiles::Tile;

/// A tile product; see [`product::tile`].
pub(super) type TileFn = unsafe fn(PairWeights, TileRows, usize, usize, *mut f32);
/// Products of low limbs; see [`product::low`].
pub(super) type LowFn = unsafe fn(*const u8, *const i8, usize, u16, usize, *mut i32);
/// A tile product of dense weights, whatever their type; see [`product::dense_tile`].
pub(super) type DenseTileFn = unsafe fn(*const f32, *const u8, usize, *mut f32);
/// See [`product::unpack`].
pub(super) type UnpackFn = unsafe fn(&Layout, *const u8, usize, *mut u8, *mut u8) -> PairWeights;
/// See [`round::round_tile`].
pub(super) type RoundFn = unsafe fn(&Input<'_>, &Rounded, usize, Range<usize>);
/// See [`attend::attend`].
pub(super) type AttendFn = unsafe fn(&Attention<'_>, Text, usize, usize, *mut f32);

/// The tile products for one number of rows.
#[derive(Clone, Copy)]
pub(super) struct TileFns {
    /// By the form of the weights, and whether their scales are bf16; unpacked they are f32.
    pub(super) tile: [[TileFn; 2]; FORMS],
    /// Of low limbs, by the form of the weights.
    pub(super) low: [LowFn; LIMB_FORMS],
    /// Of dense weights, by their type: f32, bf16, f16.
    pub(super) dense: [DenseTileFn; 3],
    /// Of texts that aren't rounded, and of those that are.
    pub(super) attend: [AttendFn; 2],
}

/// The kernels of one instruction set. Every function's contract is that of the generic one it stands for, less the
/// instruction set: a `Family` is only handed out where that was detected.
pub(crate) struct Family {
    pub(super) name: &'static str,
    pub(super) detect: fn() -> bool,
    /// See [`Simd::NEAREST`](simd::Simd::NEAREST).
    pub(super) nearest: Option<Nearest>,
    /// Whether two limbs, and whatever meets weights of 8 bits, are one word.
    pub(super) words: bool,
    /// Inputs of a row whose limbs lie side by side.
    pub(super) run: usize,
    /// See [`Rounded::low_of_all`]. Else products of low limbs that only some rows have are made before the others.
    pub(super) low_of_all: bool,
    /// Whether attention that may be rounded is: whether the instructions for products of bf16 are there.
    pub(super) rounds_attention: fn() -> bool,
    /// What lies around a thread's products with packed weights.
    pub(super) session: fn() -> Option<Session>,
    /// By rows, from one.
    pub(super) tiles: &'static [TileFns],
    /// By [`Digits`](round::Digits), as the next.
    pub(super) unpack: [UnpackFn; DIGITS],
    pub(super) round_tile: [RoundFn; DIGITS],
    pub(super) lay_tile: unsafe fn(&Input<'_>, &Laid, usize),
    pub(super) norm_rows: unsafe fn(&[f32], Norm<'_>, Range<usize>, *mut f32),
    /// As [`TileFns::attend`].
    pub(super) prepare: [unsafe fn(&Attention<'_>, Text, Range<usize>); 2],
    pub(super) emit: unsafe fn(&Sink<'_>, Tile, usize, *const f32),
    pub(super) gated: unsafe fn(Activation, *const f32, *const f32, *mut f32, usize),
}

const fn least(a: usize, b: usize) -> usize {
    if a < b { a } else { b }
}

/// A tile product for scales in f32 and for those in bf16.
macro_rules! by_scales {
    ($module:ident, $m:literal, $form:expr) => {
        [$module::tile::<$m, { $form }, false>, $module::tile::<$m, { $form }, true>]
    };
}

/// Compiles every kernel for one instruction set. The last two are where rounded attention is, and whether it is there: without
/// it, the other takes its place.
macro_rules! family {
    (
        $module:ident, $table:ident, $simd:ty, $name:literal, [$($feature:literal)*], $detect:expr, [$($m:literal)*],
        $rounded:ident, $rounds:expr
    ) => {
        mod $module {
            #![expect(unsafe_op_in_unsafe_fn, reason = "each function is the generic one with features enabled")]
            use super::*;
            type S = $simd;

            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn tile<const M: usize, const FORM: u8, const BF16: bool>(
                weights: PairWeights, rows: TileRows, groups: usize, group_size: usize, out: *mut f32,
            ) {
                product::tile::<S, M, FORM, BF16>(weights, rows, groups, group_size, out);
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn low<const N: usize, const FORM: u8>(
                values: *const u8, x: *const i8, group_size: usize, wide: u16, rows: usize, out: *mut i32,
            ) {
                product::low::<S, N, FORM>(values, x, group_size, wide, rows, out);
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn dense<const M: usize, T: Number>(
                a: *const f32, b: *const u8, inputs: usize, out: *mut f32,
            ) {
                product::dense_tile::<S, M, T>(a, b.cast(), inputs, out);
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn attend<const M: usize>(
                at: &Attention<'_>, text: Text, head: usize, first: usize, scratch: *mut f32,
            ) {
                attend::attend::<S, M, false>(at, text, head, first, scratch);
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn unpack(
                layout: &Layout, pair: *const u8, groups: usize, values: *mut u8, scales: *mut u8,
            ) -> PairWeights {
                product::unpack::<S>(layout, pair, groups, values, scales)
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn unpack_words(
                layout: &Layout, pair: *const u8, groups: usize, values: *mut u8, scales: *mut u8,
            ) -> PairWeights {
                product::unpack_words::<S>(layout, pair, groups, values, scales)
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn unpack_sevens(
                layout: &Layout, pair: *const u8, groups: usize, values: *mut u8, scales: *mut u8,
            ) -> PairWeights {
                product::unpack_sevens::<S>(layout, pair, groups, values, scales)
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn round_tile<const SEVENS: bool>(
                input: &Input<'_>, to: &Rounded, index: usize, groups: Range<usize>,
            ) {
                round::round_tile::<S, SEVENS>(input, to, index, groups);
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn lay_tile(input: &Input<'_>, to: &Laid, index: usize) {
                round::lay_tile::<S>(input, to, index);
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn norm_rows(x: &[f32], norm: Norm<'_>, rows: Range<usize>, out: *mut f32) {
                norm::norm_rows::<S>(x, norm, rows, out);
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn prepare(at: &Attention<'_>, text: Text, range: Range<usize>) {
                prepare::prepare::<S, false>(at, text, range);
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn emit(sink: &Sink<'_>, tile: Tile, pair: usize, products: *const f32) {
                emit::emit::<S>(sink, tile, pair, products);
            }
            $(#[target_feature(enable = $feature)])*
            pub(super) unsafe fn gated(
                activation: Activation, gate: *const f32, up: *const f32, out: *mut f32, count: usize,
            ) {
                emit::gated::<S>(activation, gate, up, out, count);
            }
        }

        pub(super) const $table: Family = Family {
            name: $name,
            detect: $detect,
            nearest: <$simd as simd::Simd>::NEAREST,
            words: !<$simd as simd::Simd>::FOURS,
            run: LANES,
            low_of_all: false,
            rounds_attention: $rounds,
            session: || None,
            tiles: &[$(TileFns {
                tile: [
                    by_scales!($module, $m, NIBBLES),
                    [$module::tile::<$m, SPREAD, false>; 2],
                    by_scales!($module, $m, form_on::<$simd>(SMALL)),
                    by_scales!($module, $m, form_on::<$simd>(BYTES)),
                    [$module::tile::<{ least($m, SEVEN_ROWS) }, { form_on::<$simd>(SEVENS) }, false>; 2],
                    by_scales!($module, $m, form_on::<$simd>(NIBBLE_WORDS)),
                    by_scales!($module, $m, form_on::<$simd>(BYTE_WORDS)),
                    [$module::tile::<$m, WORDS, false>; 2],
                ],
                low: [
                    $module::low::<$m, NIBBLES>,
                    $module::low::<$m, SPREAD>,
                    $module::low::<$m, { form_on::<$simd>(SMALL) }>,
                    $module::low::<$m, { form_on::<$simd>(BYTES) }>,
                    $module::low::<{ least($m, SEVEN_ROWS) }, { form_on::<$simd>(SEVENS) }>,
                ],
                dense: [$module::dense::<$m, f32>, $module::dense::<$m, bf16>, $module::dense::<$m, f16>],
                attend: [$module::attend::<$m>, $rounded::attend::<$m>],
            }),*],
            unpack: [$module::unpack, $module::unpack_sevens, $module::unpack_words],
            round_tile: [
                $module::round_tile::<false>, $module::round_tile::<true>, $module::round_tile::<false>,
            ],
            lay_tile: $module::lay_tile,
            norm_rows: $module::norm_rows,
            prepare: [$module::prepare, $rounded::prepare],
            emit: $module::emit,
            gated: $module::gated,
        };
    };
}

/// Attention with products of bf16, beside the kernels of AVX-512 VNNI.
#[cfg(target_arch = "x86_64")]
mod avx512_bf16 {
    use super::*;
    type S = simd::avx512::Avx512<true>;

    /// # Safety
    /// As [`attend::attend`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma")]
    pub(super) unsafe fn attend<const M: usize>(
        at: &Attention<'_>,
        text: Text,
        head: usize,
        first: usize,
        scratch: *mut f32,
    ) {
        // SAFETY: the caller's promise.
        unsafe { attend::attend::<S, M, true>(at, text, head, first, scratch) };
    }

    /// # Safety
    /// As [`prepare::prepare`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma")]
    pub(super) unsafe fn prepare(at: &Attention<'_>, text: Text, range: Range<usize>) {
        // SAFETY: the caller's promise.
        unsafe { prepare::prepare::<S, true>(at, text, range) };
    }
}

#[cfg(target_arch = "x86_64")]
family!(
    avx512_vnni, AVX512_VNNI, simd::avx512::Avx512<true>, "avx512-vnni",
    ["avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma"],
    || is_x86_feature_detected!("avx512vnni") && (AVX512.detect)(),
    [1 2 3 4 5 6 7 8 9 10 11 12],
    avx512_bf16, || is_x86_feature_detected!("avx512bf16")
);
#[cfg(target_arch = "x86_64")]
family!(
    avx512, AVX512, simd::avx512::Avx512<false>, "avx512",
    ["avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"],
    || is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && (AVX2.detect)(),
    [1 2 3 4 5 6 7 8 9 10 11 12],
    avx512, || false
);
#[cfg(target_arch = "x86_64")]
family!(
    avx2_vnni, AVX2_VNNI, simd::avx2::Avx2<true>, "avx2-vnni", ["avx2,fma,f16c,avxvnni"],
    || is_x86_feature_detected!("avxvnni") && (AVX2.detect)(),
    [1 2 3 4 5],
    avx2_vnni, || false
);
#[cfg(target_arch = "x86_64")]
family!(
    avx2, AVX2, simd::avx2::Avx2<false>, "avx2", ["avx2,fma,f16c"],
    || is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c"),
    [1 2 3 4 5],
    avx2, || false
);
#[cfg(target_arch = "aarch64")]
family!(
    neon_dotprod, NEON_DOTPROD, simd::neon::Neon<true>, "neon-dotprod", ["neon,dotprod"],
    || std::arch::is_aarch64_feature_detected!("dotprod") && (NEON.detect)(),
    [1 2 3],
    neon_dotprod, || false
);
#[cfg(target_arch = "aarch64")]
family!(
    neon, NEON, simd::neon::Neon<false>, "neon", ["neon"],
    || std::arch::is_aarch64_feature_detected!("neon"),
    [1 2 3],
    neon, || false
);
family!(portable, PORTABLE, simd::portable::Portable, "portable", [], || true, [1 2], portable, || false);

/// None of this build's families has one.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux", not(miri))))]
pub(super) enum Session {}

/// All families that this build has, fastest first.
#[cfg(target_arch = "x86_64")]
static FAMILIES: &[&Family] = &[
    #[cfg(all(target_os = "linux", not(miri)))]
    &amx::AMX_INT8,
    &AVX512_VNNI,
    &AVX512,
    &AVX2_VNNI,
    &AVX2,
    #[cfg(test)]
    &amx::AMX_EMULATED,
    &PORTABLE,
];
/// All families that this build has, fastest first.
#[cfg(target_arch = "aarch64")]
static FAMILIES: &[&Family] = &[&NEON_DOTPROD, &NEON, &PORTABLE];
/// All families that this build has, fastest first.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
static FAMILIES: &[&Family] = &[&PORTABLE];

impl Family {
    /// The families that this machine can run, fastest first; the last one runs everywhere.
    pub(crate) fn available() -> impl Iterator<Item = &'static Family> {
        FAMILIES.iter().copied().filter(|family| (family.detect)())
    }

    /// The name by which it is asked for.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Most rows of a tile.
    pub(super) fn rows(&self) -> usize {
        self.tiles.len()
    }
}

impl std::fmt::Debug for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Family").field(&self.name).finish()
    }
}
