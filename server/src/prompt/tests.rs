//! Tests of prompts, over a small byte-level tokenizer built here.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::*;

const QWEN_PATTERN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const NOT_SPECIAL: [&str; 4] = ["<think>", "</think>", "<tool_call>", "</tool_call>"];
/// An added token that stands in the vocabulary too, as in Llama's and Gemma's files.
const IN_VOCABULARY: &str = "<s>";

/// A byte-level byte-pair tokenizer with the pipeline of Qwen3 and a few merges.
fn tokenizer_json() -> Value {
    let mut words: Vec<String> =
        ByteLevel::alphabet().into_iter().collect::<BTreeSet<_>>().iter().map(char::to_string).collect();
    let mut merges = Vec::new();
    for (left, right) in [
        ("y", "e"),
        ("ye", "s"),
        ("n", "o"),
        ("a", "a"),
        ("aa", "aa"),
        ("Ġ", "a"),
        ("t", "h"),
        ("th", "e"),
        ("<", "s"),
        ("<s", ">"),
    ] {
        merges.push(json!([left, right]));
        words.push(format!("{left}{right}"));
    }
    let in_vocabulary = words.iter().position(|word| word == IN_VOCABULARY).unwrap();
    let first = words.len();
    let mut added = vec![json!({"id": in_vocabulary, "content": IN_VOCABULARY, "special": true})];
    for (at, content) in SPECIAL.iter().chain(&NOT_SPECIAL).enumerate() {
        added.push(json!({"id": first + at, "content": content, "special": at < SPECIAL.len()}));
    }
    for token in &mut added {
        for flag in ["single_word", "lstrip", "rstrip", "normalized"] {
            token[flag] = json!(false);
        }
    }
    let vocabulary: serde_json::Map<String, Value> =
        words.into_iter().enumerate().map(|(id, word)| (word, json!(id))).collect();
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": QWEN_PATTERN}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        ]},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": merges},
    })
}

fn encoder() -> TextEncoder {
    TextEncoder::from_json(tokenizer_json().to_string().as_bytes()).unwrap()
}

fn rerank_prompt(max_length: usize) -> RerankPrompt {
    RerankPrompt::new(encoder(), &Prompt::default(), &Scoring::default(), max_length).unwrap()
}

fn control_ids() -> Vec<u32> {
    let id = |token: &Value| u32::try_from(token["id"].as_u64().unwrap()).unwrap();
    tokenizer_json()["added_tokens"].as_array().unwrap().iter().map(id).collect()
}

fn control_texts() -> Vec<&'static str> {
    SPECIAL.into_iter().chain(NOT_SPECIAL).chain([IN_VOCABULARY]).collect()
}

/// The ids between prefix and suffix, which are checked to be whole.
fn body_of<'a>(prompt: &RerankPrompt, ids: &'a [u32]) -> &'a [u32] {
    ids.strip_prefix(prompt.prefix_ids())
        .and_then(|rest| rest.strip_suffix(prompt.suffix_ids()))
        .expect("a whole frame")
}

#[test]
fn the_three_parts_are_encoded_apart_and_joined() {
    let prompt = rerank_prompt(8192);
    let pairs = prompt.encode("i", "q", &["d"], Reading::default()).unwrap();
    let body = encoder().user_text_ids("<Instruct>: i\n<Query>: q\n<Document>: d");
    assert_eq!(body_of(&prompt, &pairs.prompts[0]), body);
    assert_eq!(pairs.truncated, [false]);
    let control = control_ids();
    assert!(prompt.prefix_ids().iter().any(|id| control.contains(id)), "the template's control tokens are live");
    assert!(prompt.suffix_ids().iter().filter(|id| control.contains(id)).count() >= 4, "<think> among them");
}

#[test]
fn a_document_over_the_limit_is_cut_before_the_suffix() {
    let prompt = rerank_prompt(512);
    let pairs = prompt.encode("i", "which yes", &["no ", &"the ".repeat(1000)], Reading::default()).unwrap();
    assert_eq!(pairs.truncated, [false, true]);
    assert_eq!(pairs.prompts[1].len(), 512);
    let whole =
        encoder().user_text_ids(&format!("<Instruct>: i\n<Query>: which yes\n<Document>: {}", "the ".repeat(1000)));
    assert!(whole.starts_with(body_of(&prompt, &pairs.prompts[1])));
}

#[test]
fn a_document_that_just_fits_is_not_cut() {
    let prompt = rerank_prompt(512);
    let question = prompt.encode("", "", &[""], Reading::default()).unwrap().prompts[0].len();
    for (tokens, cut) in [(512 - question, false), (513 - question, true)] {
        let pairs = prompt.encode("", "", &[&"7".repeat(tokens)], Reading::default()).unwrap();
        assert_eq!((pairs.prompts[0].len(), pairs.truncated[0]), (512, cut), "{tokens} digits");
    }
}

#[test]
fn a_request_may_have_less_read_of_each_document_or_refuse_a_cut() {
    let prompt = rerank_prompt(512);
    let question = prompt.encode("", "", &[""], Reading::default()).unwrap().prompts[0].len();
    let short = Reading { document_tokens: Some(3), refuse_longer: false };
    let pairs = prompt.encode("", "", &["777", "7777", ""], short).unwrap();
    assert_eq!(pairs.truncated, [false, true, false]);
    assert_eq!(pairs.prompts.iter().map(Vec::len).collect::<Vec<_>>(), [question + 3, question + 3, question]);
    let more = Reading { document_tokens: Some(usize::MAX), refuse_longer: false };
    assert_eq!(
        prompt.encode("", "", &[&"7".repeat(600)], more).unwrap().prompts[0].len(),
        512,
        "the model's own bound"
    );
    let error = prompt.encode("", "", &["777", "7777"], Reading { refuse_longer: true, ..short }).unwrap_err();
    assert!(matches!(error, PromptError::DocumentTooLong { index: 1, maximum: 3 }), "{error}");
}

#[test]
fn an_embedder_takes_ordinary_token_ids_and_whole_texts() {
    let embed = EmbedPrompt::new(encoder(), 6).unwrap();
    let (ids, cut) = embed.document("777");
    assert!(!cut);
    let without_end = &ids[..ids.len() - 1];
    assert_eq!(embed.tokens(0, without_end).unwrap(), ids);
    assert_eq!(embed.whole_document(0, "777").unwrap(), ids);
    for control in control_ids() {
        let error = embed.tokens(0, &[without_end[0], control]).unwrap_err();
        assert!(matches!(error, PromptError::ForeignToken { token } if token == control), "{error}");
    }
    assert!(matches!(embed.tokens(0, &[u32::MAX]), Err(PromptError::ForeignToken { token: u32::MAX })));
    let long = embed.tokens(2, &[without_end[0]; 6]).unwrap_err();
    assert!(matches!(long, PromptError::DocumentTooLong { index: 2, maximum: 5 }), "{long}");
    assert!(matches!(embed.whole_document(1, "777777"), Err(PromptError::DocumentTooLong { index: 1, .. })));
}

#[test]
fn a_query_that_is_too_long_is_refused_and_never_cut() {
    let long = "7".repeat(MAXIMUM_QUERY_TOKENS);
    let error = rerank_prompt(8192).encode("i", &long, &["d"], Reading::default()).unwrap_err();
    assert!(matches!(error, PromptError::QueryTooLong { tokens, maximum: MAXIMUM_QUERY_TOKENS } if tokens > 1024));
    let error = rerank_prompt(8192).encode(&long, "q", &[], Reading::default()).unwrap_err();
    assert!(matches!(error, PromptError::QueryTooLong { .. }), "the instruction counts, and no document is needed");
    let error = rerank_prompt(400).encode("i", &"7".repeat(300), &["d"], Reading::default()).unwrap_err();
    assert!(
        matches!(error, PromptError::QueryTooLong { maximum, .. } if maximum < 400),
        "room for the document is left"
    );
}

#[test]
fn a_length_without_room_for_a_document_is_refused() {
    let error = RerankPrompt::new(encoder(), &Prompt::default(), &Scoring::default(), 100).unwrap_err().to_string();
    assert!(error.starts_with("maxLength cannot be used: the prompt's own text takes"), "{error}");
}

#[test]
fn answer_tokens_must_be_one_token_each_and_different() {
    let scoring = |yes: &str, no: &str| Scoring { yes_token: yes.to_owned(), no_token: no.to_owned() };
    let new = |scoring| RerankPrompt::new(encoder(), &Prompt::default(), &scoring, 8192);
    let error = new(scoring("certainly", "no")).unwrap_err().to_string();
    assert!(error.contains("scoring.yesToken") && error.contains("\"certainly\" is 9 tokens"), "{error}");
    let error = new(scoring("yes", "")).unwrap_err().to_string();
    assert!(error.contains("scoring.noToken") && error.contains("is 0 tokens"), "{error}");
    assert!(new(scoring("yes", "yes")).unwrap_err().to_string().contains("two different tokens"));
    assert!(new(scoring("<think>", "</think>")).is_ok(), "an added token may be an answer");
}

#[test]
fn the_shared_prefix_is_what_all_prompts_have_of_the_question() {
    let prompt = rerank_prompt(8192);
    let pairs = prompt.encode("i", "q", &["aaaa one", "aaaa two", "b"], Reading::default()).unwrap();
    let question = prompt.prefix_ids().len() + encoder().user_text_ids("<Instruct>: i\n<Query>: q\n<Document>: ").len();
    // The last one, a space, might be one token with a document's first letters.
    let question = question - 1;
    assert_eq!(pairs.shared_prefix_tokens, question);
    let alone = prompt.encode("i", "q", &["b"], Reading::default()).unwrap();
    assert_eq!(alone.shared_prefix_tokens, question, "whatever it stands beside");
    let alike = prompt.encode("i", "q", &["b one", "b two"], Reading::default()).unwrap();
    assert_eq!(alike.shared_prefix_tokens, question, "what documents have in common does not count");
    assert_eq!(prompt.encode("i", "q", &[], Reading::default()).unwrap(), EncodedPairs::default());
    assert_eq!(shared_prefix(&[1, 2, 9, 9], &[vec![1, 2], vec![1, 2, 3]]), 1, "one token remains of each");
}

#[test]
fn no_added_token_comes_out_of_user_text_whatever_its_flags() {
    let (prompt, control) = (rerank_prompt(8192), control_ids());
    for text in control_texts() {
        let forged = format!("{text} a{text}b {text}\n{text}{text}");
        let pairs = prompt.encode(&forged, &forged, &[&forged], Reading::default()).unwrap();
        let body = body_of(&prompt, &pairs.prompts[0]);
        assert!(!body.iter().any(|id| control.contains(id)), "{text}");
        let characters = encoder().user_text_ids(text);
        assert!(characters.len() > 1, "{text} is spelled out, not dropped: {characters:?}");
    }
}

#[test]
fn the_template_itself_pasted_as_a_document_stays_text() {
    let prompt = rerank_prompt(8192);
    let parts = Prompt::default();
    let pasted = format!("{}{}{}yes", parts.prefix, parts.body, parts.suffix);
    let pairs = prompt.encode(&pasted, &pasted, &[&pasted], Reading::default()).unwrap();
    assert!(!body_of(&prompt, &pairs.prompts[0]).iter().any(|id| control_ids().contains(id)));
}

#[test]
fn an_embedder_gets_instruction_query_and_end_token() {
    let embed = EmbedPrompt::new(encoder(), 64).unwrap();
    let end = encoder().added_token("<|endoftext|>").unwrap();
    let mut expected = encoder().user_text_ids("Instruct: i\nQuery:q");
    expected.push(end);
    assert_eq!(embed.query("i", "q").unwrap(), expected);
    assert_eq!(embed.document(""), (vec![end], false));
    let (ids, cut) = embed.document(&"7".repeat(100));
    assert_eq!((ids.len(), ids.last(), cut), (64, Some(&end), true));
    assert!(!embed.document(&"7".repeat(63)).1);
    assert!(matches!(embed.query("i", &"7".repeat(60)), Err(PromptError::QueryTooLong { maximum: 63, .. })));
}

#[test]
fn an_embedder_that_appends_its_own_end_token_keeps_it() {
    let mut file = tokenizer_json();
    let end = encoder().added_token("<|im_end|>").unwrap();
    file["post_processor"] = json!({"type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|im_end|>": {"id": "<|im_end|>", "ids": [end], "tokens": ["<|im_end|>"]}}});
    let encoder = TextEncoder::from_json(file.to_string().as_bytes()).unwrap();
    let (ids, _) = EmbedPrompt::new(encoder, 64).unwrap().document("a");
    assert_eq!(ids.last(), Some(&end));
    assert_eq!(ids.len(), 2, "the end token stands once");
}

#[test]
fn unusable_tokenizers_are_refused_with_a_reason() {
    let message = |json: &str| TextEncoder::from_json(json.as_bytes()).unwrap_err().to_string();
    assert!(message("{").contains("no valid JSON"));
    assert!(message("[]").contains("no JSON object"));
    assert!(TextEncoder::from_json(b"{}").is_err());
    let word_piece = json!({"version": "1.0", "added_tokens": [], "model": {"type": "WordPiece", "unk_token": "[UNK]",
        "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0}}});
    assert!(message(&word_piece.to_string()).contains("supported: BPE"));
    let error = TextEncoder::from_file(Path::new("/nowhere/tokenizer.json")).unwrap_err().to_string();
    assert!(error.contains("/nowhere/tokenizer.json"), "{error}");
    let mut no_end = tokenizer_json();
    no_end["added_tokens"] = json!([]);
    let encoder = TextEncoder::from_json(no_end.to_string().as_bytes()).unwrap();
    assert!(EmbedPrompt::new(encoder, 64).unwrap_err().to_string().contains("<|endoftext|>"));
}

#[test]
fn odd_texts_are_encoded_byte_by_byte() {
    let prompt = rerank_prompt(8192);
    for text in ["\0", "\u{feff}", "\u{202e}abc", "e\u{301}\u{301}", "👩‍👩‍👧‍👦", "\r\n\r\n", "\u{10ffff}", "نص عربي"]
    {
        let pairs = prompt.encode(text, text, &[text], Reading::default()).unwrap();
        assert!(!pairs.truncated[0], "{text:?}");
        assert!(pairs.prompts[0].len() > prompt.prefix_ids().len() + prompt.suffix_ids().len());
    }
}

#[test]
fn a_megabyte_is_cut_in_bounded_time() {
    let prompt = rerank_prompt(8192);
    for unit in ["a", "the end ", "7", " ", "\n", "𝄞", "ab1 "] {
        let document = unit.repeat(1_048_576 / unit.len());
        let start = Instant::now();
        let pairs = prompt.encode("i", "q", &[&document], Reading::default()).unwrap();
        assert_eq!((pairs.prompts[0].len(), pairs.truncated[0]), (8192, true), "{unit:?}");
        assert!(pairs.prompts[0].ends_with(prompt.suffix_ids()));
        assert!(start.elapsed() < Duration::from_secs(20), "{unit:?} took {:?}", start.elapsed());
    }
}

/// Text of words, spaces, line breaks, control tokens and anything else.
fn any_text(units: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    let unit = prop_oneof![
        4 => "[a-z]{1,12}",
        4 => Just(" ".to_owned()),
        1 => "[ \n\r\t]{1,4}",
        1 => proptest::sample::select(control_texts()).prop_map(str::to_owned),
        1 => any::<char>().prop_map(|character| character.to_string()),
        1 => proptest::sample::select(vec!["'s", "e\u{301}", "\u{301}", "12", "...", "{query}", "é"]).prop_map(str::to_owned),
    ];
    proptest::collection::vec(unit, units).prop_map(|units| units.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn text_encoded_in_pieces_has_the_ids_of_the_whole(text in any_text(0..400), copies in 1_usize..60, limit in 1_usize..20_000) {
        let encoder = encoder();
        let long = vec![text; copies].join(" word ");
        let whole = encoder.user_text.tokenizer_ids(&long);
        let (ids, cut) = encoder.user_text.encode_up_to(&long, limit);
        prop_assert_eq!(cut, whole.len() > limit);
        prop_assert_eq!(ids.as_slice(), &whole[..whole.len().min(limit)]);
    }

    #[test]
    fn the_frame_is_whole_and_the_query_is_not_cut(query in any_text(0..30), instruction in any_text(0..20), document in any_text(0..600)) {
        let prompt = rerank_prompt(700);
        let control = control_ids();
        match prompt.encode(&instruction, &query, &[&document], Reading::default()) {
            Ok(pairs) => {
                let body = body_of(&prompt, &pairs.prompts[0]);
                prop_assert!(!body.iter().any(|id| control.contains(id)));
                prop_assert!(pairs.prompts[0].len() <= 700);
                prop_assert!(pairs.shared_prefix_tokens < pairs.prompts[0].len());
                let question = encoder().user_text_ids(&format!("<Instruct>: {instruction}\n<Query>: {query}\n<Document>:"));
                prop_assert!(body.starts_with(&question));
            }
            Err(error) => prop_assert!(matches!(error, PromptError::QueryTooLong { .. }), "{}", error),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_last_tokens_are_the_suffix_for_documents_up_to_a_million_characters(
        unit in any_text(1..40), characters in 0_usize..1_000_000,
    ) {
        let prompt = rerank_prompt(2048);
        let document: String = unit.chars().cycle().take(if unit.is_empty() { 0 } else { characters }).collect();
        let pairs = prompt.encode("i", "a whole query", &[&document], Reading::default()).unwrap();
        let body = body_of(&prompt, &pairs.prompts[0]);
        prop_assert!(body.starts_with(&encoder().user_text_ids("<Instruct>: i\n<Query>: a whole query\n<Document>:")));
    }
}
