//! Products on AMX's tile registers: a group of up to sixteen rows times sixteen outputs is one instruction, where VNNI
//! takes one for each row and four inputs.
//!
//! A tile register holds sixteen rows of 64 bytes. Of the eight of them four are sums (each panel's of the high limbs and
//! of the low ones), two are rows of rounded numbers (high, low), two are weights. Sums leave them by way of memory. While a
//! group is multiplied, [`finish`] takes the one before from there, and only then is it overwritten: a load behind a store
//! that is still on its way would wait for it.
//!
//! Rust's intrinsics for these registers are not stable, so they are named in `asm!`, and whether they are there is asked
//! here: of the processor, then of the system, which gives them to who asks.

#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "kernels are intrinsics throughout, under the contract of each function"
)]

use std::mem::MaybeUninit;

use super::family::{AVX512_VNNI, Family, TileFns};
use super::product::{PairWeights, TileRows, WORDS, load_sums, scales, spread, store_sums};
use super::round::MAX_ROWS;
use super::simd::avx512::Avx512;
use super::simd::{LANES, PAIR, Simd};

type S = Avx512<true>;

/// Inputs of a row of a tile register.
const RUN: usize = 64;

/// Bytes of both panels' weights for four inputs.
const STEP_BYTES: usize = 2 * 64;

/// What does the products.
trait Unit {
    /// Products that are not in memory yet.
    type Sums;

    /// Makes room for the products of `rows` rows of `run` inputs.
    ///
    /// # Safety
    /// The unit is there, and between its session's start and its end; `rows` is at most sixteen, `run` at most [`RUN`].
    unsafe fn configure(rows: usize, run: usize);

    /// The products of `runs` runs of `M` rows with both panels, of the high limbs and, if there are any, of the `low` ones.
    ///
    /// # Safety
    /// The unit is configured for `M` rows of `run` inputs. `x` points to the high limbs of `M` rows and to as many low ones;
    /// `weights` to as many inputs of two panels, a byte each.
    unsafe fn multiply<const M: usize>(
        x: *const i8,
        low: bool,
        weights: *const u8,
        runs: usize,
        run: usize,
    ) -> Self::Sums;

    /// Writes products to memory, those of low limbs if there are any.
    ///
    /// # Safety
    /// They are the last that were multiplied, with low limbs or without as `low` says.
    unsafe fn store(sums: Self::Sums, low: bool, dots: &mut MaybeUninit<Dots>);
}

/// Sums of a group: of each panel's high limbs, then of its low ones. Only those of a tile's rows are written.
#[repr(C, align(64))]
struct Dots([[[i32; LANES]; MAX_ROWS]; 4]);

/// Weights of a group, a byte each.
#[repr(C, align(64))]
struct Bytes([u8; MAX_GROUP * PAIR]);

/// Most inputs of a group.
const MAX_GROUP: usize = 128;

/// As [`product::tile`](super::product::tile), for rows whose limbs lie [`RUN`] inputs at a time. The sums are in registers,
/// as the integers are elsewhere.
///
/// # Safety
/// As there; `U` is there and in its session. `NIBBLES` says whether weights are two a byte.
#[inline(always)]
unsafe fn tile<U: Unit, const M: usize, const NIBBLES: bool, const BF16: bool>(
    weights: PairWeights,
    rows: TileRows,
    groups: usize,
    group_size: usize,
    out: *mut f32,
) {
    assert!(group_size <= MAX_GROUP);
    let run = RUN.min(group_size);
    let runs = group_size / run;
    U::configure(M, run);
    let mut bytes = [const { MaybeUninit::<Bytes>::uninit() }; 2];
    let mut dots = MaybeUninit::<Dots>::uninit();
    let mut sums = load_sums::<S, M, 2>(out, PAIR);
    for group in 0..groups {
        let x = rows.digits.add(group * 2 * group_size * M);
        let low = *rows.wide.add(group) != 0;
        let mut values = weights.values.add(group * weights.values_stride);
        if NIBBLES {
            let to = bytes[group % 2].as_mut_ptr().cast();
            spread::<S>(values, to, group_size);
            values = to;
        }
        let products = U::multiply::<M>(x, low, values, runs, run);
        // Those of the group before have arrived meanwhile.
        if group > 0 {
            finish::<M, BF16>(weights, rows, group - 1, dots.as_ptr(), &mut sums);
        }
        U::store(products, low, &mut dots);
    }
    if groups > 0 {
        finish::<M, BF16>(weights, rows, groups - 1, dots.as_ptr(), &mut sums);
    }
    store_sums::<S, M, 2>(out, PAIR, &sums);
}

/// Adds a group's products to the sums, in the order of operations that all families have.
#[inline(always)]
unsafe fn finish<const M: usize, const BF16: bool>(
    weights: PairWeights,
    rows: TileRows,
    group: usize,
    dots: *const Dots,
    sums: &mut [[<S as Simd>::F; 2]; M],
) {
    if *rows.wide.add(group) == 0 {
        add_products::<M, BF16, false>(weights, rows, group, dots, sums);
    } else {
        add_products::<M, BF16, true>(weights, rows, group, dots, sums);
    }
}

/// [`finish`], where rows have low limbs and where they haven't.
#[inline(always)]
unsafe fn add_products<const M: usize, const BF16: bool, const LOW: bool>(
    weights: PairWeights,
    rows: TileRows,
    group: usize,
    dots: *const Dots,
    sums: &mut [[<S as Simd>::F; 2]; M],
) {
    let scales_at = weights.scales.add(group * weights.scales_stride);
    let factors = rows.factors.add(group * 2 * M);
    let dot = |limb: usize, panel: usize, row: usize| {
        S::load_int(dots.cast::<i32>().add(((2 * limb + panel) * MAX_ROWS + row) * LANES))
    };
    let of_panels = [scales::<S, BF16>(scales_at, 0), scales::<S, BF16>(scales_at, 1)];
    // Row by row, so that what belongs to a row is spread once for both panels.
    for m in 0..M {
        let (step, sum) = (S::splat(*factors.add(m)), S::splat(*factors.add(M + m)));
        for p in 0..2 {
            let mut product = dot(0, p, m);
            if LOW {
                product = S::add_int(S::shift_left::<8>(product), dot(1, p, m));
            }
            let (scale, bias) = of_panels[p];
            let weighted = S::fma(bias, sum, S::mul(scale, S::to_float(product)));
            sums[m][p] = S::fma(step, weighted, sums[m][p]);
        }
    }
}

/// The tile products for a number of rows, of weights in nibbles or in bytes, by their scales.
macro_rules! by_scales {
    ($unit:ty, $m:literal, $nibbles:literal) => {
        [tile_on::<$unit, $m, $nibbles, false>, tile_on::<$unit, $m, $nibbles, true>]
    };
}

/// AVX-512's kernels with products in tile registers.
macro_rules! family {
    ($table:ident, $name:literal, $unit:ty, $session:expr, $detect:expr, [$($m:literal)*]) => {
        pub(super) const $table: Family = Family {
            name: $name,
            detect: || $detect && (AVX512_VNNI.detect)(),
            run: RUN,
            low_of_all: true,
            session: $session,
            tiles: &[$(TileFns {
                // In the order of the forms. Words are multiplied in vectors.
                tile: [
                    by_scales!($unit, $m, true), by_scales!($unit, $m, false), by_scales!($unit, $m, false),
                    by_scales!($unit, $m, false), by_scales!($unit, $m, false), by_scales!($unit, $m, true),
                    by_scales!($unit, $m, false), AVX512_VNNI.tiles[$m - 1].tile[WORDS as usize],
                ],
                ..AVX512_VNNI.tiles[$m - 1]
            }),*],
            ..AVX512_VNNI
        };
    };
}

// Rows of a tile are ten at most: with more there are no registers left for the sums of both panels.
#[cfg(all(target_os = "linux", not(miri)))]
family!(
    AMX_INT8, "amx-int8", Registers, || Some(Session::start()), registers::detect(),
    [1 2 3 4 5 6 7 8 9 10]
);
#[cfg(test)]
family!(AMX_EMULATED, "amx-emulated", Emulated, || None, true, [1 2 3 4 5 6 7 8 9 10]);

/// [`tile`] with AVX-512 enabled.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")]
unsafe fn tile_on<U: Unit, const M: usize, const NIBBLES: bool, const BF16: bool>(
    weights: PairWeights,
    rows: TileRows,
    groups: usize,
    group_size: usize,
    out: *mut f32,
) {
    tile::<U, M, NIBBLES, BF16>(weights, rows, groups, group_size, out);
}

#[cfg(all(target_os = "linux", not(miri)))]
use registers::Registers;
#[cfg(all(target_os = "linux", not(miri)))]
pub(super) use registers::Session;

#[cfg(all(target_os = "linux", not(miri)))]
mod registers {
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid_count, CpuidResult};
    use std::cell::Cell;
    use std::mem::MaybeUninit;
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::{Dots, LANES, MAX_ROWS, STEP_BYTES, Unit};

    /// Whether the processor has tile registers with products of bytes, and the system lets this process use them. They
    /// are asked for at the first call; threads that are there already get them, too.
    pub(super) fn detect() -> bool {
        const UNKNOWN: u8 = 2;
        // No lock, which a fork could inherit locked. Threads that come at once find the same.
        static FOUND: AtomicU8 = AtomicU8::new(UNKNOWN);
        match FOUND.load(Ordering::Relaxed) {
            UNKNOWN => {
                let found = has_tiles() && is_allowed();
                FOUND.store(u8::from(found), Ordering::Relaxed);
                found
            }
            found => found != 0,
        }
    }

    fn has_tiles() -> bool {
        #[allow(unused_unsafe, reason = "safe in newer versions of the standard library")]
        // SAFETY: every x86-64 processor has the instruction, and answers with zeros for leaves that it hasn't.
        let leaf = |leaf, part| -> CpuidResult { unsafe { __cpuid_count(leaf, part) } };
        const OSXSAVE: u32 = 1 << 27;
        const AMX_TILE: u32 = 1 << 24;
        const AMX_INT8: u32 = 1 << 25;
        const TILES_ARE_SAVED: u32 = 3 << 17;
        if leaf(1, 0).ecx & OSXSAVE == 0 || leaf(7, 0).edx & (AMX_TILE | AMX_INT8) != AMX_TILE | AMX_INT8 {
            return false;
        }
        let saved: u32;
        // SAFETY: reads a register that is there, as `OSXSAVE` says.
        unsafe {
            asm!("xgetbv", in("ecx") 0, out("eax") saved, out("edx") _, options(nomem, nostack, preserves_flags));
        }
        saved & TILES_ARE_SAVED == TILES_ARE_SAVED
    }

    /// The kernel saves these registers only for processes that have asked.
    fn is_allowed() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const REQUEST_PERMISSION: i64 = 0x1023;
        const TILE_DATA: i64 = 18;
        let result: i64;
        // SAFETY: the call takes two numbers, and changes what of this process's registers is saved and nothing else.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result, in("rdi") REQUEST_PERMISSION, in("rsi") TILE_DATA,
                lateout("rcx") _, lateout("r11") _,
                options(nostack)
            );
        }
        result == 0
    }

    thread_local! {
        /// What this thread's registers are configured for, in this session: rows and inputs.
        static CONFIGURED: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    }

    /// This thread's use of the registers. Others may use them before and after, and configure them as they like.
    pub(in crate::kernels) struct Session(());

    impl Session {
        pub(in crate::kernels) fn start() -> Self {
            CONFIGURED.set((0, 0));
            Self(())
        }
    }

    impl Drop for Session {
        fn drop(&mut self) {
            if CONFIGURED.get() != (0, 0) {
                // SAFETY: gives up registers that this session has configured, so they are there.
                unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
            }
        }
    }

    /// What `ldtilecfg` reads.
    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    pub(super) struct Registers;

    impl Unit for Registers {
        type Sums = ();

        #[inline(always)]
        unsafe fn configure(rows: usize, run: usize) {
            if CONFIGURED.get() == (rows, run) {
                return;
            }
            let mut config =
                Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
            // Sums, rows, weights.
            for (register, (rows, bytes)) in
                [(rows, 64); 4].into_iter().chain([(rows, run); 2]).chain([(run / 4, 64); 2]).enumerate()
            {
                config.rows[register] = rows as u8;
                config.row_bytes[register] = bytes as u16;
            }
            asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly, preserves_flags));
            CONFIGURED.set((rows, run));
        }

        #[inline(always)]
        unsafe fn multiply<const M: usize>(
            x: *const i8,
            low: bool,
            weights: *const u8,
            runs: usize,
            run: usize,
        ) {
            asm!("tilezero tmm0", "tilezero tmm1", options(nomem, nostack, preserves_flags));
            let limb_bytes = M * run;
            let weights = |i: usize| weights.add(i * run / 4 * STEP_BYTES);
            if !low {
                for i in 0..runs {
                    asm!(
                        "tileloadd tmm4, [{x} + {run}*1]",
                        "tileloadd tmm6, [{w} + {step}*1]",
                        "tdpbsud tmm0, tmm4, tmm6",
                        "tileloadd tmm7, [{w} + {step}*1 + 64]",
                        "tdpbsud tmm1, tmm4, tmm7",
                        x = in(reg) x.add(i * limb_bytes), run = in(reg) run,
                        w = in(reg) weights(i), step = in(reg) STEP_BYTES,
                        options(nostack, readonly, preserves_flags)
                    );
                }
                return;
            }
            asm!("tilezero tmm2", "tilezero tmm3", options(nomem, nostack, preserves_flags));
            let all_low = x.add(runs * limb_bytes);
            for i in 0..runs {
                asm!(
                    "tileloadd tmm4, [{x} + {run}*1]",
                    "tileloadd tmm6, [{w} + {step}*1]",
                    "tdpbsud tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{w} + {step}*1 + 64]",
                    "tdpbsud tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{low} + {run}*1]",
                    "tdpbsud tmm2, tmm5, tmm6",
                    "tdpbsud tmm3, tmm5, tmm7",
                    x = in(reg) x.add(i * limb_bytes), low = in(reg) all_low.add(i * limb_bytes), run = in(reg) run,
                    w = in(reg) weights(i), step = in(reg) STEP_BYTES,
                    options(nostack, readonly, preserves_flags)
                );
            }
        }

        #[inline(always)]
        unsafe fn store((): (), low: bool, dots: &mut MaybeUninit<Dots>) {
            let dots = dots.as_mut_ptr().cast::<i32>();
            let panel = MAX_ROWS * LANES;
            asm!(
                "tilestored [{high0} + {step}*1], tmm0",
                "tilestored [{high1} + {step}*1], tmm1",
                high0 = in(reg) dots, high1 = in(reg) dots.add(panel), step = in(reg) 64_usize,
                options(nostack, preserves_flags)
            );
            if low {
                asm!(
                    "tilestored [{low0} + {step}*1], tmm2",
                    "tilestored [{low1} + {step}*1], tmm3",
                    low0 = in(reg) dots.add(2 * panel), low1 = in(reg) dots.add(3 * panel), step = in(reg) 64_usize,
                    options(nostack, preserves_flags)
                );
            }
        }
    }
}

/// What [`Registers`] does, for tests on processors without them.
#[cfg(test)]
struct Emulated;

#[cfg(test)]
impl Unit for Emulated {
    type Sums = Box<MaybeUninit<Dots>>;

    unsafe fn configure(rows: usize, run: usize) {
        assert!(rows <= 16 && run <= RUN);
    }

    unsafe fn multiply<const M: usize>(
        x: *const i8,
        low: bool,
        weights: *const u8,
        runs: usize,
        run: usize,
    ) -> Self::Sums {
        let mut sums = Box::new(MaybeUninit::<Dots>::uninit());
        let dots = sums.as_mut_ptr().cast::<i32>();
        let size = runs * run;
        for limb in 0..1 + usize::from(low) {
            let x = x.add(limb * size * M);
            for (p, m, n) in (0..2 * M * LANES).map(|i| (i / LANES / M, i / LANES % M, i % LANES)) {
                let product = |k: usize| {
                    let x = *x.add(k / run * run * M + m * run + k % run);
                    let w = *weights.add(k / 4 * STEP_BYTES + p * 64 + n * 4 + k % 4);
                    i32::from(x) * i32::from(w)
                };
                let at = ((2 * limb + p) * MAX_ROWS + m) * LANES + n;
                dots.add(at).write((0..size).map(product).sum());
            }
        }
        sums
    }

    unsafe fn store(sums: Self::Sums, _: bool, dots: &mut MaybeUninit<Dots>) {
        *dots = *sums;
    }
}
