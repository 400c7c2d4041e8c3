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
    problem::{Kind, Problem, damaged},
    served::Served,
};
use axum::{
    Router,
    routing::{MethodRouter, get, post, put},
};
use http::{Method, StatusCode, header};
use std::sync::Arc;
use tokio::sync::SetOnce;

/// What every handler gets.
#[derive(Debug)]
pub(crate) struct App {
    answers_for: AnswersFor,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: Limits,
    pub(crate) places: Arc<Places>,
    pub(crate) doors: Doors,
}

#[derive(Debug)]
enum AnswersFor {
    /// Whatever the server has, once that is known.
    Server(SetOnce<Checkpoints>),
    /// One of its checkpoints.
    Checkpoint(Arc<Served>),
}

impl App {
    pub(crate) fn new(limits: Limits, doors: Doors) -> Self {
        let places = Arc::new(Places::new(&limits));
        Self { answers_for: AnswersFor::Server(SetOnce::new()), metrics: Arc::default(), limits, places, doors }
    }
    /// The same for one of its checkpoints.
    pub(crate) fn with(&self, served: Arc<Served>) -> Arc<Self> {
        Arc::new(Self {
            answers_for: AnswersFor::Checkpoint(served),
            metrics: self.metrics.clone(),
            limits: self.limits,
            places: self.places.clone(),
            doors: self.doors.clone(),
        })
    }
    /// From now on it is known where checkpoints are. Only the first call has an effect.
    pub(crate) fn located(&self, checkpoints: Checkpoints) {
        if let AnswersFor::Server(known) = &self.answers_for {
            // The only error is that it was called before.
            let _ = known.set(checkpoints);
        }
    }
    /// Whether there is something to serve.
    pub(crate) fn is_ready(&self) -> bool {
        match &self.answers_for {
            AnswersFor::Server(known) => known.get().is_some_and(Checkpoints::is_ready),
            AnswersFor::Checkpoint(_) => true,
        }
    }
    /// Where checkpoints are. Who comes too early waits a little.
    pub(crate) async fn checkpoints(&self) -> Result<&Checkpoints, Problem> {
        match &self.answers_for {
            AnswersFor::Server(known) => match known.get() {
                Some(checkpoints) => Ok(checkpoints),
                None => tokio::time::timeout(self.limits.opening, known.wait()).await.map_err(|_| not_ready()),
            },
            AnswersFor::Checkpoint(_) => Err(damaged()),
        }
    }
    /// What the paths without a name are about.
    pub(crate) async fn served(self: &Arc<Self>) -> Result<Arc<Served>, Problem> {
        match &self.answers_for {
            AnswersFor::Server(_) => self.checkpoints().await?.default(self).await,
            AnswersFor::Checkpoint(served) => Ok(served.clone()),
        }
    }
}

/// A checkpoint that is not open yet.
pub(crate) fn not_ready() -> Problem {
    Problem::new(
        Kind::NotReady,
        "It is still being opened; a raw one is read once from beginning to end for that.",
        "Wait, and ask again; GET /readyz tells when a server of one checkpoint is ready.",
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
    Route { path: "/working-sets/{set}", methods: &["PUT"] },
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
        "/working-sets/{set}" => put(working_sets::put).fallback(working_sets::object),
        "/checkpoints" => get(checkpoints::list),
        "/checkpoints/{checkpoint}/{path}" => get(checkpoints::below),
        "/checkpoints/{checkpoint}/pid/{pid}/pages" => post(checkpoints::below),
        "/checkpoints/{checkpoint}/working-sets/{set}" => {
            put(working_sets::put_below).fallback(working_sets::object_below)
        }
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
    let is_of_one =
        |route: &&Route| ["/pid", "/store", "/working-sets"].iter().any(|start| route.path.starts_with(start));
    let routes = ROUTES.iter().filter(is_of_one);
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
    let mut router = routed(ROUTES.iter(), &app)
        .fallback(objects::at_the_root)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app);
    // Each layer costs every request something: where everybody may come in, nobody stands at the door.
    if state.doors.are_closed() {
        router = router.layer(axum::middleware::from_fn_with_state(state.clone(), auth::guard));
    }
    // A browser asks whether it may send a token without one.
    if let Some(cors) = cors::layer(&state.doors.cors) {
        router = router.layer(cors);
    }
    router.layer(axum::middleware::from_fn_with_state(state, observe))
}

/// axum adds `Allow` where a route lacks the method.
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
