//! What a host asks of us before it answers: a token, certificates.

use super::HttpVersion;
use crate::{Error, Result};
use http::HeaderValue;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

/// Larger files are neither tokens nor certificates.
const MAX_FILE: u64 = 4 << 20;

/// How hosts are spoken with. The default: HTTP/1.1, no token, the machine's own authorities.
#[derive(Clone, Debug, Default)]
pub struct HttpOptions {
    /// The version of HTTP.
    pub version: HttpVersion,
    /// Sent to the host of the store, and to nobody whom it redirects to.
    pub token: Option<Arc<Token>>,
    /// Authorities that are trusted besides those of the machine; PEM.
    pub tls_ca: Option<Arc<[u8]>>,
    /// Our certificate and its key; PEM.
    pub tls_client: Option<Arc<[u8]>>,
}

impl From<HttpVersion> for HttpOptions {
    fn from(version: HttpVersion) -> Self {
        Self { version, ..Self::default() }
    }
}

/// A token, and where it came from: a file is read again when the host no longer takes what it held.
#[derive(Debug)]
pub struct Token {
    file: Option<PathBuf>,
    header: RwLock<HeaderValue>,
}

impl HttpOptions {
    /// From the files that a user named; a token of its own (`PAGEFERRY_TOKEN`) if there is no file of one.
    pub fn read(
        version: HttpVersion,
        token_file: Option<&Path>,
        token: Option<&str>,
        tls_ca: Option<&Path>,
        tls_client: Option<(&Path, &Path)>,
    ) -> Result<Self> {
        let token = match (token_file, token.filter(|token| !token.is_empty())) {
            (Some(file), _) => Some(Token::read(file)?),
            (None, Some(token)) => Some(Token { file: None, header: RwLock::new(header(token, "PAGEFERRY_TOKEN")?) }),
            (None, None) => None,
        };
        let tls_ca = tls_ca.map(bytes).transpose()?.map(Arc::from);
        let tls_client = match tls_client {
            Some((cert, key)) => {
                let mut both = bytes(key)?;
                both.push(b'\n');
                both.extend(bytes(cert)?);
                Some(Arc::from(both))
            }
            None => None,
        };
        Ok(Self { version, token: token.map(Arc::new), tls_ca, tls_client })
    }
}

impl Token {
    fn read(file: &Path) -> Result<Self> {
        let header = from_file(file)?;
        Ok(Self { file: Some(file.to_owned()), header: RwLock::new(header) })
    }

    /// As a header. It is marked so that nothing logs it.
    pub(super) fn header(&self) -> HeaderValue {
        self.header.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The host did not take `refused`: whether there is another one by now.
    pub(super) fn renew(&self, refused: &HeaderValue) -> bool {
        if self.header() != *refused {
            return true;
        }
        let Some(file) = &self.file else { return false };
        match from_file(file) {
            Ok(header) if header != *refused => {
                tracing::info!("{}: another token by now", file.display());
                *self.header.write().unwrap_or_else(PoisonError::into_inner) = header;
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::warn!("{error}");
                false
            }
        }
    }
}

fn from_file(file: &Path) -> Result<HeaderValue> {
    let name = file.display().to_string();
    let bytes = bytes(file)?;
    let text = String::from_utf8_lossy(&bytes);
    header(text.trim(), &name)
}

fn header(token: &str, origin: &str) -> Result<HeaderValue> {
    let is_one = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    let value = is_one.then(|| HeaderValue::try_from(format!("Bearer {token}")).ok()).flatten();
    let mut value = value.ok_or_else(|| Error::Unsupported {
        object: origin.to_owned(),
        what: "has to hold one token and nothing else (the third word of its line in the server's file)".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    let object = || path.display().to_string();
    let unreadable =
        |error: io::Error| Error::Unsupported { object: object(), what: format!("cannot be read: {error}") };
    if fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE {
        return Err(Error::Unsupported { object: object(), what: format!("has more than {MAX_FILE} bytes") });
    }
    fs::read(path).map_err(unreadable)
}
