//! Checks what the service promises, by a history of its own: what Clerk and the operator said, which tokens were issued,
//! and what Ably revoked. It reads nothing that a replica thinks.

mod client_ids;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ably_clerk_auth::{
    ably::{ReauthMargin, Target, TokenFormat},
    clerk::{Change, Event},
    clock::{self, UnixMillis},
    revocation::operator::Action,
    store::{ClientIdDigest, DenialSource, LiveToken, Restriction, RestrictionKind, StoredTask, Subject},
    tenant::TenantName,
};

use client_ids::Repeated;

use crate::{
    ably::Revoked,
    clerk::SessionToken,
    clients::NameSource,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Clear,
    Denied,
    Outdated,
    /// The user has no username.
    Nameless,
    Unavailable,
    Full,
}

/// A request for a token.
pub(crate) struct Request {
    pub(crate) tenant: TenantName,
    pub(crate) token: SessionToken,
    pub(crate) client_id: Option<String>,
    pub(crate) source: NameSource,
    pub(crate) asked_at: UnixMillis,
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

fn is_work(revoked: &Revoked) -> bool {
    matches!(&revoked.target, Target::ClientId(id) if work::is_client_id(id.as_str()))
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

    fn is_revoked(&self, ably: &[Revoked]) -> bool {
        let Some((dated, _)) = self.at_ably else { return true };
        ably.iter().any(|revoked| {
            revoked.tenant == self.live_token.tenant
                && revoked.key == self.live_token.key
                && dated < revoked.at
                && is_target(&self.live_token, &revoked.target)
        })
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

fn is_target(live_token: &LiveToken, target: &Target) -> bool {
    match target {
        Target::ClientId(client_id) => live_token.client_id == client_id.as_str(),
        Target::RevocationKey(key) => live_token.format == TokenFormat::Jwt && live_token.session == key.as_str(),
    }
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

/// What may decide at a replica: one of these facts, but not which.
struct Candidates<'a> {
    is_surely_any: bool,
    facts: Vec<Said<'a>>,
}

impl Said<'_> {
    fn is_surely_active(self, now: UnixMillis) -> bool {
        self.statement.ends.is_some_and(|(first, _)| now.after(SLACK) < first)
    }

    fn is_possibly_active(self, now: UnixMillis) -> bool {
        self.statement.ends.is_some_and(|(_, last)| now < last.after(SLACK))
    }

    /// Whether it refuses a session token while it is active.
    fn refuses(self, request: &Request) -> bool {
        let minted_before = request.token.session.issued_at <= self.fact.at;
        match self.fact.kind {
            RestrictionKind::Denied(_) | RestrictionKind::Deleted => true,
            RestrictionKind::Lifted(_) => false,
            RestrictionKind::NotBefore => minted_before,
            RestrictionKind::ClientId(digest) => {
                minted_before && request.client_id.as_ref().is_some_and(|id| digest != Some(ClientIdDigest::of(id)))
            }
        }
    }
}

impl Candidates<'_> {
    fn must_refuse(&self, request: &Request, now: UnixMillis) -> bool {
        self.is_surely_any && self.facts.iter().all(|said| said.refuses(request) && said.is_surely_active(now))
    }

    fn may_refuse(&self, request: &Request, now: UnixMillis) -> bool {
        self.facts.iter().any(|said| said.refuses(request) && said.is_possibly_active(now))
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

    /// Checks what a replica decided.
    pub(crate) fn decided(
        &mut self,
        request: &Request,
        run: usize,
        decision: Decision,
        faults: &FaultLog,
        end: UnixMillis,
    ) {
        let Request { tenant, token, asked_at, .. } = request;
        let session = &token.session;
        let organization = session.organization.as_ref().map(|organization| &organization.id);
        let denials = denial_keys(tenant, &session.session_id, &session.user_id);
        let marks = mark_keys(tenant, &session.user_id, organization);
        let candidates = |keys: &[RowKey]| -> Vec<Candidates<'_>> {
            keys.iter().map(|key| self.candidates(key, run, *asked_at, faults)).collect()
        };
        let violation = match decision {
            Decision::Clear => {
                let all = candidates(&[denials, marks].concat());
                let former = request.source == NameSource::Users && self.uses_former_name(request, run, faults);
                if all.iter().any(|candidates| candidates.must_refuse(request, end)) {
                    Some("1: a token was issued despite a restriction")
                } else {
                    former.then_some("3: a former name is used")
                }
            }
            Decision::Denied => {
                let is_justified = candidates(&denials).iter().any(|known| known.may_refuse(request, *asked_at));
                (!is_justified && !self.is_forgetful).then_some("3: somebody is denied whom nobody denies")
            }
            Decision::Outdated => {
                let is_justified = candidates(&marks).iter().any(|known| known.may_refuse(request, *asked_at));
                (!is_justified && !self.is_forgetful).then_some("3: a session token is refused as outdated that is not")
            }
            Decision::Nameless => {
                let former = request.source == NameSource::Users && self.uses_former_name(request, run, faults);
                former.then_some("3: a user who has a name again is refused for having none")
            }
            Decision::Unavailable => {
                let is_calm = faults.is_calm(*asked_at) && faults.is_calm(end);
                is_calm.then_some("5: a replica refuses without an outage")
            }
            Decision::Full => None,
        };
        if let Some(violation) = violation {
            let (session, minted, name) = (&session.session_id, session.issued_at.0, &request.client_id);
            self.violations.push(format!(
                "{violation}: run {run}, {session} of {tenant}, token minted at {minted}, client ID {name:?}, at {}",
                asked_at.0
            ));
        }
    }

    fn uses_former_name(&self, request: &Request, run: usize, faults: &FaultLog) -> bool {
        let key = client_id_key(&request.tenant, &request.token.session.user_id);
        let candidates = self.candidates(&key, run, request.asked_at, faults);
        let used = request.client_id.as_deref().map(ClientIdDigest::of);
        let is_former = |said: &Said<'_>| matches!(said.fact.kind, RestrictionKind::ClientId(digest) if digest != used);
        // A look-up may find a name, or none, that no replica was told yet.
        let is_ahead = self
            .facts_with(&key)
            .filter(|said| said.statement.ends.is_none())
            .any(|Said { fact, .. }| matches!(fact.kind, RestrictionKind::ClientId(digest) if digest == used));
        candidates.is_surely_any && candidates.facts.iter().all(is_former) && !is_ahead
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

    /// Which facts may decide for a run at a time. It surely knows what it was told, and what was accepted long enough ago.
    fn candidates(&self, key: &RowKey, run: usize, time: UnixMillis, faults: &FaultLog) -> Candidates<'_> {
        let said = self.said(key);
        // A run reads what was recorded before it started.
        let is_read = |statement: &Statement| {
            let is_before = statement.accepted.is_some_and(|accepted| accepted < self.started[&run]);
            let is_kept = statement.first_told_at.is_some_and(|told| self.last_loss.is_none_or(|loss| loss < told));
            statement.is_recorded && is_before && is_kept && self.splits == 0
        };
        let is_surely_known = |said: &&Said<'_>| {
            let statement = said.statement;
            let is_told = statement.told.get(&run).is_some_and(|told| *told <= time);
            let is_heard = statement.accepted.is_some_and(|accepted| faults.is_heard_by_all(accepted, time));
            is_told || (is_heard || is_read(statement)) && !statement.is_lost
        };
        let surely = said.iter().filter(is_surely_known).map(|said| rank_of(said.fact)).max();
        let facts = said.into_iter().filter(|said| surely.is_none_or(|surely| rank_of(said.fact) >= surely)).collect();
        Candidates { is_surely_any: surely.is_some(), facts }
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

    /// Whether an update gives the name of the update before, by Clerk's order. It ends nothing anew.
    fn repeats_name(&self, fact: &Restriction) -> bool {
        let said = self.said(&row_key(fact));
        let before = said.iter().filter(|said| said.fact.at < fact.at).max_by_key(|said| said.fact.at);
        matches!(fact.kind, RestrictionKind::ClientId(_)) && before.is_some_and(|said| said.fact.kind == fact.kind)
    }

    /// Checks that what the first revocation can reach does not wait for the second: tokens from before their statement, and
    /// those that a replica issued long after it, during an outage.
    pub(crate) fn check_first_revocations(&mut self, ably: &[Revoked], faults_until: UnixMillis, now: UnixMillis) {
        const HEARD_WITHIN: Duration = Duration::from_secs(4);
        if self.is_forgetful {
            return;
        }
        let find = |token: &IssuedToken| {
            let (dated, _) = token.at_ably?;
            if dated >= faults_until {
                return None;
            }
            let is_reached = |statement: &Statement| {
                let is_before = statement.first_told_at.is_some_and(|told| dated < told && token.signed_at < told)
                    && !statement.facts.iter().any(|fact| self.repeats_name(fact));
                let is_long_after =
                    statement.accepted.is_some_and(|accepted| accepted.after(HEARD_WITHIN) < token.signed_at);
                // An update may repeat a name, which ends nothing anew.
                let is_update = statement.facts.len() > 1;
                // Redis gets a token that it lost when the replica that has it returns, unless it crashes before.
                let has_crashed = !statement.known_by.iter().all(|runs| runs.contains(&token.run));
                let is_told_here = statement.told.contains_key(&token.run) && !has_crashed;
                statement.accepted.is_some()
                    && (statement.told_in_confusion_at.is_none() || is_told_here)
                    && (is_before && (token.lost_by_redis_at.is_none() || is_told_here)
                        || !is_update && is_long_after && token.registered_since.is_none() && dated <= token.signed_at)
            };
            self.find_unrevoked(token, ably, now, is_reached)
        };
        let violations: Vec<_> = self.tokens.iter().filter_map(find).collect();
        self.violations.extend(violations.into_iter().map(|violation| format!("{violation}, at once")));
    }

    /// Checks that while everything works, what a statement ends is revoked when the service answers.
    pub(crate) fn check_answers(&mut self, ably: &[Revoked], faults: &FaultLog) {
        if self.is_forgetful {
            return;
        }
        let mut violations = Vec::new();
        for statement in self.statements.iter().filter(|statement| statement.facts.len() == 1) {
            let (Some(told), Some(accepted)) = (statement.first_told_at, statement.accepted) else { continue };
            let is_calm = faults.is_calm(told) && faults.is_calm(accepted) && statement.is_taken_at_once;
            if !is_calm || statement.told_in_confusion_at.is_some() {
                continue;
            }
            let revoked: Vec<_> = ably.iter().filter(|revoked| revoked.at <= accepted).cloned().collect();
            let is_reached = |token: &&IssuedToken| {
                let is_before = token.at_ably.is_some_and(|(dated, _)| dated < told) && token.signed_at < told;
                is_before && concerns(&statement.facts[0], &token.live_token)
            };
            let find = |token| self.find_unrevoked(token, &revoked, accepted, |top| std::ptr::eq(top, statement));
            violations.extend(self.tokens.iter().filter(is_reached).filter_map(find));
        }
        self.violations.extend(violations.into_iter().map(|violation| format!("{violation}, when it was answered")));
    }

    /// Checks that what was told while everything worked is revoked for good within the documented time.
    pub(crate) fn check_second_revocations(&mut self, ably: &[Revoked], faults: &FaultLog, now: UnixMillis) {
        const WITHIN: Duration = Duration::from_mins(3);
        let mut violations = Vec::new();
        for statement in self.statements.iter().filter(|_| !self.is_forgetful) {
            let (Some(told), Some(accepted)) = (statement.first_told_at, statement.accepted) else { continue };
            let end = accepted.after(WITHIN + SLACK);
            if end < now && faults.is_calm(told) && !faults.is_disturbed(told, end) {
                let revoked: Vec<_> = ably.iter().filter(|revoked| revoked.at <= end).cloned().collect();
                let find = |token| self.find_unrevoked(token, &revoked, end, |top| std::ptr::eq(top, statement));
                violations.extend(self.tokens.iter().filter_map(find));
            }
        }
        self.violations.extend(violations.into_iter().map(|violation| format!("{violation}, within three minutes")));
    }

    /// Checks that a run that has had no Redis since `since` has revoked its own tokens twice despite what it was told.
    pub(crate) fn check_own_revocations(&mut self, ably: &[Revoked], run: usize, since: UnixMillis, now: UnixMillis) {
        const DONE_WITHIN: Duration = Duration::from_secs(15);
        if self.is_forgetful {
            return;
        }
        let find = |token: &IssuedToken| {
            let (dated, _) = token.at_ably?;
            let is_told = |statement: &Statement| {
                let told = statement.told.get(&run).filter(|told| since <= **told);
                let is_update = statement.facts.len() > 1;
                !is_update
                    && told.is_some_and(|told| {
                        dated < told.after(REVOKES_AGAIN_AFTER) && told.after(REVOKES_AGAIN_AFTER + DONE_WITHIN) < now
                    })
            };
            self.find_unrevoked(token, ably, now, is_told)
        };
        let violations: Vec<_> = self.tokens.iter().filter(|token| token.run == run).filter_map(find).collect();
        self.violations.extend(violations.into_iter().map(|violation| format!("{violation}, by its own replica")));
    }

    /// Why a token should have been revoked and was not.
    fn find_unrevoked(
        &self,
        token: &IssuedToken,
        ably: &[Revoked],
        now: UnixMillis,
        is_reached_by: impl Fn(&Statement) -> bool,
    ) -> Option<String> {
        let (dated, ends) = token.at_ably?;
        if ends < now || token.is_revoked(ably) {
            return None;
        }
        let LiveToken { tenant, user, session, organization, client_id, .. } = &token.live_token;
        let mut keys = denial_keys(tenant, session, user);
        keys.extend(mark_keys(tenant, user, organization.as_ref()));
        for key in keys {
            let said = self.said(&key);
            let Some(top) = said.iter().max_by_key(|said| rank_of(said.fact)) else { continue };
            let are_tasks_lost =
                |statement: &Statement| [None, Some(token.run)].iter().any(|of| statement.lost_tasks.contains(of));
            let is_uncertain = !is_reached_by(top.statement)
                || said.iter().any(|said| said.statement.is_lost || are_tasks_lost(said.statement))
                || token.is_lost && !self.ends_unknown(top, token);
            if is_uncertain || !top.statement.is_about(client_id) {
                continue;
            }
            let is_signed_before = |end: UnixMillis| token.signed_at.after(SLACK) < end;
            let end = top.statement.ends.map_or(UnixMillis(0), |(first, _)| first);
            let is_against = match top.fact.kind {
                RestrictionKind::Lifted(_) => false,
                RestrictionKind::Denied(DenialSource::Operator) if top.statement.lasts <= REVOKES_AGAIN_AFTER => {
                    dated.after(Duration::from_millis(2100)) < top.statement.said_at
                }
                RestrictionKind::Denied(_) | RestrictionKind::Deleted => is_signed_before(end),
                RestrictionKind::NotBefore => token.minted <= top.fact.at && is_signed_before(end),
                RestrictionKind::ClientId(digest) => {
                    let others = said.iter().filter(|said| said.fact.kind != top.fact.kind);
                    let last_other = others.map(|said| rank_of(said.fact)).max();
                    // Since the last change of the name, maybe by several statements.
                    let first = said
                        .iter()
                        .filter(|said| said.fact.kind == top.fact.kind && Some(rank_of(said.fact)) > last_other)
                        .map(|said| said.statement.ends.map_or(UnixMillis(0), |(first, _)| first));
                    digest != Some(ClientIdDigest::of(client_id)) && is_signed_before(first.min().unwrap_or(end))
                }
            };
            if is_against {
                let by = self.statements.iter().position(|statement| std::ptr::eq(statement, top.statement));
                return Some(format!(
                    "2: not revoked: {:?} of run {}, signed at {}, dated {}, despite statement {by:?} {:?}",
                    token.live_token, token.run, token.signed_at.0, dated.0, top.fact
                ));
            }
        }
        None
    }

    /// Whether a statement ends even an unknown token: a request by client ID, the end of a session if it is a JWT, a ban if the
    /// user has always had this name, and tokens of one key only.
    fn ends_unknown(&self, said: &Said<'_>, token: &IssuedToken) -> bool {
        let Said { fact: Restriction { tenant, subject, kind, .. }, statement } = said;
        let ends = match subject {
            Subject::Session(_) => token.live_token.format == TokenFormat::Jwt,
            Subject::User(user) if *kind == RestrictionKind::Denied(DenialSource::Clerk) => {
                let mut of_user = self.registered.iter().filter(|known| known.tenant == *tenant && known.user == *user);
                self.names_of(tenant, user).len() == 1 && of_user.all(|known| known.key == token.live_token.key)
            }
            _ => false,
        };
        (ends || statement.client_id.is_some())
            && statement.is_taken_at_once
            && statement.told_in_confusion_at.is_none()
            && statement.first_told_at.is_some_and(|told| {
                token.signed_at < told
                    && token.at_ably.is_some_and(|(dated, _)| dated < told)
                    && self.last_loss.is_none_or(|loss| loss < told)
            })
    }

    /// Why Ably should not have revoked a target.
    fn find_unjustified(&self, revoked: &Revoked, faults: &FaultLog) -> Option<String> {
        // A replica that learns late of a denial ends all tokens of its user.
        let is_its = |statement: &Statement| {
            matches!(&revoked.target, Target::ClientId(id) if statement.is_about(id.as_str()))
                || statement.client_id.is_none()
        };
        let is_justified = self.statements.iter().any(|statement| {
            statement.tenant == revoked.tenant
                && statement.said_at <= revoked.at
                && (is_its(statement) || faults.is_disturbed_or_recovering(statement.said_at, revoked.at))
                && statement.facts.iter().any(|fact| {
                    let may_be_undone = statement.client_id.is_none() || !statement.told.is_empty();
                    self.ends(fact, revoked) && !(may_be_undone && self.is_undone(fact, revoked, faults))
                })
        });
        (!is_justified && !is_work(revoked)).then(|| format!("3: revoked without a reason: {revoked:?}"))
    }

    /// Whether a fact ends tokens of a target, with this margin.
    fn ends(&self, fact: &Restriction, Revoked { tenant, key, target, margin, .. }: &Revoked) -> bool {
        let is_session = matches!(target, Target::RevocationKey(_));
        // JWTs of some sessions are revoked by the session.
        let has_token = |is_of: &dyn Fn(&LiveToken) -> bool| {
            let is_alone = |token: &LiveToken| token.key == *key && is_session == (token.format == TokenFormat::Jwt);
            let mut tokens = self.registered.iter().filter(|live_token| live_token.tenant == *tenant);
            tokens.any(|live_token| is_target(live_token, target) && is_alone(live_token) && is_of(live_token))
        };
        let is_name_of = |user: &String| {
            let Target::ClientId(client_id) = target else { return false };
            self.names.contains(&(tenant.clone(), user.clone(), Some(client_id.as_str().to_owned())))
        };
        let (ends, at_once) = match (&fact.subject, fact.kind) {
            (_, RestrictionKind::Lifted(_)) => (false, false),
            (Subject::User(user), RestrictionKind::ClientId(digest)) => {
                let is_other =
                    matches!(target, Target::ClientId(id) if digest != Some(ClientIdDigest::of(id.as_str())));
                (is_other && is_name_of(user), false)
            }
            (Subject::User(user), _) => (is_name_of(user), true),
            (Subject::Session(session), _) => {
                let is_it = matches!(target, Target::RevocationKey(key) if key.as_str() == session);
                (is_it || has_token(&|token| token.session == *session), is_session)
            }
            (Subject::Member { user, organization }, _) => {
                let is_of_member =
                    |token: &LiveToken| token.user == *user && token.organization.as_ref() == Some(organization);
                (has_token(&is_of_member), false)
            }
            (Subject::Organization(organization), _) => {
                (has_token(&|token| token.organization.as_ref() == Some(organization)), false)
            }
        };
        ends && at_once == (*margin == ReauthMargin::None)
    }

    /// Whether every replica knew for a while that a newer statement undoes this fact for the target.
    fn is_undone(&self, fact: &Restriction, revoked: &Revoked, faults: &FaultLog) -> bool {
        // How long a call may wait in a queue, and take.
        const CALL: i64 = 15_000;
        let time = UnixMillis(revoked.at.0 - CALL);
        self.said(&row_key(fact)).iter().any(|newer| {
            let undoes = match (newer.fact.kind, &revoked.target) {
                (RestrictionKind::Lifted(_), _) => true,
                (RestrictionKind::ClientId(digest), Target::ClientId(client_id)) => {
                    digest == Some(ClientIdDigest::of(client_id.as_str()))
                }
                _ => false,
            };
            undoes
                && rank_of(newer.fact) > rank_of(fact)
                && !newer.statement.is_lost
                && newer.statement.accepted.is_some_and(|accepted| faults.is_heard_by_all(accepted, time))
                && !self.is_denied_again(newer.fact, time, revoked.at)
        })
    }

    /// Whether a denial that followed a lift held between two times. Then tasks of a denial before the lift are performed too.
    fn is_denied_again(&self, lift: &Restriction, from: UnixMillis, until: UnixMillis) -> bool {
        let holds = |said: &Said<'_>| {
            let has_ended = said.statement.ends.is_some_and(|(_, last)| last <= from);
            said.statement.said_at <= until && !said.is_lift() && !has_ended
        };
        matches!(lift.kind, RestrictionKind::Lifted(_))
            && self.said(&row_key(lift)).iter().any(|said| holds(said) && rank_of(said.fact) > rank_of(lift))
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
}
