//! How the service ends.

use std::{net::TcpStream, time::Duration};

use crate::service::{Vendors, json};

#[tokio::test]
async fn a_signal_lets_requests_in_flight_finish_and_the_exit_code_is_0() {
    let vendors = Vendors::start().await;
    for signal in ["TERM", "INT"] {
        let mut service = vendors.service_with(&[("CLERK_USER_CACHE_TTL", "0s")]).await;
        vendors.clerk.set_delay(Duration::from_millis(800));
        let calls = vendors.clerk.calls().users;
        let in_flight = tokio::spawn(service.get("/api/ably").bearer_auth(vendors.token("alice")).send());
        let idle = TcpStream::connect(service.address()).unwrap();
        while vendors.clerk.calls().users == calls {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        service.signal(signal);
        service.logged("stopping after the requests in flight").await;
        let response = in_flight.await.unwrap().unwrap();
        assert_eq!(json(response, 200).await["clientId"], "alice");
        let status = tokio::task::spawn_blocking(move || service.wait()).await.unwrap();
        assert_eq!(status.code(), Some(0), "SIG{signal}");
        drop(idle);
        vendors.clerk.set_delay(Duration::ZERO);
    }
}
