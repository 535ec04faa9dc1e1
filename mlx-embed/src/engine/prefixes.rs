//! Which prompts' keys and values are kept.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::model::Model;
use crate::error::Error;

/// Prompts whose texts are counted before they are worth keeping.
const REMEMBERED: usize = 64;

/// Keys and values of prompts, the last used first, bounded in bytes.
#[derive(Debug)]
pub(super) struct Prefixes<P> {
    kept: VecDeque<(Arc<[u32]>, P)>,
    /// Prompts that came once, by hash: two that have the same are kept a text too early, and that is all.
    seen: VecDeque<u64>,
    bytes: usize,
    limit: usize,
}

impl<P> Prefixes<P> {
    pub(super) fn new(limit: usize) -> Self {
        Self { kept: VecDeque::new(), seen: VecDeque::new(), bytes: 0, limit }
    }

    /// The prefix of `prompt`, computed now if it is worth it for a batch of so many texts. `None` where the texts had
    /// better run as they are: a prompt's first text alone is done sooner that way, and most prompts that differ each
    /// time never come again.
    pub(super) fn get<M: Model<Prefix = P>>(
        &mut self,
        model: &M,
        prompt: &Arc<[u32]>,
        texts: usize,
    ) -> Result<Option<&P>, Error> {
        if let Some(at) = self.kept.iter().position(|(ids, _)| ids == prompt) {
            if let Some(used) = self.kept.remove(at) {
                self.kept.push_front(used);
            }
        } else {
            let bytes = bytes(model, prompt);
            if bytes > self.limit || (texts < 2 && !self.is_second(prompt)) {
                return Ok(None);
            }
            while self.bytes > self.limit - bytes {
                let Some((oldest, _)) = self.kept.pop_back() else { break };
                self.bytes -= self::bytes(model, &oldest);
            }
            self.kept.push_front((Arc::clone(prompt), model.prefix(prompt)?));
            self.bytes += bytes;
        }
        Ok(self.kept.front().map(|(_, prefix)| prefix))
    }

    fn is_second(&mut self, prompt: &[u32]) -> bool {
        let mut hasher = DefaultHasher::new();
        prompt.hash(&mut hasher);
        let hash = hasher.finish();
        if let Some(at) = self.seen.iter().position(|&seen| seen == hash) {
            self.seen.remove(at);
            return true;
        }
        if self.seen.len() == REMEMBERED {
            self.seen.pop_front();
        }
        self.seen.push_back(hash);
        false
    }
}

/// What a kept prompt takes, its key included.
fn bytes<M: Model>(model: &M, prompt: &[u32]) -> usize {
    model.prefix_bytes(prompt.len()).saturating_add(size_of_val(prompt))
}
