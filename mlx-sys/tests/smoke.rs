//! A first sign of life.

#[test]
fn links() {
    // SAFETY: plain calls.
    unsafe {
        let mut threads = 0;
        assert_eq!(mlx_sys::mlxsys_blas_get_num_threads(&mut threads), 0);
        assert!(threads >= 1);
        let a = mlx_sys::mlx_array_new_float(2.0);
        assert_eq!(mlx_sys::mlx_array_size(a), 1);
        mlx_sys::mlx_array_free(a);
    }
}
