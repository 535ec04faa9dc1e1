//! The conversation in which Qwen3-Reranker is asked whether a document answers a query. The words are the model's own:
//! it was trained with them.

use serde_json::Value;

use super::json::{self, JsonObject};
use super::{CheckpointError, Doubt};
use crate::file::Files;

/// Before the instruction.
pub(crate) const BEFORE: &str = "<|im_start|>system\nJudge whether the Document meets the requirements based on the \
     Query and the Instruct provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n";
/// What names the three parts.
pub(crate) const PARTS: [&str; 3] = ["<Instruct>: ", "\n<Query>: ", "\n<Document>: "];
/// Behind the document: the answer comes next.
pub(crate) const BEHIND: &str = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";
/// The instruction where nobody gives another.
pub(crate) const INSTRUCTION: &str =
    "Given a web search query, retrieve relevant passages that answer the query";
/// The answers, each one token.
pub(crate) const ANSWERS: [&str; 2] = ["no", "yes"];

const JINJA: &str = "chat_template.jinja";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// A checkpoint's chat template, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Template {
    /// This conversation. The other is whether it has the default instruction, too.
    Judges { default_instruction: bool },
    /// Another, or none.
    Other,
}

impl Template {
    /// The template, and the file and field that it stands in.
    pub(super) fn read(files: &Files) -> Result<(Self, (&'static str, &'static str)), CheckpointError> {
        if let Some(text) = json::read_text(files, JINJA)? {
            return Ok((Self::of(&text), (JINJA, "(the template)")));
        }
        let place = (TOKENIZER_CONFIG, "chat_template");
        let config = JsonObject::open(files, TOKENIZER_CONFIG)?;
        let template = config.as_ref().and_then(|config| config.raw("chat_template"));
        Ok((template.and_then(Value::as_str).map_or(Self::Other, Self::of), place))
    }

    /// A template is a program. One that has all of the conversation's words, in their order, is taken for it.
    fn of(template: &str) -> Self {
        // Inside of a program's strings line ends are written so.
        let text = template.replace("\\n", "\n").replace("\\\"", "\"");
        let words = BEFORE.lines().chain(PARTS.map(str::trim)).chain(BEHIND.lines());
        let mut rest = &text[..];
        for word in words {
            match rest.find(word) {
                Some(at) => rest = &rest[at + word.len()..],
                None => return Self::Other,
            }
        }
        let ends = rest.trim_start_matches('\n');
        let lines = rest.len() - ends.len();
        let as_trained = match ends.chars().next() {
            // Of a text that stands at the end of the file the program loses one.
            None => lines == 3,
            Some('\'' | '"') => lines == 2,
            Some(_) => true,
        };
        if !as_trained {
            return Self::Other;
        }
        Self::Judges { default_instruction: text.contains(INSTRUCTION) }
    }
}

/// The doubt of whoever asks such a checkpoint for vectors.
pub(super) fn doubt(files: &Files) -> Result<Option<Doubt>, CheckpointError> {
    let (template, (file, field)) = Template::read(files)?;
    Ok((template != Template::Other).then(|| {
        Doubt::field(
            files.path(file),
            field,
            "asks whether a document answers a query, so this is a reranker; load it with `Reranker` (mlx-embed rerank)",
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_conversation_is_found_in_a_program_that_writes_it() {
        let program = |instruction: &str| {
            let escape = |text: &str| text.replace('\n', "\\n");
            format!(
                "{{{{ '{}' }}}}{}{{{{ i | default('{instruction}') }}}}{}{{{{ q }}}}{}{{{{ d }}}}{}\n",
                escape(BEFORE),
                PARTS[0],
                PARTS[1],
                PARTS[2],
                BEHIND
            )
        };
        assert_eq!(Template::of(&program(INSTRUCTION)), Template::Judges { default_instruction: true });
        assert_eq!(Template::of(&program("Find it")), Template::Judges { default_instruction: false });
        let quoted = program(INSTRUCTION).replace("</think>\n\n\n", "{{ '</think>\\n\\n' }}");
        assert_eq!(Template::of(&quoted), Template::Judges { default_instruction: true });
        for (word, another) in [("<Document>", "<Text>"), ("</think>\n\n\n", "</think>\n\n")] {
            assert_eq!(Template::of(&program(INSTRUCTION).replace(word, another)), Template::Other);
        }
        assert_eq!(
            Template::of("{% for message in messages %}<|im_start|>{{ message.role }}"),
            Template::Other
        );
    }
}
