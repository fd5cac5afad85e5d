//! The certificate and key of the API, which follow their files: a renewed certificate counts without a restart. I/O:
//! reads the files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rerank_crds::server_config::ListenTls;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::reload::Reload;

/// Longest file read, in bytes: a wrong path (a log, a device) must not fill the memory.
const MAXIMUM_FILE_BYTES: u64 = 1024 * 1024;

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is absent or unreadable.
    #[error("failed to read {path:?} ({setting})")]
    Read {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it must be.
    #[error("{path:?} ({setting}) cannot be used: {message}")]
    Content {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would do.
        message: String,
    },
    /// Certificate and key do not belong together, or are of a kind that cannot be used.
    #[error("the certificate of listen.tls.certificateFile and the key of listen.tls.keyFile cannot be used together")]
    Pair(#[source] rustls::Error),
}

/// What connections are encrypted with, as last read well.
pub struct TlsIdentity {
    files: ListenTls,
    current: RwLock<Read>,
}

struct Read {
    /// Both files' bytes, to tell whether they have changed.
    content: [Vec<u8>; 2],
    config: Arc<ServerConfig>,
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TlsIdentity").field("files", &self.files).finish_non_exhaustive()
    }
}

impl TlsIdentity {
    /// Reads both files for the first time.
    ///
    /// # Errors
    /// A file that cannot be read, holds no certificate or no key, or a key of another certificate.
    pub fn load(files: &ListenTls) -> Result<Self, TlsError> {
        let content = read(files)?;
        let config = configure(files, &content)?;
        Ok(Self { files: files.clone(), current: RwLock::new(Read { content, config }) })
    }

    /// What new connections are encrypted with.
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).config)
    }
}

impl Reload for TlsIdentity {
    const WHAT: &'static str = "TLS certificate";
    type Error = TlsError;

    fn reload(&self) -> Result<bool, TlsError> {
        let content = read(&self.files)?;
        if self.current.read().unwrap_or_else(PoisonError::into_inner).content == content {
            return Ok(false);
        }
        let config = configure(&self.files, &content)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Read { content, config };
        Ok(true)
    }
}

const CERTIFICATE: &str = "listen.tls.certificateFile";
const KEY: &str = "listen.tls.keyFile";

fn read(files: &ListenTls) -> Result<[Vec<u8>; 2], TlsError> {
    Ok([read_file(CERTIFICATE, &files.certificate_file)?, read_file(KEY, &files.key_file)?])
}

fn read_file(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let error = |source| TlsError::Read { setting, path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(error)?;
    if !metadata.is_file() || metadata.len() > MAXIMUM_FILE_BYTES {
        let message = format!("it is not a file of at most {MAXIMUM_FILE_BYTES} bytes");
        return Err(TlsError::Content { setting, path: path.to_owned(), message });
    }
    std::fs::read(path).map_err(error)
}

fn configure(files: &ListenTls, [certificate, key]: &[Vec<u8>; 2]) -> Result<Arc<ServerConfig>, TlsError> {
    let content = |setting, path: &Path, message: &str| TlsError::Content {
        setting,
        path: path.to_owned(),
        message: message.to_owned(),
    };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(certificate).collect::<Result<_, _>>().unwrap_or_default();
    if chain.is_empty() {
        return Err(content(CERTIFICATE, &files.certificate_file, "it holds no certificate in PEM"));
    }
    // What a key's file says must not be repeated, so the reader's own words are not.
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| content(KEY, &files.key_file, "it holds no private key in PEM (PKCS#8, PKCS#1 or SEC1)"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Pair)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
