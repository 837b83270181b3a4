//! The same requests to two API servers must get the same answers: what keeps this one honest.
//!
//! [`answers`] sends a fixed list of requests through any client and notes what a controller can observe of each answer:
//! the code, the reason, whether generation and resourceVersion moved, chosen fields. Names, times and versions, which
//! differ from server to server, are left out. A test compares what a [`crate::World`] says with what a real cluster says.

mod steps;

use std::collections::HashMap;

use http::{Method, Request};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

pub(crate) use steps::{Step, all};

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
    let mut session = Session { client, namespace, kept: HashMap::new() };
    let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    session.send(&Method::POST, "/api/v1/namespaces", "application/json", &made).await?;
    let mut answers = Vec::new();
    for step in all() {
        answers.push(session.take(step).await?);
    }
    session.send(&Method::DELETE, &format!("/api/v1/namespaces/{namespace}"), "application/json", &json!({})).await?;
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
        let body = self.filled(step.body);
        let (code, answer) = self.send(&step.method, &path, step.content_type, &body).await?;
        let mut told = vec![code.to_string()];
        if let Some(reason) = answer["reason"].as_str() {
            told.push(reason.to_owned());
        }
        for pointer in step.show {
            let value = answer.pointer(pointer).unwrap_or(&Value::Null);
            told.push(format!("{pointer}={value}"));
        }
        if let Some(earlier) = step.compared_with {
            let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
            let same = self.kept.get(earlier).is_some_and(|kept| version(kept) == version(&answer));
            told.push(format!("version={}", if same { "same" } else { "other" }));
        }
        if let Some(events) = answer["watched"].as_array() {
            told.extend(events.iter().map(ToString::to_string));
        }
        if let Some(name) = step.keep {
            self.kept.insert(name, answer);
        }
        Ok(Answer { step: step.name, told: told.join(" ") })
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
            Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, self.filled(value))).collect(),
            other => other,
        }
    }

    async fn send(
        &self,
        method: &Method,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> Result<(u16, Value), kube::Error> {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(http::header::CONTENT_TYPE, content_type)
            .header(http::header::ACCEPT, "application/json")
            .body(Body::from(bytes))
            .map_err(kube::Error::HttpError)?;
        let response = self.client.send(request).await?;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect_bytes().await?;
        if path.contains("watch=true") && code == 200 {
            return Ok((code, json!({"watched": watched(&bytes)})));
        }
        // Some refusals are plain text.
        Ok((code, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }
}

/// Kind of event and name of object, line by line.
fn watched(bytes: &[u8]) -> Vec<String> {
    let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    lines.map(|event| format!("{} {}", word(&event["type"]), word(&event["object"]["metadata"]["name"]))).collect()
}
