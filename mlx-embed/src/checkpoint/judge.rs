//! The conversation in which a causal decoder is asked whether a document answers a query: a checkpoint's own, by its chat
//! template, or Qwen3-Reranker's, whose first releases came without. The words are the model's own: it was trained with
//! them.

use serde_json::Value;

use super::jinja::{self, Token, Written};
use super::json::{self, JsonObject};
use super::{CheckpointError, Doubt, sentence_transformers};
use crate::file::Files;

/// Before the instruction.
const BEFORE: &str = "<|im_start|>system\nJudge whether the Document meets the requirements based on the \
     Query and the Instruct provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n";
/// What names the three parts.
const PARTS: [&str; 3] = ["<Instruct>: ", "\n<Query>: ", "\n<Document>: "];
/// Behind the document: the answer comes next.
const BEHIND: &str = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";
/// The instruction where nobody gives another.
const INSTRUCTION: &str = "Given a web search query, retrieve relevant passages that answer the query";
/// The answers, each one token.
pub(crate) const ANSWERS: [&str; 2] = ["no", "yes"];

const JINJA: &str = "chat_template.jinja";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// The words around a query and a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conversation {
    /// Before the instruction, or before the query where none has a place.
    pub(crate) before: String,
    pub(crate) instruction: Option<Instruction>,
    /// Between query and document.
    pub(crate) between: String,
    pub(crate) behind: String,
}

/// The place of an instruction before the query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instruction {
    /// What stands there if nobody says more.
    pub(crate) default: Option<String>,
    /// Between instruction and query.
    pub(crate) behind: String,
}

impl Conversation {
    /// Qwen3-Reranker's.
    pub(crate) fn qwen3() -> Self {
        let instruction = Instruction { default: Some(INSTRUCTION.into()), behind: PARTS[1].into() };
        Self {
            before: [BEFORE, PARTS[0]].concat(),
            instruction: Some(instruction),
            between: PARTS[2].into(),
            behind: BEHIND.into(),
        }
    }

    /// Whether it has Qwen3-Reranker's words, whatever its instruction.
    pub(crate) fn is_qwen3(&self) -> bool {
        let other = Self::qwen3();
        let place = |of: &Self| of.instruction.as_ref().map(|instruction| instruction.behind.clone());
        let words = |of: &Self| (place(of), of.between.clone(), of.behind.clone());
        let fixed = self.before == [BEFORE, PARTS[0], INSTRUCTION, PARTS[1]].concat();
        let with_place = self.before == other.before && words(self) == words(&other);
        with_place || fixed && (&self.between, &self.behind) == (&other.between, &other.behind)
    }
}

/// What a message's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The text.
    Flat,
    /// A list of parts, each with its type.
    Structured,
}

impl Form {
    /// The form that sentence-transformers gives messages, unless a file says it.
    fn of(template: &str) -> Self {
        let parts = ["content[0]", ".type", "'type'", "\"type\"", "message.content["];
        if parts.iter().any(|part| template.contains(part)) { Self::Structured } else { Self::Flat }
    }

    /// As files name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::Structured => "structured",
        }
    }
}

/// A checkpoint's chat template, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Template {
    /// One that writes a query and a document.
    Asks(Conversation),
    /// One with Qwen3-Reranker's words, and more than these, or of another order or form.
    Similar,
    /// One that reads messages in another form than the given one, and would write what no model was trained with.
    OfAnotherForm(Form),
    /// Another, or none.
    Other,
}

impl Template {
    /// The template, and the file and field that it stands in.
    pub(super) fn read(files: &Files) -> Result<(Self, (&'static str, &'static str)), CheckpointError> {
        let generates = sentence_transformers::generates(files)?;
        let form = sentence_transformers::form_of_messages(files)?;
        if let Some(text) = json::read_text(files, JINJA)? {
            return Ok((Self::of(&text, generates, form), (JINJA, "(the template)")));
        }
        let place = (TOKENIZER_CONFIG, "chat_template");
        let config = JsonObject::open(files, TOKENIZER_CONFIG)?;
        let template = config.as_ref().and_then(|config| config.raw("chat_template"));
        let template = template.and_then(Value::as_str);
        Ok((template.map_or(Self::Other, |template| Self::of(template, generates, form)), place))
    }

    /// A template is a program. One that writes a conversation and does nothing else is followed.
    fn of(template: &str, generates: bool, form: Option<Form>) -> Self {
        let form = form.unwrap_or_else(|| Form::of(template));
        match conversation(template, generates) {
            Some((_, forms)) if forms.iter().any(|of| *of != form) => Self::OfAnotherForm(form),
            Some((conversation, _)) => Self::Asks(conversation),
            None if looks_like(template) => Self::Similar,
            None => Self::Other,
        }
    }
}

/// What the template writes, where that is an instruction, a query and a document in this order, as they are, and the forms
/// in which it reads them.
fn conversation(template: &str, generates: bool) -> Option<(Conversation, Vec<Form>)> {
    let written = jinja::written(template, generates)?;
    let mut forms = Vec::new();
    let mut is = |value: &[Token], role| {
        message(value, &[role]).is_some_and(|(others, form)| {
            forms.push(form);
            others.is_empty()
        })
    };
    let mut rest = &written[..];
    let before = text(&mut rest);
    let (mut instruction, mut of_instruction) = (None, None);
    if let [Written::Value(value), after @ ..] = rest
        && let Some((defaults, form)) = message(value, &["system", "instruction"])
    {
        rest = after;
        of_instruction = Some(form);
        let default = match defaults[..] {
            [] => None,
            [default] => Some(default.to_owned()),
            _ => return None,
        };
        instruction = Some(Instruction { default, behind: text(&mut rest) });
    }
    let [Written::Value(query), rest @ ..] = rest else { return None };
    let mut rest = rest;
    let between = text(&mut rest);
    let [Written::Value(document), rest @ ..] = rest else { return None };
    let mut rest = rest;
    let behind = text(&mut rest);
    let reads = rest.is_empty() && is(query, "query") && is(document, "document");
    forms.extend(of_instruction);
    reads.then_some((Conversation { before, instruction, between, behind }, forms))
}

/// The text that comes next, if there is one.
fn text(rest: &mut &[Written]) -> String {
    match *rest {
        [Written::Text(text), after @ ..] => {
            *rest = after;
            text.clone()
        }
        _ => String::new(),
    }
}

/// The strings in an expression besides these roles and what finds a message's content, if it does nothing else, and the form
/// that the content has to have.
fn message<'a>(value: &'a [Token], roles: &[&str]) -> Option<(Vec<&'a str>, Form)> {
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
    // Without it the whole message would be written.
    let names =
        |token: &Token, name: &str| matches!(token, Token::Text(text) | Token::Word(text) if text == name);
    let has = |name: &str| value.iter().any(|token| names(token, name));
    let finds = value.iter().all(known) && has("content");
    let form = if has("text") { Form::Structured } else { Form::Flat };
    (finds && strings().any(|text| roles.contains(&text)))
        .then(|| (strings().filter(|text| ![roles, &STRINGS, &[""]].concat().contains(text)).collect(), form))
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
<Document>: {{ (messages | selectattr("role", "eq", "document") | first).content }}<|im_end|>
<|im_start|>assistant
<think>

</think>


"#;

    #[test]
    fn the_conversation_is_found_in_a_program_that_writes_it() {
        let judges = |template: &str, default_instruction| {
            let Template::Asks(conversation) = Template::of(template, false, None) else {
                panic!("{template}")
            };
            assert!(conversation.is_qwen3(), "{template}");
            let instruction = conversation.instruction.map_or(Some(INSTRUCTION.into()), |it| it.default);
            assert_eq!(instruction.as_deref() == Some(INSTRUCTION), default_instruction, "{template}");
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
    fn the_one_condition_is_whether_an_answer_begins() {
        let query =
            r#"{{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}"#;
        let document = query.replace("query", "document");
        let template = format!("a {query} b {document} c{{% if add_generation_prompt %}} d{{% endif %}} e");
        for (generates, behind) in [(true, " c d e"), (false, " c e")] {
            let Template::Asks(conversation) = Template::of(&template, generates, None) else { panic!() };
            let [before, between] = ["a ", " b "].map(String::from);
            let expected = Conversation { before, instruction: None, between, behind: behind.into() };
            assert_eq!(conversation, expected);
        }
        for (word, another) in [
            ("{% endif %}", ""),
            ("{% endif %}", "{% endif %}{% endif %}"),
            ("{% if add", "{% if not add"),
            (" d{%", "{% set d = 'd' %}{%"),
            (" d{%", "{% if add_generation_prompt %}{% endif %}{%"),
            ("{% endif %}", "{% else %}f{% endif %}"),
            ("query", "document"),
            (r#" | map(attribute="content")"#, ""),
        ] {
            let template = template.replace(word, another);
            assert_eq!(Template::of(&template, true, None), Template::Other, "{template}");
        }
    }

    /// Where contents are lists of parts, a template that writes them whole writes Python's form of a list.
    #[test]
    fn messages_have_one_form() {
        let content = |role: &str, content: &str| {
            format!(r#"{{{{ (messages | selectattr("role", "eq", "{role}") | first).{content} }}}}"#)
        };
        let template = |query: &str, document: &str| {
            format!("a {} b {}", content("query", query), content("document", document))
        };
        let asks = |template: &str, form| matches!(Template::of(template, false, form), Template::Asks(_));
        let (flat, parts) = ("content", "content[0].text");
        assert!(asks(&template(flat, flat), None));
        assert!(asks(&template(flat, flat), Some(Form::Flat)));
        assert!(!asks(&template(flat, flat), Some(Form::Structured)));
        assert!(asks(&template(parts, parts), None));
        assert!(asks(&template(parts, parts), Some(Form::Structured)));
        assert!(!asks(&template(parts, parts), Some(Form::Flat)));
        for form in [None, Some(Form::Flat), Some(Form::Structured)] {
            assert!(!asks(&template(flat, parts), form), "{form:?}");
        }
        // By these words sentence-transformers takes contents for lists.
        let of_a_type = template(flat, flat).replace("a {{", "the 'type' {{");
        assert_eq!(Template::of(&of_a_type, false, None), Template::OfAnotherForm(Form::Structured));
    }

    #[test]
    fn a_program_that_writes_something_else_with_the_same_words_is_another() {
        let document = r#"{{ (messages | selectattr("role", "eq", "document") | first).content }}"#;
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
            match Template::of(&template, false, None) {
                Template::Asks(conversation) => assert!(!conversation.is_qwen3(), "{word} {another}"),
                other => assert_eq!(other, Template::Similar, "{word} {another}"),
            }
        }
        for template in
            ["{% for message in messages %}<|im_start|>{{ message.role }}", "", "{{", "{{ '", "{%"]
        {
            assert_eq!(Template::of(template, false, None), Template::Other, "{template}");
        }
        // Variables of variables end.
        let doubled = (0..64).map(|n| format!("{{% set v{} = v{n} ~ v{n} %}}", n + 1));
        let template = format!("{{% set v0 = 'a' %}}{}{{{{ v64 }}}}", doubled.collect::<String>());
        assert_eq!(Template::of(&template, false, None), Template::Other);
        for tag in ["{{ a }}", "{# a #}", "{% set a = b %}", "{ {"] {
            assert_eq!(Template::of(&tag.repeat(1 << 18), false, None), Template::Other);
        }
    }
}
