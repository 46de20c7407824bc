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
use super::outbox::{Delivery, DeliveryJob, Flow, Outbox, Trigger};
use super::signature::SigningSecret;

/// Delivers until it is dropped. Deliveries in progress are then lost.
#[derive(Debug)]
pub(in crate::clerk) struct Dispatcher {
    _stops_when_dropped: oneshot::Sender<()>,
}

impl Dispatcher {
    pub(super) fn start(webhooks: Arc<Outbox>, mut jobs: mpsc::UnboundedReceiver<DeliveryJob>) -> io::Result<Self> {
        let client = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .timeout(webhooks.attempt_timeout)
            .user_agent("Svix-Outbox/1 (sandbox)")
            .build()
            .map_err(io::Error::other)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (handle, stopped) = oneshot::channel::<()>();
        thread::Builder::new().name("webhook-dispatcher".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let deliver = async {
                    while let Some(job) = jobs.recv().await {
                        tokio::spawn(deliver(Arc::clone(&webhooks), client.clone(), job));
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

async fn deliver(webhooks: Arc<Outbox>, client: Client, job: DeliveryJob) {
    let DeliveryJob { delivery, trigger } = job;
    match trigger {
        Trigger::Event => {
            let mut waits = 0;
            while let Outcome::Failed = attempt_once_flowing(&webhooks, &client, &delivery).await
                && let Some(wait) = webhooks.retry_schedule().get(waits).copied()
            {
                sleep(wait).await;
                waits += 1;
            }
        }
        Trigger::Redelivery(done) => {
            if let Some(answer) = attempt(&webhooks, &client, &delivery).await {
                // The caller may have given up.
                let _ = done.send(webhooks.record(&delivery, answer));
            }
        }
    }
    webhooks.finish_delivery();
}

enum Outcome {
    Failed,
    /// Delivered, or the endpoint was removed.
    Over,
}

async fn attempt_once_flowing(webhooks: &Outbox, client: &Client, delivery: &Delivery) -> Outcome {
    // `webhooks` owns the sender, so it outlives the wait.
    let _ = webhooks.flow.subscribe().wait_for(|flow| *flow == Flow::Flowing).await;
    let Some(answer) = attempt(webhooks, client, delivery).await else {
        return Outcome::Over;
    };
    webhooks.record(delivery, answer);
    if answer.is_success() { Outcome::Over } else { Outcome::Failed }
}

/// `None` if the endpoint was removed.
async fn attempt(webhooks: &Outbox, client: &Client, delivery: &Delivery) -> Option<Answer> {
    let endpoint = webhooks.endpoint(delivery.endpoint)?;
    let now_s = webhooks.now_ms().div_euclid(1000);
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
