//! Weight files to matrices. I/O: reads safetensors files, in pieces and on all threads of the pool that it is called
//! in, and keeps nothing mapped: a file that changes later changes no score. (Of a head of its own two rows are read
//! when they are first needed, from the file as it was opened.)

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::linear::{Linear, Way};
use crate::matrix::{Holding, Matrix, Values};
use crate::product::Rounding;

/// Values that are read as one piece of work.
const PIECE: usize = 1 << 18;

/// How many times as large as the usual a weight of a norm is that makes its channel stand out.
const OUTLIER: f32 = 4.0;

/// Channels that count as standing out, at most: the largest.
const MOST_OUTLIERS: usize = 16;

/// Longest header that is read; the format allows no longer one.
const LONGEST_HEADER_BYTES: u64 = 100_000_000;

/// Why weights cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The system refused, or the file ends early.
    #[error("failed to read {path:?}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// Not a safetensors file.
    #[error("{path:?} is damaged: {reason}; copy or download it again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tensor that the model needs is in none of the files.
    #[error("tensor {tensor:?} is missing")]
    Missing {
        /// Its name.
        tensor: String,
    },
    /// A tensor of another size than the configuration says.
    #[error("tensor {tensor:?} has shape {found:?}, config.json asks for {expected:?}")]
    Shape {
        /// Its name.
        tensor: String,
        /// As it is.
        found: Vec<usize>,
        /// As it should be.
        expected: Vec<usize>,
    },
    /// A tensor of a type that is no weight's.
    #[error("tensor {tensor:?} holds {found:?}; weights are F32, F16 or BF16")]
    Type {
        /// Its name.
        tensor: String,
        /// As it is.
        found: Dtype,
    },
}

/// Open weight files, and how far their reading has come.
pub(crate) struct WeightFiles<'a> {
    files: Vec<Arc<Opened>>,
    /// Number of the file that has a tensor.
    tensors: HashMap<String, (usize, TensorInfo)>,
    progress: &'a (dyn Fn(u64) + Sync),
}

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    file: File,
    data_begins: u64,
}

/// One tensor in its file.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    file: Arc<Opened>,
    kind: Dtype,
    begins: u64,
    columns: usize,
}

impl<'a> WeightFiles<'a> {
    /// Opens the files and reads their headers. `progress` is told how many bytes of weights were read, again and
    /// again.
    pub(crate) fn open(paths: &[PathBuf], progress: &'a (dyn Fn(u64) + Sync)) -> Result<Self, LoadError> {
        let mut opened = Self { files: Vec::new(), tensors: HashMap::new(), progress };
        for path in paths {
            let (file, metadata) = open(path)?;
            let number = opened.files.len();
            let tensors = metadata.tensors().into_iter().map(|(name, info)| (name, (number, info.clone())));
            opened.tensors.extend(tensors);
            opened.files.push(Arc::new(file));
        }
        Ok(opened)
    }

    /// A tensor of that shape.
    pub(crate) fn find(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        let Some((file, info)) = self.tensors.get(name) else {
            return Err(LoadError::Missing { tensor: name.to_owned() });
        };
        if info.shape != shape {
            let (found, expected) = (info.shape.clone(), shape.to_vec());
            return Err(LoadError::Shape { tensor: name.to_owned(), found, expected });
        }
        if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(LoadError::Type { tensor: name.to_owned(), found: info.dtype });
        }
        let file = Arc::clone(&self.files[*file]);
        let begins = file.data_begins + info.data_offsets.0 as u64;
        let columns = shape.last().copied().unwrap_or(1);
        Ok(Tensor { file, kind: info.dtype, begins, columns })
    }

    /// The weights of a linear layer: one or several tensors, one below the other, each with its name and rows.
    /// `norm`: the weights of the norm before it, if it has one.
    pub(crate) fn linear(
        &self,
        parts: &[(String, usize)],
        inputs: usize,
        norm: Option<&[f32]>,
        way: Way,
    ) -> Result<Linear, LoadError> {
        if let Some(rounding) = way.rounding {
            let wide = norm.filter(|_| rounding.keeps_outliers).map(outliers);
            return self.quantized(parts, inputs, rounding, wide.unwrap_or_default());
        }
        let Matrix { rows, columns, values } = self.matrix(parts, inputs, way.holding)?;
        Ok(Linear::new(rows, columns, values, way.kernel))
    }

    /// The same in 8 bits: read, and rounded, some outputs at a time.
    fn quantized(
        &self,
        parts: &[(String, usize)],
        inputs: usize,
        rounding: Rounding,
        wide: Vec<usize>,
    ) -> Result<Linear, LoadError> {
        let tensors = self.parts(parts, inputs)?;
        let outputs = parts.iter().map(|(_, rows)| rows).sum();
        Linear::quantized((outputs, inputs), rounding, wide, |wanted, to| {
            let mut first = 0;
            for ((_, rows), tensor) in parts.iter().zip(&tensors) {
                let (from, end) = (wanted.start.max(first), wanted.end.min(first + rows));
                if from < end {
                    let to = &mut to[(from - wanted.start) * inputs..(end - wanted.start) * inputs];
                    (self.progress)(tensor.read((from - first) * inputs, to)?);
                }
                first += rows;
            }
            Ok(())
        })
    }

    /// Tensors of so many columns, each with its name and rows. What is not there in that size is not made room for.
    fn parts(&self, parts: &[(String, usize)], columns: usize) -> Result<Vec<Tensor>, LoadError> {
        parts.iter().map(|(name, rows)| self.find(name, &[*rows, columns])).collect()
    }

    /// A matrix of one or several tensors, one below the other, each with its name and rows.
    pub(crate) fn matrix(
        &self,
        parts: &[(String, usize)],
        columns: usize,
        holding: Holding,
    ) -> Result<Matrix, LoadError> {
        let tensors = self.parts(parts, columns)?;
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        let mut matrix = Matrix::new(rows, columns, holding);
        let mut from = 0;
        for ((_, rows), tensor) in parts.iter().zip(tensors) {
            let range = from..from + rows * columns;
            match &mut matrix.values {
                Values::Float32(values) => self.read(&tensor, &mut values[range.clone()])?,
                Values::Float16(values) => self.read(&tensor, &mut values[range.clone()])?,
                Values::Bfloat16(values) => self.read(&tensor, &mut values[range.clone()])?,
            }
            from = range.end;
        }
        Ok(matrix)
    }

    /// A vector in float32.
    pub(crate) fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, LoadError> {
        let tensor = self.find(name, &[length])?;
        let mut values = vec![0.0; length];
        self.read(&tensor, &mut values)?;
        Ok(values)
    }

    fn read<T: Held>(&self, tensor: &Tensor, to: &mut [T]) -> Result<(), LoadError> {
        to.par_chunks_mut(PIECE).enumerate().try_for_each(|(number, to)| {
            let bytes = tensor.read(number * PIECE, to)?;
            (self.progress)(bytes);
            Ok(())
        })
    }
}

impl Tensor {
    /// One row, in float32.
    pub(crate) fn row(&self, row: usize) -> Result<Vec<f32>, LoadError> {
        let mut values = vec![0.0_f32; self.columns];
        self.read(row * self.columns, &mut values)?;
        Ok(values)
    }

    /// Reads values from the `first` on. Answers how many bytes that took.
    fn read<T: Held>(&self, first: usize, to: &mut [T]) -> Result<u64, LoadError> {
        let size = if self.kind == Dtype::F32 { 4 } else { 2 };
        let mut bytes = vec![0; to.len() * size];
        let at = self.begins + (first * size) as u64;
        self.file.file.read_exact_at(&mut bytes, at).map_err(|source| unreadable(&self.file.path, source))?;
        if self.kind == Dtype::F32 {
            for (to, bytes) in to.iter_mut().zip(bytes.as_chunks().0) {
                *to = T::from_float32(f32::from_le_bytes(*bytes));
            }
        } else {
            let bits: Vec<u16> = bytes.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect();
            if self.kind == Dtype::F16 { T::from_float16(&bits, to) } else { T::from_bfloat16(&bits, to) }
        }
        Ok(bytes.len() as u64)
    }
}

/// A way of holding a weight.
trait Held: Copy + Send {
    fn from_float32(value: f32) -> Self;

    fn from_float16(bits: &[u16], to: &mut [Self]) {
        let mut wide = vec![0.0; bits.len()];
        bits.reinterpret_cast::<f16>().convert_to_f32_slice(&mut wide);
        for (to, wide) in to.iter_mut().zip(wide) {
            *to = Self::from_float32(wide);
        }
    }

    fn from_bfloat16(bits: &[u16], to: &mut [Self]) {
        for (to, bits) in to.iter_mut().zip(bits) {
            *to = Self::from_float32(widen_bfloat16(*bits));
        }
    }
}

/// A bfloat16 is the upper half of a float32.
pub(crate) fn widen_bfloat16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

impl Held for f32 {
    fn from_float32(value: f32) -> Self {
        value
    }
}

impl Held for f16 {
    fn from_float32(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn from_float16(bits: &[u16], to: &mut [Self]) {
        to.copy_from_slice(bits.reinterpret_cast());
    }
}

impl Held for bf16 {
    fn from_float32(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn from_bfloat16(bits: &[u16], to: &mut [Self]) {
        to.copy_from_slice(bits.reinterpret_cast());
    }
}

/// Channels that stand out by the weights of a norm, in ascending order: as large models have them, whose other channels
/// would lose their digits to these.
fn outliers(norm: &[f32]) -> Vec<usize> {
    let mut sizes: Vec<f32> = norm.iter().map(|weight| weight.abs()).collect();
    let middle = sizes.len() / 2;
    let usual = *sizes.select_nth_unstable_by(middle, f32::total_cmp).1;
    let mut found: Vec<usize> = (0..norm.len()).filter(|at| norm[*at].abs() > OUTLIER * usual).collect();
    found.sort_by(|a, b| norm[*b].abs().total_cmp(&norm[*a].abs()));
    found.truncate(MOST_OUTLIERS);
    found.sort_unstable();
    found
}

fn unreadable(path: &Path, source: io::Error) -> LoadError {
    LoadError::Unreadable { path: path.to_owned(), source }
}

fn open(path: &Path) -> Result<(Opened, Metadata), LoadError> {
    let damaged = |reason: String| LoadError::Damaged { path: path.to_owned(), reason };
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    let mut length = [0; 8];
    file.read_exact_at(&mut length, 0).map_err(|source| unreadable(path, source))?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER_BYTES {
        return Err(damaged(format!("its header would be {length} bytes long")));
    }
    let mut header = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut header, 8).map_err(|source| unreadable(path, source))?;
    let metadata = serde_json::from_slice(&header).map_err(|error| damaged(format!("its header: {error}")))?;
    Ok((Opened { path: path.to_owned(), file, data_begins: 8 + length }, metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_stand_out_by_the_size_of_their_weight_and_only_the_largest_are_kept() {
        let mut norm = vec![1.5; 100];
        assert!(outliers(&norm).is_empty());
        (norm[70], norm[7], norm[30]) = (-20.0, 6.5, 5.9);
        assert_eq!(outliers(&norm), [7, 70]);
        for (at, weight) in norm.iter_mut().step_by(5).enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "a small number")]
            let size = 100.0 + at as f32;
            *weight = size;
        }
        // Every fifth stands out, twenty in all: the four smallest of them are left, and those of before.
        let largest: Vec<usize> = (4..20).map(|at| 5 * at).collect();
        assert_eq!(outliers(&norm), largest);
        assert!(outliers(&[0.0; 8]).is_empty());
    }
}
