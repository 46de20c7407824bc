//! Redis over TLS.

use std::{env, path::Path, process::Command};

use ably_clerk_auth::{
    redis::RedisAddress,
    store::{Health, OnFailure, StoreLimits},
};

use crate::{
    fixtures::{Replica, connector},
    redis_server::{Certificate, RedisServer},
};

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
    let certificate = Certificate::new();
    let server = RedisServer::start_with_tls(&certificate);
    assert!(becomes_ready_with(&server, &certificate.path()));
}

#[test]
fn a_server_with_an_untrusted_certificate_is_not_used() {
    let server = RedisServer::start_with_tls(&Certificate::new());
    assert!(!becomes_ready_with(&server, &Certificate::new().path()));
}

#[tokio::test]
async fn a_server_with_a_certificate_of_the_configured_authority_is_used() {
    let certificate = Certificate::new();
    let server = RedisServer::start_with_tls(&certificate);
    let address = RedisAddress::parse(&server.tls_url()).unwrap();
    let error = connector(&address).probe().await.unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
    Replica::ready_at(&address.trusting(certificate.pem()).unwrap()).await;
}

#[tokio::test]
async fn a_server_with_a_certificate_of_another_authority_is_not_used() {
    let server = RedisServer::start_with_tls(&Certificate::new());
    let address = RedisAddress::parse(&server.tls_url()).unwrap().trusting(Certificate::new().pem()).unwrap();
    let error = connector(&address).probe().await.unwrap_err().to_string();
    // Both authorities have the same name, so the signature is invalid.
    assert!(error.contains("certificate"), "{error}");
}
