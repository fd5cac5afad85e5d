//! The write-ahead log of a shard, kept from growing without end. Blocking I/O.
//!
//! `qdrant-edge` 0.7 numbers every write by its place in the log, but neither reads the log again nor shortens it: what
//! was written is safe because the segments are flushed, see [`super::collection`]. So the older files are only in the
//! way. The newest finished file stays, because numbering goes on from it: with lower numbers than those of the stored
//! points, every later write would be taken for an old one and dropped.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const FOLDER: &str = "wal";
const FINISHED: &str = "closed-";

/// How many finished files the log has.
pub(super) fn finished_files(shard: &Path) -> io::Result<usize> {
    Ok(list(shard)?.len())
}

/// Removes every finished file but the newest. The shard must not be open.
pub(super) fn trim(shard: &Path) -> io::Result<()> {
    let mut files = list(shard)?;
    files.sort_unstable();
    files.pop();
    // Oldest first, so that a log that is trimmed halfway has no gap.
    files.into_iter().try_for_each(|(_, path)| fs::remove_file(path))
}

fn list(shard: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let folder = shard.join(FOLDER);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let start = entry.file_name().to_str().and_then(|name| name.strip_prefix(FINISHED)?.parse().ok());
        if let Some(start) = start {
            files.push((start, entry.path()));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_finished_file_stays() {
        let shard = tempfile::tempdir().unwrap();
        let folder = shard.path().join(FOLDER);
        fs::create_dir(&folder).unwrap();
        for name in ["closed-0", "closed-9", "closed-10", "open-3", "first-index", "closed-x"] {
            fs::write(folder.join(name), "").unwrap();
        }
        assert_eq!(finished_files(shard.path()).unwrap(), 3);
        trim(shard.path()).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["closed-10", "closed-x", "first-index", "open-3"]);
    }
}
