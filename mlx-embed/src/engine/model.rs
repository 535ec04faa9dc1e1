//! What the engine runs: a model as it sees one.

use super::Output;
use crate::batch::Entry;
use crate::error::{Error, InputError};

/// A text's result each, or why it has none.
pub(crate) type Outputs = Vec<Result<Output, InputError>>;

/// What the engine asks of a model. It stays on the thread that made it.
pub(crate) trait Model: 'static {
    /// Keys and values of tokens that many texts begin with.
    type Prefix;

    /// What of the model is seen by those who ask for something else than vectors.
    type Seen: ?Sized + 'static;

    fn seen(&self) -> &Self::Seen;

    fn prefix(&self, ids: &[u32]) -> Result<Self::Prefix, Error>;

    /// Bytes that a prefix of so many tokens takes at most.
    fn prefix_bytes(&self, tokens: usize) -> usize;

    /// One result a text, in order, neither cut nor normalised. `texts` are what follows the first tokens of the
    /// prefix, so many as the number beside it says; how many tokens pooling leaves out is one number for all.
    fn embed_batch(
        &self,
        texts: &[Entry<'_>],
        prefix: Option<(&Self::Prefix, usize)>,
    ) -> Result<Outputs, Error>;

    /// Whether it still can give results, asked after a failure: its device computes, and its weights are what they were.
    /// Else the reason.
    fn check(&self) -> Result<(), String>;

    /// Frees the model.
    fn unload(self);

    /// Whether the thread on which a model was loaded or failed to may end. If not it sleeps on, with what it holds.
    fn may_end_thread() -> bool;
}
