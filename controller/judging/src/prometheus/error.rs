//! Why a query found nothing that can be used.

/// Why a query gave no usable answer. The texts are for an operator and never hold header values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The server cannot be reached, or answers with something that is not an answer to a query.
    #[error("Prometheus cannot be reached: {0}")]
    Unreachable(String),
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
            Self::Timeout(_) => "Timeout",
            Self::BadQuery(_) => "InvalidQuery",
            Self::Partial(_) => "Partial",
            Self::TooLarge(_) => "TooLarge",
            Self::Malformed(_) => "Malformed",
        }
    }

    /// Whether the server as a whole is in trouble, and not only this query.
    pub const fn concerns_server(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Timeout(_))
    }
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
