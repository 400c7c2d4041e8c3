//! Tasks, mappings, the page map, and what the server says about itself.

mod common;

use common::*;
use serde_json::json;

#[test]
fn tasks() {
    each(|server| {
        let all = server.get("/pid").json();
        assert_eq!(all["image_version"], 2);
        assert_eq!(all["checkpoint_id"].as_str().unwrap().len(), 64);
        let pids: Vec<_> = all["tasks"].as_array().unwrap().iter().map(|t| &t["pid"]).collect();
        assert_eq!(pids, [10, 20, 30]);
        assert_eq!(all["tasks"][2]["state"], "dead");

        let second = server.get("/pid/20").json();
        assert_eq!((&second["parent"], &second["threads"]), (&json!(10), &json!([20, 21])));
        assert_eq!((&second["mappings"], &second["mapped_pages"]), (&json!(1), &json!(BIG_PAGES)));
        assert_eq!(second["lazy_pages"], BIG_PAGES);
        assert_eq!(server.get("/pid/30").json().get("mappings"), None);
        server.get("/pid/31").problem(404, "no-such-task");
        server.get("/pid/x").problem(400, "bad-pid");
    });
}

#[test]
fn mappings() {
    each(|server| {
        let json = server.get("/pid/10/maps").json();
        let starts: Vec<_> =
            json["mappings"].as_array().unwrap().iter().map(|m| m["start"].as_str().unwrap()).collect();
        assert_eq!(starts, [HEAP, RESERVED, FILE, SHARED, VVAR, STACK].map(|start| format!("{start:#x}")));
        assert_eq!(json["mappings"][2]["name"], "/usr/bin/prog");
        assert_eq!(json["mappings"][2]["offset"], 0x2000);
        assert_eq!(json["mappings"][0]["can_be_lazy"], true);

        let text = server.send("GET", "/pid/10/maps", &["Accept: text/plain"]);
        assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(text.body, server.get("/pid/10/maps?format=text").body);
        assert_eq!(
            text.text().lines().collect::<Vec<_>>(),
            [
                "10000000-10040000 rw-p 00000000 00:00 0 ",
                "200000000000-240000000000 rw-p 00000000 00:00 0 ",
                "550000000000-550000010000 rw-p 00002000 00:00 0                          /usr/bin/prog",
                "7f0000000000-7f0000008000 rw-s 00000000 00:00 0                          /dev/zero (deleted)",
                "7ffc00000000-7ffc00004000 rw-p 00000000 00:00 0                          [vvar]",
                "7ffd00000000-7ffd00008000 rw-p 00000000 00:00 0 ",
            ]
        );
        server.get("/pid/10/maps?format=xml").problem(400, "bad-query");
        server.get("/pid/30/maps").problem(404, "no-memory");
    });
}

#[test]
fn page_map() {
    each(|server| {
        let json = server.get("/pid/10/pagemap").json();
        let runs = json["runs"].as_array().unwrap();
        let rows: Vec<_> = runs
            .iter()
            .map(|r| {
                let start = u64::from_str_radix(&r["start"].as_str().unwrap()[2..], 16).unwrap();
                (start, r["pages"].as_u64().unwrap(), r["source"].as_str().unwrap())
            })
            .collect();
        assert_eq!(
            rows,
            [
                (HEAP, 8, "store"),
                (HEAP + 8 * P, 4, "zero"),
                (HEAP + 12 * P, 28, "store"),
                (HEAP + 40 * P, 24, "zero"),
                (RESERVED, 1 << 30, "zero"),
                (FILE, 4, "file"),
                (FILE + 4 * P, 2, "slim"),
                (FILE + 6 * P, 10, "file"),
                (SHARED, 2, "zero"),
                (SHARED + 2 * P, 2, "slim"),
                (SHARED + 4 * P, 4, "zero"),
                (VVAR, 4, "kernel"),
                (STACK, 2, "slim"),
                (STACK + 2 * P, 6, "store"),
            ]
        );
        assert_eq!(runs[0]["page_number"], 0);
        // Pages of zeros have no number in a store; in a raw checkpoint they are in the file like all others.
        assert!(runs[2]["page_number"] == 8 || runs[2]["page_number"] == 12, "{runs:?}");

        let range = format!("{:x}-{:x}", HEAP + 10 * P, FILE + P);
        let part = server.get(&format!("/pid/10/pagemap?range={range}")).json();
        let pages: Vec<_> = part["runs"].as_array().unwrap().iter().map(|r| r["pages"].as_u64().unwrap()).collect();
        assert_eq!(pages, [2, 28, 24, 1 << 30, 1]);
        assert_eq!(server.get("/pid/10/pagemap?range=1000-2000").json()["runs"], json!([]));
        server.get("/pid/10/pagemap?range=1000").problem(400, "bad-range");
    });
}

#[test]
fn the_server_about_itself() {
    each(|server| {
        for path in ["/healthz", "/readyz", "/", "/problems"] {
            assert_eq!(server.get(path).status, 200, "{path}");
        }
        let document = server.get("/openapi.yaml");
        assert_eq!(document.header("content-type"), Some("application/yaml"));
        assert_eq!(document.text(), pageferry_server::OPENAPI);

        // What the front page shows can be typed.
        let front = server.get("/").text();
        let examples: Vec<_> = front.split_whitespace().filter_map(|w| w.strip_prefix("http://this-server")).collect();
        assert!(examples.len() >= 4, "{front}");
        for path in examples.iter().filter(|p| p.starts_with("/pid")) {
            assert_eq!(server.get(path).status, 200, "{path}");
        }

        for path in ["/nothing", "/pid/10/", "//", "/pid/10/page", "/store", "/store/"] {
            server.get(path).problem(404, "no-such-path");
        }
        for (method, path, allow) in
            [("POST", "/pid", "GET,HEAD"), ("GET", "/pid/10/pages", "POST"), ("BREW", "/", "GET,HEAD")]
        {
            let reply = server.send(method, path, &[]);
            reply.problem(405, "method-not-allowed");
            assert_eq!(reply.header("allow"), Some(allow), "{method} {path}");
        }
    });
}

#[test]
fn metrics_add_up() {
    each(|server| {
        for _ in 0..3 {
            server.get(&format!("/pid/10/page/{HEAP:x}"));
        }
        server.get(&format!("/pid/10/page/{:x}", FILE + 4 * P));
        server.get("/nothing");
        server.get("/checkpoint.json");
        let metrics = server.get("/metrics");
        assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        let text = metrics.text();
        let value = |name: &str| -> u64 {
            let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name}\n{text}")).parse().unwrap()
        };
        let route = |route: &str, status: u16| {
            value(&format!("pageferry_http_requests_total{{method=\"GET\",route=\"{route}\",status=\"{status}\"}}"))
        };
        assert_eq!(route("/pid/{pid}/page/{address}", 200), 4);
        assert_eq!(route("unmatched", 404), 1);
        assert_eq!(route("/store/{object}", 200), 1);
        assert_eq!(value("pageferry_pages_total{source=\"store\"}"), 3);
        assert_eq!(value("pageferry_pages_total{source=\"slim\"}"), 1);
        assert_eq!((value("pageferry_frames_decoded_total"), value("pageferry_frame_cache_hits_total")), (1, 2));
        assert_eq!(value("pageferry_http_requests_in_flight"), 1);
        assert_eq!((value("pageferry_connections_total"), value("pageferry_http_bodies_cut_total")), (7, 0));
        assert!(value("pageferry_http_body_bytes_total") > 4 * 4096);
        assert!(value("process_resident_memory_bytes") > 0);
        // Every line is a comment or a number, every metric has its type.
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let (name, number) = line.rsplit_once(' ').unwrap();
            assert!(number.parse::<f64>().is_ok(), "{line}");
            assert!(text.contains(&format!("# TYPE {} ", name.split('{').next().unwrap())), "{line}");
        }
    });
}
