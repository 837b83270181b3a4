//! Reads the input of the explanation, and draws charts if a Prometheus is given.

use std::collections::BTreeMap;
use std::io::Write;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serin_analysis::claim::RoutedUnit;
use serin_core::plan::{Pace, Plan};
use serin_core::state::ReleaseResult;
use serin_core::units::{Revision, Weight};
use serin_crds::RolloutStatus;
use serin_crds::analysis::AnalysisSpec;
use serin_metrics_analysis::checkpoint::Checkpoint;
use serin_metrics_analysis::checks::AwaitedChecks;
use serin_metrics_analysis::replay::{ReplayRequest, WeightSource};
use serin_metrics_analysis::routes::RouteRules;
use serin_metrics_analysis::{AnalysisRequest, ReleasePhase, RolloutName};

use super::{ExplainInput, objective_numbers, render};
use crate::chart::Chart;
use crate::cli::{ExplainArgs, SvgArgs};
use crate::connect::Connection;
use crate::display::DisplayContext;
use crate::exit::{CliError, Exit};
use crate::page::Page;
use crate::replay::{evidence_series, prometheus};
use crate::report::{Report, report};
use crate::resources::{self, RolloutResources};
use crate::style;

/// Explains a Rollout.
///
/// # Errors
/// Fails if the Rollout does not exist, the API server or Prometheus does not answer, or the output
/// cannot be written.
pub async fn explain(
    connection: &Connection,
    args: &ExplainArgs,
    display: &DisplayContext,
    out: &mut (dyn Write + Send),
) -> Result<(), CliError> {
    let resources = resources::read_resources(connection, &args.name).await?;
    let report = report(&resources, display.now);
    let read = ParsedRollout::from_resources(&resources);
    let numbers = match &read.analysis {
        Some(analysis) => objective_numbers(analysis, read.plan.as_ref(), &read.status),
        None => Ok(Vec::new()),
    };
    let input = ExplainInput {
        report: &report,
        analysis: read.analysis.as_ref(),
        numbers,
    };
    out.write_all(render(&input, display, args.all).as_bytes())?;
    match &args.prometheus {
        Some(address) => {
            let server = prometheus::server(address, &args.access)?;
            let request = read.replay_request(&resources, &report, display, server)?;
            let charts = fetch_charts(&request, &report).await?;
            for chart in &charts {
                write!(out, "\n{}", chart.for_terminal(display.width))?;
            }
            if let Some(chart) = charts.first() {
                chart.write_svg(&SvgArgs {
                    file: args.svg.clone(),
                    force: args.force,
                })?;
            }
        }
        None if read.analysis.is_some() && !report.evidence.is_empty() => {
            let mut page = Page::new(display.width);
            let hint = "To draw the evidence over time, pass the address of Prometheus: --prometheus http://localhost:9090";
            page.wrapped(("", "", 0), hint, style::dimmed);
            write!(out, "\n{}", page.finish())?;
        }
        None => {}
    }
    Ok(())
}

/// The typed parts of a Rollout that could be parsed.
pub(super) struct ParsedRollout {
    pub(super) analysis: Option<AnalysisSpec>,
    pub(super) status: RolloutStatus,
    pub(super) plan: Option<Plan>,
}

impl ParsedRollout {
    pub(super) fn from_resources(resources: &RolloutResources) -> Self {
        let data = &resources.rollout.data;
        let status = RolloutStatus::read(data["status"].clone()).status;
        let plan = status.state.plan.as_ref().map(|plan| plan.spec.clone());
        Self {
            analysis: serde_json::from_value(data["spec"]["analysis"].clone()).ok(),
            status,
            plan,
        }
    }

    /// The replay request for the last analyzed release.
    fn replay_request(
        &self,
        resources: &RolloutResources,
        report: &Report,
        display: &DisplayContext,
        server: serin_metrics_analysis::prometheus::Server,
    ) -> Result<ReplayRequest, CliError> {
        let no_evidence = || {
            CliError::new(Exit::Usage, "--prometheus: no evidence to draw yet")
                .hint("The evidence starts with the canary's first request.")
        };
        let stored = self.status.analysis.as_ref().ok_or_else(no_evidence)?;
        let checkpoint: Checkpoint =
            serde_json::from_value(stored.checkpoint.clone()).map_err(|_| no_evidence())?;
        let analysis = self.analysis.clone().ok_or_else(no_evidence)?;
        let revision = Revision::new(stored.revision.as_str());
        let stable = stable_revision_during(report, &stored.revision);
        let set_of = |revision: &str| {
            let known = report
                .revisions
                .iter()
                .find(|known| known.revision == revision);
            let name = known
                .and_then(|known| known.replica_set.as_ref())
                .map(|set| set.name.clone());
            name.unwrap_or_else(|| format!("{}-{revision}", report.name))
        };
        let pods: &[Pod] = resources.pods.as_deref().unwrap_or_default();
        let created = |pod: &Pod| Some((pod.name_any(), pod.creation_timestamp()?.0));
        let routing = self.plan.as_ref().and_then(Plan::routing);
        let ended = report.abort.as_ref().map(|abort| abort.at).or_else(|| {
            let last = report
                .releases
                .first()
                .filter(|release| release.revision == stored.revision);
            last.map(|release| release.at)
        });
        Ok(ReplayRequest {
            server,
            request: AnalysisRequest {
                rollout: RolloutName {
                    namespace: report.namespace.clone(),
                    name: report.name.clone(),
                },
                uid: resources.rollout.uid().unwrap_or_default(),
                revision,
                analysis,
                stable_service: routing.map(|routing| routing.stable_service().clone()),
                canary_service: routing.map(|routing| routing.canary_service().clone()),
                rules: routing
                    .map(|routing| RouteRules::from_plan(&report.namespace, routing))
                    .unwrap_or_default(),
                pod_sides: BTreeMap::new(),
                stable_replica_set: stable.as_deref().map(set_of),
                canary_replica_set: set_of(&stored.revision),
                pod_nodes: BTreeMap::new(),
                pods_created_at: pods.iter().filter_map(created).collect::<BTreeMap<_, _>>(),
                baseline_since: None,
                compared_stable: 1.0,
                routed_unit: RoutedUnit::Request,
                weight: Weight::ZERO,
                pace: self
                    .plan
                    .as_ref()
                    .and_then(|plan| match &plan.canary().pace {
                        Pace::Evidence(pace) => Some(*pace),
                        Pace::Steps(_) => None,
                    }),
                is_blue_green: self.plan.as_ref().is_some_and(Plan::is_blue_green),
                evidence_required_at: None,
                phase: ReleasePhase::Release,
                awaited_checks: AwaitedChecks::default(),
                freeze_lifted: false,
                previous_ended_at: None,
                resume_from: None,
                placebos: BTreeMap::new(),
            },
            from_ms: checkpoint.began_ms,
            to_ms: ended.unwrap_or(display.now).as_millisecond(),
            weights: WeightSource::Observed,
            // The replayed release does not end, however long the canary gets no requests.
            quiet_ms: i64::MAX,
            began_ms: Some(checkpoint.began_ms),
        })
    }
}

/// The stable revision during the analysis of `revision`: today's, or the previous one if
/// `revision` is stable now.
fn stable_revision_during(report: &Report, revision: &str) -> Option<String> {
    let today = report
        .stable_revision
        .clone()
        .filter(|stable| stable != revision);
    let before = report.releases.iter().filter(|release| {
        release.result.equals(ReleaseResult::Promoted) && release.revision != revision
    });
    today.or_else(|| before.map(|release| release.revision.clone()).next())
}

async fn fetch_charts(request: &ReplayRequest, report: &Report) -> Result<Vec<Chart>, CliError> {
    let releases = prometheus::run_replay(request).await?;
    let first = releases.first().map(|release| {
        let chart = |objective| {
            let title = format!(
                "{}, revision {}: time since its first request",
                report.name, request.request.revision
            );
            evidence_series(title, release, objective).chart()
        };
        release
            .objectives
            .iter()
            .filter_map(chart)
            .collect::<Vec<_>>()
    });
    let charts = first.unwrap_or_default();
    if charts.is_empty() {
        return Err(CliError::new(Exit::Usage, "--prometheus: this server has no data for the release").hint(
            "Use the Prometheus of the controller: spec.analysis.prometheus.address, or the controller's default.",
        ));
    }
    Ok(charts)
}
