//! Validation of HTTP requests and Jobs of checks, with samples of their arguments.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::problem::Problems;
use super::values::{DAY, SECOND, parse_duration_in};
use crate::analysis::CheckSpec;
use crate::check::{Escaping, ResponseCondition, render_json, render_text};
use crate::http_check::{HttpCheckSpec, HttpHeaderSpec, MAX_BODY_BYTES, MAX_URL_BYTES};
use crate::job_check::{JOB_TEMPLATE_BYTES, JobCheckSpec, MAX_RENDERED_JOB_BYTES};
use crate::status::serialized_bytes;

const MINUTE: Duration = Duration::from_secs(60);
const TIMEOUT_BOUNDS: RangeInclusive<Duration> = SECOND..=DAY;
const TTL_BOUNDS: RangeInclusive<Duration> = MINUTE.saturating_mul(15)..=DAY.saturating_mul(7);
/// Prefix of the labels of the controller.
const RESERVED: &str = "serin.dev/";

pub(super) fn check_http(
    path: &str,
    check: &CheckSpec,
    http: &HttpCheckSpec,
    args: &BTreeMap<&str, &str>,
    problems: &mut Problems,
) {
    match render_text(&http.url, args, Escaping::Url, MAX_URL_BYTES) {
        Ok(url) if is_http_url(&url) => {}
        Ok(_) => {
            let fix = "use http or https with host and port, for example \
                       http://{{args.canaryService}}.{{args.namespace}}.svc:8080/healthz";
            problems.invalid(
                format!("{path}.http.url"),
                &http.url,
                "it is not a URL",
                fix,
            );
        }
        Err(problem) => {
            let fix = "use one of the arguments of the check";
            problems.invalid(format!("{path}.http.url"), &http.url, problem, fix);
        }
    }
    if let Some(body) = &http.body
        && let Err(problem) = render_text(body, args, Escaping::Json, MAX_BODY_BYTES)
    {
        let fix = "use one of the arguments of the check";
        problems.invalid(format!("{path}.http.body"), body, problem, fix);
    }
    for (index, header) in http.headers.iter().enumerate() {
        check_header(
            &format!("{path}.http.headers[{index}]"),
            header,
            http,
            problems,
        );
    }
    if !check.condition.is_empty()
        && let Err(problem) = ResponseCondition::parse(&check.condition)
    {
        let fix = "write a CEL expression over status and body, for example status == 200";
        problems.invalid(format!("{path}.condition"), &check.condition, problem, fix);
    }
}

fn check_header(
    path: &str,
    header: &HttpHeaderSpec,
    http: &HttpCheckSpec,
    problems: &mut Problems,
) {
    let is_encrypted = http.url.starts_with("https://");
    match (&header.value, &header.value_from) {
        (Some(_), None) => {}
        (None, Some(_)) if is_encrypted || http.allow_insecure_headers == Some(true) => {}
        (None, Some(_)) => {
            let problem = "the Secret would be sent unencrypted";
            let fix = "use an https url, or set allowInsecureHeaders";
            problems.invalid(format!("{path}.valueFrom"), &header.name, problem, fix);
        }
        (value, _) => {
            let problem = if value.is_some() {
                "value excludes valueFrom, which is also set"
            } else {
                "it has no value"
            };
            problems.invalid(
                path,
                &header.name,
                problem,
                "set one of value and valueFrom",
            );
        }
    }
}

/// Whether a text is an HTTP URL with a host and without credentials and fragment.
fn is_http_url(text: &str) -> bool {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    let host = rest.and_then(|rest| rest.split(['/', '?']).next());
    let is_visible = |c: char| !c.is_whitespace() && !c.is_control();
    host.is_some_and(|host| !host.is_empty() && !host.contains('@'))
        && !text.contains('#')
        && text.chars().all(is_visible)
}

pub(super) fn check_job(
    path: &str,
    check: &CheckSpec,
    job: &JobCheckSpec,
    args: &BTreeMap<&str, &str>,
    problems: &mut Problems,
) {
    let path = format!("{path}.job");
    for (field, is_set) in [
        ("condition", !check.condition.is_empty()),
        ("interval", check.interval.is_some()),
    ] {
        if is_set {
            let problem =
                format!("it excludes {field}: the success of the Job decides, and it runs once");
            problems.invalid(&path, &check.name, problem, format!("remove {field}"));
        }
    }
    let size = serialized_bytes(&job.template);
    if size > JOB_TEMPLATE_BYTES {
        let value = format!("{size} bytes of JSON");
        let problem = format!("it has more than {JOB_TEMPLATE_BYTES} bytes");
        let fix = "move scripts into a ConfigMap or the image";
        problems.invalid(format!("{path}.template"), &value, problem, fix);
        return;
    }
    check_pod_spec(&path, job, args, problems);
    let metadata = job.template.metadata.as_ref();
    let labels = metadata.and_then(|metadata| metadata.labels.as_ref());
    if let Some(key) = labels
        .into_iter()
        .flatten()
        .map(|(key, _)| key)
        .find(|key| key.starts_with(RESERVED))
    {
        let path = format!("{path}.template.metadata.labels");
        let problem = format!("labels with the prefix {RESERVED} are reserved");
        problems.invalid(path, key, problem, "remove it");
    }
    if let Some(text) = &job.timeout {
        parse_duration_in(&format!("{path}.timeout"), text, &TIMEOUT_BOUNDS, problems);
    }
    if let Some(text) = &job.ttl_after_finished {
        parse_duration_in(
            &format!("{path}.ttlAfterFinished"),
            text,
            &TTL_BOUNDS,
            problems,
        );
    }
}

/// The API server validates the pod spec when the Job is created, apart from what follows.
fn check_pod_spec(
    path: &str,
    job: &JobCheckSpec,
    args: &BTreeMap<&str, &str>,
    problems: &mut Problems,
) {
    let path = format!("{path}.template.spec");
    let spec = &job.template.spec;
    let containers = spec.get("containers").and_then(serde_json::Value::as_array);
    if containers.is_none_or(Vec::is_empty) {
        let fix = "add one with name and image";
        problems.required(format!("{path}.containers"), "a Job needs a container", fix);
    }
    if let Err(problem) = render_json(spec, args, MAX_RENDERED_JOB_BYTES) {
        problems.invalid(
            &path,
            &"template",
            problem,
            "use one of the arguments of the check",
        );
    }
    if let Some(other) = spec.get("serviceAccountName")
        && other.as_str() != Some(&job.service_account_name)
    {
        let problem = "it differs from job.serviceAccountName";
        problems.invalid(
            format!("{path}.serviceAccountName"),
            other,
            problem,
            "remove it",
        );
    }
    if let Some(policy) = spec.get("restartPolicy")
        && !["Never", "OnFailure"].map(Some).contains(&policy.as_str())
    {
        let problem = "a Job does not restart its containers forever";
        problems.invalid(
            format!("{path}.restartPolicy"),
            policy,
            problem,
            "use Never or OnFailure",
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::rollout::RolloutSpec;

    /// The problems of a Rollout with this check and these steps.
    fn problems(check: &Value, steps: &Value) -> String {
        let spec = json!({
            "replicas": 3,
            "selector": {"matchLabels": {"app": "shop"}},
            "template": {
                "metadata": {"labels": {"app": "shop"}},
                "spec": {"containers": [{"name": "app", "image": "registry.example/app:1"}]},
            },
            "strategy": {"canary": {
                "trafficRouting": {"gatewayAPI": {"httpRoute": "shop"}},
                "steps": steps,
            }},
            "analysis": {"checks": [check]},
        });
        let spec: RolloutSpec = serde_json::from_value(spec).unwrap();
        spec.plan("shop")
            .map_or_else(|errors| errors.to_string(), |_| String::new())
    }

    fn smoke_steps() -> Value {
        json!([
            {"setCanaryScale": {"replicas": 1}},
            {"analysis": {"checks": ["smoke"]}},
            {"setWeight": 10},
        ])
    }

    fn http(fields: &Value) -> Value {
        let mut http =
            json!({"url": "http://{{args.canaryService}}.{{args.namespace}}.svc/healthz"});
        http.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        json!({"name": "smoke", "phase": "step", "http": http})
    }

    fn job(fields: &Value) -> Value {
        let mut job = json!({
            "serviceAccountName": "smoke",
            "template": {"spec": {"containers": [{"name": "test", "image": "registry.example/smoke:1",
                "args": ["http://{{args.canaryService}}"]}]}},
        });
        job.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        json!({"name": "smoke", "phase": "step", "job": job})
    }

    #[test]
    fn a_smoke_test_before_the_first_weight_is_valid() {
        assert_eq!(problems(&http(&json!({})), &smoke_steps()), "");
        assert_eq!(
            problems(&job(&json!({"timeout": "5m"})), &smoke_steps()),
            ""
        );
    }

    #[test]
    fn a_request_that_cannot_be_sent_is_reported() {
        for (fields, expected) in [
            (
                json!({"url": "http://{{args.other}}/"}),
                "checks[0].http.url",
            ),
            (json!({"url": "http://user@host/"}), "it is not a URL"),
            (
                json!({"body": "{{args.other}}", "method": "POST"}),
                "checks[0].http.body",
            ),
            (json!({"headers": [{"name": "A"}]}), "it has no value"),
            (
                json!({"headers": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
                "sent unencrypted",
            ),
        ] {
            let found = problems(&http(&fields), &smoke_steps());
            assert!(found.contains(expected), "{fields}: {found}");
        }
        let mut check = http(&json!({}));
        check["condition"] = json!("result[0] < 1");
        let found = problems(&check, &smoke_steps());
        assert!(found.contains("checks[0].condition"), "{found}");
    }

    #[test]
    fn a_job_that_cannot_run_is_reported() {
        let large = json!({"spec": {"containers": [{"name": "a", "args": ["x".repeat(9_000)]}]}});
        let spec = |spec: Value| json!({"template": {"spec": spec}});
        let containers = json!([{"name": "a"}]);
        for (fields, expected) in [
            (json!({"template": large}), "more than 8192 bytes"),
            (spec(json!({})), "a Job needs a container"),
            (
                spec(json!({"containers": containers, "serviceAccountName": "admin"})),
                "differs from job.serviceAccountName",
            ),
            (
                spec(json!({"containers": containers, "restartPolicy": "Always"})),
                "use Never or OnFailure",
            ),
            (json!({"ttlAfterFinished": "1m"}), "it is too short"),
            (
                json!({"template": {
                    "metadata": {"labels": {"serin.dev/revision": "a"}},
                    "spec": {"containers": containers},
                }}),
                "are reserved",
            ),
        ] {
            let found = problems(&job(&fields), &smoke_steps());
            assert!(found.contains(expected), "{fields}: {found}");
        }
        let mut check = job(&json!({}));
        check["phase"] = json!("release");
        let found = problems(&check, &json!([{"setWeight": 10}]));
        assert!(found.contains("checks[0].phase"), "{found}");
    }

    #[test]
    fn a_check_of_a_step_needs_a_step_that_names_it() {
        let found = problems(&http(&json!({})), &json!([{"setWeight": 10}]));
        assert!(found.contains("no step names it"), "{found}");
        let mut check = http(&json!({}));
        check["phase"] = json!("beforeTraffic");
        let found = problems(&check, &json!([{"setWeight": 10}]));
        assert!(found.contains("use phase step"), "{found}");
    }
}
