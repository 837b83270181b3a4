//! Translates the API server's refusal of a template into the field of the Rollout that must be
//! fixed.

use serde_json::Value;
use serin_crds::RolloutSpec;

/// Marker in the message if the object could not be decoded.
const UNDECODABLE_PREFIX: &str = "cannot be handled as a ReplicaSet: ";
/// Marker of the field name in Go's decoding errors.
const GO_FIELD_PREFIX: &str = "Go struct field ";

/// The refusal with its field, for example `spec.template.spec.containers[0].image: Required
/// value`.
pub(super) fn explain(message: &str, spec: &RolloutSpec) -> String {
    if let Some((_, fields)) = message.split_once(" is invalid: ") {
        return fields.to_owned();
    }
    let Some((_, problem)) = message.split_once(UNDECODABLE_PREFIX) else {
        return message.to_owned();
    };
    let problem = problem.strip_prefix("json: ").unwrap_or(problem);
    if problem.starts_with("quantities must match")
        && let Some((path, quantity)) = bad_quantity(&spec.template.spec.to_value())
    {
        return format!(
            "{path}: Invalid value: {quantity}: it is not a quantity; use for example 500m or 128Mi"
        );
    }
    field_error(problem).unwrap_or_else(|| format!("spec.template: Invalid value: {problem}"))
}

/// Converts a message such as `cannot unmarshal number into Go struct field
/// Container.spec.template.spec.containers.image of type string`.
fn field_error(problem: &str) -> Option<String> {
    let (what, field) = problem.split_once(GO_FIELD_PREFIX)?;
    let (field, wanted) = field.split_once(" of type ")?;
    let (_, path) = field.split_once('.')?;
    let found = what
        .trim_start_matches("cannot unmarshal ")
        .split(' ')
        .next()?;
    let wanted = wanted.rsplit('.').next()?.to_lowercase();
    Some(format!(
        "{path}: Invalid value: {found}: it must be a {wanted}"
    ))
}

/// The first invalid resource quantity, with its path.
fn bad_quantity(pod_spec: &Value) -> Option<(String, String)> {
    ["initContainers", "containers"]
        .into_iter()
        .find_map(|list| {
            let containers = pod_spec.get(list)?.as_array()?;
            containers
                .iter()
                .enumerate()
                .find_map(|(index, container)| {
                    ["requests", "limits"].into_iter().find_map(|kind| {
                        let amounts = container.get("resources")?.get(kind)?.as_object()?;
                        let (name, amount) = amounts.iter().find(|(_, amount)| {
                            amount.as_str().is_some_and(|text| !is_quantity(text))
                        })?;
                        Some((
                            format!("spec.template.spec.{list}[{index}].resources.{kind}.{name}"),
                            amount.to_string(),
                        ))
                    })
                })
        })
}

/// Whether the text has the form of a quantity: a number, followed by a suffix or an exponent.
fn is_quantity(text: &str) -> bool {
    let unsigned = text.trim_start_matches(['+', '-']);
    let suffix =
        unsigned.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    let is_of_suffix = |letter: char| "eEinumkKMGTP+-".contains(letter) || letter.is_ascii_digit();
    suffix.len() < unsigned.len() && suffix.chars().all(is_of_suffix)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(containers: &Value) -> RolloutSpec {
        serde_json::from_value(json!({
            "selector": {}, "strategy": {"canary": {}}, "template": {"spec": {"containers": containers}},
        }))
        .unwrap()
    }

    /// The messages are from kube-apiserver 1.34.
    #[test]
    fn each_kind_of_refusal_names_its_field() {
        let plain = spec(&json!([]));
        let invalid = "ReplicaSet.apps \"shop-x\" is invalid: spec.template.spec.containers[0].image: Required value";
        assert_eq!(
            explain(invalid, &plain),
            "spec.template.spec.containers[0].image: Required value"
        );

        let number = "ReplicaSet in version \"v1\" cannot be handled as a ReplicaSet: json: cannot unmarshal number into \
                      Go struct field Container.spec.template.spec.containers.image of type string";
        assert_eq!(
            explain(number, &plain),
            "spec.template.spec.containers.image: Invalid value: number: it must be a string"
        );

        let quantity = "ReplicaSet in version \"v1\" cannot be handled as a ReplicaSet: quantities must match the regular \
                        expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
        let lots = spec(
            &json!([{"resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "lots"}}}]),
        );
        assert_eq!(
            explain(quantity, &lots),
            "spec.template.spec.containers[0].resources.limits.memory: Invalid value: \"lots\": it is not a quantity; \
             use for example 500m or 128Mi"
        );

        let webhook = "admission webhook \"images.example\" denied the request: only our registry";
        assert_eq!(explain(webhook, &plain), webhook);
    }

    #[test]
    fn quantities_are_distinguished_from_other_text() {
        for good in ["1", "0.5", "500m", "128Mi", "1e3", "-1", "2E"] {
            assert!(is_quantity(good), "{good}");
        }
        for bad in ["", "lots", "m500", "5 Gi"] {
            assert!(!is_quantity(bad), "{bad}");
        }
    }
}
