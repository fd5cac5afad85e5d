//! Which instructions of the processor are used.

use crate::linear::Way;
use crate::product::Instructions;

/// The widest that products and rows are computed with here, and what products of 8 bits are: chosen at run time, whatever
/// the program was compiled for.
pub fn instructions() -> String {
    let of_8_bits = match Instructions::widest() {
        Instructions::Avx512Vnni => "int8 by AVX-512 VNNI",
        Instructions::AvxVnni => "int8 by AVX-VNNI",
        Instructions::Avx2 => "int8 by AVX2, which has no instructions of its own for it",
        Instructions::Plain => "int8 by plain code",
    };
    format!("{}, {of_8_bits}", of_floats())
}

fn of_floats() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
        {
            return if Way::bfloat16().is_some() { "AVX-512, also of bfloat16" } else { "AVX-512" };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return "AVX2";
        }
    }
    if cfg!(target_arch = "aarch64") { "NEON" } else { "no vector instructions that are known here" }
}
