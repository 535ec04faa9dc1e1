//! How a vector's numbers are written: as f32, or in less.
//!
//! `int8` and `binary` are those of sentence-transformers' `quantize_embeddings`: bytes between the least and the largest
//! number that each dimension has among some texts, and the signs, eight a byte.

use clap::ValueEnum;
use mlx_embed::vectors;

use crate::found::Found;
use crate::notes::Notes;
use crate::row::Row;

/// Fewer texts than these say little of how far numbers reach.
const FEW: usize = 100;

/// The type of a vector's numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Dtype {
    #[default]
    F32,
    /// Half the size; numbers are off by 0.05 % at most
    F16,
    /// One byte a number, scaled to each dimension's range (--ranges), as sentence-transformers does
    Int8,
    /// One bit a number, its sign, as sentence-transformers does
    Binary,
}

/// How far the numbers of each dimension reach.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ranges {
    least: Vec<f32>,
    largest: Vec<f32>,
}

impl Ranges {
    /// Those of a file, for vectors of `dims` numbers. The reason where they can't be.
    pub(super) fn new([least, largest]: [Vec<f32>; 2], dims: usize) -> Result<Self, String> {
        if [least.len(), largest.len()] != [dims; 2] {
            let of = least.len();
            return Err(format!(
                "`ranges` is F32 [2, {of}], and vectors of {dims} numbers want F32 [2, {dims}]"
            ));
        }
        // Also where both are finite, and what lies between is not.
        let mut pairs = least.iter().zip(&largest);
        if !pairs.all(|(least, largest)| (0.0..f32::INFINITY).contains(&(largest - least))) {
            return Err("`ranges` has numbers that are not finite, or a least one above the largest".into());
        }
        Ok(Self { least, largest })
    }

    /// Of these texts' vectors.
    fn of<'a>(mut vectors: impl Iterator<Item = &'a [f32]>) -> Option<Self> {
        let first = vectors.next()?;
        let (mut least, mut largest) = (first.to_vec(), first.to_vec());
        for vector in vectors {
            least.iter_mut().zip(vector).for_each(|(least, &number)| *least = least.min(number));
            largest.iter_mut().zip(vector).for_each(|(largest, &number)| *largest = largest.max(number));
        }
        Some(Self { least, largest })
    }

    fn write(&self, vector: &[f32], bytes: &mut Vec<u8>) {
        let ranges = self.least.iter().zip(&self.largest);
        bytes.extend(vector.iter().zip(ranges).map(|(&number, (&least, &largest))| {
            let step = (largest - least) / 255.0;
            let step = if step == 0.0 { 1.0 } else { step };
            // -128 and on, as a signed byte has it.
            (((number - least) / step).floor().clamp(0.0, 255.0) as u8) ^ 0x80
        }));
    }
}

/// How numbers are written.
#[derive(Debug)]
pub(super) struct Numbers {
    dtype: Dtype,
    dims: usize,
    /// Of [`Dtype::Int8`], once they are known.
    ranges: Option<Ranges>,
    notes: Notes,
}

impl Numbers {
    pub(super) fn new(dtype: Dtype, dims: usize, ranges: Option<Ranges>, notes: Notes) -> Self {
        Self { dtype, dims, ranges, notes }
    }

    /// Numbers in the file for each vector.
    pub(super) fn columns(&self) -> usize {
        if self.dtype == Dtype::Binary { self.dims.div_ceil(8) } else { self.dims }
    }

    /// Bytes of each of them.
    pub(super) fn size(&self) -> usize {
        match self.dtype {
            Dtype::F32 => 4,
            Dtype::F16 => 2,
            Dtype::Int8 | Dtype::Binary => 1,
        }
    }

    /// Their type as NumPy and safetensors call it.
    pub(super) fn names(&self) -> [&'static str; 2] {
        match self.dtype {
            Dtype::F32 => ["<f4", "F32"],
            Dtype::F16 => ["<f2", "F16"],
            Dtype::Int8 | Dtype::Binary => ["|i1", "I8"],
        }
    }

    pub(super) fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Takes ranges that an earlier run has found.
    #[cfg(feature = "parquet")]
    pub(super) fn set_ranges(&mut self, [least, largest]: [Vec<f32>; 2]) {
        self.ranges = Some(Ranges { least, largest });
    }

    /// The least and the largest numbers of each dimension, once they are known.
    #[cfg(feature = "parquet")]
    pub(super) fn known_ranges(&self) -> Option<[&[f32]; 2]> {
        self.ranges.as_ref().map(|ranges| [&ranges.least[..], &ranges.largest[..]])
    }

    /// Looks at the vectors that are written next, before any of them is.
    pub(super) fn prepare(&mut self, rows: &[Row]) {
        if self.dtype != Dtype::Int8 || self.ranges.is_some() {
            return;
        }
        let vectors = || rows.iter().filter_map(|row| row.found.as_ref()).map(Found::vector);
        self.ranges = Ranges::of(vectors());
        let texts = vectors().count();
        if texts < FEW && self.ranges.is_some() {
            self.notes.say(&format!(
                "--dtype int8 takes its ranges from {texts} texts, which is few; --ranges takes those of a file"
            ));
        }
    }

    /// Bytes of the ranges, f32 `[2, dims]`: zeros until they are known. Nothing where none are wanted.
    pub(super) fn ranges(&self) -> Vec<u8> {
        if self.dtype != Dtype::Int8 {
            return Vec::new();
        }
        let Some(Ranges { least, largest }) = &self.ranges else { return vec![0; 8 * self.dims] };
        least.iter().chain(largest).flat_map(|number| number.to_le_bytes()).collect()
    }

    /// Appends a vector.
    pub(super) fn write(&self, found: &Found, bytes: &mut Vec<u8>) {
        let vector = found.vector();
        match self.dtype {
            Dtype::F32 => bytes.extend(vector.iter().flat_map(|number| number.to_le_bytes())),
            Dtype::F16 => {
                bytes.extend(vectors::to_f16(vector).into_iter().flat_map(|number| number.to_le_bytes()))
            }
            Dtype::Int8 => {
                if let Some(ranges) = &self.ranges {
                    ranges.write(vector, bytes);
                }
            }
            Dtype::Binary => bytes.extend(vector.chunks(8).map(|numbers| {
                let bit = |(place, &number): (usize, &f32)| u8::from(number > 0.0) << (7 - place);
                numbers.iter().enumerate().map(bit).sum::<u8>() ^ 0x80
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use mlx_embed::Embedding;

    use super::*;
    use crate::row::Kept;

    const ROWS: [[f32; 10]; 4] = [
        [0.5, -0.25, 0.0, 0.125, -1.0, 0.75, -0.5, 0.0625, 0.3, -0.3],
        [-0.5, 0.25, 0.0, 0.225, 1.0, -0.75, 0.5, -0.0625, 0.1, 0.2],
        [0.1, 0.2, 0.0, -0.4, 0.5, -0.6, 0.7, -0.8, 0.9, -1.0],
        [0.33, -0.11, 0.0, 0.01, 0.02, 0.03, -0.04, 0.05, -0.06, 0.07],
    ];

    fn written(dtype: Dtype) -> Vec<Vec<i8>> {
        let found = |row: [f32; 10]| Some(Found::Vector(Embedding::new(row.to_vec())));
        let rows =
            ROWS.map(|row| Row { index: 0, text: None, kept: Kept::Values(vec![]), found: found(row) });
        let mut numbers = Numbers::new(dtype, 10, None, Notes::new(true));
        numbers.prepare(&rows);
        let row = |row: &Row| {
            let mut bytes = Vec::new();
            numbers.write(row.found.as_ref().unwrap(), &mut bytes);
            assert_eq!(bytes.len(), numbers.columns() * numbers.size());
            bytes.into_iter().map(|byte| byte as i8).collect()
        };
        rows.iter().map(row).collect()
    }

    /// What sentence-transformers makes of these rows: `tests/golden/quantized.py` prints it.
    const INT8: [[i8; 10]; 4] = [
        [126, -128, -128, 86, -128, 127, -128, 127, -33, 20],
        [-128, 126, -128, 126, 126, -128, 84, 90, -86, 127],
        [25, 101, -128, -128, 63, -103, 127, -128, 127, -128],
        [83, -57, -128, 39, 2, 4, -31, 123, -128, 99],
    ];
    const BINARY: [[i8; 2]; 4] = [[21, 0], [-38, 64], [74, 0], [29, -64]];

    #[test]
    fn bytes_and_bits_are_the_references() {
        assert_eq!(written(Dtype::Int8), INT8);
        assert_eq!(written(Dtype::Binary), BINARY);
    }

    #[test]
    fn numbers_beyond_the_ranges_are_cut() {
        let ranges = Ranges { least: vec![-1.0, 2.0], largest: vec![1.0, 2.0] };
        let mut bytes = Vec::new();
        ranges.write(&[-7.0, 1.0], &mut bytes);
        ranges.write(&[7.0, 300.0], &mut bytes);
        assert_eq!(bytes.iter().map(|&byte| byte as i8).collect::<Vec<_>>(), [-128, -128, 127, 127]);
    }
}
