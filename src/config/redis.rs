//! `[redis]`: the Redis that replicas share.

use std::{convert::Infallible, fs};

use super::{reader::Reader, settings, value};
use crate::store::{OnFailure, RedisAddress, RedisKeyPrefix, RedisSentinels};

/// The settings of Redis.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Its address, and the CAs that may sign its certificate.
    pub address: RedisAddress,
    /// The prefix of all keys.
    pub prefix: RedisKeyPrefix,
    /// What happens while it is unavailable.
    pub on_failure: OnFailure,
}

impl RedisConfig {
    /// None without a URL: the replica then keeps its state in memory.
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let mut address = read_address(reader);
        let authorities = reader.value(&settings::REDIS_CA_FILE, |path| {
            fs::read(path).map_err(|error| format!("the file cannot be read: {error}"))
        });
        if let Some(authorities) = authorities {
            reader.keep(&settings::REDIS_CA_FILE, String::from_utf8_lossy(&authorities).into_owned());
            let trusting = address.take().map(|address| address.trusting(authorities)).transpose();
            address = trusting.map_err(|error| reader.problem(&settings::REDIS_CA_FILE, error)).ok().flatten();
        }
        let prefix = reader.value(&settings::REDIS_PREFIX, RedisKeyPrefix::parse);
        let on_failure = reader.choice(&settings::REDIS_ON_FAILURE, value::variant);
        Some(Self { address: address?, prefix: prefix?, on_failure: on_failure? })
    }
}

fn read_address(reader: &mut Reader<'_>) -> Option<RedisAddress> {
    let problems = reader.problems.len();
    let sentinels = read_sentinels(reader);
    let is_of_sentinels = sentinels.is_some();
    let unsure = sentinels.is_none() && reader.problems.len() > problems;
    let problems = reader.problems.len();
    let address = reader.value(&settings::REDIS_URL, |urls| match sentinels {
        Some(sentinels) => RedisAddress::parse_sentinels(urls, sentinels),
        // A database goes with sentinels, so their settings come first.
        None if unsure => RedisAddress::parse_sentinels(urls, RedisSentinels::new(String::new())),
        None => RedisAddress::parse(urls),
    });
    if is_of_sentinels && address.is_none() && reader.problems.len() == problems {
        reader.problem(&settings::REDIS_SENTINEL_MASTER, "set without the sentinels' URLs; set REDIS_URL too");
    }
    address
}

fn read_sentinels(reader: &mut Reader<'_>) -> Option<RedisSentinels> {
    const WITHOUT_MASTER: &str = "only sentinels have it; set REDIS_SENTINEL_MASTER too, to the name of the master";
    let problems = reader.problems.len();
    let master = reader.value(&settings::REDIS_SENTINEL_MASTER, master_name);
    let user = reader.value(&settings::REDIS_SENTINEL_USERNAME, |text| Ok::<_, Infallible>(text.to_owned()));
    let password = reader.value(&settings::REDIS_SENTINEL_PASSWORD, |text| Ok::<_, Infallible>(text.into()));
    if user.is_some() && password.is_none() {
        reader.problem(&settings::REDIS_SENTINEL_USERNAME, "a user needs a password; set REDIS_SENTINEL_PASSWORD too");
    }
    let Some(master) = master else {
        if reader.problems.len() == problems && password.is_some() {
            reader.problem(&settings::REDIS_SENTINEL_PASSWORD, WITHOUT_MASTER);
        }
        return None;
    };
    let sentinels = RedisSentinels::new(master);
    Some(match password {
        Some(password) => sentinels.with_login(user, password),
        None => sentinels,
    })
}

/// A name that Sentinel accepts.
fn master_name(text: &str) -> Result<String, &'static str> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if is_plain {
        Ok(text.to_owned())
    } else {
        Err("not the name of a master, which has only the characters A-Z a-z 0-9 . _ -; Sentinel's command SENTINEL \
             MASTERS shows it")
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::config::sources::Sources;

    fn read(environment: &[(&str, &str)], toml: &str) -> Result<Option<RedisConfig>, String> {
        let sources = Sources::for_test(environment, toml);
        let mut reader = Reader::new(&sources);
        let config = RedisConfig::read(&mut reader);
        reader.finish(Some(config)).map(|(config, _)| config).map_err(|problems| problems.to_string())
    }

    /// Whether a reload would notice the difference between two environments.
    fn differ(one: &[(&str, &str)], other: &[(&str, &str)]) -> bool {
        let [one, other] = [one, other].map(|environment| {
            let sources = Sources::for_test(environment, "");
            let mut reader = Reader::new(&sources);
            RedisConfig::read(&mut reader);
            let values = reader.values.into_iter();
            values.map(|(key, value)| (key, value.expose_secret().to_owned())).collect::<Vec<_>>()
        });
        one != other
    }

    #[test]
    fn without_a_url_there_is_no_redis() {
        assert!(read(&[], "").unwrap().is_none());
        assert!(read(&[], "[redis]\nprefix = \"mine:\"").unwrap().is_none());
    }

    #[test]
    fn a_url_suffices() {
        let config = read(&[("REDIS_URL", "rediss://user:hunter2@redis.example.com")], "").unwrap().unwrap();
        assert_eq!(config.address.to_string(), "rediss://redis.example.com");
        assert_eq!(config.prefix, RedisKeyPrefix::parse("aca:").unwrap());
        assert_eq!(config.on_failure, OnFailure::Degrade);
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn all_mistakes_are_reported_without_the_password() {
        let toml =
            "[redis]\nurl = \"redis://:hunter2@redis.example.com/#insecure\"\nprefix = \"a*\"\non_failure = \"no\"";
        let problems = read(&[], toml).unwrap_err();
        assert!(problems.starts_with("the configuration has 3 problems"), "{problems}");
        assert!(!problems.contains("hunter2"), "{problems}");
    }

    #[test]
    fn several_urls_are_a_cluster_or_sentinels() {
        let cluster = read(&[("REDIS_URL", "redis://10.0.0.1:7001, redis://10.0.0.2:7001")], "").unwrap().unwrap();
        assert_eq!(cluster.address.to_string(), "redis://10.0.0.1:7001,redis://10.0.0.2:7001");
        let toml = "[redis]\nurl = \"redis://10.0.0.1/2,redis://10.0.0.2/2\"\nsentinel_master = \"main\"";
        let sentinels = read(&[("REDIS_SENTINEL_PASSWORD", "hunter2")], toml).unwrap().unwrap();
        assert_eq!(sentinels.address.to_string(), "main, the master that redis://10.0.0.1/2,redis://10.0.0.2/2 names");
        assert!(!format!("{sentinels:?}").contains("hunter2"));
    }

    #[test]
    fn settings_that_do_not_go_together_are_reported() {
        let url = ("REDIS_URL", "redis://a");
        let master = ("REDIS_SENTINEL_MASTER", "main");
        let password = ("REDIS_SENTINEL_PASSWORD", "hunter2");
        let user = ("REDIS_SENTINEL_USERNAME", "user");
        for (environment, problem) in [
            (&[("REDIS_URL", "redis://a/1,redis://b/1")][..], "REDIS_URL ([redis] url): several URLs are a cluster"),
            (&[("REDIS_URL", "redis://a,rediss://b")], "REDIS_URL ([redis] url): the URLs differ"),
            (&[("REDIS_URL", "redis://:hunter2@a,redis://b"), master], "REDIS_URL ([redis] url): the URLs differ"),
            (&[master], "REDIS_SENTINEL_MASTER ([redis] sentinel_master): set without the sentinels' URLs"),
            (&[url, password], "REDIS_SENTINEL_PASSWORD ([redis] sentinel_password): only sentinels have it"),
            (&[url, user, password], "REDIS_SENTINEL_PASSWORD ([redis] sentinel_password): only sentinels have it"),
            (&[url, master, user], "REDIS_SENTINEL_USERNAME ([redis] sentinel_username): a user needs a password"),
            (
                &[url, ("REDIS_SENTINEL_MASTER", "my master")],
                "REDIS_SENTINEL_MASTER ([redis] sentinel_master): not the",
            ),
            // Whether a database is a mistake, the master's name decides.
            (&[("REDIS_URL", "redis://a/1,redis://b/1"), password], "REDIS_SENTINEL_PASSWORD"),
        ] {
            let problems = read(environment, "").unwrap_err();
            assert!(problems.starts_with("the configuration has 1 problem"), "{problems}");
            assert!(problems.contains(problem) && !problems.contains("hunter2"), "{problems}");
        }
        let both = read(&[("REDIS_URL", "redis://a?b"), ("REDIS_SENTINEL_MASTER", "my master")], "").unwrap_err();
        assert!(both.starts_with("the configuration has 2 problems"), "{both}");
    }

    #[test]
    fn a_bundle_of_authorities_is_one_and_goes_with_tls() {
        let directory = tempfile::tempdir().unwrap();
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
        let file = |name: &str, text: &str| {
            fs::write(directory.path().join(name), text).unwrap();
            directory.path().join(name).to_str().unwrap().to_owned()
        };
        let read = |path: &str, url| read(&[("REDIS_URL", url), ("REDIS_CA_FILE", path)], "");
        let tls = "rediss://redis.example.com";
        let (two, one) = (file("two.pem", &certificate.repeat(2)), file("one.pem", &certificate));
        assert!(read(&one, tls).unwrap().is_some() && read(&two, tls).unwrap().is_some());
        assert!(differ(&[("REDIS_CA_FILE", &one)], &[("REDIS_CA_FILE", &two)]));
        let broken = certificate.replace("MII", "MIA");
        for (path, url, expected) in [
            ("/nowhere/ca.pem", tls, "the file cannot be read"),
            (directory.path().to_str().unwrap(), tls, "the file cannot be read"),
            (&file("empty.pem", ""), tls, "the file has no certificate"),
            (&file("text.pem", "MIIB"), tls, "the file has no certificate"),
            (&file("cut.pem", &certificate[..certificate.len() / 2]), tls, "a certificate that cannot be read"),
            (&file("broken.pem", &broken), tls, "a certificate that cannot be read"),
            (&file("good.pem", &certificate), "redis://redis.example.com", "write rediss://"),
            (&file("good.pem", &certificate), "redis://localhost", "write rediss://"),
        ] {
            let problem = read(path, url).unwrap_err();
            assert!(problem.starts_with("the configuration has 1 problem"), "{problem}");
            assert!(problem.contains("REDIS_CA_FILE ([redis] ca_file): ") && problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn another_password_is_another_configuration() {
        let [one, other] =
            ["redis://:one@localhost", "redis://:other@localhost"].map(|url| read(&[("REDIS_URL", url)], "").unwrap());
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
        let [one, other] = [("REDIS_URL", "redis://:one@localhost"), ("REDIS_URL", "redis://:other@localhost")];
        assert!(!differ(&[one], &[one]));
        assert!(differ(&[one], &[other]));
        assert!(differ(&[one], &[]));
    }
}
