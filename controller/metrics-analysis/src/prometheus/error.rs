//! Errors of queries.

use serin_core::hold::HoldCode;
use serin_core::text::excerpt;
use std::error::Error;
use std::io;

use rustls::AlertDescription;

/// Why a query has no usable result. The messages are for operators and never contain header
/// values.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum QueryError {
    /// The server cannot be reached, or its response is not the response to a query.
    #[error("Prometheus cannot be reached: {0}")]
    Unreachable(String),
    /// The certificate of the server is not valid for its address or not signed by a trusted CA.
    #[error(
        "Prometheus' certificate is not trusted: {0}; check spec.analysis.prometheus.tls.caFrom, \
         or the CA certificates of the controller, and the host in its address"
    )]
    Untrusted(String),
    /// The server rejects the credentials.
    #[error(
        "Prometheus rejected the credentials: {0}; check spec.analysis.prometheus.headersFrom and \
         tls.clientCertificateFrom, or --prometheus-headers-dir of the controller for its default \
         Prometheus"
    )]
    Unauthorized(String),
    /// The query was not sent because the credentials are unavailable.
    #[error("{message}")]
    CredentialsUnavailable {
        /// What holds the release.
        code: HoldCode,
        /// Message for operators, with the fix.
        message: String,
    },
    /// The server did not respond in time.
    #[error("Prometheus did not respond in time: {0}")]
    Timeout(String),
    /// The server rejects the query.
    #[error("Prometheus rejected the query: {0}")]
    BadQuery(String),
    /// The result is incomplete according to the server.
    #[error("the result is incomplete: {0}")]
    Partial(String),
    /// The result exceeds a size limit.
    #[error("the result is too large: {0}; narrow the selector")]
    TooLarge(String),
    /// The response does not conform to the Prometheus API.
    #[error("the response cannot be decoded: {0}")]
    Malformed(String),
}

impl QueryError {
    /// What the failure holds a release with.
    pub const fn code(&self) -> HoldCode {
        match self {
            Self::Unreachable(_) => HoldCode::Unreachable,
            Self::Untrusted(_) => HoldCode::UntrustedCertificate,
            Self::Unauthorized(_) => HoldCode::Unauthorized,
            Self::CredentialsUnavailable { code, .. } => *code,
            Self::Timeout(_) => HoldCode::Timeout,
            Self::BadQuery(_) => HoldCode::InvalidQuery,
            Self::Partial(_) => HoldCode::Partial,
            Self::TooLarge(_) => HoldCode::TooLarge,
            Self::Malformed(_) => HoldCode::Malformed,
        }
    }

    /// Message for operators: `what` failed because of this error.
    pub fn describe(&self, what: &str) -> String {
        match self {
            // The message is complete and may end with a command.
            Self::CredentialsUnavailable { message, .. } => message.clone(),
            error => format!("{what}. {error}."),
        }
    }

    /// Whether the error affects the server as a whole, not only this query.
    pub const fn is_server_wide(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_) | Self::Untrusted(_) | Self::Unauthorized(_) | Self::Timeout(_)
        )
    }
}

/// The certificate-related error behind a failed connection, if there is one.
pub(super) fn tls_query_error(error: &(dyn Error + 'static)) -> Option<QueryError> {
    match find_tls_error(error)? {
        fault @ rustls::Error::InvalidCertificate(_) => {
            Some(QueryError::Untrusted(excerpt(&fault.to_string())))
        }
        fault @ rustls::Error::AlertReceived(alert) if is_client_certificate_alert(*alert) => {
            Some(QueryError::Unauthorized(excerpt(&fault.to_string())))
        }
        _ => None,
    }
}

/// Whether the server rejects or requires a client certificate.
const fn is_client_certificate_alert(alert: AlertDescription) -> bool {
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
            // Sent by TLS 1.2 if the client certificate is missing.
            | AlertDescription::HandshakeFailure
    )
}

/// Finds the TLS error in the chain of causes. An `io::Error` keeps its inner error outside of its
/// chain of sources.
fn find_tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
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
    error.downcast_ref().or_else(|| find_tls_error(inner()?))
}

/// The innermost cause is specific (`Connection refused`). The outer ones only add context.
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    excerpt(&innermost.to_string())
}
