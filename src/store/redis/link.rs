//! A connection to Redis, and what is said over it: the keys, the scripts, and what they take and give.

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

/// How long Redis has for an answer.
const TIME_TO_ANSWER: Duration = Duration::from_millis(100);
/// How long a connection may take to be made, TLS and authentication included.
const TIME_TO_CONNECT: Duration = Duration::from_secs(1);

/// Why something could not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RedisFailure {
    /// Redis has no memory left.
    Full,
    /// Redis cannot be used, for this reason. The reason holds nothing that Redis said beyond the code of an error: a
    /// server that does not know a command repeats its arguments, and those of the first one are user and password.
    Lost(String),
}

impl RedisFailure {
    pub(super) fn reason(self) -> String {
        match self {
            Self::Full => "it has no memory left".to_owned(),
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
        // Of a pipeline each command is answered, and its error as a whole has no code.
        let answers = error.into_server_errors().unwrap_or_default();
        match answers.iter().find(|(_, answer)| !is_out_of_memory(answer)) {
            Some((_, answer)) => Self::Lost(format!("it answered {}", answer.code())),
            None if answers.is_empty() => Self::Lost(unanswered),
            None => Self::Full,
        }
    }
}

/// Redis 6.2 tells it of a script as an error of the script's, with its own error in the text.
fn is_out_of_memory(answer: &ServerError) -> bool {
    let in_a_script = |details: &str| details.contains("-OOM command not allowed");
    match answer.code() {
        "OOM" => true,
        "ERR" => answer.details().is_some_and(in_a_script),
        _ => false,
    }
}

/// The names of what is in Redis. All have the same hash tag, so that a script may use several where keys are spread
/// over nodes by their hash; it is the version of this format.
#[derive(Clone, Debug)]
pub(super) struct Names(String);

impl Names {
    pub(super) fn new(prefix: &RedisKeyPrefix) -> Self {
        Self(format!("{}{{v1}}:", prefix.as_str()))
    }

    fn of(&self, what: &str) -> String {
        format!("{}{what}", self.0)
    }

    /// What tells this data from what comes after its loss.
    fn data_id(&self) -> String {
        self.of("data_id")
    }

    /// The restrictions that hold, by their id.
    fn holding(&self) -> String {
        self.of("holding")
    }

    /// The ids of the restrictions that hold, by their end.
    fn ends(&self) -> String {
        self.of("ends")
    }

    /// What was last said about the same.
    fn last(&self, id: &str) -> String {
        self.of(&format!("last:{id}"))
    }

    fn live_tokens(&self, tenant: &TenantName, to: &TokenHolder) -> String {
        let (kind, id) = match to {
            TokenHolder::User(id) => ("user", id),
            TokenHolder::Session(id) => ("session", id),
            TokenHolder::Organization(id) => ("organization", id),
            TokenHolder::ClientId(id) => ("client_id", id),
        };
        self.of(&format!("grants:{}", json(&(tenant, kind, id))))
    }

    fn work(&self) -> String {
        self.of("work")
    }

    /// The ids of the work, by when it can be claimed.
    fn due(&self) -> String {
        self.of("due")
    }

    /// The ids of the work, by when it was to be done first.
    fn since(&self) -> String {
        self.of("since")
    }

    /// Who handles an effect.
    fn effect(&self, effect: &str) -> String {
        self.of(&format!("effect:{effect}"))
    }

    /// Where new restrictions are told.
    pub(super) fn facts_channel(&self) -> String {
        self.of("facts")
    }

    /// Where it is told whom to forget.
    pub(super) fn drops_channel(&self) -> String {
        self.of("drops")
    }

    /// Where it is told which work is done.
    pub(super) fn done_channel(&self) -> String {
        self.of("done")
    }
}

struct Scripts {
    identify: Script,
    record: Script,
    grant: Script,
    enqueue: Script,
    claim: Script,
    complete: Script,
    postpone: Script,
}

/// The scripts, each with its hash.
static SCRIPTS: std::sync::LazyLock<Scripts> = std::sync::LazyLock::new(|| Scripts {
    identify: Script::new(include_str!("identify.lua")),
    record: Script::new(include_str!("record.lua")),
    grant: Script::new(include_str!("grant.lua")),
    enqueue: Script::new(include_str!("enqueue.lua")),
    claim: Script::new(include_str!("claim.lua")),
    complete: Script::new(include_str!("complete.lua")),
    postpone: Script::new(include_str!("postpone.lua")),
});

/// Tries all that a store begins with. Returns as [`Link::evicts_by`].
pub(super) async fn probe(client: &Client, prefix: &RedisKeyPrefix) -> Result<Option<String>, RedisFailure> {
    let (pushed, _pushes) = mpsc::unbounded_channel();
    let (broken, _breaks) = mpsc::channel(1);
    let link = Link::open(client, Names::new(prefix), pushed, broken).await?;
    Ok(link.evicts_by().await)
}

/// A connection that is made, and used until something goes wrong with it.
#[derive(Clone)]
pub(super) struct Link {
    connection: MultiplexedConnection,
    names: Names,
    /// Which data it found; none if Redis had neither an id nor memory for one.
    data_id: Option<String>,
    /// Where whoever notices that it is broken says so.
    broken: mpsc::Sender<String>,
}

impl Link {
    /// Connects, and subscribes to what replicas tell each other, which `pushes` gets from here on. A Redis that takes no
    /// writes, for another reason than lack of memory, is none to use.
    pub(super) async fn open(
        client: &Client,
        names: Names,
        pushes: mpsc::UnboundedSender<PushInfo>,
        broken: mpsc::Sender<String>,
    ) -> Result<Self, RedisFailure> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIME_TO_CONNECT))
            .set_response_timeout(Some(TIME_TO_ANSWER))
            .set_push_sender(pushes);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        connection.subscribe(&[names.facts_channel(), names.drops_channel(), names.done_channel()]).await?;
        // Pipelines name it by its hash.
        SCRIPTS.grant.load_async(&mut connection).await?;
        let mut link = Self { connection, names, data_id: None, broken };
        link.data_id = link.identify().await?;
        Ok(link)
    }

    /// Tells whoever keeps the connection that it is broken.
    pub(super) fn report(&self, reason: &str) {
        // Full: it is told already. Closed: nobody keeps it any more.
        let _ = self.broken.try_send(reason.to_owned());
    }

    async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisFailure> {
        Ok(command.query_async(&mut self.connection.clone()).await?)
    }

    async fn invoke<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, RedisFailure> {
        Ok(script.invoke_async(&mut self.connection.clone()).await?)
    }

    /// The id of the data, given now if there was none; none if there is no memory for one.
    async fn identify(&self) -> Result<Option<String>, RedisFailure> {
        let mut script = SCRIPTS.identify.prepare_invoke();
        script.key(self.names.data_id()).arg(format!("{:032x}", rand::random::<u128>()));
        match self.invoke(&script).await {
            Err(RedisFailure::Full) => self.run(cmd("GET").arg(self.names.data_id())).await,
            identified => identified,
        }
    }

    /// The work that waits, where the data is still that which was there when the connection was made. If it is not, the
    /// connection is to be made again, as everything is then to be read and written again.
    pub(super) async fn backlog(&self) -> Result<TaskBacklog, RedisFailure> {
        let mut pipeline = pipe();
        pipeline.cmd("GET").arg(self.names.data_id());
        pipeline.cmd("HLEN").arg(self.names.work());
        pipeline.cmd("ZRANGE").arg(self.names.since()).arg(0).arg(0).arg("WITHSCORES");
        let (data_id, count, oldest): (Option<String>, usize, Vec<(String, f64)>) =
            pipeline.query_async(&mut self.connection.clone()).await?;
        if data_id != self.data_id {
            return Err(RedisFailure::Lost("its data is not what it was".to_owned()));
        }
        if self.data_id.is_none() && self.identify().await?.is_some() {
            return Err(RedisFailure::Lost("it had no memory left to tell whether its data is what it was".to_owned()));
        }
        Ok(TaskBacklog { count, oldest_due: oldest.first().map(|(_, due)| time_of(*due)) })
    }

    /// The policy by which Redis drops keys when it has no memory left; none if it does not, or does not tell.
    pub(super) async fn evicts_by(&self) -> Option<String> {
        let info: String = self.run(cmd("INFO").arg("memory")).await.ok()?;
        let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"))?.trim();
        (policy != "noeviction").then(|| policy.to_owned())
    }

    /// Stores those of the restrictions that are newer than what is stored, and returns for each what was stored before.
    pub(super) async fn record(
        &self,
        restrictions: &[Restriction],
        now: UnixMillis,
    ) -> Result<Vec<Option<Restriction>>, RedisFailure> {
        let mut script = SCRIPTS.record.prepare_invoke();
        script.key(self.names.holding()).key(self.names.ends());
        script.arg(now.0).arg(self.names.facts_channel()).arg(RANK_BYTES);
        for restriction in restrictions {
            let (key, terms) = (restriction.key(), restriction.terms());
            let id = id_of(&key);
            let until = if terms.is_active(now) { terms.until.0 } else { 0 };
            let remembered = terms.remembered_until().0.saturating_sub(now.0).clamp(1, LONGEST_MS);
            script.key(self.names.last(&id)).arg(&id).arg(encode(restriction)).arg(until).arg(remembered);
        }
        let known: Vec<String> = self.invoke(&script).await?;
        Ok(known.iter().map(|known| decode(known)).collect())
    }

    /// The restrictions that hold.
    pub(super) async fn holding(&self) -> Result<Vec<Restriction>, RedisFailure> {
        let entries = self.scan("HSCAN", &self.names.holding()).await?;
        Ok(entries.iter().filter_map(|(_, restriction)| decode(restriction)).collect())
    }

    /// Some of what was last said of all subjects, over or not, from a cursor on, 0 first; and the next cursor, 0 after
    /// the last.
    pub(super) async fn said(&self, cursor: u64) -> Result<(u64, Vec<Restriction>), RedisFailure> {
        // A prefix has nothing in it that means something else in a pattern.
        let pattern = self.names.last("*");
        let (next, keys): (u64, Vec<String>) =
            self.run(cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(500)).await?;
        if keys.is_empty() {
            return Ok((next, Vec::new()));
        }
        let said: Vec<Option<String>> = self.run(cmd("MGET").arg(keys)).await?;
        Ok((next, said.iter().flatten().filter_map(|restriction| decode(restriction)).collect()))
    }

    pub(super) async fn put_live_token(&self, grant: &LiveToken, now: UnixMillis) -> Result<(), RedisFailure> {
        let mut script = SCRIPTS.grant.prepare_invoke();
        for to in grant.holders() {
            script.key(self.names.live_tokens(&grant.tenant, &to));
        }
        script.arg(now.0).arg(grant.until.0).arg(member(grant));
        self.invoke(&script).await
    }

    /// As [`Self::put_live_token`], for many at once.
    pub(super) async fn put_grants(&self, live_tokens: &[LiveToken], now: UnixMillis) -> Result<(), RedisFailure> {
        let mut pipeline = pipe();
        for grant in live_tokens {
            let keys: Vec<_> = grant.holders().map(|to| self.names.live_tokens(&grant.tenant, &to)).collect();
            let command = pipeline.cmd("EVALSHA").arg(SCRIPTS.grant.get_hash()).arg(keys.len()).arg(keys);
            command.arg(now.0).arg(grant.until.0).arg(member(grant)).ignore();
        }
        Ok(pipeline.query_async(&mut self.connection.clone()).await?)
    }

    pub(super) async fn live_tokens(
        &self,
        tenant: &TenantName,
        to: &TokenHolder,
        now: UnixMillis,
    ) -> Result<Vec<LiveToken>, RedisFailure> {
        let entries = self.scan("ZSCAN", &self.names.live_tokens(tenant, to)).await?;
        let live_tokens = entries.iter().filter_map(|(member, until)| grant_of(tenant, member, until));
        Ok(live_tokens.filter(|grant| grant.until > now).collect())
    }

    pub(super) async fn enqueue(&self, QueuedTask { task, claimable }: &QueuedTask) -> Result<(), RedisFailure> {
        let mut script = SCRIPTS.enqueue.prepare_invoke();
        script.key(self.names.work()).key(self.names.due()).key(self.names.since());
        self.invoke(script.arg(&task.id).arg(json(task)).arg(claimable.0).arg(task.due.0)).await
    }

    pub(super) async fn claim(&self, most: usize, now: UnixMillis) -> Result<Vec<StoredTask>, RedisFailure> {
        let mut script = SCRIPTS.claim.prepare_invoke();
        script.key(self.names.work()).key(self.names.due()).key(self.names.since());
        script.arg(now.0).arg(now.after(StoredTask::LEASE).0).arg(most);
        let claimed: Vec<(Vec<u8>, Vec<u8>, f64)> = self.invoke(&script).await?;
        let mut tasks = Vec::with_capacity(claimed.len());
        for (id, task, since) in claimed {
            let due = time_of(since);
            match (str::from_utf8(&id), serde_json::from_slice::<StoredTask>(&task)) {
                (Ok(id), Ok(task)) => tasks.push(StoredTask { id: id.to_owned(), due, ..task }),
                _ if due.after(StoredTask::UNREAD_FOR) < now => {
                    tracing::error!("work in Redis that no replica could read for a day is given up");
                    // Where that fails, it is claimed again.
                    let _ = self.complete(&id).await;
                }
                _ => tracing::warn!("work in Redis cannot be read; it is left to a replica that can"),
            }
        }
        Ok(tasks)
    }

    pub(super) async fn complete(&self, id: &[u8]) -> Result<(), RedisFailure> {
        let mut script = SCRIPTS.complete.prepare_invoke();
        script.key(self.names.work()).key(self.names.due()).key(self.names.since());
        self.invoke(script.arg(self.names.done_channel()).arg(id)).await
    }

    pub(super) async fn postpone(&self, id: &str, due: UnixMillis) -> Result<(), RedisFailure> {
        let mut script = SCRIPTS.postpone.prepare_invoke();
        script.key(self.names.work()).key(self.names.due());
        self.invoke(script.arg(id).arg(due.0)).await
    }

    pub(super) async fn claim_once(&self, effect: &str) -> Result<IdempotencyClaim, RedisFailure> {
        let key = self.names.effect(effect);
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

    pub(super) async fn is_done(&self, effect: &str) -> Result<bool, RedisFailure> {
        let known: Option<String> = self.run(cmd("GET").arg(self.names.effect(effect))).await?;
        Ok(known.as_deref() == Some(DONE))
    }

    pub(super) async fn mark_done(&self, effect: &str, until: UnixMillis, now: UnixMillis) -> Result<(), RedisFailure> {
        let remembered = until.0.saturating_sub(now.0).clamp(1, LONGEST_MS);
        self.run(cmd("SET").arg(self.names.effect(effect)).arg(DONE).arg("PX").arg(remembered)).await
    }

    pub(super) async fn release(&self, effect: &str) -> Result<(), RedisFailure> {
        self.run(cmd("PEXPIRE").arg(self.names.effect(effect)).arg(0)).await
    }

    /// Tells every replica of a restriction that Redis has no memory for: it needs none to pass it on.
    pub(super) async fn publish_fact(&self, restriction: &Restriction) -> Result<(), RedisFailure> {
        self.run(cmd("PUBLISH").arg(self.names.facts_channel()).arg(encode(restriction))).await
    }

    /// Tells every replica whom to forget; everyone where nobody is named.
    pub(super) async fn publish_drop(&self, user: Option<(&TenantName, &str)>) -> Result<(), RedisFailure> {
        self.run(cmd("PUBLISH").arg(self.names.drops_channel()).arg(json(&user))).await
    }

    /// The pairs of a hash or a sorted set. What is there from beginning to end is among them.
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

/// What is stored of an effect that somebody handles, and of one that is done.
const CLAIMED: &str = "claimed";
const DONE: &str = "done";
/// How long a rank is.
const RANK_BYTES: usize = 32;
/// Far beyond every time that is asked for, and within what Redis takes.
const LONGEST_MS: i64 = 1 << 42;

fn id_of(key: &RestrictionKey) -> String {
    json(key)
}

/// A restriction as it is stored: its rank, by which scripts compare it, and the restriction.
fn encode(restriction: &Restriction) -> String {
    restriction.terms().rank() + &json(restriction)
}

/// The restriction that is stored or told so; none where there is none.
pub(super) fn decode(text: &str) -> Option<Restriction> {
    if text.is_empty() { None } else { read(text.get(RANK_BYTES..).unwrap_or(text)) }
}

/// The user to forget; `None` for all users, also if the text is invalid.
pub(super) fn decode_drop(text: &str) -> Option<(TenantName, String)> {
    read::<Option<_>>(text).flatten()
}

fn member(grant: &LiveToken) -> String {
    json(&(&grant.user, &grant.session, &grant.organization, &grant.client_id, grant.format))
}

fn grant_of(tenant: &TenantName, member: &str, until: &str) -> Option<LiveToken> {
    let (user, session, organization, client_id, format) = read(member)?;
    let until = time_of(until.parse().ok()?);
    let grant = LiveToken { tenant: tenant.clone(), user, session, organization, client_id, format, until };
    if is_possible(&grant) {
        Some(grant)
    } else {
        warn_of_foreign_data();
        None
    }
}

/// Whether a token can have been issued so. Its names go on to Ably, to restrictions and to reports.
fn is_possible(grant: &LiveToken) -> bool {
    let ids = [Some(&grant.user), Some(&grant.session), grant.organization.as_ref()];
    ClientId::parse(grant.client_id.as_str()).is_ok()
        && !ids.into_iter().flatten().any(|id| id.contains(char::is_control))
}

/// The time that a score of a sorted set is.
#[expect(clippy::cast_possible_truncation, reason = "milliseconds since 1970 are far below 2^53")]
fn time_of(score: f64) -> UnixMillis {
    UnixMillis(score as i64)
}

/// Only texts, numbers, lists and enums of them are written: that does not fail.
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
    fn no_memory_left_is_told_from_other_trouble_in_and_outside_of_scripts() {
        let lost = |reason: &str| RedisFailure::Lost(reason.to_owned());
        for (answer, trouble) in [
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
            assert_eq!(RedisFailure::from(parsed.extract_error().unwrap_err()), trouble, "{answer}");
        }
    }
}
