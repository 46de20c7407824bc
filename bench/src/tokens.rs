//! Session tokens, signed in advance with a real RSA-2048 key, and kept in files for the next run.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow};
use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der},
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_SHA256},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// The ID of the signing key.
pub(crate) const KID: &str = "ins_2bench00000000000000000000000";

/// The life of a session token. The service accepts it with [`DENIAL_TTL`].
const LIFE: Duration = Duration::from_hours(24);

/// How long the files are used.
const FILES_LAST: Duration = Duration::from_hours(12);

/// `REVOCATION_DENIAL_TTL` for tokens of that life.
pub(crate) const DENIAL_TTL: &str = "24h";

/// Tokens, each on a line of one text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    text: String,
    ends: Vec<usize>,
}

impl Pool {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The token at this position. Positions wrap around.
    pub(crate) fn get(&self, position: usize) -> &str {
        let position = position % self.ends.len().max(1);
        let start = position.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |end| end + 1);
        self.ends.get(position).and_then(|end| self.text.get(start..*end)).unwrap_or_default()
    }

    fn of_text(text: String) -> Self {
        let ends = text.bytes().enumerate().filter_map(|(at, byte)| (byte == b'\n').then_some(at)).collect();
        Self { text, ends }
    }

    /// Makes something else of each of the first tokens.
    pub(crate) fn map(&self, tokens: usize, change: impl Fn(usize, &str) -> String) -> Self {
        let changed = (0..tokens.min(self.len())).map(|position| change(position, self.get(position)) + "\n");
        Self::of_text(changed.collect())
    }
}

/// What the tokens of a pool have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contents {
    pub(crate) name: &'static str,
    pub(crate) tokens: usize,
    pub(crate) users: usize,
    /// The number of the first of them.
    pub(crate) first_user: usize,
    pub(crate) username: Username,
    pub(crate) expiry: Expiry,
}

/// Whether tokens have the claim `username`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Username {
    Claim,
    Missing,
}

/// Whether tokens are still valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expiry {
    Ahead,
    Past,
}

/// The ID of a user.
pub(crate) fn user_id(user: usize) -> String {
    format!("user_2bench{user:022}")
}

/// Signs session tokens.
pub(crate) struct Signer {
    key: KeyPair,
    pkcs8: Vec<u8>,
    directory: PathBuf,
}

impl Signer {
    /// Reads the key in this directory, or generates one.
    pub(crate) fn in_directory(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let path = directory.join("key.der");
        let pkcs8 = match fs::read(&path) {
            Ok(pkcs8) => pkcs8,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let pkcs8: Pkcs8V1Der<'_> = KeyPair::generate(KeySize::Rsa2048)?.as_der()?;
                // Tokens of another key are of no use.
                fs::remove_dir_all(directory)?;
                fs::create_dir_all(directory)?;
                fs::write(&path, pkcs8.as_ref())?;
                pkcs8.as_ref().to_vec()
            }
            Err(error) => return Err(error).context("the signing key cannot be read"),
        };
        let key = KeyPair::from_pkcs8(&pkcs8).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        Ok(Self { key, pkcs8, directory: directory.to_owned() })
    }

    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public key, as `RSAPublicKey` (DER).
    pub(crate) fn public_key(&self) -> &[u8] {
        self.key.public_key().as_ref()
    }

    /// The tokens with these contents, or more: of a file that is recent enough, or signed now. `claims` are those of any session.
    pub(crate) fn pool(&self, contents: &Contents, claims: &Value) -> Result<Arc<Pool>> {
        let path = self.directory.join(contents.name);
        let age = fs::metadata(&path).and_then(|file| file.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age < FILES_LAST) {
            let pool = Pool::of_text(fs::read_to_string(&path)?);
            if pool.len() >= contents.tokens {
                return Ok(Arc::new(pool));
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let threads = thread::available_parallelism().map_or(1, Into::into);
        let share = contents.tokens.div_ceil(threads);
        let text = thread::scope(|scope| {
            let parts: Vec<_> = (0..threads)
                .map(|part| {
                    let range = part * share..contents.tokens.min((part + 1) * share);
                    scope.spawn(move || {
                        range.map(|token| self.sign(contents, token, claims, now)).collect::<Result<String>>()
                    })
                })
                .collect();
            let joined = parts.into_iter().map(|part| part.join().map_err(|_| anyhow!("a signing thread panicked"))?);
            joined.collect::<Result<String>>()
        })?;
        fs::write(&path, &text)?;
        Ok(Arc::new(Pool::of_text(text)))
    }

    /// A token and a line break.
    fn sign(&self, contents: &Contents, token: usize, claims: &Value, now: u64) -> Result<String> {
        let user = contents.first_user + token % contents.users;
        let issued_at = if contents.expiry == Expiry::Past { now - 3600 } else { now };
        let expires_at = if contents.expiry == Expiry::Past { now - 600 } else { now + LIFE.as_secs() };
        let mut claims = claims.clone();
        claims["iat"] = json!(issued_at);
        claims["nbf"] = json!(issued_at - 10);
        claims["exp"] = json!(expires_at);
        claims["jti"] = json!(format!("{token:020x}"));
        claims["sid"] = json!(format!("sess_2bench{:022}", contents.first_user + token));
        claims["sub"] = json!(user_id(user));
        if contents.username == Username::Claim {
            claims["username"] = json!(format!("user{user:06}"));
        }
        let mut text = format!("{}.{}", header(KID), BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature)?;
        writeln!(text, ".{}", BASE64_URL_SAFE_NO_PAD.encode(signature))?;
        Ok(text)
    }
}

/// The first part of a session token.
fn header(kid: &str) -> String {
    let header = json!({"alg": "RS256", "cat": "cl_B7d4PD111AAA", "kid": kid, "typ": "JWT"});
    BASE64_URL_SAFE_NO_PAD.encode(header.to_string())
}

/// The token with the ID of a key that nobody has.
pub(crate) fn with_unknown_kid(position: usize, token: &str) -> String {
    let rest = token.split_once('.').map_or("", |(_, rest)| rest);
    format!("{}.{rest}", header(&format!("ins_2unknown{position:021}")))
}

/// The token with an invalid signature of the right length.
pub(crate) fn with_forged_signature(_: usize, token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap_or((token, ""));
    let reversed: String = signature.chars().rev().collect();
    // The last character of 256 bytes has four bits that must be 0; the first may be anything, but not too large a number.
    format!("{signed}.A{}A", reversed.get(1..reversed.len().saturating_sub(1)).unwrap_or_default())
}

/// Text of a token's length and form that decodes to nothing.
pub(crate) fn garbage(_: usize, token: &str) -> String {
    token.chars().rev().collect()
}
