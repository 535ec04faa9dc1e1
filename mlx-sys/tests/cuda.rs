//! The functions for NVIDIA GPUs: here, on any machine, that they fail with a message where there is nothing to use. What
//! they do on a GPU is tested by the golden vectors (`MLX_EMBED_TEST_DEVICE=gpu`).

mod support;

use std::ffi::c_int;
use std::ptr;

use mlx_sys as sys;
use support::{Array, keep_messages};

/// That a call failed, and what it said.
fn failure(code: c_int) -> String {
    assert_eq!(code, 1);
    support::message().expect("a message")
}

/// Where the driver writes what it makes of tiles.
#[repr(C, align(64))]
struct TensorMap([u64; 16]);

#[test]
fn what_is_not_there_is_a_message() {
    let no_queue = sys::mlxsys_cuda_queue { ctx: ptr::null_mut() };
    let (mut image, mut size, mut function, mut pointer) = (ptr::null_mut(), 0, ptr::null_mut(), 0);
    keep_messages();
    // SAFETY: slots for results are live, and nothing is launched on a queue that is none.
    unsafe {
        sys::mlxsys_cuda_queue_free(no_queue);
        sys::mlxsys_cuda_image_free(ptr::null_mut());

        let none = |code: c_int| {
            let message = failure(code);
            assert!(message.contains("no queue"), "{message}");
        };
        none(sys::mlxsys_cuda_queue_load(&mut function, no_queue, ptr::null(), c"k".as_ptr(), 0));
        let mut processors = 0;
        none(sys::mlxsys_cuda_queue_multiprocessors(&mut processors, no_queue));
        let blocks = [1, 1, 1];
        none(sys::mlxsys_cuda_queue_launch(no_queue, function, ptr::null(), blocks.as_ptr(), 32, 0));
        none(sys::mlxsys_cuda_queue_write(no_queue, 0, ptr::null(), 0));
        none(sys::mlxsys_cuda_queue_read(no_queue, ptr::null_mut(), 0, 0));
        let product = sys::mlxsys_cuda_matmul {
            numbers: sys::mlxsys_cuda_numbers__MLXSYS_CUDA_F16,
            a: 0,
            w: 0,
            out: 0,
            tokens: 0,
            outputs: 1,
            inputs: 1,
            a_stride: 1,
            w_stride: 1,
            out_stride: 1,
            factor: 1.0,
            adds: false,
        };
        none(sys::mlxsys_cuda_queue_matmul(no_queue, &product, 0, 0));
        let mut graph = sys::mlxsys_cuda_graph { ctx: ptr::null_mut() };
        none(sys::mlxsys_cuda_graph_begin(no_queue, 0));
        none(sys::mlxsys_cuda_graph_end(&mut graph, no_queue));
        none(sys::mlxsys_cuda_graph_launch(graph, no_queue, 0, ptr::null(), 0));
        sys::mlxsys_cuda_graph_free(graph);
        none(sys::mlxsys_cuda_queue_trim(no_queue));
        none(sys::mlxsys_cuda_queue_synchronize(no_queue));

        // The driver takes no matrix that lies nowhere, and without a driver there is nobody to ask.
        let tiles = sys::mlxsys_cuda_tiles { matrix: 0, rows: 64, columns: 64, tile_rows: 64 };
        let mut map = TensorMap([0; 16]);
        let message = failure(sys::mlxsys_cuda_tiles_encode(map.0.as_mut_ptr(), &tiles));
        assert!(message.contains("tiles of a matrix") || message.contains("libcuda"), "{message}");

        let no_source = failure(sys::mlxsys_cuda_compile(
            &mut image,
            &mut size,
            ptr::null(),
            ptr::null(),
            ptr::null(),
            0,
        ));
        assert!(no_source.contains("needs a source"), "{no_source}");

        let mut cuda = false;
        assert_eq!(sys::mlx_cuda_is_available(&mut cuda), 0);
        assert!(!sys::mlxsys_cuda_survive(), "no GPU has failed");
        if !cuda {
            assert_eq!(sys::mlxsys_cuda_prepare(), 0, "there is nothing to do");
            let array = Array::f32(&[1.0], &[1]);
            let message = failure(sys::mlxsys_cuda_array_pointer(&mut pointer, array.0));
            assert!(message.contains("not MLX's CUDA build"), "{message}");
        }
    }
}

#[test]
fn a_device_says_what_it_is() {
    // SAFETY: handles are made, filled and freed once; the string is read while `info` is alive.
    unsafe {
        let device = sys::mlx_device_new_type(sys::mlx_device_type__MLX_CPU, 0);
        let mut info = sys::mlx_device_info_new();
        assert_eq!(sys::mlx_device_info_get(&mut info, device), 0);
        sys::mlx_device_free(device);
        let mut number = 0;
        assert_eq!(sys::mlx_device_info_get_size(&mut number, info, c"compute_capability_major".as_ptr()), 2);
        let mut name = ptr::null();
        assert_eq!(sys::mlx_device_info_get_string(&mut name, info, c"no such key".as_ptr()), 2);
        sys::mlx_device_info_free(info);
    }
}

#[test]
fn a_machine_without_the_driver_or_the_compiler_says_so() {
    let (mut major, mut minor) = (0, 0);
    let mut queue = sys::mlxsys_cuda_queue { ctx: ptr::null_mut() };
    keep_messages();
    // SAFETY: slots for results are live; a queue that was made is freed.
    unsafe {
        if sys::mlxsys_cuda_compiler_version(&mut major, &mut minor) == 0 {
            assert!(major >= 12);
        }
        if sys::mlxsys_cuda_queue_new(&mut queue, 0) == 0 {
            sys::mlxsys_cuda_queue_free(queue);
        }
    }
}
