//! Webhooks, as Svix sends them for Clerk: what happened becomes an [`Event`], each [`Endpoint`] is sent it, signed anew
//! at every attempt, until it answers 2xx or the retry schedule is over. Deliveries run side by side, so they arrive in
//! any order. What was sent and what came back is kept, for tests and for the page.

mod courier;
mod signature;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Url;
use serde::Serialize;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use super::ids;

pub(super) use courier::Courier;
pub use signature::SigningSecret;

const MOST_EVENTS: usize = 2_000;
const MOST_ATTEMPTS: usize = 10_000;

/// How webhooks are sent.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to; none at first, and [`super::Clerk::set_endpoints`] changes it.
    pub endpoints: Vec<Endpoint>,
    /// The wait before each attempt but the first, after the one before it failed.
    pub retry_schedule: Vec<Duration>,
    /// How long an endpoint may take to answer.
    pub attempt_timeout: Duration,
}

impl Default for Options {
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

/// Where webhooks go, and what they are signed with.
#[derive(Clone, Debug)]
pub struct Endpoint {
    url: Url,
    signing_secrets: Vec<SigningSecret>,
}

/// Why something is no endpoint.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum InvalidEndpoint {
    /// The sandbox calls nobody but this machine.
    #[error("an endpoint's URL is http://, and of this machine")]
    Url,
    /// Or there is none.
    #[error("an endpoint has signing secrets, each whsec_ and base64")]
    SigningSecret,
}

impl Endpoint {
    /// An `http` URL of this machine, and one signing secret, or during a rotation several: every delivery is signed
    /// with each.
    pub fn new(url: &str, signing_secrets: &[&str]) -> Result<Self, InvalidEndpoint> {
        let url = Url::parse(url).map_err(|_| InvalidEndpoint::Url)?;
        let is_here = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        if url.scheme() != "http" || !is_here {
            return Err(InvalidEndpoint::Url);
        }
        let signing_secrets: Option<Vec<_>> = signing_secrets.iter().map(|text| SigningSecret::parse(text)).collect();
        match signing_secrets {
            Some(signing_secrets) if !signing_secrets.is_empty() => Ok(Self { url, signing_secrets }),
            _ => Err(InvalidEndpoint::SigningSecret),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        self.url.as_str()
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// `svix-id`, the same at every attempt: `msg_…`.
    pub id: String,
    /// Such as `session.ended`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// When, in milliseconds since the epoch. Of two events that the stand-in made itself the later one's is greater.
    pub timestamp: i64,
    /// About what.
    pub data: Value,
    /// The text that is sent and signed.
    #[serde(skip)]
    pub body: String,
}

/// One try to deliver an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// [`Event::id`].
    pub event_id: String,
    /// [`Event::event_type`].
    pub event_type: String,
    /// Which endpoint, by its place in the list.
    pub endpoint: usize,
    /// The how-manieth of this event at this endpoint, from 1 on.
    pub number: usize,
    /// When the answer came or failed to come, in milliseconds since the epoch.
    pub at: i64,
    /// What came of it.
    pub answer: Answer,
}

/// What an endpoint answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// This status. Redirects are not followed: they are an answer like any other.
    Status(u16),
    /// None in time.
    TimedOut,
    /// None, as nobody listened or the connection broke.
    Unreachable,
}

impl Answer {
    /// Whether the event counts as delivered.
    #[must_use]
    pub fn is_success(self) -> bool {
        matches!(self, Self::Status(200..=299))
    }
}

/// Whether deliveries go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    /// As events happen.
    Flowing,
    /// They wait; only those asked for by hand go out.
    Paused,
}

/// What is to be delivered, and to whom.
#[derive(Debug)]
struct Order {
    parcel: Parcel,
    cause: Cause,
}

#[derive(Debug)]
struct Parcel {
    event: Arc<Event>,
    /// Its place in the list of endpoints.
    endpoint: usize,
}

#[derive(Debug)]
enum Cause {
    /// It happened.
    Event,
    /// Someone asked. As at Svix, such a delivery has one attempt.
    ByHand(oneshot::Sender<Attempt>),
}

/// The outbox of an instance.
#[derive(Debug)]
pub(super) struct Webhooks {
    instance_id: String,
    attempt_timeout: Duration,
    clock_offset_ms: i64,
    flow: watch::Sender<Flow>,
    /// Told of every change of the state.
    changed: watch::Sender<()>,
    orders: mpsc::UnboundedSender<Order>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    endpoints: Vec<Endpoint>,
    retry_schedule: Vec<Duration>,
    events: VecDeque<Arc<Event>>,
    attempts: VecDeque<Attempt>,
    last_timestamp: i64,
    /// Deliveries that are neither done nor given up.
    under_way: usize,
}

impl Webhooks {
    /// An outbox, and the courier who empties it while it is kept.
    pub(super) fn new(
        options: Options,
        instance_id: String,
        clock_offset_ms: i64,
    ) -> std::io::Result<(Arc<Self>, Courier)> {
        let (orders, to_deliver) = mpsc::unbounded_channel();
        let webhooks = Arc::new(Self {
            instance_id,
            attempt_timeout: options.attempt_timeout,
            clock_offset_ms,
            flow: watch::Sender::new(Flow::Flowing),
            changed: watch::Sender::new(()),
            orders,
            state: Mutex::new(State {
                endpoints: options.endpoints,
                retry_schedule: options.retry_schedule,
                events: VecDeque::new(),
                attempts: VecDeque::new(),
                last_timestamp: 0,
                under_way: 0,
            }),
        });
        let courier = Courier::start(Arc::clone(&webhooks), to_deliver)?;
        Ok((webhooks, courier))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> i64 {
        super::instance::now_ms(self.clock_offset_ms)
    }

    /// Tells every endpoint of something that happened now.
    pub(super) fn tell(&self, event_type: &str, data: Value) -> String {
        self.send(event_type, data, None)
    }

    /// Sends an event as it is asked for; without a timestamp, as of now. Returns its id.
    pub(super) fn send(&self, event_type: &str, data: Value, timestamp: Option<i64>) -> String {
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
        keep(&mut state.events, Arc::clone(&event), MOST_EVENTS);
        for endpoint in 0..state.endpoints.len() {
            let order = Order { parcel: Parcel { event: Arc::clone(&event), endpoint }, cause: Cause::Event };
            if self.orders.send(order).is_ok() {
                state.under_way += 1;
            }
        }
        drop(state);
        self.changed.send_replace(());
        event.id.clone()
    }

    /// Sends a known event once more to every endpoint, under the same id, even while deliveries are paused. Returns one
    /// attempt for each endpoint that was there, none for an unknown event.
    pub(super) async fn redeliver(&self, event_id: &str) -> Vec<Attempt> {
        let answers: Vec<_> = {
            let mut state = self.state();
            let Some(event) = state.events.iter().find(|event| event.id == event_id).cloned() else {
                return Vec::new();
            };
            (0..state.endpoints.len())
                .filter_map(|endpoint| {
                    let (done, answer) = oneshot::channel();
                    let order =
                        Order { parcel: Parcel { event: Arc::clone(&event), endpoint }, cause: Cause::ByHand(done) };
                    self.orders.send(order).ok()?;
                    state.under_way += 1;
                    Some(answer)
                })
                .collect()
        };
        let mut attempts = Vec::new();
        for answer in answers {
            attempts.extend(answer.await.ok());
        }
        attempts
    }

    /// Replaces the endpoints. Deliveries under way go on to whatever has their endpoint's place in the list, and are
    /// given up if nothing has.
    pub(super) fn set_endpoints(&self, endpoints: Vec<Endpoint>) {
        self.state().endpoints = endpoints;
        self.changed.send_replace(());
    }

    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        self.state().endpoints.clone()
    }

    fn endpoint(&self, place: usize) -> Option<Endpoint> {
        self.state().endpoints.get(place).cloned()
    }

    pub(super) fn set_retry_schedule(&self, waits: Vec<Duration>) {
        self.state().retry_schedule = waits;
    }

    pub(super) fn retry_schedule(&self) -> Vec<Duration> {
        self.state().retry_schedule.clone()
    }

    pub(super) fn set_flow(&self, flow: Flow) {
        self.flow.send_replace(flow);
    }

    pub(super) fn flow(&self) -> Flow {
        *self.flow.borrow()
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.state().events.iter().map(|event| Event::clone(event)).collect()
    }

    pub(super) fn attempts(&self) -> Vec<Attempt> {
        self.state().attempts.iter().cloned().collect()
    }

    /// The newest events, oldest first, and the attempts to deliver them.
    pub(super) fn newest(&self, most: usize) -> (Vec<Event>, Vec<Attempt>) {
        let state = self.state();
        let older = state.events.len().saturating_sub(most);
        let events: Vec<_> = state.events.iter().skip(older).map(|event| Event::clone(event)).collect();
        let is_theirs = |attempt: &&Attempt| events.iter().any(|event| event.id == attempt.event_id);
        let attempts = state.attempts.iter().filter(is_theirs).cloned().collect();
        (events, attempts)
    }

    /// Word of every change of the events, the attempts and the endpoints.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The attempts so far, as soon as they are as `enough` wants them.
    pub(super) async fn attempts_once(&self, enough: impl Fn(&[Attempt]) -> bool) -> Vec<Attempt> {
        let mut changes = self.changed.subscribe();
        loop {
            changes.mark_unchanged();
            let attempts = self.attempts();
            if enough(&attempts) || changes.changed().await.is_err() {
                return attempts;
            }
        }
    }

    /// Returns as soon as every event is delivered or given up.
    pub(super) async fn settled(&self) {
        let mut changes = self.changed.subscribe();
        loop {
            changes.mark_unchanged();
            if self.state().under_way == 0 || changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn note(&self, parcel: &Parcel, answer: Answer) -> Attempt {
        let at = self.now_ms();
        let mut state = self.state();
        let before = state
            .attempts
            .iter()
            .filter(|attempt| attempt.event_id == parcel.event.id && attempt.endpoint == parcel.endpoint)
            .count();
        let attempt = Attempt {
            event_id: parcel.event.id.clone(),
            event_type: parcel.event.event_type.clone(),
            endpoint: parcel.endpoint,
            number: before + 1,
            at,
            answer,
        };
        keep(&mut state.attempts, attempt.clone(), MOST_ATTEMPTS);
        drop(state);
        self.changed.send_replace(());
        attempt
    }

    fn done(&self) {
        self.state().under_way -= 1;
        self.changed.send_replace(());
    }
}

fn keep<T>(log: &mut VecDeque<T>, entry: T, most: usize) {
    if log.len() >= most {
        log.pop_front();
    }
    log.push_back(entry);
}

#[cfg(test)]
mod tests {
    use super::{Answer, Endpoint, InvalidEndpoint};

    #[test]
    fn an_endpoint_is_of_this_machine_and_has_a_secret() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        for url in ["http://localhost:1/webhooks/clerk", "http://127.0.0.1:1/", "http://[::1]:1/"] {
            assert_eq!(Endpoint::new(url, &[secret]).unwrap().url(), url);
        }
        for url in ["", "/webhooks", "https://localhost/", "http://evil.example/", "http://127.0.0.1.evil.example/"] {
            assert_eq!(Endpoint::new(url, &[secret]).unwrap_err(), InvalidEndpoint::Url, "{url}");
        }
        for secrets in [&[][..], &["secret"], &[secret, ""]] {
            let error = Endpoint::new("http://localhost/", secrets).unwrap_err();
            assert_eq!(error, InvalidEndpoint::SigningSecret, "{secrets:?}");
        }
    }

    #[test]
    fn only_2xx_is_a_delivery() {
        for (answer, delivered) in [
            (Answer::Status(200), true),
            (Answer::Status(204), true),
            (Answer::Status(302), false),
            (Answer::Status(401), false),
            (Answer::Status(503), false),
            (Answer::TimedOut, false),
            (Answer::Unreachable, false),
        ] {
            assert_eq!(answer.is_success(), delivered, "{answer:?}");
        }
    }
}
