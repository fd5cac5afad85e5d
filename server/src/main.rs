//! `rerank-server`: parse arguments, run, exit code. Wiring only.

fn main() -> std::process::ExitCode {
    rerank_server::run::main()
}
