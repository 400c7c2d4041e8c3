//! A place in an object store: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`.
//!
//! Credentials, region and endpoint come from the environment, by the names that each provider's own tools use: `AWS_ACCESS_KEY_ID`,
//! `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`; `GOOGLE_APPLICATION_CREDENTIALS`;
//! `AZURE_STORAGE_ACCOUNT_NAME`, `AZURE_STORAGE_ACCOUNT_KEY`. The crate `object_store` lists the rest.

mod explain;

pub(crate) use explain::{Doing, explain};

use crate::{Error, Result, names};
use object_store::{
    ClientConfigKey, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    path::Path,
    signer::Signer,
};
use std::{sync::Arc, time::Duration};
use url::Url;

/// The schemes of addresses that are object stores.
pub(crate) const SCHEMES: [&str; 3] = ["s3", "gs", "az"];

/// For connections. A whole body may take what it takes; between two pieces of one [`STALL`].
const CONNECT: &str = "10s";
const STALL: &str = "30s";
const WHOLE: &str = "86400s";

/// Who tries again when a request fails for a reason that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retrying {
    /// Whoever waits for the answer.
    Caller,
    /// The client: for writing.
    Client,
}

/// A place in an object store. Clones share connections.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    /// Of an address; a store that the caller has made may have none.
    signer: Option<Arc<dyn Signer>>,
    prefix: Path,
    /// As the user typed it, without a slash at its end.
    address: String,
    retrying: Retrying,
}

impl Bucket {
    /// Whether this is such an address.
    pub(crate) fn is_address(location: &str) -> bool {
        location.split_once("://").is_some_and(|(scheme, _)| SCHEMES.contains(&scheme))
    }

    /// The place that an address names. Nothing is asked yet.
    pub(crate) fn open(address: &str, retrying: Retrying) -> Result<Self> {
        let address = address.trim_end_matches('/');
        let address = address.strip_suffix(crate::MANIFEST_NAME).unwrap_or(address).trim_end_matches('/');
        let unsupported = |what: String| Error::Unsupported { object: address.into(), what };
        let url = Url::parse(address).map_err(|e| unsupported(format!("not an address: {e}")))?;
        if url.host_str().is_none_or(str::is_empty) {
            return Err(unsupported("names no bucket; it should look like s3://bucket/name".into()));
        }
        if url.query().is_some() {
            return Err(unsupported("has a query; credentials come from the environment".into()));
        }
        // The first one wins; another part of the program may have been earlier.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (store, signer) = client(&url, retrying)
            .map_err(|e| unsupported(format!("{}: see its provider's variables", one_line(&e))))?;
        let prefix = Path::from_url_path(url.path()).map_err(|e| unsupported(e.to_string()))?;
        Ok(Self { store, signer: Some(signer), prefix, address: address.into(), retrying })
    }

    /// A store that the caller has made.
    pub(crate) fn of(store: Arc<dyn ObjectStore>, address: &str) -> Self {
        Self { store, signer: None, prefix: Path::default(), address: address.into(), retrying: Retrying::Caller }
    }

    /// The same place over connections of its own.
    pub(crate) fn fresh(&self) -> Self {
        // The same address worked before; if not, shared connections are slower, not wrong.
        match Self::is_address(&self.address) {
            true => Self::open(&self.address, self.retrying).unwrap_or_else(|_| self.clone()),
            false => self.clone(),
        }
    }

    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// What makes links that need no credentials.
    pub(crate) fn signer(&self) -> Option<&Arc<dyn Signer>> {
        self.signer.as_ref()
    }

    pub(crate) fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// Where an object is; an error for a name that no store has.
    pub(crate) fn path(&self, object: &str) -> Result<Path> {
        let below = |prefix: &str, object: &str| match prefix {
            "" => object.to_owned(),
            prefix => format!("{prefix}/{object}"),
        };
        let prefix = self.prefix.as_ref();
        let whole = match names::shared(object) {
            // A store that is a whole bucket has nothing beside it.
            Some((sibling, pack)) if !prefix.is_empty() => {
                let parent = prefix.rsplit_once('/').map_or("", |(parent, _)| parent);
                Some(below(parent, &below(sibling, pack)))
            }
            _ => names::is_safe(object).then(|| below(prefix, object)),
        };
        let path = whole.and_then(|whole| Path::parse(whole).ok());
        path.ok_or_else(|| {
            let what = format!("{object:?} is not a name that a store can have");
            Error::Unsupported { object: self.address.clone(), what }
        })
    }

    /// An object's address, for messages.
    pub(crate) fn describe(&self, object: &str) -> String {
        format!("{}/{object}", self.address)
    }

    /// What an error of the store means.
    pub(crate) fn error(&self, object: &str, doing: Doing, error: &object_store::Error) -> Error {
        explain(self.describe(object), doing, error)
    }
}

/// A client, as what reads and writes and as what signs.
type Client = (Arc<dyn ObjectStore>, Arc<dyn Signer>);

fn client(url: &Url, retrying: Retrying) -> object_store::Result<Client> {
    let retry = match retrying {
        Retrying::Caller => RetryConfig { max_retries: 0, ..RetryConfig::default() },
        Retrying::Client => RetryConfig { retry_timeout: Duration::from_secs(120), ..RetryConfig::default() },
    };
    let timeouts = [
        (ClientConfigKey::ConnectTimeout, CONNECT),
        (ClientConfigKey::ReadTimeout, STALL),
        (ClientConfigKey::Timeout, WHOLE),
    ];
    match url.scheme() {
        "gs" => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_url(url.as_str()).with_retry(retry);
            for (key, value) in timeouts {
                builder = builder.with_config(GoogleConfigKey::Client(key), value);
            }
            Ok(both(builder.build()?))
        }
        "az" => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_url(url.as_str()).with_retry(retry);
            for (key, value) in timeouts {
                builder = builder.with_config(AzureConfigKey::Client(key), value);
            }
            Ok(both(builder.build()?))
        }
        _ => {
            let mut builder = AmazonS3Builder::from_env().with_url(url.as_str()).with_retry(retry);
            for (key, value) in timeouts {
                builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
            }
            // Whoever names a plain endpoint means it.
            let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
            if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
                builder = builder.with_allow_http(true);
            }
            Ok(both(builder.build()?))
        }
    }
}

fn both<T: ObjectStore + Signer>(client: T) -> Client {
    let client = Arc::new(client);
    (client.clone(), client)
}

/// An error in one line, without what XML adds.
fn one_line(error: &object_store::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
