//! What `/metrics` tells. `docs/metrics.md` lists the same; a test holds the two together.

use super::text::Text;
use crate::status::{Status, cpu_seconds, resident_memory};
use std::sync::atomic::Ordering::Relaxed;

/// The whole page.
pub(super) fn text(status: &Status) -> String {
    let mut text = Text::default();
    faults(&mut text, status);
    pages(&mut text, status);
    store(&mut text, status);
    cache(&mut text, status);
    process(&mut text, status);
    text.finish()
}

fn faults(text: &mut Text, status: &Status) {
    text.counter("pageferry_agent_faults_total", "Faults that were read.", status.faults.load(Relaxed));
    let stalls = status.stall_buckets.snapshot();
    let mut family = text.family(
        "pageferry_agent_stall_seconds",
        "histogram",
        "How long a thread waited for a page, from when its fault was read until it was answered.",
    );
    for (bound, count) in &stalls.cumulative {
        family.sample("_bucket", &[("le", &bound.to_string())], count);
    }
    family.sample("_bucket", &[("le", "+Inf")], stalls.count);
    family.sample("_sum", &[], stalls.sum);
    family.sample("_count", &[], stalls.count);
}

fn pages(text: &mut Text, status: &Status) {
    let mut family = text.family(
        "pageferry_agent_pages_total",
        "counter",
        "Pages of 4096 bytes put in place, by what brought them.",
    );
    for (class, pages) in [
        ("fault", &status.pages_by_fault),
        ("read_ahead", &status.pages_read_ahead),
        ("working_set", &status.pages_by_working_set),
        ("transfer", &status.pages_by_transfer),
        ("zero", &status.pages_zero),
    ] {
        family.sample("", &[("class", class)], pages.load(Relaxed));
    }
    text.counter(
        "pageferry_agent_pages_dropped_total",
        "Pages that a process unmapped, discarded or took with it before they were needed.",
        status.pages_dropped.load(Relaxed),
    );
    text.counter(
        "pageferry_agent_pages_poisoned_total",
        "Pages that could not be had, for which whoever touches them gets SIGBUS.",
        status.pages_poisoned.load(Relaxed),
    );
    text.counter(
        "pageferry_agent_processes_killed_total",
        "Processes killed because a page could not be had.",
        status.processes_killed.load(Relaxed),
    );
    text.counter(
        "pageferry_agent_pages_expected_total",
        "Pages that processes lacked when they began, forked ones included.",
        status.expected.load(Relaxed),
    );
    text.gauge("pageferry_agent_pages_missing", "Pages that processes still lack.", status.missing.load(Relaxed));
    let mut family = text.family(
        "pageferry_agent_task_pages_missing",
        "gauge",
        "Pages that a task and the children that it forked since still lack.",
    );
    for task in status.tasks.rows() {
        let pid = task.pid.map_or("others".to_owned(), |pid| pid.to_string());
        family.sample("", &[("pid", &pid), ("comm", &task.comm)], task.pages_missing);
    }
    let mut family = text.family(
        "pageferry_agent_read_ahead_frames_total",
        "counter",
        "Frames read ahead that were watched, by whether a fault asked for them.",
    );
    family.sample("", &[("outcome", "used")], status.read_ahead_used.load(Relaxed));
    family.sample("", &[("outcome", "unused")], status.read_ahead_unused.load(Relaxed));
}

fn store(text: &mut Text, status: &Status) {
    for (name, help, value) in [
        ("pageferry_agent_store_bytes_total", "Bytes of bodies that came from the store.", &status.wire_bytes),
        ("pageferry_agent_store_requests_total", "Requests sent to the store.", &status.requests),
        ("pageferry_agent_store_retries_total", "Attempts that failed and were made again.", &status.retries),
        (
            "pageferry_agent_store_hedges_total",
            "Requests made a second time because the first was late.",
            &status.hedges,
        ),
        (
            "pageferry_agent_digest_failures_total",
            "Answers of the store whose bytes did not match their digest.",
            &status.digest_failures,
        ),
    ] {
        text.counter(name, help, value.load(Relaxed));
    }
    text.gauge(
        "pageferry_agent_store_outage",
        "1 while the store cannot be reached and processes wait.",
        u8::from(status.outage.load(Relaxed)),
    );
}

fn cache(text: &mut Text, status: &Status) {
    let cache = &status.cache;
    for (name, help, value) in [
        ("pageferry_agent_cache_hits_total", "Frames and objects that came from the node's cache.", &cache.hits),
        ("pageferry_agent_cache_misses_total", "Frames and objects that it did not have.", &cache.misses),
        ("pageferry_agent_cache_bytes_total", "Bytes that came from it, as stored.", &cache.bytes),
        ("pageferry_agent_cache_kept_bytes_total", "Bytes that were put into it, as stored.", &cache.kept_bytes),
        ("pageferry_agent_cache_skipped_total", "Frames and objects that were not put into it.", &cache.skipped),
        ("pageferry_agent_cache_wrong_total", "Records of it that were not what they should be.", &cache.wrong),
    ] {
        text.counter(name, help, value.load(Relaxed));
    }
}

fn process(text: &mut Text, status: &Status) {
    text.counter(
        "pageferry_agent_processes_total",
        "Processes whose memory was handed over, forked ones included.",
        status.processes.load(Relaxed),
    );
    text.counter(
        "pageferry_agent_take_overs_total",
        "Agents that died, after each of which another took over.",
        status.take_overs.load(Relaxed),
    );
    text.counter(
        "pageferry_agent_guards_total",
        "Guard processes that died, after each of which the agent made another.",
        status.guards.load(Relaxed),
    );
    let moments = status.moments();
    let mut family = text.family(
        "pageferry_agent_moment_seconds",
        "gauge",
        "When it happened, in seconds after the start of the agent; absent until it has.",
    );
    for (moment, seconds) in [
        ("listening", moments.listening),
        ("first_fault", moments.first_fault),
        ("first_fault_served", moments.first_fault_served),
        ("restored", moments.restored),
        ("whole", moments.whole),
    ] {
        if let Some(seconds) = seconds {
            family.sample("", &[("moment", moment)], seconds);
        }
    }
    text.counter("process_cpu_seconds_total", "Processor time, on all cores.", cpu_seconds());
    if let Some(bytes) = resident_memory() {
        text.gauge("process_resident_memory_bytes", "Resident memory.", bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        collections::{BTreeMap, BTreeSet},
        time::{Duration, Instant},
    };

    fn full() -> Status {
        let status = Status::new(Instant::now());
        status.reached(crate::status::Moment::Listening);
        status.tasks.name([(7, r#"a "b" \c"#), (8, "d\ne")].into_iter());
        status.tasks.publish([(0, 3)].into_iter());
        status.stalled(Duration::from_millis(3));
        status.stalled(Duration::from_secs(100));
        status
    }

    /// Checks what promtool checks; gives the families with their types.
    fn families(page: &str) -> BTreeMap<String, String> {
        let (mut helps, mut types, mut seen) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        let mut last = String::new();
        for line in page.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, text) = help.split_once(' ').unwrap();
                assert!(helps.insert(name.to_owned()), "HELP {name} twice");
                assert!(text.ends_with('.') && !text.contains(name), "{line}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert!(helps.contains(name), "TYPE {name} without HELP");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                last = name.to_owned();
                assert_eq!(types.insert(name.to_owned(), kind.to_owned()), None, "TYPE {name} twice");
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(seen.insert(series.to_owned()), "{series} twice");
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
                check_labels(labels);
                // Samples of a family stand together, right after its TYPE.
                let rest = name.strip_prefix(last.as_str());
                let parts: &[&str] = if types[&last] == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                assert!(rest.is_some_and(|rest| parts.contains(&rest)), "{line} under {last}");
            }
        }
        assert!(page.ends_with('\n'));
        types
    }

    /// `name="content",...}` with quotes, backslashes and line ends escaped.
    fn check_labels(labels: &str) {
        let mut rest = labels;
        while rest != "}" {
            let (name, content) = rest.split_once("=\"").unwrap_or_else(|| panic!("{labels}"));
            assert!(name.bytes().all(|b| b.is_ascii_lowercase()), "{labels}");
            let mut escaped = false;
            let end = content.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            rest = &content[end.unwrap_or_else(|| panic!("{labels}")) + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
    }

    #[test]
    fn reads_like_prometheus() {
        let status = full();
        let page = text(&status);
        assert!(families(&page).len() > 15);
        for line in [
            r#"pageferry_agent_task_pages_missing{pid="7",comm="a \"b\" \\c"} 3"#,
            r#"pageferry_agent_task_pages_missing{pid="8",comm="d\ne"} 0"#,
            r#"pageferry_agent_stall_seconds_bucket{le="0.00001"} 0"#,
            r#"pageferry_agent_stall_seconds_bucket{le="0.005"} 1"#,
            r#"pageferry_agent_stall_seconds_bucket{le="60"} 1"#,
            r#"pageferry_agent_stall_seconds_bucket{le="+Inf"} 2"#,
            "pageferry_agent_stall_seconds_count 2",
            "pageferry_agent_store_outage 0",
            "pageferry_agent_take_overs_total 0",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn the_manual_lists_every_family_and_no_other() {
        let manual = include_str!("../../../docs/metrics.md");
        let section = manual.split("\n## ").find(|section| section.starts_with("Agent")).unwrap();
        let rows = section.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
            Some((cells.next()?, cells.next()?))
        });
        let listed: BTreeMap<_, _> = rows.collect();
        assert_eq!(listed, families(&text(&full())));
    }
}
