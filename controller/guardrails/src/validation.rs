//! What is wrong with guardrails, whatever revision they are evaluated on.

use std::time::Duration;

use serin_crds::guardrails::{Guardrails, duration_or, parse_expiry};

use crate::guardrails::parse_custom_expression;
use crate::signature_key::PublicKey;

/// Maximum length of a long value in a message, in characters.
const MAX_VALUE: usize = 64;

/// A field of guardrails that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidOption {
    /// Path below `guardrails`, for example `custom[team-label].expression`.
    pub field: String,
    /// Its value.
    pub value: String,
    /// The problem and its fix.
    pub problem: String,
}

/// The fields that cannot be used. A guardrail with one holds every release, if its mode is Enforce.
pub fn invalid_options(guardrails: &Guardrails) -> Vec<InvalidOption> {
    let mut invalid = Vec::new();
    let mut add = |field: String, value: &str, problem: String| {
        invalid.push(InvalidOption {
            field,
            value: value.to_owned(),
            problem,
        });
    };
    if let Some(options) = &guardrails.vulnerabilities {
        for (field, text) in [
            ("maxAge", &options.max_age),
            ("reportDeadline", &options.report_deadline),
        ] {
            if let (Some(text), Err(error)) = (text, duration_or(text.as_deref(), Duration::ZERO)) {
                add(format!("vulnerabilities.{field}"), text, error.to_string());
            }
        }
        for exception in &options.exceptions {
            if let Err(error) = parse_expiry(&exception.expires) {
                let field = format!("vulnerabilities.exceptions[{}].expires", exception.id);
                add(field, &exception.expires, error.to_string());
            }
        }
    }
    for key in guardrails
        .image_signature
        .iter()
        .flat_map(|options| &options.keys)
    {
        if let Err(error) = PublicKey::parse(key) {
            let field = format!("imageSignature.keys[{}].publicKey", key.name);
            let value: String = key.public_key.chars().take(MAX_VALUE).collect();
            add(field, &value, error.to_string());
        }
    }
    for custom in &guardrails.custom {
        if let Err(problem) = parse_custom_expression(&custom.expression) {
            let field = format!("custom[{}].expression", custom.name);
            add(field, &custom.expression, problem);
        }
    }
    invalid
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RSA_KEY: &str = include_str!("testdata/rsa.pub");

    #[test]
    fn every_field_that_cannot_be_used_is_named() {
        let guardrails = |expires: &str, age: &str, key: &str, expression: &str| -> Guardrails {
            serde_json::from_value(json!({
                "vulnerabilities": {
                    "mode": "Enforce", "maxAge": age,
                    "exceptions": [{"id": "CVE-1", "reason": "r", "expires": expires}],
                },
                "imageSignature": {
                    "mode": "Enforce", "keys": [{"name": "release", "publicKey": key}],
                },
                "custom": [{
                    "name": "team", "mode": "Warn", "expression": expression, "message": "m",
                    "fix": "f",
                }],
            }))
            .unwrap()
        };
        let valid = guardrails(
            "2027-01-01",
            "7d",
            RSA_KEY,
            "'team' in template.metadata.labels",
        );
        assert_eq!(invalid_options(&valid), []);
        let invalid = invalid_options(&guardrails("soon", "old", "key", "team("));
        let fields: Vec<&str> = invalid.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "vulnerabilities.maxAge",
                "vulnerabilities.exceptions[CVE-1].expires",
                "imageSignature.keys[release].publicKey",
                "custom[team].expression",
            ]
        );
    }
}
