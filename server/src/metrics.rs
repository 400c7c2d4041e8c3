//! What `/metrics` tells, in the text format of Prometheus.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Counters and gauges of one server.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// By route, then by (method, status). Routes are templates, so this stays as small as the router.
    requests: Mutex<BTreeMap<String, Answers>>,
    /// Bytes of bodies handed to connections, by no matter which route.
    pub(crate) body_bytes: AtomicU64,
    /// Requests whose body is not finished.
    pub(crate) in_flight: AtomicU64,
    /// Bodies that ended in an error or because the client went away.
    pub(crate) bodies_cut: AtomicU64,
    /// Open connections.
    pub(crate) connections: AtomicU64,
    /// Connections accepted.
    pub(crate) accepted: AtomicU64,
    /// Connections that we ended, by why.
    pub(crate) ended: Ended,
    /// Requests that had to wait for room in memory.
    pub(crate) queued: AtomicU64,
    /// Those of them that were told to come again.
    pub(crate) refused: AtomicU64,
    /// Requests whose answer took too long to begin.
    pub(crate) timed_out: AtomicU64,
    /// Failures of accept(2).
    pub(crate) accept_errors: AtomicU64,
    /// Frames fetched, decoded and verified.
    pub(crate) frames_decoded: AtomicU64,
    /// Frames found in the cache (or being fetched for another request).
    pub(crate) cache_hits: AtomicU64,
    /// Pages by where they came from.
    pub(crate) pages: PageCounts,
}

/// Connections ended by us.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// No request for too long.
    pub(crate) idle: AtomicU64,
    /// No request for longer than any other, when a new one came and there were too many.
    pub(crate) crowded: AtomicU64,
    /// TLS did not come about.
    pub(crate) handshake: AtomicU64,
    /// The header of a request did not arrive.
    pub(crate) slow_header: AtomicU64,
    /// The answer was not taken.
    pub(crate) slow: AtomicU64,
    /// It was not taken fast enough while others waited.
    pub(crate) slow_for_others: AtomicU64,
}

/// What is known elsewhere at the moment when metrics are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    pub(crate) ready: bool,
    /// Bytes of memory that are reserved for answers.
    pub(crate) reserved: u64,
    /// Requests that wait for such memory.
    pub(crate) waiting: u64,
}

/// How many answers there were of each (method, status).
type Answers = BTreeMap<(&'static str, u16), u64>;

/// Pages handed out.
#[derive(Debug, Default)]
pub(crate) struct PageCounts {
    pub(crate) store: AtomicU64,
    pub(crate) slim: AtomicU64,
    pub(crate) zero: AtomicU64,
}

impl Metrics {
    /// One request answered.
    pub(crate) fn answered(&self, method: &http::Method, route: &str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (method_label(method), status);
        // Not by entry(), which would want a String of its own for every request.
        if !requests.contains_key(route) {
            requests.insert(route.to_owned(), Answers::new());
        }
        if let Some(counts) = requests.get_mut(route) {
            *counts.entry(key).or_default() += 1;
        }
    }

    /// The whole page.
    pub(crate) fn text(&self, moment: Moment) -> String {
        let mut text = String::with_capacity(4096);
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        head(&mut text, "pageferry_http_requests_total", "counter", "Requests answered.");
        for (route, counts) in requests {
            for ((method, status), count) in counts {
                let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
                let _ = writeln!(text, "pageferry_http_requests_total{{{labels}}} {count}");
            }
        }
        head(&mut text, "pageferry_pages_total", "counter", "Pages handed out, by where they came from.");
        for (source, count) in [("store", &self.pages.store), ("slim", &self.pages.slim), ("zero", &self.pages.zero)] {
            let _ = writeln!(text, "pageferry_pages_total{{source=\"{source}\"}} {}", count.load(Relaxed));
        }
        head(&mut text, "pageferry_connections_ended_total", "counter", "Connections that the server ended, by why.");
        for (reason, count) in [
            ("idle", &self.ended.idle),
            ("crowded", &self.ended.crowded),
            ("handshake", &self.ended.handshake),
            ("slow_header", &self.ended.slow_header),
            ("slow", &self.ended.slow),
            ("slow_while_others_wait", &self.ended.slow_for_others),
        ] {
            let _ = writeln!(text, "pageferry_connections_ended_total{{reason=\"{reason}\"}} {}", count.load(Relaxed));
        }
        for (name, help, value) in [
            ("pageferry_http_body_bytes_total", "Bytes of response bodies handed to connections.", &self.body_bytes),
            ("pageferry_http_bodies_cut_total", "Response bodies that did not reach their end.", &self.bodies_cut),
            ("pageferry_http_queued_total", "Requests that had to wait for room in memory.", &self.queued),
            ("pageferry_http_refused_total", "Requests that found no room in memory (503).", &self.refused),
            ("pageferry_http_timed_out_total", "Requests whose answer did not begin in time (503).", &self.timed_out),
            ("pageferry_connections_total", "Connections accepted.", &self.accepted),
            ("pageferry_accept_errors_total", "Failures to accept a connection.", &self.accept_errors),
            ("pageferry_frames_decoded_total", "Frames read, decoded and verified.", &self.frames_decoded),
            ("pageferry_frame_cache_hits_total", "Frames that did not have to be decoded again.", &self.cache_hits),
        ] {
            one(&mut text, name, "counter", help, value.load(Relaxed));
        }
        for (name, help, value) in [
            ("pageferry_http_requests_in_flight", "Requests whose body is not finished.", &self.in_flight),
            ("pageferry_connections", "Open connections.", &self.connections),
        ] {
            one(&mut text, name, "gauge", help, value.load(Relaxed));
        }
        for (name, help, value) in [
            ("pageferry_answers_memory_bytes", "Memory that is reserved for answers.", moment.reserved),
            ("pageferry_http_requests_waiting", "Requests that wait for room in memory.", moment.waiting),
            ("pageferry_ready", "1 once the checkpoint is open.", u64::from(moment.ready)),
        ] {
            one(&mut text, name, "gauge", help, value);
        }
        if let Some(bytes) = resident_bytes() {
            one(&mut text, "process_resident_memory_bytes", "gauge", "Resident memory.", bytes);
        }
        text
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn one(text: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    head(text, name, kind, help);
    let _ = writeln!(text, "{name} {value}");
}

/// Clients may invent methods; labels may not grow with them.
fn method_label(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        _ => "other",
    }
}

/// Resident memory of this process, from `/proc`.
pub(crate) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_like_prometheus() {
        let metrics = Metrics::default();
        metrics.answered(&http::Method::GET, "/pid", 200);
        metrics.answered(&http::Method::GET, "/pid", 200);
        metrics.answered(&http::Method::from_bytes(b"BREW").unwrap(), "unmatched", 405);
        let text = metrics.text(Moment { ready: true, ..Moment::default() });
        assert!(text.contains("pageferry_http_requests_total{method=\"GET\",route=\"/pid\",status=\"200\"} 2\n"));
        assert!(
            text.contains("pageferry_http_requests_total{method=\"other\",route=\"unmatched\",status=\"405\"} 1\n")
        );
        assert!(text.contains("pageferry_ready 1\n"));
        let resident = text.lines().find_map(|l| l.strip_prefix("process_resident_memory_bytes ")).unwrap();
        assert!(resident.parse::<u64>().unwrap() > 1 << 20);
    }

    #[test]
    fn the_manual_lists_every_family_and_no_other() {
        let manual = include_str!("../../docs/metrics.md");
        let section = manual.split("\n## ").find(|section| section.starts_with("Server")).unwrap();
        let rows = section.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(|cell| cell.trim().trim_matches('`'));
            Some((cells.next()?, cells.next()?))
        });
        let text = Metrics::default().text(Moment::default());
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        assert_eq!(rows.collect::<BTreeMap<_, _>>(), types.collect::<BTreeMap<_, _>>());
    }
}
