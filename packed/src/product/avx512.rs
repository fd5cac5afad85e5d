//! The kernels, one panel of rows times one panel of weights, and what puts numbers into panels and takes them out again.
//! Intrinsics of AVX-512, of its bfloat16 and of its VNNI; what they read and write is checked by the caller.

use half::bf16;

use super::panels::{OUTPUTS, ROWS};

/// One panel of rows times one panel of weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// Words along the inner length.
    pub(crate) steps: usize,
    /// Inputs beside them that are multiplied in float32, where the others are of 8 bits.
    pub(crate) wide: usize,
    /// `[steps, ROWS]` words; behind them, of 8 bits, the scales of the rows, and `[wide, ROWS]` values.
    pub(crate) input: *const u32,
    /// `[steps, OUTPUTS]` words; behind them, of 8 bits, what is taken off the sums, the scales of the outputs, and
    /// `[wide, OUTPUTS]` weights.
    pub(crate) weights: *const u8,
    /// Where the first sum goes.
    pub(crate) out: *mut f32,
    /// How far apart rows are there.
    pub(crate) stride: usize,
    /// Rows that are written, at most [`ROWS`].
    pub(crate) rows: usize,
    /// Outputs that are written, at most [`OUTPUTS`].
    pub(crate) outputs: usize,
    /// Onto what is there.
    pub(crate) adds: bool,
}

#[cfg(not(target_arch = "x86_64"))]
use elsewhere as machine;
#[cfg(target_arch = "x86_64")]
use x86_64 as machine;

pub(super) use machine::{bfloat16, float32, has_bfloat16, has_float32, has_int8, int8, narrow};

/// `to[word · stride + row] = rows[row][word]`, for at most 16 rows.
///
/// # Safety
/// Each row has `words` words, and `to` has those places, which nobody else reads or writes meanwhile.
#[expect(unsafe_code, reason = "rows and places are pointers")]
pub(crate) unsafe fn interleave(rows: impl Iterator<Item = *const u32>, words: usize, to: *mut u32, stride: usize) {
    let (rows, count) = at_most_16(rows, std::ptr::null());
    // Safety: as the caller promises.
    let done = unsafe { machine::interleave_16(&rows, count, words, to, stride) };
    for word in done..words {
        for (at, row) in rows.iter().enumerate().take(count) {
            // Safety: as the caller promises.
            unsafe { *to.add(word * stride + at) = *row.add(word) };
        }
    }
}

/// The reverse: `to[row][word] = from[word · stride + row]`, for at most 16 rows.
///
/// # Safety
/// `from` has those words, and each row has `words` places, which nobody else reads or writes meanwhile. (Beyond the last
/// row `from` has 16 words in all.)
#[expect(unsafe_code, reason = "rows and places are pointers")]
pub(crate) unsafe fn separate(from: *const u32, stride: usize, words: usize, to: impl Iterator<Item = *mut u32>) {
    let (to, count) = at_most_16(to, std::ptr::null_mut());
    // Safety: as the caller promises.
    let done = unsafe { machine::separate_16(from, stride, words, &to, count) };
    for word in done..words {
        for (at, to) in to.iter().enumerate().take(count) {
            // Safety: as the caller promises.
            unsafe { *to.add(word) = *from.add(word * stride + at) };
        }
    }
}

fn at_most_16<T: Copy>(pointers: impl Iterator<Item = T>, none: T) -> ([T; 16], usize) {
    let (mut all, mut count) = ([none; 16], 0);
    for pointer in pointers {
        all[count] = pointer;
        count += 1;
    }
    (all, count)
}

/// Two rows of values as pairs of bfloat16, the first in the lower half. Where the second ends there are zeros.
pub(crate) fn pair_rows(low: &[f32], high: &[f32], to: &mut [u32]) {
    let done = machine::pair_16(low, high, to);
    for (at, to) in to.iter_mut().enumerate().skip(done) {
        let bits = |values: &[f32]| values.get(at).map_or(0, |value| u32::from(bf16::from_f32(*value).to_bits()));
        *to = bits(low) | bits(high) << 16;
    }
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::x86_64::{
        __m256bh, __m256i, __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_castsi512_ps, _mm512_cvtepi32_ps,
        _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_cvtneps_pbh, _mm512_dpbf16_ps, _mm512_dpbusd_epi32,
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_storeu_epi32, _mm512_mask_storeu_ps,
        _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_or_si512, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_slli_epi32, _mm512_storeu_si512, _mm512_sub_epi32,
        _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };

    use super::{Call, OUTPUTS, ROWS};

    /// Values of a register.
    const LANES: usize = OUTPUTS / 2;

    pub(in super::super) fn has_float32() -> bool {
        is_x86_feature_detected!("avx512f")
    }

    pub(in super::super) fn has_bfloat16() -> bool {
        has_float32() && is_x86_feature_detected!("avx512bf16")
    }

    pub(in super::super) fn has_int8() -> bool {
        has_float32() && is_x86_feature_detected!("avx512vnni")
    }

    /// The loop over the inner length, and the writing of its sums: the same for every kind of word. `$multiply` adds a
    /// step's products to a sum, `$finished` makes float32 of the sum of a row and a half panel.
    macro_rules! kernel {
        ($(#[$about:meta])* $name:ident, $features:literal, $zero:expr, $multiply:expr, $finished:expr) => {
            $(#[$about])*
            ///
            /// # Safety
            /// The processor has the instructions; the panels are as long as `call` says; of the rows and outputs that
            /// are written nobody else reads or writes any meanwhile.
            #[target_feature(enable = $features)]
            #[expect(unsafe_code, reason = "intrinsics take pointers")]
            pub(in super::super) unsafe fn $name(call: &Call) {
                let mut sums = [[$zero; 2]; ROWS];
                let (mut input, mut weights) = (call.input, call.weights);
                for _ in 0..call.steps {
                    // Safety: within the panels, of which this is one step.
                    unsafe {
                        let low = _mm512_loadu_si512(weights.cast());
                        let high = _mm512_loadu_si512(weights.add(4 * LANES).cast());
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let word = _mm512_set1_epi32((*input.add(row)).cast_signed());
                            sums[0] = $multiply(sums[0], word, low);
                            sums[1] = $multiply(sums[1], word, high);
                        }
                        input = input.add(ROWS);
                        weights = weights.add(4 * OUTPUTS);
                    }
                }
                let masks = [0, LANES].map(|from| mask_of(call.outputs.saturating_sub(from).min(LANES)));
                // A copy: what is indexed at run time is in memory, and the sums of the loop are to stay in registers.
                let done = std::hint::black_box(sums);
                for (row, sums) in done.iter().enumerate().take(call.rows) {
                    for (half, mask) in masks.into_iter().enumerate() {
                        // Safety: a row that is written; the mask leaves out what is beyond its outputs.
                        unsafe {
                            let to = call.out.add(row * call.stride).wrapping_add(half * LANES);
                            let sum = $finished(call, row, half, sums[half]);
                            let sum =
                                if call.adds { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum) } else { sum };
                            _mm512_mask_storeu_ps(to, mask, sum);
                        }
                    }
                }
            }
        };
    }

    kernel!(
        /// Of float32.
        float32, "avx512f", _mm512_setzero_ps(),
        |sum: __m512, word: __m512i, weights: __m512i| {
            _mm512_fmadd_ps(_mm512_castsi512_ps(word), _mm512_castsi512_ps(weights), sum)
        },
        as_it_is
    );

    kernel!(
        /// Of pairs of bfloat16.
        bfloat16, "avx512f,avx512bf16", _mm512_setzero_ps(),
        |sum: __m512, word: __m512i, weights: __m512i| {
            _mm512_dpbf16_ps(sum, as_bfloat16(word), as_bfloat16(weights))
        },
        as_it_is
    );

    kernel!(
        /// Of 8 bits, four to a word.
        int8, "avx512f,avx512vnni", _mm512_setzero_si512(), _mm512_dpbusd_epi32, scaled
    );

    fn as_it_is(_call: &Call, _row: usize, _half: usize, sum: __m512) -> __m512 {
        sum
    }

    /// The sum less what its outputs take off, times the scales of outputs and row, and what wide inputs add.
    ///
    /// # Safety
    /// The panels are as long as `call` says.
    #[target_feature(enable = "avx512f")]
    #[expect(unsafe_code, reason = "intrinsics take pointers")]
    unsafe fn scaled(call: &Call, row: usize, half: usize, sum: __m512i) -> __m512 {
        // Safety: behind the steps there is what `call` says of either panel.
        unsafe {
            let mut of_row = call.input.add(ROWS * call.steps + row);
            let mut of_outputs = call.weights.add(4 * (OUTPUTS * call.steps + LANES * half));
            let sum = _mm512_sub_epi32(sum, _mm512_loadu_si512(of_outputs.cast()));
            of_outputs = of_outputs.add(4 * OUTPUTS);
            let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(of_outputs.cast()));
            let mut sum = _mm512_mul_ps(scaled, _mm512_set1_ps(f32::from_bits(*of_row)));
            for _ in 0..call.wide {
                of_row = of_row.add(ROWS);
                of_outputs = of_outputs.add(4 * OUTPUTS);
                let value = _mm512_set1_ps(f32::from_bits(*of_row));
                sum = _mm512_add_ps(sum, _mm512_mul_ps(value, _mm512_loadu_ps(of_outputs.cast())));
            }
            sum
        }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn as_bfloat16(register: __m512i) -> __m512bh {
        #[expect(unsafe_code, reason = "the same register under another name, which has no intrinsic")]
        // Safety: both are 64 bytes without a meaning of their own.
        unsafe {
            std::mem::transmute::<__m512i, __m512bh>(register)
        }
    }

    /// The transpose of 16 registers of 16 words.
    #[target_feature(enable = "avx512f")]
    fn transposed(rows: &[__m512i; 16]) -> [__m512i; 16] {
        let zero = _mm512_setzero_si512();
        let (mut a, mut b) = ([zero; 16], [zero; 16]);
        for at in 0..8 {
            a[2 * at] = _mm512_unpacklo_epi32(rows[2 * at], rows[2 * at + 1]);
            a[2 * at + 1] = _mm512_unpackhi_epi32(rows[2 * at], rows[2 * at + 1]);
        }
        for at in (0..16).step_by(4) {
            b[at] = _mm512_unpacklo_epi64(a[at], a[at + 2]);
            b[at + 1] = _mm512_unpackhi_epi64(a[at], a[at + 2]);
            b[at + 2] = _mm512_unpacklo_epi64(a[at + 1], a[at + 3]);
            b[at + 3] = _mm512_unpackhi_epi64(a[at + 1], a[at + 3]);
        }
        // Of four rows each a quarter of a register holds the same four words: the quarters change places.
        for at in 0..4 {
            a[at] = _mm512_shuffle_i32x4::<0x88>(b[at], b[at + 4]);
            a[at + 4] = _mm512_shuffle_i32x4::<0xdd>(b[at], b[at + 4]);
            a[at + 8] = _mm512_shuffle_i32x4::<0x88>(b[at + 8], b[at + 12]);
            a[at + 12] = _mm512_shuffle_i32x4::<0xdd>(b[at + 8], b[at + 12]);
        }
        for at in 0..4 {
            b[at] = _mm512_shuffle_i32x4::<0x88>(a[at], a[at + 8]);
            b[at + 4] = _mm512_shuffle_i32x4::<0x88>(a[at + 4], a[at + 12]);
            b[at + 8] = _mm512_shuffle_i32x4::<0xdd>(a[at], a[at + 8]);
            b[at + 12] = _mm512_shuffle_i32x4::<0xdd>(a[at + 4], a[at + 12]);
        }
        b
    }

    fn mask_of(count: usize) -> u16 {
        u16::try_from((1_u32 << count) - 1).unwrap_or(u16::MAX)
    }

    /// As much of [`interleave`](super::interleave) as goes in blocks of 16 words. Answers how many words that were.
    ///
    /// # Safety
    /// See there.
    #[expect(unsafe_code, reason = "rows and places are pointers")]
    pub(super) unsafe fn interleave_16(
        rows: &[*const u32; 16],
        count: usize,
        words: usize,
        to: *mut u32,
        stride: usize,
    ) -> usize {
        if has_float32() {
            // Safety: as the caller promises; the instructions are there.
            unsafe { interleave_blocks(rows, count, words / 16, to, stride) };
            words - words % 16
        } else {
            0
        }
    }

    #[target_feature(enable = "avx512f")]
    #[expect(unsafe_code, reason = "intrinsics take pointers")]
    unsafe fn interleave_blocks(rows: &[*const u32; 16], count: usize, blocks: usize, to: *mut u32, stride: usize) {
        for first in (0..blocks).map(|block| 16 * block) {
            let mut block = [_mm512_setzero_si512(); 16];
            for (row, from) in block.iter_mut().zip(rows).take(count) {
                // Safety: 16 words of a row, as the caller promises.
                *row = unsafe { _mm512_loadu_si512(from.add(first).cast()) };
            }
            for (word, rows) in transposed(&block).into_iter().enumerate() {
                // Safety: the places of this word, as the caller promises; the mask leaves out rows that are not there.
                unsafe { _mm512_mask_storeu_epi32(to.add((first + word) * stride).cast(), mask_of(count), rows) };
            }
        }
    }

    /// As much of [`separate`](super::separate) as goes in blocks of 16 words. Answers how many words that were.
    ///
    /// # Safety
    /// See there.
    #[expect(unsafe_code, reason = "rows and places are pointers")]
    pub(super) unsafe fn separate_16(
        from: *const u32,
        stride: usize,
        words: usize,
        to: &[*mut u32; 16],
        count: usize,
    ) -> usize {
        if has_float32() {
            // Safety: as the caller promises; the instructions are there.
            unsafe { separate_blocks(from, stride, words / 16, to, count) };
            words - words % 16
        } else {
            0
        }
    }

    #[target_feature(enable = "avx512f")]
    #[expect(unsafe_code, reason = "intrinsics take pointers")]
    unsafe fn separate_blocks(from: *const u32, stride: usize, blocks: usize, to: &[*mut u32; 16], count: usize) {
        for first in (0..blocks).map(|block| 16 * block) {
            let mut block = [_mm512_setzero_si512(); 16];
            for (word, row) in block.iter_mut().enumerate() {
                // Safety: 16 rows of that word, as the caller promises.
                *row = unsafe { _mm512_loadu_si512(from.add((first + word) * stride).cast()) };
            }
            for (words, to) in transposed(&block).into_iter().zip(to).take(count) {
                // Safety: 16 places of a row, as the caller promises.
                unsafe { _mm512_storeu_si512(to.add(first).cast(), words) };
            }
        }
    }

    /// [`pair_rows`](super::pair_rows), of which it answers how much it did: all, or nothing where the processor cannot.
    pub(super) fn pair_16(low: &[f32], high: &[f32], to: &mut [u32]) -> usize {
        if !has_bfloat16() {
            return 0;
        }
        #[expect(unsafe_code, reason = "the instructions have just been found")]
        // Safety: as it says.
        unsafe {
            pair_all(low, high, to)
        }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn pair_all(low: &[f32], high: &[f32], to: &mut [u32]) -> usize {
        for (at, to) in to.chunks_mut(LANES).enumerate() {
            let part = |values: &[f32]| {
                let values = values.get(LANES * at..).unwrap_or(&[]);
                #[expect(unsafe_code, reason = "intrinsics take pointers")]
                // Safety: the mask leaves out what is beyond the values.
                let wide = unsafe { _mm512_maskz_loadu_ps(mask_of(values.len().min(to.len())), values.as_ptr()) };
                #[expect(unsafe_code, reason = "the same register under another name, which has no intrinsic")]
                // Safety: both are 32 bytes without a meaning of their own.
                let narrow = unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(wide)) };
                _mm512_cvtepu16_epi32(narrow)
            };
            let pairs = _mm512_or_si512(part(low), _mm512_slli_epi32::<16>(part(high)));
            #[expect(unsafe_code, reason = "intrinsics take pointers")]
            // Safety: the mask leaves out what is beyond the places.
            unsafe {
                _mm512_mask_storeu_epi32(to.as_mut_ptr().cast(), mask_of(to.len()), pairs);
            }
        }
        to.len()
    }

    /// Values as pairs of bfloat16, the first in the lower half. Answers how many were taken: a multiple of 32, and none where
    /// the processor cannot.
    pub(in super::super) fn narrow(values: &[f32], to: &mut [u32]) -> usize {
        if !has_bfloat16() {
            return 0;
        }
        #[expect(unsafe_code, reason = "the instructions have just been found")]
        // Safety: as it says.
        unsafe {
            narrow_all(values, to)
        }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn narrow_all(values: &[f32], to: &mut [u32]) -> usize {
        let (values, _) = values.as_chunks::<{ 2 * LANES }>();
        let (to, _) = to.as_chunks_mut::<LANES>();
        for (values, to) in values.iter().zip(to) {
            #[expect(unsafe_code, reason = "intrinsics take pointers")]
            // Safety: 32 values are read and 16 words written, which is what there are.
            unsafe {
                let low = _mm512_loadu_ps(values.as_ptr());
                let high = _mm512_loadu_ps(values.as_ptr().add(LANES));
                let narrow = _mm512_cvtne2ps_pbh(high, low);
                _mm512_storeu_si512(to.as_mut_ptr().cast(), std::mem::transmute::<__m512bh, __m512i>(narrow));
            }
        }
        values.len() * 2 * LANES
    }
}

/// Where there is no AVX-512 nothing is put into panels.
#[cfg(not(target_arch = "x86_64"))]
mod elsewhere {
    use super::Call;

    pub(in super::super) const fn has_float32() -> bool {
        false
    }

    pub(in super::super) const fn has_bfloat16() -> bool {
        false
    }

    pub(in super::super) const fn has_int8() -> bool {
        false
    }

    pub(in super::super) const fn narrow(_values: &[f32], _to: &mut [u32]) -> usize {
        0
    }

    pub(super) const fn pair_16(_low: &[f32], _high: &[f32], _to: &mut [u32]) -> usize {
        0
    }

    /// # Safety
    /// It does nothing.
    #[expect(unsafe_code, reason = "the signature of the others")]
    pub(super) const unsafe fn interleave_16(_: &[*const u32; 16], _: usize, _: usize, _: *mut u32, _: usize) -> usize {
        0
    }

    /// # Safety
    /// It does nothing.
    #[expect(unsafe_code, reason = "the signature of the others")]
    pub(super) const unsafe fn separate_16(_: *const u32, _: usize, _: usize, _: &[*mut u32; 16], _: usize) -> usize {
        0
    }

    /// # Safety
    /// It is never called.
    #[expect(unsafe_code, reason = "the signature of the others")]
    pub(in super::super) unsafe fn float32(_call: &Call) {
        unreachable!("there are no panels");
    }

    /// # Safety
    /// It is never called.
    #[expect(unsafe_code, reason = "the signature of the others")]
    pub(in super::super) unsafe fn bfloat16(_call: &Call) {
        unreachable!("there are no panels");
    }

    /// # Safety
    /// It is never called.
    #[expect(unsafe_code, reason = "the signature of the others")]
    pub(in super::super) unsafe fn int8(_call: &Call) {
        unreachable!("there are no panels");
    }
}
