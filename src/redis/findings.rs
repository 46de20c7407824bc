//! What `check` tells of a Redis.

use std::time::{Duration, Instant};

use ::redis::{ErrorKind, ServerErrorKind, Value, aio::MultiplexedConnection, cmd};

use super::{
    deployment::{COMMAND_TIMEOUT, Master},
    failure::ConnectionLost,
    info::{RedisInfo, RedisMode},
};

/// A Redis that answers.
#[derive(Clone, Debug)]
pub struct RedisFindings {
    /// How it is set up.
    pub mode: RedisMode,
    /// The server that has the data: host and port.
    pub node: String,
    /// What it tells of itself.
    pub info: RedisInfo,
    /// The commands that the user needs and may not run.
    pub refused: Vec<String>,
    /// Those that the service can do without.
    pub refused_extras: Vec<String>,
    /// The time of one command.
    pub round_trip: Duration,
}

impl RedisFindings {
    /// The timeout of a command, if commands come close to it: one that exceeds it is an outage.
    #[must_use]
    pub fn timeout_at_risk(&self) -> Option<Duration> {
        Some(COMMAND_TIMEOUT).filter(|timeout| self.round_trip > *timeout / 4)
    }

    /// Tries the commands that the user needs. They must change nothing that lasts.
    pub(crate) async fn of(master: &Master, needed: &[String]) -> Result<Self, ConnectionLost> {
        // What a server tells of itself, and the nodes of a cluster that no URL names.
        let extras = ["INFO server", "CLUSTER SLOTS"].map(str::to_owned);
        let extras = if master.mode == RedisMode::Cluster { &extras[..] } else { &extras[..1] };
        let connection = master.connection.clone();
        let begun = Instant::now();
        is_refused(connection.clone(), &extras[0]).await?;
        let round_trip = begun.elapsed();
        Ok(Self {
            mode: master.mode,
            node: master.node.to_string(),
            info: master.info.clone(),
            refused: refused_of(&connection, needed).await?,
            refused_extras: refused_of(&connection, extras).await?,
            round_trip,
        })
    }
}

/// The names in an ACL of the commands that Redis refuses this user.
async fn refused_of(connection: &MultiplexedConnection, commands: &[String]) -> Result<Vec<String>, ConnectionLost> {
    let mut refused = Vec::new();
    for command in commands {
        if is_refused(connection.clone(), command).await? {
            let has_subcommands = command.starts_with("SCRIPT ") || command.starts_with("CLUSTER ");
            let name: Vec<_> = command.split(' ').take(if has_subcommands { 2 } else { 1 }).collect();
            refused.push(name.join("|").to_ascii_lowercase());
        }
    }
    Ok(refused)
}

/// Whether the user may not run a command.
async fn is_refused(mut connection: MultiplexedConnection, command: &str) -> Result<bool, ConnectionLost> {
    let mut words = command.split(' ');
    let mut sent = cmd(words.next().unwrap_or_default());
    match sent.arg(words.collect::<Vec<_>>()).query_async::<Value>(&mut connection).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => Ok(true),
        Err(error) if error.is_io_error() || error.is_timeout() => Err(error.into()),
        _ => Ok(false),
    }
}
