//! What the tiny pair's card says, looked at in the files: its size, its architecture, and that training never saw a test
//! text.

use std::process::Command;

use rerank_tests::models;
use serde_json::Value;

const MAXIMUM_BYTES: u64 = 8_000_000;

#[test]
fn embedder_and_reranker_have_at_most_eight_megabytes_of_weights_together() {
    let bytes: u64 = ["tiny-embedder", "tiny-reranker"]
        .iter()
        .flat_map(|model| std::fs::read_dir(models::directory().join(model)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .map(|path| path.metadata().unwrap().len())
        .sum();
    println!("{bytes} bytes of safetensors");
    assert!((1..=MAXIMUM_BYTES).contains(&bytes), "{bytes} bytes");
}

#[test]
fn both_models_are_qwen3() {
    for model in ["tiny-embedder", "tiny-reranker"] {
        let config = std::fs::read_to_string(models::directory().join(model).join("config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["architectures"], serde_json::json!(["Qwen3ForCausalLM"]), "{model}");
        assert_eq!(config["model_type"], "qwen3", "{model}");
    }
}

#[test]
fn the_cards_tell_the_figures_that_were_measured() {
    let figure = |name| format!("{:.3}", models::figure(name));
    for (model, figures) in [
        ("tiny-embedder", vec!["recall_at_50_vector", "ndcg_at_10_vector"]),
        ("tiny-reranker", vec!["ndcg_at_10_vector", "ndcg_at_10_reranked"]),
    ] {
        let card = std::fs::read_to_string(models::directory().join(model).join("README.md")).unwrap();
        for name in figures {
            assert!(card.contains(&figure(name)), "{name} of {} is not in the card of {model}", figure(name));
        }
    }
}

/// The script makes the training text again from its word lists, compares its digest with the one that the models were
/// trained on, and looks for shared sequences of eight words. It needs Python's standard library alone.
#[test]
fn no_sequence_of_eight_words_is_shared_by_training_and_test_texts() {
    let output = Command::new("python3")
        .arg("-B")
        .arg(models::directory().join("leak_check.py"))
        .output()
        .expect("python3 is needed for this test: install Python 3");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("0 shared runs of 8 words"), "{said}");
    assert!(!said.contains("but the models were trained on"), "{said}");
}
