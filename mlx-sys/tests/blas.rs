//! MLX's CPU matrix products go to OpenBLAS, not to the slow library in MLX's wheel.
#![cfg(target_os = "linux")]

mod support;

use std::ffi::CStr;

use mlx_sys as sys;
use support::{Array, Stream, call};

#[test]
fn the_loader_binds_gemm_to_ours() {
    for name in [c"cblas_sgemm", c"cblas_dgemm", c"cblas_cgemm"] {
        // SAFETY: plain look-ups; the file's name lives as long as the library, which stays loaded.
        let file = unsafe {
            let found = libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
            assert!(!found.is_null());
            let mut owner: libc::Dl_info = std::mem::zeroed();
            assert_ne!(libc::dladdr(found, &mut owner), 0);
            CStr::from_ptr(owner.dli_fname).to_string_lossy().into_owned()
        };
        assert!(file.contains("libmlxc") || file.contains("openblas"), "{name:?} is in {file}");
    }
}

#[test]
fn the_number_of_threads_can_be_set() {
    let mut threads = 0;
    // SAFETY: plain numbers.
    unsafe {
        for wanted in [1, 2] {
            assert_eq!(sys::mlxsys_blas_set_num_threads(wanted), 0);
            assert_eq!(sys::mlxsys_blas_get_num_threads(&mut threads), 0);
            assert_eq!(threads, wanted);
        }
    }
}

#[test]
fn a_large_product_is_right() {
    let s = Stream::cpu();
    let (m, k, n) = (96, 512, 128);
    let (a, b) = (Array::noise(&[m, k], 1), Array::noise(&[k, n], 2));
    let product = call!(mlx_matmul(a.0, b.0, s.0)).to_f32();
    let (rows, columns) = (a.to_f32(), b.to_f32());
    let (k, n) = (k as usize, n as usize);
    for (at, found) in product.iter().enumerate().step_by(97) {
        let expected: f64 =
            (0..k).map(|i| f64::from(rows[at / n * k + i]) * f64::from(columns[i * n + at % n])).sum();
        assert!((f64::from(*found) - expected).abs() < 1e-4, "element {at}: {found} and {expected}");
    }
}
