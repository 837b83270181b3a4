//! Asking a Prometheus from a person's machine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serin_metrics_analysis::prometheus::{HttpClient, Limits, Poller, QueryError, Server};
use serin_metrics_analysis::replay::{Question, ReplayError, Replayed, replay};

use crate::cli::AccessArgs;
use crate::exit::{Exit, Failure};

/// A person waits longer for an answer than the controller may.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// The largest answer that is taken in: an hour of many series.
const ANSWER_BYTES: usize = 64 << 20;

/// The server at this address, and what it is asked with.
///
/// # Errors
/// A file cannot be read, or holds no certificate.
pub fn server(address: &str, access: &AccessArgs) -> Result<Server, Failure> {
    let mut server = Server::at(address);
    server.headers = access
        .headers
        .iter()
        .map(|header| (header.name.clone(), header.value.clone()))
        .collect();
    if let Some(file) = &access.bearer_token_file {
        let token = read("--bearer-token-file", file)?;
        let token = token.trim();
        if token.is_empty() || token.contains(|c: char| c.is_whitespace() || c.is_control()) {
            let fix = "write the token into it, on one line";
            let problem = format!(
                "--bearer-token-file {}: holds no token; {fix}",
                file.display()
            );
            return Err(Failure::new(Exit::Usage, problem));
        }
        server
            .headers
            .push(("Authorization".to_owned(), format!("Bearer {token}")));
    }
    if let Some(file) = &access.ca_file {
        let authorities = read("--ca-file", file)?;
        server.tls = server
            .tls
            .with_authorities(authorities.as_bytes())
            .map_err(|error| {
                Failure::new(
                    Exit::Usage,
                    format!("--ca-file {}: {error}", file.display()),
                )
            })?;
    }
    Ok(server)
}

fn read(option: &str, file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("{option} {}: cannot be read: {error}", file.display()),
        )
    })
}

/// Replays what is on record.
///
/// # Errors
/// The spec cannot be judged by, or Prometheus does not answer.
pub async fn ask(question: &Question) -> Result<Vec<Replayed>, Failure> {
    let http = HttpClient::new().map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let limits = Limits {
        single_timeout: ANSWER_WITHIN,
        answer_bytes: ANSWER_BYTES,
        ..Limits::default()
    };
    let poller = Poller::new(http, limits, Arc::new(|_, _| {}));
    replay(&poller, question).await.map_err(|error| match error {
        ReplayError::Spec(trouble) => Failure::new(Exit::Usage, trouble.message),
        ReplayError::Query { error: QueryError::Unauthorized(_) | QueryError::Untrusted(_), .. } => {
            Failure::new(Exit::Api, error.to_string()).hint(format!(
                "Asked at {}; say what it is asked with by --bearer-token-file, --header and --ca-file.",
                question.server.url
            ))
        }
        ReplayError::Query { .. } => Failure::new(Exit::Api, error.to_string())
            .hint(format!("Asked at {}; name another with --prometheus.", question.server.url)),
    })
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::post;
    use serin_fake_cluster::tls::Authority;

    use super::*;
    use crate::cli::Header;

    const NOTHING: &str = r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;

    async fn answer(headers: HeaderMap) -> (StatusCode, &'static str) {
        let knows = |name: &str, value: &str| headers.get(name).is_some_and(|given| given == value);
        let is_known = knows("authorization", "Bearer s3cret") && knows("x-scope-orgid", "shop");
        if is_known {
            (StatusCode::OK, NOTHING)
        } else {
            (StatusCode::UNAUTHORIZED, "")
        }
    }

    #[tokio::test]
    async fn a_token_a_header_and_an_authority_open_a_prometheus() {
        // Another test may have installed it before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authority = Authority::new().unwrap();
        let listener = authority.listen(false).await.unwrap();
        let url = listener.url().unwrap();
        let router = Router::new().route("/api/v1/query", post(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let folder = tempfile::tempdir().unwrap();
        let [token, ca] = ["token", "ca.crt"].map(|name| folder.path().join(name));
        std::fs::write(&token, "s3cret\n").unwrap();
        std::fs::write(&ca, authority.pem()).unwrap();
        let all = AccessArgs {
            bearer_token_file: Some(token.clone()),
            headers: vec![Header {
                name: "X-Scope-OrgID".into(),
                value: "shop".into(),
            }],
            ca_file: Some(ca),
        };
        let asked = async |access: &AccessArgs| {
            let poller = Poller::new(
                HttpClient::new().unwrap(),
                Limits::default(),
                Arc::new(|_, _| {}),
            );
            poller
                .ask_once(&server(&url, access).unwrap(), "up", None)
                .await
        };
        assert!(asked(&all).await.is_ok());
        let without = AccessArgs {
            headers: Vec::new(),
            ..all.clone()
        };
        assert_eq!(asked(&without).await.unwrap_err().kind(), "Unauthorized");
        let without = AccessArgs {
            ca_file: None,
            ..all.clone()
        };
        assert_eq!(
            asked(&without).await.unwrap_err().kind(),
            "UntrustedCertificate"
        );
        let refused = server(
            &url,
            &AccessArgs {
                ca_file: Some(token),
                ..all
            },
        )
        .unwrap_err()
        .to_string();
        assert!(
            refused.contains("--ca-file") && refused.contains("no certificate in PEM"),
            "{refused}"
        );
        assert!(!refused.contains("s3cret"), "{refused}");
    }
}
