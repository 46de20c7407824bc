//! `healthcheck`: for containers without a shell or curl.

use std::{path::Path, time::Duration};

use super::{failure::Failure, listener, output::Output};
use crate::{
    config::{Config, Sources},
    outgoing::causes,
};

pub(super) async fn run(config: Option<&Path>) -> Result<Output, Failure> {
    let server = Config::server_only(&Sources::read(config))?;
    let url = listener::url(server.address, "/healthz");
    let answer = async { listener::client(Duration::from_secs(2))?.get(&url).send().await };
    match answer.await.map(|response| response.status()) {
        Ok(status) if status.is_success() => Ok(Output::default()),
        Ok(status) => Err(Failure::Other(format!("{url} answered with status {}", status.as_u16()))),
        Err(error) => Err(Failure::Other(format!("no answer from {url}: {}", causes(&error.without_url())))),
    }
}
