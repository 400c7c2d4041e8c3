//! TLS: a certificate and its key, and perhaps the authority whose clients alone may come; read again when they change.

mod check;

use crate::reload::Watched;
use anyhow::{Context, Result, anyhow, bail};
use check::check_validity;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
        sign::CertifiedKey,
    },
};

/// A chain or a bundle of authorities has some kilobytes each.
const MAX_FILE: u64 = 4 << 20;

/// Where certificates and keys are.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The server's certificate, then the ones between it and its authority; PEM.
    pub cert: PathBuf,
    /// The key of the first; PEM.
    pub key: PathBuf,
    /// Authorities of client certificates; PEM. Without a certificate of theirs no client gets an answer.
    pub client_ca: Option<PathBuf>,
}

/// What a server shows its clients, and asks of them.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    watched: Watched,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files, and checks that they belong together and are valid today.
    pub fn read(files: TlsFiles) -> Result<Self> {
        let paths = [&files.cert, &files.key].into_iter().chain(&files.client_ca).cloned();
        let watched = Watched::new(paths, MAX_FILE);
        let config = config(&files, &watched.read()?)?;
        Ok(Self { files, watched, config: RwLock::new(config) })
    }

    /// Reads the files again if they are others by now. Half of a pair, or one with a mistake, changes nothing.
    pub(crate) fn reload(&self) {
        let Some(read) = self.watched.changed() else { return };
        match read.and_then(|contents| config(&self.files, &contents)) {
            Ok(config) => {
                tracing::warn!("{}: read again, for connections from now on", self.files.cert.display());
                *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
            }
            Err(error) => tracing::error!("{error:#}; the certificate that was in use stays"),
        }
    }

    /// Whether only clients with a certificate get an answer.
    pub(crate) fn knows_clients(&self) -> bool {
        self.files.client_ca.is_some()
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn config(files: &TlsFiles, contents: &[Vec<u8>]) -> Result<Arc<ServerConfig>> {
    let [cert, key, rest @ ..] = contents else { bail!("no certificate") };
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(&files.cert, cert)?;
    let key = private_key(&files.key, key)?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .context("TLS 1.2 and 1.3")?;
    let builder = match (&files.client_ca, rest) {
        (Some(path), [bytes, ..]) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path, bytes)? {
                roots.add(authority).with_context(|| format!("{}: not an authority", path.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
            builder.with_client_cert_verifier(verifier.with_context(|| format!("{}", path.display()))?)
        }
        _ => builder.with_no_client_auth(),
    };
    let (cert, key_file) = (files.cert.display(), files.key.display());
    CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            anyhow!("{key_file} is not the key of the certificate in {cert}; give the pair that was made together")
        }
        error => anyhow!("{cert} and {key_file}: {error}"),
    })?;
    let mut config = builder.with_single_cert(chain, key).with_context(|| format!("{cert} and {key_file}"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The certificates in a file, each valid today.
fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let name = path.display();
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| anyhow!("{name}: not PEM: {error}"))?;
    if chain.is_empty() {
        bail!("{name}: has no certificate (no -----BEGIN CERTIFICATE----- in it)");
    }
    for certificate in &chain {
        check_validity(certificate).with_context(|| name.to_string())?;
    }
    Ok(chain)
}

fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>> {
    let name = path.display();
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        if pem.windows(9).any(|words| words == b"ENCRYPTED") {
            return anyhow!("{name}: the key is encrypted; `openssl pkey -in {name} -out KEY` takes the password off");
        }
        anyhow!("{name}: has no private key in PEM ({error})")
    })
}
