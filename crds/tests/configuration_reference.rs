//! `docs/configuration.md` and the README's table of settings say what the code says.

use std::path::Path;

use rerank_crds::server_config::reference;

#[test]
fn the_page_of_settings_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let current = reference::markdown().unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == current,
        "docs/configuration.md differs from the code; run\n  UPDATE_GOLDEN=1 cargo test -p rerank-crds --test \
         configuration_reference\nand commit the result"
    );
}

#[test]
fn the_settings_of_the_readme_stand_in_the_page_word_for_word() {
    let page = reference::markdown().unwrap();
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let heading = "| setting | default | meaning |";
    let rows: Vec<&str> =
        readme.lines().skip_while(|line| *line != heading).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 20, "{} rows", rows.len());
    for row in rows {
        assert!(page.lines().any(|line| line == row), "not in docs/configuration.md: {row}");
    }
}
