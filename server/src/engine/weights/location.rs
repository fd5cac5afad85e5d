//! Where a model's folder is: under its id, or in a hub cache. I/O: reads folders.

use std::fs;
use std::path::{Path, PathBuf};

use super::WeightsError;

/// Finds a model's folder under the weights directory: `<directory>/<model id>`, or a hub cache
/// (`models--<org>--<name>/snapshots/<commit>`, by `refs/<revision>`; also under `<directory>/hub`).
///
/// `revision` is a commit, branch or tag of a hub cache, `main` where none is given. A plain folder has no revision and
/// is taken as it is, where no hub cache holds the model. Neither id nor revision can name a place outside the
/// directory: both are names, without `..` or a leading `/`. Links that stand in the directory are followed.
pub fn resolve(weights_directory: &Path, model: &str, revision: Option<&str>) -> Result<PathBuf, WeightsError> {
    check_name("model", model)?;
    if let Some(revision) = revision {
        check_name("revision", revision)?;
    }
    let plain = weights_directory.join(model);
    let cached = format!("models--{}", model.replace('/', "--"));
    let caches = [weights_directory.join(&cached), weights_directory.join("hub").join(&cached)];
    if revision.is_none() && plain.is_dir() {
        return Ok(plain);
    }
    if let Some(cache) = caches.iter().find(|cache| cache.is_dir()) {
        return snapshot(cache, model, revision);
    }
    if plain.is_dir() {
        return Ok(plain);
    }
    let [cache, _] = caches;
    Err(WeightsError::Missing {
        model: model.to_owned(),
        directory: weights_directory.to_owned(),
        looked_for: vec![plain, cache],
        found: models_in(weights_directory),
    })
}

/// The commit of a folder that [`resolve`] found: that of its snapshot in a hub cache. None elsewhere, and where the
/// snapshot is not named as commits are.
pub fn revision_of(directory: &Path) -> Option<String> {
    let is_snapshot = directory.parent()?.file_name()? == "snapshots";
    let name = directory.file_name()?.to_str()?;
    let is_commit = name.len() == 40 && name.chars().all(|digit| digit.is_ascii_hexdigit());
    (is_snapshot && is_commit).then(|| name.to_owned())
}

/// A name that stays below the folder that it is joined to.
fn check_name(field: &'static str, name: &str) -> Result<(), WeightsError> {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|character| character.is_ascii_alphanumeric() || "._-".contains(character))
    };
    if name.len() <= 256 && name.split('/').count() <= 8 && name.split('/').all(is_part) {
        Ok(())
    } else {
        Err(WeightsError::InvalidName { field, name: name.chars().take(256).collect() })
    }
}

fn snapshot(cache: &Path, model: &str, revision: Option<&str>) -> Result<PathBuf, WeightsError> {
    let snapshots = cache.join("snapshots");
    let wanted = revision.unwrap_or("main");
    let referred = fs::read_to_string(cache.join("refs").join(wanted)).ok().map(|commit| commit.trim().to_owned());
    let commit = referred.filter(|commit| check_name("revision", commit).is_ok()).unwrap_or_else(|| wanted.to_owned());
    let found = names_in(&snapshots);
    if found.contains(&commit) && snapshots.join(&commit).is_dir() {
        return Ok(snapshots.join(commit));
    }
    match (revision, found.as_slice()) {
        // A cache without `refs`, as some copy tools leave it: one snapshot leaves no doubt.
        (None, [only]) => Ok(snapshots.join(only)),
        _ => Err(WeightsError::MissingRevision {
            model: model.to_owned(),
            revision: wanted.to_owned(),
            directory: cache.to_owned(),
            found,
        }),
    }
}

/// Ids of the models under a weights directory, in order.
fn models_in(directory: &Path) -> Vec<String> {
    let mut models = Vec::new();
    for name in names_in(directory) {
        let path = directory.join(&name);
        if let Some(cached) = name.strip_prefix("models--") {
            models.push(cached.replacen("--", "/", 1));
        } else if path.join("config.json").is_file() {
            models.push(name);
        } else {
            let below = names_in(&path);
            let is_model = |below: &String| path.join(below).join("config.json").is_file();
            models.extend(below.iter().filter(|below| is_model(below)).map(|below| format!("{name}/{below}")));
        }
    }
    models
}

/// Names of the folders in a folder, in order; none where it cannot be read.
fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(directory: &Path, path: &str) {
        fs::create_dir_all(directory.join(path)).unwrap();
    }

    fn file(directory: &Path, path: &str, content: &str) {
        folder(directory, path.rsplit_once('/').map_or("", |(parent, _)| parent));
        fs::write(directory.join(path), content).unwrap();
    }

    #[test]
    fn a_model_is_found_under_its_id() {
        let directory = tempfile::tempdir().unwrap();
        folder(directory.path(), "Qwen/Qwen3-Reranker-0.6B");
        let found = resolve(directory.path(), "Qwen/Qwen3-Reranker-0.6B", None).unwrap();
        assert_eq!(found, directory.path().join("Qwen/Qwen3-Reranker-0.6B"));
    }

    #[test]
    fn a_hub_cache_is_followed_by_its_references() {
        let directory = tempfile::tempdir().unwrap();
        let cache = "models--Qwen--Qwen3-Reranker-0.6B";
        file(directory.path(), &format!("{cache}/refs/main"), "abc123\n");
        file(directory.path(), &format!("{cache}/refs/v1"), "def456");
        folder(directory.path(), &format!("{cache}/snapshots/abc123"));
        folder(directory.path(), &format!("{cache}/snapshots/def456"));
        let snapshots = directory.path().join(cache).join("snapshots");
        let id = "Qwen/Qwen3-Reranker-0.6B";
        assert_eq!(resolve(directory.path(), id, None).unwrap(), snapshots.join("abc123"));
        assert_eq!(resolve(directory.path(), id, Some("v1")).unwrap(), snapshots.join("def456"));
        assert_eq!(resolve(directory.path(), id, Some("def456")).unwrap(), snapshots.join("def456"));
        let error = resolve(directory.path(), id, Some("v2")).unwrap_err().to_string();
        assert!(error.contains("\"v2\"") && error.contains("abc123, def456"), "{error}");
    }

    #[test]
    fn a_cache_without_references_is_used_where_one_snapshot_leaves_no_doubt() {
        let directory = tempfile::tempdir().unwrap();
        folder(directory.path(), "hub/models--a--b/snapshots/only");
        assert!(resolve(directory.path(), "a/b", None).unwrap().ends_with("snapshots/only"));
        folder(directory.path(), "hub/models--a--b/snapshots/another");
        assert!(matches!(resolve(directory.path(), "a/b", None), Err(WeightsError::MissingRevision { .. })));
    }

    #[test]
    fn a_reference_cannot_lead_out_of_the_snapshots() {
        let directory = tempfile::tempdir().unwrap();
        file(directory.path(), "models--a--b/refs/main", "../../secret");
        folder(directory.path(), "models--a--b/snapshots/one");
        folder(directory.path(), "models--a--b/snapshots/two");
        folder(directory.path(), "secret");
        assert!(matches!(resolve(directory.path(), "a/b", None), Err(WeightsError::MissingRevision { .. })));
    }

    #[test]
    fn a_missing_model_names_where_it_was_looked_for_and_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        file(directory.path(), "Qwen/Other/config.json", "{}");
        file(directory.path(), "flat/config.json", "{}");
        folder(directory.path(), "models--x--y/snapshots/1");
        let error = resolve(directory.path(), "Qwen/Missing", None).unwrap_err().to_string();
        for part in
            ["\"Qwen/Missing\"", "Qwen/Missing", "models--Qwen--Missing", "weights.directory", "Qwen/Other, flat, x/y"]
        {
            assert!(error.contains(part), "{part} in {error}");
        }
        let error = resolve(Path::new("/nowhere"), "a/b", None).unwrap_err().to_string();
        assert!(error.contains("/nowhere") && error.contains("no model is there"), "{error}");
    }

    #[test]
    fn names_that_would_leave_the_directory_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        for model in ["..", "../x", "a/../../x", "/etc", "a//b", "a/", "", ".hidden", "a\\b", "a b", "a\0b", "模型"] {
            let error = resolve(directory.path(), model, None).unwrap_err();
            assert!(matches!(error, WeightsError::InvalidName { field: "model", .. }), "{model:?}: {error}");
        }
        let error = resolve(directory.path(), "a/b", Some("../main")).unwrap_err();
        assert!(matches!(error, WeightsError::InvalidName { field: "revision", .. }));
    }
}
