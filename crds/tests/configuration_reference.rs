//! `docs/configuration.md` says what the code says.

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
