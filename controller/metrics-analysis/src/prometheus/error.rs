//! Why a query found nothing that can be used.

use std::error::Error;
use std::io;

use rustls::AlertDescription;

/// Why a query gave no usable answer. The texts are for an operator and never hold header values.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum QueryError {
    /// The server cannot be reached, or answers with something that is not an answer to a query.
    #[error("Prometheus cannot be reached: {0}")]
    Unreachable(String),
    /// The server's certificate is not one for its address that a known authority has signed.
    #[error(
        "Prometheus' certificate is not trusted: {0}; check spec.analysis.prometheus.tls.caFrom, or the controller's own authorities, and the host in its address"
    )]
    Untrusted(String),
    /// The server does not accept who asks.
    #[error(
        "Prometheus does not accept who asks: {0}; check spec.analysis.prometheus.headersFrom and tls.clientCertificateFrom, or of the controller's default its --prometheus-headers-dir"
    )]
    Unauthorized(String),
    /// It was not asked, since it is not known with what.
    #[error("{message}")]
    NotAsked {
        /// One CamelCase word.
        cause: &'static str,
        /// What an operator reads, with what to do.
        message: String,
    },
    /// The answer took too long.
    #[error("Prometheus did not answer in time: {0}")]
    Timeout(String),
    /// The server does not accept the query.
    #[error("Prometheus refuses the query: {0}")]
    BadQuery(String),
    /// The answer lacks a part of the data, as the server itself says.
    #[error("the answer lacks a part of the data: {0}")]
    Partial(String),
    /// The answer is larger than what is taken in.
    #[error("the answer is too large: {0}; narrow the selector")]
    TooLarge(String),
    /// The answer is not what Prometheus' API promises.
    #[error("the answer cannot be read: {0}")]
    Malformed(String),
}

impl QueryError {
    /// The kind of trouble as one CamelCase word, for conditions and metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "Unreachable",
            Self::Untrusted(_) => "UntrustedCertificate",
            Self::Unauthorized(_) => "Unauthorized",
            Self::NotAsked { cause, .. } => cause,
            Self::Timeout(_) => "Timeout",
            Self::BadQuery(_) => "InvalidQuery",
            Self::Partial(_) => "Partial",
            Self::TooLarge(_) => "TooLarge",
            Self::Malformed(_) => "Malformed",
        }
    }

    /// What an operator reads where `what` could not be done for this.
    pub fn told(&self, what: &str) -> String {
        match self {
            // It says all, and may end in a command.
            Self::NotAsked { message, .. } => message.clone(),
            error => format!("{what}. {error}."),
        }
    }

    /// Whether the server as a whole is in trouble, and not only this query.
    pub const fn concerns_server(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_) | Self::Untrusted(_) | Self::Unauthorized(_) | Self::Timeout(_)
        )
    }
}

/// What a failed connection says of certificates, where it is about them.
pub(super) fn tls_fault(error: &(dyn Error + 'static)) -> Option<QueryError> {
    match tls_error(error)? {
        fault @ rustls::Error::InvalidCertificate(_) => {
            Some(QueryError::Untrusted(bounded(&fault.to_string())))
        }
        fault @ rustls::Error::AlertReceived(alert) if is_about_us(*alert) => {
            Some(QueryError::Unauthorized(bounded(&fault.to_string())))
        }
        _ => None,
    }
}

/// Whether the other side says that our certificate will not do, or that it wants one.
const fn is_about_us(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            // What TLS 1.2 says where it is shown none.
            | AlertDescription::HandshakeFailure
    )
}

/// The error of TLS among the causes; an `io::Error` holds it beside its chain of sources.
fn tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let held = || {
        error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
    };
    let inner = || {
        held()
            .map(|held| held as &'e (dyn Error + 'static))
            .or_else(|| error.source())
    };
    error.downcast_ref().or_else(|| tls_error(inner()?))
}

/// The innermost cause says what happened (`Connection refused`); the outer ones only where.
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    bounded(&innermost.to_string())
}

/// The beginning of a text that somebody else wrote, short enough for a status.
pub(super) fn bounded(text: &str) -> String {
    const MOST: usize = 300;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars().take(MOST).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let message = "é".repeat(1_000);
        assert_eq!(bounded(&message).chars().count(), 303);
    }
}
