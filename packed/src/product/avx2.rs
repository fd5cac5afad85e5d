//! Kernels for numbers of 8 bits on processors without AVX-512. Intrinsics of AVX2 and of AVX-VNNI; what they read and write is
//! checked by the caller.

#[cfg(not(target_arch = "x86_64"))]
use elsewhere as machine;
#[cfg(target_arch = "x86_64")]
use x86_64 as machine;

pub(super) use machine::{has_avx2, has_vnni, int8, int8_vnni};

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi32, _mm256_add_ps, _mm256_and_si256, _mm256_cvtepi32_ps, _mm256_dpbusd_avx_epi32,
        _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_mul_ps, _mm256_set1_epi16, _mm256_set1_epi32,
        _mm256_set1_ps, _mm256_setzero_si256, _mm256_slli_epi16, _mm256_srai_epi16, _mm256_srli_epi16,
        _mm256_storeu_ps, _mm256_sub_epi32,
    };

    use crate::product::Call;
    use crate::product::panels::{OUTPUTS, ROWS};

    /// Values of a register.
    const LANES: usize = 8;
    /// Registers of outputs, and rows, whose sums are held at once: half of the 16 registers that there are.
    const ACROSS: usize = 2;
    const DOWN: usize = 4;

    pub(in super::super) fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2")
    }

    pub(in super::super) fn has_vnni() -> bool {
        has_avx2() && is_x86_feature_detected!("avxvnni")
    }

    /// The loop over the inner length for some rows and outputs after the other, and the writing of sums.
    macro_rules! kernel {
        ($(#[$about:meta])* $name:ident, $features:literal, $multiply:expr) => {
            $(#[$about])*
            ///
            /// # Safety
            /// The processor has the instructions; the panels are as long as `call` says; of the rows and outputs that
            /// are written nobody else reads or writes any meanwhile.
            #[target_feature(enable = $features)]
            #[expect(unsafe_code, reason = "intrinsics take pointers")]
            pub(in super::super) unsafe fn $name(call: &Call) {
                for first_row in (0..call.rows).step_by(DOWN) {
                    for first_output in (0..call.outputs).step_by(ACROSS * LANES) {
                        let mut sums = [[_mm256_setzero_si256(); ACROSS]; DOWN];
                        for step in 0..call.steps {
                            // Safety: within the panels, of which this is one step.
                            unsafe {
                                let weights = call.weights.add(4 * (step * OUTPUTS + first_output));
                                let weights = [0, 1].map(|at| _mm256_loadu_si256(weights.add(4 * LANES * at).cast()));
                                for (row, sums) in sums.iter_mut().enumerate() {
                                    let word = *call.input.add(step * ROWS + first_row + row);
                                    let word = _mm256_set1_epi32(word.cast_signed());
                                    for (sum, weights) in sums.iter_mut().zip(weights) {
                                        *sum = $multiply(*sum, word, weights);
                                    }
                                }
                            }
                        }
                        for (row, sums) in sums.iter().enumerate().take(call.rows - first_row) {
                            for (at, sum) in sums.iter().enumerate() {
                                // Safety: as the caller promises.
                                unsafe { finish(call, first_row + row, first_output + LANES * at, *sum) };
                            }
                        }
                    }
                }
            }
        };
    }

    kernel!(
        /// By AVX-VNNI.
        int8_vnni, "avx2,avxvnni", _mm256_dpbusd_avx_epi32
    );

    kernel!(
        /// By AVX2: the first and the third value of each word, then the others, in 16 bits, where no product is cut off.
        int8, "avx2", |sum: __m256i, word: __m256i, weights: __m256i| {
            let low = _mm256_and_si256(word, _mm256_set1_epi16(0xff));
            let products = _mm256_madd_epi16(low, _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(weights)));
            let others = _mm256_madd_epi16(_mm256_srli_epi16::<8>(word), _mm256_srai_epi16::<8>(weights));
            _mm256_add_epi32(sum, _mm256_add_epi32(products, others))
        }
    );

    /// Writes eight sums, or as many as there are outputs.
    ///
    /// # Safety
    /// See the kernels.
    #[target_feature(enable = "avx2")]
    #[expect(unsafe_code, reason = "intrinsics take pointers")]
    unsafe fn finish(call: &Call, row: usize, output: usize, sum: __m256i) {
        let count = call.outputs.saturating_sub(output).min(LANES);
        if count == 0 {
            return;
        }
        // Safety: behind the steps there is what `call` says of either panel; the places are those of outputs that are
        // written.
        unsafe {
            let mut of_row = call.input.add(ROWS * call.steps + row);
            let mut of_outputs = call.weights.add(4 * (OUTPUTS * call.steps + output));
            let sum = _mm256_sub_epi32(sum, _mm256_loadu_si256(of_outputs.cast()));
            of_outputs = of_outputs.add(4 * OUTPUTS);
            let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(of_outputs.cast()));
            let mut sum = _mm256_mul_ps(scaled, _mm256_set1_ps(f32::from_bits(*of_row)));
            for _ in 0..call.wide {
                of_row = of_row.add(ROWS);
                of_outputs = of_outputs.add(4 * OUTPUTS);
                let value = _mm256_set1_ps(f32::from_bits(*of_row));
                sum = _mm256_add_ps(sum, _mm256_mul_ps(value, _mm256_loadu_ps(of_outputs.cast())));
            }
            let to = call.out.add(row * call.stride + output);
            if count == LANES {
                let sum = if call.adds { _mm256_add_ps(_mm256_loadu_ps(to), sum) } else { sum };
                _mm256_storeu_ps(to, sum);
            } else {
                let mut sums = [0.0; LANES];
                _mm256_storeu_ps(sums.as_mut_ptr(), sum);
                for (at, sum) in sums.into_iter().enumerate().take(count) {
                    *to.add(at) = if call.adds { *to.add(at) + sum } else { sum };
                }
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod elsewhere {
    use crate::product::Call;

    pub(in super::super) const fn has_avx2() -> bool {
        false
    }

    pub(in super::super) const fn has_vnni() -> bool {
        false
    }

    /// # Safety
    /// It is never called.
    #[expect(unsafe_code, reason = "the signature of the others")]
    pub(in super::super) unsafe fn int8(_call: &Call) {
        unreachable!("there are no such instructions");
    }

    /// # Safety
    /// It is never called.
    #[expect(unsafe_code, reason = "the signature of the others")]
    pub(in super::super) unsafe fn int8_vnni(_call: &Call) {
        unreachable!("there are no such instructions");
    }
}
