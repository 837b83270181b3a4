//! The API server's refusal of a template, in the words of somebody who has to mend it.

use serde_json::Value;
use serin_crds::RolloutSpec;

/// What the API server says before the part that matters, where it could not even decode the
/// object.
const UNDECODABLE: &str = "cannot be handled as a ReplicaSet: ";
/// How Go names the field that it could not decode.
const GO_FIELD: &str = "Go struct field ";

/// The refusal by its field, for example `spec.template.spec.containers[0].image: Required value`.
pub(super) fn told(message: &str, spec: &RolloutSpec) -> String {
    if let Some((_, fields)) = message.split_once(" is invalid: ") {
        return fields.to_owned();
    }
    let Some((_, problem)) = message.split_once(UNDECODABLE) else {
        return message.to_owned();
    };
    let problem = problem.strip_prefix("json: ").unwrap_or(problem);
    if problem.starts_with("quantities must match")
        && let Some((path, quantity)) = bad_quantity(&spec.template.spec)
    {
        return format!(
            "{path}: Invalid value: {quantity}: it is not a quantity; use for example 500m or 128Mi"
        );
    }
    of_field(problem).unwrap_or_else(|| format!("spec.template: Invalid value: {problem}"))
}

/// `cannot unmarshal number into Go struct field Container.spec.template.spec.containers.image of
/// type string`, by its field.
fn of_field(problem: &str) -> Option<String> {
    let (what, field) = problem.split_once(GO_FIELD)?;
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

/// The first amount of a resource that is none, with its path.
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

/// Whether it has the form that the API server demands: a number, then a suffix of letters or an
/// exponent.
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

    /// The messages are those of a real API server (1.34).
    #[test]
    fn each_way_to_refuse_is_told_by_its_field() {
        let plain = spec(&json!([]));
        let invalid = "ReplicaSet.apps \"shop-x\" is invalid: spec.template.spec.containers[0].image: Required value";
        assert_eq!(
            told(invalid, &plain),
            "spec.template.spec.containers[0].image: Required value"
        );

        let number = "ReplicaSet in version \"v1\" cannot be handled as a ReplicaSet: json: cannot unmarshal number into \
                      Go struct field Container.spec.template.spec.containers.image of type string";
        assert_eq!(
            told(number, &plain),
            "spec.template.spec.containers.image: Invalid value: number: it must be a string"
        );

        let quantity = "ReplicaSet in version \"v1\" cannot be handled as a ReplicaSet: quantities must match the regular \
                        expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
        let lots = spec(
            &json!([{"resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "lots"}}}]),
        );
        assert_eq!(
            told(quantity, &lots),
            "spec.template.spec.containers[0].resources.limits.memory: Invalid value: \"lots\": it is not a quantity; \
             use for example 500m or 128Mi"
        );

        let webhook = "admission webhook \"images.example\" denied the request: only our registry";
        assert_eq!(told(webhook, &plain), webhook);
    }

    #[test]
    fn quantities_are_told_from_words() {
        for good in ["1", "0.5", "500m", "128Mi", "1e3", "-1", "2E"] {
            assert!(is_quantity(good), "{good}");
        }
        for bad in ["", "lots", "m500", "5 Gi"] {
            assert!(!is_quantity(bad), "{bad}");
        }
    }
}
