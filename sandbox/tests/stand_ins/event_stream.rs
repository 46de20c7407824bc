//! Server-sent events, as a page reads them.

use std::time::Duration;

use reqwest::{Client, Response};
use serde_json::Value;
use tokio::time::timeout;

pub(crate) struct EventStream {
    response: Response,
    unread: String,
}

impl EventStream {
    pub(crate) async fn open(url: String) -> Self {
        let client = Client::builder().no_proxy().build().unwrap();
        let response = client.get(url).header("origin", "http://localhost:3000").send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["access-control-allow-origin"], "http://localhost:3000");
        Self { response, unread: String::new() }
    }

    /// Skips events until `expected` accepts one.
    pub(crate) async fn next_that(&mut self, expected: fn(&Value) -> bool) -> Value {
        loop {
            while let Some((event, rest)) = self.unread.split_once("\n\n") {
                let event: Value = serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
                let unread = rest.to_owned();
                self.unread = unread;
                if expected(&event) {
                    return event;
                }
            }
            let chunk = timeout(Duration::from_secs(5), self.response.chunk()).await.unwrap().unwrap().unwrap();
            self.unread.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}
