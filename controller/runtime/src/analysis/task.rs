//! The analysis task of one release: polls its counters, accumulates evidence, and publishes
//! snapshots.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use serin_core::hold::HoldCode;
use serin_core::observed::AnalysisReport;
use serin_metrics_analysis::backfill::{backfill, estimate_dispersion};
use serin_metrics_analysis::budget::{self, ReleaseOutlook};
use serin_metrics_analysis::checkpoint::Checkpoint;
use serin_metrics_analysis::counter_selectors::AnalysisError;
use serin_metrics_analysis::objective_analysis::{ObjectivePlan, ObjectivePoll};
use serin_metrics_analysis::preview;
use serin_metrics_analysis::prometheus::{
    Answer, AnswerContent, PollResult, PollSpec, PollSubscription, QueryError, Server, newest_ms,
    next_answer,
};
use serin_metrics_analysis::release_analysis::{ReleaseAnalysis, settings_for};
use serin_metrics_analysis::report::{SnapshotDigest, hold_report};
use serin_metrics_analysis::service_slo::ServiceSlo;
use serin_metrics_analysis::settings::{Settings, millis};
use serin_metrics_analysis::{AnalysisRequest, AnalysisSnapshot, ReleasePhase};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::check_subscriptions::{
    self, CheckEvent, CheckSubscription, has_work_without_traffic, needs_prometheus,
};
use super::server_resolver::CredentialError;
use super::service_followers::ServiceFollowers;
use super::{AnalysisDeps, lock};
use crate::cluster_cache::Key;
use crate::dispatcher::Dispatcher;
use crate::queue::Lane;

/// Initial and maximum interval at which evidence is published if the report has not changed.
const HEARTBEAT: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// Delay before a panicked task is restarted.
const AFTER_PANIC: Duration = Duration::from_secs(30);

/// Analyzes one release until the sender of the request is dropped.
pub(super) async fn run_analysis(
    deps: AnalysisDeps,
    request: watch::Receiver<AnalysisRequest>,
    latest: Arc<Mutex<AnalysisSnapshot>>,
    dispatcher: Arc<Dispatcher>,
) {
    let mut publisher = AnalysisPublisher::new(deps, request.borrow().clone(), latest, dispatcher);
    loop {
        let mut task = AnalysisTask {
            publisher: &mut publisher,
            request: request.clone(),
            services: Vec::new(),
        };
        if AssertUnwindSafe(task.run()).catch_unwind().await.is_ok() {
            return;
        }
        let message = "Internal error of the analysis; it will be restarted. See the controller \
            log for details.";
        publisher.publish(AnalysisSnapshot::from_report(hold_report(AnalysisError {
            code: HoldCode::InternalError,
            message: message.to_owned(),
        })));
        sleep(AFTER_PANIC).await;
    }
}

/// Stores the latest snapshot, and triggers a reconcile if the kind of report has changed.
struct AnalysisPublisher {
    deps: AnalysisDeps,
    request: AnalysisRequest,
    latest: Arc<Mutex<AnalysisSnapshot>>,
    dispatcher: Arc<Dispatcher>,
    digest: SnapshotDigest,
    heartbeat: Duration,
    heartbeat_at: Instant,
}

impl AnalysisPublisher {
    fn new(
        deps: AnalysisDeps,
        request: AnalysisRequest,
        latest: Arc<Mutex<AnalysisSnapshot>>,
        dispatcher: Arc<Dispatcher>,
    ) -> Self {
        let digest = SnapshotDigest::from_snapshot(&lock(&latest));
        Self {
            deps,
            request,
            latest,
            dispatcher,
            digest,
            heartbeat: HEARTBEAT.0,
            heartbeat_at: Instant::now() + HEARTBEAT.0,
        }
    }

    /// A breach must be acted on before anything else.
    fn request_reconcile(&self) {
        let rollout = &self.request.rollout;
        let lane = if lock(&self.latest).report.breach.is_some() {
            Lane::Urgent
        } else if self.request.phase == ReleasePhase::Idle {
            Lane::Background
        } else {
            Lane::Ongoing
        };
        let key = Key::new(&rollout.namespace, &rollout.name);
        self.dispatcher.enqueue(&key, lane);
    }

    fn now_ms(&self) -> i64 {
        self.deps.clock.now().as_millisecond()
    }

    /// Publishes that the analysis is not possible, with the reason. The previous evidence is kept.
    fn publish_hold(&mut self, error: AnalysisError) {
        let before = lock(&self.latest).clone();
        let report = hold_report(error);
        let is_news = report != before.report;
        self.publish(AnalysisSnapshot { report, ..before });
        if is_news {
            // Two reports of the same kind can still refer to different Secrets.
            self.request_reconcile();
        }
    }

    fn publish(&mut self, snapshot: AnalysisSnapshot) {
        let digest = SnapshotDigest::from_snapshot(&snapshot);
        let has_evidence = snapshot.checkpoint.is_some();
        let message = snapshot.report.message.as_str();
        let has_changed = digest != self.digest;
        // Without a release, only the error budget is followed.
        if has_changed && self.request.phase != ReleasePhase::Idle {
            let (report, cause) = (digest.kind.as_str(), digest.cause);
            tracing::info!(namespace = %self.request.rollout.namespace, rollout = %self.request.rollout.name,
                revision = %self.request.revision, report, cause, message, "analysis report changed");
            self.deps.metrics.record_analysis_change(report, cause);
        }
        *lock(&self.latest) = snapshot;
        self.digest = digest;
        let is_due = has_evidence && Instant::now() >= self.heartbeat_at;
        if is_due {
            self.heartbeat = (self.heartbeat * 2).min(HEARTBEAT.1);
        }
        if has_changed || is_due {
            self.heartbeat_at = Instant::now() + self.heartbeat;
            self.request_reconcile();
        }
    }
}

struct AnalysisTask<'a> {
    publisher: &'a mut AnalysisPublisher,
    request: watch::Receiver<AnalysisRequest>,
    /// The service data of each objective, kept when the server changes.
    services: Vec<watch::Receiver<ServiceSlo>>,
}

/// A poll objective.
struct ObjectiveSubscription {
    poll: ObjectivePoll,
    answers: PollSubscription,
    service: watch::Receiver<ServiceSlo>,
    /// When the last processed poll was sent.
    read_at: Option<Instant>,
}

/// An event that a task waits for.
enum TaskEvent {
    Answer(usize, Arc<PollResult>),
    Check(CheckEvent),
    Request,
    /// A check starts, because its initial delay or the warm-up is over.
    CheckBegins,
    Ended,
}

impl AnalysisTask<'_> {
    async fn run(&mut self) {
        let servers = self.publisher.deps.servers.clone();
        loop {
            let request = self.request.borrow_and_update().clone();
            if !needs_prometheus(&request) {
                return self.analyze_with(Server::default()).await;
            }
            let resolved = servers
                .resolve(&request)
                .await
                .map_err(CredentialError::into_error);
            let server = match &resolved {
                Ok(server) => server.clone(),
                // Before the first traffic, there is nothing to analyze but a preview.
                Err(error) if request.weight.is_zero() && !has_work_without_traffic(&request) => {
                    self.publisher.publish_hold(error.clone());
                    tokio::select! {
                        has_traffic = self.wait_for_traffic() => if !has_traffic { return },
                        () = servers.wait_for_change(&request, &resolved) => {}
                    }
                    continue;
                }
                // With traffic, this counts as missing data, which eventually steps down the
                // canary.
                Err(AnalysisError { code, message }) => {
                    let unavailable = Some(QueryError::CredentialsUnavailable {
                        code: *code,
                        message: message.clone(),
                    });
                    Server {
                        unavailable,
                        ..Server::default()
                    }
                }
            };
            tokio::select! {
                () = self.analyze_with(server) => return,
                // The analysis resumes from the last checkpoint, as after a restart.
                () = servers.wait_for_change(&request, &resolved) => {}
            }
        }
    }

    /// Waits until the canary has traffic or is a preview. Returns false if the task should stop.
    async fn wait_for_traffic(&mut self) -> bool {
        self.request
            .wait_for(|request| !request.weight.is_zero() || has_work_without_traffic(request))
            .await
            .is_ok()
    }

    /// Analyzes with this server until the task should stop.
    async fn analyze_with(&mut self, server: Server) {
        let request = self.request.borrow_and_update().clone();
        let plans = settings_for(&request, server)
            .and_then(|settings| Ok((settings, ObjectivePlan::from_request(&request)?)));
        let outcome = match plans {
            Ok((settings, plans)) => self.run_release(settings, plans).await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            // A changed spec starts another task.
            self.publisher
                .publish(AnalysisSnapshot::from_report(hold_report(error)));
            while self.request.changed().await.is_ok() {}
        }
    }

    async fn run_release(
        &mut self,
        settings: Settings,
        mut plans: Vec<ObjectivePlan>,
    ) -> Result<(), AnalysisError> {
        let deps = &self.publisher.deps;
        let followers =
            ServiceFollowers::start(deps, &self.request, &settings, &plans, &self.services)?;
        let mut services = followers.services.clone();
        self.services.clone_from(&services);
        let request = self.request.borrow().clone();
        let checkpoint = lock(&self.publisher.latest).checkpoint.clone();
        let resume_from = checkpoint.or_else(|| request.resume_from.clone());
        let is_idle = request.phase == ReleasePhase::Idle;
        let checkpoint =
            Checkpoint::from_status(resume_from.as_ref(), &request).filter(|_| !is_idle);
        if checkpoint.is_none()
            && !self
                .wait_for_first_traffic(&settings, &plans, &mut services)
                .await
        {
            return Ok(());
        }
        for (plan, service) in plans.iter_mut().zip(&mut services) {
            plan.service = service.borrow_and_update().clone();
        }
        let request = self.request.borrow_and_update().clone();
        let release = ReleaseAnalysis::begin(
            settings,
            plans,
            &request,
            checkpoint,
            self.publisher.now_ms(),
        )?;
        self.analyze(release, services).await;
        Ok(())
    }

    /// Waits for the first traffic of the canary and publishes the error budgets in the meantime.
    /// Returns false if the task should stop.
    async fn wait_for_first_traffic(
        &mut self,
        settings: &Settings,
        plans: &[ObjectivePlan],
        services: &mut [watch::Receiver<ServiceSlo>],
    ) -> bool {
        loop {
            let request = self.request.borrow_and_update().clone();
            let has_traffic = !request.weight.is_zero() && request.phase != ReleasePhase::Idle;
            let has_checks = !request.analysis.checks.is_empty();
            if has_traffic || (has_checks && has_work_without_traffic(&request)) {
                return true;
            }
            let now = self.publisher.deps.clock.now();
            let objectives = plans.iter().zip(services.iter_mut());
            let budgets = objectives.filter_map(|(plan, service)| {
                let service = service.borrow_and_update();
                budget::budget_status(
                    &plan.spec,
                    &service,
                    settings,
                    &ReleaseOutlook {
                        proven_at: request.evidence_required_at,
                        compared_stable: request.compared_stable,
                        placebo: service.placebo(),
                    },
                    now,
                )
            });
            let budgets = budgets.collect();
            let mut snapshot = AnalysisSnapshot {
                budgets,
                ..AnalysisSnapshot::undecided("No traffic is routed to the canary yet.", now)
            };
            if let Some(report) = report_before_switch(&request, settings, plans, services) {
                snapshot.report = report;
            }
            self.publisher.publish(snapshot);
            let mut service_changes: FuturesUnordered<_> =
                services.iter_mut().map(watch::Receiver::changed).collect();
            tokio::select! {
                changed = self.request.changed() => if changed.is_err() { return false },
                Some(Ok(())) = service_changes.next() => {}
            }
        }
    }

    async fn analyze(
        &mut self,
        mut release: ReleaseAnalysis,
        services: Vec<watch::Receiver<ServiceSlo>>,
    ) {
        let mut subscriptions: Vec<ObjectiveSubscription> = services
            .into_iter()
            .enumerate()
            .filter_map(|(index, service)| {
                let poll = release.poll(index)?;
                Some(ObjectiveSubscription {
                    answers: self.subscribe(&release, &poll),
                    poll,
                    service,
                    read_at: None,
                })
            })
            .collect();
        let mut check_subscriptions = Vec::new();
        // The first answer can take long. Until then, the status shows what the analysis waits for.
        let now_ms = self.publisher.now_ms();
        self.publisher.publish(release.snapshot(now_ms));
        loop {
            let now_ms = self.publisher.now_ms();
            check_subscriptions::update(
                &mut check_subscriptions,
                &self.publisher.deps,
                &self.request.borrow(),
                &release,
                now_ms,
            );
            let begins_ms = release
                .next_check_start_ms(now_ms)
                .map(|begins_ms| begins_ms.saturating_sub(now_ms));
            match self
                .next_event(&mut subscriptions, &mut check_subscriptions, begins_ms)
                .await
            {
                TaskEvent::Ended => return,
                TaskEvent::CheckBegins => {}
                TaskEvent::Request => release
                    .apply_request(&self.request.borrow_and_update(), self.publisher.now_ms()),
                TaskEvent::Answer(index, result) => {
                    if let Some(subscription) = subscriptions.get_mut(index) {
                        self.handle_answer(&mut release, index, subscription, &result)
                            .await;
                    }
                }
                TaskEvent::Check(event) => event.record(&mut release, self.publisher.now_ms()),
            }
            let now_ms = self.publisher.now_ms();
            self.publisher.publish(release.snapshot(now_ms));
        }
    }

    fn subscribe(&self, release: &ReleaseAnalysis, poll: &ObjectivePoll) -> PollSubscription {
        let ObjectivePoll {
            queries, period, ..
        } = poll.clone();
        self.publisher.deps.poller.subscribe(PollSpec {
            server: release.settings.server.clone(),
            queries,
            content: AnswerContent::Series,
            period,
        })
    }

    async fn next_event(
        &mut self,
        subscriptions: &mut [ObjectiveSubscription],
        checks: &mut [CheckSubscription],
        begins_in_ms: Option<i64>,
    ) -> TaskEvent {
        let begins_in =
            begins_in_ms.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
        let answers = subscriptions.iter_mut().enumerate().map(|(index, subscription)| {
            async move { TaskEvent::Answer(index, next_answer(&mut subscription.answers).await) }.boxed()
        });
        let checked = checks
            .iter_mut()
            .map(|subscription| async move { TaskEvent::Check(subscription.next().await) }.boxed());
        let mut all: FuturesUnordered<_> = answers.chain(checked).collect();
        tokio::select! {
            Some(event) = all.next() => event,
            () = sleep(begins_in.unwrap_or(Duration::MAX)), if begins_in.is_some() => TaskEvent::CheckBegins,
            changed = self.request.changed() => if changed.is_ok() { TaskEvent::Request } else { TaskEvent::Ended },
        }
    }

    async fn handle_answer(
        &self,
        release: &mut ReleaseAnalysis,
        index: usize,
        subscription: &mut ObjectiveSubscription,
        result: &PollResult,
    ) {
        if subscription.service.has_changed().unwrap_or(false) {
            release.set_service(index, subscription.service.borrow_and_update().clone());
        }
        if let Err(error) = self
            .observe_answer(release, index, subscription, result)
            .await
        {
            let waited_ms = millis(result.sent_at.elapsed());
            release.record_failure(
                index,
                error,
                self.publisher.now_ms().saturating_sub(waited_ms),
            );
        }
        // If there are too many series, they are queried in another form from now on.
        if let Some(poll) = release
            .poll(index)
            .filter(|poll| *poll != subscription.poll)
        {
            *subscription = ObjectiveSubscription {
                answers: self.subscribe(release, &poll),
                poll,
                service: subscription.service.clone(),
                read_at: None,
            };
        }
    }

    async fn observe_answer(
        &self,
        release: &mut ReleaseAnalysis,
        index: usize,
        subscription: &mut ObjectiveSubscription,
        result: &PollResult,
    ) -> Result<(), QueryError> {
        let answers = match &result.answers {
            Ok(answers) => answers,
            Err(QueryError::TooLarge(_)) if release.switch_to_server_side_aggregation(index) => {
                return Ok(());
            }
            Err(error) => return Err(error.clone()),
        };
        let poller = &self.publisher.deps.poller;
        estimate_dispersion(poller, release, index).await?;
        // The range of the poll must reach back to the previous poll, including the rounds that
        // were open then.
        let ObjectivePoll {
            range, open_range, ..
        } = subscription.poll;
        let reaches = subscription.read_at.is_some_and(|read_at| {
            result.sent_at.saturating_duration_since(read_at) + open_range < range
        });
        if !reaches {
            backfill(poller, release, index, self.publisher.now_ms()).await?;
        }
        subscription.read_at = Some(result.sent_at);
        let now_ms = self.publisher.now_ms();
        let sent_ms = now_ms.saturating_sub(millis(result.sent_at.elapsed()));
        release.observe_poll(index, &subscription.poll, answers, (sent_ms, now_ms));
        if let Some(total) = answers.first().filter(|_| !subscription.poll.is_aggregated) {
            self.record_evidence_age(total);
        }
        Ok(())
    }

    fn record_evidence_age(&self, total: &Answer) {
        let age_ms = newest_ms(total)
            .map(|newest_ms| self.publisher.now_ms().saturating_sub(newest_ms).max(0));
        if let Some(age) = age_ms.and_then(|age_ms| u64::try_from(age_ms).ok()) {
            self.publisher
                .deps
                .metrics
                .set_evidence_age(Duration::from_millis(age));
        }
    }
}

/// Why a blue/green release must not be switched yet, as the service reports it.
fn report_before_switch(
    request: &AnalysisRequest,
    settings: &Settings,
    plans: &[ObjectivePlan],
    services: &[watch::Receiver<ServiceSlo>],
) -> Option<AnalysisReport> {
    if !request.is_blue_green {
        return None;
    }
    let services: Vec<_> = services.iter().map(watch::Receiver::borrow).collect();
    let objectives = plans.iter().map(|plan| &plan.spec);
    let objectives = objectives.zip(services.iter().map(|service| &**service));
    preview::report_before_switch(request, settings, objectives)
}
