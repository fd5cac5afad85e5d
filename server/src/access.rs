//! API keys: who may call. I/O at load: reads the key file or folder; checking is pure.
//!
//! Keys are kept as SHA-256 digests and compared in constant time against every key, so that neither the time of an
//! answer nor a memory dump of the list tells a key. They are never logged.

use std::fmt;
use std::path::{Path, PathBuf};

use rerank_crds::server_config::ClientAccess;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

mod key_ring;

pub use key_ring::KeyRing;

/// Longest key file read, in bytes: a wrong path (a log, a device) must not fill the memory.
const MAXIMUM_FILE_BYTES: u64 = 1024 * 1024;

/// Why keys cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The file or folder is absent or unreadable.
    #[error("failed to read the API keys in {path:?} (access.apiKeysFile)")]
    Read {
        /// As configured, or the file inside the folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The content is not what it must be.
    #[error("the API keys in {path:?} (access.apiKeysFile) cannot be used: {message}")]
    Content {
        /// As configured, or the file inside the folder.
        path: PathBuf,
        /// What is wrong, without any key.
        message: String,
    },
}

/// One client's key, as a digest.
#[derive(PartialEq, Eq)]
struct Client {
    name: String,
    digest: [u8; 32],
}

/// The keys of all clients.
#[derive(PartialEq, Eq)]
pub struct ApiKeys {
    clients: Vec<Client>,
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.names().collect();
        formatter.debug_struct("ApiKeys").field("clients", &names).finish_non_exhaustive()
    }
}

impl ApiKeys {
    /// Reads keys: a folder holds one file for each client (as a mounted Secret does; names that begin with a dot are
    /// skipped), a file one `client: key` for each line (`#` begins a comment line).
    ///
    /// # Errors
    /// Nothing there, not text, an empty key, a key with white space, a client named twice, no key at all.
    pub fn load(path: &Path) -> Result<Self, AccessError> {
        let metadata = std::fs::metadata(path).map_err(|source| read_error(path, source))?;
        let pairs = if metadata.is_dir() { read_folder(path)? } else { parse_lines(path, &read_text(path)?)? };
        Self::from_pairs(path, pairs)
    }

    fn from_pairs(path: &Path, pairs: Vec<(String, String)>) -> Result<Self, AccessError> {
        let mut clients: Vec<Client> = Vec::with_capacity(pairs.len());
        for (name, key) in pairs {
            if key.is_empty() {
                return Err(content_error(path, format!("the key of client {name:?} is empty")));
            }
            if key.chars().any(|character| character.is_whitespace() || character.is_control()) {
                return Err(content_error(
                    path,
                    format!("the key of client {name:?} holds white space or control characters"),
                ));
            }
            if clients.iter().any(|client| client.name == name) {
                return Err(content_error(path, format!("client {name:?} is named twice")));
            }
            let digest = Sha256::digest(key.as_bytes()).into();
            if let Some(other) = clients.iter().find(|client| client.digest == digest) {
                return Err(content_error(path, format!("clients {:?} and {name:?} have the same key", other.name)));
            }
            clients.push(Client { name, digest });
        }
        if clients.is_empty() {
            return Err(content_error(path, "no key is in it, so nobody could call".to_owned()));
        }
        Ok(Self { clients })
    }

    /// How many clients have a key.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Names of all clients.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.clients.iter().map(|client| client.name.as_str())
    }

    /// Clients that are restricted and have no key: a typo would leave another one unrestricted.
    pub fn unknown_among<'a>(&'a self, restricted: &'a [ClientAccess]) -> impl Iterator<Item = &'a str> {
        let restricted = restricted.iter().map(|client| client.name.as_str());
        restricted.filter(|name| self.names().all(|known| known != *name))
    }

    /// Always false: keys without any client are refused at load.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// The client whose key this is. The work done does not depend on which key matches, or whether one does.
    pub fn client_of(&self, key: &[u8]) -> Option<&str> {
        let digest: [u8; 32] = Sha256::digest(key).into();
        let mut found = Choice::from(0);
        let mut position = 0_u32;
        for (index, client) in (0_u32..).zip(&self.clients) {
            let equal = client.digest.ct_eq(&digest);
            position.conditional_assign(&index, equal);
            found |= equal;
        }
        bool::from(found).then(|| self.clients.get(position as usize)).flatten().map(|client| client.name.as_str())
    }

    /// The client that an `Authorization` header names (`Bearer <key>`, scheme in any case). Without a header the same
    /// work is done for an empty key, which no client has.
    pub fn client_of_header(&self, authorization: Option<&[u8]>) -> Option<&str> {
        self.client_of(authorization.and_then(bearer_token).unwrap_or_default())
    }
}

fn bearer_token(header: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = header.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

fn read_folder(folder: &Path) -> Result<Vec<(String, String)>, AccessError> {
    let mut pairs = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|source| read_error(folder, source))? {
        let entry = entry.map_err(|source| read_error(folder, source))?;
        let path = entry.path();
        let name = entry.file_name();
        let name = name
            .to_str()
            .ok_or_else(|| content_error(&path, "the file's name, which names the client, is not UTF-8".to_owned()))?;
        // A mounted Secret keeps its versions in `..data` and `..2026_01_01`, the files are links into them.
        if name.starts_with('.') {
            continue;
        }
        if std::fs::metadata(&path).map_err(|source| read_error(&path, source))?.is_file() {
            pairs.push((name.to_owned(), read_text(&path)?.trim_end_matches(['\r', '\n']).to_owned()));
        }
    }
    pairs.sort();
    Ok(pairs)
}

fn parse_lines(path: &Path, text: &str) -> Result<Vec<(String, String)>, AccessError> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| {
            let (client, key) = line
                .split_once(':')
                .ok_or_else(|| content_error(path, format!("line {number} is not `client: key`")))?;
            let client = client.trim();
            if client.is_empty() {
                return Err(content_error(path, format!("line {number} names no client before the colon")));
            }
            Ok((client.to_owned(), key.trim().to_owned()))
        })
        .collect()
}

fn read_text(path: &Path) -> Result<String, AccessError> {
    let metadata = std::fs::metadata(path).map_err(|source| read_error(path, source))?;
    if !metadata.is_file() || metadata.len() > MAXIMUM_FILE_BYTES {
        return Err(content_error(path, format!("it is not a file of at most {MAXIMUM_FILE_BYTES} bytes")));
    }
    let bytes = std::fs::read(path).map_err(|source| read_error(path, source))?;
    String::from_utf8(bytes).map_err(|_| content_error(path, "it is not UTF-8 text".to_owned()))
}

fn read_error(path: &Path, source: std::io::Error) -> AccessError {
    AccessError::Read { path: path.to_owned(), source }
}

fn content_error(path: &Path, message: String) -> AccessError {
    AccessError::Content { path: path.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_file(text: &str) -> Result<ApiKeys, AccessError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, text).unwrap();
        ApiKeys::load(&path)
    }

    fn message(result: Result<ApiKeys, AccessError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_file_holds_one_client_a_line() {
        let keys = from_file("# who may call\n\nshop: secret-1\r\n  blog :secret:2 \n").unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!(keys.client_of(b"secret-1"), Some("shop"));
        assert_eq!(keys.client_of(b"secret:2"), Some("blog"));
        assert_eq!(keys.client_of(b"secret-3"), None);
        assert_eq!(keys.client_of(b""), None);
    }

    #[test]
    fn a_restricted_client_without_a_key_is_noticed() {
        let keys = from_file("shop: a\nblog: b\n").unwrap();
        let restricted = |name: &str| ClientAccess { name: name.to_owned(), collections: Vec::new() };
        let restricted = [restricted("shop"), restricted("shopp")];
        assert_eq!(keys.unknown_among(&restricted).collect::<Vec<_>>(), ["shopp"]);
    }

    #[test]
    fn a_mounted_secret_is_a_folder_of_links() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("..2026_11_23");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("shop"), "secret-1\n").unwrap();
        std::os::unix::fs::symlink(&data, folder.path().join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/shop", folder.path().join("shop")).unwrap();
        std::fs::write(folder.path().join(".hidden"), "secret-2").unwrap();
        let keys = ApiKeys::load(folder.path()).unwrap();
        assert_eq!(format!("{keys:?}"), "ApiKeys { clients: [\"shop\"], .. }");
        assert_eq!(keys.client_of(b"secret-1"), Some("shop"));
        assert_eq!(keys.client_of(b"secret-2"), None);
    }

    #[test]
    fn what_cannot_be_a_key_is_refused_without_being_told() {
        for (text, says) in [
            ("", "no key is in it"),
            ("# only a comment", "no key is in it"),
            ("shop:", "the key of client \"shop\" is empty"),
            ("shop: two words-canary", "white space"),
            (": secret-canary", "names no client"),
            ("secret-canary", "line 1 is not `client: key`"),
            ("a: secret-canary\na: other", "named twice"),
            ("a: secret-canary\nb: secret-canary", "the same key"),
        ] {
            let message = message(from_file(text));
            assert!(message.contains(says), "{text:?}: {message}");
            assert!(message.contains("access.apiKeysFile"), "{message}");
            assert!(!message.contains("canary"), "{message}");
        }
    }

    #[test]
    fn an_absent_file_and_one_that_is_no_text_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(message(ApiKeys::load(&folder.path().join("absent"))).contains("absent"));
        let path = folder.path().join("keys");
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(message(ApiKeys::load(&path)).contains("not UTF-8"));
    }

    #[test]
    fn debug_output_names_clients_but_no_key() {
        let keys = from_file("shop: secret-canary").unwrap();
        let text = format!("{keys:?} {keys:#?}");
        assert!(text.contains("shop") && !text.contains("canary"), "{text}");
    }

    #[test]
    fn the_scheme_is_bearer_in_any_case() {
        let keys = from_file("shop: secret").unwrap();
        for header in ["Bearer secret", "bearer secret", "BEARER  secret "] {
            assert_eq!(keys.client_of_header(Some(header.as_bytes())), Some("shop"), "{header}");
        }
        for header in ["secret", "Basic secret", "Bearer", "Bearer ", "Bearersecret", "Bearer secrets", ""] {
            assert_eq!(keys.client_of_header(Some(header.as_bytes())), None, "{header}");
        }
        assert_eq!(keys.client_of_header(None), None);
    }
}
