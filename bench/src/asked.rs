//! What is asked of restores.

use crate::{
    figures::Figure,
    link::{CONTINENT, LOOPBACK, Link, REGION},
    method::Method::{self, Cached, Criu, CriuLocal, Full, LazyPages, LazyPagesSet, Local, Restore, RestoreSet},
    restore::Runs,
    stats::Samples,
};

/// With a working set, over [`REGION`]: how much later than CRIU's restore from local files the first reply may come, with the agent up
/// and from nothing.
const EAGER_AGENT: f64 = 1.25;
const EAGER_URL: f64 = 2.0;
/// The same against CRIU's own daemons, how much sooner, by program.
const SET_SOONER: [(&str, f64); 3] = [("node", 25.0), ("gunicorn", 25.0), ("redis", 5.0)];
/// With a working set, over [`CONTINENT`], from nothing: milliseconds.
const FAR_REPLY: f64 = 1000.0;
/// Without one, over [`REGION`]: how much sooner than CRIU's own.
const FIRST_SOONER: f64 = 5.0;
const WHOLE_SOONER: f64 = 8.0;
/// On loopback.
const LOOPBACK_FIRST: f64 = 1.0;
const LOOPBACK_WHOLE_SOONER: f64 = 1.5;
/// From local files, against `criu lazy-pages`.
const LOCAL_WHOLE: f64 = 1.2;
/// With everything in the node's cache, however far the store is: how much later than from a local store.
const CACHED_REPLY: f64 = 1.1;
/// Bytes on the wire until whole: CRIU's per byte of ours.
const WIRE: [(&str, f64); 3] = [("node", 6.0), ("gunicorn", 14.0), ("redis", 2.3)];

/// The figures of one program over one link; `lazy` are the megabytes of pages that CRIU sends.
pub(crate) fn restores<'a>(name: &str, link: Link, of: &dyn Fn(Method) -> Option<&'a Runs>, lazy: f64) -> Vec<Figure> {
    let mut figures = Vec::new();
    let title = |method: Method, what: &str| format!("{name}, {}, {}: {what}", link.name(), method.name());
    let both = |ours: Method, theirs: Method, what: fn(&Runs) -> &Samples| {
        Some((what(of(ours)?).clone(), what(of(theirs)?).clone()))
    };
    let mut no_later = |method, than: Method, what: &str, get: fn(&Runs) -> &Samples, asked| {
        if let Some((ours, theirs)) = both(method, than, get) {
            let title = title(method, &format!("{what} against {}", than.name()));
            figures.push(Figure::no_later(title, asked, "ms", ours, theirs));
        }
    };
    if link == LOOPBACK {
        no_later(LazyPages, Criu, "first reply", |runs| &runs.first, LOOPBACK_FIRST);
        no_later(Local, CriuLocal, "whole", |runs| &runs.whole, LOCAL_WHOLE);
    }
    no_later(Cached, Local, "first reply", |runs| &runs.first, CACHED_REPLY);
    if link == REGION {
        no_later(LazyPagesSet, Full, "first reply", |runs| &runs.first, EAGER_AGENT);
        no_later(RestoreSet, Full, "first reply", |runs| &runs.first, EAGER_URL);
    }
    let mut sooner = |method, what: &str, get: fn(&Runs) -> &Samples, asked| {
        if let Some((ours, theirs)) = both(method, Criu, get) {
            figures.push(Figure::sooner(title(method, what), asked, "ms", ours, theirs));
        }
    };
    let by_name = |table: &[(&str, f64)]| table.iter().find(|(of, _)| *of == name).map(|(_, asked)| *asked);
    if link == LOOPBACK {
        sooner(LazyPages, "whole", |runs| &runs.whole, LOOPBACK_WHOLE_SOONER);
    }
    if link == REGION {
        if let Some(asked) = by_name(&SET_SOONER) {
            sooner(LazyPagesSet, "first reply", |runs| &runs.first, asked);
        }
        sooner(LazyPages, "first reply", |runs| &runs.first, FIRST_SOONER);
        sooner(LazyPages, "whole", |runs| &runs.whole, WHOLE_SOONER);
        if let (Some(asked), Some(ours)) = (by_name(&WIRE), of(Restore)) {
            let ratios = ours.wire.map(|megabytes| lazy / megabytes);
            let title = format!("{name}: bytes on the wire until whole, CRIU's per byte of ours (slim dump included)");
            figures.push(Figure::at_least(title, asked, "×", ratios));
        }
    }
    if let Some(ours) = of(RestoreSet).filter(|_| link == CONTINENT) {
        figures.push(Figure::at_most(title(RestoreSet, "first reply"), FAR_REPLY, "ms", ours.first.clone()));
    }
    figures
}
