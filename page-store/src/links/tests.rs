use super::{file::AGAIN, *};
use std::sync::Arc;
use tokio::time::Instant;

const SECRET: &str = "X-Amz-Signature=5ec7e7";

fn json(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let mut json = serde_json::json!({
        "pageferry_links": 1,
        "store": "s3://bucket/app",
        "expires": "2026-01-31T18:00:00Z",
        "objects": {
            "checkpoint.json": format!("https://bucket.example/app/checkpoint.json?{SECRET}"),
            format!("../other/packs/{}.pack", "0a".repeat(32)): format!("https://bucket.example/other/x.pack?{SECRET}#part"),
        },
    });
    change(&mut json);
    serde_json::to_vec(&json).unwrap()
}

fn parse(json: &[u8]) -> Result<Links> {
    Links::parse(Path::new("/etc/app.links"), json)
}

#[test]
fn what_is_written_is_read() {
    let links = parse(&json(|_| {})).unwrap();
    assert_eq!((links.len(), links.store(), &*links.expires()), (2, "s3://bucket/app", "2026-01-31T18:00:00Z"));
    assert!(links.have_expired());
    assert_eq!(links.link("checkpoint.json").unwrap().query(), Some(SECRET));
    assert!(links.objects.values().all(|url| url.fragment().is_none()) && links.link("slim/x").is_none());
    assert_eq!(parse(&links.to_json().unwrap()).unwrap(), links);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.links");
    std::fs::write(&file, "of others").unwrap();
    links.write(&file).unwrap();
    assert_eq!(Links::read(&file).unwrap(), links);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    let nowhere = links.write(&folder.path().join("none/app.links")).unwrap_err();
    assert!(matches!(nowhere, Error::Io { .. }), "{nowhere}");
    assert!(matches!(Links::read(&folder.path().join("none")), Err(Error::NotFound { .. })));
}

#[test]
fn what_is_wrong_is_named_and_no_link_is_shown() {
    let link = format!("https://h/x?{SECRET}");
    let named = |name: &str, link: &str| json(|json| json["objects"][name] = link.into());
    let set = |key: &str, value: serde_json::Value| json(|json| json[key] = value);
    for (bytes, words) in [
        (b"".to_vec(), "line 1 column 0: not JSON"),
        (json(|_| {})[..200].to_vec(), "not JSON"),
        (b"[]".to_vec(), "not what a links file has there"),
        (set("pageferry_links", 2.into()), "links of version 2"),
        (set("pageferry_links", link.clone().into()), "line 1 column"),
        (set("objects", link.clone().into()), "line 1 column"),
        (set("objects", serde_json::json!({})), "no link for checkpoint.json"),
        (set("store", link.clone().into()), "store: not an address"),
        (set("store", "/srv/app".into()), "store: not an address"),
        (set("store", "s3://a/\u{1b}[2J".into()), "store: not an address"),
        (set("expires", link.clone().into()), "expires: not a time"),
        (named("../x", &link), "objects, \"../x\": not a name"),
        (named("/etc/passwd", &link), "not a name"),
        (named("index/x", "file:///etc/passwd"), "objects, \"index/x\": its link is not"),
        (named("index/x", SECRET), "its link is not"),
        (named("index/x", &format!("http://h/x?{SECRET}")), "are mixed"),
        (named("index/x", &format!("https://me:{SECRET}@h/x")), "a user or a password"),
        (named("index/x", &format!("{link}{}", "x".repeat(9000))), "its link is not"),
    ] {
        let error = parse(&bytes).unwrap_err().to_string();
        assert!(error.contains(words), "{error}, not {words}");
        assert!(error.starts_with("links:/etc/app.links: ") && error.contains("`pageferry-strip presign`"), "{error}");
        assert!(!error.contains("5ec7e7"), "{error}");
    }
    assert!(!format!("{:?}", parse(&json(|_| {})).unwrap()).contains("5ec7e7"));
}

#[tokio::test]
async fn a_file_is_read_again_now_and_then() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.links");
    let other =
        |host: &str| json(|json| json["objects"]["checkpoint.json"] = format!("https://{host}/x?{SECRET}").into());
    std::fs::write(&path, other("one")).unwrap();
    let file = LinksFile::open(&path).unwrap();
    let first = file.current();
    assert_eq!(file.describe("checkpoint.json"), "checkpoint.json at https://one");
    assert!(!format!("{file:?}").contains("5ec7e7"));

    std::fs::write(&path, other("two")).unwrap();
    assert!(file.renewed(&first).await.is_none(), "it was read a moment ago");
    let long_ago = || async { *file.read.lock().await = Instant::now().checked_sub(AGAIN).unwrap() };
    long_ago().await;
    let second = file.renewed(&first).await.unwrap();
    assert_eq!(file.describe("checkpoint.json"), "checkpoint.json at https://two");
    assert!(Arc::ptr_eq(&second, &file.renewed(&first).await.unwrap()), "who else was refused gets the same");

    long_ago().await;
    assert!(file.renewed(&second).await.is_none(), "it is the same");
    for broken in [b"{".to_vec(), json(|json| json["objects"] = serde_json::json!({"checkpoint.json": "http://h/x"}))] {
        std::fs::write(&path, broken).unwrap();
        long_ago().await;
        assert!(file.renewed(&second).await.is_none() && Arc::ptr_eq(&file.current(), &second));
    }
    let error = file.refused("checkpoint.json", &second, "HTTP 403 Forbidden").to_string();
    assert!(
        error.contains(
            "have expired (2026-01-31T18:00:00Z): make new ones with `pageferry-strip presign s3://bucket/app --out"
        ),
        "{error}"
    );
}
