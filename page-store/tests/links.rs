//! A store that is read by links: each object at an address of its own, which a host takes only with its signature.

mod common;

use common::{http::*, *};
use page_store::{Error, HttpOptions, HttpVersion, MANIFEST_NAME, Manifest, Store, read_range};
use serde_json::{Map, Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// A host with a store; its links lie at addresses that say nothing, as those of a host need not.
struct Linked {
    server: Server,
    names: Vec<String>,
    file: PathBuf,
    /// The signature that it takes.
    signature: Arc<AtomicUsize>,
    /// Requests with an Authorization.
    authorized: Arc<AtomicUsize>,
}

impl Linked {
    async fn new(store: &Path, file: PathBuf) -> Self {
        let json = fs::read(store.join(MANIFEST_NAME)).unwrap();
        let manifest = Manifest::parse("x", &json).unwrap();
        let names: Vec<_> =
            manifest.objects().map(|object| object.object.clone()).chain([MANIFEST_NAME.to_owned()]).collect();
        let (signature, authorized) = (Arc::new(AtomicUsize::new(1)), Arc::new(AtomicUsize::new(0)));
        let (taken, seen, objects, store) = (signature.clone(), authorized.clone(), names.clone(), store.to_owned());
        let server = serve(move |request| {
            seen.fetch_add(usize::from(request.headers.iter().any(|h| h.starts_with("authorization"))), Relaxed);
            let (path, query) = request.path.split_once('?').unwrap();
            if query != format!("sig=secret{}", taken.load(Relaxed)) {
                let body = format!("<Error><Code>AccessDenied</Code><Message>{query}</Message></Error>");
                return Answer::new("403 Forbidden", &["Content-Type: application/xml"], body.as_bytes());
            }
            let name = &objects[path[1..].parse::<usize>().unwrap()];
            file_answer(fs::read(store.join(name)).ok(), request.range)
        })
        .await;
        let linked = Self { server, names, file, signature, authorized };
        linked.sign(1, |_| {});
        linked
    }

    /// Writes the file.
    fn sign(&self, signature: usize, change: impl FnOnce(&mut Map<String, Value>)) {
        let link = |at| format!("{}/{at}?sig=secret{signature}", self.server.url);
        let mut objects = self.names.iter().enumerate().map(|(at, name)| (name.clone(), link(at).into())).collect();
        change(&mut objects);
        let links = json!({
            "pageferry_links": 1, "store": "s3://bucket/app", "expires": "2020-01-31T18:00:00Z", "objects": objects,
        });
        fs::write(&self.file, links.to_string()).unwrap();
    }

    fn location(&self) -> String {
        format!("links:{}", self.file.display())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_read_by_links_and_no_token_is_sent() {
    let (dir, _, path) = made();
    let linked = Linked::new(&path, dir.path().join("app.links")).await;
    let options = HttpOptions::read(HttpVersion::default(), None, Some("token"), None, None).unwrap();
    let store = Store::open_by(&linked.location(), options.clone()).await.unwrap();
    let expected = stored_pages(&Store::open(&path.display().to_string()).await.unwrap()).await.unwrap();
    assert!(!expected.is_empty());
    assert_eq!(stored_pages(&store).await.unwrap(), expected);
    assert_eq!(stored_pages(&store.with_own_connections()).await.unwrap(), expected);
    store.slim().await.unwrap();
    assert!(linked.server.requests.load(Relaxed) > 5);
    assert_eq!(linked.authorized.load(Relaxed), 0);

    // What is said about it names object and host.
    let said = format!("{store:?} {}", store.backend().describe(MANIFEST_NAME));
    assert!(said.contains(&format!("checkpoint.json at {}", linked.server.url)) && !said.contains("secret"), "{said}");
    let mirrors = [linked.location(), path.display().to_string()];
    let mirrors = Store::open_mirrors(&mirrors, options).await.unwrap();
    assert_eq!(mirrors.backend().copies(), 2);
    assert_eq!(stored_pages(&mirrors).await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_told_without_the_signature() {
    let (dir, _, path) = made();
    let linked = Linked::new(&path, dir.path().join("app.links")).await;
    let gone = "packs/gone.pack";
    linked.sign(1, |objects| {
        objects.insert(gone.into(), format!("{}/0?sig=secret1", linked.server.url).into());
        objects.insert("index/far".into(), "http://127.0.0.1:1/x?sig=secret1".into());
        objects.remove(&linked.names[0]);
    });
    let store = Store::open(&linked.location()).await.unwrap();
    let backend = store.backend();
    // By a link whose object is not as long, from a host that is not there, without a link, by a name that is none.
    let errors = [
        read_range(&**backend, gone, 1 << 30..(1 << 30) + 1).await.unwrap_err(),
        backend.get(gone, 1).await.unwrap_err(),
        backend.get("index/far", 100).await.unwrap_err(),
        backend.get(&linked.names[0], 1 << 20).await.unwrap_err(),
        backend.get("../checkpoint.json", 1 << 20).await.unwrap_err(),
    ];
    let said = errors.each_ref().map(ToString::to_string);
    for (said, words) in said.iter().zip([
        format!("{gone} at {}: ", linked.server.url),
        format!("{gone} at {}: ", linked.server.url),
        "index/far at http://127.0.0.1:1: cannot connect".into(),
        format!("{} of {}: there is no link for it", linked.names[0], linked.location()),
        format!("{}: \"../checkpoint.json\" is not a name", linked.location()),
    ]) {
        assert!(said.starts_with(&words) && !said.contains("secret"), "{said}, not {words}");
    }
    assert!(errors[2].is_transient() && !errors[3].is_transient());
    for location in ["links:", "links:/nowhere"] {
        let error = Store::open(location).await.unwrap_err();
        assert!(error.to_string().starts_with(location), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_have_ended_are_read_again() {
    let (dir, _, path) = made();
    let linked = Linked::new(&path, dir.path().join("app.links")).await;
    let store = Store::open(&linked.location()).await.unwrap();
    linked.signature.store(2, Relaxed);
    let error = store.current_manifest().await.unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, Error::Unsupported { .. }), "{said}");
    for words in [
        "checkpoint.json at http://127.0.0.1",
        "HTTP 403 Forbidden (AccessDenied)",
        "have expired (2020-01-31T18:00:00Z)",
        "`pageferry-strip presign s3://bucket/app --out ",
    ] {
        assert!(said.contains(words), "{said}");
    }
    assert!(!said.contains("secret"), "{said}");

    linked.sign(2, |_| {});
    let mut tries = 0;
    // The file was read a moment ago, so that this takes a while.
    let pages = loop {
        match stored_pages(&store).await {
            Ok(pages) => break pages,
            Err(error) => assert!(tries < 50 && error.to_string().contains("have expired"), "{error}"),
        }
        tries += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(!pages.is_empty() && tries > 0);
}
