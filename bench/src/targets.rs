//! What is measured: the service in several settings, its peers, and a bare HTTP server.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, bail};
use serde::Serialize;

use crate::{
    args::{Options, Service},
    load::{Expected, Order, Requests},
    measure::{CONNECTIONS, MANY_CONNECTIONS, WARM_UP},
    process::Program,
    programs,
    stand_ins::{LOOKED_UP_USERS, StandIns},
    tokens::{Pool, garbage, with_forged_signature, with_unknown_kid},
};

/// The name of the verification alone, which is no server.
pub(crate) const FLOOR: &str = "floor";

/// Where a target belongs in tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Group {
    Reference,
    Service,
    Refusal,
    Peer,
}

/// Whether a server is started for each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// A new process a round, so that it remembers none of the tokens of the last.
    Round,
    /// One process for the whole run, because it becomes faster over seconds.
    Run,
}

/// What a server needs beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Companion {
    None,
    Redis,
}

/// What is sent before a measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WarmUp {
    For(Duration),
    /// The first so many requests, until all of them succeed: then the service has looked up every user.
    Users(usize),
}

/// A server and the requests that it gets.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) label: String,
    pub(crate) group: Group,
    pub(crate) program: Program,
    pub(crate) lifetime: Lifetime,
    pub(crate) companion: Companion,
    pub(crate) warm_up: WarmUp,
    pub(crate) connections: usize,
    pub(crate) requests: Requests,
    pub(crate) expected: Expected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bare,
    Unique,
    Cookies,
    Repeated,
    LookedUp,
    TwentyRules,
    Jwt,
    Revocable,
    Redis,
    RevocableRedis,
    SignedOut,
    Garbage,
    UnknownKid,
    Expired,
    Forged,
    ClerkRs,
    Node,
    Express,
}

const ALL: [(Kind, &str, Group, &str); 18] = [
    (Kind::Bare, "bare", Group::Reference, "actix-web alone, static JSON"),
    (Kind::Unique, "unique", Group::Service, "unique session tokens"),
    (Kind::Cookies, "cookies", Group::Service, "unique session tokens in cookies"),
    (Kind::Repeated, "repeated", Group::Service, "the same ten session tokens again"),
    (Kind::LookedUp, "looked-up", Group::Service, "username by cached look-up"),
    (Kind::TwentyRules, "rules", Group::Service, "policy with 20 rules"),
    (Kind::Jwt, "jwt", Group::Service, "TOKEN_FORMAT=jwt"),
    (Kind::Revocable, "revocable", Group::Service, "revocable tokens, 128 connections"),
    (Kind::Redis, "redis", Group::Service, "with Redis"),
    (Kind::RevocableRedis, "revocable-redis", Group::Service, "revocable tokens, with Redis, 128 connections"),
    (Kind::SignedOut, "signed-out", Group::Refusal, "refused: no session token"),
    (Kind::Garbage, "garbage", Group::Refusal, "refused: garbage"),
    (Kind::UnknownKid, "unknown-kid", Group::Refusal, "refused: unknown kid"),
    (Kind::Expired, "expired", Group::Refusal, "refused: expired"),
    (Kind::Forged, "forged", Group::Refusal, "refused: forged signature"),
    (Kind::ClerkRs, "clerk-rs", Group::Peer, "actix-web with clerk-rs"),
    (Kind::Node, "node", Group::Peer, "Node http, @clerk/backend, ably-js"),
    (Kind::Express, "express", Group::Peer, "Express 5, @clerk/express, ably-js"),
];

/// The names of all targets.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|(_, name, ..)| *name).chain([FLOOR])
}

/// The targets that the options select.
pub(crate) fn targets(options: &Options, services: &[Service], stand_ins: &StandIns) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for (kind, name, group, label) in ALL.iter().filter(|(_, name, ..)| options.selects(name)) {
        let made = |service: Option<&Service>| target(*kind, name, *group, label, service, stand_ins);
        match group {
            Group::Service | Group::Refusal => {
                for service in services {
                    targets.push(made(Some(service))?);
                }
            }
            Group::Reference | Group::Peer => targets.push(made(None)?),
        }
    }
    Ok(targets)
}

fn target(
    kind: Kind,
    name: &str,
    group: Group,
    label: &str,
    service: Option<&Service>,
    stand_ins: &StandIns,
) -> Result<Target> {
    let program = match (kind, service) {
        (Kind::Bare, _) => programs::rust_peer("peer-bare", stand_ins)?,
        (Kind::ClerkRs, _) => programs::rust_peer("peer-clerk-rs", stand_ins)?,
        (Kind::Node, _) => programs::node_peer("http.js", stand_ins)?,
        (Kind::Express, _) => programs::node_peer("express.js", stand_ins)?,
        (_, Some(service)) => {
            let changes: &[(&str, &str)] = match kind {
                Kind::Jwt => &[("TOKEN_FORMAT", "jwt")],
                Kind::Revocable | Kind::RevocableRedis => &[("ABLY_REVOCABLE_TOKENS", "true")],
                _ => &[],
            };
            let toml = if kind == Kind::TwentyRules { programs::policy(20, 5) } else { String::new() };
            programs::service(service, stand_ins, changes, &toml)
        }
        (_, None) => bail!("{name} needs a binary of the service"),
    };
    let prefix = service.map_or("", |service| service.name.as_str());
    let with_prefix = |text: &str, separator: &str| {
        if prefix.is_empty() { text.to_owned() } else { format!("{prefix}{separator}{text}") }
    };
    Ok(Target {
        name: with_prefix(name, "/"),
        label: with_prefix(label, ": "),
        group,
        program,
        lifetime: if matches!(kind, Kind::Node | Kind::Express) { Lifetime::Run } else { Lifetime::Round },
        companion: if matches!(kind, Kind::Redis | Kind::RevocableRedis) { Companion::Redis } else { Companion::None },
        warm_up: match kind {
            Kind::LookedUp => WarmUp::Users(LOOKED_UP_USERS),
            _ => WARM_UP,
        },
        connections: if matches!(kind, Kind::Revocable | Kind::RevocableRedis) {
            MANY_CONNECTIONS
        } else {
            CONNECTIONS
        },
        requests: requests(kind, stand_ins)?,
        expected: match kind {
            Kind::Jwt => Expected::Jwt,
            _ if group == Group::Refusal => Expected::Unauthorized,
            _ => Expected::TokenRequest,
        },
    })
}

/// How many tokens are changed, for refusals.
const CHANGED: usize = 10_000;

/// A token whose verification may be remembered is sent once. Others are sent again when all have been sent.
fn requests(kind: Kind, stand_ins: &StandIns) -> Result<Requests> {
    let once = |pool: Arc<Pool>| Requests::with_tokens(pool, Order::Once);
    let again = |pool: Arc<Pool>| {
        let tokens = pool.len();
        Requests::with_tokens(pool, Order::Cycle(tokens))
    };
    let changed =
        |change: fn(usize, &str) -> String| Ok::<_, anyhow::Error>(Arc::new(stand_ins.unique()?.map(CHANGED, change)));
    Ok(match kind {
        Kind::Repeated => Requests::with_tokens(stand_ins.unique()?, Order::Cycle(10)),
        Kind::Cookies => once(stand_ins.unique()?).in_cookies(stand_ins.clerk.cookie_suffix()),
        Kind::LookedUp => once(stand_ins.without_username()?),
        Kind::SignedOut => Requests::signed_out(),
        Kind::Garbage => again(changed(garbage)?),
        Kind::UnknownKid => again(changed(with_unknown_kid)?),
        Kind::Expired => once(stand_ins.expired()?),
        Kind::Forged => again(changed(with_forged_signature)?),
        Kind::Bare | Kind::ClerkRs | Kind::Node | Kind::Express => again(stand_ins.unique()?),
        _ => once(stand_ins.unique()?),
    })
}

/// A program whose start is measured.
#[derive(Clone, Debug)]
pub(crate) struct Starting {
    pub(crate) name: String,
    pub(crate) label: String,
    pub(crate) program: Program,
}

/// The programs of these targets, each once. The service counts twice: with `CLERK_JWT_KEY`, and with the JWKS of Clerk.
pub(crate) fn starting(targets: &[Target], services: &[Service], stand_ins: &StandIns) -> Vec<Starting> {
    let mut starting: Vec<Starting> = Vec::new();
    for target in targets.iter().filter(|target| matches!(target.group, Group::Reference | Group::Peer)) {
        let Target { name, label, program, .. } = target.clone();
        starting.push(Starting { name, label, program });
    }
    let has_service = targets.iter().any(|target| matches!(target.group, Group::Service | Group::Refusal));
    for service in services.iter().filter(|_| has_service) {
        let jwt_key = [("CLERK_JWT_KEY", stand_ins.clerk.jwt_key())];
        let settings: [(&str, &[(&str, &str)]); 2] = [("CLERK_JWT_KEY", &jwt_key), ("JWKS", &[])];
        for (name, changes) in settings {
            let title = if service.name.is_empty() { "this service" } else { &service.name };
            starting.push(Starting {
                name: format!("{title}, {name}"),
                label: format!("{title}, {name}"),
                program: programs::service(service, stand_ins, changes, ""),
            });
        }
    }
    starting
}
