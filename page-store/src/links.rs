//! Links: one signed address for each object of a store in a private bucket, in a file. Whoever has the file reads the store for as long as they
//! are good, and needs no credentials.
//!
//! ```json
//! {"pageferry_links": 1, "store": "s3://bucket/app", "expires": "2026-01-31T18:00:00Z",
//!  "objects": {"checkpoint.json": "https://...", "../app-1/packs/<digest>.pack": "https://..."}}
//! ```

mod file;
mod sign;

pub(crate) use file::LinksFile;
pub use sign::LinkSigner;

use crate::{Error, MANIFEST_NAME, Result, bucket::Bucket, names};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, path::Path, time::SystemTime};
use url::Url;

/// What the location of a links file begins with; its path follows.
const SCHEME: &str = "links:";
/// `pageferry_links`.
const VERSION: u64 = 1;
/// Most bytes of a file: a link has up to 2 KB (one that was signed with temporary credentials), so this is enough for terabytes.
const MAX_BYTES: u64 = 128 << 20;
/// Most links: more than fit into so many bytes if each has what a signature needs.
const MAX_LINKS: usize = 1 << 19;
/// Longest link. Hosts take no longer ones (S3: 8 KiB of head).
const MAX_LINK: usize = 8192;
/// Longest address of a store that is shown.
const MAX_STORE: usize = 2048;
/// Characters of a name that is none that are shown.
const SHOWN: usize = 100;

/// A signed link for each object of a store. They are secrets: nothing here shows more of one than its host.
#[derive(Clone, PartialEq, Eq)]
pub struct Links {
    store: String,
    expires: SystemTime,
    objects: BTreeMap<String, Url>,
}

/// As it is in a file.
#[derive(Serialize, Deserialize)]
struct Json {
    pageferry_links: u64,
    store: String,
    expires: String,
    objects: BTreeMap<String, String>,
}

/// What every version has.
#[derive(Deserialize)]
struct Head {
    pageferry_links: u64,
}

impl Links {
    /// Whether a location is that of a links file: `links:FILE`.
    pub fn is_location(location: &str) -> bool {
        location.starts_with(SCHEME)
    }

    /// The file at such a location.
    pub(crate) fn path_of(location: &str) -> Option<&Path> {
        location.strip_prefix(SCHEME).map(Path::new)
    }

    /// Parses and checks; `file` is for messages.
    pub fn parse(file: &Path, json: &[u8]) -> Result<Self> {
        let wrong = |what: String| Error::Unsupported {
            object: location(file),
            what: format!("{what}; make a new one with `pageferry-strip presign`"),
        };
        // What the parser says may have a link in it, so only the place is told.
        let broken = |e: serde_json::Error| {
            let problem = if e.is_data() { "not what a links file has there" } else { "not JSON" };
            wrong(format!("line {} column {}: {problem}", e.line(), e.column()))
        };
        if json.len() as u64 > MAX_BYTES {
            return Err(wrong(format!("more than {MAX_BYTES} bytes")));
        }
        let head: Head = serde_json::from_slice(json).map_err(broken)?;
        if head.pageferry_links != VERSION {
            let version = head.pageferry_links;
            return Err(wrong(format!("links of version {version}, this pageferry reads version {VERSION}")));
        }
        let json: Json = serde_json::from_slice(json).map_err(broken)?;
        Self::checked(json).map_err(|(place, problem)| wrong(format!("{place}: {problem}")))
    }

    /// Or the place and what is wrong there.
    fn checked(json: Json) -> Result<Self, (String, String)> {
        let at = |place: &str, problem: &str| (place.to_owned(), problem.to_owned());
        let store = json.store;
        if store.len() > MAX_STORE
            || !Bucket::is_address(&store)
            || store.contains(|c: char| c.is_control() || c == '?')
        {
            return Err(at("store", "not an address with s3://, gs:// or az://"));
        }
        let expires = humantime::parse_rfc3339(&json.expires);
        let expires = expires.map_err(|_| at("expires", "not a time such as 2026-01-31T18:00:00Z"))?;
        if json.objects.len() > MAX_LINKS {
            return Err(at("objects", &format!("more than {MAX_LINKS}")));
        }
        let mut objects = BTreeMap::new();
        let mut encrypted = None;
        for (name, link) in json.objects {
            let shown: String = name.chars().take(SHOWN).collect();
            let wrong = |problem: &str| (format!("objects, {shown:?}"), problem.to_owned());
            if !names::is_object(&name) {
                return Err(wrong("not a name that a store can have"));
            }
            let url = Some(link).filter(|link| link.len() <= MAX_LINK).and_then(|link| Url::parse(&link).ok());
            let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            let mut url = url.ok_or_else(|| wrong("its link is not an http:// or https:// address"))?;
            // They would be sent as an Authorization, which a signed request must not have.
            if !url.username().is_empty() || url.password().is_some() {
                return Err(wrong("its link has a user or a password"));
            }
            url.set_fragment(None);
            // One client serves all of them, and one of http:// has no certificates.
            if *encrypted.get_or_insert(url.scheme() == "https") != (url.scheme() == "https") {
                return Err(wrong("http:// and https:// are mixed"));
            }
            objects.insert(name, url);
        }
        if !objects.contains_key(MANIFEST_NAME) {
            return Err(at("objects", &format!("no link for {MANIFEST_NAME}")));
        }
        Ok(Self { store, expires, objects })
    }

    /// The bytes of a links file; an error if they could not be read again.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let failed = |what: String| Error::Unsupported { object: self.store.clone(), what };
        let json = Json {
            pageferry_links: VERSION,
            store: self.store.clone(),
            expires: self.expires(),
            objects: self.objects.iter().map(|(name, url)| (name.clone(), url.as_str().to_owned())).collect(),
        };
        let mut bytes = serde_json::to_vec_pretty(&json).map_err(|_| failed("cannot be written as JSON".into()))?;
        bytes.push(b'\n');
        if bytes.len() as u64 > MAX_BYTES {
            return Err(failed(format!("needs more than {MAX_BYTES} bytes of links")));
        }
        Self::checked(json).map_err(|(place, problem)| failed(format!("{place}: {problem}")))?;
        Ok(bytes)
    }

    /// The store that they lead to, as it was named when they were made.
    pub fn store(&self) -> &str {
        &self.store
    }

    /// Until when they are good, as in 2026-01-31T18:00:00Z.
    pub fn expires(&self) -> String {
        humantime::format_rfc3339_seconds(self.expires).to_string()
    }

    /// Whether that is past, by this machine's clock.
    pub fn have_expired(&self) -> bool {
        self.expires <= SystemTime::now()
    }

    /// How many there are. One is of `checkpoint.json`.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// The link of an object. Nothing may show its query.
    pub(crate) fn link(&self, object: &str) -> Option<&Url> {
        self.objects.get(object)
    }

    /// Any of them: all have the same scheme.
    fn any(&self) -> &Url {
        self.objects.values().next().expect("there is one of checkpoint.json")
    }
}

/// Whether a location is a path of this machine: what is not there is not going to be there soon.
pub fn is_of_this_machine(location: &str) -> bool {
    !location.contains("://") && !Links::is_location(location)
}

/// The location of a links file.
fn location(file: &Path) -> String {
    format!("{SCHEME}{}", file.display())
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (store, expires, host) = (&self.store, self.expires(), self.any().host_str());
        f.debug_struct("Links")
            .field("store", store)
            .field("expires", &expires)
            .field("host", &host)
            .field("objects", &self.objects.keys())
            .finish()
    }
}

#[cfg(test)]
mod tests;
