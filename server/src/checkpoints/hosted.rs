//! The checkpoint that a server was started with.

use super::{List, Open, not_opened, row, unknown, wait_for};
use crate::{
    problem::{Problem, damaged},
    routes::App,
    served::Served,
};
use anyhow::Result;
use axum::body::Bytes;
use page_store::WorkingSetObject;
use std::{sync::Arc, time::Duration};
use tokio::sync::{Mutex, watch};

/// A location that is opened once, and again after something was added to it. What others do there is not looked for.
#[derive(Debug)]
pub(crate) struct Hosted {
    location: String,
    name: String,
    open: watch::Sender<Option<Arc<Open>>>,
    adding: Arc<Mutex<()>>,
}

impl Hosted {
    /// Nothing is opened yet.
    pub(super) fn new(location: &str) -> Self {
        let (open, adding) = Default::default();
        Self { location: location.to_owned(), name: name_of(location).to_owned(), open, adding }
    }

    /// Opens it; whoever waits for that gets it.
    pub(super) async fn begin(&self, app: &App) -> Result<Arc<Served>> {
        let open = Arc::new(Open::new(app, &self.location, &app.limits).await?);
        self.open.send_replace(Some(open.clone()));
        Ok(open.served.clone())
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.borrow().is_some()
    }

    /// It, as soon as it is open. Who comes too early waits a little: whoever starts a server and uses it at once need not know of this.
    pub(super) async fn get(&self, patience: Duration) -> Result<Arc<Open>, Problem> {
        if let Some(open) = &*self.open.borrow() {
            return Ok(open.clone());
        }
        wait_for(&mut self.open.subscribe(), patience).await
    }

    /// An error unless this is its name.
    pub(super) fn is_called(&self, name: &str) -> Result<(), Problem> {
        match name == self.name {
            true => Ok(()),
            false => Err(unknown(name, &format!("Here is only {:?}.", self.name))),
        }
    }

    pub(super) async fn list(&self, patience: Duration) -> Result<List, Problem> {
        Ok(List::new(&[row::of_store(&self.name, Ok(self.get(patience).await?.served.store.manifest()))]))
    }

    pub(super) async fn add_working_set(
        self: &Arc<Self>,
        app: &Arc<App>,
        set: String,
        trace: Bytes,
    ) -> Result<WorkingSetObject, Problem> {
        self.get(app.limits.opening).await?;
        // One at a time: they all change `checkpoint.json`, and what the last of them leaves is what is served.
        let turn = self.adding.clone().lock_owned().await;
        let (hosted, app) = (self.clone(), app.clone());
        let task = tokio::spawn(async move {
            let _turn = turn;
            let open = hosted.get(app.limits.opening).await?;
            let added = open.add(hosted.location.clone(), set, trace).await?;
            // If this fails, whoever tries again has it opened again.
            let renewed = open.renewed(&app, &hosted.location).await.map_err(not_opened)?;
            hosted.open.send_replace(Some(Arc::new(renewed)));
            Ok(added)
        });
        task.await.map_err(|_| damaged())?
    }
}

/// The last part of where it is; addresses of servers end with `store`, which says nothing.
fn name_of(location: &str) -> &str {
    let path = location.split(['?', '#']).next().unwrap_or("").trim_end_matches('/');
    let mut parts = path.rsplit('/').filter(|part| !part.is_empty());
    match (parts.next(), parts.next()) {
        (Some("store"), Some(before)) if row::is_name(before) => before,
        (Some(last), _) if row::is_name(last) => last,
        _ => "checkpoint",
    }
}
