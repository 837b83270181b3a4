//! Metrics of the providers `web` and `job`: they become checks by HTTP and by a Job.

use serde_json::{Map, Value, json};
use serin_crds::check::ResponseCondition;
use serin_crds::job_check::JOB_TEMPLATE_BYTES;

use crate::checks::{Arguments, insert_into_text};
use crate::fields::Fields;
use crate::http_checks::{record_address_note, timeout_seconds};
use crate::note::Notes;

/// Status codes that are a success, as in Argo Rollouts.
const IS_SUCCESS: &str = "status >= 200 && status < 300";
/// Phases in which a Job may run.
const PHASES_OF_JOBS: [&str; 3] = ["step", "beforePromotion", "bake"];

/// A check or why there is none, and what to do.
type Converted = Result<Map<String, Value>, (String, &'static str)>;

/// A metric of the provider `web`.
pub(super) fn web(
    mut web: Fields,
    metric: &mut Fields,
    arguments: &Arguments,
    notes: &mut Notes,
) -> Converted {
    let fix = "write the check by hand";
    let text = |text: &str| insert_into_text(text, arguments).map_err(|why| (why, fix));
    if web.has("authentication") {
        return Err(("web.authentication is not supported".to_owned(), fix));
    }
    let path = web.path("url");
    let url = text(&web.text("url").unwrap_or_default())?;
    record_address_note(&url, path, notes);
    let mut http = Map::new();
    http.insert("url".to_owned(), json!(url));
    match web.text("method").as_deref() {
        None | Some("" | "GET") => {}
        Some("POST") => drop(http.insert("method".to_owned(), json!("POST"))),
        Some(method) => return Err((format!("the method {method} is not supported"), fix)),
    }
    let json_body = web.take("jsonBody").map(|body| body.to_string());
    if let Some(body) = web.text("body").or(json_body) {
        http.insert("body".to_owned(), json!(text(&body)?));
    }
    let mut headers = Vec::new();
    for mut header in web.objects("headers") {
        let name = header.text("key").unwrap_or_default();
        let fix = "create a Secret with the whole value of the header, and name it in \
                   http.headers[].valueFrom.secretKeyRef";
        let value = header.text("value").unwrap_or_default();
        let value = insert_into_text(&value, arguments).map_err(|why| (why, fix))?;
        headers.push(json!({"name": name, "value": value}));
    }
    if !headers.is_empty() {
        http.insert("headers".to_owned(), json!(headers));
    }
    let path = web.path("timeoutSeconds");
    // Argo Rollouts waits for 10 s.
    let seconds = web.number("timeoutSeconds").unwrap_or(10.0);
    http.insert(
        "timeoutSeconds".to_owned(),
        timeout_seconds(seconds, path, notes),
    );
    let path = web.path("insecure");
    if web.flag("insecure") {
        let message = "Serin always verifies the certificate of the endpoint";
        notes.lost(path, message, "add its authority to caBundle of the chart");
    }
    let body = body_path(&web.text("jsonPath").unwrap_or_default()).map_err(|why| (why, fix))?;
    let condition = condition(metric, &body, arguments).map_err(|why| (why, fix))?;
    web.finish(notes);
    let mut check = Map::new();
    check.insert("http".to_owned(), Value::Object(http));
    if condition != IS_SUCCESS {
        check.insert("condition".to_owned(), json!(condition));
    }
    Ok(check)
}

/// The part of the body that a JSON path selects: `{$.a.b[0]}` as `body.a.b[0]`.
fn body_path(json_path: &str) -> Result<String, String> {
    let path = json_path.trim();
    let inner = path
        .strip_prefix('{')
        .and_then(|path| path.strip_suffix('}'));
    let inner = inner.unwrap_or(path).trim();
    let rest = inner.strip_prefix('$').unwrap_or(inner);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '[' | ']');
    let is_listed = |part: &str| {
        part.split(']')
            .next()
            .is_some_and(|index| index.parse::<u32>().is_ok())
    };
    let has_only_indexes = rest.split('[').skip(1).all(is_listed);
    if !rest.chars().all(is_plain) || rest.contains("..") || !has_only_indexes {
        return Err(format!("the JSON path {json_path:?} is not supported"));
    }
    Ok(format!("body{rest}"))
}

/// The condition of a metric over `status` and `body`.
fn condition(metric: &mut Fields, body: &str, arguments: &Arguments) -> Result<String, String> {
    let mut part = |field: &str| {
        let text = metric.text(field);
        text.map(|text| insert_into_text(&text, arguments))
            .transpose()
    };
    let success = part("successCondition")?.map(|text| format!("({text})"));
    let failure = part("failureCondition")?.map(|text| format!("!({text})"));
    let parts: Vec<String> = success.into_iter().chain(failure).collect();
    if parts.is_empty() {
        return Ok(IS_SUCCESS.to_owned());
    }
    let condition = format!("{IS_SUCCESS} && {}", parts.join(" && "));
    let condition = replace_words(&condition, body);
    ResponseCondition::parse(&condition)
        .map(|_| condition.clone())
        .map_err(|why| format!("condition {condition:?} is not supported: {why}"))
}

/// Replaces the words of Argo Rollouts by those of CEL.
fn replace_words(text: &str, body: &str) -> String {
    let mut replaced = String::new();
    let mut word = String::new();
    for character in text.chars().chain(std::iter::once(' ')) {
        if character.is_ascii_alphanumeric() || character == '_' {
            word.push(character);
            continue;
        }
        replaced.push_str(match word.as_str() {
            "result" => body,
            "and" => "&&",
            "or" => "||",
            "not" => "!",
            "asInt" => "int",
            "asFloat" => "double",
            "len" => "size",
            word => word,
        });
        word.clear();
        replaced.push(character);
    }
    replaced.trim_end().to_owned()
}

/// A metric of the provider `job`. `phase` is that of its analysis.
pub(super) fn job(
    mut job: Fields,
    phase: Option<&str>,
    arguments: &Arguments,
    notes: &mut Notes,
) -> Converted {
    let fix = "write the check by hand";
    job.ignore(&["metadata"]);
    let mut spec = job.object("spec").unwrap_or_default();
    let mut converted = Map::new();
    if let Some(limit) = spec.number("backoffLimit") {
        #[expect(clippy::cast_possible_truncation, reason = "0 to 10")]
        let limit = limit.clamp(0.0, 10.0) as i64;
        converted.insert("backoffLimit".to_owned(), json!(limit));
    }
    if let Some(seconds) = spec.number("activeDeadlineSeconds") {
        converted.insert("timeout".to_owned(), json!(format!("{seconds}s")));
    }
    if let Some(seconds) = spec.number("ttlSecondsAfterFinished") {
        let seconds = seconds.max(900.0);
        converted.insert("ttlAfterFinished".to_owned(), json!(format!("{seconds}s")));
    }
    for field in [
        "parallelism",
        "completions",
        "completionMode",
        "podFailurePolicy",
    ] {
        if spec.has(field) {
            return Err((format!("job.spec.{field} is not supported"), fix));
        }
    }
    let mut template = spec.object("template").unwrap_or_default();
    let metadata = template.take("metadata");
    let pods = template.take("spec").unwrap_or_default();
    let mut pods = insert_into_json(pods, arguments).map_err(|why| (why, fix))?;
    let account = pods
        .as_object_mut()
        .and_then(|pods| pods.remove("serviceAccountName"));
    converted.insert(
        "serviceAccountName".to_owned(),
        account.unwrap_or_else(|| json!("default")),
    );
    let mut converted_template = Map::new();
    if let Some(metadata) = metadata {
        let kept = ["labels", "annotations"].into_iter();
        let kept = kept.filter(|field| !metadata[*field].is_null());
        let kept: Map<String, Value> = kept
            .map(|field| (field.to_owned(), metadata[field].clone()))
            .collect();
        converted_template.insert("metadata".to_owned(), Value::Object(kept));
    }
    converted_template.insert("spec".to_owned(), pods);
    let converted_template = Value::Object(converted_template);
    if converted_template.to_string().len() > JOB_TEMPLATE_BYTES {
        let fix = "move its script into a ConfigMap or the image";
        return Err((
            format!("its template has more than {JOB_TEMPLATE_BYTES} bytes"),
            fix,
        ));
    }
    converted.insert("template".to_owned(), converted_template);
    let mut check = Map::new();
    check.insert("job".to_owned(), Value::Object(converted));
    if phase.is_none_or(|phase| !PHASES_OF_JOBS.contains(&phase)) {
        notes.changed(
            spec.path("template"),
            "the Job runs once, before the promotion",
            "name the check in a step with phase step to run it earlier",
        );
        check.insert("phase".to_owned(), json!("beforePromotion"));
    }
    spec.ignore(&["suspend", "manualSelector"]);
    spec.finish(notes);
    Ok(check)
}

/// Inserts arguments into every text of a JSON value.
fn insert_into_json(value: Value, arguments: &Arguments) -> Result<Value, String> {
    match value {
        Value::String(text) => insert_into_text(&text, arguments).map(Value::String),
        Value::Array(items) => items
            .into_iter()
            .map(|item| insert_into_json(item, arguments))
            .collect::<Result<_, _>>()
            .map(Value::Array),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(key, value)| Ok((key, insert_into_json(value, arguments)?)))
            .collect::<Result<_, String>>()
            .map(Value::Object),
        plain => Ok(plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Argument;

    fn convert(web_fields: Value, metric: Value) -> (Converted, Notes) {
        let mut notes = Notes::default();
        let arguments = Arguments::from([
            ("host".to_owned(), Argument::Text("api.shop.svc".to_owned())),
            ("ns".to_owned(), Argument::BuiltIn("namespace")),
            (
                "token".to_owned(),
                Argument::Unknown("it is secret".to_owned()),
            ),
        ]);
        let mut metric = Fields::new("metric", metric);
        let converted = web(
            Fields::new("web", web_fields),
            &mut metric,
            &arguments,
            &mut notes,
        );
        (converted, notes)
    }

    #[test]
    fn a_web_metric_becomes_a_request_with_a_condition_on_its_body() {
        let (check, _) = convert(
            json!({"url": "http://{{args.host}}/m?ns={{args.ns}}", "jsonPath": "{$.data[0]}", "timeoutSeconds": 20}),
            json!({"successCondition": "result.ok && asFloat(result.percent) >= 0.9"}),
        );
        let check = check.unwrap();
        assert_eq!(
            check["http"],
            json!({"url": "http://api.shop.svc/m?ns={{args.namespace}}", "timeoutSeconds": 20})
        );
        assert_eq!(
            check["condition"],
            "status >= 200 && status < 300 && (body.data[0].ok && double(body.data[0].percent) >= 0.9)"
        );
    }

    #[test]
    fn what_cannot_be_expressed_is_refused() {
        for (fields, metric) in [
            (json!({"url": "http://a", "method": "PUT"}), json!({})),
            (json!({"url": "http://a", "jsonPath": "{$..a}"}), json!({})),
            (
                json!({"url": "http://a", "jsonPath": "{$.a[?(@.b)]}"}),
                json!({}),
            ),
            (
                json!({"url": "http://a", "headers": [{"key": "A", "value": "{{args.token}}"}]}),
                json!({}),
            ),
            (
                json!({"url": "http://a"}),
                json!({"successCondition": "result =~ 1"}),
            ),
        ] {
            assert!(convert(fields.clone(), metric).0.is_err(), "{fields}");
        }
    }

    #[test]
    fn a_job_keeps_its_pods_and_its_limits() {
        let mut notes = Notes::default();
        let spec = json!({"spec": {"backoffLimit": 1, "activeDeadlineSeconds": 120, "template": {"spec": {
            "serviceAccountName": "tests", "restartPolicy": "Never",
            "containers": [{"name": "t", "image": "i:1", "args": ["{{args.host}}"]}],
        }}}});
        let arguments = Arguments::from([("host".to_owned(), Argument::Text("api".to_owned()))]);
        let check = job(
            Fields::new("job", spec),
            Some("step"),
            &arguments,
            &mut notes,
        )
        .unwrap();
        assert_eq!(
            check["job"],
            json!({
                "serviceAccountName": "tests", "backoffLimit": 1, "timeout": "120s",
                "template": {"spec": {"restartPolicy": "Never",
                    "containers": [{"name": "t", "image": "i:1", "args": ["api"]}]}},
            })
        );
        assert!(!check.contains_key("phase"));
    }
}
