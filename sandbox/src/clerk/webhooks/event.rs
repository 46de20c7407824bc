//! Events, and the attempts to deliver them.

use serde::Serialize;
use serde_json::Value;

/// An event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// `svix-id`, the same at every attempt: `msg_…`.
    pub id: String,
    /// Such as `session.ended`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The time in milliseconds since the epoch. It increases with every event that the stand-in causes itself.
    pub timestamp: i64,
    /// The object that the event is about.
    pub data: Value,
    /// The body that is sent and signed.
    #[serde(skip)]
    pub body: String,
}

/// One attempt to deliver an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// [`Event::id`].
    pub event_id: String,
    /// [`Event::event_type`].
    pub event_type: String,
    /// The index of the endpoint.
    pub endpoint: usize,
    /// The number of this attempt for its event and endpoint, from 1.
    pub number: usize,
    /// The time of the answer or of its absence, in milliseconds since the epoch.
    pub at: i64,
    /// The result.
    pub answer: Answer,
}

/// The answer of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// This status. Redirects are not followed.
    Status(u16),
    /// Timeout.
    TimedOut,
    /// The connection was refused or broke.
    Unreachable,
}

impl Answer {
    /// Whether the event counts as delivered.
    #[must_use]
    pub fn is_success(self) -> bool {
        matches!(self, Self::Status(200..=299))
    }
}

#[cfg(test)]
mod tests {
    use super::Answer;

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
