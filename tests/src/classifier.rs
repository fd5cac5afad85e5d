//! A reranker as a sequence classifier, for servers that score by a classification head. I/O: reads a folder that
//! [`crate::random_model`] made and writes one beside it that shares its weights by a link.
//!
//! The head has one row, that of `yes` in the output head less that of `no`: its sigmoid is the softmax over the two, as
//! in the published conversions of Qwen3-Reranker.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

const WEIGHTS: &str = "model-00001-of-00002.safetensors";
const HEAD: &str = "model-00002-of-00002.safetensors";
const EMBEDDINGS: &str = "model.embed_tokens.weight";
/// Two line ends, as the byte-level vocabulary writes them.
const LINE_END: &str = "Ċ";

/// Writes the classifier of a tied reranker with weights in bfloat16.
///
/// Its tokenizer puts two line ends after each pair: the prompt ends with them, and infinity-emb strips what it is sent.
pub fn make(reranker: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let read = |name: &str| -> Result<Value> {
        let bytes = fs::read(reranker.join(name)).with_context(|| format!("failed to read {name}"))?;
        Ok(serde_json::from_slice(&bytes)?)
    };
    let write = |name: &str, value: &Value| {
        fs::write(folder.join(name), value.to_string()).with_context(|| format!("failed to write {name}"))
    };

    let mut tokenizer = read("tokenizer.json")?;
    let id = |tokenizer: &Value, token: &str| tokenizer["model"]["vocab"][token].as_u64();
    let both = format!("{LINE_END}{LINE_END}");
    let end: Vec<(&str, u64)> = match id(&tokenizer, &both) {
        Some(id) => vec![(&both, id)],
        None => vec![(LINE_END, id(&tokenizer, LINE_END).context("the vocabulary has a line end")?); 2],
    };
    let (tokens, ids): (Vec<&str>, Vec<u64>) = end.into_iter().unzip();
    let yes = id(&tokenizer, "yes").context("the vocabulary has yes")?;
    let no = id(&tokenizer, "no").context("the vocabulary has no")?;
    let sequence = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let special = json!({"SpecialToken": {"id": "end", "type_id": 0}});
    tokenizer["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [sequence("A"), special],
        "pair": [sequence("A"), sequence("B"), special],
        "special_tokens": {"end": {"id": "end", "ids": ids, "tokens": tokens}},
    });
    write("tokenizer.json", &tokenizer)?;
    write("tokenizer_config.json", &read("tokenizer_config.json")?)?;

    let weights = fs::canonicalize(reranker.join("model.safetensors"))?;
    let mut file = File::open(&weights)?;
    let (header, start) = header(&mut file)?;
    let mut row = |index: u64| row(&mut file, &header, start, index);
    let head: Vec<u8> = row(yes)?.iter().zip(row(no)?).flat_map(|(yes, no)| (yes - no).to_le_bytes()).collect();
    let tensor = TensorView::new(Dtype::F32, vec![1, head.len() / 4], &head)?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize_to_file([("score.weight", tensor)], Some(metadata), &folder.join(HEAD))?;
    let link = folder.join(WEIGHTS);
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(&weights, &link).context("failed to link the weights")?;
    let mut places: BTreeMap<&str, &str> = header
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| (name.as_str(), WEIGHTS))
        .filter(|(name, _)| *name != "__metadata__")
        .collect();
    places.insert("score.weight", HEAD);
    write("model.safetensors.index.json", &json!({"metadata": {}, "weight_map": places}))?;

    let mut config = read("config.json")?;
    config["architectures"] = json!(["Qwen3ForSequenceClassification"]);
    config["id2label"] = json!({"0": "LABEL_0"});
    config["label2id"] = json!({"LABEL_0": 0});
    config["pad_token_id"] = config["bos_token_id"].clone();
    write("config.json", &config)
}

/// The header of a safetensors file, and where its data begin.
fn header(file: &mut File) -> Result<(Value, u64)> {
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header)?;
    Ok((serde_json::from_slice(&header)?, 8 + length))
}

/// One row of the embedding table, which is the output head too.
fn row(file: &mut File, header: &Value, start: u64, index: u64) -> Result<Vec<f32>> {
    let table = &header[EMBEDDINGS];
    ensure!(table["dtype"] == "BF16", "the weights are no bfloat16");
    let offset = table["data_offsets"][0].as_u64().context("the table has a place")?;
    let bytes = table["shape"][1].as_u64().context("the table has columns")? * 2;
    file.seek(SeekFrom::Start(start + offset + index * bytes))?;
    let mut row = vec![0; usize::try_from(bytes)?];
    file.read_exact(&mut row)?;
    Ok(row
        .chunks_exact(2)
        .map(|pair| f32::from_bits(u32::from(u16::from_le_bytes([pair[0], pair[1]])) << 16))
        .collect())
}
