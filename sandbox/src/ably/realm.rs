//! All that the stand-in remembers, and the decisions of its HTTP routes. It does no I/O and reads no clock: every
//! decision is given the time, in milliseconds since the epoch, so that it can be tested without waiting.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::{
    Calls, Ending, IssuedToken, Outage, RevocationCall,
    api_key::ApiKey,
    capability::Capability,
    channel::{Channel, HistoryPage, HistoryQuery},
    error::ErrorInfo,
    protocol::{action, presence},
    realtime::{Connection, Lapsed},
    revocation::{AnswerShape, Poison, REVOKED, RateLimiter, Revocable, RevocationRequest, Revocations, Standing},
    token::{Credential, Grant, Life},
    token_request::{Nonces, TokenRequest, Voucher, longest_ttl_ms},
};

/// How long clients keep their connection when they get a margin to fetch a new token, in milliseconds.
pub(crate) const REAUTH_MARGIN_MS: i64 = 30_000;

const MOST_REVOCATION_CALLS: usize = 1000;
const MOST_TOKENS: usize = 20_000;
const MOST_CAPABILITY_BYTES: usize = 64 * 1024 * 1024;
const MOST_CHANNELS: usize = 200;
const LONGEST_CHANNEL_NAME: usize = 1024;

/// The largest publish, in bytes of its messages as JSON (`CD2c`).
pub(crate) const LARGEST_PUBLISH: usize = 64 * 1024;

/// How long an expired token is still known as expired, in milliseconds.
const EXPIRED_TOKEN_KEPT_MS: i64 = 60 * 60 * 1000;

/// The stand-in's memory.
pub(crate) struct Realm {
    pub(super) key: ApiKey,
    pub(super) key_capability: Capability,
    fresh_id: Box<dyn FnMut() -> String + Send>,
    nonces: Nonces,
    tokens: HashMap<String, Grant>,
    issued: VecDeque<(String, IssuedToken)>,
    issued_capability_bytes: usize,
    last_issued_ms: i64,
    pub(super) revocations: Revocations,
    pub(crate) revocation_calls: VecDeque<RevocationCall>,
    pub(crate) reauth_margin_ms: i64,
    epoch: String,
    channels_made: u64,
    pub(super) channels: BTreeMap<String, Channel>,
    pub(super) connections: BTreeMap<u64, Connection>,
    pub(super) lapsed: HashMap<String, Lapsed>,
    pub(super) last_socket: u64,
    pub(super) endings: VecDeque<Ending>,
    /// Told of every change of the live connections.
    pub(crate) connections_changed: watch::Sender<()>,
    pub(crate) calls: Calls,
    pub(crate) outage: Option<Outage>,
    pub(crate) revocation_outage: Option<Outage>,
    pub(crate) revocation_limiter: Option<RateLimiter>,
}

impl Realm {
    /// An empty realm. `fresh_id` yields a text that cannot be guessed, another each time.
    pub(crate) fn new(
        key: ApiKey,
        key_capability: Capability,
        revocable: Revocable,
        mut fresh_id: Box<dyn FnMut() -> String + Send>,
    ) -> Self {
        let mut revocations = Revocations::default();
        revocations.set_revocable(revocable);
        let epoch = fresh_id().chars().filter(char::is_ascii_alphanumeric).take(8).collect();
        Self {
            key,
            key_capability,
            fresh_id,
            nonces: Nonces::default(),
            tokens: HashMap::new(),
            issued: VecDeque::new(),
            issued_capability_bytes: 0,
            last_issued_ms: 0,
            revocations,
            revocation_calls: VecDeque::new(),
            reauth_margin_ms: REAUTH_MARGIN_MS,
            epoch,
            channels_made: 0,
            channels: BTreeMap::new(),
            connections: BTreeMap::new(),
            lapsed: HashMap::new(),
            last_socket: 0,
            endings: VecDeque::new(),
            connections_changed: watch::Sender::new(()),
            calls: Calls::default(),
            outage: None,
            revocation_outage: None,
            revocation_limiter: None,
        }
    }

    pub(super) fn fresh_id(&mut self) -> String {
        (self.fresh_id)()
    }

    pub(crate) fn revocable(&self) -> Revocable {
        self.revocations.revocable()
    }

    /// Turns revocable tokens on for tokens from now on, or off, as in Ably's dashboard.
    pub(crate) fn set_target_failure(&mut self, target: &str, code: Option<u32>) {
        self.revocations.set_failure(target, code);
    }

    pub(crate) fn set_poison(&mut self, target: &str, poison: Option<Poison>) {
        self.revocations.set_poison(target, poison);
    }

    pub(crate) fn set_revocable(&mut self, revocable: Revocable) {
        if (revocable == Revocable::None) != (self.revocable() == Revocable::None) {
            self.revocations.set_revocable(revocable);
        }
    }

    /// Remembers a call of `revokeTokens`.
    pub(crate) fn note_revocation_call(&mut self, call: RevocationCall) {
        if self.revocation_calls.len() >= MOST_REVOCATION_CALLS {
            self.revocation_calls.pop_front();
        }
        self.revocation_calls.push_back(call);
    }

    /// Judges a credential: believed, alive and not revoked, or why not.
    pub(crate) fn authenticate(&self, credential: &Credential, now_ms: i64) -> Result<Grant, ErrorInfo> {
        let grant = match credential {
            Credential::Nothing => {
                return Err(ErrorInfo::invalid_credentials("no credentials were presented"));
            }
            Credential::Key(key) if self.key.is(key) => {
                return Ok(Grant::of_key(self.key_capability.clone()));
            }
            Credential::Key(_) => {
                return Err(ErrorInfo::invalid_credentials("the API key is not valid"));
            }
            Credential::Token(token) => match self.tokens.get(token) {
                Some(grant) => grant.clone(),
                None if token.split('.').count() == 3 => Grant::of_jwt(
                    token,
                    &self.key,
                    &self.key_capability,
                    longest_ttl_ms(self.revocable() != Revocable::None),
                    now_ms,
                )?,
                None if token.split('.').count() == 2 => {
                    return Err(ErrorInfo::new(401, 40143, "the token is not known"));
                }
                None => return Err(ErrorInfo::new(401, 40145, "the token is malformed")),
            },
        };
        if self.revocations.standing(&grant, now_ms) == Standing::Revoked {
            return Err(REVOKED);
        }
        grant.check_life(now_ms)?;
        Ok(grant)
    }

    /// `POST /keys/{keyName}/requestToken`: a token request becomes token details (`RSA8`, `TD*`).
    pub(crate) fn request_token(
        &mut self,
        key_name: &str,
        credential: &Credential,
        body: &Value,
        now_ms: i64,
    ) -> Result<Value, ErrorInfo> {
        if key_name != self.key.name() {
            return Err(ErrorInfo::invalid_credentials("the key is not known"));
        }
        let voucher = match credential {
            Credential::Key(_) => {
                self.authenticate(credential, now_ms)?;
                Voucher::Key
            }
            // The `mac` vouches for the token request. Ably refuses an invalid token beside it all the same.
            Credential::Token(_) => {
                self.authenticate(credential, now_ms)?;
                Voucher::Signature
            }
            Credential::Nothing => Voucher::Signature,
        };
        let terms = TokenRequest::read(body)?.check(
            voucher,
            &self.key,
            &self.key_capability,
            longest_ttl_ms(self.revocable() != Revocable::None),
            &mut self.nonces,
            now_ms,
        )?;
        let issued_ms = self.revocations.issue_time_ms(now_ms);
        let life = Life { issued_ms, expires_ms: issued_ms.saturating_add(terms.ttl_ms) };
        let secret = self.fresh_id();
        let token = format!("{}.{secret}", self.key.app_id());
        let grant = Grant::of_token(&token, terms.client_id, terms.capability, life);
        Ok(self.issue(token, grant, life))
    }

    fn issue(&mut self, token: String, grant: Grant, life: Life) -> Value {
        self.last_issued_ms = self.last_issued_ms.max(life.issued_ms);
        let capability = grant.capability.to_string();
        let mut details = json!({
            "token": token, "keyName": self.key.name(), "issued": life.issued_ms, "expires": life.expires_ms,
            "capability": capability
        });
        if let Some(client_id) = &grant.client_id {
            details["clientId"] = json!(client_id);
        }
        self.issued_capability_bytes += capability.len();
        self.issued.push_back((
            token.clone(),
            IssuedToken {
                id: grant.id.clone(),
                client_id: grant.client_id.clone(),
                capability,
                issued: life.issued_ms,
                expires: life.expires_ms,
            },
        ));
        self.tokens.insert(token, grant);
        while self.issued.len() > MOST_TOKENS || self.issued_capability_bytes > MOST_CAPABILITY_BYTES {
            self.forget_oldest_token();
        }
        details
    }

    fn forget_oldest_token(&mut self) {
        if let Some((token, issued)) = self.issued.pop_front() {
            self.issued_capability_bytes -= issued.capability.len();
            self.tokens.remove(&token);
        }
    }

    /// `POST /keys/{keyName}/revokeTokens`: the HTTP status and the answer. Live connections are told at once.
    pub(crate) fn revoke_tokens(
        &mut self,
        key_name: &str,
        credential: &Credential,
        body: &Value,
        shape: AnswerShape,
        now_ms: i64,
    ) -> Result<(u16, Value), ErrorInfo> {
        if matches!(credential, Credential::Token(_)) {
            return Err(ErrorInfo::new(401, 40162, "tokens are revoked with the API key, not with a token"));
        }
        self.authenticate(credential, now_ms)?;
        if key_name != self.key.name() {
            return Err(ErrorInfo::invalid_credentials("the key is not known"));
        }
        if self.revocable() == Revocable::None {
            return Err(ErrorInfo::new(401, 40163, "token revocation is not enabled for the key"));
        }
        let request = RevocationRequest::read(body, self.reauth_margin_ms, now_ms)?;
        if self.revocations.refuses(&request) {
            return Err(ErrorInfo::bad_request("a target is set to have its calls refused"));
        }
        let before = self.standings(now_ms);
        let results = self.revocations.revoke(&request, self.last_issued_ms, now_ms);
        self.enforce_revocations(&before, now_ms);
        Ok(shape.answer(results))
    }

    /// `POST /channels/{name}/messages` (`RSL1`).
    pub(crate) fn publish(
        &mut self,
        grant: &Grant,
        channel: &str,
        body: Value,
        now_ms: i64,
    ) -> Result<Value, ErrorInfo> {
        let messages = match body {
            Value::Array(messages) => messages,
            message => vec![message],
        };
        let messages = messages
            .into_iter()
            .map(|message| match message {
                Value::Object(fields) => Ok(fields),
                _ => Err(ErrorInfo::bad_request("a message is not an object")),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let messages = Self::admit_messages(grant, grant.client_id.as_deref(), channel, messages)?;
        let id = self.fresh_id();
        let (frame, serials) = self.channel(channel)?.publish(channel, &id, None, messages, now_ms);
        self.deliver_message(channel, &frame, None, now_ms);
        Ok(json!({ "channel": channel, "messageId": id, "serials": serials }))
    }

    /// The messages as they will be seen, if this grant may publish them all.
    pub(super) fn admit_messages(
        grant: &Grant,
        client_id: Option<&str>,
        channel: &str,
        messages: Vec<Map<String, Value>>,
    ) -> Result<Vec<Map<String, Value>>, ErrorInfo> {
        check_channel_name(channel)?;
        if !grant.capability.allows(channel, "publish") {
            return Err(ErrorInfo::not_permitted("the capability does not allow to publish on this channel"));
        }
        if messages.is_empty() {
            return Err(ErrorInfo::bad_request("there are no messages"));
        }
        let mut size = 0;
        let mut admitted = Vec::with_capacity(messages.len());
        for message in messages {
            let message = admit_message(grant, client_id, channel, message)?;
            size += message.values().map(|value| value.to_string().len()).sum::<usize>();
            admitted.push(message);
        }
        if size > LARGEST_PUBLISH {
            return Err(ErrorInfo::new(400, 40009, "the messages are too large"));
        }
        Ok(admitted)
    }

    /// `GET /channels/{name}/messages` (`RSL2`).
    pub(crate) fn history(&self, grant: &Grant, channel: &str, query: &HistoryQuery) -> Result<HistoryPage, ErrorInfo> {
        check_channel_name(channel)?;
        if !grant.capability.allows(channel, "history") {
            return Err(ErrorInfo::not_permitted("the capability does not allow to read the history of this channel"));
        }
        Ok(self
            .channels
            .get(channel)
            .map_or(HistoryPage { messages: Vec::new(), next: None }, |channel| channel.history(query)))
    }

    /// `GET /channels/{name}/presence` (`RSP3`).
    pub(crate) fn present(&self, grant: &Grant, channel: &str) -> Result<Value, ErrorInfo> {
        check_channel_name(channel)?;
        if !["subscribe", "presence"].iter().any(|operation| grant.capability.allows(channel, operation)) {
            return Err(ErrorInfo::not_permitted(
                "the capability does not allow to see who is present on this channel",
            ));
        }
        Ok(self
            .channels
            .get(channel)
            .map_or(json!([]), |channel| channel.members().map(|(_, member)| json!(member)).collect()))
    }

    /// The channel of that name, made if need be. When there are too many, one that nobody uses makes room.
    pub(super) fn channel(&mut self, name: &str) -> Result<&mut Channel, ErrorInfo> {
        if !self.channels.contains_key(name) && self.channels.len() >= MOST_CHANNELS {
            let unused = self
                .channels
                .iter()
                .find(|(name, channel)| !channel.has_members() && !self.is_attached(name))
                .map(|(name, _)| name.clone());
            match unused {
                Some(unused) => self.channels.remove(&unused),
                None => return Err(ErrorInfo::new(503, 50003, "too many channels are in use")),
            };
        }
        let made = &mut self.channels_made;
        let epoch = &self.epoch;
        Ok(self.channels.entry(name.to_owned()).or_insert_with(|| {
            *made += 1;
            Channel::new(format!("{epoch}{made:x}").into())
        }))
    }

    /// What was issued and is still remembered, oldest first.
    pub(crate) fn issued_tokens(&self) -> Vec<IssuedToken> {
        self.issued.iter().map(|(_, issued)| issued.clone()).collect()
    }

    /// Forgets what no longer matters and lets members go whose connection did not come back.
    pub(crate) fn sweep(&mut self, now_ms: i64) {
        self.nonces.forget(now_ms);
        self.revocations.forget(now_ms);
        while self.issued.front().is_some_and(|(_, token)| token.expires.saturating_add(EXPIRED_TOKEN_KEPT_MS) < now_ms)
        {
            self.forget_oldest_token();
        }
        self.forget_lapsed(now_ms);
    }
}

/// Refuses a channel name that Ably would not take (40010).
pub(super) fn check_channel_name(name: &str) -> Result<(), ErrorInfo> {
    let valid =
        !name.is_empty() && name.len() <= LONGEST_CHANNEL_NAME && !name.starts_with(':') && !name.contains('\n');
    if valid { Ok(()) } else { Err(ErrorInfo::new(400, 40010, "the channel name is not valid")) }
}

/// Keeps the fields that a publisher decides, and puts in those that the token does.
fn admit_message(
    grant: &Grant,
    client_id: Option<&str>,
    channel: &str,
    mut sent: Map<String, Value>,
) -> Result<Map<String, Value>, ErrorInfo> {
    if sent.get("action").and_then(Value::as_u64).unwrap_or(0) != 0 {
        return Err(ErrorInfo::bad_request("the stand-in does not update or delete messages"));
    }
    let named = text_of(&sent, "clientId", "the clientId of a message is not a string")?;
    let speaker = Grant::speak_as(client_id, named.as_deref())?;
    text_of(&sent, "name", "the name of a message is not a string")?;
    text_of(&sent, "id", "the id of a message is not a string")?;
    text_of(&sent, "encoding", "the encoding of a message is not a string")?;
    let mut message: Map<String, Value> = ["id", "name", "data", "encoding", "extras"]
        .into_iter()
        .filter_map(|field| Some((field.to_owned(), sent.remove(field)?)))
        .filter(|(_, value)| !value.is_null())
        .collect();
    match message.get("data") {
        None | Some(Value::String(_)) => {}
        Some(data @ (Value::Object(_) | Value::Array(_))) => {
            let text = data.to_string();
            let encoding = match message.get("encoding").and_then(Value::as_str) {
                Some(encoding) if !encoding.is_empty() => format!("{encoding}/json"),
                _ => "json".to_owned(),
            };
            message.insert("data".to_owned(), json!(text));
            message.insert("encoding".to_owned(), json!(encoding));
        }
        Some(_) => {
            return Err(ErrorInfo::new(400, 40013, "the data of a message is neither text, binary, object nor list"));
        }
    }
    if let Some(speaker) = speaker {
        message.insert("clientId".to_owned(), json!(speaker));
    }
    if let Some(claim) = grant.claim_on(channel) {
        let extras = message.entry("extras").or_insert_with(|| json!({}));
        if let Some(extras) = extras.as_object_mut() {
            extras.insert("userClaim".to_owned(), json!(claim));
        }
    }
    Ok(message)
}

pub(super) fn text_of(
    fields: &Map<String, Value>,
    name: &str,
    wrong: &'static str,
) -> Result<Option<String>, ErrorInfo> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(ErrorInfo::bad_request(wrong)),
    }
}

/// Keeps the fields of a presence message that a client decides.
pub(super) fn admit_presence(
    client_id: Option<&str>,
    mut sent: Map<String, Value>,
) -> Result<Map<String, Value>, ErrorInfo> {
    let change = sent.get("action").and_then(Value::as_u64);
    if !matches!(change, Some(presence::ENTER | presence::LEAVE | presence::UPDATE)) {
        return Err(ErrorInfo::bad_request("a presence message neither enters, updates nor leaves"));
    }
    let named = text_of(&sent, "clientId", "the clientId of a presence message is not a string")?;
    let speaker = Grant::speak_as(client_id, named.as_deref())?.ok_or(ErrorInfo::new(
        400,
        91000,
        "presence takes a client ID",
    ))?;
    let mut admitted: Map<String, Value> = ["action", "data", "encoding", "extras"]
        .into_iter()
        .filter_map(|field| Some((field.to_owned(), sent.remove(field)?)))
        .filter(|(_, value)| !value.is_null())
        .collect();
    admitted.insert("clientId".to_owned(), json!(speaker));
    if Value::Object(admitted.clone()).to_string().len() > LARGEST_PUBLISH {
        return Err(ErrorInfo::new(400, 40009, "the presence message is too large"));
    }
    Ok(admitted)
}

/// A message about a channel that failed.
pub(super) fn channel_error(channel: &str, error: ErrorInfo) -> Value {
    json!({ "action": action::ERROR, "channel": channel, "error": error.to_json() })
}
