//! Operations refuse what MLX would take on trust, and whoever uses them needs no `unsafe` to be safe.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use mlx_embed::mlx::ops::{QuantMode, QuantizedRef, RopeFrequencies, RopeSettings};
use mlx_embed::mlx::{Array, Dtype, MlxError, Stream, ops};

fn stream() -> Stream {
    Stream::cpu().unwrap()
}

fn zeros(shape: &[i32]) -> Array {
    let count: i32 = shape.iter().product();
    Array::from_slice(&vec![0.0_f32; usize::try_from(count).unwrap()], shape).unwrap()
}

#[track_caller]
fn assert_refused(result: Result<Array, MlxError>, part: &str) {
    let error = result.expect_err("it should be refused");
    assert!(error.to_string().contains(part), "{error}");
}

#[test]
fn indices_outside_of_their_axis() {
    let s = stream();
    let table = Array::from_slice(&[1.0_f32, 2.0, 3.0], &[3]).unwrap();
    for id in [3_u32, 64, 2_000_000_000, u32::MAX] {
        let ids = Array::from_slice(&[0, id], &[2]).unwrap();
        assert_refused(ops::take(&table, &ids, 0, &s), &id.to_string());
    }
    for id in [-4, i32::MIN, 3] {
        let ids = Array::from_slice(&[id], &[1]).unwrap();
        assert_refused(ops::take(&table, &ids, 0, &s), &id.to_string());
    }
    // Also where they are still to be computed, and don't lie in row order.
    let two = Array::from_slice(&[2, 2, 2, 0], &[2, 2]).unwrap();
    let sum = ops::transpose(&ops::add(&two, &two, &s).unwrap(), &[1, 0], &s).unwrap();
    assert_refused(ops::take(&table, &sum, 0, &s), "4");
    let floats = Array::from_slice(&[0.0_f32], &[1]).unwrap();
    assert_refused(ops::take(&table, &floats, 0, &s), "f32");
    assert_refused(ops::take(&table, &two, 1, &s), "axis 1");
    assert_refused(ops::take(&zeros(&[0]), &two, 0, &s), "axis of 0");
    // Right ones are taken, negative ones from the end.
    let ids = Array::from_slice(&[2, 0, -1, -3], &[2, 2]).unwrap();
    let turned = ops::transpose(&ids, &[1, 0], &s).unwrap();
    let taken = ops::take(&table, &turned, 0, &s).unwrap();
    assert_eq!(taken.to_vec::<f32>(&s).unwrap(), [3.0, 3.0, 1.0, 1.0]);
}

#[test]
fn shapes_that_can_not_be_counted() {
    let s = stream();
    let (empty, sixteen, one) = (zeros(&[0]), zeros(&[16]), zeros(&[1]));
    let huge = [65536, 65536, 65536, 65536];
    // 2^64 + 4 elements.
    let wraps = [4, 5, 5581, 8681, 49477, 384_773];
    assert_refused(ops::reshape(&empty, &huge, &s), "more than 2147483647 elements");
    assert_refused(ops::reshape(&sixteen, &[-2, -8], &s), "negative");
    assert_refused(ops::reshape(&sixteen, &[-1, -1], &s), "two sizes open");
    assert_refused(ops::reshape(&sixteen, &[-1, 0], &s), "can't have shape");
    assert_refused(ops::reshape(&sixteen, &[3, -1], &s), "can't have shape");
    assert_refused(ops::reshape(&zeros(&[4]), &wraps, &s), "elements");
    assert_refused(ops::reshape(&one, &[1; 40], &s), "dimensions");
    assert_refused(ops::broadcast_to(&one, &huge, &s), "elements");
    assert_refused(ops::broadcast_to(&one, &wraps, &s), "elements");
    let half = ops::broadcast_to(&one, &[1 << 30], &s).unwrap();
    assert_refused(ops::concatenate(&[half.clone(), half.clone()], 0, &s), "2147483648");
    assert_refused(ops::concatenate(&[], 0, &s), "no arrays");
    assert_refused(ops::concatenate(&[zeros(&[])], 0, &s), "axis 0");
    assert_refused(ops::view(&half, Dtype::U8, &s), "can't be seen as u8");
    assert!(Array::from_slice::<f32>(&[], &[0, 65536, 65536]).is_err());
    assert!(Array::from_slice(&[0_u8; 4], &[-2, -2]).is_err());
    // A product's intermediates count as well: these are 2^60 elements if MLX copies the broadcast.
    let wide = ops::broadcast_to(&one, &[1, 1 << 20, 1 << 10], &s).unwrap();
    let many = ops::broadcast_to(&one, &[1 << 20, 1 << 10, 1], &s).unwrap();
    assert_refused(ops::matmul(&wide, &many, &s), "elements");
    assert_eq!(ops::reshape(&empty, &[4, 0], &s).unwrap().to_vec::<f32>(&s).unwrap(), [0.0_f32; 0]);
    let row = ops::reshape(&sixteen, &[2, -1], &s).unwrap();
    assert_eq!(row.shape(), [2, 8]);
}

#[test]
fn matrices_that_do_not_go_together() {
    let s = stream();
    assert_refused(ops::matmul(&zeros(&[]), &zeros(&[2]), &s), "no matrix");
    assert_refused(ops::matmul(&zeros(&[2, 3]), &zeros(&[2, 3]), &s), "3 columns meet 2 rows");
    assert_refused(ops::matmul(&zeros(&[2, 2, 3]), &zeros(&[3, 3, 2]), &s), "broadcast");
    let product = ops::matmul(&zeros(&[3, 0]), &zeros(&[0, 5]), &s).unwrap();
    assert_eq!(product.to_vec::<f32>(&s).unwrap(), [0.0; 15]);
    for (a, b, size) in [([2, 0, 3], [2, 3, 4], 0), ([0, 2, 3], [0, 3, 4], 0), ([2, 2, 3], [1, 3, 4], 16)] {
        let product = ops::matmul(&zeros(&a), &zeros(&b), &s).unwrap();
        assert_eq!(product.to_vec::<f32>(&s).unwrap().len(), size);
    }
}

#[test]
fn quantised_matrices_whose_parts_do_not_fit() {
    let s = stream();
    let words = |shape: &[i32]| {
        let count: i32 = shape.iter().product();
        Array::from_slice(&vec![0x1111_1111_u32; usize::try_from(count).unwrap()], shape).unwrap()
    };
    let (x, weight) = (zeros(&[1, 32]), words(&[8, 4]));
    let scales = zeros(&[8, 1]);
    let good = QuantizedRef {
        weight: &weight,
        scales: &scales,
        biases: Some(&scales),
        group_size: 32,
        bits: 4,
        mode: QuantMode::Affine,
    };
    assert_eq!(ops::quantized_matmul(&x, good, &s).unwrap().to_vec::<f32>(&s).unwrap(), [0.0; 8]);
    assert_eq!(ops::dequantize(good, Dtype::F32, &s).unwrap().shape(), [8, 32]);

    let refused = |w: QuantizedRef<'_>, part: &str| {
        assert_refused(ops::quantized_matmul(&x, w, &s), part);
        assert_refused(ops::dequantize(w, Dtype::F32, &s), part);
    };
    for bits in [0, -4, 1, 7, 9, 32, i32::MAX, i32::MIN] {
        refused(QuantizedRef { bits, ..good }, "bits");
    }
    for group_size in [0, -32, 16, 33, i32::MAX] {
        refused(QuantizedRef { group_size, ..good }, "groups of");
    }
    let (few, flat, bytes) = (zeros(&[1, 1]), zeros(&[8]), Array::from_slice(&[1_u8; 8], &[8, 1]).unwrap());
    refused(QuantizedRef { scales: &few, biases: Some(&few), ..good }, "need scales");
    refused(QuantizedRef { scales: &flat, ..good }, "need scales");
    refused(QuantizedRef { scales: &bytes, biases: None, ..good }, "need scales");
    refused(QuantizedRef { biases: None, ..good }, "biases");
    refused(QuantizedRef { biases: Some(&few), ..good }, "biases");
    refused(QuantizedRef { mode: QuantMode::Mxfp4, ..good }, "no biases");
    refused(QuantizedRef { mode: QuantMode::Mxfp8, ..good }, "4 bits");
    refused(QuantizedRef { weight: &words(&[4]), ..good }, "two dimensions");
    refused(QuantizedRef { weight: &words(&[8, 3]), ..good }, "words a row");
    refused(QuantizedRef { weight: &zeros(&[8, 4]), ..good }, "u32");
    assert_refused(ops::quantized_matmul(&zeros(&[1, 31]), good, &s), "does not go with");
    assert_refused(ops::quantized_matmul(&zeros(&[]), good, &s), "does not go with");
    assert_refused(ops::dequantize(good, Dtype::U32, &s), "can't be u32");
    let mx = QuantizedRef { scales: &bytes, biases: None, mode: QuantMode::Mxfp4, ..good };
    assert_eq!(ops::dequantize(mx, Dtype::F32, &s).unwrap().to_vec::<f32>(&s).unwrap().len(), 256);
}

#[test]
fn attention_of_heads_and_lengths_that_do_not_fit() {
    let s = stream();
    let cases = [
        ([2, 4, 8, 16], [1, 2, 8, 16], [1, 2, 8, 16]),
        ([1, 4, 8, 16], [1, 2, 8, 16], [1, 2, 4, 16]),
        ([1, 4, 8, 16], [1, 3, 8, 16], [1, 3, 8, 16]),
        ([1, 4, 8, 16], [1, 2, 4, 16], [1, 2, 4, 16]),
        ([1, 4, 8, 16], [1, 0, 8, 16], [1, 0, 8, 16]),
        ([1, 0, 8, 16], [1, 0, 8, 16], [1, 0, 8, 16]),
        ([1, 4, 8, 16], [1, 2, 8, 8], [1, 2, 8, 16]),
        ([1, 4, 8, 16], [1, 2, 8, 16], [2, 2, 8, 16]),
    ];
    for (q, k, v) in cases {
        assert_refused(ops::causal_attention(&zeros(&q), &zeros(&k), &zeros(&v), 1.0, &s), "queries");
    }
    let long = ops::broadcast_to(&zeros(&[1, 1, 1, 16]), &[1, 1, 1 << 20, 16], &s).unwrap();
    assert_refused(ops::causal_attention(&long, &long, &long, 1.0, &s), "elements");
    let (q, kv) = (zeros(&[1, 4, 3, 16]), zeros(&[1, 2, 8, 16]));
    assert_eq!(ops::causal_attention(&q, &kv, &kv, 1.0, &s).unwrap().to_vec::<f32>(&s).unwrap(), [0.0; 192]);
}

#[test]
fn rotations_and_slices_at_the_edges() {
    let s = stream();
    let settings = |dims, offset| RopeSettings {
        dims,
        traditional: false,
        frequencies: RopeFrequencies::Base(10_000.0),
        scale: 1.0,
        offset,
    };
    let x = zeros(&[1, 2, 4, 8]);
    for (dims, offset) in [(10, 0), (7, 0), (0, 0), (-2, 0), (8, i32::MAX)] {
        assert!(ops::rope(&x, settings(dims, offset), &s).is_err(), "{dims} {offset}");
    }
    assert!(ops::rope(&zeros(&[4, 8]), settings(8, 0), &s).is_err());
    assert_eq!(ops::rope(&x, settings(8, i32::MIN), &s).unwrap().shape(), x.shape());
    let rows = zeros(&[4, 2]);
    for (start, stop, left) in [
        (-100, 100, 4),
        (3, 1, 0),
        (i32::MIN, i32::MAX, 4),
        (i32::MAX, i32::MIN, 0),
        (5, 9, 0),
        (-1, 4, 1),
        (-3, -1, 2),
    ] {
        let slice = ops::slice_axis(&rows, 0, start, stop, &s).unwrap();
        assert_eq!(slice.shape(), [left, 2], "{start}..{stop}");
        assert_eq!(slice.to_vec::<f32>(&s).unwrap().len(), slice.size());
    }
    for (offset, len) in [(0, 9), (8, 1), (usize::MAX, 1), (0, -1), (0, i32::MIN)] {
        assert!(ops::flat_slice(&rows, offset, len, &s).is_err(), "{offset} {len}");
    }
    for axes in [&[0_i32, 0][..], &[0], &[0, 2], &[-3, 0], &[]] {
        assert!(ops::transpose(&rows, axes, &s).is_err(), "{axes:?}");
    }
}

#[test]
fn views_of_bytes_as_what_they_can_be() {
    let s = stream();
    let bytes: Vec<u8> = (0..17).collect();
    let bytes = Array::from_slice(&bytes, &[17]).unwrap();
    let odd = ops::flat_slice(&bytes, 1, 16, &s).unwrap();
    let expected = [0x0403_0201_u32, 0x0807_0605, 0x0c0b_0a09, 0x100f_0e0d];
    let words = ops::view(&odd, Dtype::U32, &s).unwrap();
    assert_eq!(words.as_slice::<u32>().unwrap(), expected);
    assert_eq!(words.to_vec::<u32>(&s).unwrap(), expected);
    assert_refused(ops::view(&bytes, Dtype::F32, &s), "17 bytes");
    assert_refused(ops::view(&bytes, Dtype::Bool, &s), "bools");
    assert_refused(ops::view(&zeros(&[]), Dtype::U8, &s), "no dimension");
    let flags = Array::from_slice(&[true, false], &[2]).unwrap();
    assert_eq!(ops::view(&flags, Dtype::Bool, &s).unwrap().to_vec::<bool>(&s).unwrap(), [true, false]);
}

/// A column that was a row is in row order and in that of columns, with strides that say neither.
#[test]
fn views_of_columns_lie_where_they_should() {
    let s = stream();
    let row = Array::from_slice(&[0x0201_0000_u32, 0x0403, 0x0605, 0x0807], &[1, 4]).unwrap();
    let column = ops::transpose(&row, &[1, 0], &s).unwrap();
    let bytes = [0_u8, 0, 1, 2, 3, 4, 0, 0, 5, 6, 0, 0, 7, 8, 0, 0];
    let view = ops::view(&column, Dtype::U8, &s).unwrap();
    assert_eq!(view.shape(), [4, 4]);
    assert_eq!(view.to_vec::<u8>(&s).unwrap(), bytes);
    let second = ops::slice_axis(&view, 1, 1, 2, &s).unwrap();
    assert_eq!(second.to_vec::<u8>(&s).unwrap(), [0, 4, 6, 8]);

    // Also where a sum takes the view's memory over, and where it meets what does lie in columns.
    let table = Array::from_slice(&(0..16).map(|i| 16 * i).collect::<Vec<u8>>(), &[4, 4]).unwrap();
    let columns = ops::transpose(&table, &[1, 0], &s).unwrap();
    let sum = ops::add(&view, &columns, &s).unwrap();
    drop((row, column, view, second));
    let expected: Vec<u8> = (0..16).map(|i| bytes[i] + 16 * (i % 4 * 4 + i / 4) as u8).collect();
    assert_eq!(sum.to_vec::<u8>(&s).unwrap(), expected);
}

#[test]
fn columns_in_another_shape_are_no_columns_of_it() {
    let s = stream();
    let numbers = |factor: i32, shape: &[i32]| {
        Array::from_slice(&(0..12).map(|i| factor * i).collect::<Vec<_>>(), shape).unwrap()
    };
    let columns = ops::transpose(&numbers(1, &[4, 3]), &[1, 0], &s).unwrap();
    let reshaped = ops::reshape(&columns, &[3, 2, 2], &s).unwrap();
    let others = ops::transpose(&numbers(100, &[2, 2, 3]), &[2, 1, 0], &s).unwrap();
    let read = |array: &Array| array.to_vec::<i32>(&s).unwrap();
    let sums: Vec<i32> = read(&reshaped).iter().zip(read(&others)).map(|(a, b)| a + b).collect();
    assert_eq!(read(&ops::add(&reshaped, &others, &s).unwrap()), sums);
}

/// It may have any stride, which is none for the several elements that it becomes.
#[test]
fn views_of_a_lone_element_have_all_of_its_bytes() {
    let s = stream();
    let number = Array::from_slice(&[0x0403_0201_u32], &[]).unwrap();
    let bytes = ops::view(&ops::broadcast_to(&number, &[1], &s).unwrap(), Dtype::U8, &s).unwrap();
    let last = ops::slice_axis(&bytes, 0, 1, 4, &s).unwrap();
    assert_eq!(last.to_vec::<u8>(&s).unwrap(), [2, 3, 4]);
    let turned = ops::transpose(&bytes, &[0], &s).unwrap();
    assert_eq!(turned.to_vec::<u8>(&s).unwrap(), [1, 2, 3, 4]);
}

/// Rows with gaps and the same number over and over, in one dimension.
#[test]
fn parts_of_what_does_not_lie_in_row_order_are_its_elements() {
    let s = stream();
    let table = Array::from_slice(&(0..12).collect::<Vec<i32>>(), &[4, 3]).unwrap();
    let column = ops::reshape(&ops::slice_axis(&table, 1, 1, 2, &s).unwrap(), &[4], &s).unwrap();
    let part = |array: &Array, offset, len| {
        ops::flat_slice(array, offset, len, &s).unwrap().to_vec::<i32>(&s).unwrap()
    };
    assert_eq!(part(&column, 1, 3), [4, 7, 10]);
    assert_eq!(part(&column, 4, 0), [0_i32; 0]);
    let one = ops::slice_axis(&column, 0, 2, 3, &s).unwrap();
    assert_eq!(part(&ops::broadcast_to(&one, &[5], &s).unwrap(), 3, 2), [7, 7]);
    assert_eq!(part(&ops::transpose(&table, &[1, 0], &s).unwrap(), 3, 3), [9, 1, 4]);
}

#[test]
fn products_without_elements_have_shape_and_type() {
    let s = stream();
    for (a, b, shape) in [
        (&[0, 3][..], &[3, 2][..], &[0, 2][..]),
        (&[2, 0, 3], &[3, 2], &[2, 0, 2]),
        (&[3], &[3, 0], &[0]),
        (&[4, 0, 3], &[1, 3, 2], &[4, 0, 2]),
        (&[0, 3], &[3], &[0]),
    ] {
        let product = ops::matmul(&zeros(a), &zeros(b), &s).unwrap();
        assert_eq!((product.shape(), product.dtype()), (shape, Some(Dtype::F32)));
        assert_eq!(product.to_vec::<f32>(&s).unwrap(), [0.0_f32; 0]);
    }
    let half = ops::astype(&zeros(&[0, 3]), Dtype::F16, &s).unwrap();
    let bytes = ops::astype(&zeros(&[3, 2]), Dtype::U8, &s).unwrap();
    assert_eq!(ops::matmul(&half, &bytes, &s).unwrap().dtype(), Some(Dtype::F16));
    let none = ops::astype(&half, Dtype::U8, &s).unwrap();
    assert_refused(ops::matmul(&none, &bytes, &s), "floats");
    let (q, kv) = (zeros(&[1, 4, 0, 16]), zeros(&[1, 2, 8, 16]));
    assert_eq!(ops::causal_attention(&q, &kv, &kv, 1.0, &s).unwrap().shape(), [1, 4, 0, 16]);
}

#[test]
fn of_quantised_matrices_too() {
    let s = stream();
    for (rows, x, shape) in [
        (2, &[0, 32][..], &[0, 2][..]),
        (2, &[3, 0, 32], &[3, 0, 2]),
        (0, &[4, 32], &[4, 0]),
        (0, &[32], &[0]),
    ] {
        let weight = ops::astype(&zeros(&[rows, 4]), Dtype::U32, &s).unwrap();
        let scales = ops::astype(&zeros(&[rows, 1]), Dtype::F16, &s).unwrap();
        let bytes = ops::astype(&scales, Dtype::U8, &s).unwrap();
        let x = ops::astype(&zeros(x), Dtype::F16, &s).unwrap();
        for (mode, scales) in [(QuantMode::Affine, &scales), (QuantMode::Mxfp4, &bytes)] {
            let biases = (mode == QuantMode::Affine).then_some(scales);
            let w = QuantizedRef { weight: &weight, scales, biases, group_size: 32, bits: 4, mode };
            let product = ops::quantized_matmul(&x, w, &s).unwrap();
            product.eval().unwrap();
            assert_eq!((product.shape(), product.dtype()), (shape, Some(Dtype::F16)));
            let dense = ops::dequantize(w, Dtype::F32, &s).unwrap();
            dense.eval().unwrap();
            assert_eq!((dense.shape(), dense.dtype()), (&[rows, 32][..], Some(Dtype::F32)));
        }
    }
}
