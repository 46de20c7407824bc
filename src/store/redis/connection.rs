//! A connection to Redis: its keys, channels, scripts and encodings.

use std::time::Duration;

use ::redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, PushInfo, RedisError, Script, ScriptInvocation, ServerError,
    aio::MultiplexedConnection, cmd, pipe,
};
use tokio::sync::mpsc;

use super::{
    super::{
        IdempotencyClaim, LiveToken, Restriction, StoredTask, TaskBacklog, TokenHolder, restriction::RestrictionKey,
        tasks::QueuedTask,
    },
    prefix::RedisKeyPrefix,
};
use crate::{
    ably::ClientId,
    clock::{self, UnixMillis},
    tenant::TenantName,
};

const RESPONSE_TIMEOUT: Duration = Duration::from_millis(100);
/// Includes TLS and authentication.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RedisFailure {
    /// The memory of Redis is full.
    Full,
    /// Redis cannot be used, for this reason. From an answer of Redis the reason has only the error code: a server that
    /// does not know a command repeats its arguments, and those of the first one are user and password.
    Lost(String),
}

impl RedisFailure {
    pub(super) fn reason(self) -> String {
        match self {
            Self::Full => "its memory is full".to_owned(),
            Self::Lost(reason) => reason,
        }
    }
}

impl From<RedisError> for RedisFailure {
    fn from(error: RedisError) -> Self {
        let unanswered = if error.is_timeout() {
            "it did not answer in time".to_owned()
        } else if error.is_io_error() {
            error.to_string()
        } else {
            error.category().to_owned()
        };
        // A pipeline has an answer for each command; its error as a whole has no code.
        let answers = error.into_server_errors().unwrap_or_default();
        match answers.iter().find(|(_, answer)| !is_out_of_memory(answer)) {
            Some((_, answer)) => Self::Lost(format!("it answered {}", answer.code())),
            None if answers.is_empty() => Self::Lost(unanswered),
            None => Self::Full,
        }
    }
}

/// Redis 6.2 reports it as a script error, with OOM in the text.
fn is_out_of_memory(answer: &ServerError) -> bool {
    let in_a_script = |details: &str| details.contains("-OOM command not allowed");
    match answer.code() {
        "OOM" => true,
        "ERR" => answer.details().is_some_and(in_a_script),
        _ => false,
    }
}

/// The names of keys and channels. All have the same hash tag, so that a script may use several keys in a cluster. The
/// tag is the version of this format.
#[derive(Clone, Debug)]
pub(super) struct Names(String);

impl Names {
    pub(super) fn new(prefix: &RedisKeyPrefix) -> Self {
        Self(format!("{}{{v2}}:", prefix.as_str()))
    }

    fn of(&self, name: &str) -> String {
        format!("{}{name}", self.0)
    }

    /// Identifies the data: after a loss it is another.
    fn data_id(&self) -> String {
        self.of("data_id")
    }

    /// The active restrictions, by ID.
    fn active(&self) -> String {
        self.of("holding")
    }

    /// The IDs of the active restrictions, by expiry.
    fn ends(&self) -> String {
        self.of("ends")
    }

    /// The newest restriction with this ID.
    fn newest(&self, id: &str) -> String {
        self.of(&format!("last:{id}"))
    }

    fn live_tokens(&self, tenant: &TenantName, holder: &TokenHolder) -> String {
        let (kind, id) = match holder {
            TokenHolder::User(id) => ("user", id),
            TokenHolder::Session(id) => ("session", id),
            TokenHolder::Organization(id) => ("organization", id),
            TokenHolder::ClientId(id) => ("client_id", id),
        };
        self.of(&format!("grants:{}", json(&(tenant, kind, id))))
    }

    fn tasks(&self) -> String {
        self.of("work")
    }

    /// The IDs of the tasks, by the time from which they can be claimed.
    fn due(&self) -> String {
        self.of("due")
    }

    /// The IDs of the tasks, by first due time.
    fn since(&self) -> String {
        self.of("since")
    }

    /// The state of an idempotency key.
    fn idempotency(&self, key: &str) -> String {
        self.of(&format!("effect:{key}"))
    }

    /// The channel of new restrictions.
    pub(super) fn restrictions_channel(&self) -> String {
        self.of("facts")
    }

    /// The channel of users to forget.
    pub(super) fn forget_channel(&self) -> String {
        self.of("drops")
    }

    /// The channel of completed tasks.
    pub(super) fn done_channel(&self) -> String {
        self.of("done")
    }
}

struct Scripts {
    identify: Script,
    record: Script,
    live_token: Script,
    enqueue: Script,
    claim: Script,
    complete: Script,
    postpone: Script,
}

static SCRIPTS: std::sync::LazyLock<Scripts> = std::sync::LazyLock::new(|| Scripts {
    identify: Script::new(include_str!("identify.lua")),
    record: Script::new(include_str!("record.lua")),
    live_token: Script::new(include_str!("live_token.lua")),
    enqueue: Script::new(include_str!("enqueue.lua")),
    claim: Script::new(include_str!("scripts/claim.lua")),
    complete: Script::new(include_str!("complete.lua")),
    postpone: Script::new(include_str!("scripts/postpone.lua")),
});

/// Connects as a store does, and disconnects. Returns the [eviction policy](Connection::eviction_policy).
pub(super) async fn probe(client: &Client, prefix: &RedisKeyPrefix) -> Result<Option<String>, RedisFailure> {
    let (pushed, _pushes) = mpsc::unbounded_channel();
    let (broken, _failures) = mpsc::channel(1);
    let connection = Connection::open(client, Names::new(prefix), pushed, broken).await?;
    Ok(connection.eviction_policy().await)
}

/// A connection, used until its first failure.
#[derive(Clone)]
pub(super) struct Connection {
    commands: MultiplexedConnection,
    names: Names,
    /// The ID of the data at the start. `None` if Redis had neither an ID nor memory for one.
    data_id: Option<String>,
    /// Receives the reason once the connection is broken.
    broken: mpsc::Sender<String>,
}

impl Connection {
    /// Connects, and subscribes to the messages of other replicas, which go to `pushes`. Fails if Redis rejects writes,
    /// unless for lack of memory.
    pub(super) async fn open(
        client: &Client,
        names: Names,
        pushes: mpsc::UnboundedSender<PushInfo>,
        broken: mpsc::Sender<String>,
    ) -> Result<Self, RedisFailure> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_push_sender(pushes);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        connection.subscribe(&[names.restrictions_channel(), names.forget_channel(), names.done_channel()]).await?;
        // Pipelines call it by its hash.
        SCRIPTS.live_token.load_async(&mut connection).await?;
        let mut connection = Self { commands: connection, names, data_id: None, broken };
        connection.data_id = connection.identify().await?;
        Ok(connection)
    }

    /// Reports that the connection is broken.
    pub(super) fn report(&self, reason: &str) {
        // Full: already reported. Closed: the connection is no longer used.
        let _ = self.broken.try_send(reason.to_owned());
    }

    async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisFailure> {
        Ok(command.query_async(&mut self.commands.clone()).await?)
    }

    async fn invoke<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, RedisFailure> {
        Ok(script.invoke_async(&mut self.commands.clone()).await?)
    }

    /// The ID of the data, which gets one if it has none. `None` without memory for one.
    async fn identify(&self) -> Result<Option<String>, RedisFailure> {
        let mut script = SCRIPTS.identify.prepare_invoke();
        script.key(self.names.data_id()).arg(format!("{:032x}", rand::random::<u128>()));
        match self.invoke(&script).await {
            Err(RedisFailure::Full) => self.run(cmd("GET").arg(self.names.data_id())).await,
            identified => identified,
        }
    }

    /// The backlog. Fails if the data is not the same as at the start of the connection: then all is read and written
    /// again.
    pub(super) async fn backlog(&self) -> Result<TaskBacklog, RedisFailure> {
        let mut pipeline = pipe();
        pipeline.cmd("GET").arg(self.names.data_id());
        pipeline.cmd("HLEN").arg(self.names.tasks());
        pipeline.cmd("ZRANGE").arg(self.names.since()).arg(0).arg(0).arg("WITHSCORES");
        let (data_id, count, oldest): (Option<String>, usize, Vec<(String, f64)>) =
            pipeline.query_async(&mut self.commands.clone()).await?;
        if data_id != self.data_id {
            return Err(RedisFailure::Lost("its data was lost or replaced".to_owned()));
        }
        if self.data_id.is_none() && self.identify().await?.is_some() {
            return Err(RedisFailure::Lost("its memory was full, so its data may have been replaced".to_owned()));
        }
        Ok(TaskBacklog { count, oldest_due: oldest.first().map(|(_, due)| time_of(*due)) })
    }

    /// The eviction policy of Redis. `None` if Redis evicts no keys, or does not say.
    pub(super) async fn eviction_policy(&self) -> Option<String> {
        let info: String = self.run(cmd("INFO").arg("memory")).await.ok()?;
        let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"))?.trim();
        (policy != "noeviction").then(|| policy.to_owned())
    }

    /// Stores the restrictions that are newer than the stored ones. Returns for each the one stored before.
    pub(super) async fn record(
        &self,
        restrictions: &[Restriction],
        now: UnixMillis,
    ) -> Result<Vec<Option<Restriction>>, RedisFailure> {
        let mut script = SCRIPTS.record.prepare_invoke();
        script.key(self.names.active()).key(self.names.ends());
        script.arg(now.0).arg(self.names.restrictions_channel()).arg(RANK_BYTES);
        for restriction in restrictions {
            let (key, terms) = (restriction.key(), restriction.terms());
            let id = id_of(&key);
            let until = if terms.is_active(now) { terms.until.0 } else { 0 };
            let remembered = terms.remembered_until().0.saturating_sub(now.0).clamp(1, MAX_TTL_MS);
            script.key(self.names.newest(&id)).arg(&id).arg(encode(restriction)).arg(until).arg(remembered);
        }
        let known: Vec<String> = self.invoke(&script).await?;
        Ok(known.iter().map(|known| decode(known)).collect())
    }

    /// The active restrictions.
    pub(super) async fn active(&self) -> Result<Vec<Restriction>, RedisFailure> {
        let entries = self.scan("HSCAN", &self.names.active()).await?;
        Ok(entries.iter().filter_map(|(_, restriction)| decode(restriction)).collect())
    }

    /// A page of the newest restrictions, expired or not, and the next cursor. Cursors start and end with 0.
    pub(super) async fn scan_recent(&self, cursor: u64) -> Result<(u64, Vec<Restriction>), RedisFailure> {
        // A prefix has no characters that are special in a pattern.
        let pattern = self.names.newest("*");
        let (next, keys): (u64, Vec<String>) =
            self.run(cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(500)).await?;
        if keys.is_empty() {
            return Ok((next, Vec::new()));
        }
        let stored: Vec<Option<String>> = self.run(cmd("MGET").arg(keys)).await?;
        Ok((next, stored.iter().flatten().filter_map(|restriction| decode(restriction)).collect()))
    }

    pub(super) async fn put_live_token(&self, live_token: &LiveToken, now: UnixMillis) -> Result<(), RedisFailure> {
        let mut script = SCRIPTS.live_token.prepare_invoke();
        for holder in live_token.holders() {
            script.key(self.names.live_tokens(&live_token.tenant, &holder));
        }
        script.arg(now.0).arg(live_token.until.0).arg(member(live_token));
        self.invoke(&script).await
    }

    /// As [`Self::put_live_token`], for several.
    pub(super) async fn put_live_tokens(&self, live_tokens: &[LiveToken], now: UnixMillis) -> Result<(), RedisFailure> {
        let mut pipeline = pipe();
        for token in live_tokens {
            let keys: Vec<_> = token.holders().map(|holder| self.names.live_tokens(&token.tenant, &holder)).collect();
            let command = pipeline.cmd("EVALSHA").arg(SCRIPTS.live_token.get_hash()).arg(keys.len()).arg(keys);
            command.arg(now.0).arg(token.until.0).arg(member(token)).ignore();
        }
        Ok(pipeline.query_async(&mut self.commands.clone()).await?)
    }

    pub(super) async fn live_tokens(
        &self,
        tenant: &TenantName,
        holder: &TokenHolder,
        now: UnixMillis,
    ) -> Result<Vec<LiveToken>, RedisFailure> {
        let entries = self.scan("ZSCAN", &self.names.live_tokens(tenant, holder)).await?;
        let live_tokens = entries.iter().filter_map(|(member, until)| live_token_of(tenant, member, until));
        Ok(live_tokens.filter(|live_token| live_token.until > now).collect())
    }

    pub(super) async fn enqueue(&self, QueuedTask { task, claimable }: &QueuedTask) -> Result<(), RedisFailure> {
        let mut script = SCRIPTS.enqueue.prepare_invoke();
        script.key(self.names.tasks()).key(self.names.due()).key(self.names.since());
        self.invoke(script.arg(&task.id).arg(json(task)).arg(claimable.0).arg(task.due.0)).await
    }

    pub(super) async fn claim(&self, max: usize, now: UnixMillis) -> Result<Vec<StoredTask>, RedisFailure> {
        let mut script = SCRIPTS.claim.prepare_invoke();
        script.key(self.names.tasks()).key(self.names.due()).key(self.names.since());
        script.arg(now.0).arg(now.after(StoredTask::LEASE).0).arg(max);
        let claimed: Vec<(Vec<u8>, Vec<u8>, f64)> = self.invoke(&script).await?;
        let mut tasks = Vec::with_capacity(claimed.len());
        for (id, task, since) in claimed {
            let due = time_of(since);
            match (str::from_utf8(&id), serde_json::from_slice::<StoredTask>(&task)) {
                (Ok(id), Ok(task)) => tasks.push(StoredTask { id: id.to_owned(), due, ..task }),
                _ if due.after(StoredTask::UNREAD_FOR) < now => {
                    tracing::error!("removing a task from Redis that no replica could read for a day");
                    // If that fails, it is claimed again.
                    let _ = self.complete(&id).await;
                }
                _ => tracing::warn!("cannot read a task in Redis; leaving it to a replica that can"),
            }
        }
        Ok(tasks)
    }

    pub(super) async fn complete(&self, id: &[u8]) -> Result<(), RedisFailure> {
        let mut script = SCRIPTS.complete.prepare_invoke();
        script.key(self.names.tasks()).key(self.names.due()).key(self.names.since());
        self.invoke(script.arg(self.names.done_channel()).arg(id)).await
    }

    pub(super) async fn postpone(&self, id: &str, due: UnixMillis) -> Result<(), RedisFailure> {
        let mut script = SCRIPTS.postpone.prepare_invoke();
        script.key(self.names.tasks()).key(self.names.due());
        self.invoke(script.arg(id).arg(due.0)).await
    }

    pub(super) async fn claim_once(&self, key: &str) -> Result<IdempotencyClaim, RedisFailure> {
        let key = self.names.idempotency(key);
        let known: Option<String> = self.run(cmd("GET").arg(&key)).await?;
        match known.as_deref() {
            Some(DONE) => return Ok(IdempotencyClaim::Done),
            Some(_) => return Ok(IdempotencyClaim::InProgress),
            None => {}
        }
        let lease = clock::millis(IdempotencyClaim::LEASE);
        let claimed: Option<String> =
            self.run(cmd("SET").arg(&key).arg(CLAIMED).arg("NX").arg("PX").arg(lease)).await?;
        Ok(if claimed.is_some() { IdempotencyClaim::Granted } else { IdempotencyClaim::InProgress })
    }

    pub(super) async fn is_done(&self, key: &str) -> Result<bool, RedisFailure> {
        let known: Option<String> = self.run(cmd("GET").arg(self.names.idempotency(key))).await?;
        Ok(known.as_deref() == Some(DONE))
    }

    pub(super) async fn mark_done(&self, key: &str, until: UnixMillis, now: UnixMillis) -> Result<(), RedisFailure> {
        let remembered = until.0.saturating_sub(now.0).clamp(1, MAX_TTL_MS);
        self.run(cmd("SET").arg(self.names.idempotency(key)).arg(DONE).arg("PX").arg(remembered)).await
    }

    pub(super) async fn release(&self, key: &str) -> Result<(), RedisFailure> {
        self.run(cmd("PEXPIRE").arg(self.names.idempotency(key)).arg(0)).await
    }

    /// Sends a restriction to every replica, which needs no memory in Redis.
    pub(super) async fn publish_restriction(&self, restriction: &Restriction) -> Result<(), RedisFailure> {
        self.run(cmd("PUBLISH").arg(self.names.restrictions_channel()).arg(encode(restriction))).await
    }

    /// Tells every replica to forget a user, or all users.
    pub(super) async fn publish_forget(&self, user: Option<(&TenantName, &str)>) -> Result<(), RedisFailure> {
        self.run(cmd("PUBLISH").arg(self.names.forget_channel()).arg(json(&user))).await
    }

    /// The pairs of a hash or a sorted set. Contains every entry that exists during the whole scan.
    async fn scan(&self, command: &str, key: &str) -> Result<Vec<(String, String)>, RedisFailure> {
        let mut pairs = Vec::new();
        let mut cursor = 0_u64;
        loop {
            let (next, page): (u64, Vec<(String, String)>) =
                self.run(cmd(command).arg(key).arg(cursor).arg("COUNT").arg(500)).await?;
            pairs.extend(page);
            if next == 0 {
                return Ok(pairs);
            }
            cursor = next;
        }
    }
}

/// The values of an idempotency key.
const CLAIMED: &str = "claimed";
const DONE: &str = "done";
const RANK_BYTES: usize = 32;
/// Far longer than any TTL in use, and valid in Redis.
const MAX_TTL_MS: i64 = 1 << 42;

fn id_of(key: &RestrictionKey) -> String {
    json(key)
}

/// A restriction as stored: its rank, by which scripts compare it, then JSON.
fn encode(restriction: &Restriction) -> String {
    restriction.terms().rank() + &json(restriction)
}

/// The restriction of a stored text or a message. `None` for an empty text.
pub(super) fn decode(text: &str) -> Option<Restriction> {
    if text.is_empty() { None } else { read(text.get(RANK_BYTES..).unwrap_or(text)) }
}

/// The user to forget; `None` for all users, also if the text is invalid.
pub(super) fn decode_forget(text: &str) -> Option<(TenantName, String)> {
    read::<Option<_>>(text).flatten()
}

fn member(live_token: &LiveToken) -> String {
    json(&(&live_token.user, &live_token.session, &live_token.organization, &live_token.client_id, live_token.format))
}

fn live_token_of(tenant: &TenantName, member: &str, until: &str) -> Option<LiveToken> {
    let (user, session, organization, client_id, format) = read(member)?;
    let until = time_of(until.parse().ok()?);
    let live_token = LiveToken { tenant: tenant.clone(), user, session, organization, client_id, format, until };
    if is_possible(&live_token) {
        Some(live_token)
    } else {
        warn_of_foreign_data();
        None
    }
}

/// Whether the service can have issued such a token. Its IDs are passed to Ably, to restrictions and to reports.
fn is_possible(live_token: &LiveToken) -> bool {
    let ids = [Some(&live_token.user), Some(&live_token.session), live_token.organization.as_ref()];
    ClientId::parse(live_token.client_id.as_str()).is_ok()
        && !ids.into_iter().flatten().any(|id| id.contains(char::is_control))
}

/// The time in a score of a sorted set.
#[expect(clippy::cast_possible_truncation, reason = "milliseconds since 1970 are far below 2^53")]
fn time_of(score: f64) -> UnixMillis {
    UnixMillis(score as i64)
}

/// Never fails: the values are strings, numbers, and lists and enums of them.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    let read = serde_json::from_str(text);
    if read.is_err() {
        warn_of_foreign_data();
    }
    read.ok()
}

fn warn_of_foreign_data() {
    tracing::warn!("ignoring data in Redis under this service's prefix that this service did not write");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_memory_is_distinguished_from_other_failures_in_and_outside_scripts() {
        let lost = |reason: &str| RedisFailure::Lost(reason.to_owned());
        for (answer, failure) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", RedisFailure::Full),
            // Redis 7, Valkey.
            (
                "OOM command not allowed when used memory > 'maxmemory'. script: 2f, on @user_script:18.",
                RedisFailure::Full,
            ),
            // Redis 6.2.
            (
                "ERR Error running script (call to f_2f): @user_script:18: @user_script: 18: -OOM command not allowed \
                 when used memory > 'maxmemory'. ",
                RedisFailure::Full,
            ),
            ("ERR Error running script (call to f_2f): @user_script:1: hunter2", lost("it answered ERR")),
            ("ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `hunter2`", lost("it answered ERR")),
            ("NOAUTH Authentication required.", lost("it answered NOAUTH")),
            ("LOADING Redis is loading the dataset in memory", lost("it answered LOADING")),
        ] {
            let parsed = ::redis::parse_redis_value(format!("-{answer}\r\n").as_bytes()).unwrap();
            assert_eq!(RedisFailure::from(parsed.extract_error().unwrap_err()), failure, "{answer}");
        }
    }
}
