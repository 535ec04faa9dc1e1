//! The conversation in which Qwen3-Reranker is asked whether a document answers a query. The words are the model's own:
//! it was trained with them.

use serde_json::Value;

use super::jinja::{self, Token, Written};
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
    /// One with its words, and more than these, or of another order or form.
    Similar,
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

    /// A template is a program. One that writes the conversation and does nothing else is this one.
    fn of(template: &str) -> Self {
        match conversation(template) {
            Some(default_instruction) => Self::Judges { default_instruction },
            None if looks_like(template) => Self::Similar,
            None => Self::Other,
        }
    }
}

/// Whether the default instruction is in the template, which has to write the conversation, and the pair as it is.
fn conversation(template: &str) -> Option<bool> {
    let written = jinja::written(template)?;
    // An instruction that the template doesn't take from anywhere is part of the text.
    let default = [BEFORE, PARTS[0], INSTRUCTION, PARTS[1]].concat();
    let (default_instruction, pair) = match &written[..] {
        [Written::Text(before), pair @ ..] if *before == default => (true, pair),
        [Written::Text(before), Written::Value(instruction), Written::Text(query), pair @ ..]
            if *before == [BEFORE, PARTS[0]].concat() && query == PARTS[1] =>
        {
            (message(instruction, &["system", "instruction"])?.contains(&INSTRUCTION), pair)
        }
        _ => return None,
    };
    let [Written::Value(query), Written::Text(between), Written::Value(document), Written::Text(behind)] =
        pair
    else {
        return None;
    };
    let is = |value, role| message(value, &[role]).is_some_and(|others| others.is_empty());
    (between == PARTS[2] && behind == BEHIND && is(query, "query") && is(document, "document"))
        .then_some(default_instruction)
}

/// The strings in an expression besides these roles and what finds a message's content, if it does nothing else.
fn message<'a>(value: &'a [Token], roles: &[&str]) -> Option<Vec<&'a str>> {
    const WORDS: &str = "messages selectattr map attribute first list default d content text role true 0";
    const SIGNS: &str = "|()[]=,.";
    const STRINGS: [&str; 6] = ["role", "eq", "equalto", "==", "content", "text"];
    let known = |token: &Token| match token {
        Token::Text(_) => true,
        Token::Word(word) => WORDS.split(' ').any(|known| known == word),
        Token::Sign(sign) => SIGNS.contains(*sign),
    };
    let strings = || {
        value.iter().filter_map(|token| match token {
            Token::Text(text) => Some(&text[..]),
            _ => None,
        })
    };
    (value.iter().all(known) && strings().any(|text| roles.contains(&text)))
        .then(|| strings().filter(|text| ![roles, &STRINGS, &[""]].concat().contains(text)).collect())
}

/// Whether a template has all of the conversation's words, in their order.
fn looks_like(template: &str) -> bool {
    // Inside of a program's strings line ends are written so.
    let text = template.replace("\\n", "\n").replace("\\\"", "\"");
    let words = BEFORE.lines().chain(PARTS.map(str::trim)).chain(BEHIND.lines());
    let mut rest = &text[..];
    for word in words {
        match rest.find(word) {
            Some(at) => rest = &rest[at + word.len()..],
            None => return false,
        }
    }
    true
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

    const TEMPLATE: &str = r#"{# Of a pair. #}
{%- set query = messages | selectattr("role", "eq", "query") | map(attribute="content") | first -%}
<|im_start|>system
Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: {{ messages | selectattr("role", "eq", "system") | map(attribute="content") | first
    | default("Given a web search query, retrieve relevant passages that answer the query") }}
<Query>: {{ query }}
<Document>: {{ (messages | selectattr("role", "eq", "document") | first).content[0].text }}<|im_end|>
<|im_start|>assistant
<think>

</think>


"#;

    #[test]
    fn the_conversation_is_found_in_a_program_that_writes_it() {
        let judges = |template: &str, default_instruction| {
            assert_eq!(Template::of(template), Template::Judges { default_instruction }, "{template}");
        };
        judges(TEMPLATE, true);
        judges(&TEMPLATE.replace('\n', "\r\n"), true);
        judges(&TEMPLATE.replace(INSTRUCTION, "Find it"), false);
        judges(&TEMPLATE.replace("</think>\n\n\n", "{{ '</think>\\n' + '\\n' }}"), true);
        judges(&TEMPLATE.replace("<Query>: {{ query }}\n", "<Query>: {{ query + '\\n' -}}\n  "), true);
        let value = TEMPLATE.split_once("<Instruct>: {{").unwrap().1.split_once("}}").unwrap().0;
        judges(&TEMPLATE.replace(&format!("{{{{{value}}}}}"), INSTRUCTION), true);
    }

    #[test]
    fn a_program_that_writes_something_else_with_the_same_words_is_another() {
        let document = r#"{{ (messages | selectattr("role", "eq", "document") | first).content[0].text }}"#;
        for (word, another) in [
            ("</think>\n\n\n", "</think>\n\n"),
            ("</think>\n\n\n", "</think>\n\n\n\n"),
            ("</think>", "</think> Answer:"),
            ("<Query>: ", "<Query>:"),
            ("<Query>:", "Think hard.\n<Query>:"),
            ("<|im_start|>system", "Hello<|im_start|>system"),
            ("{{ query }}", "{{ query | upper }}"),
            ("{{ query }}", "{{ query[:100] }}"),
            ("{{ query }}", "{{ question }}"),
            ("{{ query }}", "{{ query }}{{ query }}"),
            ("{{ query }}", ""),
            ("{{ query }}", document),
            (document, "{{ query }}"),
            (document, "{% if true %}{{ query }}{% endif %}"),
            ("<|im_start|>system", "{% if messages %}<|im_start|>system"),
        ] {
            let template = TEMPLATE.replace(word, another);
            assert_ne!(template, TEMPLATE, "{word}");
            assert_eq!(Template::of(&template), Template::Similar, "{word} {another}");
        }
        for template in
            ["{% for message in messages %}<|im_start|>{{ message.role }}", "", "{{", "{{ '", "{%"]
        {
            assert_eq!(Template::of(template), Template::Other, "{template}");
        }
        // Variables of variables end.
        let doubled = (0..64).map(|n| format!("{{% set v{} = v{n} ~ v{n} %}}", n + 1));
        let template = format!("{{% set v0 = 'a' %}}{}{{{{ v64 }}}}", doubled.collect::<String>());
        assert_eq!(Template::of(&template), Template::Other);
        for tag in ["{{ a }}", "{# a #}", "{% set a = b %}", "{ {"] {
            assert_eq!(Template::of(&tag.repeat(1 << 18)), Template::Other);
        }
    }
}
