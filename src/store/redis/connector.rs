//! Connects to Redis or Valkey.

use std::{
    future,
    sync::{Arc, Mutex, Once, PoisonError},
    time::Duration,
};

use ::redis::{
    AsyncConnectionConfig, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value, aio::MultiplexedConnection, cmd,
    from_redis_value,
};
use async_trait::async_trait;

use super::{
    super::{Commands as _, Connect, Connected, ConnectionLost, ReadLog as _, Wait},
    address::{InvalidRedisAddress, RedisAddress},
    commands::RedisCommands,
    findings::{RedisFindings, RedisMode, ServerInfo},
    keys::Keys,
    node::Node,
    prefix::RedisKeyPrefix,
    reader::{LogReader, Loss},
    sentinels::Sentinels,
};

/// Includes TLS and authentication.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const COMMAND_TIMEOUT: Duration = Duration::from_millis(100);
/// A reader's answer may wait for an entry.
const READ_TIMEOUT: Duration = LogReader::WAIT.saturating_add(Duration::from_secs(1));
/// A node that does not have the data names the one that has it. While they disagree, they may name each other.
const MAX_REDIRECTIONS: usize = 3;

/// Connects to the server that has the data: a single one, the master that sentinels name, or a master of a cluster. All keys
/// have one hash tag, so one master of a cluster has all of them. When it changes, the connection is lost, and the next one
/// goes to the new master.
#[derive(derive_more::Debug)]
pub struct RedisConnector {
    address: RedisAddress,
    #[debug(skip)]
    sentinels: Option<Arc<Sentinels>>,
    #[debug(skip)]
    keys: Arc<Keys>,
    /// The nodes that the cluster had when it was connected last: those of the address may be gone.
    #[debug(skip)]
    cluster_nodes: Mutex<Vec<Node>>,
    #[debug(skip)]
    eviction_warning: Once,
}

/// A server that has the data and takes writes.
struct Master {
    node: Node,
    connection: MultiplexedConnection,
    /// Ends when another one is the master.
    loss: Loss,
}

impl RedisConnector {
    /// Does not call the server.
    ///
    /// # Errors
    /// When the client cannot be set up.
    pub fn new(address: &RedisAddress, prefix: &RedisKeyPrefix) -> Result<Self, InvalidRedisAddress> {
        Ok(Self {
            address: address.clone(),
            sentinels: Sentinels::of(address).map_err(|_| InvalidRedisAddress::NotAUrl)?,
            keys: Arc::new(Keys::new(prefix)),
            cluster_nodes: Mutex::default(),
            eviction_warning: Once::new(),
        })
    }

    /// Connects as a store does, and looks around. Fails if the store could not connect.
    pub async fn probe(&self) -> Result<RedisFindings, ConnectionLost> {
        let Master { node, mut connection, loss } = self.master().await?;
        let mode = self.sentinels.as_ref().map(|_| RedisMode::Sentinel);
        let findings = RedisFindings::of(&mut connection, &self.keys, node.to_string(), mode).await?;
        if findings.refused.is_empty() {
            self.use_master(Master { node, connection, loss }).await?;
        }
        Ok(findings)
    }

    async fn use_master(&self, master: Master) -> Result<(RedisCommands, LogReader), ConnectionLost> {
        let Master { node, connection, loss } = master;
        let keys = || Arc::clone(&self.keys);
        let mut log = LogReader { connection: self.open(&node, READ_TIMEOUT).await?, keys: keys(), loss };
        let commands = RedisCommands { connection, keys: keys() };
        let state = commands.state().await?;
        log.read(state.last, Wait::No).await?;
        Ok((commands, log))
    }

    async fn master(&self) -> Result<Master, ConnectionLost> {
        if let Some(sentinels) = &self.sentinels {
            let named = sentinels.master().await?;
            let (node, connection) = self.find_from(&named).await.map_err(|lost| of_node(&named, &lost))?;
            let loss = Box::pin(Arc::clone(sentinels).until_other_than(named));
            return Ok(Master { node, connection, loss });
        }
        let mut candidates = self.address.nodes().to_vec();
        let others = self.cluster_nodes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        candidates.extend(others.into_iter().filter(|node| !self.address.nodes().contains(node)));
        let mut reasons = Vec::with_capacity(candidates.len());
        for candidate in &candidates {
            match self.find_from(candidate).await {
                Ok((node, connection)) => return Ok(Master { node, connection, loss: Box::pin(future::pending()) }),
                Err(lost) if candidates.len() == 1 => return Err(lost),
                Err(lost) => reasons.push(of_node(candidate, &lost).0),
            }
        }
        Err(ConnectionLost(reasons.join("; ")))
    }

    /// The node that has the data and takes writes: this one, or the one that it names.
    async fn find_from(&self, node: &Node) -> Result<(Node, MultiplexedConnection), ConnectionLost> {
        let mut node = node.clone();
        for _ in 0..=MAX_REDIRECTIONS {
            let mut connection = self.open(&node, COMMAND_TIMEOUT).await?;
            // A write that changes nothing. In a cluster, a node answers who has the key.
            let wrote: RedisResult<Value> =
                cmd("PEXPIRE").arg(&self.keys.probe).arg(0).query_async(&mut connection).await;
            match wrote {
                Err(error) if is_moved(&error) => {
                    let owner = error.redirect_node().and_then(|(name, _)| Node::named(name, &node));
                    node = owner.ok_or_else(|| ConnectionLost::from(error))?;
                }
                // `check` tells more of it.
                Err(error) if error.kind() != ErrorKind::Server(ServerErrorKind::NoPerm) => return Err(error.into()),
                _ => return Ok((node, connection)),
            }
        }
        Err(ConnectionLost("the nodes of the cluster disagree on which one has the data".to_owned()))
    }

    async fn open(&self, node: &Node, response_timeout: Duration) -> Result<MultiplexedConnection, ConnectionLost> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(response_timeout));
        Ok(self.address.client(node)?.get_multiplexed_async_connection_with_config(&config).await?)
    }

    /// Remembers the nodes of a cluster, if the user may ask for them.
    async fn learn_nodes(&self, connection: &mut MultiplexedConnection, asked: &Node) {
        let slots: RedisResult<Vec<Vec<Value>>> = cmd("CLUSTER").arg("SLOTS").query_async(connection).await;
        let servers = slots.into_iter().flatten().flat_map(|range| range.into_iter().skip(2));
        let mut nodes = Vec::new();
        for server in servers {
            let Value::Array(server) = server else { continue };
            let mut server = server.into_iter().map(from_redis_value::<Option<String>>);
            let (Some(Ok(host)), Some(Ok(Some(port)))) = (server.next(), server.next()) else { continue };
            let port = port.parse().unwrap_or_default();
            nodes.extend(Node::at(&host.unwrap_or_default(), port, asked).filter(|node| !nodes.contains(node)));
        }
        if !nodes.is_empty() {
            *self.cluster_nodes.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
        }
    }

    fn warn_of_eviction(&self, info: &ServerInfo) {
        let Some(policy) = info.evicts() else { return };
        self.eviction_warning.call_once(|| {
            tracing::warn!(
                redis = %self.address,
                policy,
                "Redis drops keys when its memory is full: denials or live tokens can get lost; set its \
                 maxmemory-policy to noeviction"
            );
        });
    }
}

#[async_trait]
impl Connect for RedisConnector {
    async fn connect(&self) -> Result<Connected, ConnectionLost> {
        let master = self.master().await?;
        let (node, mut connection) = (master.node.clone(), master.connection.clone());
        let (commands, log) = self.use_master(master).await?;
        let info = ServerInfo::of(&mut connection).await;
        self.warn_of_eviction(&info);
        if info.mode() == Some(RedisMode::Cluster) {
            self.learn_nodes(&mut connection, &node).await;
        }
        Ok(Connected { commands: Box::new(commands), log: Box::new(log) })
    }

    fn address(&self) -> String {
        self.address.to_string()
    }
}

fn is_moved(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::Moved)
}

fn of_node(node: &Node, lost: &ConnectionLost) -> ConnectionLost {
    ConnectionLost(format!("{node}: {lost}"))
}
