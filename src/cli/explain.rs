//! `explain`: why a session gets what it gets, or nothing. Signs nothing, serves nobody, and never shows a token.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Failure, complain, policy_cases::in_words};
use crate::{
    ably::{TokenFormat, Ttl},
    assembly,
    clerk::{Credential, Examined, Invalid, LookupCounts, RefreshCounts, Session, Unverified},
    clock::UnixMillis,
    config::{Config, Sources, TenantConfig},
    identity::{Identity, IdentityError},
    issuer::{Claims, Explainer, TokenExplanation},
    outgoing,
    policy::{Explained, Explanation},
    refusal::{Refusal, Row},
    tenant::TenantName,
};

/// Stands for the standard input.
const STDIN: &str = "-";

#[derive(Clone, Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    input: Input,
    /// With several tenants: whose claims they are, unless their iss says it
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
    /// A JSON file of claims, which are taken as verified; - reads them from the standard input. What every session
    /// token has may be left out
    #[arg(long, value_name = "FILE|-")]
    claims: Option<PathBuf>,
}

/// What there is to say of a session.
struct Report {
    claims: Claims,
    /// Whose session it is; none for a token of no tenant's issuer.
    tenant: Option<TenantName>,
    has_siblings: bool,
    format: TokenFormat,
    /// None when there is a session token that cannot be verified.
    examined: Option<(Examined, Option<TokenExplanation>)>,
    unverified: Option<Unverified>,
    has_users: bool,
    now: UnixMillis,
}

#[expect(clippy::print_stdout, reason = "the report is what the command is for")]
pub(super) async fn run(config: Option<&Path>, arguments: Arguments) -> ExitCode {
    let as_json = arguments.json;
    match report(config, arguments).await {
        Ok(report) => {
            if as_json {
                println!("{:#}", report.as_json());
            } else {
                print!("{}", printable(&report.as_text()));
            }
            if report.refusal().is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(failure) => {
            complain(&failure);
            ExitCode::FAILURE
        }
    }
}

/// Claims may hold what would move a terminal's cursor.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

async fn report(config: Option<&Path>, arguments: Arguments) -> Result<Report, Failure> {
    let Arguments { input, tenant, params, stray, .. } = arguments;
    if !stray.is_empty() {
        return Err(Failure::Input(
            "an argument that belongs to no option; write --session-token before a token".into(),
        ));
    }
    let params = params.iter().map(|param| parse_param(param)).collect::<Result<Vec<_>, _>>()?;
    let (config, _) = Config::load(&Sources::read(config))?;
    let http = outgoing::client().map_err(|error| Failure::Input(outgoing::causes(&error)))?;
    let now = UnixMillis::now();
    let mut report = Report {
        claims: Claims::All,
        tenant: None,
        has_siblings: config.tenants.len() > 1,
        format: TokenFormat::default(),
        examined: None,
        unverified: None,
        has_users: false,
        now,
    };
    let (tenant, examined) = match input {
        Input { session_token: Some(token), .. } => {
            let token = read_token(&token)?;
            let tenant = match tenant_of(&config, &token) {
                Ok(tenant) => tenant,
                Err(invalid) => {
                    report.unverified = Some(invalid.into());
                    return Ok(report);
                }
            };
            let verifier = assembly::verifier(&tenant.clerk, config.denial_ttl, &http, RefreshCounts::default)?;
            (tenant, verifier.examine(&token, now).await)
        }
        Input { claims, .. } => {
            report.claims = Claims::Some;
            let claims = read_claims(&claims.unwrap_or_default())?;
            (tenant_named(&config, tenant, &claims)?, Ok(Examined::suppose(claims, now)))
        }
    };
    report.tenant = Some(tenant.name());
    report.format = tenant.token.format;
    report.has_users = tenant.clerk.secret_key.is_some();
    match examined {
        Ok(examined) => {
            // Nobody is looked up who was made up.
            let users = assembly::users(&tenant.clerk, &http, LookupCounts::default());
            let users = users.filter(|_| !examined.filled_in.contains(&"sub"));
            let identity = Identity::new(tenant.token.client_id.clone(), users);
            let explainer = Explainer {
                identity: &identity,
                policy: &tenant.policy,
                format: tenant.token.format,
                api_key: Some(&tenant.ably.api_key),
            };
            let explanation = match &examined.session {
                Some(session) => Some(explainer.explain(&examined, session, report.claims, &params, now).await),
                None => None,
            };
            report.examined = Some((examined, explanation));
        }
        Err(unverified) => report.unverified = Some(unverified),
    }
    Ok(report)
}

/// The tenant that is to verify a session token. With one there is no choice.
fn tenant_of<'a>(config: &'a Config, token: &Credential) -> Result<&'a TenantConfig, Invalid> {
    if let [only] = &config.tenants[..] {
        return Ok(only);
    }
    let issuer = token.unverified_issuer()?;
    tenant_with_issuer(config, &issuer).ok_or(Invalid::Issuer)
}

/// The tenant whose claims these are: the one named, or the one of their issuer.
fn tenant_named<'a>(
    config: &'a Config,
    name: Option<String>,
    claims: &Map<String, Value>,
) -> Result<&'a TenantConfig, Failure> {
    let names = || config.tenants.iter().map(|tenant| tenant.name().to_string()).collect::<Vec<_>>().join(", ");
    let issuer = claims.get("iss").and_then(Value::as_str);
    match (&config.tenants[..], name) {
        (tenants, Some(name)) => tenants
            .iter()
            .find(|tenant| tenant.name().as_str() == name)
            .ok_or_else(|| Failure::Input(format!("--tenant: no tenant is called so; there are: {}", names()))),
        ([only], None) => Ok(only),
        (_, None) => issuer.and_then(|issuer| tenant_with_issuer(config, issuer)).ok_or_else(|| {
            Failure::Input(format!("the claims name no tenant by their iss; add --tenant with one of: {}", names()))
        }),
    }
}

fn tenant_with_issuer<'a>(config: &'a Config, issuer: &str) -> Option<&'a TenantConfig> {
    config.tenants.iter().find(|tenant| tenant.clerk.issuers().iter().any(|own| own == issuer))
}

fn parse_param(text: &str) -> Result<(String, String), Failure> {
    let (name, value) = text.split_once('=').unwrap_or_default();
    if !["capability", "ttl", "clientId", "organization"].contains(&name) {
        return Err(Failure::Input("--param wants capability=…, ttl=…, clientId=… or organization=…".into()));
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn read_token(argument: &SecretString) -> Result<Credential, Failure> {
    let text = match argument.expose_secret() {
        STDIN => io::read_to_string(io::stdin())
            .map_err(|error| Failure::Input(format!("the standard input cannot be read: {error}")))?,
        token => token.to_owned(),
    };
    match text.trim() {
        "" => Err(Failure::Input("no session token was given".into())),
        token => Ok(Credential::new(token)),
    }
}

/// Says nothing of what it read, nor of the path: either could be a token in the wrong place.
fn read_claims(path: &Path) -> Result<Map<String, Value>, Failure> {
    let text = if path == Path::new(STDIN) { io::read_to_string(io::stdin()) } else { fs::read_to_string(path) };
    let text = text.map_err(|error| Failure::Input(format!("the file of --claims cannot be read: {error}")))?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(claims)) => Ok(claims),
        Ok(_) => Err(Failure::Input("the claims are no JSON object".into())),
        Err(error) => {
            Err(Failure::Input(format!("the claims are no JSON: line {}, column {}", error.line(), error.column())))
        }
    }
}

impl Report {
    fn session(&self) -> Option<&Session> {
        self.examined.as_ref().and_then(|(examined, _)| examined.session.as_ref())
    }

    fn explanation(&self) -> Option<&TokenExplanation> {
        self.examined.as_ref().and_then(|(_, explanation)| explanation.as_ref())
    }

    fn filled_in(&self) -> &[&'static str] {
        self.examined.as_ref().map_or(&[], |(examined, _)| &examined.filled_in)
    }

    /// Why the session itself is refused, if it is.
    fn session_refusal(&self) -> Option<Unverified> {
        let refused = self.examined.as_ref().and_then(|(examined, _)| examined.refused);
        self.unverified.or(refused.map(Unverified::Invalid))
    }

    /// Why there would be no token, if there would be none.
    fn refusal(&self) -> Option<Refusal> {
        let explained = self.explanation().and_then(|explanation| explanation.refusal);
        explained.or(self.session_refusal().map(Refusal::from))
    }

    fn as_text(&self) -> String {
        let mut text = String::new();
        let mut line = |label: &str, value: &str| _ = writeln!(text, "{label:15}{value}");
        let verified = match (self.session_refusal(), self.claims, self.session()) {
            (Some(refusal), ..) => format!("would be refused: {refusal}"),
            (None, Claims::All, Some(session)) => {
                format!("verified; ends in {} s", (session.expires_at.0 - self.now.0).max(0) / 1000)
            }
            (None, ..) => "none; the claims are taken as verified".to_owned(),
        };
        line("session token", &verified);
        if self.has_siblings {
            line("tenant", self.tenant.as_ref().map_or("none", TenantName::as_str));
        }
        if !self.filled_in().is_empty() {
            line("filled in", &self.filled_in().join(", "));
        }
        if let Some(session) = self.session() {
            line("user", &session.user_id);
            line("session", &session.session_id);
            line("organization", &organization(session));
            let agent = if session.is_of_an_agent() { ", an agent" } else { "" };
            line("impersonator", &format!("{}{agent}", session.impersonator().unwrap_or("nobody")));
        }
        if let Some(explanation) = self.explanation() {
            line("client ID", &self.client_id(explanation));
            policy_as_text(explanation, self.format, &mut text);
        }
        match self.refusal().map(|refusal| refusal.row()) {
            None => text += "\nA token would be issued.\n",
            Some(Row { status, code, message, .. }) => {
                _ = writeln!(text, "\nNo token: {status}, code {code}: {message}");
            }
        }
        text
    }

    fn client_id(&self, explanation: &TokenExplanation) -> String {
        match &explanation.client_id {
            Ok(client_id) => client_id.to_string(),
            Err(IdentityError::UsernameOutOfReach) if self.claims == Claims::Some => {
                let why = if self.has_users {
                    "and no sub by which Clerk could be asked for it"
                } else {
                    "and there is no secret key to ask Clerk for it"
                };
                format!("not known: the claims have no username, {why}")
            }
            Err(error) => format!("none: {error}"),
        }
    }

    fn as_json(&self) -> Value {
        let explanation = self.explanation();
        let refusal = self.refusal();
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
            "session_token": self.session_token(),
            "tenant": self.tenant.as_ref().map(TenantName::as_str),
            "caller": self.session().map(Caller::new),
            "client_id": explanation.and_then(|explanation| explanation.client_id.as_ref().ok()).map(ToString::to_string),
            "policy": explanation.map(|explanation| &explanation.policy),
            "capability": capability,
            "ttl_ms": grant.map(|grant| grant.ttl.unwrap_or(Ttl::ABLY_DEFAULT).as_millis()),
            "format": self.tenant.as_ref().map(|_| self.format.as_str()),
        })
    }

    fn session_token(&self) -> Value {
        let refusal = self.session_refusal().map(Refusal::from);
        json!({
            "verified": self.claims == Claims::All && refusal.is_none(),
            "reason": refusal.map(|refusal| refusal.reason()),
            "filled_in": self.filled_in(),
        })
    }
}

fn organization(session: &Session) -> String {
    let Some(organization) = &session.organization else { return "none".to_owned() };
    let slug = organization.slug.as_ref().map(|slug| format!(" ({slug})")).unwrap_or_default();
    let role = organization.role.as_deref().unwrap_or("no role");
    format!("{}{slug}, {role}", organization.id)
}

fn policy_as_text(explanation: &TokenExplanation, format: TokenFormat, text: &mut String) {
    let Explanation { require, rules, granted, outcome } = &explanation.policy;
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
        // There is something of which the client asked for nothing.
        if let Some(granted) = granted {
            _ = writeln!(text, "\ngranted, before it is narrowed to what is asked for");
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

fn resources(capability: &crate::ably::Capability, text: &mut String) {
    let width = capability.resources().map(|(resource, _)| resource.chars().count()).max().unwrap_or_default();
    for (resource, operations) in capability.resources() {
        let operations = operations.names().collect::<Vec<_>>().join(", ");
        _ = writeln!(text, "  {resource:width$}  {operations}");
    }
}

/// A condition and its parts, each a line, deeper by two blanks.
fn reasons(explained: &Explained, depth: usize, text: &mut String) {
    let Explained { condition, truth, because, parts } = explained;
    let because = because.map(|because| format!(": {because}")).unwrap_or_default();
    _ = writeln!(text, "{:indent$}{truth:11}  {condition}{because}", "", indent = depth * 2);
    for part in parts {
        reasons(part, depth + 1, text);
    }
}

/// Who the caller is, for scripts.
#[derive(Serialize)]
struct Caller<'a> {
    user_id: &'a str,
    session_id: &'a str,
    organization: Option<CallersOrganization<'a>>,
    impersonator: Option<&'a str>,
    /// True if the impersonator is an agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<bool>,
}

#[derive(Serialize)]
struct CallersOrganization<'a> {
    id: &'a str,
    slug: Option<&'a str>,
    role: Option<&'a str>,
    permissions: Option<&'a [String]>,
}

impl<'a> Caller<'a> {
    fn new(session: &'a Session) -> Self {
        let organization = session.organization.as_ref().map(|organization| CallersOrganization {
            id: &organization.id,
            slug: organization.slug.as_deref(),
            role: organization.role.as_deref(),
            permissions: organization.permissions.as_deref(),
        });
        let impersonator = session.impersonator();
        let agent = session.is_of_an_agent().then_some(true);
        Self { user_id: &session.user_id, session_id: &session.session_id, organization, impersonator, agent }
    }
}
