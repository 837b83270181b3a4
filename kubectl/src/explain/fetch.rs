//! Reading what is explained, and drawing it where a Prometheus is named.

use std::collections::BTreeMap;
use std::io::Write;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serin_core::plan::{Pace, Plan};
use serin_core::units::{Revision, Weight};
use serin_crds::RolloutStatus;
use serin_crds::analysis::AnalysisSpec;
use serin_metrics_analysis::checkpoint::Checkpoint;
use serin_metrics_analysis::replay::{Question, Weights};
use serin_metrics_analysis::routes::RouteRules;
use serin_metrics_analysis::{JudgeRequest, Phase, RolloutName};

use super::{Case, numbers, render};
use crate::chart::Chart;
use crate::cli::ExplainArgs;
use crate::connect::Connection;
use crate::exit::{Exit, Failure};
use crate::look::Look;
use crate::page::Page;
use crate::paint;
use crate::picture::{self, Picture};
use crate::replay::{asking, course};
use crate::report::{Report, report};

/// Explains a Rollout.
///
/// # Errors
/// There is none of that name, the API server or the Prometheus that was named does not answer, or
/// the output cannot be written.
pub async fn explain(
    connection: &Connection,
    args: &ExplainArgs,
    look: &Look,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let picture = picture::read(connection, &args.name).await?;
    let report = report(&picture, look.now);
    let read = Read::of(&picture);
    let numbers = match &read.analysis {
        Some(analysis) => numbers(analysis, read.plan.as_ref(), &read.status),
        None => Ok(Vec::new()),
    };
    let case = Case {
        report: &report,
        analysis: read.analysis.as_ref(),
        numbers,
    };
    out.write_all(render(&case, look, args.all).as_bytes())?;
    match &args.prometheus {
        Some(address) => {
            let server = asking::server(address, &args.access)?;
            let question = read.question(&picture, &report, look, server)?;
            let charts = drawn(&question, &report).await?;
            for chart in &charts {
                write!(out, "\n{}", chart.for_terminal(look.width))?;
            }
            if let (Some(file), Some(chart)) = (&args.svg, charts.first()) {
                chart.write_svg(file)?;
            }
        }
        None if read.analysis.is_some() && !report.evidence.is_empty() => {
            let mut page = Page::new(look.width);
            let hint = "To draw the evidence over time, name a Prometheus that this machine reaches: --prometheus http://localhost:9090";
            page.wrapped(("", "", 0), hint, paint::dim);
            write!(out, "\n{}", page.finish())?;
        }
        None => {}
    }
    Ok(())
}

/// What was read of a Rollout, as far as it can be.
pub(super) struct Read {
    pub(super) analysis: Option<AnalysisSpec>,
    pub(super) status: RolloutStatus,
    pub(super) plan: Option<Plan>,
}

impl Read {
    pub(super) fn of(picture: &Picture) -> Self {
        let data = &picture.rollout.data;
        let status: RolloutStatus =
            serde_json::from_value(data["status"].clone()).unwrap_or_default();
        let plan = status
            .plan
            .as_ref()
            .and_then(|plan| serde_json::from_value(plan.spec.clone()).ok());
        Self {
            analysis: serde_json::from_value(data["spec"]["analysis"].clone()).ok(),
            status,
            plan,
        }
    }

    /// The question that the controller has asked about the last release that was judged.
    fn question(
        &self,
        picture: &Picture,
        report: &Report,
        look: &Look,
        server: serin_metrics_analysis::prometheus::Server,
    ) -> Result<Question, Failure> {
        let nothing = || {
            Failure::new(
                Exit::Usage,
                "--prometheus: there is no evidence to draw yet",
            )
            .hint("Evidence begins with the canary's first request.")
        };
        let stored = self.status.analysis.as_ref().ok_or_else(nothing)?;
        let checkpoint: Checkpoint =
            serde_json::from_value(stored.checkpoint.clone()).map_err(|_| nothing())?;
        let analysis = self.analysis.clone().ok_or_else(nothing)?;
        let judged = Revision::new(stored.revision.as_str());
        let stable = stable_beside(report, &stored.revision);
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
        let pods: &[Pod] = picture.pods.as_deref().unwrap_or_default();
        let created = |pod: &Pod| Some((pod.name_any(), pod.creation_timestamp()?.0));
        let routing = self.plan.as_ref().and_then(Plan::routing);
        let ended = report.abort.as_ref().map(|abort| abort.at).or_else(|| {
            let last = report
                .releases
                .first()
                .filter(|release| release.revision == stored.revision);
            last.map(|release| release.at)
        });
        Ok(Question {
            server,
            request: JudgeRequest {
                rollout: RolloutName {
                    namespace: report.namespace.clone(),
                    name: report.name.clone(),
                },
                uid: picture.rollout.uid().unwrap_or_default(),
                revision: judged,
                analysis,
                stable_service: routing.map(|routing| routing.stable_service.clone()),
                canary_service: routing.map(|routing| routing.canary_service.clone()),
                rules: routing
                    .map(|routing| RouteRules::planned(&report.namespace, routing))
                    .unwrap_or_default(),
                pod_sides: BTreeMap::new(),
                stable_replica_set: stable.as_deref().map(set_of),
                canary_replica_set: set_of(&stored.revision),
                pods_created_at: pods.iter().filter_map(created).collect::<BTreeMap<_, _>>(),
                weight: Weight::ZERO,
                pace: self
                    .plan
                    .as_ref()
                    .and_then(|plan| match &plan.canary().pace {
                        Pace::Evidence(pace) => Some(*pace),
                        Pace::Steps(_) => None,
                    }),
                proven_at: None,
                phase: Phase::Release,
                freeze_lifted: false,
                previous_ended_at: None,
                resume_from: None,
            },
            from_ms: checkpoint.began_ms,
            to_ms: ended.unwrap_or(look.now).as_millisecond(),
            weights: Weights::Observed,
            // However long a canary gets no requests: this is the one that is asked about.
            quiet_ms: i64::MAX,
            began_ms: Some(checkpoint.began_ms),
        })
    }
}

/// The revision that was stable while `judged` was judged: today's, or, where `judged` is stable by
/// now, the one before.
fn stable_beside(report: &Report, judged: &str) -> Option<String> {
    let today = report
        .stable_revision
        .clone()
        .filter(|stable| stable != judged);
    let before = report
        .releases
        .iter()
        .filter(|release| release.result == "Promoted" && release.revision != judged);
    today.or_else(|| before.map(|release| release.revision.clone()).next())
}

async fn drawn(question: &Question, report: &Report) -> Result<Vec<Chart>, Failure> {
    let releases = asking::ask(question).await?;
    let first = releases.first().map(|release| {
        let chart = |objective| {
            let title = format!(
                "{}, revision {}: time since its first request",
                report.name, question.request.revision
            );
            course(title, release, objective).chart()
        };
        release
            .objectives
            .iter()
            .filter_map(chart)
            .collect::<Vec<_>>()
    });
    let charts = first.unwrap_or_default();
    if charts.is_empty() {
        return Err(Failure::new(Exit::Usage, "--prometheus: this server has no data of the release").hint(
            "Name the one that the controller asks: spec.analysis.prometheus.address, or the controller's default.",
        ));
    }
    Ok(charts)
}
