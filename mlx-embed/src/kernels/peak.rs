//! What the processor can do at best, to hold kernels against: the roofs of a roofline.
//!
//! The loops are written instruction by instruction and share nothing with the kernels, so that no change of those
//! moves the roofs. Twelve independent sums hide the latency of two ports; a multiply and an add are two operations.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::Pool;

/// What a burst multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// f32.
    F32,
    /// 16-bit integers, summed in 32 bits.
    Int16,
    /// 8-bit integers, summed in 32 bits.
    Int8,
}

/// A loop of so many rounds, and the operations of a round.
type Burst = (unsafe fn(u64), f64);

/// How long a thread computes or reads at a time: long enough for a clock, short enough to find a quiet moment.
const BURST: Duration = Duration::from_millis(2);

#[cfg(target_arch = "x86_64")]
mod loops {
    use std::arch::asm;

    use super::{Burst, Kind};

    macro_rules! burst {
        ($name:ident, $register:literal, $step:ident) => {
            /// # Safety
            /// The processor has the instructions.
            unsafe fn $name(rounds: u64) {
                // SAFETY: touches nothing but registers, all of which are declared; the instructions are there.
                unsafe {
                    asm!(
                        // What a register happens to hold may be a denormal, and slow.
                        "vxorps xmm0, xmm0, xmm0", "vxorps xmm1, xmm1, xmm1", "vxorps xmm2, xmm2, xmm2",
                        "vxorps xmm3, xmm3, xmm3", "vxorps xmm4, xmm4, xmm4", "vxorps xmm5, xmm5, xmm5",
                        "vxorps xmm6, xmm6, xmm6", "vxorps xmm7, xmm7, xmm7", "vxorps xmm8, xmm8, xmm8",
                        "vxorps xmm9, xmm9, xmm9", "vxorps xmm10, xmm10, xmm10", "vxorps xmm11, xmm11, xmm11",
                        "vmovd xmm14, {value:e}",
                        concat!("vpbroadcastd ", $register, ", xmm14"),
                        "2:",
                        $step!("0"), $step!("1"), $step!("2"), $step!("3"), $step!("4"), $step!("5"),
                        $step!("6"), $step!("7"), $step!("8"), $step!("9"), $step!("10"), $step!("11"),
                        "dec {rounds}",
                        "jnz 2b",
                        "vzeroupper",
                        // Small in every type: 0.008, 15361, 1 and 60.
                        value = in(reg) 0x3c01_3c01_u32,
                        rounds = inout(reg) rounds => _,
                        out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                        out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                        out("xmm13") _, out("xmm14") _,
                        options(nomem, nostack)
                    );
                }
            }
        };
    }

    macro_rules! fma512 {
        ($i:literal) => {
            concat!("vfmadd231ps zmm", $i, ", zmm14, zmm14")
        };
    }
    macro_rules! fma256 {
        ($i:literal) => {
            concat!("vfmadd231ps ymm", $i, ", ymm14, ymm14")
        };
    }
    macro_rules! dot16_512 {
        ($i:literal) => {
            concat!("vpdpwssd zmm", $i, ", zmm14, zmm14")
        };
    }
    macro_rules! dot8_512 {
        ($i:literal) => {
            concat!("vpdpbusd zmm", $i, ", zmm14, zmm14")
        };
    }
    macro_rules! dot16_vex {
        ($i:literal) => {
            concat!("{{vex}} vpdpwssd ymm", $i, ", ymm14, ymm14")
        };
    }
    macro_rules! dot8_vex {
        ($i:literal) => {
            concat!("{{vex}} vpdpbusd ymm", $i, ", ymm14, ymm14")
        };
    }
    // Without VNNI a step is a product and an addition; 8 bits need one more product to widen.
    macro_rules! madd16_512 {
        ($i:literal) => {
            concat!("vpmaddwd zmm13, zmm14, zmm14\nvpaddd zmm", $i, ", zmm", $i, ", zmm13")
        };
    }
    macro_rules! madd8_512 {
        ($i:literal) => {
            concat!(
                "vpmaddubsw zmm13, zmm14, zmm14\nvpmaddwd zmm13, zmm13, zmm14\nvpaddd zmm",
                $i,
                ", zmm",
                $i,
                ", zmm13"
            )
        };
    }
    macro_rules! madd16 {
        ($i:literal) => {
            concat!("vpmaddwd ymm13, ymm14, ymm14\nvpaddd ymm", $i, ", ymm", $i, ", ymm13")
        };
    }
    macro_rules! madd8 {
        ($i:literal) => {
            concat!(
                "vpmaddubsw ymm13, ymm14, ymm14\nvpmaddwd ymm13, ymm13, ymm14\nvpaddd ymm",
                $i,
                ", ymm",
                $i,
                ", ymm13"
            )
        };
    }

    burst!(f32_512, "zmm14", fma512);
    burst!(f32_256, "ymm14", fma256);
    burst!(int16_vnni512, "zmm14", dot16_512);
    burst!(int8_vnni512, "zmm14", dot8_512);
    burst!(int16_vnni256, "ymm14", dot16_vex);
    burst!(int8_vnni256, "ymm14", dot8_vex);
    burst!(int16_512, "zmm14", madd16_512);
    burst!(int8_512, "zmm14", madd8_512);
    burst!(int16_256, "ymm14", madd16);
    burst!(int8_256, "ymm14", madd8);

    /// The fastest loop that this processor runs.
    pub(super) fn best(kind: Kind) -> Option<Burst> {
        if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
            return None;
        }
        let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        let wide_vnni = wide && is_x86_feature_detected!("avx512vnni");
        let vnni = is_x86_feature_detected!("avxvnni");
        // Two for a multiply and an add, in so many bits.
        let of =
            |burst: unsafe fn(u64), register: f64, bits: f64| Some((burst, 12.0 * 2.0 * register / bits));
        match kind {
            Kind::F32 if wide => of(f32_512, 512.0, 32.0),
            Kind::F32 => of(f32_256, 256.0, 32.0),
            Kind::Int16 if wide_vnni => of(int16_vnni512, 512.0, 16.0),
            Kind::Int8 if wide_vnni => of(int8_vnni512, 512.0, 8.0),
            Kind::Int16 if vnni => of(int16_vnni256, 256.0, 16.0),
            Kind::Int8 if vnni => of(int8_vnni256, 256.0, 8.0),
            Kind::Int16 if wide => of(int16_512, 512.0, 16.0),
            Kind::Int8 if wide => of(int8_512, 512.0, 8.0),
            Kind::Int16 => of(int16_256, 256.0, 16.0),
            Kind::Int8 => of(int8_256, 256.0, 8.0),
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod loops {
    use std::arch::asm;

    use super::{Burst, Kind};

    macro_rules! burst {
        ($name:ident, $step:ident) => {
            /// # Safety
            /// The processor has the instructions.
            unsafe fn $name(rounds: u64) {
                // SAFETY: touches nothing but registers, all of which are declared; the instructions are there.
                unsafe {
                    asm!(
                        "movi v14.16b, #1",
                        "movi v0.16b, #0", "movi v1.16b, #0", "movi v2.16b, #0", "movi v3.16b, #0",
                        "movi v4.16b, #0", "movi v5.16b, #0", "movi v6.16b, #0", "movi v7.16b, #0",
                        "movi v16.16b, #0", "movi v17.16b, #0", "movi v18.16b, #0", "movi v19.16b, #0",
                        "2:",
                        $step!("0"), $step!("1"), $step!("2"), $step!("3"), $step!("4"), $step!("5"),
                        $step!("6"), $step!("7"), $step!("16"), $step!("17"), $step!("18"), $step!("19"),
                        "subs {rounds}, {rounds}, #1",
                        "b.ne 2b",
                        rounds = inout(reg) rounds => _,
                        out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _,
                        out("v6") _, out("v7") _, out("v14") _, out("v16") _, out("v17") _, out("v18") _,
                        out("v19") _,
                        options(nomem, nostack)
                    );
                }
            }
        };
    }
    macro_rules! fmla {
        ($i:literal) => {
            concat!("fmla v", $i, ".4s, v14.4s, v14.4s")
        };
    }
    macro_rules! smlal {
        ($i:literal) => {
            concat!("smlal v", $i, ".4s, v14.4h, v14.4h")
        };
    }
    macro_rules! sdot {
        ($i:literal) => {
            concat!(".arch_extension dotprod\nsdot v", $i, ".4s, v14.16b, v14.16b")
        };
    }
    burst!(f32_neon, fmla);
    burst!(int16_neon, smlal);
    burst!(int8_neon, sdot);

    /// The fastest loop that this processor runs.
    pub(super) fn best(kind: Kind) -> Option<Burst> {
        let dotprod = std::arch::is_aarch64_feature_detected!("dotprod");
        match kind {
            Kind::F32 => Some((f32_neon, 12.0 * 8.0)),
            Kind::Int16 => Some((int16_neon, 12.0 * 8.0)),
            Kind::Int8 => dotprod.then_some((int8_neon as unsafe fn(u64), 12.0 * 32.0)),
        }
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod loops {
    pub(super) fn best(_: super::Kind) -> Option<super::Burst> {
        None
    }
}

/// Operations a second of one burst on every thread of `pool`; `None` where there is no loop of the kind.
pub(crate) fn operations(pool: &Pool, kind: Kind) -> Option<f64> {
    let (burst, operations) = loops::best(kind)?;
    let rate = |rounds: u64, run: &dyn Fn()| {
        let start = Instant::now();
        run();
        (start.elapsed(), rounds as f64)
    };
    // How many rounds take that long, by one thread.
    let mut rounds = 1000_u64;
    // SAFETY: `best` looked whether the processor has the instructions.
    let alone = |rounds| unsafe { burst(rounds) };
    while rate(rounds, &|| alone(rounds)).0 < BURST {
        rounds *= 2;
    }
    let threads = pool.threads();
    let (time, rounds) = rate(rounds, &|| pool.run(threads, &|_| alone(rounds)));
    Some(rounds * operations * threads as f64 / time.as_secs_f64())
}

/// Bytes a second of one reading of all of `memory`, by every thread of `pool`.
pub(crate) fn reading(pool: &Pool, memory: &[u64]) -> f64 {
    /// A claim of a thread: short beside the whole, long beside the claiming.
    const PIECE: usize = 1 << 17;
    let start = Instant::now();
    pool.run(memory.len().div_ceil(PIECE), &|piece| {
        let words = &memory[piece * PIECE..memory.len().min((piece + 1) * PIECE)];
        let mut sums = [0_u64; 16];
        for words in words.chunks_exact(16) {
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum = sum.wrapping_add(*word);
            }
        }
        black_box(sums);
    });
    size_of_val(memory) as f64 / start.elapsed().as_secs_f64()
}

// Miri runs no instructions.
#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_a_processor() {
        let pool = Pool::new(1).unwrap();
        for kind in [Kind::F32, Kind::Int16, Kind::Int8] {
            let rate = operations(&pool, kind);
            assert_eq!(rate.is_some(), loops::best(kind).is_some(), "{kind:?}");
            assert!(rate.is_none_or(|rate| rate.is_finite() && rate > 0.0), "{kind:?}: {rate:?}");
        }
        let rate = reading(&pool, &vec![1; 1 << 18]);
        assert!(rate.is_finite() && rate > 0.0, "{rate}");
    }
}
