//! Guardrails: reads what they depend on and evaluates them, while something is to be released.
//!
//! Only what a guardrail that is on needs is read, and only before a release starts and during it. A
//! Rollout whose revision is stable costs nothing. What was read is read again while a guardrail
//! holds the release, so that it goes on by itself once the cause is gone.

mod guardrail_objects;
mod objects;
mod pods;
mod registry_facts;
mod registry_lookups;
mod shared_lists;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use serin_core::guardrail::{GuardrailKind, GuardrailReport};
use serin_core::state::{Stage, State};
use serin_core::units::Revision;
use serin_crds::RolloutSpec;
use serin_crds::guardrails::Guardrails;
use serin_crds::status::PinnedImage;
use serin_guardrails::facts::{DryRun, Fact, Facts, NamespaceFacts, PodFacts, Source};
use serin_guardrails::registry::ImageFacts;
use serin_guardrails::{Evaluation, evaluate};
use tokio::time::Instant;

use self::guardrail_objects::ReadRequest;
use crate::cluster_cache::{Key, RolloutObject};
use crate::revision;
use crate::telemetry::Metrics;

pub use guardrail_objects::GuardrailObjects;
pub use registry_lookups::RegistryLookups;

/// Maximum time for reading. A command for the Rollout waits for it.
const READ_TIMEOUT: Duration = Duration::from_secs(3);
/// First and maximum interval between two reads while a guardrail holds a release, or while pods
/// start.
const HELD_INTERVAL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// Interval between two reads of a release that nothing holds.
const PASSED_INTERVAL: Duration = Duration::from_secs(60);
/// Time until a read that a command has postponed.
const URGENT_INTERVAL: Duration = Duration::from_millis(100);

/// What was read for the guardrails of one Rollout.
#[derive(Debug, Default)]
pub struct GuardrailReader {
    known: Option<Known>,
}

#[derive(Debug)]
struct Known {
    revision: Revision,
    /// When the revision was seen first. What was read before is never used for it.
    seen_at: Instant,
    sources: Vec<Source>,
    /// Number of pods when they were read.
    pod_count: usize,
    read_at: Instant,
    /// How long it is used, if it waits for something.
    interval: Duration,
    objects: BTreeMap<Source, Fact<Vec<serde_json::Value>>>,
    namespace: Fact<NamespaceFacts>,
    pods: Fact<Vec<PodFacts>>,
    dry_run: Fact<DryRun>,
    /// The digests with which the revision would be created.
    resolved: Vec<PinnedImage>,
    report: GuardrailReport,
}

/// The revision whose guardrails are evaluated.
pub struct GuardrailSubject<'a> {
    pub client: &'a Client,
    pub metrics: &'a Metrics,
    pub shared: &'a GuardrailObjects,
    pub registries: &'a RegistryLookups,
    pub rollout: &'a RolloutObject,
    pub spec: &'a RolloutSpec,
    pub state: &'a State,
    /// The revision of the spec's template.
    pub target: &'a Revision,
    /// Number of pods in steady state.
    pub replicas: u32,
    /// When the oldest active pod of the revision was created. `None` if it has none.
    pub pods_since: Option<Timestamp>,
    /// Number of its active pods.
    pub pod_count: usize,
    /// Whether a command waits, which must not wait for another read.
    pub is_urgent: bool,
    pub now: Timestamp,
}

impl GuardrailReader {
    /// What the guardrails find now, and when to evaluate them again.
    pub async fn report(
        &mut self,
        subject: &GuardrailSubject<'_>,
    ) -> (GuardrailReport, Option<Duration>) {
        let policy = subject.rollout.policy.as_ref();
        let guardrails = policy.map(|policy| policy.guardrails.clone());
        let guardrails = guardrails.unwrap_or_default();
        if guardrails.is_off() {
            self.known = None;
            return (GuardrailReport::default(), None);
        }
        if !is_releasing(subject) {
            // What was found last stays in the status until something else is to be released.
            self.known = None;
            let unchanged = GuardrailReport {
                revision: Some(subject.target.clone()),
                ..GuardrailReport::default()
            };
            return (unchanged, None);
        }
        let sources = Source::needed_by(&guardrails);
        let known = self.read_if_due(subject, &guardrails, sources).await;
        let mut facts = known.facts(subject);
        let images = registry_facts::look_up(subject, &guardrails, &facts);
        facts.images = images.facts;
        known.resolved = images.resolved;
        let exceptions = &subject.spec.guardrail_exceptions;
        let evaluation = evaluate(&guardrails, exceptions, &facts, subject.now);
        let report = report_of(subject.target, evaluation);
        let before = &known.report.findings;
        for finding in report.findings.iter().filter(|new| !before.contains(new)) {
            subject.metrics.record_guardrail_finding(finding);
        }
        if *before != report.findings {
            // Something happens: what is missing may come soon.
            known.interval = HELD_INTERVAL.0;
        }
        known.report = report;
        // A read that a command has postponed follows soon.
        let wait = known
            .read_in()
            .min(images.again_in.unwrap_or(Duration::MAX));
        (known.report.clone(), Some(wait.max(URGENT_INTERVAL)))
    }

    /// The digests with which the ReplicaSet of a revision is created. Empty if no guardrail demands
    /// them, or if they are not known.
    pub fn resolved_images(&self, revision: &Revision) -> Vec<PinnedImage> {
        let known = self.known.as_ref();
        let known = known.filter(|known| known.revision == *revision);
        known.map_or_else(Vec::new, |known| known.resolved.clone())
    }

    /// Reads everything again if it is due.
    async fn read_if_due(
        &mut self,
        subject: &GuardrailSubject<'_>,
        guardrails: &Guardrails,
        sources: Vec<Source>,
    ) -> &mut Known {
        // New pods may run another image, and they have a verdict of their own.
        let has_new_pods =
            |known: &Known| needs_pods(guardrails) && known.pod_count != subject.pod_count;
        let known = self.known.take();
        let known = known.filter(|known| known.revision == *subject.target);
        let seen_at = known
            .as_ref()
            .map_or(subject.rollout.seen_at, |known| known.seen_at);
        let known = known.filter(|known| known.sources == sources);
        let is_recent = |known: &Known| {
            !has_new_pods(known) && (subject.is_urgent || !known.read_in().is_zero())
        };
        let (interval, report) = match known {
            Some(known) if is_recent(&known) => return self.known.insert(known),
            Some(known) if known.is_waiting() && !has_new_pods(&known) => {
                ((known.interval * 2).min(HELD_INTERVAL.1), known.report)
            }
            Some(known) => (HELD_INTERVAL.0, known.report),
            None => (HELD_INTERVAL.0, GuardrailReport::default()),
        };
        let known = Known {
            interval,
            report,
            ..read(subject, guardrails, sources, seen_at).await
        };
        self.known.insert(known)
    }
}

impl Known {
    /// Whether something that was found holds the release.
    fn is_holding(&self) -> bool {
        self.report.holding().next().is_some()
    }

    /// Whether something is about to change: a guardrail holds the release, or pods are starting, of
    /// which it is not known yet what they run.
    fn is_waiting(&self) -> bool {
        let pods = self.pods.known().map(Vec::as_slice).unwrap_or_default();
        let is_starting = |pod: &PodFacts| {
            let mut containers = pod.containers.iter();
            pod.containers.is_empty() || containers.any(|running| running.image_id.is_empty())
        };
        self.is_holding() || pods.iter().any(is_starting)
    }

    /// Time until it is read again. Zero if it is due.
    fn read_in(&self) -> Duration {
        let interval = if self.is_waiting() {
            self.interval
        } else {
            PASSED_INTERVAL
        };
        interval.saturating_sub(self.read_at.elapsed())
    }
}

/// Whether a revision is being released or waits for it.
fn is_releasing(subject: &GuardrailSubject<'_>) -> bool {
    let state = subject.state;
    let waits_to_start = state.current_revision.as_ref() != Some(subject.target);
    let is_return = state.stable_revision.as_ref() == Some(subject.target);
    (waits_to_start && !is_return)
        || state.is_releasing()
        || state.stage == Stage::FirstDeploy
        // It can be tried again.
        || state.stage == Stage::Aborted
}

fn report_of(revision: &Revision, evaluation: Evaluation) -> GuardrailReport {
    GuardrailReport {
        revision: Some(revision.clone()),
        findings: evaluation.findings,
        next_change: evaluation.next_change,
        is_current: true,
    }
}

async fn read(
    subject: &GuardrailSubject<'_>,
    guardrails: &Guardrails,
    sources: Vec<Source>,
    seen_at: Instant,
) -> Known {
    let deadline = Instant::now() + READ_TIMEOUT;
    let key = subject.rollout.key();
    let replica_set = replica_set_name(&key, subject.target);
    let request = ReadRequest {
        client: subject.client,
        namespace: &key.namespace,
        replica_set: &replica_set,
        seen_at,
        deadline,
    };
    let pods = async {
        if !needs_pods(guardrails) {
            Fact::NotAsked
        } else if subject.pods_since.is_none() {
            Fact::Known(Vec::new())
        } else {
            pods::read_pods(subject.client, &key, subject.target.as_str(), deadline).await
        }
    };
    let namespace = async {
        if sources.contains(&Source::Namespace) {
            subject.shared.read_namespace(&request).await
        } else {
            Fact::NotAsked
        }
    };
    let dry_run = async {
        if sources.contains(&Source::DryRun) {
            let probe = revision::probe(&key, subject.spec);
            objects::dry_run(subject.client, &key.namespace, &probe, deadline).await
        } else {
            Fact::NotAsked
        }
    };
    let lists = subject.shared.read(&request, &sources);
    let (objects, namespace, pods, dry_run) = futures::join!(lists, namespace, pods, dry_run);
    Known {
        revision: subject.target.clone(),
        seen_at,
        objects: objects.into_iter().collect(),
        sources,
        pod_count: subject.pod_count,
        read_at: Instant::now(),
        interval: HELD_INTERVAL.0,
        namespace,
        pods,
        dry_run,
        resolved: Vec::new(),
        report: GuardrailReport::default(),
    }
}

fn needs_pods(guardrails: &Guardrails) -> bool {
    [
        GuardrailKind::ImagePinned,
        GuardrailKind::ImageSignature,
        GuardrailKind::Vulnerabilities,
        GuardrailKind::PolicyReports,
    ]
    .iter()
    .any(|kind| guardrails.is_on(*kind))
}

/// The name of the ReplicaSet of a revision.
fn replica_set_name(rollout: &Key, revision: &Revision) -> String {
    format!("{}-{revision}", rollout.name)
}

impl Known {
    fn facts(&self, subject: &GuardrailSubject<'_>) -> Facts {
        let key = subject.rollout.key();
        let labels = subject.rollout.metadata.labels.clone();
        let deployment = subject.spec.template_source();
        let related = deployment.map(|name| ("Deployment".to_owned(), name.to_owned()));
        Facts {
            replica_set: Some(replica_set_name(&key, subject.target)),
            namespace_name: key.namespace,
            rollout_name: key.name,
            rollout_labels: labels.unwrap_or_default(),
            replicas: subject.replicas,
            template: serde_json::to_value(&subject.spec.template).unwrap_or_default(),
            related_objects: related.into_iter().collect(),
            namespace: self.namespace.clone(),
            pods: self.pods.clone(),
            pods_since: subject.pods_since,
            is_measured: Fact::NotAsked,
            dry_run: self.dry_run.clone(),
            images: ImageFacts::new(),
            objects: self.objects.clone(),
        }
    }
}
