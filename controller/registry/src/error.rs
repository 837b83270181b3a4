//! Why a registry did not answer a question.

/// Why a registry did not answer. The text completes the sentence that names the image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The name of the image cannot be used.
    #[error(transparent)]
    InvalidImage(#[from] crate::InvalidImage),
    /// The address must not be connected to.
    #[error("{0}")]
    AddressRefused(String),
    /// The registry does not have what was requested.
    #[error("the registry does not have it")]
    NotFound,
    /// The registry demands credentials, or other ones.
    #[error("the registry refused the request with the status {status}")]
    Denied {
        /// Status of the answer.
        status: u16,
    },
    /// The registry cannot answer now.
    #[error("the registry answered with the status {status}")]
    Status {
        /// Status of the answer.
        status: u16,
    },
    /// The registry did not answer in time.
    #[error("the registry did not answer in time")]
    Timeout,
    /// The registry cannot be reached.
    #[error("the registry cannot be reached: {0}")]
    Unreachable(String),
    /// An answer is larger than the limit.
    #[error("the answer of the registry has more than {limit} bytes")]
    TooLarge {
        /// Limit in bytes.
        limit: usize,
    },
    /// An answer cannot be used.
    #[error("the answer of the registry cannot be used: {0}")]
    Unusable(String),
}

impl RegistryError {
    /// How to correct it, in a sentence without its end.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::InvalidImage(_) => "Correct the image in the pod template",
            Self::AddressRefused(_) => {
                "Use another registry, or ask the operator of the controller to list this one in \
                 registries.allowedAddresses of the chart"
            }
            Self::NotFound => "Push the image, or correct its name and tag",
            Self::Denied { .. } => {
                "Let the pod template name a Secret with credentials in imagePullSecrets, and let \
                 the controller read it: see rbac.registryAccess of the chart"
            }
            Self::Status { .. } | Self::Timeout | Self::Unreachable(_) => {
                "Check the registry and the network policy of the controller. Serin asks again by \
                 itself"
            }
            Self::TooLarge { .. } | Self::Unusable(_) => {
                "Check that the name leads to a registry of the OCI distribution specification"
            }
        }
    }

    /// The error of a request without an answer.
    pub(crate) fn from_request(error: reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        // The URL can contain what a registry has put into a redirect, for example a signature.
        let error = error.without_url();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Self::Unreachable(shortened(&cause.to_string()))
    }
}

/// Maximum length of text of a registry in a message, in characters.
const MAX_TEXT: usize = 200;

/// The beginning of a foreign text, without control characters.
pub(crate) fn shortened(text: &str) -> String {
    let printable = text.chars().filter(|character| !character.is_control());
    printable.take(MAX_TEXT).collect()
}
