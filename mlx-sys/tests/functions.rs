//! Every function that mlx-embed calls links, returns, and does what its name says.

mod support;

use std::ffi::{CStr, c_int};

use mlx_sys as sys;
use support::{Array, Arrays, Stream, assert_close, call};

const fn some(value: c_int) -> sys::mlx_optional_int {
    sys::mlx_optional_int { value, has_value: true }
}

#[test]
fn versions_are_the_pinned_ones() {
    // SAFETY: the string is live while its text is read, and freed once.
    let running = unsafe {
        let mut string = sys::mlx_string_new();
        assert_eq!(sys::mlx_version(&mut string), 0);
        let text = CStr::from_ptr(sys::mlx_string_data(string)).to_str().unwrap().to_owned();
        sys::mlx_string_free(string);
        text
    };
    assert_eq!(running, sys::MLX_VERSION);
    let version = format!("+mlx-c.{}.mlx.{}", sys::MLXC_VERSION, sys::MLX_VERSION);
    assert!(env!("CARGO_PKG_VERSION").ends_with(&version), "the crate's version should end with {version}");
}

#[test]
fn the_backends_there_are_can_be_asked_for() {
    // SAFETY: each call writes one plain value; handles are live and freed once.
    unsafe {
        let (mut cuda, mut metal, mut gpus, mut cpus) = (true, true, -1, -1);
        assert_eq!(sys::mlx_cuda_is_available(&mut cuda), 0);
        assert_eq!(sys::mlx_metal_is_available(&mut metal), 0);
        assert_eq!(sys::mlx_device_count(&mut gpus, sys::mlx_device_type__MLX_GPU), 0);
        assert_eq!(sys::mlx_device_count(&mut cpus, sys::mlx_device_type__MLX_CPU), 0);
        assert_eq!(gpus > 0, cuda || metal);
        assert_eq!(cpus, 1);

        let device = sys::mlx_device_new_type(sys::mlx_device_type__MLX_CPU, 0);
        let stream = sys::mlx_stream_new_device(device);
        let mut of_stream = sys::mlx_device_new();
        let mut kind = u32::MAX;
        assert_eq!(sys::mlx_stream_get_device(&mut of_stream, stream), 0);
        assert_eq!(sys::mlx_device_get_type(&mut kind, of_stream), 0);
        assert_eq!(kind, sys::mlx_device_type__MLX_CPU);
        assert_eq!(sys::mlx_set_default_device(device), 0);
        assert_eq!(sys::mlx_set_default_stream(stream), 0);
        assert_eq!(sys::mlx_synchronize(stream), 0);
        sys::mlx_stream_free(stream);
        sys::mlx_device_free(of_stream);
        sys::mlx_device_free(device);
    }
}

#[test]
fn an_array_gives_back_what_it_was_made_of() {
    let array = Array::f32(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]);
    assert_eq!(array.shape(), [2, 3]);
    // SAFETY: the array is live.
    unsafe {
        assert_eq!(sys::mlx_array_ndim(array.0), 2);
        assert_eq!(sys::mlx_array_size(array.0), 6);
        assert_eq!(sys::mlx_array_nbytes(array.0), 24);
        assert_eq!(sys::mlx_array_dtype(array.0), sys::mlx_dtype__MLX_FLOAT32);
    }
    let mut other = Array::none();
    // SAFETY: both live; `other` becomes a second reference.
    assert_eq!(unsafe { sys::mlx_array_set(&mut other.0, array.0) }, 0);
    drop(array);
    assert_eq!(other.to_f32(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
}

#[test]
fn data_pointers_show_the_elements_bytes() {
    let s = Stream::cpu();
    let array = Array::f32(&[0.0, 1.0, 2.5], &[3]);
    let read = |dtype, at: &dyn Fn(sys::mlx_array) -> u32| {
        let cast = call!(mlx_astype(array.0, dtype, s.0));
        assert_eq!(cast.eval(), 0);
        at(cast.0)
    };
    // SAFETY: in each case the array is evaluated and holds three elements of the type that is read.
    unsafe {
        assert_eq!(read(sys::mlx_dtype__MLX_UINT8, &|a| (*sys::mlx_array_data_uint8(a).add(2)).into()), 2);
        assert_eq!(read(sys::mlx_dtype__MLX_INT8, &|a| *sys::mlx_array_data_int8(a).add(2) as u32), 2);
        assert_eq!(read(sys::mlx_dtype__MLX_UINT32, &|a| *sys::mlx_array_data_uint32(a).add(2)), 2);
        assert_eq!(read(sys::mlx_dtype__MLX_INT32, &|a| *sys::mlx_array_data_int32(a).add(2) as u32), 2);
        assert_eq!(read(sys::mlx_dtype__MLX_BOOL, &|a| (*sys::mlx_array_data_bool(a).add(2)).into()), 1);
        // 2.5 in bf16 and in f16, through the integer type of their width.
        assert_eq!(
            read(sys::mlx_dtype__MLX_BFLOAT16, &|a| (*sys::mlx_array_data_uint16(a).add(2)).into()),
            0x4020
        );
        assert_eq!(
            read(sys::mlx_dtype__MLX_FLOAT16, &|a| (*sys::mlx_array_data_uint16(a).add(2)).into()),
            0x4100
        );
    }
}

#[test]
fn views_move_no_element_out_of_place() {
    let s = Stream::cpu();
    let array = Array::f32(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]);

    let tall = call!(mlx_reshape(array.0, [3, 2].as_ptr(), 2, s.0));
    assert_eq!(tall.shape(), [3, 2]);
    assert_eq!(tall.to_f32(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);

    let turned = call!(mlx_transpose_axes(array.0, [1, 0].as_ptr(), 2, s.0));
    assert_eq!(turned.shape(), [3, 2]);
    assert_eq!(turned.to_f32(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);

    let windows = call!(mlx_as_strided(array.0, [4, 2].as_ptr(), 2, [1, 1].as_ptr(), 2, 1, s.0));
    assert_eq!(windows.to_f32(), [2.0, 3.0, 3.0, 4.0, 4.0, 5.0, 5.0, 6.0]);

    let part = call!(mlx_slice(array.0, [0, 1].as_ptr(), 2, [2, 3].as_ptr(), 2, [1, 1].as_ptr(), 2, s.0));
    assert_eq!(part.shape(), [2, 2]);
    assert_eq!(part.to_f32(), [2.0, 3.0, 5.0, 6.0]);

    let bits = call!(mlx_view(array.0, sys::mlx_dtype__MLX_UINT32, s.0));
    let back = call!(mlx_view(bits.0, sys::mlx_dtype__MLX_FLOAT32, s.0));
    assert_eq!(bits.eval(), 0);
    // SAFETY: `bits` is evaluated and holds six u32.
    assert_eq!(unsafe { *sys::mlx_array_data_uint32(bits.0) }, 1.0_f32.to_bits());
    assert_eq!(back.to_f32(), array.to_f32());
}

#[test]
fn rows_are_gathered_and_joined() {
    let s = Stream::cpu();
    let table = Array::f32(&[0.0, 1.0, 10.0, 11.0, 20.0, 21.0], &[3, 2]);
    let rows = call!(mlx_take_axis(table.0, Array::i32(&[2, 0], &[2]).0, 0, s.0));
    assert_eq!(rows.to_f32(), [20.0, 21.0, 0.0, 1.0]);

    let joined = call!(mlx_concatenate_axis(Arrays::new(&[&rows, &table]).0, 0, s.0));
    assert_eq!(joined.shape(), [5, 2]);
    assert_eq!(joined.to_f32(), [20.0, 21.0, 0.0, 1.0, 0.0, 1.0, 10.0, 11.0, 20.0, 21.0]);

    let repeated = call!(mlx_broadcast_to(Array::f32(&[1.0, 2.0], &[2, 1]).0, [2, 2, 3].as_ptr(), 3, s.0));
    assert_eq!(repeated.shape(), [2, 2, 3]);
    assert_eq!(repeated.to_f32(), [1.0, 1.0, 1.0, 2.0, 2.0, 2.0].repeat(2));
}

#[test]
fn arithmetic_is_elementwise() {
    let s = Stream::cpu();
    let (a, b) = (Array::f32(&[1.0, -2.0], &[2]), Array::f32(&[0.5, 4.0], &[2]));
    assert_eq!(call!(mlx_add(a.0, b.0, s.0)).to_f32(), [1.5, 2.0]);
    assert_eq!(call!(mlx_multiply(a.0, b.0, s.0)).to_f32(), [0.5, -8.0]);
    assert_eq!(call!(mlx_divide(b.0, a.0, s.0)).to_f32(), [0.5, -2.0]);
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    assert_close(&call!(mlx_sigmoid(a.0, s.0)).to_f32(), &[sigmoid(1.0), sigmoid(-2.0)], 1e-6);
}

#[test]
fn matrix_products_match_plain_loops() {
    let s = Stream::cpu();
    let (m, k, n) = (5, 7, 3);
    let (a, b, c) = (Array::noise(&[m, k], 1), Array::noise(&[k, n], 2), Array::noise(&[n], 3));
    let (rows, columns, add) = (a.to_f32(), b.to_f32(), c.to_f32());
    let (m, k, n) = (m as usize, k as usize, n as usize);
    let product: Vec<f32> =
        (0..m * n).map(|at| (0..k).map(|i| rows[at / n * k + i] * columns[i * n + at % n]).sum()).collect();
    assert_close(&call!(mlx_matmul(a.0, b.0, s.0)).to_f32(), &product, 1e-6);

    let expected: Vec<f32> = product.iter().enumerate().map(|(at, x)| 2.0 * x + 3.0 * add[at % n]).collect();
    assert_close(&call!(mlx_addmm(c.0, a.0, b.0, 2.0, 3.0, s.0)).to_f32(), &expected, 1e-5);
}

#[test]
fn a_quantised_product_is_the_product_with_the_dequantised_weight() {
    let s = Stream::cpu();
    let (group, bits, mode) = (some(32), some(4), c"affine".as_ptr());
    let weight = Array::noise(&[8, 64], 4);
    let none = Array::none();

    let mut parts = Arrays::new(&[]);
    // SAFETY: live handles; the empty one stands for "no global scale".
    assert_eq!(unsafe { sys::mlx_quantize(&mut parts.0, weight.0, group, bits, mode, none.0, s.0) }, 0);
    // SAFETY: the vector is live.
    assert_eq!(unsafe { sys::mlx_vector_array_size(parts.0) }, 3);
    let (packed, scales, biases) = (parts.get(0), parts.get(1), parts.get(2));
    assert_eq!(packed.shape(), [8, 64 * 4 / 32]);
    assert_eq!(scales.shape(), [8, 2]);

    let dtype = sys::mlx_optional_dtype { value: sys::mlx_dtype__MLX_FLOAT32, has_value: true };
    let dense = call!(mlx_dequantize(packed.0, scales.0, biases.0, group, bits, mode, none.0, dtype, s.0));
    // One step of the fifteen between -1 and 1: MLX shifts the steps so that one of them is zero.
    assert_close(&dense.to_f32(), &weight.to_f32(), 2.0 / 15.0);

    let x = Array::noise(&[3, 64], 5);
    let product =
        call!(mlx_quantized_matmul(x.0, packed.0, scales.0, biases.0, true, group, bits, mode, s.0));
    let turned = call!(mlx_transpose_axes(dense.0, [1, 0].as_ptr(), 2, s.0));
    assert_close(&product.to_f32(), &call!(mlx_matmul(x.0, turned.0, s.0)).to_f32(), 1e-5);
}

#[test]
fn rms_norm_divides_by_the_root_mean_square() {
    let s = Stream::cpu();
    let weight = Array::f32(&[1.0, 2.0], &[2]);
    let x = Array::f32(&[3.0, 4.0], &[1, 2]);
    let rms = ((9.0_f32 + 16.0) / 2.0 + 1e-6).sqrt();
    assert_close(&call!(mlx_fast_rms_norm(x.0, weight.0, 1e-6, s.0)).to_f32(), &[3.0 / rms, 8.0 / rms], 1e-6);
}

#[test]
fn layer_norm_takes_the_mean_off_and_divides_by_the_deviation() {
    let s = Stream::cpu();
    let (weight, bias) = (Array::f32(&[1.0, 2.0], &[2]), Array::f32(&[0.5, -0.5], &[2]));
    let x = Array::f32(&[3.0, 5.0], &[1, 2]);
    let deviation = (1.0_f32 + 1e-6).sqrt();
    let expected = [-1.0 / deviation + 0.5, 2.0 / deviation - 0.5];
    assert_close(&call!(mlx_fast_layer_norm(x.0, weight.0, bias.0, 1e-6, s.0)).to_f32(), &expected, 1e-6);
}

#[test]
fn activations_are_built_of_these() {
    let s = Stream::cpu();
    let (x, zero) = (Array::f32(&[-0.5, 0.0, 1.0], &[3]), Array::f32(&[0.0], &[1]));
    assert_close(&call!(mlx_erf(x.0, s.0)).to_f32(), &[-0.520_499_9, 0.0, 0.842_700_8], 1e-6);
    assert_close(&call!(mlx_tanh(x.0, s.0)).to_f32(), &[-0.462_117_2, 0.0, 0.761_594_2], 1e-6);
    assert_eq!(call!(mlx_maximum(x.0, zero.0, s.0)).to_f32(), [0.0, 0.0, 1.0]);
}

#[test]
fn rope_turns_the_two_halves_against_each_other() {
    let s = Stream::cpu();
    let (tokens, dims) = (3, 8);
    let x = Array::noise(&[1, 1, tokens, dims], 6);
    let base = 10_000.0_f32;
    let (tokens, dims) = (tokens as usize, dims as usize);
    let values = x.to_f32();
    let mut expected = values.clone();
    for token in 0..tokens {
        for i in 0..dims / 2 {
            let (sin, cos) = (token as f32 * base.powf(-2.0 * i as f32 / dims as f32)).sin_cos();
            let (left, right) = (token * dims + i, token * dims + dims / 2 + i);
            expected[left] = values[left] * cos - values[right] * sin;
            expected[right] = values[left] * sin + values[right] * cos;
        }
    }
    let by_base = sys::mlx_optional_float { value: base, has_value: true };
    let turned = call!(mlx_fast_rope(x.0, 8, false, by_base, 1.0, 0, Array::none().0, s.0));
    assert_close(&turned.to_f32(), &expected, 1e-5);

    // The same through a table of wave lengths, which scaled kinds of RoPE use.
    let lengths: Vec<f32> = (0..dims / 2).map(|i| base.powf(2.0 * i as f32 / dims as f32)).collect();
    let no_base = sys::mlx_optional_float { value: 0.0, has_value: false };
    let turned = call!(mlx_fast_rope(x.0, 8, false, no_base, 1.0, 0, Array::f32(&lengths, &[4]).0, s.0));
    assert_close(&turned.to_f32(), &expected, 1e-5);
}

#[test]
fn causal_attention_looks_back_only() {
    let s = Stream::cpu();
    let (tokens, dims) = (4_usize, 8_usize);
    let shape = [1, 1, tokens as c_int, dims as c_int];
    let (q, k, v) = (Array::noise(&shape, 7), Array::noise(&shape, 8), Array::noise(&shape, 9));
    let scale = (dims as f32).powf(-0.5);

    let (queries, keys, values) = (q.to_f32(), k.to_f32(), v.to_f32());
    let mut expected = vec![0.0; tokens * dims];
    for i in 0..tokens {
        let weights: Vec<f32> = (0..=i)
            .map(|j| {
                let dot: f32 = (0..dims).map(|d| queries[i * dims + d] * keys[j * dims + d]).sum();
                (dot * scale).exp()
            })
            .collect();
        let sum: f32 = weights.iter().sum();
        for d in 0..dims {
            expected[i * dims + d] =
                weights.iter().enumerate().map(|(j, w)| w / sum * values[j * dims + d]).sum();
        }
    }
    let none = Array::none();
    let attended = call!(mlx_fast_scaled_dot_product_attention(
        q.0,
        k.0,
        v.0,
        scale,
        c"causal".as_ptr(),
        none.0,
        none.0,
        false,
        s.0
    ));
    assert_close(&attended.to_f32(), &expected, 1e-5);
}

#[test]
fn several_results_are_evaluated_at_once() {
    let s = Stream::cpu();
    let one = Array::f32(&[1.0], &[1]);
    let (two, four) = {
        let two = call!(mlx_add(one.0, one.0, s.0));
        let four = call!(mlx_multiply(two.0, two.0, s.0));
        (two, four)
    };
    // SAFETY: the vector is live; after the evaluation each array's one element can be read.
    unsafe {
        assert_eq!(sys::mlx_eval(Arrays::new(&[&two, &four]).0), 0);
        assert_eq!((*sys::mlx_array_data_float32(two.0), *sys::mlx_array_data_float32(four.0)), (2.0, 4.0));
    }
}

#[test]
fn a_stream_made_for_any_thread_works_on_another() {
    // SAFETY: the device is live and freed once.
    let stream = unsafe {
        let device = sys::mlx_device_new_type(sys::mlx_device_type__MLX_CPU, 0);
        let stream = sys::mlx_stream_new_thread_unsafe(device);
        sys::mlx_device_free(device);
        stream
    };
    let address = stream.ctx as usize;
    let other = std::thread::spawn(move || {
        let stream = Stream(sys::mlx_stream { ctx: address as *mut _ });
        let one = Array::f32(&[1.0], &[1]);
        let sum = call!(mlx_add(one.0, one.0, stream.0)).to_f32();
        // SAFETY: ends the streams of this thread, which has come to its end.
        assert_eq!(unsafe { sys::mlx_clear_streams() }, 0);
        sum
    });
    assert_eq!(other.join().unwrap(), [2.0]);
}
