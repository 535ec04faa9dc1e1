//! What a reranker's files say of how a pair becomes a score.

use super::json::JsonObject;
use super::judge::{Conversation, Template};
use super::sentence_transformers::CrossEncoder;
use super::spec::{HeadSpec, Logits, ModelSpec, PartSpec, ProjectionSpec, StepSpec};
use super::{Architecture, CheckpointError, DenseActivation, SentenceTransformers};
use crate::file::Files;

/// How a query and a document become one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pairs {
    /// By the tokenizer's template of a pair.
    Tokenizer,
    /// As a conversation.
    Asked(Conversation),
}

/// How a pair becomes a score.
#[derive(Debug, Clone)]
pub(crate) struct Scoring {
    pub(crate) pairs: Pairs,
    /// Of the pair's logit.
    pub(crate) activation: DenseActivation,
    /// Who says so.
    pub(crate) activation_by: String,
    /// Ids of the answers that the files name, the one for a document last. Without any they are [`ANSWERS`](super::judge::ANSWERS).
    pub(crate) answers: Option<Vec<u32>>,
    /// Whether logits are those of answers.
    pub(crate) is_answered: bool,
}

impl Scoring {
    pub(super) fn read(
        files: &Files,
        config: &JsonObject,
        head: &HeadSpec,
        cross_encoder: &CrossEncoder,
        sentence_transformers: &SentenceTransformers,
    ) -> Result<Self, CheckpointError> {
        let is_answered = matches!(head.logits, Logits::Answers(_));
        let architecture = Architecture::read(config)?;
        let (activation, activation_by) = activation(config, cross_encoder)?;
        let pairs = if architecture.is_decoder() {
            let of_the_first = is_answered && architecture == Architecture::Qwen3;
            decoder_pairs(files, of_the_first, cross_encoder, sentence_transformers)?
        } else {
            Pairs::Tokenizer
        };
        Ok(Self { pairs, activation, activation_by, answers: cross_encoder.answers.clone(), is_answered })
    }
}

/// What a decoder reads. A tokenizer's template of a pair has nothing that tells a query from a document there, so
/// something has to say what the model was trained with.
fn decoder_pairs(
    files: &Files,
    of_the_first: bool,
    cross_encoder: &CrossEncoder,
    sentence_transformers: &SentenceTransformers,
) -> Result<Pairs, CheckpointError> {
    let (template, (file, field)) = Template::read(files)?;
    let invalid = |reason: String| {
        Err(CheckpointError::InvalidField { path: files.path(file), field: field.into(), reason })
    };
    match (template, cross_encoder.messages) {
        (_, Some(false)) => Ok(Pairs::Tokenizer),
        (Template::Asks(conversation), _) => {
            let lacks_default = conversation.instruction.as_ref().is_some_and(|it| it.default.is_none());
            if lacks_default && sentence_transformers.default_prompt().is_none() {
                return invalid(
                    "has a place for an instruction, and none of its own; write one as a prompt into \
                     config_sentence_transformers.json, name it there as default_prompt_name with a model_type of \
                     CrossEncoder, and put a modules.json beside it, without which that file is not read"
                        .into(),
                );
            }
            Ok(Pairs::Asked(conversation))
        }
        // The first of these models came without a word on it.
        (Template::Other, None) if of_the_first => Ok(Pairs::Asked(Conversation::qwen3())),
        (Template::OfAnotherForm(form), _) => invalid(format!(
            "reads contents of messages in another form than sentence-transformers gives it, which is `{}` by \
             modality_config.message.format of sentence_bert_config.json or, without that, by the template; let all \
             contents be read as `content` where it is `flat`, and as `content[0].text` where it is `structured`",
            form.name()
        )),
        (Template::Similar | Template::Other, _) => invalid(
            "does not write a query and a document with words around them alone, as Qwen3-Reranker's does, and how else \
             the two become one text is not known; put a chat_template.jinja here that does"
                .into(),
        ),
    }
}

/// The activation of a logit as CrossEncoder finds it.
fn activation(
    config: &JsonObject,
    cross_encoder: &CrossEncoder,
) -> Result<(DenseActivation, String), CheckpointError> {
    if let Some(activation) = cross_encoder.activation {
        return Ok((activation, "config_sentence_transformers.json (activation_fn)".into()));
    }
    let inner = config.object("sentence_transformers")?;
    let old = "sbert_ce_default_activation_function";
    for (object, field) in [(inner.as_ref(), "activation_fn"), (Some(config), old)] {
        let Some(object) = object else { continue };
        if let Some(activation) = DenseActivation::named(object, field)? {
            return Ok((activation, format!("config.json ({})", object.name(field))));
        }
    }
    Ok((DenseActivation::Sigmoid, "default of one label, as no file says it".into()))
}

/// Gives the model the rows of its answers' tokens as its last step.
pub(super) fn answer(spec: &mut ModelSpec, ids: &[u32]) {
    if let Some(HeadSpec { logits: Logits::Answers(table), .. }) = &spec.head {
        let part = |&id: &u32| PartSpec {
            path: table.path.clone(),
            rows: id as usize..id as usize + 1,
            of: table.rows,
            bias: false,
        };
        let projection = ProjectionSpec { parts: ids.iter().map(part).collect(), inputs: table.width };
        spec.behind = vec![StepSpec::Dense { projection, activation: DenseActivation::Identity }];
    }
}
