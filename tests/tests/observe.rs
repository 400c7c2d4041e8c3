//! What an operator sees of the agent: its endpoint while it runs, its doctor before.

mod common;

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context, ensure};
use common::{Scene, scene};
use pageferry_tests::{Cell, Host, Pager, Result, agent_restore, criu_restore, eventually, free_port, http, tools};
use serde_json::Value;

/// Values of `/metrics` by series.
fn metrics(port: u16) -> Result<BTreeMap<String, f64>> {
    let text = http::get(port, "/metrics")?;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
            Ok((series.to_owned(), value.parse()?))
        })
        .collect()
}

/// Every number that `/metrics` has of what the summary has too.
fn assert_same(metrics: &BTreeMap<String, f64>, summary: &Value) {
    for (series, field) in [
        ("pageferry_agent_faults_total", "/faults"),
        ("pageferry_agent_pages_total{class=\"fault\"}", "/pages_by_fault"),
        ("pageferry_agent_pages_total{class=\"read_ahead\"}", "/pages_read_ahead"),
        ("pageferry_agent_pages_total{class=\"working_set\"}", "/pages_by_working_set"),
        ("pageferry_agent_pages_total{class=\"transfer\"}", "/pages_by_transfer"),
        ("pageferry_agent_pages_total{class=\"zero\"}", "/pages_zero"),
        ("pageferry_agent_store_bytes_total", "/wire_bytes"),
        ("pageferry_agent_store_requests_total", "/requests"),
        ("pageferry_agent_store_retries_total", "/retries"),
        ("pageferry_agent_store_hedges_total", "/hedges"),
        ("pageferry_agent_digest_failures_total", "/digest_failures"),
        ("pageferry_agent_cache_hits_total", "/cache_hits"),
        ("pageferry_agent_cache_misses_total", "/cache_misses"),
        ("pageferry_agent_cache_bytes_total", "/cache_bytes"),
        ("pageferry_agent_cache_kept_bytes_total", "/cache_kept_bytes"),
        ("pageferry_agent_cache_skipped_total", "/cache_skipped"),
        ("pageferry_agent_cache_wrong_total", "/cache_wrong"),
        ("pageferry_agent_take_overs_total", "/take_overs"),
        ("pageferry_agent_processes_total", "/processes"),
        ("pageferry_agent_moment_seconds{moment=\"restored\"}", "/seconds/restored"),
    ] {
        let told = summary.pointer(field).and_then(Value::as_f64);
        assert_eq!(metrics.get(series).copied(), told, "{series}, {field}\n{summary}");
    }
}

#[test]
fn the_endpoint_tells_what_the_summary_will() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("gunicorn", 20_000)?;
    let host = Host::server(&work, &split.store)?;
    let port = free_port()?;
    let cell = Cell::new()?;
    let address = format!("127.0.0.1:{port}");
    let cache = work.path().join("cache").display().to_string();
    let options = ["--complete", "never", "--json", "--metrics", &address, "--cache-dir", &cache];
    let mut pager = Pager::start(&host.url(), &split.slim, &work.folder("pager")?, &options)?;
    assert_eq!(http::get(port, "/healthz")?, "ok\n");
    assert_eq!(metrics(port)?["pageferry_agent_faults_total"], 0.0);

    criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
    checkpoint.first_reply(&cell)?;
    checkpoint.check(&cell)?;
    // The program is quiet; the table of the tasks follows within a heartbeat.
    let (now, status) = eventually(|| {
        let before = metrics(port)?;
        let status: Value = serde_json::from_str(&http::get(port, "/status")?)?;
        let now = metrics(port)?;
        ensure!(before["pageferry_agent_faults_total"] == now["pageferry_agent_faults_total"], "faults still come");
        let of_tasks = now.iter().filter(|(series, _)| series.starts_with("pageferry_agent_task_pages_missing{"));
        let missing: f64 = of_tasks.map(|(_, pages)| pages).sum();
        ensure!(missing == now["pageferry_agent_pages_missing"], "{missing} in all\n{now:?}");
        Ok((now, status))
    })?;
    assert_same(&now, &status);
    let missing = now["pageferry_agent_pages_missing"];
    assert!(missing > 0.0 && now["pageferry_agent_pages_total{class=\"fault\"}"] > 0.0, "{now:?}");
    assert_eq!(status["pages_missing"].as_f64(), Some(missing));
    assert_eq!(status["outage"], false);
    let tasks = status["tasks"].as_array().context("no tasks")?;
    assert!(tasks.len() > 1, "gunicorn has workers: {status}");
    assert!(tasks.iter().any(|task| task["pid"] == pageferry_tests::ROOT_PID), "{status}");
    // No page is counted twice, and none is lost; but zeros are also given for memory that was never written, which nobody expected.
    let by = |class: &str| now[&format!("pageferry_agent_pages_total{{class=\"{class}\"}}")];
    let brought: f64 = ["fault", "read_ahead", "working_set", "transfer"].into_iter().map(by).sum();
    let seen = brought + now["pageferry_agent_pages_dropped_total"] + missing;
    let expected = now["pageferry_agent_pages_expected_total"];
    assert!(seen <= expected && expected <= seen + by("zero"), "{now:?}");
    let faults = now["pageferry_agent_stall_seconds_count"];
    assert_eq!(now["pageferry_agent_stall_seconds_bucket{le=\"+Inf\"}"], faults);
    assert!(faults > 0.0 && faults <= now["pageferry_agent_faults_total"], "{now:?}");

    // The process goes, what was missing with it, and no other number changes any more.
    cell.end();
    pager.wait()?;
    let log = pager.daemon().log();
    let last = log.lines().rfind(|line| line.starts_with('{')).with_context(|| log.clone())?;
    let summary: Value = serde_json::from_str(last)?;
    assert_same(&now, &summary);
    let dropped = now["pageferry_agent_pages_dropped_total"] + missing;
    assert_eq!(summary["pages_dropped"].as_f64(), Some(dropped), "{summary}");
    Ok(())
}

#[test]
fn a_log_in_json_is_json_to_the_last_line() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("threads", 1 << 20)?;
    let cell = Cell::new()?;
    let store = split.store.display().to_string();
    let output = agent_restore(&cell, &store, &work.path().join("images"), &["--log-format", "json", "-v"], &[])?;
    checkpoint.check(&cell)?;
    let log = tools::text(&output.stderr);
    let lines =
        log.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>().with_context(|| log.clone())?;
    let done = lines.iter().rfind(|line| line["fields"]["message"] == "done").with_context(|| log.clone())?;
    let summary: Value = serde_json::from_str(done["fields"]["summary"].as_str().unwrap_or_default())?;
    assert_eq!(summary["pages_missing"], 0);
    Ok(())
}

/// Runs the doctor with the CRIU of the tests; gives whether it is content, and the outcome of each check.
fn doctor(arguments: &[&str]) -> Result<(bool, BTreeMap<String, Value>)> {
    doctor_with(&tools::criu()?, arguments)
}

fn doctor_with(criu: &Path, arguments: &[&str]) -> Result<(bool, BTreeMap<String, Value>)> {
    let mut agent = Command::new(tools::binary("pageferry-agent")?);
    agent.args(["doctor", "--json", "--criu"]).arg(criu).args(arguments);
    let output = tools::output(&mut agent)?;
    let text = tools::text(&output.stdout);
    println!("{text}{}", tools::text(&output.stderr));
    let checks: Vec<Value> = serde_json::from_str(&text).with_context(|| tools::text(&output.stderr))?;
    let mut named = BTreeMap::new();
    for check in checks {
        let needs_advice = check["outcome"] != "ok";
        assert_eq!(check["advice"].is_string(), needs_advice, "{check}");
        let name = check["check"].as_str().context("a check without name")?.to_owned();
        assert!(named.insert(name, check).is_none(), "a check was made twice");
    }
    let failed = named.values().any(|check| check["outcome"] == "fail");
    assert_eq!(output.status.success(), !failed, "{}", output.status);
    Ok((!failed, named))
}

/// Names of the checks that failed.
fn failed(checks: &BTreeMap<String, Value>) -> Vec<&str> {
    checks.iter().filter(|(_, check)| check["outcome"] == "fail").map(|(name, _)| name.as_str()).collect()
}

#[test]
fn a_machine_that_runs_these_tests_passes() -> Result<()> {
    let (content, checks) = doctor(&[])?;
    assert!(content, "{:?}", failed(&checks));
    for name in ["kernel", "userfaultfd", "uffd-events", "capabilities", "criu", "criu-check", "criu-uffd", "memory"] {
        assert_eq!(checks[name]["outcome"], "ok", "{name}");
    }
    let (content, checks) = doctor_with(Path::new("/nowhere/criu"), &[])?;
    assert!(!content);
    assert_eq!(failed(&checks), ["criu"]);
    Ok(())
}

#[test]
fn a_good_store_passes_wherever_it_is() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("threads", 1 << 20)?;
    let server = Host::server(&work, &split.store)?;
    let nginx = Host::nginx(&work, &split.store)?;
    for store in [split.store.display().to_string(), server.url(), nginx.url()] {
        let (content, checks) = doctor(&[&store])?;
        assert!(content, "{store}: {:?}", failed(&checks));
        for name in ["store", "checkpoint.json", "objects", "index", "frame", "slim-dump", "machine", "pids", "cost"] {
            assert_eq!(checks[name]["outcome"], "ok", "{store}: {name}");
        }
        let is_host = store.starts_with("http");
        for name in ["http", "range", "latency"] {
            assert_eq!(checks.contains_key(name), is_host, "{store}: {name}");
        }
    }
    // The program runs again, and holds the pids that another restore would need: seen from inside.
    let cell = Cell::new()?;
    let store = split.store.display().to_string();
    agent_restore(&cell, &store, &work.path().join("images"), &[], &[])?;
    checkpoint.check(&cell)?;
    let mut inside = cell.command(tools::binary("pageferry-agent")?);
    inside.args(["doctor", "--json", &store, "--criu"]).arg(tools::criu()?);
    let output = tools::output(&mut inside)?;
    let checks: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let pids = checks.iter().find(|check| check["check"] == "pids").context("no check of pids")?;
    assert_eq!(pids["outcome"], "fail", "{pids}");
    assert!(!output.status.success());
    Ok(())
}

#[test]
fn what_is_wrong_with_a_store_is_named() -> Result<()> {
    let Scene { work, split, .. } = scene("threads", 1 << 20)?;
    let nginx = Host::nginx(&work, &split.store)?;
    let folder = split.store.display().to_string();

    for store in
        ["/nowhere/at/all".to_owned(), format!("http://127.0.0.1:{}/store", free_port()?), nginx.url() + "/packs"]
    {
        let (_, checks) = doctor(&[&store])?;
        assert_eq!(failed(&checks), ["store"], "{store}");
        assert!(checks["store"]["detail"].as_str().unwrap_or_default().contains(&store), "{store}");
    }

    let manifest = split.store.join("checkpoint.json");
    let json = fs::read(&manifest)?;
    let first = serde_json::from_slice::<serde_json::Value>(&json)?["packs"][0]["object"].clone();
    let pack = split.store.join(first.as_str().context("no pack")?);
    let bytes = fs::read(&pack)?;
    let name = pack.file_name().context("no name")?.to_string_lossy().into_owned();
    for (change, broken) in [(None, bytes.clone()), (Some("shorter"), bytes[..bytes.len() - 1].to_vec())] {
        match change {
            None => fs::remove_file(&pack)?,
            Some(_) => fs::write(&pack, broken)?,
        }
        for store in [&folder, &nginx.url()] {
            let (_, checks) = doctor(&[store])?;
            assert!(failed(&checks).contains(&"objects"), "{store}, {change:?}: {:?}", failed(&checks));
            assert!(checks["objects"]["detail"].as_str().unwrap_or_default().contains(&name), "{store}, {change:?}");
        }
    }

    // The bytes of the first frame are others.
    let mut flipped = bytes.clone();
    flipped[10] ^= 1;
    fs::write(&pack, flipped)?;
    assert_eq!(failed(&doctor(&[&folder])?.1), ["frame"]);
    fs::write(&pack, bytes)?;

    fs::write(&manifest, &json[..json.len() / 2])?;
    for store in [&folder, &nginx.url()] {
        assert_eq!(failed(&doctor(&[store])?.1), ["checkpoint.json"], "{store}");
    }
    Ok(())
}
