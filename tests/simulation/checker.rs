//! Checks what the service promises, by a history of its own: what Clerk and the operator said, which tokens were issued,
//! and what Ably revoked. It reads nothing that a replica thinks.

mod client_ids;
mod decisions;
mod revocations;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ably_clerk_auth::{
    ably::Target,
    clerk::{Change, Event},
    clock::{self, UnixMillis},
    revocation::operator::Action,
    store::{ClientIdDigest, DenialSource, LiveToken, Restriction, RestrictionKind, StoredTask, Subject},
    tenant::TenantName,
};

use client_ids::Repeated;
pub(crate) use decisions::{Decision, Request};

use crate::{
    ably::Revoked,
    faults::FaultLog,
    node::{Data, Node, RowKey, rank, row_key},
    redis::{Redis, is_of_return},
    replica::denial,
    work,
};

/// The most by which two replicas' clocks differ, and what a request may take.
const SLACK: Duration = Duration::from_millis(4500);

/// Within this time every replica notices that Redis has lost data.
const LOSS_IS_NOTICED_WITHIN: Duration = Duration::from_secs(2);

/// How long after the first revocation the second one follows.
const REVOKES_AGAIN_AFTER: Duration = Duration::from_secs(150);

/// What Clerk or the operator said.
struct Statement {
    tenant: TenantName,
    /// What it says, as restrictions. Their `until` means nothing.
    facts: Vec<Restriction>,
    /// The client ID by which the operator named the user. Tokens with another one are not revoked.
    client_id: Option<String>,
    said_at: UnixMillis,
    lasts: Duration,
    /// When it ends, by the clocks of the replicas that were told.
    ends: Option<(UnixMillis, UnixMillis)>,
    /// Since when the runs know that were told.
    told: BTreeMap<usize, UnixMillis>,
    /// How often replicas were told.
    tellings: usize,
    /// Whether the first replica that was told took it over.
    is_taken_at_once: bool,
    /// For each fact the runs that know it.
    known_by: Vec<BTreeSet<usize>>,
    /// Whether Redis had it then.
    is_recorded: bool,
    /// When the service took it over.
    accepted: Option<UnixMillis>,
    /// When the first telling began.
    first_told_at: Option<UnixMillis>,
    /// When the last telling began.
    told_at: UnixMillis,
    /// When it was told while an old master went on, or Redis had just lost data: whoever was told may not have seen the live
    /// tokens of others.
    told_in_confusion_at: Option<UnixMillis>,
    /// It was accepted, and then lost in a failover together with every replica that knew.
    is_lost: bool,
    /// The same, for its tasks that were stored by themselves. The run whose own tokens they concern, if not all.
    lost_tasks: BTreeSet<Option<usize>>,
}

/// What became of a telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Accepted,
    Refused,
    /// No replica answered.
    None,
}

pub(crate) struct IssuedToken {
    live_token: LiveToken,
    /// When the session token was minted.
    minted: UnixMillis,
    run: usize,
    signed_at: UnixMillis,
    /// From when on it was being registered. `None`: the replica may not have known all restrictions then, or Redis may not have
    /// taken it.
    registered_since: Option<UnixMillis>,
    /// When it was issued by its own words, and when it ends.
    at_ably: Option<(UnixMillis, UnixMillis)>,
    /// When Redis last lost it.
    lost_by_redis_at: Option<UnixMillis>,
    /// The replica that issued it crashed before Redis knew it, or Redis lost it with that replica. Or Redis got it back from
    /// a replica that crashed before it had caught up, and so had not looked for the restrictions that it missed.
    is_lost: bool,
}

impl Statement {
    /// Whether it can end tokens with this client ID.
    fn is_about(&self, client_id: &str) -> bool {
        self.client_id.as_ref().is_none_or(|id| id == client_id)
    }
}

impl Work {
    /// Why it is not done.
    fn find_undone(&self, ably: &[Revoked]) -> Option<String> {
        let from = self.given_at.max(UnixMillis(self.due.0 - clock::millis(SLACK)));
        let is_it =
            |target: &Target| matches!(target, Target::ClientId(id) if *id.as_str() == work::client_id(self.number));
        let is_done = ably.iter().any(|revoked| is_it(&revoked.target) && from <= revoked.at);
        let (number, run, due) = (self.number, self.run, self.due.0);
        (!is_done && !self.is_lost).then(|| format!("4: task {number} of run {run}, due {due}, was not performed"))
    }
}

impl IssuedToken {
    pub(crate) fn new(
        live_token: LiveToken,
        minted: UnixMillis,
        run: usize,
        signed_at: UnixMillis,
        registered_since: Option<UnixMillis>,
    ) -> Self {
        let (at_ably, lost_by_redis_at, is_lost) = (None, None, false);
        Self { live_token, minted, run, signed_at, registered_since, at_ably, lost_by_redis_at, is_lost }
    }

    /// Whether Redis may never have known it, or has lost it.
    fn may_be_lost(&self) -> bool {
        self.registered_since.is_none_or(|since| self.lost_by_redis_at.is_some_and(|lost| since <= lost))
    }
}

fn concerns(fact: &Restriction, live_token: &LiveToken) -> bool {
    let LiveToken { tenant, user, session, organization, .. } = live_token;
    let is_of = |subject: &Subject| match subject {
        Subject::Session(id) => id == session,
        Subject::User(id) => id == user,
        Subject::Member { user: id, organization: of } => id == user && Some(of) == organization.as_ref(),
        Subject::Organization(id) => Some(id) == organization.as_ref(),
    };
    fact.tenant == *tenant && is_of(&fact.subject)
}

/// A stored task, from when the service was told to keep it until it is done.
struct KeptTask {
    tenant: String,
    at: i64,
    /// The run that stored it for its own tokens, when it returned.
    late_of: Option<usize>,
    known_by: BTreeSet<usize>,
    is_done: bool,
}

/// A task that the schedule stored.
struct Work {
    number: usize,
    run: usize,
    due: UnixMillis,
    given_at: UnixMillis,
    is_lost: bool,
}

#[derive(Default)]
pub(crate) struct Checker {
    /// The limit of ended restrictions is so low that some are forgotten. Then somebody may be refused for a while, and a
    /// late event may undo a revocation; nobody is admitted whose denial is in force.
    is_forgetful: bool,
    statements: Vec<Statement>,
    /// The numbers of the statements, and of their facts, with this key.
    facts: BTreeMap<RowKey, Vec<(usize, usize)>>,
    tokens: Vec<IssuedToken>,
    /// What was registered as a live token, even if the token was refused then.
    registered: BTreeSet<LiveToken>,
    tasks: BTreeMap<String, KeptTask>,
    /// The names that each user has or had. `None`: no name.
    names: BTreeSet<(TenantName, String, Option<String>)>,
    /// When each run started.
    started: BTreeMap<usize, UnixMillis>,
    /// When each run was last in sync with Redis.
    in_sync_at: BTreeMap<usize, UnixMillis>,
    works: Vec<Work>,
    repeated: Vec<Repeated>,
    /// How often replicas were told something.
    pub(crate) tellings: usize,
    /// Which runs store or have stored which tasks of the schedule.
    storing: BTreeSet<(usize, usize)>,
    /// When Redis lost data.
    last_loss: Option<UnixMillis>,
    /// How many old masters go on.
    splits: usize,
    pub(crate) violations: Vec<String>,
}

/// What two restrictions with the same key are compared by.
type Rank = (bool, UnixMillis, bool);

fn rank_of(fact: &Restriction) -> Rank {
    let (is_deletion, at, restricts, _) = rank(fact);
    (is_deletion, at, restricts)
}

/// A fact, and the statement that it is part of.
#[derive(Clone, Copy)]
struct Said<'a> {
    fact: &'a Restriction,
    statement: &'a Statement,
}

impl Said<'_> {
    fn is_lift(&self) -> bool {
        matches!(self.fact.kind, RestrictionKind::Lifted(_))
    }
}

pub(crate) fn key(tenant: &TenantName, subject: Subject, kind: RestrictionKind) -> RowKey {
    let (at, until) = (UnixMillis(0), UnixMillis(0));
    row_key(&Restriction { tenant: tenant.clone(), subject, kind, at, until, session_user: None })
}

fn denial_keys(tenant: &TenantName, session: &str, user: &str) -> Vec<RowKey> {
    let subjects = [Subject::Session(session.to_owned()), Subject::User(user.to_owned())];
    let sources = [DenialSource::Clerk, DenialSource::Operator];
    let keys = |subject: Subject| sources.map(|source| key(tenant, subject.clone(), RestrictionKind::Denied(source)));
    subjects.into_iter().flat_map(keys).collect()
}

fn mark_keys(tenant: &TenantName, user: &str, organization: Option<&String>) -> Vec<RowKey> {
    let mut keys = vec![client_id_key(tenant, user)];
    if let Some(organization) = organization {
        let member = Subject::Member { user: user.to_owned(), organization: organization.clone() };
        for subject in [member, Subject::Organization(organization.clone())] {
            keys.push(key(tenant, subject, RestrictionKind::NotBefore));
        }
    }
    keys
}

fn client_id_key(tenant: &TenantName, user: &str) -> RowKey {
    key(tenant, Subject::User(user.to_owned()), RestrictionKind::ClientId(None))
}

impl Checker {
    pub(crate) fn new(max_ended: usize) -> Self {
        const MOST_IN_A_SCHEDULE: usize = 100;
        Self { is_forgetful: max_ended < MOST_IN_A_SCHEDULE, ..Self::default() }
    }

    pub(crate) fn clerk_says(&mut self, tenant: &str, event: &Event, now: UnixMillis) -> usize {
        let tenant = TenantName::parse(tenant).unwrap();
        let fact = |subject, kind| Restriction {
            tenant: tenant.clone(),
            subject,
            kind,
            at: event.at,
            until: event.at,
            session_user: None,
        };
        let user = |id: &String| Subject::User(id.clone());
        let denied = RestrictionKind::Denied(DenialSource::Clerk);
        let facts = match &event.change {
            Change::SessionEnded { session_id, .. } => vec![fact(Subject::Session(session_id.clone()), denied)],
            Change::UserDeleted { user_id } => vec![fact(user(user_id), RestrictionKind::Deleted)],
            Change::UserUpdated(updated) => {
                self.names.insert((tenant.clone(), updated.id.clone(), updated.username.clone()));
                if updated.banned {
                    vec![fact(user(&updated.id), denied)]
                } else {
                    let digest = updated.username.as_deref().map(ClientIdDigest::of);
                    let lifted = fact(user(&updated.id), RestrictionKind::Lifted(DenialSource::Clerk));
                    vec![lifted, fact(user(&updated.id), RestrictionKind::ClientId(digest))]
                }
            }
            Change::MembershipChanged { user_id, organization_id } => {
                let (user, organization) = (user_id.clone(), organization_id.clone());
                vec![fact(Subject::Member { user, organization }, RestrictionKind::NotBefore)]
            }
            Change::OrganizationDeleted { organization_id } => {
                vec![fact(Subject::Organization(organization_id.clone()), RestrictionKind::NotBefore)]
            }
        };
        self.state(tenant, facts, denial(), now)
    }

    pub(crate) fn operator_says(
        &mut self,
        tenant: &TenantName,
        subject: &Subject,
        client_id: Option<&str>,
        action: Action,
        at: UnixMillis,
        now: UnixMillis,
    ) -> usize {
        let (kind, lasts) = match action {
            Action::Deny(duration) => (RestrictionKind::Denied(DenialSource::Operator), duration),
            Action::Lift => (RestrictionKind::Lifted(DenialSource::Operator), Duration::ZERO),
        };
        let fact =
            Restriction { tenant: tenant.clone(), subject: subject.clone(), kind, at, until: at, session_user: None };
        if let (Some(client_id), Subject::User(user)) = (client_id, subject) {
            self.names.insert((tenant.clone(), user.clone(), Some(client_id.to_owned())));
        }
        let number = self.state(tenant.clone(), vec![fact], lasts, now);
        self.statements[number].client_id = client_id.map(str::to_owned);
        number
    }

    fn state(&mut self, tenant: TenantName, facts: Vec<Restriction>, lasts: Duration, said_at: UnixMillis) -> usize {
        for (number, fact) in facts.iter().enumerate() {
            self.facts.entry(row_key(fact)).or_default().push((self.statements.len(), number));
        }
        let known_by = vec![BTreeSet::new(); facts.len()];
        self.statements.push(Statement {
            tenant,
            facts,
            client_id: None,
            said_at,
            lasts,
            ends: None,
            told: BTreeMap::new(),
            tellings: 0,
            is_taken_at_once: false,
            known_by,
            is_recorded: false,
            accepted: None,
            first_told_at: None,
            told_at: said_at,
            told_in_confusion_at: None,
            is_lost: false,
            lost_tasks: BTreeSet::new(),
        });
        self.statements.len() - 1
    }

    /// A replica is being told a statement.
    pub(crate) fn told(&mut self, statement: usize, run: usize, by_clock: UnixMillis, now: UnixMillis) {
        self.tellings += 1;
        let statement = &mut self.statements[statement];
        statement.tellings += 1;
        let end = by_clock.after(statement.lasts);
        let (first, last) = statement.ends.unwrap_or((end, end));
        statement.ends = Some((first.min(end), last.max(end)));
        statement.told_at = now;
        if self.splits > 0 {
            statement.told_in_confusion_at = Some(now);
        }
        statement.first_told_at.get_or_insert(now);
        statement.known_by.iter_mut().for_each(|runs| _ = runs.insert(run));
    }

    /// The replica has answered, or crashed.
    pub(crate) fn answered(&mut self, number: usize, run: usize, answer: Answer, redis: &Redis, now: UnixMillis) {
        let statement = &mut self.statements[number];
        if answer == Answer::None {
            return;
        }
        statement.told.entry(run).or_insert(now);
        if answer == Answer::Refused {
            return;
        }
        let is_in_redis = |fact: &Restriction| redis.nodes.iter().any(|node| node.is_alive && node.data.knows(fact));
        statement.is_recorded |= statement.facts.iter().all(is_in_redis) && statement.accepted.is_none();
        statement.is_taken_at_once |= statement.tellings == 1;
        statement.accepted.get_or_insert(now);
        if self.last_loss.is_some_and(|loss| statement.told_at < loss.after(LOSS_IS_NOTICED_WITHIN)) {
            statement.told_in_confusion_at = Some(statement.told_at);
        }
        let statement = &self.statements[number];
        // An outdated fact needs no record: the newer one is recorded, or told again.
        let is_outdated =
            |fact: &Restriction| self.said(&row_key(fact)).iter().any(|said| rank_of(said.fact) > rank_of(fact));
        let is_known = statement.facts.iter().all(|fact| is_in_redis(fact) || is_outdated(fact));
        if !is_known && !self.is_forgetful && self.last_loss.is_none_or(|loss| loss < statement.told_at) {
            self.violations.push(format!("4: statement {number} was accepted, but Redis does not have it"));
        }
    }

    /// Whether Redis lost data after a time, or so shortly before that it may not have been noticed.
    fn loses_after(&self, time: UnixMillis) -> bool {
        self.last_loss.is_some_and(|loss| time < loss.after(LOSS_IS_NOTICED_WITHIN))
    }

    /// Whether this data has all that a statement says, or what counts instead.
    pub(crate) fn is_in(&self, statement: usize, data: &Data) -> bool {
        self.statements[statement].facts.iter().all(|fact| data.knows(fact))
    }

    /// Whether a run was told a restriction, or has read it.
    pub(crate) fn has_heard(&self, run: usize, restriction: &Restriction) -> bool {
        let mut said = self.facts.get(&row_key(restriction)).into_iter().flatten();
        said.any(|(statement, fact)| {
            let Statement { facts, known_by, .. } = &self.statements[*statement];
            facts[*fact].at == restriction.at && known_by[*fact].contains(&run)
        })
    }

    /// A replica reads a restriction from Redis.
    pub(crate) fn hears(&mut self, run: usize, heard: &Restriction) {
        for statement in &mut self.statements {
            let is_it =
                |fact: &Restriction| fact.at == heard.at && fact.kind == heard.kind && row_key(fact) == row_key(heard);
            for (fact, known_by) in statement.facts.iter().zip(&mut statement.known_by) {
                if is_it(fact) {
                    known_by.insert(run);
                }
            }
        }
    }

    pub(crate) fn task_is_kept(&mut self, run: usize, task: &StoredTask) {
        let payload: serde_json::Value = serde_json::from_str(&task.payload).unwrap();
        let (tenant, at) = (payload["tenant"].as_str().unwrap().to_owned(), payload["at"].as_i64().unwrap());
        let late_of = is_of_return(task).then_some(run);
        let kept = || KeptTask { tenant, at, late_of, known_by: BTreeSet::new(), is_done: false };
        let kept = self.tasks.entry(task.id.clone()).or_insert_with(kept);
        kept.known_by.insert(run);
    }

    pub(crate) fn task_is_done(&mut self, id: &str) {
        if let Some(task) = self.tasks.get_mut(id) {
            task.is_done = true;
        }
    }

    pub(crate) fn is_in_sync(&mut self, run: usize, now: UnixMillis) {
        self.in_sync_at.insert(run, now);
    }

    pub(crate) fn crashed(&mut self, run: usize) {
        let in_sync_at = self.in_sync_at.get(&run).copied().unwrap_or(UnixMillis(0));
        for token in self.tokens.iter_mut().filter(|token| token.run == run) {
            token.is_lost |= token.may_be_lost()
                && in_sync_at <= token.signed_at.max(token.lost_by_redis_at.unwrap_or(token.signed_at));
        }
        let known_by = self.statements.iter_mut().flat_map(|statement| &mut statement.known_by);
        known_by.for_each(|runs| _ = runs.remove(&run));
        self.tasks.values_mut().for_each(|task| _ = task.known_by.remove(&run));
    }

    pub(crate) fn starts(&mut self, run: usize, now: UnixMillis) {
        self.started.insert(run, now);
    }

    pub(crate) fn loses_data(&mut self, now: UnixMillis) {
        self.last_loss = Some(now);
    }

    /// A failover leaves an old master that goes on.
    pub(crate) fn splits(&mut self, now: UnixMillis) {
        self.splits += 1;
        self.loses_data(now);
    }

    pub(crate) fn is_united(&mut self) {
        self.splits -= 1;
    }

    /// A run has stored a task of the schedule.
    pub(crate) fn work_is_given(&mut self, number: usize, run: usize, due: UnixMillis, given_at: UnixMillis) {
        self.works.push(Work { number, run, due, given_at, is_lost: false });
    }

    /// A run is about to store a task of the schedule. Whether it is the first time.
    pub(crate) fn stores(&mut self, run: usize, work: usize) -> bool {
        self.storing.insert((run, work))
    }

    pub(crate) fn work_count(&self) -> usize {
        self.works.len()
    }

    /// Finds what neither Redis nor a replica has any more.
    pub(crate) fn find_lost(&mut self, redis: &Redis, running: &BTreeSet<usize>) {
        let nodes: Vec<_> = redis.nodes.iter().filter(|node| node.is_alive).collect();
        for statement in self.statements.iter_mut().filter(|statement| statement.accepted.is_some()) {
            let mut facts = statement.facts.iter().zip(&statement.known_by);
            let is_lost = facts.any(|(fact, known_by)| {
                nodes.iter().all(|node| !node.data.knows(fact)) && known_by.is_disjoint(running)
            });
            statement.is_lost |= is_lost;
        }
        let is_in_redis = |token: &IssuedToken| nodes.iter().any(|node| node.data.has_live_token(&token.live_token));
        for token in self.tokens.iter_mut().filter(|token| !is_in_redis(token)) {
            token.lost_by_redis_at = self.last_loss;
            token.is_lost |= !running.contains(&token.run) && token.may_be_lost();
        }
        for lost in self.works.iter_mut().filter(|given| !running.contains(&given.run)) {
            let has = |node: &&Node| {
                node.data.tasks.get(&work::client_id(lost.number)).is_some_and(|(task, _)| task.due >= lost.due)
            };
            lost.is_lost |= !nodes.iter().any(has);
        }
        for (id, task) in self.tasks.iter_mut().filter(|(_, task)| !task.is_done) {
            if task.known_by.is_disjoint(running) && !nodes.iter().any(|node| node.data.tasks.contains_key(id)) {
                task.is_done = true;
                for statement in &mut self.statements {
                    let is_of_task = statement.tenant.as_str() == task.tenant
                        && statement.accepted.is_some()
                        && statement.facts.iter().any(|fact| fact.at.0 == task.at);
                    // What Redis lost as well is recorded late, and its tokens are looked up.
                    let is_in_redis = statement.facts.iter().any(|fact| nodes.iter().any(|node| node.data.knows(fact)));
                    if is_of_task && is_in_redis {
                        statement.lost_tasks.insert(task.late_of);
                    }
                }
            }
        }
    }

    pub(crate) fn registers(&mut self, live_token: &LiveToken) {
        let LiveToken { tenant, user, client_id, .. } = live_token.clone();
        self.names.insert((tenant, user, Some(client_id)));
        self.registered.insert(LiveToken { until: UnixMillis(0), ..live_token.clone() });
    }

    /// Whether a live token of a session was ever registered.
    pub(crate) fn has_registered(&self, tenant: &str, session: &str) -> bool {
        self.registered.iter().any(|known| known.tenant.as_str() == tenant && known.session == session)
    }

    pub(crate) fn issued(&mut self, token: IssuedToken) -> usize {
        self.tokens.push(token);
        self.tokens.len() - 1
    }

    pub(crate) fn last_token_of(&self, run: usize) -> Option<LiveToken> {
        self.tokens.iter().rfind(|token| token.run == run).map(|token| token.live_token.clone())
    }

    pub(crate) fn at_ably(&mut self, token: usize, dated: UnixMillis, ends: UnixMillis) {
        self.tokens[token].at_ably = Some((dated, ends));
    }

    fn said(&self, key: &RowKey) -> Vec<Said<'_>> {
        self.facts_with(key).filter(|said| said.statement.ends.is_some()).collect()
    }

    fn facts_with(&self, key: &RowKey) -> impl Iterator<Item = Said<'_>> {
        self.facts.get(key).into_iter().flatten().map(|(statement, fact)| {
            let statement = &self.statements[*statement];
            Said { fact: &statement.facts[*fact], statement }
        })
    }

    /// Checks everything when all faults have ended and everything had its time.
    pub(crate) fn finish(
        &mut self,
        redis: &Redis,
        ably: &[Revoked],
        faults: &FaultLog,
        running: &BTreeSet<usize>,
        now: UnixMillis,
    ) {
        let mut violations = Vec::new();
        // What a replica was told and refused, it keeps and records.
        for statement in self.statements.iter_mut().filter(|statement| statement.accepted.is_none()) {
            let is_kept = statement.told.keys().any(|run| running.contains(run));
            statement.accepted = is_kept.then_some(now);
        }
        violations.extend(self.works.iter().filter_map(|work| work.find_undone(ably)));
        for (number, statement) in self.statements.iter().enumerate() {
            let is_of_operator = statement.facts[0].kind == RestrictionKind::Denied(DenialSource::Operator)
                || statement.facts[0].kind == RestrictionKind::Lifted(DenialSource::Operator);
            if statement.accepted.is_none() && !is_of_operator {
                violations.push(format!("5: statement {number} was never accepted"));
            }
        }
        if !self.is_forgetful {
            let is_accepted = |statement: &Statement| statement.accepted.is_some();
            let unrevoked = |token| self.find_unrevoked(token, ably, now, is_accepted);
            violations.extend(self.tokens.iter().filter_map(unrevoked));
            violations.extend(ably.iter().filter_map(|revoked| self.find_unjustified(revoked, faults)));
            violations.extend(self.repeated.iter().filter_map(|repeated| self.find_unrepeated(repeated, ably)));
        }
        let data = &redis.master().data;
        for (number, statement) in self.statements.iter().enumerate() {
            let must_be_known = statement.accepted.is_some() && !statement.is_lost && !self.is_forgetful;
            if must_be_known && !statement.facts.iter().all(|fact| data.knows(fact)) {
                violations.push(format!("5: Redis lacks statement {number}"));
            }
        }
        if data.log.len() > redis.max_log() {
            violations.push("5: the log is too long".into());
        }
        self.violations.extend(violations);
    }

    pub(crate) fn is_forgetful(&self) -> bool {
        self.is_forgetful
    }

    /// The names that a user has or had, and `None` if the user had none for a while.
    pub(crate) fn names_of(&self, tenant: &TenantName, user: &str) -> Vec<Option<String>> {
        let names = self.names.iter().filter(|(known, id, _)| known == tenant && id == user);
        names.map(|(_, _, name)| name.clone()).collect()
    }

    pub(crate) fn statement_count(&self) -> usize {
        self.statements.len()
    }

    /// The keys of all that was said.
    pub(crate) fn said_keys(&self) -> impl Iterator<Item = &RowKey> {
        self.facts.keys()
    }

    /// A time after which a run has applied a restriction.
    pub(crate) fn last_learned(&self, run: usize) -> Option<UnixMillis> {
        /// A telling takes less.
        const TELLING: Duration = Duration::from_secs(30);
        let told = self.statements.iter().filter_map(|statement| statement.told.get(&run)).max();
        told.map(|told| UnixMillis(told.0 - clock::millis(TELLING)))
    }
}
