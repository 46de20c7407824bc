//! The servers of an address, and the one of them that has the data.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ::redis::{
    AsyncConnectionConfig, ErrorKind, RedisResult, ServerErrorKind, Value, aio::MultiplexedConnection, cmd,
    from_redis_value_ref,
};
use futures_util::{
    FutureExt as _,
    future::{self, BoxFuture},
};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    address::{InvalidRedisAddress, RedisAddress},
    failure::ConnectionLost,
    info::{RedisInfo, RedisMode},
    node::Node,
    sentinels::Sentinels,
};

/// Includes TLS and authentication.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A Redis that takes longer is an outage: each token waits for it.
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_millis(100);
/// A node that does not have the data names the one that has it. While they disagree, they may name each other.
const MAX_REDIRECTIONS: usize = 3;

/// A single server, a cluster, or a master with sentinels.
pub(crate) struct Deployment {
    pub(crate) address: RedisAddress,
    sentinels: Option<Arc<Sentinels>>,
    /// A key that does not exist. In a cluster, its master is the one that has the data.
    probe_key: String,
    /// The nodes that the cluster had when it was connected last: those of the address may be gone.
    cluster_nodes: Mutex<BTreeSet<Node>>,
    /// The shortest timeout.
    pub(crate) patience: Duration,
}

/// A server that has the data and takes writes.
pub(crate) struct Master {
    pub(crate) node: Node,
    pub(crate) mode: RedisMode,
    pub(crate) info: RedisInfo,
    pub(crate) connection: MultiplexedConnection,
    /// Ends when another one is the master.
    pub(crate) loss: BoxFuture<'static, ConnectionLost>,
}

impl Deployment {
    /// Does not call a server.
    pub(crate) fn new(address: &RedisAddress, probe_key: String) -> Result<Self, InvalidRedisAddress> {
        let sentinels = Sentinels::of(address).map_err(|_| InvalidRedisAddress::NotAUrl)?;
        let (address, patience) = (address.clone(), Duration::ZERO);
        Ok(Self { address, sentinels, probe_key, cluster_nodes: Mutex::default(), patience })
    }

    /// Finds the server that has the data and takes writes.
    pub(crate) async fn master(&self) -> Result<Master, ConnectionLost> {
        let (node, mut connection, loss) = if let Some(sentinels) = &self.sentinels {
            let asked = Instant::now();
            let named = sentinels.master().await?;
            let (node, connection) = self.find_from(&named).await.map_err(|lost| lost.at(&named))?;
            (node, connection, Arc::clone(sentinels).until_other_than(named, asked).boxed())
        } else {
            let (node, connection) = self.find_from_any().await?;
            (node, connection, future::pending().boxed())
        };
        let info = RedisInfo::of(&mut connection).await;
        let mode = if self.sentinels.is_some() { RedisMode::Sentinel } else { info.mode() };
        if mode == RedisMode::Cluster {
            self.learn_nodes(&mut connection, &node).await;
        }
        Ok(Master { node, mode, info, connection, loss })
    }

    async fn find_from_any(&self) -> Result<(Node, MultiplexedConnection), ConnectionLost> {
        let mut candidates = self.address.nodes.clone();
        let known = self.cluster_nodes.lock().clone();
        candidates.extend(known.into_iter().filter(|node| !self.address.nodes.contains(node)));
        let mut reasons = Vec::with_capacity(candidates.len());
        for candidate in &candidates {
            match self.find_from(candidate).await {
                Err(lost) if candidates.len() > 1 => reasons.push(lost.at(candidate).0),
                outcome => return outcome,
            }
        }
        Err(ConnectionLost(reasons.join("; ")))
    }

    /// The node that has the data and takes writes: this one, or the one that it names.
    async fn find_from(&self, node: &Node) -> Result<(Node, MultiplexedConnection), ConnectionLost> {
        let mut node = node.clone();
        for redirections in 0..=MAX_REDIRECTIONS {
            let at_node = |lost: ConnectionLost| if redirections == 0 { lost } else { lost.at(&node) };
            let mut connection = self.open(&node, COMMAND_TIMEOUT).await.map_err(at_node)?;
            // A write that changes nothing. In a cluster, a node answers who has the key.
            let wrote: RedisResult<Value> =
                cmd("PEXPIRE").arg(&self.probe_key).arg(0).query_async(&mut connection).await;
            match wrote.map_err(|error| (error.kind(), error)) {
                Err((ErrorKind::Server(ServerErrorKind::Moved), error)) => {
                    let owner = error.redirect_node().and_then(|(name, _)| Node::named(name, &node));
                    node = owner.ok_or_else(|| ConnectionLost::from(error))?;
                }
                // `check` tells more of it.
                Ok(_) | Err((ErrorKind::Server(ServerErrorKind::NoPerm), _)) => return Ok((node, connection)),
                Err((_, error)) => return Err(at_node(error.into())),
            }
        }
        Err(ConnectionLost("the nodes of the cluster disagree on which one has the data".to_owned()))
    }

    /// Opens a connection to a node.
    pub(crate) async fn open(
        &self,
        node: &Node,
        response_timeout: Duration,
    ) -> Result<MultiplexedConnection, ConnectionLost> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT.max(self.patience)))
            .set_response_timeout(Some(response_timeout.max(self.patience)));
        Ok(self.address.client(node)?.get_multiplexed_async_connection_with_config(&config).await?)
    }

    /// Remembers the nodes of a cluster, if the user may ask for them.
    async fn learn_nodes(&self, connection: &mut MultiplexedConnection, asked: &Node) {
        let slots: RedisResult<Vec<Vec<Value>>> = cmd("CLUSTER").arg("SLOTS").query_async(connection).await;
        let named = |server: Value| {
            let [host, port, ..] = server.as_sequence()? else { return None };
            let host: Option<String> = from_redis_value_ref(host).ok()?;
            Node::at(&host.unwrap_or_default(), from_redis_value_ref(port).ok()?, asked)
        };
        let servers = slots.into_iter().flatten().flat_map(|range| range.into_iter().skip(2));
        let nodes: BTreeSet<_> = servers.filter_map(named).collect();
        if !nodes.is_empty() {
            *self.cluster_nodes.lock() = nodes;
        }
    }
}
