//! A model hub that speaks the protocol of Hugging Face: what a repository holds, and its files. I/O: HTTP.
//!
//! Names, URLs and the cache's layout are those of `hf-hub`. The bytes are fetched here, because `hf-hub` 0.4 compares no
//! digest, has no timeouts, and sends the token on to the host that a file is redirected to. `listing` (pure) chooses the
//! files, `transfer` fetches one, `download` puts a whole snapshot in its place.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hf_hub::{Repo, RepoType};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Response, StatusCode};
use rerank_crds::server_config::Hub as HubConfig;
use rerank_crds::server_config::network::check_hub_host;

use crate::resolver::check_all;

mod download;
mod listing;
mod pace;
mod transfer;

pub use listing::{HubDigest, HubFile, Listing};

/// A hub that takes longer to accept a connection is taken to be down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A transfer in which no byte comes for so long has stalled.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often is asked again where the hub is busy or cannot be reached, and where a transfer has brought next to nothing.
const ATTEMPTS: u32 = 4;
/// Longest file that is fetched where the hub tells no length: no weights, but any tokenizer.
const MAXIMUM_UNTOLD_BYTES: u64 = 64 * 1024 * 1024;
/// Pause before the first further attempt; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest listing that is read: those of real models have some kilobytes.
const MAXIMUM_LISTING_BYTES: usize = 16 * 1024 * 1024;

/// Longest token file that is read.
const MAXIMUM_TOKEN_BYTES: u64 = 64 * 1024;

/// Why a model cannot be had from a hub.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The token's file cannot be used.
    #[error("weights.hub.tokenFile {path:?} cannot be used: {message}")]
    Token {
        /// As configured.
        path: PathBuf,
        /// Why, without the token.
        message: String,
    },
    /// No connection, no answer, or it broke off.
    #[error(
        "the hub {endpoint} (weights.hub.endpoint) cannot be reached; check the address, the network and HTTPS_PROXY"
    )]
    Unreachable {
        /// As configured.
        endpoint: String,
        /// The library's words.
        #[source]
        source: reqwest::Error,
    },
    /// 401 or 403.
    #[error(
        "the hub does not give out {model:?}: {}",
        if *with_token { "weights.hub.tokenFile holds a token that may not read it; accept the model's terms with that account" }
        else { "it is private, gated, or does not exist; name a file with a token in weights.hub.tokenFile" }
    )]
    Unauthorized {
        /// Model id.
        model: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// 404.
    #[error("the hub has no {model:?} at revision {revision:?}; correct the name or the revision")]
    NotFound {
        /// Model id.
        model: String,
        /// As asked.
        revision: String,
    },
    /// It has no weights that are read here.
    #[error("{model:?} cannot be taken from the hub: {reason}")]
    NoWeights {
        /// Model id.
        model: String,
        /// Why, and what would do.
        reason: String,
    },
    /// Any other status.
    #[error("the hub answered {status} for {model:?}; it is tried again after a pause")]
    Status {
        /// Model id.
        model: String,
        /// HTTP status.
        status: u16,
    },
    /// It is not the hub's protocol.
    #[error("{endpoint} (weights.hub.endpoint) does not answer as a model hub: {message}")]
    Protocol {
        /// As configured.
        endpoint: String,
        /// What is wrong.
        message: String,
    },
    /// A file came otherwise than the hub says it is, twice.
    #[error(
        "{file} of {model:?} came damaged from the hub: {what} {found}, expected {expected}; nothing of it is kept"
    )]
    Damaged {
        /// Model id.
        model: String,
        /// The file.
        file: String,
        /// `its SHA-256 is` or `its length is`.
        what: &'static str,
        /// Of what came.
        found: String,
        /// As the hub says.
        expected: String,
    },
    /// A file has no end that is known beforehand, and does not come to one.
    #[error(
        "{file} of {model:?} has more than {maximum_bytes} bytes, and the hub says neither in its listing nor in its answer how many"
    )]
    Endless {
        /// Model id.
        model: String,
        /// The file.
        file: String,
        /// What is read of a file of unknown length.
        maximum_bytes: u64,
    },
    /// Bytes come, but it would never end.
    #[error("{file} of {model:?} comes from the hub at less than a kilobyte a second")]
    Crawls {
        /// Model id.
        model: String,
        /// The file.
        file: String,
    },
    /// The disk has no room for it.
    #[error(
        "{model:?} has {needed_bytes} bytes, {directory:?} has room for {free_bytes}; make room or name another weights.directory"
    )]
    NoSpace {
        /// Model id.
        model: String,
        /// Where.
        directory: PathBuf,
        /// What is left to fetch.
        needed_bytes: u64,
        /// Free.
        free_bytes: u64,
    },
    /// The folder cannot be written.
    #[error("failed to write {path:?}; weights.directory must be writable where weights.hub is configured")]
    Write {
        /// File or folder.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: std::io::Error,
    },
}

impl HubError {
    /// Whether asking again soon may help: not where the hub leads to a place that is refused.
    fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => !source.is_redirect(),
            Self::Status { .. } | Self::Crawls { .. } => true,
            _ => false,
        }
    }
}

/// A configured hub. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hub {
    config: Arc<HubConfig>,
    client: Client,
}

impl Hub {
    /// Makes the client. A proxy comes from the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`).
    ///
    /// # Errors
    /// No client can be made.
    pub fn new(config: &HubConfig) -> Result<Self, HubError> {
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(STALL_TIMEOUT)
            .user_agent(concat!("rerank-server/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(CheckedResolver)
            .redirect(Policy::custom(follow))
            .build()
            .map_err(|source| HubError::Unreachable { endpoint: config.endpoint.clone(), source })?;
        Ok(Self { config: Arc::new(config.clone()), client })
    }

    /// Where it is.
    pub fn endpoint(&self) -> &str {
        self.config.endpoint.trim_end_matches('/')
    }

    /// What a repository holds at a revision (commit, tag or branch), of the files that are needed here.
    pub async fn list(&self, model: &str, revision: &str) -> Result<Listing, HubError> {
        let repo = repo(model, revision);
        let url = format!("{}/api/{}?blobs=true", self.endpoint(), repo.api_url());
        let (mut attempt, mut pause) = (1, FIRST_PAUSE);
        loop {
            let outcome = match self.get(&url, model, revision, None).await {
                Ok(response) => self.read_listing(response).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(text) => return Listing::parse(model, &text, self.endpoint()),
                Err(error) if attempt < ATTEMPTS && error.may_pass() => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn read_listing(&self, mut response: Response) -> Result<String, HubError> {
        let protocol = |message: String| HubError::Protocol { endpoint: self.config.endpoint.clone(), message };
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|source| self.unreachable(source))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAXIMUM_LISTING_BYTES {
                return Err(protocol(format!("its listing has more than {MAXIMUM_LISTING_BYTES} bytes")));
            }
        }
        String::from_utf8(bytes).map_err(|_| protocol("its listing is no text".to_owned()))
    }

    /// Asks for a file or a listing. The token goes to the hub alone: the client drops it on a redirect to another host.
    async fn get(&self, url: &str, model: &str, revision: &str, from: Option<u64>) -> Result<Response, HubError> {
        let token = self.token()?;
        let with_token = token.is_some();
        let mut request = self.client.get(url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(from) = from {
            request = request.header(reqwest::header::RANGE, format!("bytes={from}-"));
        }
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(HubError::Unauthorized { model: model.to_owned(), with_token })
            }
            StatusCode::NOT_FOUND => Err(HubError::NotFound { model: model.to_owned(), revision: revision.to_owned() }),
            status => Err(HubError::Status { model: model.to_owned(), status: status.as_u16() }),
        }
    }

    fn unreachable(&self, source: reqwest::Error) -> HubError {
        // URLs of redirects can hold signatures.
        HubError::Unreachable { endpoint: self.config.endpoint.clone(), source: source.without_url() }
    }

    /// Read each time: a token that is renewed counts at once.
    fn token(&self) -> Result<Option<String>, HubError> {
        let Some(path) = &self.config.token_file else { return Ok(None) };
        let refuse = |message: String| HubError::Token { path: path.clone(), message };
        let metadata = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?;
        if !metadata.is_file() || metadata.len() > MAXIMUM_TOKEN_BYTES {
            return Err(refuse(format!("it is not a file of at most {MAXIMUM_TOKEN_BYTES} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
        let token = text.trim();
        if token.is_empty() || !token.chars().all(|character| character.is_ascii_graphic()) {
            return Err(refuse("it holds no token, which is one line without white space".to_owned()));
        }
        Ok(Some(token.to_owned()))
    }
}

fn repo(model: &str, revision: &str) -> Repo {
    Repo::with_revision(model.to_owned(), RepoType::Model, revision.to_owned())
}

/// Follows a redirect as far as it leads to an address that a hub may have, and not from https back to http.
fn follow(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    const MOST: usize = 10;
    let goes_back = attempt.url().scheme() != "https" && attempt.previous().iter().any(|url| url.scheme() == "https");
    if attempt.previous().len() > MOST {
        attempt.error("too many redirects")
    } else if goes_back {
        attempt.error("it is redirected from https to http")
    } else {
        match check_hub_host(attempt.url()) {
            Ok(()) => attempt.follow(),
            Err(error) => attempt.error(error),
        }
    }
}

/// Looks names up and refuses what a hub's address may not be either.
#[derive(Clone, Copy, Debug)]
struct CheckedResolver;

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            check_all(name.as_str(), &addresses, true)?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
