//! Which instructions of the processor are used.

use crate::linear::Way;

/// The widest that products and rows are computed with here: chosen at run time, whatever the program was compiled for.
pub fn instructions() -> &'static str {
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
