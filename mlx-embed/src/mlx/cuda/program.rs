//! CUDA source to code that MLX runs, compiled once a machine.

use std::ffi::{CStr, CString, c_char};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use mlx_sys as sys;
use sha2::{Digest, Sha256};

use crate::mlx::array::Array;
use crate::mlx::dtype::Dtype;
use crate::mlx::error::{MlxError, check, install_handler};
use crate::mlx::ops::ArrayVec;
use crate::mlx::Stream;

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
    /// That of the GPU that MLX uses.
    pub(crate) fn of_gpu() -> Result<Self, MlxError> {
        install_handler();
        let failed = |what: &str| MlxError::new("device_info", format!("the GPU does not say its {what}"));
        // SAFETY: handles are filled by MLX and freed once; the name is copied while `info` is alive.
        unsafe {
            let device = sys::mlx_device_new_type(sys::mlx_device_type__MLX_GPU, 0);
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
            let name = (named && !name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned());
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

    /// Whether it has products of four warps (`wgmma`).
    pub(crate) fn is_hopper(&self) -> bool {
        self.major == 9
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
    pub(super) text: String,
    pub(super) defines: Vec<(&'static str, i32)>,
    pub(super) threads: i32,
    pub(super) shared_memory: i32,
}

/// One compiled kernel.
#[derive(Debug)]
pub(super) struct Program {
    /// In the code.
    name: CString,
    /// The code, or what stands for it where MLX finds it in its folder.
    image: Vec<u8>,
    code: Vec<u8>,
    threads: i32,
    shared_memory: i32,
}

impl Program {
    /// Takes the code from MLX's folder of compiled code or compiles it, which then is `true`, and puts it there.
    pub(super) fn new(source: &Source, architecture: &Architecture) -> Result<(Self, bool), MlxError> {
        install_handler();
        let (mut major, mut minor) = (0, 0);
        // SAFETY: writes two ints through valid pointers.
        check("cuda_compiler_version", unsafe { sys::mlxsys_cuda_compiler_version(&mut major, &mut minor) })?;
        let mut digest = Sha256::new();
        digest.update(format!("{} {major}.{minor} {:?}\n", architecture.option(), source.defines));
        digest.update(&source.text);
        let key = hex(&digest.finalize());
        let name = format!("mlx_embed_{}_{}", source.name, &key[..16]);
        let program = |image, code| Self {
            name: CString::new(name.clone()).unwrap_or_default(),
            image,
            code,
            threads: source.threads,
            shared_memory: source.shared_memory,
        };

        let module = module_name(&name, &key)?;
        let folder = cache_folder()?;
        if let Some(code) = stored(&folder, &module) {
            return Ok((program(key.into_bytes(), code), false));
        }
        let code = compile(source, &name, architecture)?;
        match store(&folder, &module, &name, &code) {
            Ok(()) => Ok((program(key.into_bytes(), code), true)),
            Err(error) => {
                tracing::warn!(
                    folder = %folder.display(),
                    %error,
                    "compiled CUDA code can't be kept; set MLX_PTX_CACHE_DIR to a folder that only you can write, \
                     or every start compiles anew and every call takes longer"
                );
                Ok((program(code.clone(), code), true))
            }
        }
    }

    /// Adds a call of the kernel to the graph of `stream`.
    ///
    /// # Safety
    /// The kernel's parameters must be as many pointers as there are inputs and outputs, the integers and the floats,
    /// and with the sizes given it must stay within the inputs' and outputs' elements.
    pub(super) unsafe fn call<const N: usize>(
        &self,
        inputs: &[&Array],
        outputs: [(&[i32], Dtype); N],
        ints: &[i32],
        floats: &[f32],
        blocks: [i32; 3],
        stream: &Stream,
    ) -> Result<[Array; N], MlxError> {
        let operation = "cuda_kernel";
        let inputs = ArrayVec::new(inputs.iter().copied())?;
        let outputs = outputs.map(|(shape, dtype)| sys::mlxsys_cuda_output {
            shape: shape.as_ptr(),
            ndim: shape.len(),
            dtype: dtype.to_raw(),
        });
        let mut results = ArrayVec::new([])?;
        let threads = [self.threads, 1, 1];
        // SAFETY: live handles and lists of the given lengths; what the code does is the caller's promise.
        let code = unsafe {
            sys::mlxsys_cuda_kernel(
                results.raw_mut(),
                self.name.as_ptr(),
                self.image.as_ptr().cast::<c_char>(),
                self.image.len(),
                inputs.raw(),
                outputs.as_ptr(),
                N,
                ints.as_ptr(),
                ints.len(),
                floats.as_ptr(),
                floats.len(),
                blocks.as_ptr(),
                threads.as_ptr(),
                self.shared_memory,
                stream.raw(),
            )
        };
        check(operation, code)?;
        let mut arrays = Vec::with_capacity(N);
        for index in 0..N {
            arrays.push(results.get(index)?);
        }
        <[Array; N]>::try_from(arrays).map_err(|_| MlxError::new(operation, "another number of outputs"))
    }
}

impl Program {
    pub(super) fn name(&self) -> &CStr {
        &self.name
    }

    pub(super) fn code(&self) -> &[u8] {
        &self.code
    }

    pub(super) fn threads(&self) -> i32 {
        self.threads
    }

    pub(super) fn shared_memory(&self) -> i32 {
        self.shared_memory
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn compile(source: &Source, name: &str, architecture: &Architecture) -> Result<Vec<u8>, MlxError> {
    let operation = "cuda_compile";
    let text = |text: String| CString::new(text).map_err(|_| MlxError::new(operation, "a NUL in the source"));
    let mut options = vec![text(architecture.option())?, text(format!("--define-macro=KERNEL={name}"))?];
    for (macro_name, value) in &source.defines {
        options.push(text(format!("--define-macro={macro_name}={value}"))?);
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

/// A string that mlx-c fills.
fn string(
    operation: &'static str,
    fill: impl FnOnce(*mut sys::mlx_string) -> std::ffi::c_int,
) -> Result<String, MlxError> {
    // SAFETY: an empty handle, filled, copied while alive and freed once.
    unsafe {
        let mut text = sys::mlx_string_new();
        let filled = check(operation, fill(&mut text));
        let copy = filled.map(|()| CStr::from_ptr(sys::mlx_string_data(text)).to_string_lossy().into_owned());
        sys::mlx_string_free(text);
        copy
    }
}

fn module_name(name: &str, image: &str) -> Result<String, MlxError> {
    let name = CString::new(name).unwrap_or_default();
    string("cuda_module_name", |out| {
        // SAFETY: a NUL-terminated name and an image of the given length.
        unsafe { sys::mlxsys_cuda_module_name(out, name.as_ptr(), image.as_ptr().cast(), image.len()) }
    })
}

/// Where MLX looks for compiled code.
pub(crate) fn cache_folder() -> Result<PathBuf, MlxError> {
    // SAFETY: fills the string.
    string("cuda_cache_dir", |out| unsafe { sys::mlxsys_cuda_cache_dir(out) }).map(PathBuf::from)
}

/// What the line of the list begins with that holds the code's digest; MLX skips lines without a tab.
const DIGEST: &str = "sha256 ";

/// The code, if it is in the folder as it was written and nobody else can have put it there.
fn stored(folder: &Path, module: &str) -> Option<Vec<u8>> {
    let read = |extension: &str| fs::read(folder.join(format!("{module}.{extension}"))).ok();
    let (code, list) = (read("ptx")?, read("txt")?);
    let list = String::from_utf8_lossy(&list);
    let digest = list.lines().find_map(|line| line.strip_prefix(DIGEST));
    (digest == Some(&hex(&Sha256::digest(&code))) && is_private(folder).is_ok()).then_some(code)
}

/// Puts the code where MLX looks for it. Others may do the same at the same time.
fn store(folder: &Path, module: &str, name: &str, code: &[u8]) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)?;
    is_private(folder)?;
    let write = |extension: &str, bytes: &[u8]| {
        let unfinished = folder.join(format!("{module}.{}.unfinished", std::process::id()));
        let written = fs::File::create(&unfinished).and_then(|mut file| file.write_all(bytes));
        let moved = written.and_then(|()| fs::rename(&unfinished, folder.join(format!("{module}.{extension}"))));
        if moved.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        moved
    };
    // The list first: MLX looks for the code and then trusts that the list is there.
    write("txt", format!("{name}\t{name}\n{DIGEST}{}\n", hex(&Sha256::digest(code))).as_bytes())?;
    write("ptx", code)
}

/// Fails where another user could put code into `folder`: MLX's default is below the folder for temporary files, which
/// all share.
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
        let deeper = folder.path().join("a/b");
        assert_eq!(stored(&deeper, "module"), None);
        store(&deeper, "module", "kernel", b"code").unwrap();
        assert_eq!(stored(&deeper, "module").as_deref(), Some(&b"code"[..]));
        let list = fs::read_to_string(deeper.join("module.txt")).unwrap();
        assert!(list.starts_with("kernel\tkernel\n"), "{list}");
        assert_eq!(fs::read_dir(&deeper).unwrap().count(), 2, "nothing unfinished stays");
        // Cut short, as after a crash or on a full disk.
        fs::write(deeper.join("module.ptx"), b"cod").unwrap();
        assert_eq!(stored(&deeper, "module"), None);
        store(&deeper, "module", "kernel", b"code").unwrap();
        assert_eq!(stored(&deeper, "module").as_deref(), Some(&b"code"[..]));
    }

    #[test]
    #[cfg(unix)]
    fn a_folder_that_others_can_write_is_not_trusted() {
        use std::os::unix::fs::PermissionsExt;
        let folder = private_folder();
        store(folder.path(), "module", "kernel", b"code").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(stored(folder.path(), "module"), None);
        let error = store(folder.path(), "module", "kernel", b"code").unwrap_err();
        assert!(error.to_string().contains("another user can write"), "{error}");
    }

    #[test]
    fn the_name_of_a_module_depends_on_all_of_its_parts() {
        let name = |name, image| module_name(name, image).unwrap();
        assert!(name("a", "x").starts_with("a_"));
        assert_eq!(name("a", "x"), name("a", "x"));
        assert_ne!(name("a", "x"), name("a", "y"));
    }

    #[test]
    fn architectures_are_named_as_the_compiler_names_them() {
        let of = |major, minor| Architecture { device: "x".into(), major, minor }.option();
        assert_eq!(of(8, 6), "--gpu-architecture=sm_86");
        assert_eq!(of(9, 0), "--gpu-architecture=sm_90a");
        assert_eq!(of(12, 0), "--gpu-architecture=sm_120a");
    }
}
