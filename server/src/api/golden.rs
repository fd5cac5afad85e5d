//! Committed files that are made from code: compared in tests, written anew with `UPDATE_GOLDEN=1`. I/O.

use std::path::Path;

/// Fails unless the committed file is what the code makes of it. `path` counts from the repository's root.
pub(crate) fn assert_current(path: &str, made: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        std::fs::write(&file, made).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    let mut lines = committed.lines().zip(made.lines()).zip(1..);
    let first = lines.find(|((committed, made), _)| committed != made);
    assert!(
        committed == made,
        "{path} is not current; write it with `UPDATE_GOLDEN=1 cargo test --workspace --lib`. First difference: {first:?}"
    );
}
