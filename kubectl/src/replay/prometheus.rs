//! Queries Prometheus from the user's machine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serin_metrics_analysis::prometheus::{HttpClient, Limits, Poller, QueryError, Server};
use serin_metrics_analysis::replay::{ReplayError, ReplayRequest, ReplayedRelease, replay};

use crate::cli::{PrometheusAccessArgs, header};
use crate::exit::{CliError, Exit};

/// Query timeout. A user can wait longer than the controller.
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum size of a response: an hour of many series.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// The server at this address, with its credentials.
///
/// # Errors
/// Fails if a file cannot be read or contains no token or certificate.
pub fn server(address: &str, access: &PrometheusAccessArgs) -> Result<Server, CliError> {
    let mut server = Server::with_url(address);
    server.headers = access
        .headers
        .iter()
        .map(|header| (header.name.clone(), header.value.clone()))
        .collect();
    if let Some(file) = &access.header_file {
        let text = read_file("--header-file", file)?;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            // The line may be a secret, so the error does not quote it.
            let parsed = header(line).map_err(|problem| {
                CliError::new(
                    Exit::Usage,
                    format!("--header-file {}: a line is {problem}", file.display()),
                )
            })?;
            server.headers.push((parsed.name, parsed.value));
        }
    }
    if let Some(file) = &access.bearer_token_file {
        let token = read_file("--bearer-token-file", file)?;
        let token = token.trim();
        if token.is_empty() || token.contains(|c: char| c.is_whitespace() || c.is_control()) {
            let fix = "write the token on one line";
            let problem = format!(
                "--bearer-token-file {}: contains no token; {fix}",
                file.display()
            );
            return Err(CliError::new(Exit::Usage, problem));
        }
        server
            .headers
            .push(("Authorization".to_owned(), format!("Bearer {token}")));
    }
    if let Some(file) = &access.ca_file {
        let authorities = read_file("--ca-file", file)?;
        server.tls = server
            .tls
            .with_ca_bundle(authorities.as_bytes())
            .map_err(|error| {
                CliError::new(
                    Exit::Usage,
                    format!("--ca-file {}: {error}", file.display()),
                )
            })?;
    }
    Ok(server)
}

fn read_file(option: &str, file: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(file).map_err(|error| {
        CliError::new(
            Exit::Usage,
            format!("{option} {}: cannot be read: {error}", file.display()),
        )
    })
}

/// The client for queries from the user's machine.
///
/// # Errors
/// Fails if the client cannot be created.
pub(crate) fn poller() -> Result<Poller, CliError> {
    let http = HttpClient::new().map_err(|error| CliError::new(Exit::Usage, error.to_string()))?;
    let limits = Limits {
        single_timeout: QUERY_TIMEOUT,
        answer_bytes: MAX_ANSWER_BYTES,
        ..Limits::default()
    };
    Ok(Poller::new(http, limits, Arc::new(|_, _| {})))
}

/// The error of reading the record from the Prometheus at this address.
pub(crate) fn read_error(error: ReplayError, url: &str) -> CliError {
    match error {
        ReplayError::Spec(error) => CliError::new(Exit::Usage, error.message),
        ReplayError::Query {
            error: QueryError::Unauthorized(_) | QueryError::Untrusted(_),
            ..
        } => CliError::new(Exit::Api, error.to_string()).hint(format!(
            "Queried {url}. Set credentials with --bearer-token-file, --header and --ca-file."
        )),
        ReplayError::Query { .. } => CliError::new(Exit::Api, error.to_string()).hint(format!(
            "Queried {url}. Use --prometheus for another address."
        )),
    }
}

/// Runs the replay.
///
/// # Errors
/// Fails if the analysis is invalid or Prometheus does not answer.
pub async fn run_replay(request: &ReplayRequest) -> Result<Vec<ReplayedRelease>, CliError> {
    replay(&poller()?, request)
        .await
        .map_err(|error| read_error(error, &request.server.url))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::post;
    use serin_core::hold::HoldCode;
    use serin_fake_cluster::certificates::CertificateAuthority;

    use super::*;
    use crate::cli::HttpHeader;

    const EMPTY_ANSWER: &str = r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;

    async fn answer(headers: HeaderMap) -> (StatusCode, &'static str) {
        let knows = |name: &str, value: &str| headers.get(name).is_some_and(|given| given == value);
        let is_known = knows("authorization", "Bearer s3cret") && knows("x-scope-orgid", "shop");
        if is_known {
            (StatusCode::OK, EMPTY_ANSWER)
        } else {
            (StatusCode::UNAUTHORIZED, "")
        }
    }

    #[tokio::test]
    async fn token_header_and_ca_are_sent_to_prometheus() {
        // Another test may have installed it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authority = CertificateAuthority::new().unwrap();
        let listener = authority.listen(false).await.unwrap();
        let url = listener.url().unwrap();
        let router = Router::new().route("/api/v1/query", post(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let folder = tempfile::tempdir().unwrap();
        let [token, ca] = ["token", "ca.crt"].map(|name| folder.path().join(name));
        std::fs::write(&token, "s3cret\n").unwrap();
        std::fs::write(&ca, authority.pem()).unwrap();
        let all = PrometheusAccessArgs {
            bearer_token_file: Some(token.clone()),
            headers: vec![HttpHeader {
                name: "X-Scope-OrgID".into(),
                value: "shop".into(),
            }],
            header_file: None,
            ca_file: Some(ca),
        };
        let query = async |access: &PrometheusAccessArgs| {
            let poller = Poller::new(
                HttpClient::new().unwrap(),
                Limits::default(),
                Arc::new(|_, _| {}),
            );
            poller
                .query_once(&server(&url, access).unwrap(), "up", None)
                .await
        };
        assert!(query(&all).await.is_ok());
        let headers = folder.path().join("headers");
        std::fs::write(&headers, "\nX-Scope-OrgID: shop\n").unwrap();
        let from_file = PrometheusAccessArgs {
            headers: Vec::new(),
            header_file: Some(headers.clone()),
            ..all.clone()
        };
        assert!(query(&from_file).await.is_ok());
        std::fs::write(&headers, "s3cret").unwrap();
        let refused = server(&url, &from_file).unwrap_err().to_string();
        assert!(
            refused.contains("--header-file") && !refused.contains("s3cret"),
            "{refused}"
        );
        let without = PrometheusAccessArgs {
            headers: Vec::new(),
            ..all.clone()
        };
        assert_eq!(
            query(&without).await.unwrap_err().code(),
            HoldCode::Unauthorized
        );
        let without = PrometheusAccessArgs {
            ca_file: None,
            ..all.clone()
        };
        assert_eq!(
            query(&without).await.unwrap_err().code(),
            HoldCode::UntrustedCertificate
        );
        let refused = server(
            &url,
            &PrometheusAccessArgs {
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
