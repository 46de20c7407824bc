//! The address of Redis.

use std::{fmt, net::IpAddr};

use ::redis::{IntoConnectionInfo as _, ProtocolVersion, TlsCertificates};
use secrecy::{ExposeSecret as _, SecretString};
use url::{Host, Url};

/// The URL of a Redis or Valkey server: `redis://`, or `rediss://` for TLS. Printed without its user and password.
#[derive(Clone)]
pub struct RedisAddress {
    url: SecretString,
    printed: String,
    transport: Transport,
    /// A PEM bundle. `None`: those that the system trusts.
    authorities: Option<Vec<u8>>,
}

/// How the connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tls,
    Loopback,
    Plaintext,
}

/// Why a URL is invalid. Does not repeat the URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRedisAddress {
    /// Not a URL with a host and a scheme of Redis.
    #[error("not a URL like rediss://user:password@redis.example.com:6379/0")]
    NotAUrl,
    /// It has a query or a fragment. `#insecure` would accept any certificate.
    #[error("the URL has a query or a fragment; write scheme, user, password, host, port and database only")]
    Options,
    /// The path is not a number.
    #[error("the path of the URL is not a database number; use for example /0")]
    Database,
}

/// Why a file of certificate authorities cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRedisAuthorities {
    /// The URL does not use TLS.
    #[error("the URL of Redis does not use TLS, so no certificate would be checked; write rediss://")]
    NotEncrypted,
    /// The file has no certificate.
    #[error("the file has no certificate; write PEM, which begins with -----BEGIN CERTIFICATE-----")]
    Empty,
    /// A certificate cannot be read.
    #[error("the file has a certificate that cannot be read; was it copied whole?")]
    Malformed,
}

impl RedisAddress {
    /// Checks a URL.
    pub fn parse(text: &str) -> Result<Self, InvalidRedisAddress> {
        let mut url = Url::parse(text).map_err(|_| InvalidRedisAddress::NotAUrl)?;
        let encrypted = match url.scheme() {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            _ => return Err(InvalidRedisAddress::NotAUrl),
        };
        if url.host_str().is_none_or(str::is_empty) {
            return Err(InvalidRedisAddress::NotAUrl);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidRedisAddress::Options);
        }
        let database = url.path().trim_start_matches('/');
        if !database.is_empty() && database.parse::<u16>().is_err() {
            return Err(InvalidRedisAddress::Database);
        }
        url.as_str().into_connection_info().map_err(|_| InvalidRedisAddress::NotAUrl)?;
        let transport = match encrypted {
            true => Transport::Tls,
            false if is_loopback(&url) => Transport::Loopback,
            false => Transport::Plaintext,
        };
        let full = SecretString::from(url.as_str());
        // Neither fails for a URL that has a host.
        let _ = url.set_password(None);
        let _ = url.set_username("");
        Ok(Self { url: full, printed: url.into(), transport, authorities: None })
    }

    /// Trusts certificates signed by one of these authorities, a PEM bundle, and no others.
    pub fn trusting(self, authorities: Vec<u8>) -> Result<Self, InvalidRedisAuthorities> {
        if self.transport != Transport::Tls {
            return Err(InvalidRedisAuthorities::NotEncrypted);
        }
        if memchr::memmem::find(&authorities, b"-----BEGIN CERTIFICATE-----").is_none() {
            return Err(InvalidRedisAuthorities::Empty);
        }
        let trusting = Self { authorities: Some(authorities), ..self };
        trusting.client().map_err(|_| InvalidRedisAuthorities::Malformed)?;
        Ok(trusting)
    }

    /// Whether the password and the messages of replicas can be read on the network.
    #[must_use]
    pub fn is_in_clear(&self) -> bool {
        self.transport == Transport::Plaintext
    }

    /// A client. RESP2 suffices: nothing is pushed.
    pub(super) fn client(&self) -> ::redis::RedisResult<::redis::Client> {
        let info = self.url.expose_secret().into_connection_info()?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
        // `CLIENT SETINFO` would need a permission that an ACL of Redis before 7.2 cannot name.
        let settings = settings.set_skip_set_lib_name();
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
        match &self.authorities {
            None => ::redis::Client::open(info),
            Some(pem) => {
                let certificates = TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) };
                ::redis::Client::build_with_tls(info, certificates)
            }
        }
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.printed)
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.printed)
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        // For schemes other than http(s), the parser does not distinguish addresses and names.
        Some(Host::Domain(name)) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_redis_is_printed_without_user_and_password() {
        for (text, printed) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("rediss://user:hunter2@redis.example.com:6380/3", "rediss://redis.example.com:6380/3"),
            ("valkey://:hunter2@[::1]", "valkey://[::1]"),
        ] {
            let address = RedisAddress::parse(text).unwrap();
            assert_eq!(format!("{address} {address:?}"), format!("{printed} {printed}"));
        }
    }

    #[test]
    fn an_invalid_url_is_refused_and_not_repeated() {
        for bad in [
            "",
            "hunter2",
            "http://:hunter2@redis.example.com",
            "redis://",
            "redis+unix:///run/hunter2",
            "unix:///run/redis.sock",
            "rediss://:hunter2@redis.example.com/#insecure",
            "redis://:hunter2@redis.example.com/?protocol=resp2",
            "redis://:hunter2@redis.example.com/name",
            "redis://:hunter2@redis.example.com:port",
        ] {
            let error = RedisAddress::parse(bad).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{bad}");
        }
    }

    #[test]
    fn only_a_remote_server_without_tls_is_in_clear() {
        for (text, in_clear) in [
            ("redis://redis.example.com", true),
            ("redis://10.0.0.1", true),
            ("rediss://redis.example.com", false),
            ("redis://localhost", false),
            ("redis://127.0.0.1", false),
            ("redis://[::1]", false),
        ] {
            assert_eq!(RedisAddress::parse(text).unwrap().is_in_clear(), in_clear, "{text}");
        }
    }
}
