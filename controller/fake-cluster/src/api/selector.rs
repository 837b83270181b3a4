//! Label and field selectors.

use serde_json::Value;

use super::error::ApiError;

/// The label and field selector of a list or a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<LabelRequirement>,
    fields: Vec<(String, String, bool)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum LabelRequirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

impl Selector {
    /// Parses the `labelSelector` and `fieldSelector` query parameters.
    pub(crate) fn parse(labels: &str, fields: &str) -> Result<Self, ApiError> {
        let labels = split_outside_brackets(labels)
            .map(requirement)
            .collect::<Result<_, _>>()?;
        let fields = fields
            .split(',')
            .map(str::trim)
            .filter(|term| !term.is_empty())
            .map(field);
        Ok(Self {
            labels,
            fields: fields.collect::<Result<_, _>>()?,
        })
    }

    /// Selects objects with all of these labels.
    pub(crate) fn from_labels(labels: &Value) -> Self {
        let pairs = labels.as_object().into_iter().flatten();
        let requirement = |(key, value): (&String, &Value)| {
            LabelRequirement::In(
                key.clone(),
                vec![value.as_str().unwrap_or_default().to_owned()],
            )
        };
        Self {
            labels: pairs.map(requirement).collect(),
            fields: Vec::new(),
        }
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let by_label = self.labels.iter().all(|requirement| match requirement {
            LabelRequirement::In(key, values) => labels[key]
                .as_str()
                .is_some_and(|v| values.iter().any(|w| w == v)),
            LabelRequirement::NotIn(key, values) => labels[key]
                .as_str()
                .is_none_or(|v| values.iter().all(|w| w != v)),
            LabelRequirement::Exists(key) => labels[key].is_string(),
            LabelRequirement::Missing(key) => labels[key].is_null(),
        });
        by_label
            && self.fields.iter().all(|(path, value, equal)| {
                let found = object.pointer(&format!("/{}", path.replace('.', "/")));
                (found.and_then(Value::as_str).unwrap_or_default() == value) == *equal
            })
    }
}

fn split_outside_brackets(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    let parts = text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty())
}

fn requirement(text: &str) -> Result<LabelRequirement, ApiError> {
    if let Some(key) = text.strip_prefix('!') {
        return Ok(LabelRequirement::Missing(key.trim().into()));
    }
    let set = |rest: &str| -> Vec<String> {
        let inner = rest.trim().trim_start_matches('(').trim_end_matches(')');
        inner
            .split(',')
            .map(|value| value.trim().to_owned())
            .collect()
    };
    if let Some((key, values)) = text.split_once(" notin ") {
        return Ok(LabelRequirement::NotIn(key.trim().into(), set(values)));
    }
    if let Some((key, values)) = text.split_once(" in ") {
        return Ok(LabelRequirement::In(key.trim().into(), set(values)));
    }
    if let Some((key, value)) = text.split_once("!=") {
        return Ok(LabelRequirement::NotIn(
            key.trim().into(),
            vec![value.trim().into()],
        ));
    }
    if let Some((key, value)) = text.split_once('=') {
        let value = value.trim_start_matches('=').trim();
        return Ok(LabelRequirement::In(key.trim().into(), vec![value.into()]));
    }
    if text.contains(char::is_whitespace) {
        return Err(ApiError::bad_request(format!(
            "unable to parse requirement: {text}"
        )));
    }
    Ok(LabelRequirement::Exists(text.into()))
}

fn field(text: &str) -> Result<(String, String, bool), ApiError> {
    let (path, value, equal) = match (text.split_once("!="), text.split_once('=')) {
        (Some((path, value)), _) => (path, value, false),
        (None, Some((path, value))) => (path, value.trim_start_matches('='), true),
        (None, None) => {
            return Err(ApiError::bad_request(format!(
                "invalid field selector: {text}"
            )));
        }
    };
    Ok((path.trim().into(), value.trim().into(), equal))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(labels: &str, fields: &str) -> bool {
        let object = json!({
            "metadata": {"name": "a", "labels": {"app": "checkout", "serin.dev/rollout": "checkout"}},
            "spec": {"nodeName": "one"},
        });
        Selector::parse(labels, fields).unwrap().matches(&object)
    }

    #[test]
    fn label_selectors_match_as_in_the_api_server() {
        for (selector, expected) in [
            ("", true),
            ("app=checkout", true),
            ("app==checkout,serin.dev/rollout", true),
            ("app!=checkout", false),
            ("other!=x", true),
            ("app in (cart, checkout)", true),
            ("app notin (cart,checkout),app", false),
            ("!app", false),
            ("!other", true),
            ("other", false),
        ] {
            assert_eq!(matches(selector, ""), expected, "{selector}");
        }
        assert!(Selector::parse("a b c", "").is_err());
    }

    #[test]
    fn field_selectors_match_by_path() {
        assert!(matches("", "metadata.name=a,spec.nodeName==one"));
        assert!(!matches("", "metadata.name!=a"));
        assert!(Selector::parse("", "nonsense").is_err());
    }
}
