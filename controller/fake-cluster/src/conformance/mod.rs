//! Conformance of the fake API server with a real one.
//!
//! [`run_conformance`] sends a fixed list of requests through any client and records the parts of
//! each response that a controller can observe: the status code, the reason, whether generation and
//! resourceVersion changed, and selected fields. Names, times and versions are excluded, because
//! they differ between servers. A test compares the results of a [`crate::FakeCluster`] with those
//! of a real cluster.

mod error_steps;
mod resource_steps;
mod steps;

use std::collections::HashMap;

use http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::response::Parts;
use http::{Method, Request};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

pub(crate) use steps::{ConformanceStep, JSON, all};

/// Recorded response to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepResult {
    /// Name of the step.
    pub step: &'static str,
    /// The status code, the reason and the selected fields.
    pub observed: String,
}

/// Creates a namespace, sends every request in it, and deletes it. Returns the responses.
///
/// # Errors
/// The server cannot be reached.
pub async fn run_conformance(
    client: &Client,
    namespace: &str,
) -> Result<Vec<StepResult>, kube::Error> {
    let mut session = ConformanceSession {
        client,
        namespace,
        kept: HashMap::new(),
    };
    let namespace_object =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    session
        .send(
            &Method::POST,
            "/api/v1/namespaces",
            JSON,
            JSON,
            to_bytes(&namespace_object),
        )
        .await?;
    let mut answers = Vec::new();
    for step in all() {
        answers.push(session.run_step(step).await?);
    }
    session
        .send(
            &Method::DELETE,
            &format!("/api/v1/namespaces/{namespace}"),
            JSON,
            JSON,
            Vec::new(),
        )
        .await?;
    Ok(answers)
}

struct ConformanceSession<'s> {
    client: &'s Client,
    namespace: &'s str,
    /// Objects that later steps refer to, by name.
    kept: HashMap<&'static str, Value>,
}

impl ConformanceSession<'_> {
    async fn run_step(&mut self, step: ConformanceStep) -> Result<StepResult, kube::Error> {
        let path = self.substitute_text(step.path);
        let body = match step.raw {
            Some(text) => text.as_bytes().to_vec(),
            None => to_bytes(&self.substitute(step.body)),
        };
        let (head, answer) = self
            .send(&step.method, &path, step.content_type, step.accept, body)
            .await?;
        let code = head.status.as_u16();
        let mut observed = vec![code.to_string()];
        if code >= 400 {
            observed.extend(self.describe_error(&head, &answer));
        } else if let Some(reason) = answer["reason"].as_str() {
            observed.push(reason.to_owned());
        }
        for pointer in step.show {
            let value = answer.pointer(pointer).unwrap_or(&Value::Null);
            observed.push(format!("{pointer}={value}"));
        }
        if let Some(earlier) = step.compared_with {
            let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
            let same = self
                .kept
                .get(earlier)
                .is_some_and(|kept| version(kept) == version(&answer));
            observed.push(format!("version={}", if same { "same" } else { "other" }));
        }
        if let Some(events) = answer["watched"].as_array() {
            observed.extend(events.iter().map(ToString::to_string));
        }
        if let Some(name) = step.keep {
            self.kept.insert(name, answer);
        }
        Ok(StepResult {
            step: step.name,
            observed: observed.join(" "),
        })
    }

    /// The parts of an error response that a client can observe: the content type, `Retry-After`,
    /// the reason, the details, and the message, unless it quotes a parser or a schema.
    fn describe_error(&self, head: &Parts, answer: &Value) -> Vec<String> {
        let header = |name: HeaderName| {
            let value = head.headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let mut observed = vec![header(CONTENT_TYPE)];
        let retry_after = header(RETRY_AFTER);
        if !retry_after.is_empty() {
            observed.push(format!("retry-after={retry_after}"));
        }
        let Value::Object(status) = answer else {
            observed.push(format!("text={answer}"));
            return observed;
        };
        observed.push(
            status
                .get("reason")
                .and_then(Value::as_str)
                .unwrap_or("no-reason")
                .to_owned(),
        );
        if let Some(details) = status.get("details") {
            let mut details = details.clone();
            for cause in details["causes"].as_array_mut().into_iter().flatten() {
                // Validation messages differ, because the fake validates less.
                if cause["reason"]
                    .as_str()
                    .is_some_and(|reason| reason.starts_with("FieldValue"))
                {
                    cause["message"] = Value::Null;
                }
            }
            observed.push(format!("details={}", self.normalize(&details.to_string())));
        }
        if !matches!(head.status.as_u16(), 400 | 422) {
            observed.push(format!(
                "message={}",
                self.normalize(&status["message"].to_string())
            ));
        }
        observed
    }

    /// Replaces everything in a text that differs between servers.
    fn normalize(&self, text: &str) -> String {
        let mut text = text.replace(self.namespace, "NAMESPACE");
        for object in self.kept.values() {
            for (field, placeholder) in [("uid", "UID"), ("resourceVersion", "VERSION")] {
                let value = object["metadata"][field].as_str().unwrap_or_default();
                if !value.is_empty() {
                    text = text.replace(value, placeholder);
                }
            }
        }
        // A generated name ends in five random characters.
        if let Some(at) = text.find("\"probe-") {
            text.replace_range(at + 7..(at + 12).min(text.len()), "*****");
        }
        // Versions and parser messages differ between servers.
        for (before, placeholder) in [
            ("current: ", "VERSION"),
            ("in record (", "FOUND"),
            ("json parse error: ", "PROBLEM"),
        ] {
            if let Some((beginning, _)) = text.split_once(before) {
                text = format!("{beginning}{before}{placeholder}");
            }
        }
        text
    }

    /// Replaces `$ns`, and `$version.x` and `$uid.x` of the object kept as `x`.
    fn substitute_text(&self, text: &str) -> String {
        let mut text = text.replace("$ns", self.namespace);
        for (name, object) in &self.kept {
            for (word, field) in [("version", "resourceVersion"), ("uid", "uid")] {
                let value = object["metadata"][field].as_str().unwrap_or_default();
                text = text.replace(&format!("${word}.{name}$"), value);
            }
        }
        text
    }

    fn substitute(&self, body: Value) -> Value {
        match body {
            Value::String(text) => self.substitute_text(&text).into(),
            Value::Array(items) => items
                .into_iter()
                .map(|item| self.substitute(item))
                .collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| (name, self.substitute(value)))
                .collect(),
            other => other,
        }
    }

    async fn send(
        &self,
        method: &Method,
        path: &str,
        content_type: &str,
        accept: &str,
        bytes: Vec<u8>,
    ) -> Result<(Parts, Value), kube::Error> {
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(CONTENT_TYPE, content_type)
            .header(http::header::ACCEPT, accept)
            .body(Body::from(bytes))
            .map_err(kube::Error::HttpError)?;
        let response = self.client.send(request).await?;
        let (head, body) = response.into_parts();
        let bytes = body.collect_bytes().await?;
        if path.contains("watch=true") && head.status == 200 {
            return Ok((head, json!({"watched": watch_events(&bytes)})));
        }
        // Some error responses are plain text.
        let answer = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into());
        Ok((head, answer))
    }
}

/// Event type and object name of each line.
fn watch_events(bytes: &[u8]) -> Vec<String> {
    let lines = bytes
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let observed = |event: Value| {
        let object = &event["object"];
        match object["code"].as_u64() {
            Some(code) => format!(
                "{} {code} {}",
                text(&event["type"]),
                text(&object["reason"])
            ),
            None => format!(
                "{} {}",
                text(&event["type"]),
                text(&object["metadata"]["name"])
            ),
        }
    };
    lines.map(observed).collect()
}

fn to_bytes(body: &Value) -> Vec<u8> {
    if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    }
}
