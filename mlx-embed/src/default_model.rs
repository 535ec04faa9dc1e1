//! The model that this crate carries: the files of `models/default`, as `tools/distill` writes them.

use crate::file::EmbeddedFiles;

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_bytes!(concat!("../models/default/", $name)))),+]
    };
}

pub(crate) static FILES: EmbeddedFiles = EmbeddedFiles {
    name: "(built-in model)",
    files: files![
        "1_Pooling/config.json",
        "config.json",
        "golden.safetensors",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ],
};
