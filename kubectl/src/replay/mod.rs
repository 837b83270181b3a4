//! `kubectl serin replay`: reports what Serin would have done with recorded metrics.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serin_analysis::claim::RoutedUnit;
use serin_core::plan::Routing;
use serin_core::units::{Revision, Weight};
use serin_crds::analysis::{AnalysisSpec, Indicator, ObjectiveSpec, VariantsSpec};
use serin_crds::literals::format_duration;
use serin_metrics_analysis::checks::AwaitedChecks;
use serin_metrics_analysis::prometheus::Server;
use serin_metrics_analysis::replay::{
    DEFAULT_QUIET_MS, ReplayRequest, ReplayedRelease, WeightSource,
};
use serin_metrics_analysis::routes::RouteRules;
use serin_metrics_analysis::{AnalysisRequest, ReleasePhase, RolloutName};

use crate::cli::{Format, ReplayArgs};
use crate::connect::Connection;
use crate::display::DisplayContext;
use crate::exit::{CliError, Exit};
use crate::manifest::{self, Manifest};
use crate::resources;
pub use comparison::ReleaseComparison;
pub use summary::ReplaySummary;

mod chart;
pub mod comparison;
pub mod prometheus;
mod render;
pub mod summary;
mod windows;

pub use chart::evidence_series;
pub use render::render_summary;
pub use windows::ReplayWindow;

/// With more releases than this, each is one line of a table unless `--all` is given.
const FULL_DETAIL_LIMIT: usize = 1;

/// Options of a replay, except the times.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// The Prometheus with the record.
    pub server: Server,
    /// The stable side: its Service, or its value of the variant label. `None` means as in the
    /// Rollout.
    pub stable: Option<String>,
    /// The canary side, likewise.
    pub canary: Option<String>,
    /// Stable's ReplicaSet at that time, if pods distinguish the sides.
    pub stable_pods: Option<String>,
    /// The canary's ReplicaSet at that time.
    pub canary_pods: Option<String>,
    /// Weights of the canary.
    pub weights: WeightSource,
    /// Time without canary requests after which a release is over, in milliseconds.
    pub quiet_ms: i64,
}

/// A recorded release.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedRelease {
    /// The replayed analysis.
    pub release: ReplayedRelease,
    /// The comparison with the fixed rules.
    pub comparison: ReleaseComparison,
}

/// The result of a replay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplayRecord {
    /// The releases, in the order of their windows.
    pub releases: Vec<RecordedRelease>,
    /// Names of the windows without canary requests.
    pub without_requests: Vec<String>,
}

impl ReplayOptions {
    /// Options for this Prometheus, with defaults for the rest.
    pub const fn new(server: Server) -> Self {
        Self {
            server,
            stable: None,
            canary: None,
            stable_pods: None,
            canary_pods: None,
            weights: WeightSource::Observed,
            quiet_ms: DEFAULT_QUIET_MS,
        }
    }

    fn from_args(args: &ReplayArgs) -> Result<Self, CliError> {
        let mut steps: Vec<_> = args
            .step_weights
            .iter()
            .map(|step| (step.after_ms, step.weight))
            .collect();
        steps.sort_unstable();
        if let Some((after_ms, _)) = steps.first().filter(|(after_ms, _)| *after_ms > 0) {
            let fix = "start with a weight at the first request, for example 0s=5";
            let after = format_duration(Duration::from_millis(after_ms.unsigned_abs()));
            return Err(usage_error(format!(
                "--step-weights: no weight before {after}; {fix}"
            )));
        }
        if let Some(twice) = steps.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let after = format_duration(Duration::from_millis(twice[0].0.unsigned_abs()));
            return Err(usage_error(format!(
                "--step-weights: {after} is given twice; keep one of them"
            )));
        }
        Ok(Self {
            stable: args.stable.clone(),
            canary: args.canary.clone(),
            stable_pods: args.stable_pods.clone(),
            canary_pods: args.canary_pods.clone(),
            weights: if steps.is_empty() {
                WeightSource::Observed
            } else {
                WeightSource::Set(steps)
            },
            quiet_ms: i64::try_from(args.quiet.as_millis()).unwrap_or(i64::MAX),
            ..Self::new(prometheus::server(&args.prometheus, &args.access)?)
        })
    }
}

/// Replays the releases of a Rollout in each window and compares them with the fixed rules.
///
/// # Errors
/// Fails if the Rollout has no analysis, a window is invalid, or Prometheus does not answer.
pub async fn replay_windows(
    manifest: &Manifest,
    options: &ReplayOptions,
    windows: &[ReplayWindow],
    now: Timestamp,
) -> Result<ReplayRecord, CliError> {
    let objectives = manifest
        .spec
        .analysis
        .iter()
        .flat_map(|analysis| &analysis.objectives);
    let percentages: Vec<f64> = objectives.map(|objective| objective.objective).collect();
    let mut record = ReplayRecord::default();
    for window in windows {
        let request = replay_request(manifest, options, window, now)?;
        let releases = prometheus::run_replay(&request).await?;
        if releases.is_empty() {
            let times = || format!("{} to {}", window.from, window.to);
            record
                .without_requests
                .push(window.name.clone().unwrap_or_else(times));
        }
        let is_one = releases.len() == 1;
        for (number, release) in (1..).zip(releases) {
            let name = window.name.as_ref().map(|name| {
                if is_one {
                    name.clone()
                } else {
                    format!("{name} ({number})")
                }
            });
            let namespace = request.request.rollout.namespace.clone();
            let comparison = ReleaseComparison::new(name, namespace, &release, &percentages);
            record.releases.push(RecordedRelease {
                release,
                comparison,
            });
        }
    }
    Ok(record)
}

/// Machine-readable output.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReplayOutput<'a> {
    rollout: &'a str,
    prometheus: &'a str,
    releases: Vec<&'a ReleaseComparison>,
    /// Names of the windows without canary requests.
    without_requests: &'a [String],
    summary: ReplaySummary,
}

/// Replays and prints the result, and on `aside` what could not be read. `connection` is required
/// unless a file is given.
///
/// # Errors
/// Fails if the file or an argument is wrong, the Rollout does not exist, Prometheus does not
/// answer, or the output cannot be written.
pub async fn run(
    args: &ReplayArgs,
    namespace: Option<&str>,
    connection: Option<&Connection>,
    display: &DisplayContext,
    out: &mut (dyn Write + Send),
    aside: &mut (dyn Write + Send),
) -> Result<(), CliError> {
    let mut manifest = match (&args.file, &args.name, connection) {
        (Some(file), _, _) => manifest::read(file, &args.policies)?,
        (None, Some(name), Some(connection)) => {
            let rollout = resources::read_rollout(connection, name).await?;
            let object = serde_json::to_value(&rollout).unwrap_or_default();
            manifest::of_cluster(connection, &object, &args.policies, aside).await?
        }
        _ => return Err(usage_error("pass -f or the name of a Rollout")),
    };
    manifest.namespace = namespace.map(ToOwned::to_owned).or(manifest.namespace);
    let options = ReplayOptions::from_args(args)?;
    let windows = windows::requested_windows(args, display.now)?;
    let record = replay_windows(&manifest, &options, &windows, display.now).await?;
    let ReplayRecord {
        releases: all,
        without_requests,
    } = &record;
    if let Some(format) = args.output {
        let releases: Vec<&ReleaseComparison> =
            all.iter().map(|recorded| &recorded.comparison).collect();
        let summary = ReplaySummary::new(releases.iter().copied());
        let printed = ReplayOutput {
            rollout: &manifest.name,
            prometheus: &options.server.url,
            releases,
            without_requests,
            summary,
        };
        let unprintable = |error: &dyn std::error::Error| {
            usage_error(format!("cannot print the releases: {error}"))
        };
        let text = match format {
            Format::Json => {
                serde_json::to_string_pretty(&printed).map_err(|error| unprintable(&error))? + "\n"
            }
            Format::Yaml => {
                serde_saphyr::to_string(&printed).map_err(|error| unprintable(&error))?
            }
        };
        out.write_all(text.as_bytes())?;
    }
    let in_full = args.all || all.len() <= FULL_DETAIL_LIMIT;
    let charts = || {
        all.iter()
            .flat_map(|recorded| chart::charts(&manifest.name, &recorded.release, display))
    };
    if args.output.is_none() {
        out.write_all(
            render::render(&manifest, &options, &windows, &record, in_full, display).as_bytes(),
        )?;
        for chart in charts().filter(|_| in_full) {
            write!(out, "\n{}", chart.for_terminal(display.width))?;
        }
    }
    if let Some(file) = &args.svg.file {
        let last = charts().last().ok_or_else(|| {
            usage_error(format!("--svg {}: nothing to draw", file.display()))
                .hint("No request to the canary was recorded in that time.")
        })?;
        last.write_svg(&args.svg)?;
        if args.output.is_none() && charts().count() > 1 {
            writeln!(
                out,
                "\n{} contains the chart of the last release.",
                file.display()
            )?;
        }
    }
    Ok(())
}

fn usage_error(message: impl Into<String>) -> CliError {
    CliError::new(Exit::Usage, message)
}

/// The replay request for one window.
pub(crate) fn replay_request(
    manifest: &Manifest,
    options: &ReplayOptions,
    window: &ReplayWindow,
    now: Timestamp,
) -> Result<ReplayRequest, CliError> {
    let (from_ms, to_ms) = window.milliseconds(now)?;
    let Some(analysis) = &manifest.spec.analysis else {
        return Err(
            usage_error(format!("Rollout {} has no spec.analysis", manifest.name))
                .hint("Add at least one objective to spec.analysis.objectives."),
        );
    };
    let routing = manifest.plan.routing();
    let analysis = with_variant_labels(analysis, options);
    if (options.canary_pods.is_none() || options.stable_pods.is_none())
        && let Some(by_pod) = analysis
            .objectives
            .iter()
            .find(|objective| distinguishes_by_pod(objective))
    {
        return Err(usage_error(format!(
            "objective {} distinguishes the sides by pod, and past pods are unknown",
            by_pod.name
        ))
        .hint(
            "Pass the two ReplicaSets: --stable-pods checkout-5d4f8c --canary-pods checkout-7b9c6d",
        ));
    }
    let service = |given: &Option<String>, planned: Option<&String>| {
        given.clone().or_else(|| planned.cloned())
    };
    let namespace = window
        .namespace
        .clone()
        .or_else(|| manifest.namespace.clone());
    let namespace = namespace.unwrap_or_else(|| "default".to_owned());
    Ok(ReplayRequest {
        server: options.server.clone(),
        request: AnalysisRequest {
            rollout: RolloutName {
                namespace: namespace.clone(),
                name: manifest.name.clone(),
            },
            uid: String::new(),
            revision: Revision::new("recorded"),
            analysis,
            stable_service: service(&options.stable, routing.map(Routing::stable_service)),
            canary_service: service(&options.canary, routing.map(Routing::canary_service)),
            rules: routing
                .map(|routing| RouteRules::from_plan(&namespace, routing))
                .unwrap_or_default(),
            pod_sides: BTreeMap::new(),
            stable_replica_set: options.stable_pods.clone(),
            canary_replica_set: options.canary_pods.clone().unwrap_or_default(),
            pods_created_at: window.pods_created_at.clone(),
            pod_nodes: BTreeMap::new(),
            baseline_since: None,
            compared_stable: 1.0,
            routed_unit: RoutedUnit::Request,
            weight: Weight::ZERO,
            // The weights are those of the record; the replay checks whether the evidence was
            // sufficient at each.
            pace: None,
            is_blue_green: manifest.plan.is_blue_green(),
            evidence_required_at: None,
            phase: ReleasePhase::Release,
            awaited_checks: AwaitedChecks::default(),
            freeze_lifted: false,
            previous_ended_at: None,
            resume_from: None,
            placebos: BTreeMap::new(),
        },
        from_ms,
        to_ms,
        weights: options.weights.clone(),
        quiet_ms: options.quiet_ms,
        began_ms: None,
    })
}

/// Whether pod names distinguish the sides of the objective.
fn distinguishes_by_pod(objective: &ObjectiveSpec) -> bool {
    match (&objective.indicator, &objective.counters) {
        (Some(indicator), _) => *indicator == Indicator::Pod,
        (None, Some(counters)) => counters
            .variants
            .as_ref()
            .is_none_or(|variants: &VariantsSpec| variants.label.is_none()),
        (None, None) => false,
    }
}

/// The analysis, with the given label values of the variants in place of those in the file.
fn with_variant_labels(analysis: &AnalysisSpec, options: &ReplayOptions) -> AnalysisSpec {
    let mut analysis = analysis.clone();
    let counters = analysis
        .objectives
        .iter_mut()
        .filter_map(|objective| objective.counters.as_mut());
    for variants in counters
        .filter_map(|counters| counters.variants.as_mut())
        .filter(|variants| variants.label.is_some())
    {
        variants.canary = options.canary.clone().or_else(|| variants.canary.clone());
        variants.stable = options.stable.clone().or_else(|| variants.stable.clone());
    }
    analysis
}

#[cfg(test)]
mod tests;
