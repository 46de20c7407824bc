//! What is sent, and what came back.

use serde::Serialize;
use serde_json::Value;

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
