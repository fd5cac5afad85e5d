//! Every example configuration of the server can be read and served, and says what it is for and how to start it.

use std::path::Path;

use rerank_crds::ServerConfig;

#[test]
fn every_example_configuration_is_valid_and_says_how_to_start_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.starts_with("server-") || path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let comment: String = text.lines().take_while(|line| line.starts_with('#')).collect();
        assert!(comment.contains(&format!("rerank-server serve --config examples/{name}")), "{name}: {comment}");
        let config = ServerConfig::load(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_ne!(config, ServerConfig::default(), "{name}");
        names.push(name);
    }
    names.sort();
    for expected in ["server-embedded.yaml", "server-qdrant.yaml", "server-rerank-only.yaml"] {
        assert!(names.iter().any(|name| name == expected), "{expected} is missing in {names:?}");
    }
}

#[test]
fn the_rerank_only_example_has_no_store_and_the_others_have_one() {
    let load = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name);
        ServerConfig::load(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    assert_eq!(load("server-rerank-only.yaml").vector_store, None);
    assert!(load("server-embedded.yaml").vector_store.unwrap().embedded.is_some());
    assert!(load("server-qdrant.yaml").vector_store.unwrap().qdrant.is_some());
}
