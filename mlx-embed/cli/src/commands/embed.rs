//! `mlx-embed embed`: texts to vectors of any kind, a window at a time, so that memory stays flat.

use std::sync::Arc;

use clap::Args;

use crate::error::CliError;
use crate::found::Encoder;
use crate::input::{Input, InputArgs, OnError};
use crate::kind::{Kind, RoleArg};
use crate::options::CommonArgs;
use crate::output::{Done, OutputArgs, Target};
use crate::progress::Progress;
use crate::stdout;
use crate::windows::windows;

/// Arguments of `embed`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EmbedArgs {
    #[command(flatten)]
    input: InputArgs,

    /// What to do with a text that can't be read or embedded
    #[arg(long, value_name = "HOW", default_value = "stop")]
    on_error: OnError,

    /// What is computed of each text [default: what the checkpoint's files say, else vector]
    #[arg(long, value_name = "KIND")]
    kind: Option<Kind>,

    /// Whether texts are queries or documents, for --kind tokens [default: document]
    #[arg(long, value_name = "ROLE")]
    role: Option<RoleArg>,

    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    common: CommonArgs,
}

const EXAMPLES: &str = "\
Examples:
  mlx-embed embed \"The cat sat on the mat\" \"A feline rested\"
  mlx-embed embed --input notes.txt --output vectors.npy
  mlx-embed embed --input notes.txt --output vectors.safetensors --dtype int8
  mlx-embed embed --input docs.jsonl --field body > vectors.jsonl
  mlx-embed embed --input docs.parquet --field body --keep id,url \\
    --output vectors.parquet
  mlx-embed embed --model DIR --prompt-name query \"where do cats sleep?\"
  cut -f2 table.tsv | mlx-embed embed --dims 256
  mlx-embed embed --model SPLADE \"where do cats sleep?\"
  mlx-embed embed --model COLBERT --role query \"where do cats sleep?\"
  mlx-embed embed --model BGE-M3 --kind sparse --input docs.jsonl

Input has one text a line. An empty line is an empty text, so that line numbers
and results stay in step; a blank line of JSONL input has no result. Results are
written in order, as they come. A JSONL result is a line such as
  {\"index\":0,\"tokens\":7,\"truncated\":false,\"embedding\":[0.012,...]}
whose index is the text's line or argument, counted from 0. Sparse vectors have
\"indices\" (token ids) and \"values\" in place of the embedding, vectors of tokens
\"token_ids\" and \"embeddings\".

If a text fails, the results before it are written; with --on-error skip, those
after it, too. FILE is written as FILE.partial and gets its name once the job
ends: a job that is killed leaves FILE as it was. A Parquet job that is killed
leaves what is done in FILE.parts, and the same command continues from there.";

/// Text in a window for each token of a batch: enough for about four batches.
const WINDOW_BYTES_PER_TOKEN: usize = 16;

pub(crate) fn run(mut args: EmbedArgs) -> Result<(), CliError> {
    let mut input = Input::open(args.input, args.output.keep(), args.common.model.max_text_bytes())?;
    let target = Target::choose(args.output, &input, args.common.model.model_dir()?)?;
    let kind = args.common.kind(args.kind)?;
    target.check_kind(kind)?;
    if target.is_stdout() {
        stdout::check_open()?;
    }
    args.common.model.expect_bulk();
    let model = Arc::new(Encoder::load(&args.common, kind, args.role)?);
    let info = model.info();
    let notes = args.common.model.notes();
    notes.about_model(info, kind);
    let (to_terminal, tells_lines) = (target.is_terminal(), target.tells_lines());
    let mut output = target.open(&mut input, &model, &args.common)?;

    let mut progress = Progress::new(args.common.model.quiet(), to_terminal, input.len());
    let window_bytes = info.batch_tokens.saturating_mul(WINDOW_BYTES_PER_TOKEN);
    let Done { rows: mut done, mut truncated, mut skipped } = output.done();
    let mut gaps = false;
    let mut failure = None;
    for window in windows(Arc::clone(&model), input, window_bytes, args.on_error)? {
        let (read, position, ended) = (window.read, window.position, window.ended);
        progress.start_window(window.texts, done);
        let embedded = match window.wait() {
            Ok(embedded) => embedded,
            Err(error) => {
                failure = Some(error);
                break;
            }
        };
        let (count, cut) = (embedded.rows.len(), embedded.truncated());
        let misses = embedded.rows.iter().zip(done..).any(|(row, place)| row.index != place);
        let left_out = embedded.skipped.len();
        progress.say(&embedded.skipped);
        let written = output.write(embedded.rows);
        if written.is_ok() {
            (done, truncated, gaps) = (done + count, truncated + cut, gaps | misses);
        }
        skipped += left_out;
        failure = written.err().or(embedded.failure);
        if failure.is_none() {
            failure = output.end_window(position, left_out).err();
        }
        if failure.is_some() || ended {
            break;
        }
        progress.update(done, read);
    }
    progress.clear();
    let complete = failure.is_none();
    let ended = output.end(done, failure);
    notes.about_texts(truncated, done, model.max_tokens());
    if gaps && !tells_lines {
        notes
            .say("not every line of the input has a row in the output; rows have the order of those that do");
    }
    if complete && skipped > 0 {
        return ended.and(Err(CliError::Skipped { skipped, done }));
    }
    if complete && done == 0 {
        notes.say("the input has no texts");
    }
    ended
}
