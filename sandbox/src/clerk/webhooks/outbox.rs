//! The outbox of an instance: events, attempts and webhook settings.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};

use super::endpoint::Endpoint;
use super::event::{Answer, Attempt, Event};
use crate::clerk::ids;
use crate::clock::Clock;

const MOST_EVENTS: usize = 2_000;
const MOST_ATTEMPTS: usize = 10_000;

/// Webhook settings.
#[derive(Clone, Debug)]
pub struct WebhookOptions {
    /// The endpoints. [`crate::clerk::Clerk::set_endpoints`] changes them.
    pub endpoints: Vec<Endpoint>,
    /// The wait before each retry.
    pub retry_schedule: Vec<Duration>,
    /// The time that an endpoint has to answer.
    pub attempt_timeout: Duration,
}

impl Default for WebhookOptions {
    /// No endpoints, and Svix's schedule: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h; 15 s for an answer.
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            retry_schedule: vec![
                Duration::from_secs(5),
                Duration::from_mins(5),
                Duration::from_mins(30),
                Duration::from_hours(2),
                Duration::from_hours(5),
                Duration::from_hours(10),
                Duration::from_hours(10),
            ],
            attempt_timeout: Duration::from_secs(15),
        }
    }
}

/// Whether deliveries are paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    /// Deliveries are sent as events happen.
    Flowing,
    /// Deliveries wait, except redeliveries.
    Paused,
}

#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) event: Arc<Event>,
    /// The index of the endpoint.
    pub(super) endpoint: usize,
    /// The caller that waits for a redelivery, which has one attempt, as at Svix.
    pub(super) reply: Option<oneshot::Sender<Attempt>>,
}

#[derive(Debug)]
pub(in crate::clerk) struct Outbox {
    instance_id: String,
    pub(super) attempt_timeout: Duration,
    clock: Arc<Clock>,
    pub(super) flow: watch::Sender<Flow>,
    /// Notified of every change of the state.
    changed: watch::Sender<()>,
    deliveries: mpsc::UnboundedSender<Delivery>,
    state: Mutex<OutboxState>,
}

#[derive(Debug)]
struct OutboxState {
    endpoints: Vec<Endpoint>,
    retry_schedule: Vec<Duration>,
    events: VecDeque<Arc<Event>>,
    attempts: VecDeque<Attempt>,
    last_timestamp: i64,
    /// The number of deliveries in progress.
    in_progress: usize,
}

impl Outbox {
    /// Creates an outbox, and the queue of its deliveries.
    pub(super) fn new(
        options: WebhookOptions,
        instance_id: String,
        clock: Arc<Clock>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Delivery>) {
        let (deliveries, queue) = mpsc::unbounded_channel();
        let outbox = Arc::new(Self {
            instance_id,
            attempt_timeout: options.attempt_timeout,
            clock,
            flow: watch::Sender::new(Flow::Flowing),
            changed: watch::Sender::new(()),
            deliveries,
            state: Mutex::new(OutboxState {
                endpoints: options.endpoints,
                retry_schedule: options.retry_schedule,
                events: VecDeque::new(),
                attempts: VecDeque::new(),
                last_timestamp: 0,
                in_progress: 0,
            }),
        });
        (outbox, queue)
    }

    fn state(&self) -> MutexGuard<'_, OutboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Sends an event of now.
    pub(in crate::clerk) fn emit(&self, event_type: &str, data: Value) -> String {
        self.send(event_type, data, None)
    }

    /// Sends an event; without a timestamp, of now. Returns its id.
    pub(in crate::clerk) fn send(&self, event_type: &str, data: Value, timestamp: Option<i64>) -> String {
        let now_ms = self.now_ms();
        let mut state = self.state();
        let timestamp = timestamp.unwrap_or_else(|| {
            state.last_timestamp = now_ms.max(state.last_timestamp + 1);
            state.last_timestamp
        });
        let body = json!({
            "data": data,
            "event_attributes": {"http_request": {"client_ip": "127.0.0.1", "user_agent": "sandbox"}},
            "instance_id": self.instance_id,
            "object": "event",
            "timestamp": timestamp,
            "type": event_type,
        });
        let event = Arc::new(Event {
            id: ids::new("msg"),
            event_type: event_type.to_owned(),
            timestamp,
            data,
            body: body.to_string(),
        });
        push_bounded(&mut state.events, Arc::clone(&event), MOST_EVENTS);
        for endpoint in 0..state.endpoints.len() {
            let delivery = Delivery { event: Arc::clone(&event), endpoint, reply: None };
            if self.deliveries.send(delivery).is_ok() {
                state.in_progress += 1;
            }
        }
        drop(state);
        self.changed.send_replace(());
        event.id.clone()
    }

    /// Sends an event again to every endpoint under the same id, even while deliveries are paused. Returns one
    /// attempt per endpoint; empty for an unknown event.
    pub(in crate::clerk) async fn redeliver(&self, event_id: &str) -> Vec<Attempt> {
        let replies: Vec<_> = {
            let mut state = self.state();
            let Some(event) = state.events.iter().find(|event| event.id == event_id).cloned() else {
                return Vec::new();
            };
            (0..state.endpoints.len())
                .filter_map(|endpoint| {
                    let (reply, attempt) = oneshot::channel();
                    let delivery = Delivery { event: Arc::clone(&event), endpoint, reply: Some(reply) };
                    self.deliveries.send(delivery).ok()?;
                    state.in_progress += 1;
                    Some(attempt)
                })
                .collect()
        };
        let mut attempts = Vec::new();
        for reply in replies {
            attempts.extend(reply.await.ok());
        }
        attempts
    }

    /// Replaces the endpoints. A delivery in progress continues to the endpoint at the same index, or ends if that
    /// does not exist.
    pub(in crate::clerk) fn set_endpoints(&self, endpoints: Vec<Endpoint>) {
        self.state().endpoints = endpoints;
        self.changed.send_replace(());
    }

    pub(in crate::clerk) fn endpoints(&self) -> Vec<Endpoint> {
        self.state().endpoints.clone()
    }

    pub(super) fn endpoint(&self, index: usize) -> Option<Endpoint> {
        self.state().endpoints.get(index).cloned()
    }

    pub(in crate::clerk) fn set_retry_schedule(&self, waits: Vec<Duration>) {
        self.state().retry_schedule = waits;
    }

    pub(in crate::clerk) fn retry_schedule(&self) -> Vec<Duration> {
        self.state().retry_schedule.clone()
    }

    pub(in crate::clerk) fn set_flow(&self, flow: Flow) {
        self.flow.send_replace(flow);
    }

    pub(in crate::clerk) fn flow(&self) -> Flow {
        *self.flow.borrow()
    }

    pub(in crate::clerk) fn events(&self) -> Vec<Event> {
        self.state().events.iter().map(|event| Event::clone(event)).collect()
    }

    pub(in crate::clerk) fn attempts(&self) -> Vec<Attempt> {
        self.state().attempts.iter().cloned().collect()
    }

    /// The newest events, oldest first, and their attempts.
    pub(in crate::clerk) fn newest(&self, most: usize) -> (Vec<Event>, Vec<Attempt>) {
        let state = self.state();
        let older = state.events.len().saturating_sub(most);
        let events: Vec<_> = state.events.iter().skip(older).map(|event| Event::clone(event)).collect();
        let is_theirs = |attempt: &&Attempt| events.iter().any(|event| event.id == attempt.event_id);
        let attempts = state.attempts.iter().filter(is_theirs).cloned().collect();
        (events, attempts)
    }

    /// Notice of every change of the events, the attempts and the endpoints.
    pub(in crate::clerk) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Waits until `enough` accepts the attempts, and returns them.
    pub(in crate::clerk) async fn attempts_once(&self, enough: impl Fn(&[Attempt]) -> bool) -> Vec<Attempt> {
        let mut changes = self.changed.subscribe();
        loop {
            changes.mark_unchanged();
            let attempts = self.attempts();
            if enough(&attempts) || changes.changed().await.is_err() {
                return attempts;
            }
        }
    }

    /// Returns when every event is delivered or given up.
    pub(in crate::clerk) async fn settled(&self) {
        let mut changes = self.changed.subscribe();
        loop {
            changes.mark_unchanged();
            if self.state().in_progress == 0 || changes.changed().await.is_err() {
                return;
            }
        }
    }

    pub(super) fn record(&self, delivery: &Delivery, answer: Answer) -> Attempt {
        let at = self.now_ms();
        let mut state = self.state();
        let before = state
            .attempts
            .iter()
            .filter(|attempt| attempt.event_id == delivery.event.id && attempt.endpoint == delivery.endpoint)
            .count();
        let attempt = Attempt {
            event_id: delivery.event.id.clone(),
            event_type: delivery.event.event_type.clone(),
            endpoint: delivery.endpoint,
            number: before + 1,
            at,
            answer,
        };
        push_bounded(&mut state.attempts, attempt.clone(), MOST_ATTEMPTS);
        drop(state);
        self.changed.send_replace(());
        attempt
    }

    pub(super) fn finish_delivery(&self) {
        self.state().in_progress -= 1;
        self.changed.send_replace(());
    }
}

fn push_bounded<T>(log: &mut VecDeque<T>, entry: T, most: usize) {
    if log.len() >= most {
        log.pop_front();
    }
    log.push_back(entry);
}
