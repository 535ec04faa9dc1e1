//! Good checkpoints with one thing changed: the reference's vectors, or an error.
//!
//! `tests/sweep.json` has the changes and what transformers or mlx-lm made of them. It is the fixed part of the sweep
//! that `tools/sweep/run` makes over every key and tensor; that command wrote it.

use std::fs;

use mlx_embed::{Embedder, LoadOptions, PoolingMode};
use mlx_embed_tests::compare::max_abs;
use mlx_embed_tests::golden;
use mlx_embed_tests::scratch::{Scratch, Tensors};
use safetensors::Dtype;
use serde::Deserialize;
use serde_json::Value;

const WEIGHTS: &str = "model.safetensors";
/// In f32 only the order of sums differs.
const TOLERANCE: f32 = 2e-5;

#[derive(Deserialize)]
struct Sweep {
    texts: Vec<String>,
    cases: Vec<Case>,
    vectors: Vec<Vec<Vec<f32>>>,
}

#[derive(Deserialize)]
struct Case {
    base: String,
    edit: String,
    changes: Vec<Change>,
    must: Must,
    /// Index of the reference's vectors, if it has any.
    vectors: Option<usize>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Must {
    Right,
    RightOrRefused,
    Refused,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Change {
    Drop { file: String, key: String, drop: bool },
    Set { file: String, key: String, value: Value },
    Tensor { tensor: String, r#do: String, shape: Option<Vec<usize>> },
}

fn apply(scratch: &Scratch, change: &Change) {
    match change {
        Change::Drop { file, key, drop } => {
            assert!(drop);
            scratch.edit_json(file, |object| {
                object.remove(key);
            });
        }
        Change::Set { file, key, value } => scratch.edit_json(file, |object| {
            object.insert(key.clone(), value.clone());
        }),
        Change::Tensor { tensor, r#do, shape } => scratch.edit_tensors(WEIGHTS, |tensors| {
            edit(tensors, tensor, r#do, shape.as_deref());
        }),
    }
}

fn edit(tensors: &mut Tensors, name: &str, how: &str, shape: Option<&[usize]>) {
    if how == "add" {
        let shape = shape.expect("a shape").to_vec();
        let bytes = 0.5_f32.to_le_bytes().repeat(shape.iter().product());
        tensors.insert(name.to_owned(), (Dtype::F32, shape, bytes));
        return;
    }
    let (dtype, mut shape, bytes) = tensors.remove(name).expect("the tensor is there");
    assert_eq!(dtype, Dtype::F32);
    let values = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    let edited = match how {
        "drop" => return,
        "double" => (Dtype::F32, shape, values.flat_map(|value| (value * 2.0).to_le_bytes()).collect()),
        "f16" => {
            (Dtype::F16, shape, values.flat_map(|value| half::f16::from_f32(value).to_le_bytes()).collect())
        }
        "i32" => (Dtype::I32, shape, values.flat_map(|value| (value as i32).to_le_bytes()).collect()),
        "rename" => {
            tensors.insert(format!("{name}_"), (dtype, shape, bytes));
            return;
        }
        "shape" => {
            shape[0] *= 2;
            (Dtype::F32, shape, bytes.repeat(2))
        }
        _ => panic!("what is {how}?"),
    };
    tensors.insert(name.to_owned(), edited);
}

/// What is wrong with how a case went, if anything is.
fn fault(sweep: &Sweep, case: &Case) -> Option<String> {
    let scratch = Scratch::of(&case.base);
    case.changes.iter().for_each(|change| apply(&scratch, change));
    // These have no modules, and the references' side takes the last token's state, whatever a token sees.
    let options = LoadOptions { pooling: Some(PoolingMode::LastToken.into()), ..golden::load_options() };
    let embedded =
        Embedder::load_with(scratch.path(), options).and_then(|embedder| embedder.embed(&sweep.texts));
    match (embedded, case.vectors) {
        (Err(error), _) if case.must == Must::Right => Some(format!("refused: {error}")),
        (Err(_), _) => None,
        (Ok(_), _) if case.must == Must::Refused => Some("went on".into()),
        (Ok(_), None) => Some("went on, where every reference refuses".into()),
        (Ok(embedded), Some(vectors)) => {
            let pairs = embedded.iter().zip(&sweep.vectors[vectors]);
            let off = pairs.map(|(ours, theirs)| max_abs(&ours.vector, theirs)).fold(0.0, f32::max);
            (off > TOLERANCE || off.is_nan()).then(|| format!("off by {off:.1e}"))
        }
    }
}

#[test]
fn one_change_gives_the_references_vectors_or_an_error() {
    let sweep = fs::read("tests/sweep.json").expect("tests/sweep.json");
    let sweep: Sweep = serde_json::from_slice(&sweep).expect("as tools/sweep/run writes it");
    let faults: Vec<String> = sweep
        .cases
        .iter()
        .filter_map(|case| fault(&sweep, case).map(|fault| format!("{}: {}: {fault}", case.base, case.edit)))
        .collect();
    assert!(sweep.cases.len() > 100, "only {} cases", sweep.cases.len());
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), sweep.cases.len(), faults.join("\n"));
}
