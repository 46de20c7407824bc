//! Redis over TLS.

use std::{env, path::Path, process::Command};

use ably_clerk_auth::redis::RedisAddress;

use crate::{
    fixtures::{Replica, connector},
    redis_server::{Certificate, RedisServer},
};

/// What a new process that trusts the certificates in this file says of a server.
fn probed_with(server: &RedisServer, authorities: &Path) -> String {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "tls::probes", "--ignored", "--nocapture"])
        .env("SSL_CERT_FILE", authorities)
        .env("REDIS_TO_PROBE", server.tls_url())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
#[ignore = "the other tests run it in a new process"]
#[expect(clippy::print_stdout, reason = "the other process reads it")]
async fn probes() {
    let address = RedisAddress::parse(&env::var("REDIS_TO_PROBE").unwrap()).unwrap();
    match connector(&address).probe().await {
        Ok(found) => println!("answers at {}", found.node),
        Err(lost) => println!("{lost}"),
    }
}

#[test]
fn a_server_with_a_trusted_certificate_is_used() {
    let certificate = Certificate::new();
    let server = RedisServer::start_with_tls(&certificate);
    let output = probed_with(&server, &certificate.path());
    assert!(output.contains(&format!("answers at localhost:{}", server.port())), "{output}");
}

#[test]
fn a_server_with_an_untrusted_certificate_is_not_used() {
    let server = RedisServer::start_with_tls(&Certificate::new());
    let output = probed_with(&server, &Certificate::new().path());
    assert!(output.contains("certificate"), "{output}");
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
