//! The connection for commands.

use std::{collections::BTreeSet, iter, sync::LazyLock};

use ::redis::{Cmd, FromRedisValue, Script, aio::MultiplexedConnection, cmd};
use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    super::{
        Claim, Commands, LiveToken, LogPosition, RecordOutcome, Reply, Restriction, SharedState, StoreLimits,
        StoredTask, TaskBacklog, TokenHolder,
    },
    encoding::{self, time_of, warn_of_foreign_data},
    keys::{CLAIMABLE, DATA_ID, DUE, ENDS, Keys, LOG, RESTRICTIONS, TASKS},
    live_tokens::{self, Group},
};
use crate::{
    clock::{self, UnixMillis},
    tenant::TenantName,
};

/// The elements that a scan looks at in one step.
const SCAN_COUNT: usize = 500;
/// The restrictions that are recorded at once: few enough for Redis to answer within its timeout.
const RESTRICTIONS_AT_ONCE: usize = 100;
/// The users, or parts of the index, that are read at once: few enough for Redis to answer within its timeout.
const AT_ONCE: usize = 50;

static STATE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/state.lua")));
static RECORD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/record.lua")));
static REGISTER: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/register.lua")));
static CLAIM: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/claim.lua")));
static END_CLAIM: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/end_claim.lua")));

/// Sends commands.
pub(super) struct RedisCommands {
    connection: MultiplexedConnection,
    keys: Keys,
}

/// Calls a script. Not as a `ScriptInvocation`, which copies every key and argument once more.
fn call_of(script: &Script, keys: &[String]) -> Cmd {
    let mut call = cmd("EVALSHA");
    call.arg(script.get_hash()).arg(keys.len()).arg(keys);
    call
}

impl RedisCommands {
    /// Sends the scripts to Redis. If Redis answers later that it does not know one, the connection is lost: another server may
    /// have taken over.
    pub(super) async fn new(mut connection: MultiplexedConnection, keys: Keys) -> Reply<Self> {
        for script in [&STATE, &RECORD, &REGISTER, &CLAIM, &END_CLAIM] {
            script.load_async(&mut connection).await?;
        }
        Ok(Self { connection, keys })
    }

    async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Reply<T> {
        Ok(command.query_async(&mut self.connection.clone()).await?)
    }

    fn call<const KEYS: usize>(&self, script: &Script, keys: [&str; KEYS]) -> Cmd {
        call_of(script, &keys.map(|key| self.keys.named(key)))
    }

    /// The users that may have live tokens of a holder.
    async fn users_of(&self, tenant: &TenantName, holder: &TokenHolder) -> Reply<BTreeSet<String>> {
        let (parts, pattern) = match holder {
            TokenHolder::User(user) => return Ok(BTreeSet::from([user.clone()])),
            TokenHolder::Organization(id) => {
                let group = Group::named(id);
                (group.part()..group.part() + 1, group.member("*"))
            }
            TokenHolder::Session(_) | TokenHolder::ClientId(_) => (0..Group::PARTS, "*".to_owned()),
        };
        let members = stream::iter(parts).map(|part| self.members(self.keys.users(tenant, part), &pattern));
        let members: Vec<_> = members.buffer_unordered(AT_ONCE).try_concat().await?;
        Ok(members.iter().filter_map(|member| Group::user_of(member)).collect())
    }

    /// The registered live tokens of a user, ended ones included.
    async fn live_tokens_of(&self, tenant: &TenantName, user: String) -> Reply<Vec<LiveToken>> {
        let hash: Vec<(Vec<u8>, Vec<u8>)> = self.run(cmd("HGETALL").arg(self.keys.live_tokens(tenant, &user))).await?;
        Ok(hash.iter().filter_map(|(field, value)| live_tokens::live_token_of(tenant, &user, field, value)).collect())
    }

    /// The members of a sorted set that match a pattern. Redis looks at some at a time.
    async fn members(&self, set: String, pattern: &str) -> Reply<Vec<Vec<u8>>> {
        let mut scan = cmd("ZSCAN");
        scan.arg(set).cursor_arg(0).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN_COUNT);
        let mut connection = self.connection.clone();
        let members = scan.iter_async::<(Vec<u8>, f64)>(&mut connection).await?;
        Ok(members.map_ok(|(member, _)| member).try_collect().await?)
    }
}

#[async_trait]
impl Commands for RedisCommands {
    async fn state(&self) -> Reply<SharedState> {
        let mut call = self.call(&STATE, [DATA_ID, LOG, TASKS, DUE]);
        call.arg(format!("{:032x}", rand::random::<u128>()));
        let (data_id, last, count, oldest_due): (String, LogPosition, usize, Option<f64>) = self.run(&call).await?;
        Ok(SharedState { data_id, last, backlog: TaskBacklog { count, oldest_due: oldest_due.map(time_of) } })
    }

    async fn restrictions(&self, cursor: u64) -> Reply<(Option<u64>, Vec<Restriction>)> {
        let (next, rows): (u64, Vec<(Vec<u8>, Vec<u8>)>) =
            self.run(cmd("HSCAN").arg(self.keys.named(RESTRICTIONS)).arg(cursor).arg("COUNT").arg(SCAN_COUNT)).await?;
        Ok(((next > 0).then_some(next), rows.iter().filter_map(|(_, row)| encoding::restriction_of(row)).collect()))
    }

    async fn record(
        &self,
        restrictions: &[Restriction],
        tasks: &[StoredTask],
        tasks_if: RecordOutcome,
        now: UnixMillis,
    ) -> Reply<Vec<Option<Restriction>>> {
        let mut before = Vec::with_capacity(restrictions.len());
        // There may be tasks only. The first part with a new restriction stores them.
        let tasks_only = iter::once(restrictions).filter(|restrictions| restrictions.is_empty());
        for part in tasks_only.chain(restrictions.chunks(RESTRICTIONS_AT_ONCE)) {
            let mut call = self.call(&RECORD, [RESTRICTIONS, ENDS, LOG, TASKS, CLAIMABLE, DUE]);
            call.arg(now.0).arg(clock::millis(Restriction::REMEMBERED_FOR));
            call.arg(StoreLimits::default().ended_restrictions).arg(encoding::LOG_LENGTH).arg(part.len());
            for restriction in part {
                let confirmed = encoding::text_if_confirmed(restriction).filter(|_| tasks_if == RecordOutcome::New);
                call.arg(encoding::id_of(restriction)).arg(encoding::row_of(restriction));
                call.arg(confirmed.unwrap_or_default());
            }
            for StoredTask { id, due, payload } in tasks {
                call.arg(id).arg(payload).arg(due.0);
            }
            let rows: Vec<Option<Vec<u8>>> = self.run(&call).await?;
            before.extend(rows.iter().map(|row| encoding::restriction_of(row.as_ref()?)));
        }
        Ok(before)
    }

    async fn register(&self, live_tokens: &[LiveToken], now: UnixMillis) -> Reply<Vec<bool>> {
        let (mut keys, mut arguments) = (Vec::new(), Vec::new());
        for live_token in live_tokens {
            let LiveToken { tenant, user, organization, .. } = live_token;
            let group = Group::named(organization.as_ref().unwrap_or(user));
            keys.extend([self.keys.live_tokens(tenant, user), self.keys.users(tenant, group.part())]);
            arguments.push((group.member(user), live_tokens::field_of(live_token), live_tokens::value_of(live_token)));
        }
        self.run(call_of(&REGISTER, &keys).arg(now.0).arg(arguments)).await
    }

    async fn live_tokens(&self, tenant: &TenantName, holder: &TokenHolder, now: UnixMillis) -> Reply<Vec<LiveToken>> {
        let users = self.users_of(tenant, holder).await?;
        let is_sought = |found: &LiveToken| found.until > now && found.is_of(holder);
        let of_users = stream::iter(users).map(|user| self.live_tokens_of(tenant, user)).buffer_unordered(AT_ONCE);
        of_users.map_ok(|found| found.into_iter().filter(is_sought).collect()).try_concat().await
    }

    async fn claim(&self, claim: Claim<'_>, now: UnixMillis) -> Reply<Vec<StoredTask>> {
        let mut call = self.call(&CLAIM, [TASKS, CLAIMABLE, DUE]);
        call.arg(now.0).arg(now.after(StoredTask::LEASE).0);
        match claim {
            Claim::Due(max) => call.arg(max),
            Claim::Named(id) => call.arg(1).arg(id),
        };
        let claimed: Vec<(Vec<u8>, Vec<u8>, f64)> = self.run(&call).await?;
        let mut tasks = Vec::with_capacity(claimed.len());
        for (id, payload, due) in claimed {
            let payload = String::from_utf8_lossy(&payload).into_owned();
            match String::from_utf8(id) {
                Ok(id) => tasks.push(StoredTask { id, due: time_of(due), payload }),
                // The next claim removes the ID of a task that is gone.
                Err(foreign) => {
                    warn_of_foreign_data();
                    let () = self.run(cmd("HDEL").arg(self.keys.named(TASKS)).arg(foreign.as_bytes())).await?;
                }
            }
        }
        Ok(tasks)
    }

    async fn end_claim(&self, left: &StoredTask, retry_at: Option<UnixMillis>) -> Reply<()> {
        let mut call = self.call(&END_CLAIM, [TASKS, CLAIMABLE, DUE]);
        call.arg(&left.id).arg(left.due.0).arg(&left.payload).arg(retry_at.map(|retry_at| retry_at.0));
        self.run(&call).await
    }
}
