//! Redis over TLS.

use std::{env, fs, path::Path, process::Command};

use ably_clerk_auth::{
    redis::RedisAddress,
    store::{Health, OnFailure, RedisConnector, RedisKeyPrefix, StoreLimits},
};

use crate::{fixtures::Replica, redis_server::RedisServer};

/// Whether a new process that trusts the certificates in this file becomes ready.
fn becomes_ready_with(server: &RedisServer, authorities: &Path) -> bool {
    let outcome = Command::new(env::current_exe().unwrap())
        .args(["--exact", "tls::becomes_ready", "--ignored"])
        .env("SSL_CERT_FILE", authorities)
        .env("REDIS_TO_TRY", server.tls_url())
        .output()
        .unwrap();
    outcome.status.success()
}

#[tokio::test]
#[ignore = "the other tests run it in a new process"]
async fn becomes_ready() {
    let address = RedisAddress::parse(&env::var("REDIS_TO_TRY").unwrap()).unwrap();
    let replica = Replica::at(&address, &StoreLimits::default(), OnFailure::Degrade);
    for _ in 0..300 {
        if replica.health() == Health::Ready {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("not ready");
}

#[test]
fn a_server_with_a_trusted_certificate_is_used() {
    let (server, directory) = RedisServer::start_with_tls();
    assert!(becomes_ready_with(&server, &directory.path().join("cert.pem")));
}

#[test]
fn a_server_with_an_untrusted_certificate_is_not_used() {
    let (server, _certificate) = RedisServer::start_with_tls();
    let directory = tempfile::tempdir().unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let authorities = directory.path().join("other.pem");
    fs::write(&authorities, other.cert.pem()).unwrap();
    assert!(!becomes_ready_with(&server, &authorities));
}

#[tokio::test]
async fn a_server_with_a_certificate_of_the_configured_authority_is_used() {
    let (server, directory) = RedisServer::start_with_tls();
    let certificate = fs::read(directory.path().join("cert.pem")).unwrap();
    let address = RedisAddress::parse(&server.tls_url()).unwrap();
    let prefix = RedisKeyPrefix::parse("aca:").unwrap();
    let error = RedisConnector::new(&address, &prefix).unwrap().probe().await.unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
    let replica = Replica::at(&address.trusting(certificate).unwrap(), &StoreLimits::default(), OnFailure::Degrade);
    replica.becomes(Health::Ready).await;
}

#[tokio::test]
async fn a_server_with_a_certificate_of_another_authority_is_not_used() {
    let (server, _certificate) = RedisServer::start_with_tls();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
    let address = RedisAddress::parse(&server.tls_url()).unwrap().trusting(other.into()).unwrap();
    let error = RedisConnector::new(&address, &RedisKeyPrefix::parse("aca:").unwrap())
        .unwrap()
        .probe()
        .await
        .unwrap_err()
        .to_string();
    // Both authorities have the same name, so the signature is invalid.
    assert!(error.contains("certificate"), "{error}");
}
