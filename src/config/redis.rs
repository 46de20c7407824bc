//! `[redis]`: the store that replicas share.

use std::fs;

use super::{
    reader::Reader,
    settings::{REDIS_CA_FILE, REDIS_ON_FAILURE, REDIS_PREFIX, REDIS_URL},
};
use crate::store::{OnFailure, RedisAddress, RedisKeyPrefix};

/// The settings of Redis.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Where it is, and who may sign its certificate.
    pub address: RedisAddress,
    /// What its keys begin with.
    pub prefix: RedisKeyPrefix,
    /// What happens without it.
    pub on_failure: OnFailure,
}

impl RedisConfig {
    /// None without a URL: then each replica is on its own.
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let mut address = reader.optional(&REDIS_URL, RedisAddress::parse);
        let authorities = reader.optional(&REDIS_CA_FILE, |path| {
            fs::read(path).map_err(|error| format!("the file cannot be read: {error}"))
        });
        if let Some(authorities) = authorities {
            let trusting = address.take().map(|address| address.trusting(authorities)).transpose();
            address = trusting.map_err(|error| reader.problem(&REDIS_CA_FILE, error)).ok().flatten();
        }
        let prefix = reader.or_default(&REDIS_PREFIX, "aca:", RedisKeyPrefix::parse);
        let on_failure = reader.or_default(&REDIS_ON_FAILURE, "degrade", on_failure);
        Some(Self { address: address?, prefix: prefix?, on_failure: on_failure? })
    }

    /// Whether both name the same server, user, password and authorities, or none.
    pub(super) fn are_same_server(one: Option<&Self>, other: Option<&Self>) -> bool {
        match (one, other) {
            (Some(one), Some(other)) => one.address.is(&other.address),
            (None, None) => true,
            _ => false,
        }
    }
}

fn on_failure(text: &str) -> Result<OnFailure, &'static str> {
    match text {
        "degrade" => Ok(OnFailure::Degrade),
        "refuse" => Ok(OnFailure::Refuse),
        _ => Err("neither degrade nor refuse"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn read(environment: &[(&str, &str)], toml: &str) -> Result<Option<RedisConfig>, String> {
        let sources = Sources::for_test(environment, toml);
        let mut reader = Reader::for_part(&sources);
        let config = RedisConfig::read(&mut reader);
        reader.finish(Some(config)).map(|(config, _)| config).map_err(|problems| problems.to_string())
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
    fn all_mistakes_are_told_and_no_password() {
        let toml =
            "[redis]\nurl = \"redis://:hunter2@redis.example.com/#insecure\"\nprefix = \"a*\"\non_failure = \"no\"";
        let problems = read(&[], toml).unwrap_err();
        assert!(problems.starts_with("the configuration has 3 problems"), "{problems}");
        assert!(!problems.contains("hunter2"), "{problems}");
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
        let two = read(&file("two.pem", &certificate.repeat(2)), tls).unwrap();
        let one = read(&file("one.pem", &certificate), tls).unwrap();
        assert!(one.is_some() && !RedisConfig::are_same_server(one.as_ref(), two.as_ref()));
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
        assert!(RedisConfig::are_same_server(one.as_ref(), one.clone().as_ref()));
        assert!(!RedisConfig::are_same_server(one.as_ref(), other.as_ref()));
        assert!(!RedisConfig::are_same_server(one.as_ref(), None));
    }
}
