//! Copies of golden checkpoints that a test may damage.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::{files, golden};

/// Dtype, shape and bytes of tensors by name.
pub type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A checkpoint directory that disappears with this value.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
}

impl Scratch {
    /// Copies a golden case, without the reference's results.
    ///
    /// # Panics
    /// When the copy fails.
    pub fn of(case: &str) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let from = golden::directory(case);
        for source in files::below(&from) {
            let name = source.strip_prefix(&from).expect("below it");
            if !name.to_string_lossy().starts_with("golden.") {
                let target = dir.path().join(name);
                fs::create_dir_all(target.parent().expect("a folder")).expect("writable");
                fs::copy(&source, &target).expect("copied");
            }
        }
        Self { dir }
    }

    /// A copy of a case in which a JSON file has these fields, too.
    ///
    /// # Panics
    /// As [`Scratch::set`].
    pub fn with(case: &str, name: &str, fields: Value) -> Self {
        let copy = Self::of(case);
        copy.set(name, fields);
        copy
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Changes a JSON file.
    ///
    /// # Panics
    /// When the file is not a JSON object.
    pub fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Map<String, Value>)) {
        let path = self.file(name);
        let mut value: Value =
            serde_json::from_slice(&fs::read(&path).expect("readable")).expect("valid JSON");
        edit(value.as_object_mut().expect("an object"));
        self.write(name, value.to_string());
    }

    /// Sets fields of a JSON file.
    ///
    /// # Panics
    /// When it or `fields` is not a JSON object.
    pub fn set(&self, name: &str, fields: Value) {
        let Value::Object(fields) = fields else { panic!("no fields: {fields}") };
        self.edit_json(name, |object| object.extend(fields));
    }

    /// Removes fields of a JSON file.
    ///
    /// # Panics
    /// When one of them is not there.
    pub fn unset(&self, name: &str, fields: &[&str]) {
        self.edit_json(name, |object| {
            for field in fields {
                object.remove(*field).unwrap_or_else(|| panic!("no {field} in {name}"));
            }
        });
    }

    /// Removes a file.
    ///
    /// # Panics
    /// When it can't be removed.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.file(name)).expect("removable");
    }

    /// Replaces a file, or makes it, with the folder that it is in.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let file = self.file(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("writable");
        fs::write(file, content).expect("writable");
    }

    /// Writes `modules.json` anew: classes of sentence-transformers or others', each with its folder.
    ///
    /// # Panics
    /// As [`Scratch::write`].
    pub fn write_modules(&self, modules: &[(&str, &str)]) {
        let module = |(idx, (class, path)): (usize, &(&str, &str))| json!({"idx": idx, "name": idx.to_string(), "path": path, "type": class});
        let modules: Vec<Value> = modules.iter().enumerate().map(module).collect();
        self.write("modules.json", Value::from(modules).to_string());
    }

    /// Changes the header of a safetensors file, keeping its data.
    ///
    /// # Panics
    /// When the file is not valid to begin with.
    pub fn edit_header(&self, name: &str, edit: impl FnOnce(&mut Map<String, Value>)) {
        let bytes = fs::read(self.file(name)).expect("readable");
        let length = u64::from_le_bytes(*bytes.first_chunk().expect("a header")) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a JSON header");
        edit(header.as_object_mut().expect("an object"));
        let mut text = header.to_string().into_bytes();
        // Keeps the data aligned, as every writer does.
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut out = (text.len() as u64).to_le_bytes().to_vec();
        out.extend(text);
        out.extend(&bytes[8 + length..]);
        self.write(name, out);
    }

    /// Writes a safetensors file anew with other tensors: dtype, shape and bytes by name.
    ///
    /// # Panics
    /// When the file is not valid, before or after.
    pub fn edit_tensors(&self, name: &str, edit: impl FnOnce(&mut Tensors)) {
        let bytes = fs::read(self.file(name)).expect("readable");
        let file = SafeTensors::deserialize(&bytes).expect("valid");
        let mut tensors: Tensors = file
            .iter()
            .map(|(name, tensor)| {
                (name.to_owned(), (tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec()))
            })
            .collect();
        edit(&mut tensors);
        let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).expect("a tensor"))
        });
        self.write(name, safetensors::serialize(views, None).expect("tensors"));
    }

    /// Adds a tensor of f32 ones.
    ///
    /// # Panics
    /// As [`Scratch::edit_tensors`].
    pub fn add_tensor(&self, name: &str, tensor: &str, shape: &[usize]) {
        let ones = 1_f32.to_le_bytes().repeat(shape.iter().product());
        self.edit_tensors(name, |tensors| {
            tensors.insert(tensor.to_owned(), (Dtype::F32, shape.to_vec(), ones));
        });
    }

    /// Leaves a tensor out.
    ///
    /// # Panics
    /// When it is not there.
    pub fn remove_tensor(&self, name: &str, tensor: &str) {
        self.edit_tensors(name, |tensors| drop(tensors.remove(tensor).expect("the tensor is there")));
    }

    /// Changes the bytes of one tensor in a safetensors file.
    ///
    /// # Panics
    /// When there is no such tensor.
    pub fn edit_tensor(&self, name: &str, tensor: &str, edit: impl FnOnce(&mut [u8])) {
        let mut bytes = fs::read(self.file(name)).expect("readable");
        let (header, metadata) = SafeTensors::read_metadata(&bytes).expect("a header");
        let (start, end) = metadata.info(tensor).expect("the tensor is there").data_offsets;
        // The header's length goes before the header.
        edit(&mut bytes[8 + header..][start..end]);
        self.write(name, bytes);
    }
}
