//! Making links: needs the credentials that reading them spares.

use super::{Links, MAX_LINKS};
use crate::{
    Error, MANIFEST_NAME, Manifest, Result,
    bucket::{Bucket, Doing, Retrying},
};
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;
use std::time::{Duration, SystemTime};

/// Longest time that a link can be good: S3 ends each after so long, whatever it says, and so do Google's and Azure's.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// Objects that are signed by one call: some hosts are asked for a key once per call.
const AT_A_TIME: usize = 64;
/// Calls at once: with some credentials each signature is a request.
const AT_ONCE: usize = 4;

/// Signs links for a store in a bucket, with the credentials of the environment.
#[derive(Debug)]
pub struct LinkSigner {
    bucket: Bucket,
    address: String,
    valid: Duration,
}

impl LinkSigner {
    /// For the store at an address, links that are good for so long. Nothing is asked yet.
    pub fn new(address: &str, valid: Duration) -> Result<Self> {
        let unsupported = |what: &str| Error::Unsupported { object: address.into(), what: what.into() };
        if !Bucket::is_address(address) {
            let what = "links are made for stores in a bucket: s3://, gs:// or az://; who reads from another host may be given a token (--token-file)";
            return Err(unsupported(what));
        }
        if valid < Duration::from_secs(1) {
            return Err(unsupported("links have to be good for a second at least"));
        }
        if valid > LONGEST {
            return Err(unsupported("links are good for 7 days at most; make new ones before these end"));
        }
        let bucket = Bucket::open(address, Retrying::Client)?;
        let address = bucket.describe("").trim_end_matches('/').to_owned();
        Ok(Self { bucket, address, valid: Duration::from_secs(valid.as_secs()) })
    }

    /// A link for each object that the manifest names, those of stores beside it among them, and one for `checkpoint.json`.
    pub async fn sign(&self, manifest: &Manifest) -> Result<Links> {
        let mut names: Vec<&str> = manifest.objects().map(|object| object.object.as_str()).collect();
        names.push(MANIFEST_NAME);
        names.sort_unstable();
        names.dedup();
        if names.len() > MAX_LINKS {
            let what = format!("has {} objects; links are made for {MAX_LINKS} at most", names.len());
            return Err(Error::Unsupported { object: self.address.clone(), what });
        }
        // Before the first is signed, so that none ends earlier.
        let expires = SystemTime::now() + self.valid;
        let calls = names.chunks(AT_A_TIME).map(|names| self.sign_some(names));
        let signed = stream::iter(calls).buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?;
        Ok(Links { store: self.address.clone(), expires, objects: signed.into_iter().flatten().collect() })
    }

    async fn sign_some(&self, names: &[&str]) -> Result<Vec<(String, url::Url)>> {
        let paths = names.iter().map(|name| self.bucket.path(name)).collect::<Result<Vec<_>>>()?;
        let Some(signer) = self.bucket.signer() else {
            let what = "nothing can sign links for it".into();
            return Err(Error::Unsupported { object: self.address.clone(), what });
        };
        let signed = signer.signed_urls(Method::GET, &paths, self.valid).await;
        let urls = signed.map_err(|error| self.bucket.error(names[0], Doing::Reading, &error))?;
        Ok(names.iter().map(|name| (*name).to_owned()).zip(urls).collect())
    }
}
