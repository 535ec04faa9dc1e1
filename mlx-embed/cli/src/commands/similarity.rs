//! `mlx-embed similarity`: the cosine of each pair of texts.

use std::io::{self, BufWriter, Write};

use clap::Args;
use mlx_embed::{Embedding, vectors};
use unicode_width::UnicodeWidthStr;

use crate::error::CliError;
use crate::input::{Input, InputArgs};
use crate::kind::Kind;
use crate::label::label;
use crate::options::CommonArgs;
use crate::stdout;

/// Arguments of `similarity`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SimilarityArgs {
    #[command(flatten)]
    input: InputArgs,

    /// Print {"texts": [...], "similarity": [[...], ...]} instead of a table
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    common: CommonArgs,
}

const EXAMPLES: &str = "\
Examples:
  mlx-embed similarity \"a cat\" \"a feline\" \"the stock market\"
  mlx-embed similarity --input sentences.txt --json

Similarity is the cosine of the angle between two vectors: 1 is the same
direction, 0 has nothing in common.";

/// Widest label, in columns of a terminal.
const LABEL: usize = 32;

pub(crate) fn run(args: SimilarityArgs) -> Result<(), CliError> {
    stdout::check_open()?;
    let mut input = Input::open(args.input, &[], args.common.model.max_text_bytes())?;
    let (texts, indices) = input.read_all()?;
    if texts.len() < 2 {
        return Err(CliError::Usage(format!(
            "similarity needs at least 2 texts to compare, and got {}",
            texts.len()
        )));
    }
    let model = args.common.load()?;
    let notes = args.common.model.notes();
    notes.about_model(model.embedder.info(), Kind::Vector);
    let (embeddings, failure) = model.embed(&texts, |index| input.place(indices[index]));
    if let Some(failure) = failure {
        return Err(failure);
    }
    let truncated = embeddings.iter().filter(|embedding| embedding.truncated).count();
    notes.about_texts(truncated, texts.len(), model.embedder.info().max_tokens);

    let rows = Rows::new(&embeddings);
    let mut stdout = BufWriter::new(io::stdout().lock());
    let result = if args.json { json(&mut stdout, &texts, &rows) } else { table(&mut stdout, &texts, &rows) };
    result.and_then(|()| stdout.flush()).map_err(CliError::on_stdout)
}

/// The matrix, a row at a time: for many texts it is far larger than their vectors.
struct Rows<'a> {
    embeddings: &'a [Embedding],
    squares: Vec<f64>,
}

impl<'a> Rows<'a> {
    fn new(embeddings: &'a [Embedding]) -> Self {
        let squares = embeddings.iter().map(|each| vectors::dot(each, each)).collect();
        Self { embeddings, squares }
    }

    /// Cosines of text `row` with every text: `a.b / sqrt(a.a * b.b)`, and 0 where a vector is zero. Vectors need not
    /// have length 1.
    fn cosines(&self, row: usize) -> Vec<f32> {
        let (a, a_square) = (&self.embeddings[row], self.squares[row]);
        let others = self.embeddings.iter().zip(&self.squares);
        others
            .map(|(b, b_square)| {
                let lengths = (a_square * b_square).sqrt();
                if lengths > 0.0 { (vectors::dot(a, b) / lengths).clamp(-1.0, 1.0) as f32 } else { 0.0 }
            })
            .collect()
    }
}

fn json(out: &mut impl Write, texts: &[String], rows: &Rows<'_>) -> io::Result<()> {
    write!(out, "{{\"texts\":")?;
    serde_json::to_writer(&mut *out, texts)?;
    write!(out, ",\"similarity\":[")?;
    for row in 0..texts.len() {
        out.write_all(if row == 0 { b"" } else { b"," })?;
        serde_json::to_writer(&mut *out, &rows.cosines(row))?;
    }
    writeln!(out, "]}}")
}

/// A column a text, headed by its number; rows carry the number and the start of the text.
fn table(out: &mut impl Write, texts: &[String], rows: &Rows<'_>) -> io::Result<()> {
    let digits = texts.len().to_string().len();
    let labels: Vec<String> = texts.iter().map(|text| label(text, LABEL)).collect();
    let widest = labels.iter().map(|label| label.width()).max().unwrap_or_default();
    write!(out, "{:1$}", "", digits + 1 + widest)?;
    for column in 1..=texts.len() {
        write!(out, " {column:>7}")?;
    }
    writeln!(out)?;
    for (row, label) in labels.iter().enumerate() {
        // Rust pads by characters; terminals show wide ones in two columns.
        let padding = widest - label.width();
        write!(out, "{:>digits$} {label}{:padding$}", row + 1, "")?;
        for cosine in rows.cosines(row) {
            write!(out, " {cosine:>7.3}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
