//! A WebSocket: passes frames from the client to the app, sends what the app queues, and wakes the app when a token
//! needs attention.

use std::{sync::Arc, time::Duration};

use actix_web::rt;
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, Closed, Session};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

use super::{
    connection::{ConnectRequest, Disconnection, Outgoing},
    error::ErrorInfo,
    protocol::{ClientMessage, Format, MAX_IDLE_MS, action},
    shared_app::SharedApp,
};

const QUEUE: usize = 512;
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
const LONGEST_SLEEP_MS: i64 = 60_000;

/// What an idle server sends. Browsers do not see pings, so they request protocol messages (`RTN23`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heartbeat {
    Message,
    Ping,
}

/// An open WebSocket.
pub(crate) struct Socket {
    pub(crate) shared: Arc<SharedApp>,
    pub(crate) session: Session,
    pub(crate) format: Format,
    pub(crate) heartbeat: Heartbeat,
}

impl Socket {
    /// Serves the socket until one side closes it.
    pub(crate) fn serve(mut self, connect_request: ConnectRequest, frames: AggregatedMessageStream) {
        rt::spawn(async move {
            let (queue, outgoing) = mpsc::channel(QUEUE);
            let now_ms = self.shared.now_ms();
            let connected = self.shared.app().connect(&connect_request, queue, now_ms);
            match connected {
                Ok(number) => {
                    self.exchange(number, frames, outgoing).await;
                    let now_ms = self.shared.now_ms();
                    self.shared.app().disconnect(number, Disconnection::Resumable, now_ms);
                }
                Err(error) => {
                    let _ = self.send(&error_message(error)).await;
                }
            }
            let _ = timeout(SEND_TIMEOUT, self.session.close(Some(CloseCode::Normal.into()))).await;
        });
    }

    async fn exchange(
        &mut self,
        number: u64,
        mut frames: AggregatedMessageStream,
        mut outgoing: mpsc::Receiver<Outgoing>,
    ) {
        let mut sent_at = Instant::now();
        loop {
            let idle_at = sent_at + Duration::from_millis(MAX_IDLE_MS.unsigned_abs());
            let wake_at = self.wake_at(number);
            tokio::select! {
                biased;
                queued = outgoing.recv() => {
                    let (message, last) = match queued {
                        Some(Outgoing::Message(message)) => (message, false),
                        Some(Outgoing::Last(message)) => (message, true),
                        None => return,
                    };
                    if self.send(&message).await.is_err() || last {
                        return;
                    }
                    sent_at = Instant::now();
                }
                frame = frames.recv() => {
                    let Some(Ok(frame)) = frame else { return };
                    if self.receive(number, frame).await.is_err() {
                        return;
                    }
                }
                () = sleep_until(idle_at) => {
                    let sent = match self.heartbeat {
                        Heartbeat::Message => self.send(&json!({ "action": action::HEARTBEAT })).await,
                        Heartbeat::Ping => self.session.ping(&[]).await,
                    };
                    if sent.is_err() {
                        return;
                    }
                    sent_at = Instant::now();
                }
                () = sleep_until(wake_at) => {
                    let now_ms = self.shared.now_ms();
                    self.shared.app().tick(number, now_ms);
                }
            }
        }
    }

    fn wake_at(&self, number: u64) -> Instant {
        let now_ms = self.shared.now_ms();
        let tick_ms = self.shared.app().next_tick_ms(number, now_ms);
        let wait_ms =
            tick_ms.map_or(LONGEST_SLEEP_MS, |tick_ms| tick_ms.saturating_sub(now_ms)).clamp(1, LONGEST_SLEEP_MS);
        Instant::now() + Duration::from_millis(wait_ms.unsigned_abs())
    }

    async fn receive(&mut self, number: u64, frame: AggregatedMessage) -> Result<(), Closed> {
        let bytes = match frame {
            AggregatedMessage::Text(text) => text.into_bytes(),
            AggregatedMessage::Binary(bytes) => bytes,
            AggregatedMessage::Ping(bytes) => return self.session.pong(&bytes).await,
            AggregatedMessage::Pong(_) => return Ok(()),
            AggregatedMessage::Close(_) => return Err(Closed),
        };
        match self.format.decode(&bytes).and_then(ClientMessage::read) {
            Ok(message) => {
                let now_ms = self.shared.now_ms();
                self.shared.app().receive(number, message, now_ms);
                Ok(())
            }
            Err(error) => {
                self.send(&error_message(error)).await?;
                Err(Closed)
            }
        }
    }

    async fn send(&mut self, message: &Value) -> Result<(), Closed> {
        let bytes = self.format.encode(message);
        let sending = async {
            match self.format {
                Format::Json => {
                    let text = String::from_utf8(bytes).unwrap_or_default();
                    self.session.text(text).await
                }
                Format::MessagePack => self.session.binary(bytes).await,
            }
        };
        timeout(SEND_TIMEOUT, sending).await.unwrap_or(Err(Closed))
    }
}

fn error_message(error: ErrorInfo) -> Value {
    json!({ "action": action::ERROR, "error": error.to_json() })
}
