//! What is compared: our engines and those of PyPI, and how each is started.

use std::path::Path;

use anyhow::Result;
use rerank_packed::Way;
use rerank_tests::http::root;
use rerank_tests::peers::{LLAMA, ONNX, OPENVINO, TRANSFORMERS};
use rerank_tests::python::Environment;
use tokio::process::Command;

/// Prompts that a peer computes together: the fastest of these counts.
const BATCHES: &[usize] = &[1, 4, 16];

/// An engine, and how it is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ours; `quantization` as an object has it.
    Packed { quantization: &'static str },
    /// Ours, through mistral.rs.
    Mistralrs,
    /// Another one, in the precision of its arithmetic.
    Peer { peer: Peer, precision: &'static str },
}

/// Engines from PyPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// transformers on torch.
    Torch,
    /// llama.cpp through its Python bindings; whether what prompts share is decoded once.
    Llama { reuses_prefix: bool },
    /// ONNX Runtime on an export of optimum.
    Onnx,
    /// OpenVINO on an export of optimum-intel.
    OpenVino,
}

impl Kind {
    /// In the order in which they start; the first is what the others are held to.
    pub(crate) fn all() -> Vec<Self> {
        let peer = |peer, precision| Self::Peer { peer, precision };
        let (llama, llama_reusing) = (Peer::Llama { reuses_prefix: false }, Peer::Llama { reuses_prefix: true });
        vec![
            Self::Packed { quantization: "float32" },
            Self::Packed { quantization: "bfloat16" },
            Self::Packed { quantization: "int8" },
            Self::Mistralrs,
            peer(Peer::Torch, "float32"),
            peer(Peer::Torch, "bfloat16"),
            peer(llama, "bfloat16"),
            peer(llama_reusing, "bfloat16"),
            peer(llama, "int8"),
            peer(llama_reusing, "int8"),
            peer(Peer::Torch, "int8"),
            peer(Peer::Onnx, "float32"),
            peer(Peer::Onnx, "int8"),
            peer(Peer::OpenVino, "float32"),
            peer(Peer::OpenVino, "bfloat16"),
            peer(Peer::OpenVino, "int8"),
        ]
    }

    /// In the published figures; with [`Self::precision`] it tells which one.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Packed { .. } => "packed",
            Self::Mistralrs => "mistralrs",
            Self::Peer { peer: Peer::Torch, .. } => "torch",
            Self::Peer { peer: Peer::Llama { reuses_prefix: false }, .. } => "llama.cpp",
            Self::Peer { peer: Peer::Llama { reuses_prefix: true }, .. } => "llama.cpp, prefix reused",
            Self::Peer { peer: Peer::Onnx, .. } => "onnxruntime",
            Self::Peer { peer: Peer::OpenVino, .. } => "openvino",
        }
    }

    /// Of its arithmetic.
    pub(crate) fn precision(self) -> &'static str {
        match self {
            // Where the processor multiplies no bfloat16, weights alone are.
            Self::Packed { quantization: "bfloat16" } if Way::bfloat16().is_some() => "bfloat16",
            Self::Packed { quantization: "int8" } => "int8",
            Self::Packed { .. } | Self::Mistralrs => "float32",
            Self::Peer { precision, .. } => precision,
        }
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Packed { .. } | Self::Mistralrs)
    }

    /// Whether what the prompts share is computed once.
    pub(crate) fn reuses_prefix(self) -> bool {
        matches!(self, Self::Packed { .. } | Self::Peer { peer: Peer::Llama { reuses_prefix: true }, .. })
    }

    /// How many prompts it may be told to compute together. Ours decide that themselves.
    pub(crate) fn batches(self) -> &'static [usize] {
        if self.is_ours() { &[1] } else { BATCHES }
    }

    /// How far its log-odds may be from ours: sums in another order, or arithmetic of two or three digits.
    pub(crate) fn allowed(self) -> f64 {
        match self.precision() {
            "float32" => 1e-3,
            "int8" => 0.6,
            _ => 0.3,
        }
    }

    /// Its process.
    pub(crate) async fn command(self, model: &Path, threads: usize) -> Result<Command> {
        let ours = |engine: &str, quantization: &str| -> Result<Command> {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["ours", engine, quantization]).arg(model);
            Ok(command)
        };
        match self {
            Self::Packed { quantization } => ours("Packed", quantization),
            Self::Mistralrs => ours("Mistralrs", "float32"),
            Self::Peer { peer, precision } => {
                let (environment, program) = peer.program();
                let mut command = Command::new(environment.python().await?);
                command.arg(root().join("tests/peers/engines").join(program)).arg("--model").arg(model);
                command.args(["--precision", precision, "--threads", &threads.to_string()]);
                if peer == (Peer::Llama { reuses_prefix: true }) {
                    command.arg("--reuse-prefix");
                }
                Ok(command)
            }
        }
    }
}

impl Peer {
    const fn program(self) -> (Environment, &'static str) {
        match self {
            Self::Torch => (TRANSFORMERS, "torch_engine.py"),
            Self::Llama { .. } => (LLAMA, "llama_engine.py"),
            Self::Onnx => (ONNX, "onnx_engine.py"),
            Self::OpenVino => (OPENVINO, "openvino_engine.py"),
        }
    }
}
