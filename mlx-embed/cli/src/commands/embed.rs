//! `mlx-embed embed`: texts to vectors, a window at a time, so that memory stays flat.

use clap::Args;

use crate::error::CliError;
use crate::input::{Input, InputArgs};
use crate::options::CommonArgs;
use crate::output::{OutputArgs, Target};
use crate::progress::Progress;

/// Arguments of `embed`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EmbedArgs {
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    common: CommonArgs,
}

const EXAMPLES: &str = "\
Examples:
  mlx-embed embed \"The cat sat on the mat\" \"A feline rested\"
  mlx-embed embed --input notes.txt --output vectors.npy
  mlx-embed embed --input docs.jsonl --field body > vectors.jsonl
  mlx-embed embed --prompt-name query \"where do cats sleep?\"
  cut -f2 table.tsv | mlx-embed embed --dims 256

Input has one text a line; an empty line is an empty text, so that line numbers
and results stay in step. A JSONL result is a line like
  {\"index\":0,\"tokens\":7,\"truncated\":false,\"embedding\":[0.012,...]}
Results are written as they come, in order. Where a text fails, the results
before it are written.";

/// Text in a window for each token of a batch: enough for about four batches, so that sorting by length pays.
const WINDOW_BYTES_PER_TOKEN: usize = 16;

pub(crate) fn run(args: EmbedArgs) -> Result<(), CliError> {
    let mut input = Input::open(args.input, args.common.max_text_bytes())?;
    let target = Target::choose(args.output, &input)?;
    let model = args.common.load()?;
    let info = model.embedder.info();
    let notes = args.common.notes();
    target.spare(&info.model)?;
    notes.about_model(info);
    let mut output = target.open(model.dims())?;

    let mut progress = Progress::new(args.common.quiet(), target.is_terminal(), input.len());
    let window_bytes = info.batch_tokens.saturating_mul(WINDOW_BYTES_PER_TOKEN);
    let (mut done, mut truncated) = (0, 0);
    let failure = loop {
        let window = input.window(window_bytes);
        progress.start_window(window.texts.len(), done);
        let (embeddings, error) = model.embed(&window.texts, |index| input.place(done + index));
        output.write(done, &window.texts, &embeddings)?;
        done += embeddings.len();
        truncated += embeddings.iter().filter(|embedding| embedding.truncated).count();
        progress.update(done, input.read());
        match error.or(window.error) {
            None if window.texts.is_empty() => break None,
            None => {}
            failure => break failure,
        }
    };
    output.finish()?;
    progress.clear();
    notes.about_texts(truncated, done, info.max_tokens);
    match failure {
        None if done == 0 => notes.say("the input has no texts"),
        None => {}
        Some(cause) => {
            return Err(CliError::Stopped {
                cause: Box::new(cause),
                written: done,
                output: output.name().to_owned(),
            });
        }
    }
    Ok(())
}
