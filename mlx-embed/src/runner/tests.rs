//! Vectors with and without a prefix, over golden checkpoints, on everything that this machine's CPU runs.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use super::*;
use crate::batch::Reading;
use crate::checkpoint::Purpose;
use crate::pooling::{self, PoolingMode};

/// Checkpoints of every architecture, form of weights and kind of attention that makes a difference here.
const CASES: [&str; 10] = [
    "qwen3-affine-4bit-g64",
    "qwen3-f32",
    "qwen3-head-dim-128-bf16",
    "qwen3-mixed-bits",
    "qwen3-rope-yarn",
    "qwen2-f32",
    "qwen2-odd-sizes-bf16",
    "llama-f32",
    "llama-rope-traditional",
    "default-model",
];

const POOLINGS: [&[PoolingMode]; 3] = [
    &[PoolingMode::LastToken],
    &[PoolingMode::Mean],
    &[
        PoolingMode::Max,
        PoolingMode::LastToken,
        PoolingMode::WeightedMean,
        PoolingMode::Cls,
        PoolingMode::MeanSqrtLen,
    ],
];

fn poolings() -> impl Iterator<Item = Pooling> {
    POOLINGS.into_iter().map(|modes| Pooling::joined(modes).unwrap())
}

/// Prefixes and how many of their tokens texts share: those of the kernels' blocks and one more or less, and so few that
/// they aren't reused. The last two prefixes would be short texts by themselves.
const PREFIXES: [(usize, &[usize]); 3] = [(75, &[1, 4, 5, 6, 31, 32, 33, 70, 75]), (3, &[3]), (5, &[3, 5])];

/// What texts have of their own.
const OWN: [usize; 5] = [3, 1, 40, 10, 1];

/// `None` where the golden checkpoints are not, as in a packaged crate.
fn directory(case: &str) -> Option<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    golden.is_dir().then(|| golden.join(case))
}

fn options(kind: Kind, precision: Precision, pooling: Pooling) -> RunnerOptions {
    RunnerOptions {
        backend: mlx::Backend::Cpu,
        gpus: vec![0],
        threads: NonZeroUsize::new(2),
        kind,
        matmul: MatmulPolicy::Auto,
        precision,
        pooling,
        cache_limit: 64 << 20,
        memory_limit: None,
    }
}

fn cpu(case: &str, family: &'static Family, precision: Precision, pooling: Pooling) -> Option<Runner<Cpu>> {
    let checkpoint = Checkpoint::open(directory(case)?).unwrap();
    let options = options(Kind::Host(family), precision, pooling);
    Some(on_cpu(&checkpoint, &options, family, &|| ()).unwrap())
}

fn mlx(case: &str, pooling: Pooling) -> Option<Runner<Mlx>> {
    let checkpoint = Checkpoint::open(directory(case)?).unwrap();
    Some(on_mlx(&checkpoint, &options(Kind::Mlx, Precision::Exact, pooling), 0, &|| ()).unwrap())
}

/// Ids below the smallest vocabulary, without a pattern.
fn ids(count: usize, seed: u32) -> Vec<u32> {
    (0..count as u32).map(|i| ((i * 31 + seed) ^ 0x55).wrapping_mul(2_654_435_761) % 280).collect()
}

fn embed<B: Backend>(
    runner: &Runner<B>,
    texts: &[Vec<u32>],
    prefix: Option<(&Prefix<B>, usize)>,
) -> Vec<Vec<f32>> {
    embed_leaving_out(runner, texts, prefix, 0)
}

fn embed_leaving_out<B: Backend>(
    runner: &Runner<B>,
    texts: &[Vec<u32>],
    prefix: Option<(&Prefix<B>, usize)>,
    left_out: usize,
) -> Vec<Vec<f32>> {
    let reading = Reading { left_out };
    let texts: Vec<Entry<'_>> = texts.iter().map(|ids| Entry { ids, reading }).collect();
    let outputs = runner.embed_batch(&texts, prefix).unwrap();
    outputs.into_iter().map(|output| output.unwrap().to_numbers()).collect()
}

/// Calls `check` with what texts that continue a prefix and whole texts come to: for prefixes of so many tokens, and
/// so many of them shared.
fn compare<B: Backend>(
    runner: &Runner<B>,
    prefixes: &[(usize, &[usize])],
    check: impl Fn(&[Vec<f32>], &[Vec<f32>], &str),
) {
    let own: Vec<Vec<u32>> = OWN.iter().zip(1..).map(|(&count, seed)| ids(count, 100 * seed)).collect();
    for &(length, shares) in prefixes {
        let ids = ids(length, 7);
        let prefix = runner.prefix(&ids).unwrap();
        assert_eq!(prefix.len(), length);
        for &shared in shares {
            let whole: Vec<Vec<u32>> = own.iter().map(|own| [&ids[..shared], own].concat()).collect();
            let expected = embed(runner, &whole, None);
            let what = format!("{shared} of {length} tokens");
            check(&embed(runner, &own, Some((&prefix, shared))), &expected, &what);
            let last = own.len() - 1;
            check(&embed(runner, &own[last..], Some((&prefix, shared))), &expected[last..], &what);
        }
    }
}

fn bits(vectors: &[Vec<f32>]) -> Vec<Vec<u32>> {
    vectors.iter().map(|vector| vector.iter().map(|x| x.to_bits()).collect()).collect()
}

#[test]
fn on_kernels_for_the_cpu_a_prefix_changes_no_bit() {
    for (index, family) in Family::available().enumerate() {
        // The kernels' own tests compare them in every family; here two cases show that nothing hangs on the first.
        let cases = if index == 0 { &CASES[..] } else { &CASES[..2] };
        for (case, pooling) in cases.iter().flat_map(|case| poolings().map(move |pooling| (case, pooling))) {
            for precision in [Precision::Exact, Precision::Fast] {
                let Some(runner) = cpu(case, family, precision, pooling) else { return };
                compare(&runner, &PREFIXES, |found, expected, what| {
                    assert!(
                        bits(found) == bits(expected),
                        "{case}, {family:?}, {precision}, {pooling}: {what}: {found:?}, not {expected:?}"
                    );
                });
            }
        }
    }
}

#[test]
fn on_operations_of_mlx_a_prefix_changes_the_order_of_sums_alone() {
    let finished = |vector: &[f32]| {
        let mut vector = vector.to_vec();
        pooling::finish(&mut vector, None, true);
        vector
    };
    for (case, pooling) in CASES.iter().flat_map(|case| poolings().map(move |pooling| (case, pooling))) {
        let Some(runner) = mlx(case, pooling) else { return };
        // MLX takes its time for a model that isn't tiny.
        let shares: &[usize] = if *case == "default-model" { &[33] } else { &[1, 31, 32, 33, 70, 75] };
        compare(&runner, &[(75, shares)], |found, expected, what| {
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                let (found, expected) = (finished(found), finished(expected));
                let far = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(far <= 1e-5, "{case}, {pooling}: {what}: off by {far:e}");
                let cosine: f32 = found.iter().zip(&expected).map(|(a, b)| a * b).sum();
                assert!(cosine >= 0.99999, "{case}, {pooling}: {what}: cosine {cosine}");
            }
        });
    }
}

#[test]
fn a_prefix_outlives_other_batches_and_says_what_it_holds() {
    fn check<B: Inspectable + 'static>(runner: &Runner<B>, bytes: impl Fn(&B::KeysValues) -> usize) {
        let (prefix, text) = (runner.prefix(&ids(40, 7)).unwrap(), [ids(10, 1)]);
        let first = embed(runner, &text, Some((&prefix, 40)));
        embed(runner, &[ids(90, 3), ids(20, 4)], None);
        drop(runner.prefix(&ids(60, 8)).unwrap());
        assert_eq!(bits(&embed(runner, &text, Some((&prefix, 40)))), bits(&first));
        // Two layers with keys and values of two heads of 16, and the hidden states.
        let least = 40 * (2 * 2 * 2 * 16 + 128) * 4;
        let held: usize = prefix.layers.iter().map(bytes).sum::<usize>()
            + size_of_val(&prefix.hidden[..])
            + size_of_val(&prefix.ids[..]);
        assert!((least..3 * least).contains(&held), "{held} bytes, not {least}");
        assert!(held <= runner.prefix_bytes(40), "{held} bytes");
    }
    let (case, pooling) = ("qwen3-affine-4bit-g64", PoolingMode::Mean.into());
    let family = Family::available().next().unwrap();
    let Some(runner) = cpu(case, family, Precision::Exact, pooling) else { return };
    check(&runner, |kept| kept.bytes());
    check(&mlx(case, pooling).unwrap(), |kept| kept.bytes());
}

/// The mean's share of a prefix is cut short, or part of what follows is left out too.
#[test]
fn tokens_are_left_out_of_the_mean_on_either_side_of_a_prefixs_end() {
    let family = Family::available().next().unwrap();
    let Some(runner) = cpu("qwen3-bf16", family, Precision::Exact, PoolingMode::Mean.into()) else { return };
    let (prefix_ids, own) = (ids(40, 7), [ids(10, 1), ids(3, 2)]);
    let prefix = runner.prefix(&prefix_ids).unwrap();
    for (shared, left_out) in
        [(40, 0), (40, 1), (40, 39), (40, 40), (40, 42), (40, 60), (33, 35), (33, 10), (4, 3)]
    {
        let whole: Vec<Vec<u32>> = own.iter().map(|own| [&prefix_ids[..shared], own].concat()).collect();
        let found = embed_leaving_out(&runner, &own, Some((&prefix, shared)), left_out);
        let expected = embed_leaving_out(&runner, &whole, None, left_out);
        assert!(bits(&found) == bits(&expected), "{shared} shared, {left_out} left out");
        for (text, found) in whole.iter().zip(&found) {
            let states = runner.hidden_states(&[text]).unwrap().texts.remove(0).pop().unwrap();
            let width = found.len();
            let counts = &states[width * left_out.min(text.len())..];
            for (column, found) in found.iter().enumerate() {
                let sum: f64 = counts.iter().skip(column).step_by(width).map(|&x| f64::from(x)).sum();
                let mean = sum / (counts.len() / width).max(1) as f64;
                assert!(
                    (f64::from(*found) - mean).abs() < 1e-5,
                    "{shared} shared, {left_out} left out: {found}, {mean}"
                );
            }
        }
    }
}

/// Hidden states have the same bits whether or not someone watches, so that what is measured is what runs.
#[cfg(feature = "bench")]
#[test]
fn watching_changes_no_bit() {
    use crate::watch::{Level, Watched};

    fn check<B: Inspectable>(runner: &Runner<B>, what: &str) {
        let (a, b) = (ids(40, 1), ids(3, 2));
        let batch = runner.batch(&[&a, &b]);
        let backend = runner.decoder.backend();
        let bits = |states: Vec<f32>| states.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let plain = bits(runner.decoder.forward(&batch, Rows::All, KvCache::None, None).unwrap());
        for level in [Level::Operations, Level::Layers] {
            let watched = Watched::new(backend, &runner.spec, level, 0);
            let layers = 0..runner.decoder.layers();
            let states = runner
                .decoder
                .forward_with(&watched, layers, &batch, Rows::All, KvCache::None, None)
                .unwrap();
            assert!(bits(states) == plain, "{what} {level:?}");
            assert!(!watched.into_records().is_empty(), "{what} {level:?}");
        }
    }
    for case in CASES {
        for family in Family::available() {
            let Some(runner) = cpu(case, family, Precision::Fast, PoolingMode::Mean.into()) else { return };
            check(&runner, &format!("{case} {family:?}"));
        }
        check(&mlx(case, PoolingMode::Mean.into()).unwrap(), case);
    }
}

/// The vocabulary of the golden case goes in five parts here.
#[test]
fn a_vocabulary_in_parts_gives_the_references_weights() {
    fn check<B: Inspectable>(runner: &Runner<B>, golden: &SafeTensors<'_>, ids: &[Vec<u32>]) {
        assert_eq!(runner.spec.mlm.as_ref().unwrap().decoder.len(), 5);
        let texts: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        for (index, found) in Inspect::embed(runner, &texts).unwrap().into_iter().enumerate() {
            let Output::Weights(found) = found.unwrap() else { panic!("numbers in place of weights") };
            let expected = golden.tensor(&format!("sparse.{index}")).unwrap();
            let expected = expected.data().as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x));
            let mut whole = vec![0.0; 208];
            found.iter().for_each(|&(token, weight)| whole[token as usize] = weight);
            for (token, (found, expected)) in whole.into_iter().zip(expected).enumerate() {
                // A few units in the last place of logits below 8.
                let off: f32 = found - expected;
                assert!(off.abs() < 1e-5, "text {index}, token {token}: {found}, not {expected}");
            }
        }
    }
    let Some(dir) = directory("families/splade-bert") else { return };
    let checkpoint = Checkpoint::open_for(&dir, Purpose::Sparse).unwrap();
    let bytes = std::fs::read(dir.join("golden.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let facts =
        serde_json::from_str::<serde_json::Value>(&header.metadata().as_ref().unwrap()["golden"]).unwrap();
    let ids = |text: &serde_json::Value| serde_json::from_value(text["ids"].clone()).unwrap();
    let ids: Vec<Vec<u32>> = facts["texts"].as_array().unwrap().iter().map(ids).collect();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    for family in Family::available() {
        let options = options(Kind::Host(family), Precision::Exact, PoolingMode::Mean.into());
        check(&on_cpu(&checkpoint, &options, family, &|| ()).unwrap(), &golden, &ids);
    }
    let options = options(Kind::Mlx, Precision::Exact, PoolingMode::Mean.into());
    check(&on_mlx(&checkpoint, &options, 0, &|| ()).unwrap(), &golden, &ids);
}
