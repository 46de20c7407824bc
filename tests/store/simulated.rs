//! The simulated Redis of `tests/simulation` answers as a real one does.

use std::time::Duration;

use ably_clerk_auth::{
    ably::TokenFormat,
    clock::UnixMillis,
    store::{
        Claim, ClientIdDigest, Connect as _, Connected, DenialSource, LiveToken, LogPosition, RecordOutcome,
        Restriction, RestrictionKind, SharedState, StoreLimits, StoredTask, Subject, TokenHolder,
    },
    tenant::TenantName,
};

use crate::{
    fixtures::{NOW, connector_for, live_token},
    node::{Data, Node, Recorded},
    random::Random,
    redis_server::RedisServer,
};

const SEQUENCES: u64 = 60;
const COMMANDS: usize = 80;

impl Random {
    fn id(&mut self, kind: &str) -> String {
        format!("{kind}_{}", self.index(3))
    }

    fn task_id(&mut self) -> String {
        format!("task_{}", self.index(12))
    }

    fn tenant(&mut self) -> TenantName {
        TenantName::parse(self.pick(&["one", "two"])).unwrap()
    }

    /// A moment near another one.
    fn near(&mut self, now: UnixMillis, choices: &[i64]) -> UnixMillis {
        UnixMillis(now.0 + self.pick(choices))
    }

    fn restriction(&mut self, now: UnixMillis) -> Restriction {
        let (user, organization) = (self.id("user"), self.id("org"));
        let (kind, subject) = match self.index(8) {
            0 => (RestrictionKind::Deleted, Subject::User(user)),
            1 | 7 => {
                (RestrictionKind::ClientId(Some(ClientIdDigest::of(self.pick(&["alice", "bob"])))), Subject::User(user))
            }
            2 => (RestrictionKind::ClientId(None), Subject::User(user)),
            3 => (RestrictionKind::NotBefore, Subject::Member { user, organization }),
            4 => (RestrictionKind::NotBefore, Subject::Organization(organization)),
            of_session => {
                let source = self.pick(&[DenialSource::Clerk, DenialSource::Operator]);
                let kind = self.pick(&[RestrictionKind::Denied(source), RestrictionKind::Lifted(source)]);
                (kind, if of_session == 5 { Subject::Session(self.id("sess")) } else { Subject::User(user) })
            }
        };
        let session_user = Some(self.id("user")).filter(|_| self.percent(50));
        Restriction {
            tenant: self.tenant(),
            subject,
            kind,
            at: self.near(now, &[-2, -1, 0, 1]),
            until: self.near(now, &[-1, 0, 1, 60_000, 600_000]),
            session_user,
        }
    }

    fn task(&mut self, now: UnixMillis) -> StoredTask {
        let due = self.near(now, &[-1, 0, 1, 30_000, 150_000]);
        StoredTask { id: self.task_id(), due, payload: self.next().to_string() }
    }

    fn live_token(&mut self, now: UnixMillis) -> LiveToken {
        let user = self.id("user");
        let organization = Some(self.id("org")).filter(|_| self.percent(50));
        LiveToken {
            tenant: self.tenant(),
            organization,
            format: self.pick(&[TokenFormat::Jwt, TokenFormat::TokenRequest]),
            // Redis itself lets keys expire, by its own clock.
            until: self.near(now, &[60_000, 60_001, 90_000, 3_600_000]),
            ..live_token(&user, &self.id("sess"), None, self.pick(&["alice", "bob", &user]), Duration::ZERO)
        }
    }

    fn several<T>(&mut self, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.pick(&[0, 1, 1, 1, 2, 3])).map(|_| one(self)).collect()
    }
}

/// Makes a random command at both, and compares the answers.
async fn compare(random: &mut Random, real: &Connected, simulated: &mut Node, now: UnixMillis) {
    let commands = &real.commands;
    match random.index(8) {
        0..3 => {
            let restrictions = random.several(|random| random.restriction(now));
            let tasks = random.several(|random| random.task(now));
            let tasks_if = random.pick(&[RecordOutcome::New, RecordOutcome::Confirmed]);
            let Recorded { before, .. } = simulated.record(&restrictions, &tasks, tasks_if, now, now);
            assert_eq!(commands.record(&restrictions, &tasks, tasks_if, now).await.unwrap(), before);
        }
        3 => {
            let live_tokens = random.several(|random| random.live_token(now));
            let lacked = simulated.register(&live_tokens, now, now);
            assert_eq!(commands.register(&live_tokens, now).await.unwrap(), lacked, "{live_tokens:?}");
        }
        4 => {
            let holder = match random.index(4) {
                0 => TokenHolder::User(random.id("user")),
                1 => TokenHolder::Organization(random.id("org")),
                2 => TokenHolder::Session(random.id("sess")),
                _ => TokenHolder::ClientId(random.pick(&["alice", "bob"]).to_owned()),
            };
            let tenant = random.tenant();
            let mut found = commands.live_tokens(&tenant, &holder, now).await.unwrap();
            found.sort();
            let mut expected = simulated.live_tokens(&tenant, &holder, now);
            expected.sort();
            assert_eq!(found, expected, "{holder:?}");
        }
        5 => {
            let id = random.task_id();
            let claim = random.pick(&[Claim::Due(1), Claim::Due(9), Claim::Named(&id)]);
            assert_eq!(commands.claim(claim, now).await.unwrap(), simulated.claim(claim, now, now), "{claim:?}");
        }
        6 => {
            let left = random.task(now);
            let retry_at = Some(random.near(now, &[-1, 0, 5000])).filter(|_| random.percent(50));
            commands.end_claim(&left, retry_at).await.unwrap();
            simulated.end_claim(&left, retry_at, now);
        }
        _ => {
            let SharedState { backlog, .. } = commands.state().await.unwrap();
            assert_eq!(backlog, simulated.state(1, now).backlog);
        }
    }
}

/// All recorded restrictions.
async fn rows_of(real: &Connected) -> Vec<Restriction> {
    let (mut cursor, mut rows) = (Some(0), Vec::new());
    while let Some(at) = cursor {
        let (next, page) = real.commands.restrictions(at).await.unwrap();
        rows.extend(page);
        cursor = next;
    }
    distinct(rows)
}

/// A scan can return a row twice.
fn distinct(mut rows: Vec<Restriction>) -> Vec<Restriction> {
    rows.sort_by_key(|row| format!("{row:?}"));
    rows.dedup();
    rows
}

#[tokio::test]
async fn the_simulated_redis_answers_as_a_real_one_does() {
    let server = RedisServer::start();
    for seed in 0..SEQUENCES {
        let mut random = Random::new(seed);
        let mut real = connector_for(&server.address(), &format!("aca:{seed}:")).connect().await.unwrap();
        let mut simulated = Node::new(Data::default(), usize::MAX, StoreLimits::default().ended_restrictions);
        let mut now = NOW;
        for _ in 0..COMMANDS {
            compare(&mut random, &real, &mut simulated, now).await;
            now = random.near(now, &[0, 0, 1, 1, 1000, 1000, 40_000, 40_000, 20 * 3_600_000]);
        }
        let start = LogPosition::default();
        let entries = real.log.read(start, Duration::ZERO).await.unwrap().entries;
        let entries: Vec<_> = entries.into_iter().filter_map(|(_, entry)| entry).collect();
        let expected = simulated.read(start, usize::MAX).entries;
        assert_eq!(entries, expected.into_iter().filter_map(|(_, entry)| entry).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!(rows_of(&real).await, distinct(simulated.scan(0, usize::MAX).1), "seed {seed}");
    }
}
