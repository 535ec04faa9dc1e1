//! Finds passages in a folder of text files, also while it is still being read:
//! `cargo run --release -p mlx-embed --features default-model --example rag -- FOLDER [DIR]`
//!
//! Type a question a line; the best passages are printed. The folder stands in the bulk lane and questions in the query
//! lane, so that they wait for the batch that runs and not for the folder. They find what is embedded by then.

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use std::{env, fs, thread};

use mlx_embed::{EmbedOptions, Embedder, Lane, Prompt, Shutdown};

/// Passages that an answer shows.
const BEST: usize = 3;

/// Bytes of a passage, unless a sentence is longer.
const PASSAGE: usize = 400;

/// A few sentences of a file.
struct Passage {
    file: PathBuf,
    text: String,
}

impl AsRef<str> for Passage {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let folder = arguments.next().ok_or("usage: rag FOLDER [DIR]")?;
    let embedder = arguments.next().map_or_else(Embedder::default_model, Embedder::load)?;
    chat(&embedder, Path::new(&folder), io::stdin().lines(), &mut io::stdout())
}

/// Answers questions until there are no more.
pub(crate) fn chat(
    embedder: &Embedder,
    folder: &Path,
    questions: impl Iterator<Item = io::Result<String>>,
    answers: &mut impl Write,
) -> Result<(), Box<dyn Error>> {
    let passages = passages(folder)?;
    let index = Index { passages: &passages, vectors: Mutex::default() };
    writeln!(answers, "{} passages; ask a question a line", passages.len())?;
    thread::scope(|scope| {
        let reading = scope.spawn(|| index.fill(embedder));
        for question in questions {
            index.answer(embedder, &question?, answers)?;
        }
        // Nobody will ask about the rest.
        embedder.shut_down(Shutdown::Return);
        let _ = reading.join();
        Ok(())
    })
}

/// Passages, and the vectors of the first of them.
struct Index<'a> {
    passages: &'a [Passage],
    vectors: Mutex<Vec<Vec<f32>>>,
}

impl Index<'_> {
    fn vectors(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        self.vectors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self, embedder: &Embedder) -> Result<(), mlx_embed::Error> {
        let options = EmbedOptions { lane: Lane::Bulk, ..Default::default() };
        for embedding in embedder.embed_iter(self.passages, &options) {
            self.vectors().push(embedding?.vector);
        }
        Ok(())
    }

    fn answer(
        &self,
        embedder: &Embedder,
        question: &str,
        answers: &mut impl Write,
    ) -> Result<(), Box<dyn Error>> {
        let start = Instant::now();
        let knows_queries = embedder.info().sentence_transformers.prompts.contains_key("query");
        let prompt = if knows_queries { Prompt::Named("query".into()) } else { Prompt::Default };
        let options = EmbedOptions { lane: Lane::Query, prompt, ..Default::default() };
        let query = embedder.submit_one(question, &options).wait()?.vector;
        let embedded = start.elapsed();

        let vectors = self.vectors();
        // The vectors have length 1, so this is their cosine.
        let score = |vector: &Vec<f32>| query.iter().zip(vector).map(|(a, b)| a * b).sum::<f32>();
        let mut best: Vec<(f32, &Passage)> = vectors.iter().map(score).zip(self.passages).collect();
        best.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        for (score, Passage { file, text }) in best.iter().take(BEST) {
            writeln!(answers, "{score:.3} {}: {text}", file.display())?;
        }
        let (known, all, took) = (vectors.len(), self.passages.len(), start.elapsed());
        writeln!(
            answers,
            "      {took:.1?}, of which {embedded:.1?} embedded it; {known} of {all} passages searched"
        )?;
        Ok(())
    }
}

/// Of the text files in the folder and below it.
fn passages(folder: &Path) -> io::Result<Vec<Passage>> {
    let mut passages = Vec::new();
    for file in text_files(folder)? {
        // A file that is not UTF-8 is no text.
        let content = fs::read_to_string(&file).unwrap_or_default();
        let file = file.strip_prefix(folder).unwrap_or(&file);
        let texts = split(&content).into_iter();
        passages.extend(texts.map(|text| Passage { file: file.to_owned(), text }));
    }
    Ok(passages)
}

fn text_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_dir() && !is_hidden && !path.is_symlink() {
            files.extend(text_files(&path)?);
        } else if path.extension().is_some_and(|end| end == "txt" || end == "md") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Sentences in passages of like length, each on one line. A heading goes with what follows.
fn split(content: &str) -> Vec<String> {
    let mut passages = vec![String::new()];
    for paragraph in content.split("\n\n") {
        let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ") + " ";
        for sentence in line.split_inclusive(". ") {
            match passages.last_mut() {
                Some(last) if last.len() + sentence.len() <= PASSAGE => last.push_str(sentence),
                _ => passages.push(sentence.to_owned()),
            }
        }
    }
    passages.retain(|passage| passage.contains(char::is_alphanumeric));
    passages
}
