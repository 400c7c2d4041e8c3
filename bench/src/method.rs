//! The ways to restore that are compared.

use crate::link::{LOOPBACK, Link, NEAR, REGION};

/// A way to restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Method {
    /// `pageferry-agent lazy-pages` in the place of `criu lazy-pages`.
    LazyPages,
    /// The same, with a working set.
    LazyPagesSet,
    /// Without one, from nginx.
    Nginx,
    /// With one, from nginx.
    NginxSet,
    /// Without one, over HTTP/2.
    Http2,
    /// Without one, and only what is touched is fetched (`--complete never`).
    Faults,
    /// From a store in a folder of this machine.
    Local,
    /// From afar, with all of it in the node's cache; without a working set.
    Cached,
    /// `pageferry-agent restore URL`, which has nothing but the address.
    Restore,
    /// The same, with a working set.
    RestoreSet,
    /// The same, without one, with all of it in the node's cache.
    RestoreCached,
    /// `criu lazy-pages` and `criu page-server`.
    Criu,
    /// `criu lazy-pages` on the full dump, of this machine.
    CriuLocal,
    /// `criu restore` of the full dump, from this machine.
    Full,
}

use Method::{
    Cached, Criu, CriuLocal, Faults, Full, Http2, LazyPages, LazyPagesSet, Local, Nginx, NginxSet, Restore,
    RestoreCached, RestoreSet,
};

/// What the set is called.
pub(crate) const SET: &str = "bench";

impl Method {
    /// Those that say something on a link.
    pub(crate) fn on(link: Link) -> &'static [Self] {
        if link == LOOPBACK {
            return &[
                LazyPages,
                LazyPagesSet,
                Nginx,
                NginxSet,
                Faults,
                Local,
                Restore,
                RestoreSet,
                Criu,
                CriuLocal,
                Full,
            ];
        }
        match link {
            NEAR => &[LazyPages, LazyPagesSet, Restore, RestoreSet, Criu, Full],
            REGION => &[
                LazyPages,
                LazyPagesSet,
                Nginx,
                NginxSet,
                Http2,
                Faults,
                Local,
                Cached,
                Restore,
                RestoreSet,
                RestoreCached,
                Criu,
                Full,
            ],
            _ => &[LazyPages, LazyPagesSet, Http2, Local, Cached, Restore, RestoreSet, RestoreCached, Criu, Full],
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            LazyPages => "agent lazy-pages",
            LazyPagesSet => "agent lazy-pages, set",
            Nginx => "agent, from nginx",
            NginxSet => "agent, from nginx, set",
            Http2 => "agent, HTTP/2",
            Faults => "agent, faults only",
            Local => "agent, local store",
            Cached => "agent, node cache",
            Restore => "agent restore URL",
            RestoreSet => "agent restore URL, set",
            RestoreCached => "agent restore URL, node cache",
            Criu => "CRIU page-server",
            CriuLocal => "CRIU lazy-pages, local",
            Full => "CRIU, full dump here",
        }
    }

    /// What the agent is told.
    pub(crate) fn options(self) -> Vec<&'static str> {
        let set = if matches!(self, LazyPagesSet | NginxSet | RestoreSet) { SET } else { "none" };
        let more: &[&str] = match self {
            Http2 => &["--http2"],
            Faults => &["--complete", "never"],
            _ => &[],
        };
        [&["--json", "--working-set", set], more].concat()
    }

    /// Whether the node's cache has everything.
    pub(crate) fn is_cached(self) -> bool {
        matches!(self, Cached | RestoreCached)
    }

    /// Whether nginx is the host.
    pub(crate) fn is_from_nginx(self) -> bool {
        matches!(self, Nginx | NginxSet)
    }
}
