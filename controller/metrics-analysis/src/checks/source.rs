//! What a check queries, requests or runs, with its arguments.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use serin_crds::analysis::CheckSpec;
use serin_crds::check::{
    Condition, Escaping, ResponseCondition, render_json, render_query, render_text,
};
use serin_crds::http_check::{HttpCheckSpec, HttpMethod, MAX_BODY_BYTES, MAX_URL_BYTES};
use serin_crds::job_check::{JobCheckSpec, MAX_RENDERED_JOB_BYTES};
use serin_crds::literals::parse_duration;

const HTTP_TIMEOUT: Duration = Duration::from_secs(5);
const JOB_TIMEOUT: Duration = Duration::from_secs(600);
const JOB_TTL: Duration = Duration::from_secs(3_600);

/// What a check queries, requests or runs.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckSource {
    /// A PromQL query.
    Query(String),
    /// An HTTP request.
    Http(HttpRequest),
    /// A Job.
    Job(JobTemplate),
}

/// An HTTP request, without the values of Secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// The URL.
    pub url: String,
    /// GET or POST.
    pub method: HttpMethod,
    /// Headers by name.
    pub headers: Vec<(String, HeaderSource)>,
    /// The body. Empty if there is none.
    pub body: String,
    /// Maximum time until the whole response has been read.
    pub timeout: Duration,
}

/// Where the value of a header comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderSource {
    /// The Rollout.
    Text(String),
    /// A key of a Secret in the namespace of the Rollout.
    Secret {
        /// Name of the Secret.
        name: String,
        /// Key in its data.
        key: String,
    },
}

/// A Job without its name.
#[derive(Clone, Debug, PartialEq)]
pub struct JobTemplate {
    /// ServiceAccount of the pods.
    pub service_account: String,
    /// Labels of the pods.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pods.
    pub annotations: BTreeMap<String, String>,
    /// Pod spec.
    pub pod_spec: Value,
    /// Time after which the Job has failed.
    pub timeout: Duration,
    /// Number of failed pods that are replaced.
    pub backoff_limit: u32,
    /// Time for which the ended Job is kept.
    pub ttl: Duration,
}

/// When a result is a success.
#[derive(Debug)]
pub(super) enum CheckCondition {
    /// A condition on the values of a query.
    Values(Condition),
    /// A condition on the response of a request.
    Response(ResponseCondition),
    /// The Job succeeds.
    JobSuccess,
}

/// A field of a check, and why it cannot be used.
pub(super) type FieldProblem = (&'static str, String);

impl CheckSource {
    /// The source of a check and its condition.
    pub(super) fn new(
        spec: &CheckSpec,
        args: &BTreeMap<&str, &str>,
    ) -> Result<(Self, CheckCondition), FieldProblem> {
        if let Some(job) = &spec.job {
            return Ok((
                Self::Job(job_template(job, args)?),
                CheckCondition::JobSuccess,
            ));
        }
        if let Some(http) = &spec.http {
            let condition = ResponseCondition::parse(condition_text(spec));
            let condition = condition.map_err(|why| ("condition", why))?;
            let request = http_request(http, args)?;
            return Ok((Self::Http(request), CheckCondition::Response(condition)));
        }
        let query = render_query(&spec.query, args).map_err(|why| ("query", why))?;
        let condition = Condition::parse(&spec.condition).map_err(|why| ("condition", why))?;
        Ok((Self::Query(query), CheckCondition::Values(condition)))
    }

    /// A text that identifies what is queried, requested or run.
    pub(super) fn identity(&self) -> String {
        match self {
            Self::Query(query) => query.clone(),
            Self::Http(request) => format!("{request:?}"),
            Self::Job(job) => format!("{job:?}"),
        }
    }
}

/// The condition as messages show it.
pub(super) fn condition_text(spec: &CheckSpec) -> &str {
    match (&spec.http, spec.condition.as_str()) {
        (Some(_), "") => ResponseCondition::DEFAULT,
        (_, text) => text,
    }
}

fn http_request(
    spec: &HttpCheckSpec,
    args: &BTreeMap<&str, &str>,
) -> Result<HttpRequest, FieldProblem> {
    let url = render_text(&spec.url, args, Escaping::Url, MAX_URL_BYTES);
    let body = spec.body.as_deref().unwrap_or_default();
    let body = render_text(body, args, Escaping::Json, MAX_BODY_BYTES);
    let headers = spec.headers.iter().map(|header| {
        let source = match (&header.value, &header.value_from) {
            (_, Some(from)) => HeaderSource::Secret {
                name: from.secret_key_ref.name.clone(),
                key: from.secret_key_ref.key.clone(),
            },
            (value, None) => HeaderSource::Text(value.clone().unwrap_or_default()),
        };
        (header.name.clone(), source)
    });
    let timeout = spec
        .timeout_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    Ok(HttpRequest {
        url: url.map_err(|why| ("http.url", why))?,
        method: spec.method.unwrap_or_default(),
        headers: headers.collect(),
        body: body.map_err(|why| ("http.body", why))?,
        timeout: timeout.map_or(HTTP_TIMEOUT, Duration::from_secs),
    })
}

fn job_template(
    spec: &JobCheckSpec,
    args: &BTreeMap<&str, &str>,
) -> Result<JobTemplate, FieldProblem> {
    let duration = |field: &'static str, text: &Option<String>, default: Duration| {
        let duration = text.as_deref().map_or(Ok(default), parse_duration);
        duration.map_err(|error| (field, error.to_string()))
    };
    let pod_spec = render_json(&spec.template.spec, args, MAX_RENDERED_JOB_BYTES);
    let metadata = spec.template.metadata.clone().unwrap_or_default();
    Ok(JobTemplate {
        service_account: spec.service_account_name.clone(),
        labels: metadata.labels.unwrap_or_default(),
        annotations: metadata.annotations.unwrap_or_default(),
        pod_spec: pod_spec.map_err(|why| ("job.template.spec", why))?,
        timeout: duration("job.timeout", &spec.timeout, JOB_TIMEOUT)?,
        backoff_limit: u32::try_from(spec.backoff_limit.unwrap_or(0)).unwrap_or(0),
        ttl: duration("job.ttlAfterFinished", &spec.ttl_after_finished, JOB_TTL)?,
    })
}
