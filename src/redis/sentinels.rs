//! Sentinels: which server is the master.

use std::{collections::HashMap, sync::Arc, time::Duration};

use ::redis::{Client, ErrorKind, RedisError, RedisResult, aio::MultiplexedConnection, cmd};
use futures_util::future::join_all;
use tokio::{
    sync::Mutex,
    time::{self, Instant},
};

use super::{address::RedisAddress, failure::ConnectionLost, node::Node};

/// How long after a question the sentinels are asked again.
const ASK_AFTER: Duration = Duration::from_secs(2);
/// For how long a master is used that they do not confirm.
const UNCONFIRMED_FOR: Duration = Duration::from_secs(6);
/// Includes a new connection.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The sentinels of a master.
pub(super) struct Sentinels {
    master: String,
    sentinels: Vec<Sentinel>,
}

/// One of them, and the connection to it.
struct Sentinel {
    node: Node,
    clients: Vec<Client>,
    connection: Mutex<Option<MultiplexedConnection>>,
}

/// What a sentinel knows. That of the latest epoch counts.
struct Answer {
    epoch: u64,
    master: Node,
}

impl Sentinels {
    /// Those of an address. Does not call them.
    pub(super) fn of(address: &RedisAddress) -> RedisResult<Option<Arc<Self>>> {
        let Some(sentinels) = &address.sentinels else { return Ok(None) };
        let sentinel = |node: &Node| {
            let clients = address.sentinel_clients(node)?;
            Ok(Sentinel { node: node.clone(), clients, connection: Mutex::default() })
        };
        let of_master = address.nodes.iter().map(sentinel).collect::<RedisResult<_>>()?;
        Ok(Some(Arc::new(Self { master: sentinels.master.clone(), sentinels: of_master })))
    }

    /// The master that they name.
    pub(super) async fn master(&self) -> Result<Node, ConnectionLost> {
        decide(join_all(self.sentinels.iter().map(|sentinel| sentinel.ask_in_time(&self.master))).await)
    }

    /// Waits until the sentinels name another master than when they were asked last, or no more than half of them answer for a
    /// while. Returns which.
    pub(super) async fn until_other_than(self: Arc<Self>, master: Node, mut asked: Instant) -> ConnectionLost {
        let mut confirmed = asked;
        loop {
            time::sleep_until(asked + ASK_AFTER).await;
            asked = Instant::now();
            match self.master().await {
                Ok(named) if named == master => confirmed = asked,
                Ok(named) => return ConnectionLost(format!("the master is {named} now, and was {master}")),
                Err(lost) if confirmed.elapsed() >= UNCONFIRMED_FOR => return lost,
                Err(_) => {}
            }
        }
    }
}

impl Sentinel {
    async fn ask_in_time(&self, master: &str) -> Result<Answer, ConnectionLost> {
        let late = |_| Err(ConnectionLost("it did not answer in time".to_owned()));
        let answer = time::timeout(ANSWER_TIMEOUT, self.ask(master)).await.unwrap_or_else(late);
        answer.map_err(|lost| lost.at(&self.node))
    }

    async fn ask(&self, master: &str) -> Result<Answer, ConnectionLost> {
        let mut kept = self.connection.lock().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let answer = self.ask_over(&mut connection, master).await?;
        // After an error there is a new one.
        *kept = Some(connection);
        Ok(answer)
    }

    async fn ask_over(&self, connection: &mut MultiplexedConnection, master: &str) -> Result<Answer, ConnectionLost> {
        let named = cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master).query_async(connection).await;
        let named: Option<(String, u16)> = named.map_err(explain)?;
        let node = named.and_then(|(host, port)| Node::at(&host, port, &self.node));
        let master_node = node.ok_or_else(|| ConnectionLost("it knows no master of this name".to_owned()))?;
        // While a failover ends, only this address is the new one already.
        let known: HashMap<String, String> = cmd("SENTINEL").arg("MASTER").arg(master).query_async(connection).await?;
        let epoch = known.get("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or_default();
        Ok(Answer { epoch, master: master_node })
    }

    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut refused = None;
        for client in &self.clients {
            match client.get_multiplexed_async_connection().await {
                Err(error) if error.kind() == ErrorKind::AuthenticationFailed => refused = Some(error),
                outcome => return outcome,
            }
        }
        Err(refused.unwrap_or_else(|| (ErrorKind::InvalidClientConfig, "no client").into()))
    }
}

/// The master, if more than half of the sentinels name one: those that are cut off from the others may not know of a failover.
fn decide(answers: Vec<Result<Answer, ConnectionLost>>) -> Result<Node, ConnectionLost> {
    let total = answers.len();
    let (mut named, mut reasons) = (Vec::new(), Vec::new());
    for answer in answers {
        match answer {
            Ok(answer) => named.push(answer),
            Err(lost) => reasons.push(lost.0),
        }
    }
    let count = named.len();
    match named.into_iter().max_by_key(|answer| answer.epoch) {
        Some(newest) if 2 * count > total => Ok(newest.master),
        _ => Err(ConnectionLost(format!("{count} of {total} sentinels name the master; {}", reasons.join("; ")))),
    }
}

/// Only a sentinel knows the command.
fn explain(error: RedisError) -> ConnectionLost {
    match error.detail() {
        Some(detail) if detail.contains("unknown command") => ConnectionLost("it is not a sentinel".to_owned()),
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_failover_that_most_sentinels_may_know_of_counts() {
        let node = |host: &str| Node { host: host.to_owned(), port: 1 };
        let lost = || Err(ConnectionLost("gone".to_owned()));
        let says = |epoch, master| Ok(Answer { epoch, master: node(master) });
        let decide = |answers| decide(answers).map(|master| master.host).map_err(|lost| lost.0);
        assert_eq!(decide(vec![says(0, "old")]).as_deref(), Ok("old"));
        assert_eq!(decide(vec![says(1, "old"), says(2, "new"), says(1, "old")]).as_deref(), Ok("new"));
        assert_eq!(decide(vec![lost(), says(1, "old"), says(2, "new")]).as_deref(), Ok("new"));
        for answers in
            [vec![lost()], vec![lost(), says(1, "old"), lost()], vec![says(1, "old"), lost(), says(1, "old"), lost()]]
        {
            let reason = decide(answers).unwrap_err();
            assert!(reason.contains(" sentinels name the master; gone"), "{reason}");
        }
    }
}
