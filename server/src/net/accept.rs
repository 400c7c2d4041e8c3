//! The accept loop.

use super::{
    connection,
    crowd::Crowd,
    listen::{Listener, accept},
    warden,
};
use crate::{limits::Limits, metrics::Metrics, places::Places, tls::Tls};
use axum::Router;
use std::{
    future::Future,
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

/// The pause after a failed accept: it doubles up to the second.
const BACK_OFF: [Duration; 2] = [Duration::from_millis(5), Duration::from_secs(1)];

/// Serves `app` until `stop` is done, then lets running answers finish. Gives the number of connections that had to be cut.
pub(crate) async fn serve(
    listeners: Vec<Listener>,
    tls: Option<Arc<Tls>>,
    app: Router,
    places: Arc<Places>,
    limits: Limits,
    metrics: Arc<Metrics>,
    stop: impl Future<Output = ()>,
) -> u64 {
    let builder = Arc::new(connection::builder(&limits));
    let crowd = Arc::new(Crowd::new(limits.connections, metrics.clone()));
    let warden = tokio::spawn(warden::watch(crowd.clone(), places, limits, metrics.clone()));
    let mut stop = pin!(stop);
    let mut back_off = BACK_OFF[0];
    let mut turn = 0;
    loop {
        // Whoever finds no place waits, the first of them here and the others in the kernel's queue. A 503 would be no kinder: it
        // has to be sent before the request is read, and then arrives as a reset.
        let accepted = async {
            match accept(&listeners, &mut turn).await {
                Ok(socket) => Ok((socket, crowd.place().await)),
                Err(error) => Err(error),
            }
        };
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accepted => accepted,
        };
        let (socket, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_about_one_connection(&error) => continue,
            Err(error) => {
                // Out of file descriptors or memory: trying at once would only burn what is left.
                metrics.accept_errors.fetch_add(1, Relaxed);
                tracing::warn!("accept: {error}; next try in {back_off:?}");
                crowd.drop_idle();
                tokio::select! {
                    () = &mut stop => break,
                    () = tokio::time::sleep(back_off) => {}
                }
                back_off = (back_off * 2).min(BACK_OFF[1]);
                continue;
            }
        };
        back_off = BACK_OFF[0];
        metrics.accepted.fetch_add(1, Relaxed);
        let arrived =
            connection::Arrived { socket, tls: tls.clone(), app: app.clone(), place, patience: limits.header };
        let (builder, metrics) = (builder.clone(), metrics.clone());
        tokio::spawn(async move { connection::serve(&builder, arrived, &metrics).await });
    }
    drop(listeners);
    let left = tokio::time::timeout(limits.grace, crowd.leave()).await;
    warden.abort();
    match left {
        Ok(()) => 0,
        Err(_) => crowd.all().len() as u64,
    }
}

/// The client was gone before it was accepted: nothing is wrong here.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::ConnectionAborted | K::ConnectionReset | K::ConnectionRefused | K::Interrupted)
}
