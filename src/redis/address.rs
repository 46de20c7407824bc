//! The address of Redis.

use ::redis::{
    Client, ConnectionAddr, IntoConnectionInfo as _, ProtocolVersion, RedisConnectionInfo, RedisResult, TlsCertificates,
};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::node::Node;

/// Where Redis or Valkey is: a single server, a cluster, or the master that sentinels watch. Printed without users and
/// passwords.
#[derive(Clone, derive_more::Debug, derive_more::Display)]
#[debug("{printed}")]
#[display("{printed}")]
pub struct RedisAddress {
    /// The server, nodes of the cluster, or the sentinels.
    pub(super) nodes: Vec<Node>,
    /// To the servers with the data.
    login: Login,
    encryption: Encryption,
    /// A PEM bundle. `None`: those that the system trusts.
    authorities: Option<Vec<u8>>,
    pub(super) sentinels: Option<RedisSentinels>,
    printed: String,
}

/// A user, and a database.
#[derive(Clone, Debug, Default)]
struct Login {
    /// `None`: Redis's default user.
    user: Option<SecretString>,
    password: Option<SecretString>,
    database: i64,
}

/// The master that the sentinels watch, and how to log in to them.
#[derive(Clone, Debug)]
pub struct RedisSentinels {
    /// The name of the master.
    pub(super) master: String,
    /// `None`: as the user of the servers with the data if the sentinels know that user, else without a login.
    login: Option<Login>,
}

/// Whether connections use TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encryption {
    Tls,
    None,
}

/// Why a URL is invalid. Does not repeat the URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRedisAddress {
    /// Not a URL with a host and a scheme of Redis.
    #[error(
        "not a URL like rediss://user:password@redis.example.com:6379/0; separate several with commas, and write a comma \
         in a password as %2C"
    )]
    NotAUrl,
    /// It has a query or a fragment. `#insecure` would accept any certificate.
    #[error("the URL has a query or a fragment; write scheme, user, password, host, port and database only")]
    Options,
    /// The path is not a number.
    #[error("the path of the URL is not a database number; use for example /0")]
    Database,
    /// They are not those of one cluster or one master.
    #[error(
        "the URLs differ in more than host and port; they are nodes of one cluster, or sentinels of one master, so give all \
         of them the same scheme, user, password and database"
    )]
    Different,
    /// Several URLs without a master for sentinels.
    #[error(
        "several URLs are a cluster, and a cluster has no database but 0; remove the database from them. If they are \
         sentinels, set REDIS_SENTINEL_MASTER"
    )]
    DatabaseOfCluster,
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

/// The port of a URL without one.
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;

impl Login {
    fn of(settings: &RedisConnectionInfo) -> Self {
        let [user, password] = [settings.username(), settings.password()].map(|text| text.map(SecretString::from));
        Self { user, password, database: settings.db() }
    }

    fn settings(&self) -> RedisConnectionInfo {
        let settings = RedisConnectionInfo::default().set_db(self.database);
        let settings = self.user.iter().fold(settings, |to, user| to.set_username(user.expose_secret()));
        self.password.iter().fold(settings, |to, password| to.set_password(password.expose_secret()))
    }
}

impl RedisSentinels {
    /// Sentinels that watch the master of this name.
    #[must_use]
    pub fn new(master: String) -> Self {
        Self { master, login: None }
    }

    /// Logs in at sentinels as this user. Without a name it is Redis's default user.
    #[must_use]
    pub fn with_login(self, user: Option<&str>, password: &SecretString) -> Self {
        let login = Login { user: user.map(SecretString::from), password: Some(password.clone()), database: 0 };
        Self { login: Some(login), ..self }
    }
}

impl RedisAddress {
    /// The address of a single server, or of a cluster: the URLs of one or more nodes, comma-separated.
    pub fn parse(urls: &str) -> Result<Self, InvalidRedisAddress> {
        let address = Self::read(urls, PORT)?;
        if address.nodes.len() > 1 && address.login.database != 0 {
            return Err(InvalidRedisAddress::DatabaseOfCluster);
        }
        Ok(address)
    }

    /// The address of a master that sentinels watch: the sentinels' URLs, comma-separated, with the user, the password and
    /// the database of the master.
    pub fn parse_sentinels(urls: &str, sentinels: RedisSentinels) -> Result<Self, InvalidRedisAddress> {
        let address = Self::read(urls, SENTINEL_PORT)?;
        let printed = format!("{}, the master that {} names", sentinels.master, address.printed);
        Ok(Self { printed, sentinels: Some(sentinels), ..address })
    }

    fn read(urls: &str, port: u16) -> Result<Self, InvalidRedisAddress> {
        let mut urls = urls.split(',').map(|url| Self::read_one(url.trim(), port));
        let mut address = urls.next().ok_or(InvalidRedisAddress::NotAUrl)??;
        for other in urls {
            let other = other?;
            if address.common() != other.common() {
                return Err(InvalidRedisAddress::Different);
            }
            address.nodes.extend(other.nodes);
            address.printed = format!("{},{}", address.printed, other.printed);
        }
        Ok(address)
    }

    fn read_one(text: &str, port: u16) -> Result<Self, InvalidRedisAddress> {
        let mut url = Url::parse(text).map_err(|_| InvalidRedisAddress::NotAUrl)?;
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
        let info = url.as_str().into_connection_info().map_err(|_| InvalidRedisAddress::NotAUrl)?;
        let (host, encryption) = match info.addr() {
            ConnectionAddr::Tcp(host, _) => (host, Encryption::None),
            ConnectionAddr::TcpTls { host, .. } => (host, Encryption::Tls),
            _ => return Err(InvalidRedisAddress::NotAUrl),
        };
        let node = Node { host: host.clone(), port: url.port().unwrap_or(port) };
        // Neither fails for a URL that has a host.
        let _ = url.set_password(None);
        let _ = url.set_username("");
        Ok(Self {
            nodes: vec![node],
            login: Login::of(info.redis_settings()),
            encryption,
            authorities: None,
            sentinels: None,
            printed: url.into(),
        })
    }

    /// What the URLs of one address have in common.
    fn common(&self) -> (Encryption, Option<&str>, Option<&str>, i64) {
        let Login { user, password, database } = &self.login;
        let [user, password] = [user, password].map(|secret| secret.as_ref().map(SecretString::expose_secret));
        (self.encryption, user, password, *database)
    }

    /// Trusts certificates signed by one of these authorities, a PEM bundle, and no others.
    pub fn trusting(self, authorities: Vec<u8>) -> Result<Self, InvalidRedisAuthorities> {
        if self.encryption != Encryption::Tls {
            return Err(InvalidRedisAuthorities::NotEncrypted);
        }
        if memchr::memmem::find(&authorities, b"-----BEGIN CERTIFICATE-----").is_none() {
            return Err(InvalidRedisAuthorities::Empty);
        }
        let trusting = Self { authorities: Some(authorities), ..self };
        for node in &trusting.nodes {
            trusting.client(node).map_err(|_| InvalidRedisAuthorities::Malformed)?;
        }
        Ok(trusting)
    }

    /// Whether the password and the messages of replicas can be read on the network.
    #[must_use]
    pub fn is_in_clear(&self) -> bool {
        self.encryption == Encryption::None && !self.nodes.iter().all(Node::is_on_this_machine)
    }

    /// A client of a server with the data.
    pub(super) fn client(&self, node: &Node) -> RedisResult<Client> {
        self.client_as(&self.login, node)
    }

    /// Clients of a sentinel, to be tried in this order: a sentinel may not know the user of the data.
    pub(super) fn sentinel_clients(&self, sentinel: &Node) -> RedisResult<Vec<Client>> {
        let nobody = Login::default();
        let logins = match &self.sentinels {
            Some(RedisSentinels { login: Some(own), .. }) => vec![own.clone()],
            _ if self.login.password.is_some() => vec![Login { database: 0, ..self.login.clone() }, nobody],
            _ => vec![nobody],
        };
        logins.iter().map(|login| self.client_as(login, sentinel)).collect()
    }

    fn client_as(&self, login: &Login, node: &Node) -> RedisResult<Client> {
        let Node { host, port } = node.clone();
        let address = match self.encryption {
            Encryption::Tls => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            Encryption::None => ConnectionAddr::Tcp(host, port),
        };
        // RESP2 suffices: nothing is pushed. `CLIENT SETINFO` would need a permission that an ACL of Redis before 7.2 cannot
        // name.
        let login = login.settings().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
        let info = address.into_connection_info()?;
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_redis_settings(login).set_tcp_settings(tcp);
        match self.authorities.clone() {
            None => Client::open(info),
            authorities => Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert: authorities }),
        }
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
            ("redis://:hunter2@a:7000, redis://:hunter2@b:7000", "redis://a:7000,redis://b:7000"),
        ] {
            let address = RedisAddress::parse(text).unwrap();
            assert_eq!(format!("{address} {address:?}"), format!("{printed} {printed}"));
        }
        let sentinels = RedisSentinels::new("main".to_owned()).with_login(None, &"hunter3".into());
        let address = RedisAddress::parse_sentinels("redis://:hunter2@a,redis://:hunter2@b", sentinels).unwrap();
        assert_eq!(format!("{address:?}"), "main, the master that redis://a,redis://b names");
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
            "redis://:hunter2@a,",
            "redis://:hunter2@a,b",
            "redis://:hunter,2@a",
            "redis://:hunter2@a,redis://a",
        ] {
            let error = RedisAddress::parse(bad).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter"), "{bad}");
        }
    }

    #[test]
    fn urls_differ_in_host_and_port_only() {
        let first = "rediss://user:pass%2Cword@a";
        let address = RedisAddress::parse(&format!("{first}:1,{}", first.replace("@a", "@b"))).unwrap();
        assert_eq!(address.nodes, [("a", 1), ("b", 6379)].map(|(host, port)| Node { host: host.to_owned(), port }));
        let settings = address.login.settings();
        assert_eq!((settings.username(), settings.password()), (Some("user"), Some("pass,word")));
        for other in
            ["redis://user:pass%2Cword@b", "rediss://user:word@b", "rediss://other:pass%2Cword@b", "rediss://b"]
        {
            let error = RedisAddress::parse(&format!("{first},{other}")).unwrap_err();
            assert_eq!(error, InvalidRedisAddress::Different, "{other}");
        }
    }

    #[test]
    fn only_sentinels_and_a_single_server_go_with_a_database() {
        assert!(RedisAddress::parse("redis://a/3").is_ok());
        assert!(RedisAddress::parse("redis://a/0,redis://b").is_ok());
        assert_eq!(RedisAddress::parse("redis://a/3,redis://b/3").unwrap_err(), InvalidRedisAddress::DatabaseOfCluster);
        assert_eq!(RedisAddress::parse("redis://a/3,redis://b").unwrap_err(), InvalidRedisAddress::Different);
        let address =
            RedisAddress::parse_sentinels("redis://a/3,redis://b/3", RedisSentinels::new("main".to_owned())).unwrap();
        assert_eq!((address.login.database, address.nodes[0].port), (3, 26_379));
    }

    #[test]
    fn a_sentinel_may_know_the_user_of_the_data_another_one_or_none() {
        let users = |address: RedisAddress| {
            let clients = address.sentinel_clients(&address.nodes[0]).unwrap();
            let settings = clients.iter().map(|client| client.get_connection_info().redis_settings().clone());
            settings.map(|settings| (settings.username().map(str::to_owned), settings.db())).collect::<Vec<_>>()
        };
        let sentinels = RedisSentinels::new("main".to_owned());
        let parse = |url, sentinels: &RedisSentinels| RedisAddress::parse_sentinels(url, sentinels.clone()).unwrap();
        let user = |name: &str| (Some(name.to_owned()), 0);
        assert_eq!(users(parse("redis://a/3", &sentinels)), [(None, 0)]);
        assert_eq!(users(parse("redis://user:password@a/3", &sentinels)), [user("user"), (None, 0)]);
        let sentinels = sentinels.with_login(Some("other"), &"password".into());
        assert_eq!(users(parse("redis://user:password@a/3", &sentinels)), [user("other")]);
    }

    #[test]
    fn only_a_remote_server_without_tls_is_in_clear() {
        for (text, in_clear) in [
            ("redis://redis.example.com", true),
            ("redis://10.0.0.1", true),
            ("redis://localhost,redis://10.0.0.1", true),
            ("rediss://redis.example.com", false),
            ("redis://localhost", false),
            ("redis://127.0.0.1", false),
            ("redis://[::1]", false),
        ] {
            assert_eq!(RedisAddress::parse(text).unwrap().is_in_clear(), in_clear, "{text}");
        }
    }
}
