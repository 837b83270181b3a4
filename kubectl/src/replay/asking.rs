//! Asking a Prometheus from a person's machine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serin_judging::prometheus::{HttpClient, Limits, Poller, QueryError, Server};
use serin_judging::replay::{Question, ReplayError, Replayed, replay};

use crate::exit::{Exit, Failure};

/// A person waits longer for an answer than the controller may.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// The largest answer that is taken in: an hour of many series.
const ANSWER_BYTES: usize = 64 << 20;

/// The server at this address; `token_file` holds a bearer token.
///
/// # Errors
/// The file cannot be read.
pub fn server(address: &str, token_file: Option<&Path>) -> Result<Server, Failure> {
    let mut server = Server::at(address);
    if let Some(file) = token_file {
        let token = std::fs::read_to_string(file).map_err(|error| {
            Failure::new(Exit::Usage, format!("--bearer-token-file {}: cannot be read: {error}", file.display()))
        })?;
        let token = token.trim();
        if token.is_empty() || token.contains(|c: char| c.is_whitespace() || c.is_control()) {
            let fix = "write the token into it, on one line";
            return Err(Failure::new(
                Exit::Usage,
                format!("--bearer-token-file {}: holds no token; {fix}", file.display()),
            ));
        }
        server.headers.push(("Authorization".to_owned(), format!("Bearer {token}")));
    }
    Ok(server)
}

/// Replays what is on record.
///
/// # Errors
/// The spec cannot be judged by, or Prometheus does not answer.
pub async fn ask(question: &Question) -> Result<Vec<Replayed>, Failure> {
    let http = HttpClient::new().map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let limits = Limits { single_timeout: ANSWER_WITHIN, answer_bytes: ANSWER_BYTES, ..Limits::default() };
    let poller = Poller::new(http, limits, Arc::new(|_, _| {}));
    replay(&poller, question).await.map_err(|error| match error {
        ReplayError::Spec(trouble) => Failure::new(Exit::Usage, trouble.message),
        ReplayError::Query { error: ref why, .. } => {
            let failure = Failure::new(Exit::Api, error.to_string())
                .hint(format!("Asked at {}; name another with --prometheus.", question.server.url));
            if wants_token(why) {
                failure.hint("A token for it goes into a file: --bearer-token-file.")
            } else {
                failure
            }
        }
    })
}

/// Whether a server has answered that it does not know who asks, or does not let them.
fn wants_token(error: &QueryError) -> bool {
    let told = error.to_string();
    error.concerns_server() && ["answers 401", "answers 403"].iter().any(|answer| told.contains(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_not_let_in_is_told_where_a_token_goes() {
        let answers = |text: &str| wants_token(&QueryError::Unreachable(format!("it answers {text}")));
        assert!(answers("401 Unauthorized") && answers("403 Forbidden"));
        assert!(!answers("404 Not Found") && !wants_token(&QueryError::BadQuery("it answers 401".to_owned())));
    }
}
