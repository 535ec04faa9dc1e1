//! CUDA source to code, compiled once a machine.

use std::any::TypeId;
use std::ffi::{CStr, CString, c_char};
use std::path::{Path, PathBuf};
use std::{env, fs};

use mlx_sys as sys;
use sha2::{Digest, Sha256};

use super::chips::Chip;
use super::format::Numbers;
use crate::file::{hex, unique};
use crate::mlx::error::{MlxError, check, install_handler};

/// What code is compiled for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Architecture {
    /// As the driver calls the GPU.
    pub(crate) device: String,
    /// Compute capability.
    pub(crate) major: usize,
    pub(crate) minor: usize,
}

impl Architecture {
    /// That of the GPU with this index.
    pub(crate) fn of_gpu(gpu: i32) -> Result<Self, MlxError> {
        install_handler();
        let failed = |what: &str| MlxError::new("device_info", format!("the GPU does not say its {what}"));
        // SAFETY: handles are filled by MLX and freed once; the name is copied while `info` is alive.
        unsafe {
            let device = sys::mlx_device_new_type(sys::mlx_device_type__MLX_GPU, gpu);
            let mut info = sys::mlx_device_info_new();
            let code = sys::mlx_device_info_get(&mut info, device);
            sys::mlx_device_free(device);
            let number = |key: &CStr| {
                let mut value = 0;
                let code = sys::mlx_device_info_get_size(&mut value, info, key.as_ptr());
                (code == 0).then_some(value)
            };
            let mut name = std::ptr::null();
            let named = sys::mlx_device_info_get_string(&mut name, info, c"device_name".as_ptr()) == 0;
            let name =
                (named && !name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned());
            let major = number(c"compute_capability_major");
            let minor = number(c"compute_capability_minor");
            sys::mlx_device_info_free(info);
            check("device_info", code)?;
            Ok(Self {
                device: name.ok_or_else(|| failed("name"))?,
                major: major.ok_or_else(|| failed("compute capability"))?,
                minor: minor.ok_or_else(|| failed("compute capability"))?,
            })
        }
    }

    /// Whether kernels for it have in products what is around them where activations are these.
    pub(crate) fn fuses(&self, numbers: Numbers) -> bool {
        Chip::of(self).is_some_and(|chip| chip.fuses(numbers))
    }

    fn option(&self) -> String {
        let suffix = if self.major >= 9 { "a" } else { "" };
        format!("--gpu-architecture=sm_{}{}{suffix}", self.major, self.minor)
    }
}

/// What to compile.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// What it is called in messages and file names.
    pub(super) name: &'static str,
    /// The struct that it is launched with.
    pub(super) arguments: TypeId,
    pub(super) text: String,
    pub(super) defines: Vec<(&'static str, i32)>,
    pub(super) threads: i32,
    pub(super) shared_memory: i32,
}

/// One compiled kernel.
#[derive(Debug)]
pub(super) struct Program {
    /// In the code.
    pub(super) name: CString,
    /// The struct that it is launched with.
    pub(super) arguments: TypeId,
    pub(super) code: Vec<u8>,
    pub(super) threads: i32,
    pub(super) shared_memory: i32,
}

impl Program {
    /// Takes the code from where it is kept or compiles it, which then is `true`, and keeps it.
    pub(super) fn new(source: &Source, architecture: &Architecture) -> Result<(Self, bool), MlxError> {
        install_handler();
        let (mut major, mut minor) = (0, 0);
        // SAFETY: writes two ints through valid pointers.
        check("cuda_compiler_version", unsafe { sys::mlxsys_cuda_compiler_version(&mut major, &mut minor) })?;
        let mut digest = Sha256::new();
        digest.update(format!("{} {major}.{minor} {:?}\n", architecture.option(), source.defines));
        digest.update(&source.text);
        let name = format!("mlx_embed_{}_{:.16}", source.name, hex(&digest.finalize()));
        let program = |code| Self {
            name: CString::new(name.clone()).unwrap_or_default(),
            arguments: source.arguments,
            code,
            threads: source.threads,
            shared_memory: source.shared_memory,
        };
        let folder = cache_folder();
        let path = folder.as_ref().map(|folder| folder.join(format!("{name}.cubin")));
        if let Some(code) = path.as_deref().and_then(stored) {
            return Ok((program(code), false));
        }
        let code = compile(source, &name, architecture, &[])?;
        let kept = match &path {
            Some(path) => store(path, &code),
            None => Err(std::io::Error::other("there is no home folder")),
        };
        if let Err(error) = kept {
            tracing::warn!(
                %error,
                "compiled CUDA code can't be kept, so that every start compiles anew; set {CACHE_VARIABLE} to a folder \
                 that only you can write"
            );
        }
        Ok((program(code), true))
    }
}

/// As it is compiled elsewhere; where registers don't suffice it fails.
#[cfg(test)]
pub(super) fn compile_strictly(source: &Source, architecture: &Architecture) -> Result<Vec<u8>, MlxError> {
    install_handler();
    let strictly = ["--ptxas-options=--warn-on-spills", "--ptxas-options=--warning-as-error"];
    compile(source, "kernel", architecture, &strictly)
}

fn compile(
    source: &Source,
    name: &str,
    architecture: &Architecture,
    more: &[&str],
) -> Result<Vec<u8>, MlxError> {
    let operation = "cuda_compile";
    let text = |text: String| CString::new(text).map_err(|_| MlxError::new(operation, "a NUL in the source"));
    // Of C++20 the checks in arguments.rs want initialisers that name fields.
    let mut options = vec![
        text(architecture.option())?,
        text("--std=c++20".into())?,
        text(format!("--define-macro=KERNEL={name}"))?,
    ];
    for (macro_name, value) in &source.defines {
        options.push(text(format!("--define-macro={macro_name}={value}"))?);
    }
    for option in more {
        options.push(text((*option).to_owned())?);
    }
    let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let (code, name) = (text(source.text.clone())?, text(format!("{}.cu", source.name))?);
    let (mut image, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: NUL-terminated strings and a list of the given length, all alive; the image is copied and freed once.
    unsafe {
        let failed = sys::mlxsys_cuda_compile(
            &mut image,
            &mut size,
            code.as_ptr(),
            name.as_ptr(),
            options.as_ptr(),
            options.len(),
        );
        check(operation, failed)?;
        let bytes = std::slice::from_raw_parts(image, size).to_vec();
        sys::mlxsys_cuda_image_free(image);
        Ok(bytes)
    }
}

/// The variable that names the folder in which compiled code is kept.
const CACHE_VARIABLE: &str = "MLX_EMBED_CACHE";

/// Where compiled code and measurements are kept: the folder of the variable, else `mlx-embed` in the user's folder for
/// such things.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    let from = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from(CACHE_VARIABLE)
        .or_else(|| from("XDG_CACHE_HOME").map(|folder| folder.join("mlx-embed")))
        .or_else(|| from("HOME").map(|home| home.join(".cache/mlx-embed")))
}

const DIGEST_BYTES: usize = 32;

/// The code behind its digest, if the file is as it was written and nobody else can have put it there.
fn stored(path: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(path).ok()?;
    let (digest, code) = bytes.split_at_checked(DIGEST_BYTES)?;
    (digest == &Sha256::digest(code)[..] && is_private(path.parent()?).is_ok()).then(|| code.to_vec())
}

/// Others may do the same at the same time.
fn store(path: &Path, code: &[u8]) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    let folder = path.parent().unwrap_or(path);
    builder.create(folder)?;
    is_private(folder)?;
    write_whole(path, &[&Sha256::digest(code)[..], code].concat())
}

/// Writes a file that is there as a whole or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let unfinished = path.with_extension(format!("{}.unfinished", unique()));
    let written = fs::write(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

/// Fails where another user could put code into `folder`.
#[cfg(unix)]
fn is_private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;

    let me = rustix::process::geteuid().as_raw();
    for part in fs::canonicalize(folder)?.ancestors() {
        let about = fs::metadata(part)?;
        let sticky = about.mode() & 0o1000 != 0;
        if ![0, me].contains(&about.uid()) || (about.mode() & 0o022 != 0 && !sticky) {
            let reason = format!("another user can write to {}", part.display());
            return Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, reason));
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn is_private(_folder: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    fn private_folder() -> tempfile::TempDir {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        folder
    }

    #[test]
    #[cfg(unix)]
    fn stored_code_is_found_until_it_changes() {
        let folder = private_folder();
        let path = folder.path().join("a/b/kernel.cubin");
        assert_eq!(stored(&path), None);
        store(&path, b"code").unwrap();
        assert_eq!(stored(&path).as_deref(), Some(&b"code"[..]));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing unfinished stays");
        // Cut short, as after a crash or on a full disk.
        for length in [0, 10, 35] {
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..length]).unwrap();
            assert_eq!(stored(&path), None);
            store(&path, b"code").unwrap();
        }
        assert_eq!(stored(&path).as_deref(), Some(&b"code"[..]));
    }

    #[test]
    #[cfg(unix)]
    fn a_folder_that_others_can_write_is_not_trusted() {
        use std::os::unix::fs::PermissionsExt;
        let folder = private_folder();
        let path = folder.path().join("kernel.cubin");
        store(&path, b"code").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(stored(&path), None);
        let error = store(&path, b"code").unwrap_err();
        assert!(error.to_string().contains("another user can write"), "{error}");
    }

    #[test]
    fn architectures_are_named_as_the_compiler_names_them() {
        let of = |major, minor| Architecture { device: "x".into(), major, minor }.option();
        assert_eq!(of(8, 6), "--gpu-architecture=sm_86");
        assert_eq!(of(9, 0), "--gpu-architecture=sm_90a");
        assert_eq!(of(12, 0), "--gpu-architecture=sm_120a");
    }
}
