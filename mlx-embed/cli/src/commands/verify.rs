//! `mlx-embed verify`: does a checkpoint compute here what it computes elsewhere?

use std::path::PathBuf;

use clap::Args;
use mlx_embed::Error;
use mlx_embed::verify::{Against, Check, Golden, ScoreComparison, Verification};

use crate::any_model::AnyModelArgs;
use crate::error::CliError;
use crate::report;

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VerifyArgs {
    /// Checkpoint directory, in place of --model
    #[arg(value_name = "MODEL")]
    dir: Option<PathBuf>,

    /// Golden file to compare with [default: golden.safetensors in the checkpoint directory, if there is one]
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,

    #[command(flatten)]
    model: AnyModelArgs,
}

const EXAMPLES: &str = "\
Examples:
  mlx-embed verify
  mlx-embed verify DIR
  mlx-embed verify DIR --against qwen3.golden.safetensors --precision fast
  mlx-embed verify DIR --json | jq .first_divergent_layer

A golden file holds what a reference computes with the checkpoint in f64:
tools/golden/make.py DIR FILE makes one with mlx-lm, or with transformers for
dense checkpoints. The first layer that is out of tolerance is named; layers are
counted from 0, as in the tensors' names. An error is the length of the
difference over the length of the reference's hidden state. Cosine and largest
difference are those of each text's first and last token.

Without a golden file only this is checked: results are finite, the same twice,
and the same whatever else is in the batch.

Exit codes: 0 all is within tolerance, 1 something is not or the model can't be
loaded, 2 the command line or the golden file is wrong.";

pub(crate) fn run(mut args: VerifyArgs) -> Result<(), CliError> {
    // The golden file first: it is small, and the model is not.
    let given = args.against.as_ref().map(Golden::open).transpose().map_err(Error::from)?;
    let common = &mut args.model.common;
    if let Some(dir) = args.dir.take() {
        common.model.set_model(dir);
    }
    let notes = common.model.notes();
    let model = args.model.load()?;
    let golden = given.map_or_else(|| model.golden(), |golden| Ok(Some(golden)))?;
    let found = model.verify(golden.as_ref())?;
    report::print(args.model.json, &found, text)?;
    match &found.against {
        None => notes.say("without a golden file nothing was compared with a reference (--against FILE)"),
        Some(Against { same_weights: false, .. }) => {
            notes.say("the weights are not those that the golden file was made with");
        }
        Some(_) => {}
    }
    if found.passed { Ok(()) } else { Err(CliError::Off(found.failures.join("\n  "))) }
}

fn text(found: &Verification) -> String {
    let precision = found.precision.map_or(String::new(), |precision| format!(", {precision}"));
    let mut text = format!(
        "{}\n{}: {}{precision}; hidden states {}; {} texts, {} tokens\n",
        found.model.display(),
        found.backend,
        found.kernels,
        found.activation,
        found.texts,
        found.tokens
    );
    if let Some(against) = &found.against {
        comparison(against, found, &mut text);
    }
    text.push('\n');
    for check in &found.checks {
        text.push_str(&answer(check));
    }
    text.push_str(if found.passed { "\npassed\n" } else { "\nFAILED\n" });
    text
}

fn comparison(against: &Against, found: &Verification, text: &mut String) {
    text.push_str(&format!(
        "against {}: {}\n\n{:<12} {:>10} {:>8} {:>8} {:>8} {:>8} {:>8}  largest in\n",
        against.file.display(),
        against.reference,
        "",
        "cosine",
        "max abs",
        "median",
        "allowed",
        "largest",
        "allowed"
    ));
    for layer in &against.layers {
        let mark = if layer.passed { "" } else { "  OFF" };
        text.push_str(&format!(
            "{:<12} {:>10.7} {:>8.1e} {:>8.1e} {:>8.1e} {:>8.1e} {:>8.1e}  text {}, token {}{mark}\n",
            layer.layer.to_string(),
            layer.cosine,
            layer.max_abs,
            layer.median_error,
            layer.allowed_median_error,
            layer.error,
            layer.allowed_error,
            layer.text,
            layer.token
        ));
    }
    match (&against.vectors, &against.scores) {
        (_, Some(ScoreComparison { max_abs, pair, passed, .. })) => {
            let mark = if *passed { "" } else { "  OFF" };
            let allowed = found.tolerance.max_abs;
            text.push_str(&format!("scores       {max_abs:.1e}, {allowed:.1e} allowed, pair {pair}{mark}\n"));
        }
        (Some(vectors), _) => {
            let mark = if vectors.passed { "" } else { "  OFF" };
            text.push_str(&format!(
                "{:<12} {:>10.7} {:>8.1e}{:>38}text {}{mark}\n{:<12} {:>10.7} {:>8.1e}\n",
                "vectors",
                vectors.cosine,
                vectors.max_abs,
                "",
                vectors.text,
                "  allowed",
                found.tolerance.cosine,
                found.tolerance.max_abs
            ));
        }
        (None, None) => text.push_str("vectors      not compared: the file has none for this pooling\n"),
    }
    match against.other_tokens.len() {
        0 => text.push_str("token ids    the same\n"),
        count => text.push_str(&format!("token ids    other ones in {count} texts  OFF\n")),
    }
}

fn answer(check: &Check) -> String {
    let Check { question, error, tolerance, first_divergent_layer, passed, .. } = check;
    let answer = if *passed { "yes" } else { "NO" };
    let by = match (error, first_divergent_layer) {
        (0.0, _) => String::new(),
        (_, Some(layer)) => format!(" (error {error:.1e}, {tolerance:.0e} allowed, from {layer} on)"),
        (_, None) => format!(" (error {error:.1e}, {tolerance:.0e} allowed)"),
    };
    format!("{answer:<4} {question}{by}\n")
}
