//! bge-m3's sparse weights and vectors of tokens equal the reference's, read from torch.save's files and from safetensors,
//! and what these files can't be is refused.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::fs;

use mlx_embed::verify::Golden;
use mlx_embed::{EmbedOptions, Embedder, LoadOptions, MultiVectorEmbedder, Role, SparseEmbedder};
use mlx_embed_tests::compare::{cosine, max_abs, says};
use mlx_embed_tests::golden::{self, own_limit};
use mlx_embed_tests::scratch::Scratch;

const CASES: [&str; 2] = ["bge-m3-pickled-heads", "bge-m3-safetensors-heads"];

fn expected(case: &str) -> Golden {
    Golden::open(golden::directory(&format!("families/{case}")).join("golden.safetensors")).unwrap()
}

fn ways() -> Vec<LoadOptions> {
    let families = if golden::on_gpu() { vec!["cuda"] } else { mlx_embed::kernel_families() };
    let of = |name: &str| LoadOptions { kernels: Some(name.into()), ..own_limit() };
    families.into_iter().chain(["mlx"]).map(of).collect()
}

/// Least cosine and largest difference of a unit vector, as in `tests/golden.rs`.
fn tolerance() -> (f64, f32) {
    if golden::on_gpu() { (0.9995, 2e-2) } else { (0.99999, 1e-5) }
}

#[test]
fn weights_of_tokens_are_the_references() {
    for case in CASES {
        let golden = expected(case);
        for options in ways() {
            let folder = golden::directory(&format!("families/{case}"));
            let embedder = SparseEmbedder::load_with(folder, options).unwrap();
            let what = format!("{case} on {}", embedder.info().kernels);
            let mut worst = 0.0_f32;
            for (index, text) in golden.texts().iter().enumerate() {
                let found = embedder.embed(&[&text.text]).unwrap().remove(0);
                assert!(found.weights.is_sorted_by(|a, b| a.0 < b.0), "{what}");
                // <s>, <pad>, </s> and <unk>.
                assert!(found.weights.iter().all(|(id, weight)| *id > 3 && *weight > 0.0), "{what}");
                let expected = golden.token_weights(index).unwrap();
                let mut weights = vec![0.0; expected.len()];
                found.weights.iter().for_each(|&(id, weight)| weights[id as usize] = weight);
                let largest = expected.iter().copied().fold(1e-6, f32::max);
                worst = worst.max(max_abs(&weights, expected) / largest);
            }
            println!("{what}: {worst:.1e}");
            assert!(worst <= if golden::on_gpu() { 6e-2 } else { 1e-5 }, "{what}: off by {worst:e}");
            let found = embedder.verify(Some(&golden)).unwrap();
            assert!(found.passed, "{what}: {}", found.failures.join("; "));
        }
    }
}

#[test]
fn vectors_of_tokens_are_the_references() {
    for case in CASES {
        let golden = expected(case);
        for options in ways() {
            let folder = golden::directory(&format!("families/{case}"));
            let embedder = MultiVectorEmbedder::load_with(folder, options).unwrap();
            let what = format!("{case} on {}", embedder.info().kernels);
            let (mut lowest, mut largest) = (1.0_f64, 0.0_f32);
            for (index, text) in golden.texts().iter().enumerate() {
                let (expected, width) = golden.token_vectors(index).unwrap();
                for role in [Role::Query, Role::Document] {
                    let found = embedder.embed(&[&text.text], role).unwrap().remove(0);
                    assert_eq!(found.token_ids, text.ids[1..], "{what}: {}", text.text);
                    assert_eq!((found.dims, found.vectors.len()), (width, expected.len()));
                    for (row, expected) in found.rows().zip(expected.chunks_exact(width)) {
                        lowest = lowest.min(cosine(row, expected));
                        largest = largest.max(max_abs(row, expected));
                    }
                }
            }
            let (cosine, most) = tolerance();
            println!("{what}: cosine {lowest:.8}, vector {largest:.1e}");
            assert!(lowest >= cosine && largest <= most, "{what}: cosine {lowest}, off by {largest:e}");
            let found = embedder.verify(Some(&golden)).unwrap();
            assert!(found.passed, "{what}: {}", found.failures.join("; "));
        }
    }
}

#[test]
fn results_have_the_same_bits_in_any_company() {
    let folder = golden::directory("families/bge-m3-pickled-heads");
    let texts: Vec<String> = expected(CASES[0]).texts().iter().map(|text| text.text.clone()).collect();
    let sparse = SparseEmbedder::load_with(&folder, own_limit()).unwrap();
    let vectors = MultiVectorEmbedder::load_with(&folder, own_limit()).unwrap();
    let (weights, rows) = (sparse.embed(&texts).unwrap(), vectors.embed(&texts, Role::Query).unwrap());
    for ((text, weights), rows) in texts.iter().zip(weights).zip(rows) {
        assert_eq!(sparse.embed(&[text]).unwrap()[0].weights, weights.weights, "{text}");
        assert_eq!(vectors.embed(&[text], Role::Query).unwrap()[0].vectors, rows.vectors, "{text}");
    }
}

#[test]
fn limits_and_prompts_are_those_of_the_embedder() {
    let folder = golden::directory("families/bge-m3-pickled-heads");
    let plain = Embedder::load_with(&folder, own_limit()).unwrap();
    let vectors = MultiVectorEmbedder::load_with(&folder, own_limit()).unwrap();
    assert_eq!(vectors.info().max_tokens, plain.info().max_tokens);
    assert_eq!(vectors.info().max_tokens_source, plain.info().max_tokens_source);
    let cut = LoadOptions { max_tokens: Some(8), ..own_limit() };
    let vectors = MultiVectorEmbedder::load_with(&folder, cut).unwrap();
    let long = "roses in the garden in the morning";
    for role in [Role::Query, Role::Document] {
        let found = vectors.embed(&[long], role).unwrap().remove(0);
        assert_eq!((found.tokens, found.token_ids.len(), found.truncated), (8, 7, true));
    }
    let ids = vectors.token_ids(long, Role::Query, &EmbedOptions::default()).unwrap();
    assert_eq!(ids.len(), 8);
}

/// Why the heads can't be loaded, those that can't.
fn refusals(copy: &Scratch) -> Vec<String> {
    let sparse = SparseEmbedder::load_with(copy.path(), own_limit()).map(drop);
    let vectors = MultiVectorEmbedder::load_with(copy.path(), own_limit()).map(drop);
    [sparse, vectors].into_iter().filter_map(|loaded| Some(loaded.err()?.to_string())).collect()
}

#[test]
fn heads_that_are_missing_or_of_another_width_are_told() {
    let copy = Scratch::of("families/bge-m3-safetensors-heads");
    for (file, shape, found) in [
        ("sparse_linear.safetensors", vec![1, 32], "[1, 32]"),
        ("colbert_linear.safetensors", vec![128, 32], "[128, 32]"),
    ] {
        copy.edit_tensors(file, |tensors| {
            let weight = tensors.get_mut("weight").unwrap();
            weight.2.truncate(shape.iter().product::<usize>() * 4);
            weight.1 = shape;
        });
        let errors = refusals(&copy);
        let error = errors.iter().find(|error| error.contains(file)).unwrap_or_else(|| panic!("{errors:?}"));
        assert!(error.contains("weight") && error.contains(found), "{error}");
        // Then the next one is at fault.
        copy.remove(file);
    }
    let errors = refusals(&copy);
    assert!(errors.len() == 2 && errors.iter().all(|error| error.contains("modules.json")), "{errors:?}");
    // The embedder needs neither.
    Embedder::load_with(copy.path(), own_limit()).unwrap();
}

#[test]
fn files_of_torch_that_hold_more_than_tensors_are_refused_with_a_remedy() {
    let copy = Scratch::of("families/bge-m3-pickled-heads");
    for file in ["sparse_linear.pt", "colbert_linear.pt"] {
        let bytes = fs::read(copy.file(file)).unwrap();
        let name = b"torch\nFloatStorage";
        let at = bytes.windows(name.len()).position(|part| part == name).unwrap();
        let mut code = bytes.clone();
        code[at..at + name.len()].copy_from_slice(b"posix\nsystem_shell");
        let order = bytes.windows(6).position(|part| part == b"little").unwrap();
        let mut big = bytes.clone();
        big[order..order + 6].copy_from_slice(b"big   ");
        for (damaged, reason) in [
            (code, "posix.system_shell"),
            (bytes[..bytes.len() / 2].to_vec(), "cut short"),
            (b"\x80\x02}q\x00.".to_vec(), "torch.save"),
            (big, "little-endian"),
        ] {
            copy.write(file, damaged);
            let errors = refusals(&copy);
            let parts = [file, reason, "safetensors.torch.save_file"];
            assert!(errors.len() == 1 && parts.iter().all(|part| errors[0].contains(part)), "{errors:?}");
        }
        copy.write(file, bytes);
    }
}

#[test]
fn a_dense_module_whose_file_of_torch_is_none_is_told() {
    let copy = Scratch::of("families/modules-dense-activations");
    copy.write("2_Dense/pytorch_model.bin", b"no archive");
    copy.remove("2_Dense/model.safetensors");
    let error = Embedder::load_with(copy.path(), own_limit()).unwrap_err();
    says(error, &["2_Dense/pytorch_model.bin", "save_file"]);
}
