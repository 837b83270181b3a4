//! The Job of one check.
//!
//! The name of a Job follows from what is in the status, so that a controller that was restarted
//! between the creation of the Job and the next write of the status finds it, and does not run it
//! twice.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use kube::core::Status;
use serde_json::{Value, json};
use serin_core::hold::HoldCode;
use serin_core::text::excerpt;
use serin_crds::names::{FIELD_MANAGER, REVISION_LABEL, ROLLOUT_LABEL};
use serin_crds::{Rollout, api_status};
use serin_metrics_analysis::RolloutName;
use serin_metrics_analysis::checks::{JobRun, ProbeOutcome};
use serin_metrics_analysis::counter_selectors::AnalysisError;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::{ProbeOwner, ProbeResult, Probes, report};

/// Interval at which a Job is read, at first and at most.
const READ_INTERVAL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(15));
/// Maximum time of one request to the API server.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Annotation with the name of the check, which need not be a valid label.
const CHECK_ANNOTATION: &str = "serin.dev/check";

/// Creates the Job unless it exists, and reports until it has ended.
pub(super) async fn run(
    probes: &Probes,
    run: &JobRun,
    owner: &ProbeOwner,
    sender: &mpsc::Sender<ProbeResult>,
) {
    let mut interval = READ_INTERVAL.0;
    loop {
        let began_ms = probes.now_ms();
        let step = timeout(REQUEST_TIMEOUT, read_or_create(probes, run, owner));
        let outcome = match step.await {
            Ok(Ok(job)) => outcome_of(&job, run, owner),
            Ok(Err(error)) => ProbeOutcome::Refused(error),
            Err(_) => ProbeOutcome::Refused(unavailable(run, "the API server does not respond")),
        };
        let has_ended = matches!(
            outcome,
            ProbeOutcome::JobSucceeded(_) | ProbeOutcome::JobFailed(_)
        );
        if !report(sender, began_ms, outcome).await || has_ended {
            return;
        }
        sleep(interval).await;
        interval = (interval * 2).min(READ_INTERVAL.1);
    }
}

/// The Job, which is created if it does not exist.
async fn read_or_create(
    probes: &Probes,
    run: &JobRun,
    owner: &ProbeOwner,
) -> Result<DynamicObject, AnalysisError> {
    // Untyped, so that fields of the template that are unknown to this build reach the API server.
    let api: Api<DynamicObject> = Api::namespaced_with(
        probes.client.0.clone(),
        &owner.rollout.namespace,
        &ApiResource::erase::<Job>(&()),
    );
    let failed = |error: kube::Error| match error {
        kube::Error::Api(status) => refused(run, &status),
        _ => unavailable(run, "the request to the API server failed"),
    };
    if let Some(found) = api.get_opt(&run.name).await.map_err(failed)? {
        return own(found, run, owner);
    }
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match api.create(&params, &manifest(run, owner)).await {
        Ok(created) => {
            let RolloutName { namespace, name } = &owner.rollout;
            tracing::info!(
                namespace,
                rollout = name,
                job = run.name,
                "created the Job of a check"
            );
            Ok(created)
        }
        // Another request has created it meanwhile.
        Err(kube::Error::Api(status)) if api_status::is_already_exists(&status) => {
            let found = api.get(&run.name).await.map_err(failed)?;
            own(found, run, owner)
        }
        Err(error) => Err(failed(error)),
    }
}

/// A Job that belongs to the Rollout.
fn own(
    found: DynamicObject,
    run: &JobRun,
    owner: &ProbeOwner,
) -> Result<DynamicObject, AnalysisError> {
    let mut owners = found.metadata.owner_references.iter().flatten();
    if owners.any(|reference| reference.uid == owner.uid) {
        return Ok(found);
    }
    Err(unavailable(
        run,
        "a Job of this name belongs to somebody else; delete it",
    ))
}

fn refused(run: &JobRun, status: &Status) -> AnalysisError {
    let why = api_status::message(status);
    if api_status::is_forbidden(status) {
        return unavailable(
            run,
            &format!(
                "{why}. If the controller lacks the permission, set checks.jobs of its chart; \
                 otherwise change the quota or the policy, or job.template"
            ),
        );
    }
    if api_status::is_invalid(status) || api_status::is_bad_request(status) {
        return unavailable(run, &format!("{why}. Correct job.template"));
    }
    unavailable(run, &why)
}

fn unavailable(run: &JobRun, why: &str) -> AnalysisError {
    let (check, name) = (&run.check, &run.name);
    AnalysisError {
        code: HoldCode::CheckUnavailable,
        message: format!(
            "spec.analysis.checks[{check}].job: the Job {name} cannot run: {why}. Serin retries \
             automatically."
        ),
    }
}

fn manifest(run: &JobRun, owner: &ProbeOwner) -> DynamicObject {
    let template = &run.template;
    let name = &owner.rollout.name;
    let labels = json!({ROLLOUT_LABEL: name, REVISION_LABEL: owner.revision});
    let mut pod_spec = template.pod_spec.clone();
    if let Value::Object(fields) = &mut pod_spec {
        fields.insert(
            "serviceAccountName".to_owned(),
            template.service_account.as_str().into(),
        );
        fields
            .entry("restartPolicy")
            .or_insert_with(|| "Never".into());
    }
    let mut job = DynamicObject::new(&run.name, &ApiResource::erase::<Job>(&()))
        .within(&owner.rollout.namespace);
    job.metadata.labels = serde_json::from_value(labels).ok();
    job.metadata.annotations = Some([(CHECK_ANNOTATION.to_owned(), run.check.clone())].into());
    job.metadata.owner_references = Some(vec![OwnerReference {
        api_version: Rollout::api_version(&()).into_owned(),
        kind: Rollout::kind(&()).into_owned(),
        name: name.clone(),
        uid: owner.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(false),
    }]);
    job.data = json!({"spec": {
        "backoffLimit": template.backoff_limit,
        "activeDeadlineSeconds": template.timeout.as_secs().max(1),
        "ttlSecondsAfterFinished": template.ttl.as_secs(),
        "template": {
            "metadata": {
                "labels": template.labels,
                "annotations": template.annotations,
            },
            "spec": pod_spec,
        },
    }});
    job
}

fn outcome_of(job: &DynamicObject, run: &JobRun, owner: &ProbeOwner) -> ProbeOutcome {
    let namespace = &owner.rollout.namespace;
    let name = &run.name;
    let log = format!("Its log: kubectl -n {namespace} logs job/{name}");
    let conditions = job
        .data
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    let is_true = |condition: &&Value| condition["status"] == "True";
    for condition in conditions.into_iter().flatten().filter(is_true) {
        match condition["type"].as_str() {
            Some("Complete") => {
                return ProbeOutcome::JobSucceeded(format!("Job {name} has succeeded. {log}"));
            }
            Some("Failed") => {
                let text = |field: &str| excerpt(condition[field].as_str().unwrap_or_default());
                let (reason, message) = (text("reason"), text("message"));
                let failed = format!("Job {name} has failed: {reason}: {message}. {log}");
                return ProbeOutcome::JobFailed(failed);
            }
            _ => {}
        }
    }
    ProbeOutcome::JobRunning(format!("Job {name} is running. {log}"))
}
