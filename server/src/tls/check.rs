//! What rustls does not look at in the server's own certificate, and every client will.

use anyhow::{Result, anyhow, bail};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Whether a certificate is valid now.
pub(super) fn check_validity(der: &[u8]) -> Result<()> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| anyhow!("not a certificate: {error}"))?;
    let (validity, subject) = (certificate.validity(), certificate.subject());
    let now = x509_parser::time::ASN1Time::now();
    if now > validity.not_after {
        bail!("the certificate of {subject} expired on {}; renew it", validity.not_after);
    }
    if now < validity.not_before {
        bail!(
            "the certificate of {subject} is not valid before {}; is the clock of this machine right ({now})?",
            validity.not_before
        );
    }
    Ok(())
}
