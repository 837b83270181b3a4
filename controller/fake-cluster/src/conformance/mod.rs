//! The same requests to two API servers must get the same answers: what keeps this one honest.
//!
//! [`answers`] sends a fixed list of requests through any client and notes what a controller can
//! observe of each answer: the code, the reason, whether generation and resourceVersion moved,
//! chosen fields. Names, times and versions, which differ from server to server, are left out. A
//! test compares what a [`crate::World`] says with what a real cluster says.

mod refusals;
mod steps;

use std::collections::HashMap;

use http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::response::Parts;
use http::{Method, Request};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

pub(crate) use steps::{JSON, Step, all};

/// What can be observed of the answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the request was about.
    pub step: &'static str,
    /// The code, the reason and whatever else the step looks at.
    pub told: String,
}

/// Sends every request in a namespace, which it makes and finally deletes, and notes the answers.
///
/// # Errors
/// The server cannot be reached.
pub async fn answers(client: &Client, namespace: &str) -> Result<Vec<Answer>, kube::Error> {
    let mut session = Session {
        client,
        namespace,
        kept: HashMap::new(),
    };
    let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    session
        .send(
            &Method::POST,
            "/api/v1/namespaces",
            JSON,
            JSON,
            bytes_of(&made),
        )
        .await?;
    let mut answers = Vec::new();
    for step in all() {
        answers.push(session.take(step).await?);
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

struct Session<'s> {
    client: &'s Client,
    namespace: &'s str,
    /// Objects that later steps refer to.
    kept: HashMap<&'static str, Value>,
}

impl Session<'_> {
    async fn take(&mut self, step: Step) -> Result<Answer, kube::Error> {
        let path = self.filled_text(step.path);
        let body = match step.raw {
            Some(text) => text.as_bytes().to_vec(),
            None => bytes_of(&self.filled(step.body)),
        };
        let (head, answer) = self
            .send(&step.method, &path, step.content_type, step.accept, body)
            .await?;
        let code = head.status.as_u16();
        let mut told = vec![code.to_string()];
        if code >= 400 {
            told.extend(self.refusal(&head, &answer));
        } else if let Some(reason) = answer["reason"].as_str() {
            told.push(reason.to_owned());
        }
        for pointer in step.show {
            let value = answer.pointer(pointer).unwrap_or(&Value::Null);
            told.push(format!("{pointer}={value}"));
        }
        if let Some(earlier) = step.compared_with {
            let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
            let same = self
                .kept
                .get(earlier)
                .is_some_and(|kept| version(kept) == version(&answer));
            told.push(format!("version={}", if same { "same" } else { "other" }));
        }
        if let Some(events) = answer["watched"].as_array() {
            told.extend(events.iter().map(ToString::to_string));
        }
        if let Some(name) = step.keep {
            self.kept.insert(name, answer);
        }
        Ok(Answer {
            step: step.name,
            told: told.join(" "),
        })
    }

    /// Everything about an error answer that a client can see: the type of its body, `Retry-After`,
    /// the reason, the details, and the message where it does not quote a parser or a schema.
    fn refusal(&self, head: &Parts, answer: &Value) -> Vec<String> {
        let header = |name: HeaderName| {
            let value = head.headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let mut told = vec![header(CONTENT_TYPE)];
        let retry_after = header(RETRY_AFTER);
        if !retry_after.is_empty() {
            told.push(format!("retry-after={retry_after}"));
        }
        let Value::Object(status) = answer else {
            told.push(format!("text={answer}"));
            return told;
        };
        told.push(
            status
                .get("reason")
                .and_then(Value::as_str)
                .unwrap_or("no-reason")
                .to_owned(),
        );
        if let Some(details) = status.get("details") {
            let mut details = details.clone();
            for cause in details["causes"].as_array_mut().into_iter().flatten() {
                // The words of a validation differ with its depth.
                if cause["reason"]
                    .as_str()
                    .is_some_and(|reason| reason.starts_with("FieldValue"))
                {
                    cause["message"] = Value::Null;
                }
            }
            told.push(format!("details={}", self.neutral(&details.to_string())));
        }
        if !matches!(head.status.as_u16(), 400 | 422) {
            told.push(format!(
                "message={}",
                self.neutral(&status["message"].to_string())
            ));
        }
        told
    }

    /// A text without what differs from server to server.
    fn neutral(&self, text: &str) -> String {
        let mut text = text.replace(self.namespace, "NAMESPACE");
        for object in self.kept.values() {
            for (field, word) in [("uid", "UID"), ("resourceVersion", "VERSION")] {
                let value = object["metadata"][field].as_str().unwrap_or_default();
                if !value.is_empty() {
                    text = text.replace(value, word);
                }
            }
        }
        // A generated name ends in five random characters.
        if let Some(at) = text.find("\"probe-") {
            text.replace_range(at + 7..(at + 12).min(text.len()), "*****");
        }
        // The current version is nobody's to keep, and every parser has words of its own.
        for (before, word) in [
            ("current: ", "VERSION"),
            ("in record (", "FOUND"),
            ("json parse error: ", "PROBLEM"),
        ] {
            if let Some((beginning, _)) = text.split_once(before) {
                text = format!("{beginning}{before}{word}");
            }
        }
        text
    }

    /// Replaces `$ns`, and `$version.x` and `$uid.x` of the object kept as `x`.
    fn filled_text(&self, text: &str) -> String {
        let mut text = text.replace("$ns", self.namespace);
        for (name, object) in &self.kept {
            for (word, field) in [("version", "resourceVersion"), ("uid", "uid")] {
                let value = object["metadata"][field].as_str().unwrap_or_default();
                text = text.replace(&format!("${word}.{name}$"), value);
            }
        }
        text
    }

    fn filled(&self, body: Value) -> Value {
        match body {
            Value::String(text) => self.filled_text(&text).into(),
            Value::Array(items) => items.into_iter().map(|item| self.filled(item)).collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| (name, self.filled(value)))
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
            return Ok((head, json!({"watched": watched(&bytes)})));
        }
        // Some refusals are plain text.
        let answer = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into());
        Ok((head, answer))
    }
}

/// Kind of event and name of object, line by line.
fn watched(bytes: &[u8]) -> Vec<String> {
    let lines = bytes
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let told = |event: Value| {
        let object = &event["object"];
        match object["code"].as_u64() {
            Some(code) => format!(
                "{} {code} {}",
                word(&event["type"]),
                word(&object["reason"])
            ),
            None => format!(
                "{} {}",
                word(&event["type"]),
                word(&object["metadata"]["name"])
            ),
        }
    };
    lines.map(told).collect()
}

fn bytes_of(body: &Value) -> Vec<u8> {
    if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    }
}
