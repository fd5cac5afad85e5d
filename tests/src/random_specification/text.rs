//! Texts: such as people write, such as the pattern allows, and such as YAML, JSON or a file system may take for something else.
//!
//! A pattern is used without the anchors around it: the generator of texts takes none, and makes nothing but matches of the whole.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::{Union, ValueTree};
use proptest::string::string_regex;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::properties::{Path, Step};

/// A revision that names one content for ever.
pub(super) const COMMIT: &str = "97b0c614be4d77ee51c0cef4e5f07c00f9eb65b3";

/// Models: the catalogue's, others whose names tell a size or do not.
const MODELS: [&str; 9] = [
    "Qwen/Qwen3-Embedding-0.6B",
    "Qwen/Qwen3-Embedding-4B",
    "Qwen/Qwen3-Embedding-8B",
    "Qwen/Qwen3-Reranker-0.6B",
    "Qwen/Qwen3-Reranker-4B",
    "Qwen/Qwen3-Reranker-8B",
    "acme/rerank-3b",
    "acme/text-embedding-v2",
    "tiny",
];

/// Addresses that are refused, or read differently by different parsers.
const STRANGE_URLS: [&str; 12] = [
    "http://169.254.169.254",
    "http://metadata.google.internal:80",
    "http://localhost:6334",
    "http://2852039166:6334",
    "http://[::ffff:127.0.0.1]:6334",
    "http://user:secret@qdrant:6334",
    "http://qdrant:6334/path",
    "http://qdrant:6334?x=1",
    "http://qdrant:0",
    "http://qdrant:99999",
    "http://[fd00::1]:6334",
    "https://QDRANT.example.org.:443/",
];

/// Texts that YAML, JSON or a file system may take for something else.
const STRANGE_TEXTS: [&str; 37] = [
    "true",
    "null",
    "~",
    "Off",
    "yes",
    "n",
    "1",
    "-1",
    "1e3",
    "0x1F",
    "012",
    "1_000",
    ".inf",
    "1.0",
    "12:30",
    "2026-01-01",
    "- a",
    "a: b",
    "a #b",
    "'",
    "\"",
    "|",
    ">",
    "&a",
    "*a",
    "!!str a",
    "{query}",
    "a\0b",
    "%a",
    "x\n",
    "\n\tx\r\n",
    " x ",
    "\u{feff}x",
    "a\u{85}b",
    "\u{2028}",
    "é💡",
    "---",
];

/// Texts of one property.
pub(super) fn text(schema: &Value, path: &Path) -> BoxedStrategy<Value> {
    let strange: Vec<String> = STRANGE_TEXTS.map(str::to_owned).into_iter().filter(is_valid(schema)).collect();
    let (shortest, longest) = lengths(schema);
    let at_bounds: Vec<String> = [shortest, longest].iter().filter_map(|length| of_length(schema, *length)).collect();
    let mut choices = vec![usual(path, schema), (3, allowed(schema))];
    choices.extend(
        [(2, strange), (1, at_bounds)]
            .into_iter()
            .filter(|(_, texts)| !texts.is_empty())
            .map(|(weight, texts)| (weight, select(texts).boxed())),
    );
    let is_valid = is_valid(schema);
    let fallback = some(schema);
    // What is usual fits nearly always; where it does not, it is cut until it does.
    let fit = move |text: String| {
        let mut text: String = text.chars().take(longest).collect();
        while !is_valid(&text) {
            if text.pop().is_none() {
                return json!(fallback);
            }
        }
        json!(text)
    };
    Union::new_weighted(choices).prop_map(fit).boxed()
}

/// Keys of maps, of which a schema says nothing.
pub(super) fn key() -> BoxedStrategy<String> {
    prop_oneof![
        6 => string_regex("([a-z]{1,8}\\.example\\.org/)?[a-z][a-z0-9-]{0,12}").unwrap(),
        2 => select(vec!["app.kubernetes.io/name", "rerank.semantik.dev/config-digest", "text-embedding-3-small"]).prop_map(str::to_owned),
        1 => select(STRANGE_TEXTS.to_vec()).prop_map(str::to_owned),
    ]
    .boxed()
}

/// One text that is allowed, always the same.
pub(super) fn some(schema: &Value) -> String {
    let is_valid = is_valid(schema);
    let mut runner = TestRunner::deterministic();
    let texts = raw(schema);
    let mut made = std::iter::repeat_with(|| texts.new_tree(&mut runner).unwrap().current());
    let found = made.by_ref().take(1_000).find(|text| is_valid(text));
    found.unwrap_or_else(|| panic!("no text is allowed by {schema}"))
}

/// A text of so many characters, where one of the usual beginnings allows it.
pub(super) fn of_length(schema: &Value, characters: usize) -> Option<String> {
    let is_valid = is_valid(schema);
    let long = |(beginning, rest): (&str, &str)| {
        Some(format!("{beginning}{}", rest.repeat(characters.checked_sub(beginning.len())?)))
    };
    [("", "a"), ("", "0"), ("a/", "a"), ("http://", "a")].into_iter().filter_map(long).find(|text| is_valid(text))
}

fn is_valid(schema: &Value) -> impl Fn(&String) -> bool + use<> {
    let validator = jsonschema::validator_for(schema).unwrap();
    move |text| validator.is_valid(&json!(text))
}

fn lengths(schema: &Value) -> (usize, usize) {
    let length = |word: &str, otherwise: u64| usize::try_from(schema[word].as_u64().unwrap_or(otherwise)).unwrap();
    (length("minLength", 0), length("maxLength", 1_024))
}

/// As the pattern says, or whatever.
fn raw(schema: &Value) -> BoxedStrategy<String> {
    match schema["pattern"].as_str() {
        Some(pattern) => {
            let inside = pattern.strip_prefix('^').unwrap_or(pattern);
            string_regex(inside.strip_suffix('$').unwrap_or(inside)).unwrap().boxed()
        }
        None => string_regex("[^\\x00]{1,24}").unwrap().boxed(),
    }
}

fn allowed(schema: &Value) -> BoxedStrategy<String> {
    prop_oneof![raw(schema), string_regex("[ -~]{1,24}").unwrap()].boxed()
}

/// Such as people write at this place, and how often beside others: nearly always where more is asked than the schema says. What has no
/// line here is a word.
fn usual(path: &Path, schema: &Value) -> (u32, BoxedStrategy<String>) {
    const OFTEN: u32 = 10;
    const NEARLY_ALWAYS: u32 = 100;
    let one_of = |texts: &[&str]| {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        select(texts).boxed()
    };
    let like = |pattern: &str| string_regex(pattern).unwrap().boxed();
    let name_of = |step: &'_ Step| match step {
        Step::Field(name) => Some(name.clone()),
        Step::Item | Step::Entry => None,
    };
    let names: Vec<String> = path.steps().iter().filter_map(name_of).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    match names[..] {
        [.., "model" | "defaultModel" | "embeddingModels" | "modelAliases"] => (OFTEN, one_of(&MODELS)),
        [.., "revision"] => (OFTEN, one_of(&["main", "v1.0", "refs/pr/3", COMMIT])),
        [.., name @ ("url" | "endpoint" | "otlpEndpoint" | "proxy")] => {
            let host = "https?://[a-z][a-z0-9-]{0,12}(\\.[a-z]{2,6}){0,2}";
            let port = if name == "url" { ":[1-9][0-9]{0,3}" } else { "(:[1-9][0-9]{0,3})?" };
            (NEARLY_ALWAYS, prop_oneof![9 => like(&format!("{host}{port}")), 1 => one_of(&STRANGE_URLS)].boxed())
        }
        [.., "cache", "size"] => (NEARLY_ALWAYS, one_of(&["50Gi", "16Mi", "500000000", "1T"])),
        [.., "labels" | "podLabels" | "nodeSelector"] => {
            (NEARLY_ALWAYS, like("([a-zA-Z0-9]([a-z0-9._-]{0,8}[a-z0-9])?)?"))
        }
        [.., "collections", "name"] | [.., "collections"] => (NEARLY_ALWAYS, like("[a-z][a-z0-9_-]{0,12}")),
        [.., "textField"] => (OFTEN, like("[a-z]{1,8}(\\.[a-z]{1,8})?")),
        [.., "filter"] => (NEARLY_ALWAYS, one_of(&["info", "debug", "warn,rerank_server=debug", "info,h2=off"])),
        [.., "cidr"] => (NEARLY_ALWAYS, one_of(&["10.0.0.0/8", "192.168.4.0/24", "fd00::/8"])),
        [.., "body"] => (
            OFTEN,
            like("(<Instruct>: \\{instruction\\}\n)?[a-z ]{0,12}<Query>: \\{query\\}\n<Document>: \\{document\\}"),
        ),
        [.., "yesToken"] => (OFTEN, one_of(&["yes", "true", " yes", "1"])),
        [.., "noToken"] => (OFTEN, one_of(&["no", "false", " no", "0"])),
        _ if schema["pattern"].is_string() => (OFTEN, raw(schema)),
        _ => (OFTEN, like("[a-z][a-z0-9-]{0,16}[a-z0-9]")),
    }
}
