//! What a repository holds and which of it is needed. Pure.

use serde::Deserialize;

use super::HubError;
use crate::engine::weights::BESIDE_THE_WEIGHTS;

/// One file to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubFile {
    /// Its name in the repository's root.
    pub name: String,
    /// Length, where the hub tells it.
    pub bytes: Option<u64>,
    /// Digest, where the hub tells it.
    pub digest: Option<HubDigest>,
}

/// What a hub says of a file's content, in lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HubDigest {
    /// SHA-256 of the content: of large files.
    Sha256(String),
    /// Git's name of the content, SHA-1 of it behind its length: of small files.
    GitBlob(String),
}

/// The needed files of a repository at one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The commit behind the revision.
    pub commit: String,
    /// Small files first, so that what is missing or wrong is found before the weights are fetched.
    pub files: Vec<HubFile>,
}

#[derive(Deserialize)]
struct Repository {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    oid: Option<String>,
    size: Option<u64>,
}

impl Listing {
    /// Reads the hub's answer and chooses the files. Nothing but safetensors counts as weights.
    pub(super) fn parse(model: &str, text: &str, endpoint: &str) -> Result<Self, HubError> {
        let protocol = |message: String| HubError::Protocol { endpoint: endpoint.to_owned(), message };
        let repository: Repository =
            serde_json::from_str(text).map_err(|error| protocol(format!("its listing cannot be read: {error}")))?;
        let Repository { sha, siblings } = repository;
        if sha.len() != 40 || !sha.chars().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(protocol(format!("{sha:?} is no commit")));
        }
        let find = |name: &str| siblings.iter().find(|sibling| sibling.rfilename == name);
        let mut files: Vec<&Sibling> = BESIDE_THE_WEIGHTS.iter().filter_map(|name| find(name)).collect();
        let refuse = |reason: String| HubError::NoWeights { model: model.to_owned(), reason };
        for needed in ["config.json", "tokenizer.json"] {
            if find(needed).is_none() {
                return Err(refuse(format!("its repository has no {needed}")));
            }
        }
        // Names with a folder in them are other forms of the weights (`onnx/`, `original/`), which are not read.
        let has_suffix = |sibling: &&Sibling, suffixes: &[&str]| {
            !sibling.rfilename.contains(['/', '\\'])
                && suffixes.iter().any(|suffix| sibling.rfilename.ends_with(suffix))
        };
        let mut weights: Vec<&Sibling> =
            siblings.iter().filter(|sibling| has_suffix(sibling, &[".safetensors"])).collect();
        if weights.is_empty() {
            let pickles = siblings.iter().filter(|sibling| has_suffix(sibling, &[".bin", ".pt", ".pth", ".ckpt"]));
            let pickles: Vec<&str> = pickles.map(|sibling| sibling.rfilename.as_str()).collect();
            return Err(refuse(if pickles.is_empty() {
                "its repository has no .safetensors files".to_owned()
            } else {
                format!(
                    "its repository has pickle weights only ({}), which can run any code when they are read; use a \
                     revision with .safetensors files, or convert them where you trust the source",
                    pickles.join(", ")
                )
            }));
        }
        // Of two forms of the same weights the whole one is read, unless an index names the parts.
        if find("model.safetensors.index.json").is_none() && find("model.safetensors").is_some() {
            weights.retain(|sibling| sibling.rfilename == "model.safetensors");
        }
        weights.sort_by(|left, right| left.rfilename.cmp(&right.rfilename));
        files.extend(weights);
        let files = files.into_iter().map(|sibling| {
            let lfs = sibling.lfs.as_ref();
            let digest = match lfs {
                Some(lfs) => lfs
                    .sha256
                    .as_ref()
                    .or(lfs.oid.as_ref())
                    .map(|digest| HubDigest::Sha256(digest.trim_start_matches("sha256:").to_ascii_lowercase())),
                // Git names by SHA-1; of a longer name (SHA-256 repositories) nothing is known.
                None => sibling
                    .blob_id
                    .as_ref()
                    .filter(|name| name.len() == 40)
                    .map(|name| HubDigest::GitBlob(name.to_ascii_lowercase())),
            };
            HubFile { name: sibling.rfilename.clone(), bytes: lfs.and_then(|lfs| lfs.size).or(sibling.size), digest }
        });
        Ok(Self { commit: sha, files: files.collect() })
    }

    /// Sum of the lengths that are known.
    pub fn bytes(&self) -> u64 {
        self.files.iter().filter_map(|file| file.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn parse(siblings: &str) -> Result<Listing, String> {
        let text = format!(r#"{{"id": "a/b", "sha": "{COMMIT}", "siblings": [{siblings}]}}"#);
        Listing::parse("a/b", &text, "https://hub").map_err(|error| error.to_string())
    }

    #[test]
    fn the_needed_files_are_chosen_small_ones_first_with_what_is_known_of_them() {
        let listing = parse(
            r#"{"rfilename": "README.md", "size": 10}, {"rfilename": "model-00002-of-00002.safetensors"},
               {"rfilename": "model-00001-of-00002.safetensors", "size": 7, "lfs": {"sha256": "ABC", "size": 7000, "pointerSize": 7}},
               {"rfilename": "onnx/model.safetensors"}, {"rfilename": "pytorch_model.bin"}, {"rfilename": "evil.py"},
               {"rfilename": "tokenizer.json", "size": 5},
               {"rfilename": "config.json", "size": 3, "blobId": "00112233445566778899AABBCCDDEEFF00112233"}"#,
        )
        .unwrap();
        assert_eq!(listing.commit, COMMIT);
        let names: Vec<&str> = listing.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(
            names,
            ["config.json", "tokenizer.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        );
        let digests = [0, 1, 2].map(|file: usize| listing.files[file].digest.clone());
        let git = HubDigest::GitBlob("00112233445566778899aabbccddeeff00112233".to_owned());
        assert_eq!(digests, [Some(git), None, Some(HubDigest::Sha256("abc".to_owned()))]);
        assert_eq!(listing.files[2].bytes, Some(7_000));
        assert_eq!(listing.bytes(), 7_008);
    }

    #[test]
    fn of_weights_in_two_forms_the_whole_one_is_fetched() {
        let listing = parse(
            r#"{"rfilename": "tokenizer.json"}, {"rfilename": "config.json"}, {"rfilename": "model.safetensors"},
               {"rfilename": "model.fp16.safetensors"}"#,
        );
        let names: Vec<String> = listing.unwrap().files.into_iter().map(|file| file.name).collect();
        assert_eq!(names, ["config.json", "tokenizer.json", "model.safetensors"]);
    }

    #[test]
    fn a_repository_without_weights_that_are_read_here_says_why() {
        let small = r#"{"rfilename": "tokenizer.json"}, {"rfilename": "config.json"}"#;
        assert!(parse(&format!(r#"{small}, {{"rfilename": "pytorch_model.bin"}}"#)).unwrap_err().contains("pickle"));
        assert!(parse(small).unwrap_err().contains("no .safetensors files"));
        assert!(parse(r#"{"rfilename": "model.safetensors"}"#).unwrap_err().contains("no config.json"));
    }

    #[test]
    fn an_answer_that_is_not_a_hubs_is_told() {
        for text in ["", "<html>", "{}", r#"{"sha": "../x", "siblings": []}"#] {
            let error = Listing::parse("a/b", text, "https://hub").unwrap_err().to_string();
            assert!(error.contains("https://hub (weights.hub.endpoint) does not answer as a model hub"), "{error}");
        }
    }
}
