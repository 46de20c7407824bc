//! Delivers events to endpoints, on its own thread and runtime, so that any thread may cause events.

use std::io;
use std::sync::Arc;
use std::thread;

use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::event::{Answer, Event};
use super::outbox::{Delivery, Flow, Outbox};
use super::signature::SigningSecret;

/// Delivers until it is dropped. Deliveries in progress are then lost.
#[derive(Debug)]
pub(in crate::clerk) struct Dispatcher {
    _stops_when_dropped: oneshot::Sender<()>,
}

impl Dispatcher {
    pub(super) fn start(outbox: Arc<Outbox>, mut deliveries: mpsc::UnboundedReceiver<Delivery>) -> io::Result<Self> {
        let client = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .timeout(outbox.attempt_timeout)
            .user_agent("Svix-Webhooks/1 (sandbox)")
            .build()
            .map_err(io::Error::other)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (handle, stopped) = oneshot::channel::<()>();
        thread::Builder::new().name("webhook-dispatcher".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let deliver = async {
                    while let Some(delivery) = deliveries.recv().await {
                        tokio::spawn(deliver(Arc::clone(&outbox), client.clone(), delivery));
                    }
                };
                tokio::select! {
                    () = deliver => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { _stops_when_dropped: handle })
    }
}

async fn deliver(outbox: Arc<Outbox>, client: Client, mut delivery: Delivery) {
    if let Some(reply) = delivery.reply.take() {
        if let Some(answer) = attempt(&outbox, &client, &delivery).await {
            // The caller may have given up.
            let _ = reply.send(outbox.record(&delivery, answer));
        }
    } else {
        let mut waits = 0;
        while let Outcome::Failed = attempt_once_flowing(&outbox, &client, &delivery).await
            && let Some(wait) = outbox.retry_schedule().get(waits).copied()
        {
            sleep(wait).await;
            waits += 1;
        }
    }
    outbox.finish_delivery();
}

enum Outcome {
    Failed,
    /// Delivered, or the endpoint was removed.
    Over,
}

async fn attempt_once_flowing(outbox: &Outbox, client: &Client, delivery: &Delivery) -> Outcome {
    // `outbox` owns the sender, so it outlives the wait.
    let _ = outbox.flow.subscribe().wait_for(|flow| *flow == Flow::Flowing).await;
    let Some(answer) = attempt(outbox, client, delivery).await else {
        return Outcome::Over;
    };
    outbox.record(delivery, answer);
    if answer.is_success() { Outcome::Over } else { Outcome::Failed }
}

/// `None` if the endpoint was removed.
async fn attempt(outbox: &Outbox, client: &Client, delivery: &Delivery) -> Option<Answer> {
    let endpoint = outbox.endpoint(delivery.endpoint)?;
    let now_s = outbox.now_ms().div_euclid(1000);
    Some(post(client, endpoint.url, &endpoint.signing_secrets, &delivery.event, now_s).await)
}

async fn post(client: &Client, url: Url, secrets: &[SigningSecret], event: &Event, now_s: i64) -> Answer {
    let signatures: Vec<_> = secrets.iter().map(|secret| secret.sign(&event.id, now_s, &event.body)).collect();
    let sent = client
        .post(url)
        .header(CONTENT_TYPE, "application/json")
        .header("svix-id", &event.id)
        .header("svix-timestamp", now_s)
        .header("svix-signature", signatures.join(" "))
        .body(event.body.clone())
        .send()
        .await;
    match sent {
        Ok(response) => Answer::Status(response.status().as_u16()),
        Err(error) if error.is_timeout() => Answer::TimedOut,
        Err(_) => Answer::Unreachable,
    }
}
