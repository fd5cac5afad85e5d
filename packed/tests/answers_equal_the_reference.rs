//! Scores and vectors against the golden files of the reference (transformers and torch, float32), and against
//! themselves in other company.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rayon::{ThreadPool, ThreadPoolBuilder};
use rerank_packed::{Holding, Model, Output, RunError, Shape, Way};
use serde_json::Value;

const TOLERANCE: f64 = 1e-5;
const RERANKERS: [(&str, Output); 3] =
    [("random-tied", Output::TiedHead), ("random-untied", Output::SeparateHead), ("tiny-reranker", Output::TiedHead)];

fn models() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/models"))
}

fn json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(models().join(path)).unwrap()).unwrap()
}

fn shape(name: &str) -> Shape {
    let config = json(&format!("{name}/config.json"));
    let number = |field: &str| usize::try_from(config[field].as_u64().unwrap()).unwrap();
    let float = |value: &Value| value.to_string().parse::<f32>().unwrap();
    let base =
        if config["rope_theta"].is_null() { &config["rope_parameters"]["rope_theta"] } else { &config["rope_theta"] };
    Shape {
        layers: number("num_hidden_layers"),
        hidden: number("hidden_size"),
        intermediate: number("intermediate_size"),
        query_heads: number("num_attention_heads"),
        key_value_heads: number("num_key_value_heads"),
        head: number("head_dim"),
        vocabulary: number("vocab_size"),
        norm_epsilon: float(&config["rms_norm_eps"]),
        rotary_base: float(base),
    }
}

/// Arithmetic in float32: with the widest instructions that there are, and with those that the crate `gemm` chooses.
fn exact_ways() -> [Way; 2] {
    [Way::exact(Holding::Float32), Way::portable(Holding::Float32)]
}

fn load(name: &str, output: Output, way: Way) -> Model {
    let files = [models().join(name).join("model.safetensors")];
    Model::load(&files, shape(name), output, way, &|_| {}).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

/// Prompts, answer tokens and reference scores of a golden file.
struct Golden {
    prompts: Vec<Vec<u32>>,
    answers: [u32; 2],
    scores: Vec<f64>,
}

fn golden(name: &str) -> Golden {
    let file = json(&format!("golden/{name}.json"));
    let pairs = file["pairs"].as_array().unwrap();
    let token = |field: &str| u32::try_from(file[field].as_u64().unwrap()).unwrap();
    Golden {
        prompts: pairs.iter().map(|pair| ids(&pair["token_ids"])).collect(),
        answers: [token("token_yes"), token("token_no")],
        scores: pairs.iter().map(|pair| pair["score"].as_f64().unwrap()).collect(),
    }
}

fn probability([yes, no]: [f32; 2]) -> f64 {
    1.0 / (1.0 + f64::from(no - yes).exp())
}

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

fn score(model: &Model, prompts: &[Vec<u32>], shared: usize, answers: [u32; 2]) -> Vec<[f32; 2]> {
    model.score(prompts, shared, answers, &|| false).unwrap()
}

fn bits(logits: &[[f32; 2]]) -> Vec<[u32; 2]> {
    logits.iter().map(|pair| pair.map(f32::to_bits)).collect()
}

/// Tokens that all prompts begin with.
fn common(prompts: &[Vec<u32>]) -> usize {
    (0..prompts[0].len()).take_while(|at| prompts.iter().all(|prompt| prompt.get(*at) == prompts[0].get(*at))).count()
}

#[test]
fn scores_equal_the_reference_with_and_without_a_common_beginning() {
    println!("with {}", rerank_packed::instructions());
    for ((name, output), way) in RERANKERS.into_iter().flat_map(|reranker| exact_ways().map(|way| (reranker, way))) {
        let (model, golden) = (load(name, output, way), golden(name));
        assert_eq!(golden.prompts.len(), 40);
        let common = common(&golden.prompts);
        assert!(common >= 30, "{common}");
        for shared in [0, 1, common] {
            let mut largest = 0.0_f64;
            for (logits, expected) in score(&model, &golden.prompts, shared, golden.answers).iter().zip(&golden.scores)
            {
                largest = largest.max((probability(*logits) - expected).abs());
            }
            println!("{name}, {way:?}, {shared} tokens shared: largest difference {largest:.1e}");
            assert!(largest <= TOLERANCE, "{name}, {shared} shared: {largest}");
        }
    }
}

#[test]
fn vectors_equal_the_reference() {
    let file = json("golden/tiny-embedder.json");
    let texts = file["texts"].as_array().unwrap();
    let inputs: Vec<Vec<u32>> = texts.iter().map(|text| ids(&text["token_ids"])).collect();
    for way in exact_ways() {
        let model = load("tiny-embedder", Output::Vectors, way);
        let vectors = model.embed(&inputs, &|| false).unwrap();
        for (text, vector) in texts.iter().zip(&vectors) {
            let expected = text["embedding"].as_array().unwrap();
            assert_eq!(expected.len(), vector.len());
            for (value, expected) in vector.iter().zip(expected) {
                assert!((f64::from(*value) - expected.as_f64().unwrap()).abs() <= TOLERANCE, "{}", text["name"]);
            }
            let alone = model.embed(&[ids(&text["token_ids"])], &|| false).unwrap();
            assert!(alone[0].iter().zip(vector).all(|(alone, value)| alone.to_bits() == value.to_bits()));
        }
    }
}

#[test]
fn a_score_does_not_depend_on_its_company_nor_on_threads() {
    let ways = || exact_ways().into_iter().chain(Way::bfloat16()).chain([Way::int8(Holding::Bfloat16)]);
    for ((name, output), way) in RERANKERS.into_iter().flat_map(|reranker| ways().map(move |way| (reranker, way))) {
        let (model, golden) = (load(name, output, way), golden(name));
        let shared = common(&golden.prompts);
        let all = bits(&pool(2).install(|| score(&model, &golden.prompts, shared, golden.answers)));
        for threads in [1, 2, 3] {
            pool(threads).install(|| {
                for (prompt, expected) in golden.prompts.iter().zip(&all) {
                    let alone = score(&model, std::slice::from_ref(prompt), shared, golden.answers);
                    assert_eq!(bits(&alone), [*expected], "{name}: alone, {threads} threads");
                }
                let mut random = fastrand::Rng::with_seed(7);
                for _ in 0..10 {
                    let mut chosen: Vec<usize> = (0..40).collect();
                    random.shuffle(&mut chosen);
                    chosen.truncate(random.usize(2..40));
                    let prompts: Vec<Vec<u32>> = chosen.iter().map(|at| golden.prompts[*at].clone()).collect();
                    let expected: Vec<[u32; 2]> = chosen.iter().map(|at| all[*at]).collect();
                    assert_eq!(bits(&score(&model, &prompts, shared, golden.answers)), expected, "{name}: {chosen:?}");
                }
            });
        }
    }
}

#[test]
fn texts_and_beginnings_longer_than_a_tile_are_scored_as_in_one_piece() {
    let (name, output) = RERANKERS[2];
    let (model, golden) = (load(name, output, Way::exact(Holding::Float32)), golden(name));
    let mut random = fastrand::Rng::with_seed(8);
    let mut text = |length: usize| -> Vec<u32> { (0..length).map(|_| random.u32(0..6000)).collect() };
    // Of more than one tile, of one and of many short ones; the model reads 2,048 positions and more as well.
    let beginning = text(1100);
    let texts = [text(2500), text(3), text(1024), text(700), text(1025)];
    let prompts: Vec<Vec<u32>> = texts.iter().map(|text| [beginning.as_slice(), text].concat()).collect();
    let shared = score(&model, &prompts, beginning.len(), golden.answers);
    let again = score(&model, &prompts, beginning.len(), golden.answers);
    assert_eq!(bits(&shared), bits(&again), "with the beginning that was kept");
    for (prompt, shared) in prompts.iter().zip(&shared) {
        let alone = score(&model, std::slice::from_ref(prompt), beginning.len(), golden.answers);
        assert_eq!(bits(&alone), bits(std::slice::from_ref(shared)));
        let whole = score(&model, std::slice::from_ref(prompt), 0, golden.answers);
        assert!((probability(whole[0]) - probability(*shared)).abs() <= TOLERANCE, "{whole:?} {shared:?}");
    }
}

#[test]
fn a_beginning_that_was_kept_is_not_taken_for_another() {
    let (name, output) = RERANKERS[0];
    let (model, golden) = (load(name, output, Way::exact(Holding::Float32)), golden(name));
    let mut other = golden.prompts.clone();
    for prompt in &mut other {
        prompt[3] += 1;
    }
    let shared = common(&golden.prompts);
    let of_other = score(&model, &other, shared, golden.answers);
    let first = score(&model, &golden.prompts, shared, golden.answers);
    assert_ne!(bits(&first), bits(&of_other));
    assert_eq!(bits(&score(&model, &other, shared, golden.answers)), bits(&of_other));
}

/// Of a score to the reference's; something is rounded.
fn assert_close(name: &str, output: Output, way: Way, most: f64) {
    let (model, golden) = (load(name, output, way), golden(name));
    let shared = common(&golden.prompts);
    let scores = score(&model, &golden.prompts, shared, golden.answers);
    let differences = scores.iter().zip(&golden.scores).map(|(logits, score)| (probability(*logits) - score).abs());
    let largest = differences.fold(0.0, f64::max);
    println!("{name}: largest difference {largest:.1e}");
    assert!(largest > 0.0 && largest <= most, "{name}: {largest}");
}

#[test]
fn products_of_bfloat16_stay_close_to_the_reference() {
    let Some(way) = Way::bfloat16() else {
        println!("this processor multiplies no bfloat16: nothing to look at");
        return;
    };
    for (name, output) in RERANKERS {
        // Of each number eight bits are kept; torch's bfloat16, which rounds between layers too, is further away.
        assert_close(name, output, way, 0.03);
    }
}

#[test]
fn numbers_of_8_bits_stay_close_to_the_reference() {
    // Narrow random models magnify what is rounded; of the trained one more is asked.
    for ((name, output), most) in RERANKERS.into_iter().zip([0.15, 0.15, 0.03]) {
        assert_close(name, output, Way::int8(Holding::Float16), most);
    }
}

#[test]
fn weights_of_16_bits_are_read_as_the_file_has_them() {
    for (name, output) in RERANKERS {
        let golden = golden(name);
        let exact = score(&load(name, output, Way::exact(Holding::Float32)), &golden.prompts, 20, golden.answers);
        // The files hold float16: nothing is lost.
        let half = score(&load(name, output, Way::exact(Holding::Float16)), &golden.prompts, 20, golden.answers);
        assert_eq!(bits(&half), bits(&exact), "{name}");
        let brain = score(&load(name, output, Way::exact(Holding::Bfloat16)), &golden.prompts, 20, golden.answers);
        for (brain, exact) in brain.iter().zip(&exact) {
            let difference = (probability(*brain) - probability(*exact)).abs();
            assert!(difference < 0.05, "{name}: {difference}");
        }
    }
}

#[test]
fn a_pass_stops_in_the_middle_and_the_next_one_is_whole() {
    let (name, output) = RERANKERS[0];
    let (model, golden) = (load(name, output, Way::exact(Holding::Float32)), golden(name));
    let expected = bits(&score(&model, &golden.prompts, 30, golden.answers));
    let asked = AtomicUsize::new(0);
    let stopped = model.score(&golden.prompts, 20, golden.answers, &|| asked.fetch_add(1, Ordering::SeqCst) >= 3);
    assert!(matches!(stopped, Err(RunError::Stopped)), "{stopped:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 4, "nothing is computed after that");
    assert_eq!(bits(&score(&model, &golden.prompts, 30, golden.answers)), expected);
}

#[test]
fn nothing_asked_is_nothing_answered() {
    let (name, output) = RERANKERS[0];
    let model = load(name, output, Way::exact(Holding::Float32));
    assert!(score(&model, &[], 5, [1, 2]).is_empty());
    assert!(
        load("tiny-embedder", Output::Vectors, Way::exact(Holding::Float32)).embed(&[], &|| false).unwrap().is_empty()
    );
}

#[test]
fn loading_tells_how_far_it_is_and_what_does_not_fit() {
    let (name, output) = RERANKERS[0];
    let path = models().join(name).join("model.safetensors");
    let read = AtomicU64::new(0);
    let progress = |bytes| {
        read.fetch_add(bytes, Ordering::SeqCst);
    };
    Model::load(std::slice::from_ref(&path), shape(name), output, Way::exact(Holding::Float32), &progress).unwrap();
    let size = std::fs::metadata(&path).unwrap().len();
    let read = read.load(Ordering::SeqCst);
    assert!(read < size && read > size - 20_000, "{read} of {size}: all but the header");

    let refusal = |shape, files: &[PathBuf]| {
        Model::load(files, shape, output, Way::exact(Holding::Float32), &|_| {}).unwrap_err().to_string()
    };
    let wider = Shape { intermediate: 385, ..shape(name) };
    let words = refusal(wider, std::slice::from_ref(&path));
    assert!(words.contains("gate_proj.weight") && words.contains("asks for [385, "), "{words}");
    let deeper = Shape { layers: shape(name).layers + 1, ..shape(name) };
    assert!(refusal(deeper, std::slice::from_ref(&path)).ends_with("is missing"));

    let folder = tempfile::tempdir().unwrap();
    let cut = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() - 1000]).unwrap();
    assert!(refusal(shape(name), std::slice::from_ref(&cut)).starts_with("failed to read"));
    std::fs::write(&cut, vec![0xff; 4096]).unwrap();
    assert!(refusal(shape(name), std::slice::from_ref(&cut)).contains("is damaged: its header would be"));
    assert!(refusal(shape(name), &[folder.path().join("absent")]).starts_with("failed to read"));
}
