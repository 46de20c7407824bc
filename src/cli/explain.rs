//! `explain`: shows why a session gets a token or not. It signs nothing and never shows a token.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};

use super::{
    failure::Failure,
    output::{Output, in_words, printable},
};
use crate::{
    ably::{Capability, TokenFormat, Ttl},
    assembly,
    clerk::{Credential, Examined, Session, Unverified, VerifiedTokens},
    clock::UnixMillis,
    config::{Config, Sources},
    identity::{Identity, IdentityError},
    issuer::{ClaimsOrigin, Explainer, TokenExplanation},
    policy::{Explained, Explanation},
    refusal::{Refusal, Row},
    telemetry::metrics::Metrics,
    tenant::{Tenant, Tenants},
};

/// Stands for the standard input.
const STDIN: &str = "-";

#[derive(Clone, Debug, Args)]
pub(super) struct ExplainArguments {
    #[command(flatten)]
    input: Input,
    /// The tenant of the claims, if there are several and the claims have no iss
    #[arg(long, value_name = "NAME", conflicts_with = "session_token")]
    tenant: Option<String>,
    /// What the client would ask for: capability=JSON, ttl=MILLISECONDS, clientId=NAME or organization=ID. May be repeated
    #[arg(long = "param", value_name = "NAME=VALUE")]
    params: Vec<String>,
    /// Print JSON, for scripts
    #[arg(long)]
    json: bool,
    /// A token without its option, which must not be repeated in a message
    #[arg(hide = true)]
    stray: Vec<SecretString>,
}

#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// A session token, which is verified; - reads it from the standard input, so that no shell remembers it
    #[arg(long, value_name = "JWT|-")]
    session_token: Option<SecretString>,
    /// A JSON file of claims, which are taken as verified; - reads them from the standard input. Claims that
    /// every session token has may be left out
    #[arg(long, value_name = "FILE|-")]
    claims: Option<PathBuf>,
}

/// A session and the decisions about it.
struct ExplainReport<'a> {
    claims: ClaimsOrigin,
    /// None for a session token of an unknown issuer.
    tenant: Option<&'a Tenant>,
    has_siblings: bool,
    examined: Examined,
    /// Why the session token is refused.
    unverified: Option<Unverified>,
    explanation: Option<TokenExplanation>,
    /// Why there would be no token.
    refusal: Option<Refusal>,
    now: UnixMillis,
}

pub(super) async fn run(config: Option<&Path>, arguments: ExplainArguments) -> Result<Output, Failure> {
    let as_json = arguments.json;
    if !arguments.stray.is_empty() {
        return Err(Failure::Other("unexpected argument; write --session-token before a token".into()));
    }
    let params = arguments.params.iter().map(|param| parse_param(param)).collect::<Result<Vec<_>, _>>();
    let params = params.map_err(Failure::Other)?;
    let (config, _) = Config::load(&Sources::read(config))?;
    let tenants = assembly::tenants(&config, &Metrics::new(UnixMillis::now()))?;
    let report = report(&tenants, arguments.input, arguments.tenant, &params).await.map_err(Failure::Other)?;
    let text = if as_json { format!("{:#}\n", report.as_json()) } else { printable(&report.as_text()) };
    Ok(Output { text, has_failed: report.refusal.is_some() })
}

async fn report<'a>(
    tenants: &'a Tenants,
    input: Input,
    tenant: Option<String>,
    params: &[(String, String)],
) -> Result<ExplainReport<'a>, String> {
    let now = UnixMillis::now();
    let (claims, tenant, examined) = match input {
        Input { session_token: Some(token), .. } => {
            let token = read_token(&token)?;
            match tenants.of_token(&token) {
                Ok(tenant) => (ClaimsOrigin::SessionToken, Some(tenant), tenant.verifier.examine(token, now).await),
                Err(invalid) => (ClaimsOrigin::SessionToken, None, Err(invalid.into())),
            }
        }
        Input { claims, .. } => {
            let claims = read_claims(&claims.unwrap_or_default())?;
            let tenant = tenant_of_claims(tenants, tenant, &claims)?;
            (ClaimsOrigin::File, Some(tenant), Ok(Examined::from_claims(claims, now)))
        }
    };
    let (examined, unverified) = match examined {
        Ok(examined) => (examined, None),
        Err(unverified) => (Examined { session: None, refused: None, filled_in: Vec::new() }, Some(unverified)),
    };
    let unverified = unverified.or(examined.refused.map(Unverified::Invalid));
    let explanation = match tenant {
        Some(tenant) => {
            // Clerk does not know an example user.
            let without_users = Identity::new(tenant.identity.template().clone(), None);
            let is_example = examined.filled_in.contains(&"sub");
            let explainer = Explainer {
                identity: if is_example { &without_users } else { &tenant.identity },
                policy: &tenant.policy.load(),
                jwt_key: (tenant.format() == TokenFormat::Jwt).then_some(&tenant.api_key),
            };
            explainer.explain(&examined, claims, params, now).await
        }
        None => None,
    };
    let refusal = explanation.as_ref().and_then(|explanation| explanation.refusal).or(unverified.map(Refusal::from));
    let has_siblings = tenants.only().is_none();
    Ok(ExplainReport { claims, tenant, has_siblings, examined, unverified, explanation, refusal, now })
}

/// The tenant with this name, or with the issuer of these claims.
fn tenant_of_claims<'a>(
    tenants: &'a Tenants,
    name: Option<String>,
    claims: &Map<String, Value>,
) -> Result<&'a Tenant, String> {
    let (tenant, problem) = if let Some(name) = name {
        (tenants.iter().find(|tenant| tenant.name.as_str() == name), "--tenant: unknown tenant; use one of")
    } else {
        let issuer = claims.get("iss").and_then(Value::as_str);
        let tenant = tenants.only().or_else(|| tenants.of_issuer(issuer?));
        (tenant, "the claims have no iss of a tenant; add --tenant with one of")
    };
    tenant.ok_or_else(|| {
        let names: Vec<_> = tenants.iter().map(|tenant| tenant.name.as_str()).collect();
        format!("{problem}: {}", names.join(", "))
    })
}

fn parse_param(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name @ ("capability" | "ttl" | "clientId" | "organization"), value)) => Ok((name.into(), value.into())),
        _ => Err("invalid --param; use capability=…, ttl=…, clientId=… or organization=…".into()),
    }
}

fn read_token(argument: &SecretString) -> Result<Credential, String> {
    let text = match argument.expose_secret() {
        STDIN => {
            io::read_to_string(io::stdin()).map_err(|error| format!("the standard input cannot be read: {error}"))?
        }
        token => token.to_owned(),
    };
    match text.trim() {
        "" => Err("no session token was given".into()),
        token => Ok(Credential::new(token, &VerifiedTokens::default())),
    }
}

/// Errors hold neither the content nor the path: either could be a token in the wrong place.
fn read_claims(path: &Path) -> Result<Map<String, Value>, String> {
    let text = if path == Path::new(STDIN) { io::read_to_string(io::stdin()) } else { fs::read_to_string(path) };
    let text = text.map_err(|error| format!("the file of --claims cannot be read: {error}"))?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(claims)) => Ok(claims),
        Ok(_) => Err("the claims are not a JSON object".into()),
        Err(error) => Err(format!("the claims are not JSON: line {}, column {}", error.line(), error.column())),
    }
}

impl ExplainReport<'_> {
    fn as_text(&self) -> String {
        let mut text = String::new();
        let mut line = |label: &str, value: &str| _ = writeln!(text, "{label:15}{value}");
        let session = self.examined.session.as_ref();
        let verified = match (self.unverified, self.claims, session) {
            (Some(refusal), ..) => format!("would be refused: {refusal}"),
            (None, ClaimsOrigin::SessionToken, Some(session)) => {
                format!("verified; ends in {} s", (session.expires_at.0 - self.now.0).max(0) / 1000)
            }
            (None, ..) => "none; the claims are taken as verified".to_owned(),
        };
        line("session token", &verified);
        if self.has_siblings {
            line("tenant", self.tenant.map_or("none", |tenant| tenant.name.as_str()));
        }
        if !self.examined.filled_in.is_empty() {
            line("filled in", &self.examined.filled_in.join(", "));
        }
        if let Some(session) = session {
            line("user", &session.user_id);
            line("session", &session.session_id);
            line("organization", &organization(session));
            let agent = if session.is_of_an_agent() { ", an agent" } else { "" };
            line("impersonator", &format!("{}{agent}", session.impersonator().unwrap_or("none")));
        }
        if let (Some(explanation), Some(tenant)) = (&self.explanation, self.tenant) {
            line("client ID", &self.client_id(explanation, tenant));
            policy_as_text(&explanation.policy, tenant.format(), &mut text);
        }
        match self.refusal.map(|refusal| refusal.row()) {
            None => text += "\nA token would be issued.\n",
            Some(Row { status, code, message, .. }) => {
                _ = writeln!(text, "\nNo token: {status}, code {code}: {message}");
            }
        }
        text
    }

    fn client_id(&self, explanation: &TokenExplanation, tenant: &Tenant) -> String {
        match &explanation.client_id {
            Ok(client_id) => client_id.to_string(),
            Err(IdentityError::UsernameUnavailable) if self.claims == ClaimsOrigin::File => {
                let missing = if tenant.users().is_some() { "sub" } else { "secret key" };
                format!("unknown: the claims have no username, and looking it up needs a {missing}")
            }
            Err(error) => format!("none: {error}"),
        }
    }

    fn as_json(&self) -> Value {
        let Self { examined: Examined { session, filled_in, .. }, explanation, refusal, .. } = self;
        let explanation = explanation.as_ref();
        let grant =
            explanation.filter(|_| refusal.is_none()).and_then(|explanation| explanation.policy.outcome.as_ref().ok());
        let capability = grant.and_then(|grant| grant.capability.as_ref()).map(|capability| {
            let resources = capability.resources().map(|(name, operations)| (name.to_owned(), json!(operations)));
            resources.collect::<Map<_, _>>()
        });
        json!({
            "issued": refusal.is_none(),
            "refusal": refusal.map(|refusal| {
                let Row { reason, status, code, message, .. } = refusal.row();
                json!({ "reason": reason, "status_code": status, "code": code, "message": message })
            }),
            "session_token": {
                "verified": self.claims == ClaimsOrigin::SessionToken && self.unverified.is_none(),
                "reason": self.unverified.map(|unverified| Refusal::from(unverified).reason()),
                "filled_in": filled_in,
            },
            "tenant": self.tenant.map(|tenant| tenant.name.as_str()),
            "caller": session.as_ref().map(caller),
            "client_id": explanation.and_then(|explanation| explanation.client_id.as_ref().ok()).map(ToString::to_string),
            "policy": explanation.map(|explanation| &explanation.policy),
            "capability": capability,
            "ttl_ms": grant.map(|grant| grant.ttl.unwrap_or(Ttl::ABLY_DEFAULT).as_millis()),
            "format": self.tenant.map(|tenant| tenant.format().as_str()),
        })
    }
}

fn caller(session: &Session) -> Value {
    let mut caller = json!({
        "user_id": session.user_id,
        "session_id": session.session_id,
        "organization": session.organization,
        "impersonator": session.impersonator(),
    });
    if session.is_of_an_agent() {
        caller["agent"] = true.into();
    }
    caller
}

fn organization(session: &Session) -> String {
    let Some(organization) = &session.organization else { return "none".to_owned() };
    let slug = organization.slug.as_ref().map(|slug| format!(" ({slug})")).unwrap_or_default();
    let role = organization.role.as_deref().unwrap_or("no role");
    format!("{}{slug}, {role}", organization.id)
}

fn policy_as_text(explanation: &Explanation, format: TokenFormat, text: &mut String) {
    let Explanation { require, rules, granted, outcome } = explanation;
    if let Some(require) = require {
        _ = writeln!(text, "\nrequired of every session");
        reasons(require, 1, text);
    }
    if !rules.is_empty() {
        _ = writeln!(text, "\nrules");
    }
    for rule in rules {
        _ = writeln!(text, "  {:11}  {}", rule.verdict, rule.name);
        if let Some(when) = &rule.when {
            reasons(when, 3, text);
        }
        for dropped in &rule.dropped {
            let (resource, placeholder, why) = (&dropped.resource, &dropped.placeholder, dropped.why);
            let loses = dropped.loses.in_words();
            _ = writeln!(text, "      dropped      {resource}: {placeholder}: {why}{loses}");
        }
    }
    let Ok(grant) = outcome else {
        if let Some(granted) = granted {
            _ = writeln!(text, "\ngranted, if the client asks for no capability");
            resources(granted, text);
        }
        return;
    };
    match &grant.capability {
        Some(capability) => {
            _ = writeln!(text, "\ncapability");
            resources(capability, text);
        }
        None => _ = writeln!(text, "\ncapability     the key's own: there are no rules"),
    }
    for (channel, claim) in &grant.channel_claims {
        _ = writeln!(text, "channel claim  {channel}: {claim}");
    }
    for (resource, rate) in &grant.publish_rate {
        _ = writeln!(text, "publish rate   {resource}: {rate} a second");
    }
    let ttl = grant.ttl.map_or_else(|| format!("{} (Ably's default)", in_words(Ttl::ABLY_DEFAULT)), in_words);
    _ = writeln!(text, "ttl            {ttl}");
    _ = writeln!(text, "format         {format}");
}

fn resources(capability: &Capability, text: &mut String) {
    let width = capability.resources().map(|(resource, _)| resource.chars().count()).max().unwrap_or_default();
    for (resource, operations) in capability.resources() {
        let operations = operations.names().collect::<Vec<_>>().join(", ");
        _ = writeln!(text, "  {resource:width$}  {operations}");
    }
}

/// Writes a condition, and its parts indented below it.
fn reasons(explained: &Explained, depth: usize, text: &mut String) {
    let Explained { condition, truth, because, parts } = explained;
    let because = because.map(|because| format!(": {because}")).unwrap_or_default();
    _ = writeln!(text, "{:indent$}{truth:11}  {condition}{because}", "", indent = depth * 2);
    for part in parts {
        reasons(part, depth + 1, text);
    }
}
