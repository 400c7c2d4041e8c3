//! The options that a host asks for before it answers.

use clap::Args;
use page_store::{HttpOptions, HttpVersion, Result};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// A token and certificates. They are files, named again in the words of an agent that takes over; and a token may be in the
/// environment, which it inherits.
#[derive(Args, Debug, Clone, Default)]
pub struct AccessArgs {
    /// A file with the token that the store's host wants [default: the token in PAGEFERRY_TOKEN]. It is read again when the host no longer takes
    /// the token, and sent to the store's own host and port only; there a recording is sent with it, too (--record).
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Trust this authority besides those of the machine (PEM).
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The certificate to show a host that asks for one (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_client_key")]
    pub tls_client_cert: Option<PathBuf>,
    /// The key of --tls-client-cert (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_client_cert")]
    pub tls_client_key: Option<PathBuf>,
}

impl AccessArgs {
    /// Reads the files.
    pub(crate) fn options(&self, version: HttpVersion) -> Result<HttpOptions> {
        let token = std::env::var("PAGEFERRY_TOKEN").ok();
        self.options_with(version, self.token_file.as_deref(), token.as_deref())
    }

    /// The same with another token.
    pub(crate) fn options_with(
        &self,
        version: HttpVersion,
        token_file: Option<&Path>,
        token: Option<&str>,
    ) -> Result<HttpOptions> {
        let client = self.tls_client_cert.as_deref().zip(self.tls_client_key.as_deref());
        HttpOptions::read(version, token_file, token, self.tls_ca.as_deref(), client)
    }

    /// The same, for an agent that takes over: memory of others waits for it, so it waits for the files.
    pub(crate) async fn options_again(&self, version: HttpVersion) -> HttpOptions {
        loop {
            match self.options(version) {
                Ok(options) => return options,
                Err(error) => tracing::error!("{error}; trying again"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}
