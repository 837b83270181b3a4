//! Bounds of the size of a template.
//!
//! The schema preserves unknown fields of a pod spec, so it cannot bound them. The controller keeps
//! the templates of all Rollouts in memory and copies one several times to compute its hash.

use std::collections::BTreeMap;

use serde_json::Value;

use super::problem::{FieldErrors, Problems};
use crate::rollout::PodTemplate;

const PATH: &str = "spec.template";
/// Maximum size as JSON without white space. The annotations of one object have the same limit.
const MAX_BYTES: usize = 256 * 1024;
/// Maximum number of values. Each takes 32 bytes or more in memory, whatever its size as JSON.
const MAX_VALUES: usize = 20_000;
/// Maximum nesting. `serde_json` refuses to read more than 128 levels.
const MAX_DEPTH: usize = 100;

/// Checks the size of the template in a spec that is not decoded yet, so that a large one is not
/// kept in memory.
///
/// # Errors
///
/// The template is too large.
pub fn check_template_size(spec: &Value) -> Result<(), FieldErrors> {
    let mut size = TemplateSize::default();
    size.add(spec.get("template").unwrap_or(&Value::Null), 1);
    let mut problems = Problems::default();
    size.report(&mut problems);
    problems.into_result(())
}

/// Checks the size of a decoded template.
pub(super) fn check_size(template: &PodTemplate, problems: &mut Problems) {
    let mut size = TemplateSize::default();
    if let Some(metadata) = &template.metadata {
        size.add_texts(metadata.labels.as_ref());
        size.add_texts(metadata.annotations.as_ref());
    }
    size.add(&template.spec.to_value(), 2);
    size.report(problems);
}

/// Size of JSON values. Counting stops at the first limit that is exceeded.
#[derive(Debug, Default)]
struct TemplateSize {
    bytes: usize,
    values: usize,
    depth: usize,
}

impl TemplateSize {
    fn is_exceeded(&self) -> bool {
        self.bytes > MAX_BYTES || self.values > MAX_VALUES || self.depth > MAX_DEPTH
    }

    fn add_texts(&mut self, texts: Option<&BTreeMap<String, String>>) {
        for (key, text) in texts.into_iter().flatten() {
            self.values += 1;
            self.bytes += text_bytes(key) + text_bytes(text) + 2;
        }
    }

    /// Adds a value at this level of the template and all values inside, without recursion.
    fn add(&mut self, value: &Value, depth: usize) {
        let mut rest = vec![(value, depth)];
        while let Some((value, depth)) = rest.pop() {
            self.values += 1;
            self.depth = self.depth.max(depth);
            self.bytes += match value {
                Value::Null | Value::Bool(true) => 4,
                Value::Bool(false) => 5,
                Value::Number(number) => number.to_string().len(),
                Value::String(text) => text_bytes(text),
                Value::Array(items) => 2 + items.len().saturating_sub(1),
                Value::Object(fields) => {
                    let keys: usize = fields.keys().map(|key| text_bytes(key) + 1).sum();
                    2 + fields.len().saturating_sub(1) + keys
                }
            };
            if self.is_exceeded() {
                return;
            }
            match value {
                Value::Array(items) => rest.extend(items.iter().map(|item| (item, depth + 1))),
                Value::Object(fields) => {
                    rest.extend(fields.values().map(|field| (field, depth + 1)));
                }
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
    }

    fn report(&self, problems: &mut Problems) {
        let limits = [
            (self.bytes, MAX_BYTES, "bytes of JSON"),
            (self.values, MAX_VALUES, "values"),
            (self.depth, MAX_DEPTH, "levels of nesting"),
        ];
        for (_, limit, unit) in limits.into_iter().filter(|(size, limit, _)| size > limit) {
            let value = format!("more than {limit} {unit}");
            let fix = "move large annotations, environment variables and arguments to a ConfigMap";
            problems.invalid(PATH, &value, "it is too large", fix);
        }
    }
}

/// Number of bytes of a text as JSON.
fn text_bytes(text: &str) -> usize {
    let escapes = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 1,
        0..32 => 5,
        _ => 0,
    });
    2 + text.len() + escapes.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::pod_spec::tests::any_json;

    fn problem(template: Value) -> String {
        let refused = check_template_size(&json!({"template": template})).unwrap_err();
        refused.to_string()
    }

    #[test]
    fn a_template_that_is_too_large_is_refused_with_limit_and_fix() {
        assert_eq!(
            problem(json!({"spec": {"containers": "x".repeat(MAX_BYTES)}})),
            "spec.template: Invalid value: \"more than 262144 bytes of JSON\": it is too large; \
             move large annotations, environment variables and arguments to a ConfigMap"
        );
        let zeros = vec![0; MAX_VALUES];
        assert!(problem(json!({"spec": {"args": zeros}})).contains("more than 20000 values"));
        let deep = (0..MAX_DEPTH).fold(json!(0), |inner, _| json!([inner]));
        assert!(problem(json!({"spec": deep})).contains("more than 100 levels of nesting"));
        let large = json!({"spec": {"containers": [{"args": vec!["x".repeat(1_000); 100]}]}});
        assert_eq!(check_template_size(&json!({"template": large})).err(), None);
        assert_eq!(check_template_size(&json!({})).err(), None);
    }

    #[test]
    fn a_decoded_template_has_the_limits_of_the_written_one() {
        let check = |template: Value| {
            let mut problems = Problems::default();
            check_size(&serde_json::from_value(template).unwrap(), &mut problems);
            problems.into_result(()).map_err(|error| error.to_string())
        };
        let metadata = json!({"annotations": {"a": "x".repeat(MAX_BYTES)}});
        let template = json!({"metadata": metadata, "spec": {"containers": []}});
        assert_eq!(check(template.clone()), Err(problem(template)));
        let template = json!({"spec": {"containers": vec![0; MAX_VALUES]}});
        assert_eq!(check(template.clone()), Err(problem(template)));
        assert_eq!(check(json!({"spec": {"containers": []}})), Ok(()));
    }

    proptest! {
        #[test]
        fn the_size_is_the_length_of_the_json(value in any_json()) {
            let mut size = TemplateSize::default();
            size.add(&value, 1);
            prop_assert_eq!(size.bytes, value.to_string().len());
        }
    }
}
