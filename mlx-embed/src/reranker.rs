//! The public handle of a reranker.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, DenseActivation};
use crate::engine::{Computed, Outcome};
use crate::error::{Error, InputError};
use crate::handle::handle;
use crate::options::{LoadOptions, Ranked, RerankOptions};
use crate::request::{
    self, Before, Finish, Pending, Plan, Query, Reply, Results, Sending, Shared, unless_one_failed,
};
use crate::text::Prompt;

/// Scores how well documents answer a query. Its model is a cross-encoder, which reads query and document together.
///
/// It is a handle as [`Embedder`](crate::Embedder) is, on the same engine. What is said there of clones, of what runs
/// when, of ends and of metrics holds here for pairs of query and document. Where attention is causal, the beginning
/// that all pairs of a query share is computed once.
///
/// A pair that is longer than [`Info::max_tokens`](crate::Info::max_tokens) loses the end of its document, and its result says so. A query that
/// leaves no room for a document is an error. An empty document has a score.
///
/// # Calls
///
/// | block | return a [`Pending`], a future | |
/// | --- | --- | --- |
/// | [`rerank`](Self::rerank), [`rerank_with`](Self::rerank_with) | [`submit`](Self::submit) | the best first, all or nothing |
/// | [`rerank_each`](Self::rerank_each) | [`submit_each`](Self::submit_each) | a result each, in the documents' order |
///
/// # Example
///
/// ```no_run
/// use mlx_embed::Reranker;
///
/// let reranker = Reranker::load("path/to/bge-reranker-v2-m3")?;
/// let documents = ["Crabs walk sideways.", "Roses stay open for five to seven days."];
/// for ranked in reranker.rerank("How long do roses stay open?", &documents)? {
///     println!("{:.3} {}", ranked.score, documents[ranked.index]);
/// }
/// # Ok::<(), mlx_embed::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Reranker {
    shared: Arc<Shared>,
}

/// The tokens of a pair, as the model sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PairTokens {
    /// Token ids of query and document in one sequence, special tokens included.
    pub ids: Vec<u32>,
    /// The type of each token: 1 in the second part of the pair where the model tells the parts apart, else 0.
    pub types: Vec<u32>,
    /// Whether the document was cut to fit the limit.
    pub truncated: bool,
}

impl Reranker {
    /// Loads a checkpoint directory: one of transformers' sequence classifiers with one label, or a Qwen3-Reranker.
    ///
    /// A `Qwen3ForCausalLM` is taken for a reranker, since its config can't tell one from a chat model. Beside an
    /// embedder's `modules.json` that is an error.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the model is of a kind that isn't supported, such as an embedder. The
    /// message names the file.
    pub fn load(dir: impl AsRef<Path>) -> Result<Self, Error> {
        Self::load_with(dir, LoadOptions::default())
    }

    /// As [`Reranker::load`], with options. [`LoadOptions::pooling`] and [`LoadOptions::end_token`] can't be chosen
    /// here: they belong to the reranker.
    ///
    /// # Errors
    /// As [`Reranker::load`], and when an option doesn't fit the model or the machine.
    pub fn load_with(dir: impl AsRef<Path>, options: LoadOptions) -> Result<Self, Error> {
        Self::of_checkpoint(Self::open(dir.as_ref())?, &options, Arc::default())
    }

    /// Checks whether options fit the model, before there is anything to rerank.
    ///
    /// # Errors
    /// When an option doesn't fit; the message says what would.
    pub fn check_options(&self, options: &RerankOptions) -> Result<(), Error> {
        self.plan("", 1, options, false).map(|_| ())
    }

    /// Scores documents with the checkpoint's own settings, the best first. [`Ranked::index`] is the document's place in
    /// the call.
    ///
    /// A document's score does not depend on the others in the call.
    ///
    /// # Errors
    /// When there are no documents, the query leaves no room for one, or the model fails.
    pub fn rerank<T: AsRef<str>>(&self, query: &str, documents: &[T]) -> Result<Vec<Ranked>, Error> {
        self.rerank_with(query, documents, &RerankOptions::default())
    }

    /// As [`Reranker::rerank`], with options.
    ///
    /// # Errors
    /// As [`Reranker::rerank`], and when an option doesn't fit the model, the queue is full, or the timeout has passed.
    pub fn rerank_with<T: AsRef<str>>(
        &self,
        query: &str,
        documents: &[T],
        options: &RerankOptions,
    ) -> Result<Vec<Ranked>, Error> {
        sorted(self.rerank_each(query, documents, options)?, options.top_n)
    }

    /// As [`Reranker::rerank_with`], but each document has a result of its own, in the documents' order: one that can't
    /// be scored fails alone. [`RerankOptions::top_n`] is ignored.
    ///
    /// # Errors
    /// When there are no documents, the query leaves no room for one, an option doesn't fit the model, the model fails
    /// as a whole, the queue is full, or the timeout has passed.
    pub fn rerank_each<T: AsRef<str>>(
        &self,
        query: &str,
        documents: &[T],
        options: &RerankOptions,
    ) -> Result<Vec<Result<Ranked, InputError>>, Error> {
        let plan = self.plan(query, documents.len(), options, false);
        self.shared.call(documents, plan, options.timeout).map(numbered)
    }

    /// Queues pairs and returns at once. The result can be awaited, or waited for. Errors of the query, of the options
    /// and of the queue come as the result, too.
    pub fn submit<T: AsRef<str>>(
        &self,
        query: &str,
        documents: &[T],
        options: &RerankOptions,
    ) -> Pending<Vec<Ranked>> {
        let plan = self.plan(query, documents.len(), options, true);
        self.shared.send(documents, plan, Sending::later(options.timeout), best)
    }

    /// As [`Reranker::submit`], but each document has a result of its own, in the documents' order: one that can't be
    /// scored fails alone.
    pub fn submit_each<T: AsRef<str>>(
        &self,
        query: &str,
        documents: &[T],
        options: &RerankOptions,
    ) -> Pending<Vec<Result<Ranked, InputError>>> {
        let plan = self.plan(query, documents.len(), options, true);
        self.shared.send(documents, plan, Sending::later(options.timeout), each)
    }

    /// The tokens of a pair, as the model sees them.
    ///
    /// # Errors
    /// When the query leaves no room for a document, or one of the two can't be tokenised.
    pub fn tokens(&self, query: &str, document: &str, options: &RerankOptions) -> Result<PairTokens, Error> {
        let Shared { text, info, .. } = &*self.shared;
        let query = self.query(query, options)?;
        let frame = query.frame(&self.shared).map_err(|source| Error::Query { source })?;
        let input = |source| Error::Input { index: 0, source };
        // Without a reason to stop there always is a result.
        let tokens = frame.encode(text, document, info.max_tokens, &|| false);
        let tokens = tokens.unwrap_or(Err(InputError::Empty)).map_err(input)?;
        let second = tokens.second.unwrap_or(tokens.ids.len());
        let types = (0..tokens.ids.len()).map(|at| u32::from(at >= second)).collect();
        Ok(PairTokens { types, ids: tokens.ids, truncated: tokens.truncated })
    }

    /// All hidden states of one pair, f32 `[tokens, hidden]` each: after the embedding, after each layer and after the
    /// final norm, as [`Embedder::hidden_states`](crate::Embedder::hidden_states) has them for a text.
    ///
    /// # Errors
    /// When there are no ids or more than [`Info::max_tokens`](crate::Info::max_tokens), an id is outside the vocabulary, a type is one that the
    /// model does not have, or the model fails.
    pub fn hidden_states(&self, pair: &PairTokens) -> Result<Vec<Vec<f32>>, Error> {
        self.shared.hidden_states(pair.marked(&self.shared)?)
    }

    fn plan(
        &self,
        query: &str,
        documents: usize,
        options: &RerankOptions,
        refuse: bool,
    ) -> Result<Plan, Error> {
        let RerankOptions { top_n, activation, lane, when_full, .. } = *options;
        if documents == 0 {
            let reason = "are none; a pair needs a document, so give at least one".into();
            return Err(Error::Option { option: "documents", reason });
        }
        let own = self.info().reranker.as_ref().map(|reranker| reranker.activation);
        let activation = activation.or(own).unwrap_or(DenseActivation::Sigmoid);
        let before = Before::Query(Arc::new(self.query(query, options)?));
        let finish = Finish { activation: Some(activation), top_n, ..Finish::default() };
        Ok(Plan::new(before, finish, documents, lane, when_full, refuse))
    }

    fn query(&self, query: &str, options: &RerankOptions) -> Result<Query, Error> {
        let given = !matches!(options.instruction, Prompt::Default | Prompt::None | Prompt::IfNamed(_));
        if given && self.shared.pairs.as_ref().is_some_and(|pairs| !pairs.takes_instruction()) {
            let reason =
                "is given, but this reranker's chat template has no place for one; leave it out".into();
            return Err(Error::Option { option: "instruction", reason });
        }
        Ok(Query::new(self.shared.prompts.resolve(&options.instruction)?, query))
    }
}

handle!(Reranker, Checkpoint::open_reranker, "pairs");

impl PairTokens {
    /// With the marks that say which tokens are of type 1.
    pub(crate) fn marked(&self, shared: &Shared) -> Result<Vec<u32>, Error> {
        shared.check_ids(&self.ids).map_err(|source| Error::Input { index: 0, source })?;
        let types = shared.check_types(&self.types, self.ids.len());
        let second = types.map_err(|reason| Error::Option { option: "types", reason })?;
        Ok(request::marked(self.ids.clone(), second, None))
    }
}

impl Reply for Ranked {
    /// Which of the documents it is of is for [`numbered`] to say.
    fn of(computed: Computed, finish: &Finish) -> Self {
        let Computed { output, ids, truncated, cached, queue_time, device_time } = computed;
        let logit = logit(&output.to_numbers());
        let activation = finish.activation.and_then(DenseActivation::function);
        let score = match activation {
            Some(activation) if logit.is_finite() => activation(logit),
            _ => logit,
        };
        Self { index: 0, score, tokens: ids.len(), truncated, cached, queue_time, device_time }
    }
}

/// All documents' scores, the best first.
fn best(outcomes: Vec<Outcome>, finish: &Finish) -> Result<Vec<Ranked>, Error> {
    sorted(each(outcomes, finish)?, finish.top_n)
}

/// Each document's score.
fn each(outcomes: Vec<Outcome>, finish: &Finish) -> Result<Results<Ranked>, Error> {
    request::each(outcomes, finish).map(numbered)
}

/// Results with their documents' places, in whose order they are.
fn numbered(results: Results<Ranked>) -> Results<Ranked> {
    let number = |(index, result): (usize, Result<Ranked, InputError>)| match result? {
        ranked if ranked.score.is_finite() => Ok(Ranked { index, ..ranked }),
        _ => Err(InputError::NotFinite),
    };
    results.into_iter().enumerate().map(number).collect()
}

/// The best first, and no more than wanted.
fn sorted(results: Results<Ranked>, top_n: Option<NonZeroUsize>) -> Result<Vec<Ranked>, Error> {
    let mut ranked = unless_one_failed(results)?;
    // Stable: of equal scores the first document is first.
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    ranked.truncate(top_n.map_or(usize::MAX, NonZeroUsize::get));
    Ok(ranked)
}

/// A pair's one logit: the label's or the answer's, or by how much that of the right answer is above the wrong one's. The
/// sigmoid of the latter is the softmax of the two.
pub(crate) fn logit(logits: &[f32]) -> f32 {
    match logits {
        [wrong, right] => right - wrong,
        [logit] => *logit,
        _ => f32::NAN,
    }
}
