//! What is served where: one table, which the router is made from and `openapi.yaml` is compared with.

mod body;
mod bulk;
mod bytes;
mod checkpoints;
mod maps;
mod mem;
mod objects;
mod page;
mod pagemap;
mod pages;
mod params;
mod service;
mod tasks;
mod validated;
mod working_sets;

use crate::{
    auth,
    checkpoints::Checkpoints,
    cors,
    doors::Doors,
    limits::Limits,
    metrics::Metrics,
    observe::observe,
    places::Places,
    problem::{Kind, Problem},
    served::Served,
};
use axum::{
    Router,
    routing::{MethodRouter, get, post, put},
};
use http::{Method, StatusCode, header};
use std::sync::{Arc, OnceLock};
use tokio::sync::SetOnce;

/// What every handler gets.
#[derive(Debug)]
pub(crate) struct App {
    served: SetOnce<Arc<Served>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: Limits,
    pub(crate) places: Arc<Places>,
    pub(crate) doors: Doors,
    /// Where checkpoints are, once that is known.
    checkpoints: OnceLock<Checkpoints>,
}

impl App {
    pub(crate) fn new(limits: Limits, doors: Doors) -> Self {
        let places = Arc::new(Places::new(&limits));
        Self { served: SetOnce::new(), metrics: Arc::default(), limits, places, doors, checkpoints: OnceLock::new() }
    }
    /// The same for one of several checkpoints.
    pub(crate) fn with(&self, served: Arc<Served>) -> Arc<Self> {
        let one = Self {
            served: SetOnce::new(),
            metrics: self.metrics.clone(),
            limits: self.limits,
            places: self.places.clone(),
            doors: self.doors.clone(),
            checkpoints: OnceLock::new(),
        };
        one.opened(served);
        Arc::new(one)
    }
    /// From now on it is known where checkpoints are. Only the first call has an effect.
    pub(crate) fn located(&self, checkpoints: Checkpoints) {
        // The only error is that it was called before.
        let _ = self.checkpoints.set(checkpoints);
    }
    pub(crate) fn checkpoints(&self) -> Result<&Checkpoints, Problem> {
        self.checkpoints.get().ok_or_else(not_ready)
    }
    /// Whether there is something to serve.
    pub(crate) fn is_ready(&self) -> bool {
        self.served.get().is_some() || matches!(self.checkpoints.get(), Some(Checkpoints::Many(_)))
    }
    /// From now on there is something to serve. Only the first call has an effect.
    pub(crate) fn opened(&self, served: Arc<Served>) {
        // The only error is that it was called before.
        let _ = self.served.set(served);
    }
    /// What is served, if it is open by now.
    pub(crate) fn ready(&self) -> Result<&Arc<Served>, Problem> {
        if let Some(Checkpoints::Many(_)) = self.checkpoints.get() {
            return Err(Problem::new(
                Kind::NoSuchPath,
                "This server has several checkpoints.",
                "GET /checkpoints lists them; put /checkpoints/<name> in front of the path.",
            ));
        }
        self.served.get().ok_or_else(not_ready)
    }
    /// What is served. Who comes too early waits a little: whoever starts a server and uses it at once need not know of this.
    pub(crate) async fn served(&self) -> Result<&Arc<Served>, Problem> {
        if !self.is_ready() {
            // Ready or not is what counts below.
            let _ = tokio::time::timeout(self.limits.opening, self.served.wait()).await;
        }
        self.ready()
    }
}

fn not_ready() -> Problem {
    Problem::new(
        Kind::NotReady,
        "A raw checkpoint is read once from beginning to end before it is served.",
        "Wait until GET /readyz answers 200.",
    )
    .header(header::RETRY_AFTER, "1")
}

/// The state of every route.
type Shared = axum::extract::State<Arc<App>>;

/// A path as OpenAPI writes it, and the methods that it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// With `{parameters}`.
    pub path: &'static str,
    /// In upper case. Whatever knows GET knows HEAD.
    pub methods: &'static [&'static str],
}

const READ: &[&str] = &["GET", "HEAD"];

/// Every route of the server.
pub const ROUTES: &[Route] = &[
    Route { path: "/", methods: READ },
    Route { path: "/pid", methods: READ },
    Route { path: "/pid/{pid}", methods: READ },
    Route { path: "/pid/{pid}/maps", methods: READ },
    Route { path: "/pid/{pid}/pagemap", methods: READ },
    Route { path: "/pid/{pid}/mem", methods: READ },
    Route { path: "/pid/{pid}/page/{address}", methods: READ },
    Route { path: "/pid/{pid}/pages/{range}", methods: READ },
    Route { path: "/pid/{pid}/pages", methods: &["POST"] },
    Route { path: "/store/{object}", methods: READ },
    Route { path: "/checkpoints", methods: READ },
    Route { path: "/checkpoints/{checkpoint}/{path}", methods: READ },
    Route { path: "/checkpoints/{checkpoint}/pid/{pid}/pages", methods: &["POST"] },
    Route { path: "/checkpoints/{checkpoint}/working-sets/{set}", methods: &["PUT"] },
    Route { path: "/healthz", methods: READ },
    Route { path: "/readyz", methods: READ },
    Route { path: "/metrics", methods: READ },
    Route { path: "/openapi.yaml", methods: READ },
    Route { path: "/problems", methods: READ },
];

fn handler(path: &str) -> Option<MethodRouter<Arc<App>>> {
    Some(match path {
        "/" => get(service::front),
        "/pid" => get(tasks::list),
        "/pid/{pid}" => get(tasks::one),
        "/pid/{pid}/maps" => get(maps::maps),
        "/pid/{pid}/pagemap" => get(pagemap::pagemap),
        "/pid/{pid}/mem" => get(mem::mem),
        "/pid/{pid}/page/{address}" => get(page::page),
        "/pid/{pid}/pages/{range}" => get(pages::pages),
        "/pid/{pid}/pages" => post(bulk::bulk),
        "/store/{object}" => get(objects::object),
        "/checkpoints" => get(checkpoints::list),
        "/checkpoints/{checkpoint}/{path}" => get(checkpoints::below),
        "/checkpoints/{checkpoint}/pid/{pid}/pages" => post(checkpoints::below),
        "/checkpoints/{checkpoint}/working-sets/{set}" => put(working_sets::put),
        "/healthz" => get(service::healthz),
        "/readyz" => get(service::readyz),
        "/metrics" => get(service::metrics),
        "/openapi.yaml" => get(service::openapi),
        "/problems" => get(service::problems),
        _ => return None,
    })
}

/// The routes of one checkpoint, with nothing around them: what is about the server is at its root only, where tokens have a scope for it.
pub(crate) fn of_one(app: Arc<App>) -> Router {
    let routes = ROUTES.iter().filter(|route| route.path.starts_with("/pid") || route.path.starts_with("/store"));
    routed(routes, &app).fallback(objects::at_the_root).method_not_allowed_fallback(method_not_allowed).with_state(app)
}

/// What follows from the checkpoint alone.
const VALIDATED: [&str; 4] = ["/pid", "/pid/{pid}", "/pid/{pid}/maps", "/pid/{pid}/pagemap"];

fn routed<'a>(routes: impl Iterator<Item = &'a Route>, app: &Arc<App>) -> Router<Arc<App>> {
    let mut router = Router::new();
    for route in routes {
        // Some names have slashes in them: OpenAPI cannot say so, the router has to.
        let path = route.path.replace("{object}", "{*object}").replace("{path}", "{*path}");
        let Some(mut handler) = handler(route.path) else { continue };
        if VALIDATED.contains(&route.path) {
            handler = handler.layer(axum::middleware::from_fn_with_state(app.clone(), validated::tag));
        }
        router = router.route(&path, handler);
    }
    router
}

/// The router, with everything around it.
pub(crate) fn router(app: Arc<App>) -> Router {
    let state = app.clone();
    let guarded = routed(ROUTES.iter(), &app)
        .fallback(objects::at_the_root)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
        .layer(axum::middleware::from_fn_with_state(state.clone(), auth::guard));
    // A browser asks whether it may send a token without one.
    let open = match cors::layer(&state.doors.cors) {
        Some(cors) => guarded.layer(cors),
        None => guarded,
    };
    open.layer(axum::middleware::from_fn_with_state(state, observe))
}

/// axum adds `Allow`.
async fn method_not_allowed(method: Method) -> Problem {
    Problem::new(
        Kind::MethodNotAllowed,
        format!("{method} is not known here."),
        "Use one of the methods in the Allow header; GET /openapi.yaml describes them.",
    )
}

fn no_such_path(path: &str) -> Problem {
    let next = match path.strip_suffix('/') {
        Some(shorter) if !shorter.is_empty() => {
            format!("Try {} without the slash at its end.", crate::address::quoted(path))
        }
        _ => "GET / shows what is served, GET /openapi.yaml describes it.".to_owned(),
    };
    Problem::new(Kind::NoSuchPath, format!("{} is nothing that this server knows.", crate::address::quoted(path)), next)
}

/// `304 Not Modified` repeats the headers that a cache needs.
fn not_modified(headers: http::HeaderMap) -> axum::response::Response {
    let mut response = axum::response::Response::new(axum::body::Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    *response.headers_mut() = headers;
    response
}
