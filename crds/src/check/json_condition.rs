//! Conditions on JSON: on the response of an HTTP check, and on the object of a gate.
//!
//! The size of JSON is not known before, so that the evaluation counts its steps and ends at
//! [`MAX_STEPS`](crate::expression::MAX_STEPS).

use serde_json::Value;

use crate::expression::{Dialect, Expression, JSON_FUNCTIONS};

const RESPONSE: Dialect = Dialect {
    variables: &["status", "body"],
    functions: JSON_FUNCTIONS,
    max_length: 512,
    max_depth: 40,
    max_height: 40,
};

const OBJECT: Dialect = Dialect {
    variables: &["object"],
    functions: JSON_FUNCTIONS,
    max_length: 1_024,
    max_depth: 40,
    max_height: 40,
};

/// A condition on the response of an HTTP check.
///
/// `status` is the status code. `body` is the body as JSON, or as text if it is not JSON.
///
/// ```
/// use serde_json::json;
/// use serin_crds::check::ResponseCondition;
///
/// let condition = ResponseCondition::parse("status == 200 && body.ready").unwrap();
/// assert_eq!(condition.evaluate(200, &json!({"ready": true})), Ok(true));
/// assert_eq!(condition.evaluate(503, &json!({"ready": true})), Ok(false));
/// assert!(condition.evaluate(200, &json!({})).is_err());
/// ```
#[derive(Debug)]
pub struct ResponseCondition(Expression);

impl ResponseCondition {
    /// The default condition of a check: the status is one of success.
    pub const DEFAULT: &str = "status >= 200 && status < 300";

    /// Parses a condition.
    ///
    /// # Errors
    ///
    /// A message if the text is not CEL, uses an unknown variable or a part of CEL that is not
    /// supported, or exceeds a limit.
    pub fn parse(text: &str) -> Result<Self, String> {
        Expression::parse(text, &RESPONSE).map(Self)
    }

    /// Evaluates the condition on a response.
    ///
    /// # Errors
    ///
    /// A message if a field does not exist, if types do not fit, or if the evaluation takes too many
    /// steps.
    pub fn evaluate(&self, status: u16, body: &Value) -> Result<bool, String> {
        self.0.evaluate(&[&Value::from(status), body])
    }
}

/// A condition on an object of the Kubernetes API, which is the variable `object`.
///
/// ```
/// use serde_json::json;
/// use serin_crds::check::ObjectCondition;
///
/// let condition = ObjectCondition::parse("object.data.release == 'open'").unwrap();
/// assert_eq!(condition.evaluate(&json!({"data": {"release": "open"}})), Ok(true));
/// ```
#[derive(Debug)]
pub struct ObjectCondition(Expression);

impl ObjectCondition {
    /// Parses a condition.
    ///
    /// # Errors
    ///
    /// A message if the text is not CEL, uses an unknown variable or a part of CEL that is not
    /// supported, or exceeds a limit.
    pub fn parse(text: &str) -> Result<Self, String> {
        Expression::parse(text, &OBJECT).map(Self)
    }

    /// Evaluates the condition on an object.
    ///
    /// # Errors
    ///
    /// A message if a field does not exist, if types do not fit, or if the evaluation takes too many
    /// steps.
    pub fn evaluate(&self, object: &Value) -> Result<bool, String> {
        self.0.evaluate(&[object])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_response_is_compared_with_its_condition() {
        for (condition, status, body, expected) in [
            (ResponseCondition::DEFAULT, 204, json!(null), Ok(true)),
            (ResponseCondition::DEFAULT, 302, json!(null), Ok(false)),
            ("body.contains('ready')", 200, json!("ready"), Ok(true)),
            (
                "body.items.all(item, item.ok)",
                200,
                json!({"items": [{"ok": true}, {"ok": false}]}),
                Ok(false),
            ),
        ] {
            let parsed = ResponseCondition::parse(condition).unwrap();
            assert_eq!(parsed.evaluate(status, &body), expected, "{condition}");
        }
        assert!(ResponseCondition::parse("result[0] < 1").is_err());
    }

    #[test]
    fn a_large_body_ends_the_evaluation() {
        let body: Vec<u32> = (0..10_000).collect();
        let condition = "body.all(a, body.all(b, a + b >= 0))";
        let condition = ResponseCondition::parse(condition).unwrap();
        assert!(condition.evaluate(200, &json!(body)).is_err());
    }
}
