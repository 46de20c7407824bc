//! Redis over TLS.

use std::{env, fs, path::Path, process::Command};

use ably_clerk_auth::store::{Bounds, Health, OnFailure, RedisAddress};

use crate::{server::RedisServer, stage::Replica};

/// A server whose certificate, for `localhost`, is at this path. The directory goes with the certificate.
fn server() -> (RedisServer, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("cert.pem"), own.cert.pem()).unwrap();
    fs::write(path("key.pem"), own.signing_key.serialize_pem()).unwrap();
    let [certificate, key] = [path("cert.pem"), path("key.pem")];
    let server = RedisServer::start_on(
        |port| ["--port", "0", "--tls-port", &port.to_string()].map(str::to_owned).to_vec(),
        &["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-auth-clients", "no"],
    );
    (server, directory)
}

/// Tries in a process of its own, whose certificates of authorities are in this file: a process reads them from where its
/// environment says.
fn try_with_authorities(server: &RedisServer, authorities: &Path) -> bool {
    let outcome = Command::new(env::current_exe().unwrap())
        .args(["--exact", "tls::becomes_ready", "--ignored"])
        .env("SSL_CERT_FILE", authorities)
        .env("REDIS_TO_TRY", format!("rediss://aca:PASSWORD@localhost:{}", server.port()))
        .output()
        .unwrap();
    outcome.status.success()
}

#[tokio::test]
#[ignore = "what the other tests here run in a process of its own"]
async fn becomes_ready() {
    let address = RedisAddress::parse(&env::var("REDIS_TO_TRY").unwrap()).unwrap();
    let replica = Replica::at(&address, &Bounds::default(), OnFailure::Degrade);
    for _ in 0..300 {
        if replica.health() == Health::Ready {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("not ready");
}

#[test]
fn a_server_is_trusted_for_its_certificate() {
    let (server, directory) = server();
    assert!(try_with_authorities(&server, &directory.path().join("cert.pem")));
}

#[test]
fn a_server_with_the_certificate_of_another_authority_is_not_used() {
    let (server, _certificate) = server();
    let directory = tempfile::tempdir().unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let authorities = directory.path().join("other.pem");
    fs::write(&authorities, other.cert.pem()).unwrap();
    assert!(!try_with_authorities(&server, &authorities));
}
