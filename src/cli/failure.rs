//! Why a command fails.

use std::io;

use crate::{
    assembly::AssemblyError,
    config::{InvalidPolicyTests, Problems},
    server::StartError,
};

/// Why a command fails before it has a report.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}Nothing was started. `ably-clerk-auth --help` lists all settings.")]
    Config(#[from] Problems),
    #[error(transparent)]
    PolicyTests(#[from] InvalidPolicyTests),
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("cannot write the log: {0}")]
    Log(io::Error),
    #[error("the server stopped: {0}")]
    Serve(io::Error),
    #[error("{0}")]
    Other(String),
}
