//! `kubectl serin replay`: what Serin would have done with what a Prometheus has recorded.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serin_core::units::{Revision, Weight};
use serin_crds::analysis::{AnalysisSpec, Indicator, ObjectiveSpec, VariantsSpec};
use serin_crds::text::format_duration;
use serin_metrics_analysis::prometheus::Server;
use serin_metrics_analysis::replay::{Question, Replayed, USUAL_QUIET_MS, Weights};
use serin_metrics_analysis::routes::RouteRules;
use serin_metrics_analysis::{JudgeRequest, Phase, RolloutName};

use crate::cli::{Format, ReplayArgs};
use crate::connect::Connection;
use crate::exit::{Exit, Failure};
use crate::look::Look;
use crate::manifest::{self, Manifest};
use crate::picture;
pub use compared::Compared;
pub use summary::Summary;

pub mod asking;
pub mod compared;
mod drawn;
pub mod summary;
mod told;
mod windows;

pub use drawn::course;
pub use told::summary_told;
pub use windows::Window;

/// With more releases than this, each is a line of a table unless everything is asked for.
const TOLD_IN_FULL: usize = 1;

/// What is asked of a record, beside the times.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The Prometheus that has it.
    pub server: Server,
    /// The stable side: its Service, or its value of the label that tells the sides; nothing: as
    /// the Rollout says.
    pub stable: Option<String>,
    /// The canary side, likewise.
    pub canary: Option<String>,
    /// Where pods tell the sides: stable's ReplicaSet then.
    pub stable_pods: Option<String>,
    /// The canary's ReplicaSet then.
    pub canary_pods: Option<String>,
    /// The canary's share.
    pub weights: Weights,
    /// Without requests for so long, in milliseconds, a release is over.
    pub quiet_ms: i64,
}

/// One release on record.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// As Serin judges it.
    pub release: Replayed,
    /// Beside the fixed rules.
    pub compared: Compared,
}

/// What is on record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// The releases, in the order of their windows.
    pub releases: Vec<Recorded>,
    /// The windows in which the canary got no request, by their names: what was asked for and is
    /// not there is told.
    pub without_requests: Vec<String>,
}

impl Asked {
    /// Of the record of this Prometheus, all else as the Rollout and the traffic say.
    pub const fn of(server: Server) -> Self {
        Self {
            server,
            stable: None,
            canary: None,
            stable_pods: None,
            canary_pods: None,
            weights: Weights::Observed,
            quiet_ms: USUAL_QUIET_MS,
        }
    }

    fn from_args(args: &ReplayArgs) -> Result<Self, Failure> {
        let mut steps: Vec<_> = args
            .step_weights
            .iter()
            .map(|step| (step.after_ms, step.weight))
            .collect();
        steps.sort_unstable();
        if let Some((after_ms, _)) = steps.first().filter(|(after_ms, _)| *after_ms > 0) {
            let fix = "begin with the share of its first request, for example 0s=5";
            let after = format_duration(Duration::from_millis(after_ms.unsigned_abs()));
            return Err(wrong(format!(
                "--step-weights: nothing is said of the time before {after}; {fix}"
            )));
        }
        if let Some(twice) = steps.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let after = format_duration(Duration::from_millis(twice[0].0.unsigned_abs()));
            return Err(wrong(format!(
                "--step-weights: {after} is there twice; keep one of the two"
            )));
        }
        Ok(Self {
            stable: args.stable.clone(),
            canary: args.canary.clone(),
            stable_pods: args.stable_pods.clone(),
            canary_pods: args.canary_pods.clone(),
            weights: if steps.is_empty() {
                Weights::Observed
            } else {
                Weights::Set(steps)
            },
            quiet_ms: i64::try_from(args.quiet.as_millis()).unwrap_or(i64::MAX),
            ..Self::of(asking::server(&args.prometheus, &args.access)?)
        })
    }
}

/// Replays what is on record of a Rollout in each window: its releases, beside what fixed rules
/// would have done.
///
/// # Errors
/// The Rollout has nothing to judge by, a window makes no sense, or Prometheus does not answer.
pub async fn recorded(
    manifest: &Manifest,
    asked: &Asked,
    windows: &[Window],
    now: Timestamp,
) -> Result<Record, Failure> {
    let objectives = manifest
        .spec
        .analysis
        .iter()
        .flat_map(|analysis| &analysis.objectives);
    let percentages: Vec<f64> = objectives.map(|of| of.objective).collect();
    let mut record = Record::default();
    for window in windows {
        let question = question(manifest, asked, window, now)?;
        let releases = asking::ask(&question).await?;
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
            let namespace = question.request.rollout.namespace.clone();
            let compared = Compared::of(name, namespace, &release, &percentages);
            record.releases.push(Recorded { release, compared });
        }
    }
    Ok(record)
}

/// What is printed for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Printed<'a> {
    rollout: &'a str,
    prometheus: &'a str,
    releases: Vec<&'a Compared>,
    /// The windows without a request to the canary, by their names.
    without_requests: &'a [String],
    summary: Summary,
}

/// Replays and tells. `connection` leads to the API server where the Rollout is read from there.
///
/// # Errors
/// The file or an argument is wrong, there is no such Rollout, Prometheus does not answer, or the
/// output cannot be written.
pub async fn run(
    args: &ReplayArgs,
    namespace: Option<&str>,
    connection: Option<&Connection>,
    look: &Look,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let mut manifest = match (&args.file, &args.name, connection) {
        (Some(file), _, _) => manifest::read(file)?,
        (None, Some(name), Some(connection)) => {
            let rollout = picture::read_rollout(connection, name).await?;
            manifest::of_object(&serde_json::to_value(&rollout).unwrap_or_default(), name)?
        }
        _ => return Err(wrong("neither -f nor a Rollout's name is given")),
    };
    manifest.namespace = namespace.map(ToOwned::to_owned).or(manifest.namespace);
    let asked = Asked::from_args(args)?;
    let windows = windows::windows(args, look.now)?;
    let record = recorded(&manifest, &asked, &windows, look.now).await?;
    let Record {
        releases: all,
        without_requests,
    } = &record;
    if let Some(format) = args.output {
        let releases: Vec<&Compared> = all.iter().map(|recorded| &recorded.compared).collect();
        let summary = Summary::of(releases.iter().copied());
        let printed = Printed {
            rollout: &manifest.name,
            prometheus: &asked.server.url,
            releases,
            without_requests,
            summary,
        };
        let unprintable =
            |error: &dyn std::error::Error| wrong(format!("cannot print the releases: {error}"));
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
    let in_full = args.all || all.len() <= TOLD_IN_FULL;
    let charts = || {
        all.iter()
            .flat_map(|recorded| drawn::charts(&manifest.name, &recorded.release, look))
    };
    if args.output.is_none() {
        out.write_all(told::told(&manifest, &asked, &windows, &record, in_full, look).as_bytes())?;
        for chart in charts().filter(|_| in_full) {
            write!(out, "\n{}", chart.for_terminal(look.width))?;
        }
    }
    if let Some(file) = &args.svg {
        let last = charts().last().ok_or_else(|| {
            wrong(format!(
                "--svg {}: there is nothing to draw",
                file.display()
            ))
            .hint("No request to the canary is on record in that time.")
        })?;
        last.write_svg(file)?;
        if args.output.is_none() && charts().count() > 1 {
            writeln!(
                out,
                "\n{} holds the chart of the last release.",
                file.display()
            )?;
        }
    }
    Ok(())
}

fn wrong(message: impl Into<String>) -> Failure {
    Failure::new(Exit::Usage, message)
}

/// What is to be replayed.
fn question(
    manifest: &Manifest,
    asked: &Asked,
    window: &Window,
    now: Timestamp,
) -> Result<Question, Failure> {
    let (from_ms, to_ms) = window.milliseconds(now)?;
    let Some(analysis) = &manifest.spec.analysis else {
        return Err(wrong(format!(
            "Rollout {} has no spec.analysis, so nothing would have judged",
            manifest.name
        ))
        .hint("Write at least one objective under spec.analysis.objectives."));
    };
    let routing = manifest.plan.routing();
    let analysis = with_sides(analysis, asked);
    if (asked.canary_pods.is_none() || asked.stable_pods.is_none())
        && let Some(by_pod) = analysis.objectives.iter().find(|of| tells_by_pod(of))
    {
        return Err(wrong(format!(
            "objective {} tells its sides by pod, and pods of the past are not known",
            by_pod.name
        ))
        .hint(
            "Name the two ReplicaSets: --stable-pods checkout-5d4f8c --canary-pods checkout-7b9c6d",
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
    Ok(Question {
        server: asked.server.clone(),
        request: JudgeRequest {
            rollout: RolloutName {
                namespace: namespace.clone(),
                name: manifest.name.clone(),
            },
            uid: String::new(),
            revision: Revision::new("recorded"),
            analysis,
            stable_service: service(
                &asked.stable,
                routing.map(|routing| &routing.stable_service),
            ),
            canary_service: service(
                &asked.canary,
                routing.map(|routing| &routing.canary_service),
            ),
            rules: routing
                .map(|routing| RouteRules::planned(&namespace, routing))
                .unwrap_or_default(),
            pod_sides: BTreeMap::new(),
            stable_replica_set: asked.stable_pods.clone(),
            canary_replica_set: asked.canary_pods.clone().unwrap_or_default(),
            pods_created_at: window.pods_created_at.clone(),
            weight: Weight::ZERO,
            // The weights are what they were: what is asked is whether the evidence sufficed at
            // each.
            pace: None,
            proven_at: None,
            phase: Phase::Release,
            freeze_lifted: false,
            previous_ended_at: None,
            resume_from: None,
        },
        from_ms,
        to_ms,
        weights: asked.weights.clone(),
        quiet_ms: asked.quiet_ms,
        began_ms: None,
    })
}

/// Whether the sides of an objective are told apart by the names of their pods.
fn tells_by_pod(objective: &ObjectiveSpec) -> bool {
    match (&objective.indicator, &objective.counters) {
        (Some(indicator), _) => *indicator == Indicator::Pod,
        (None, Some(counters)) => counters
            .variants
            .as_ref()
            .is_none_or(|arms: &VariantsSpec| arms.label.is_none()),
        (None, None) => false,
    }
}

/// The analysis, with the sides' label values that were given in place of those in the file.
fn with_sides(analysis: &AnalysisSpec, asked: &Asked) -> AnalysisSpec {
    let mut analysis = analysis.clone();
    let counters = analysis
        .objectives
        .iter_mut()
        .filter_map(|of| of.counters.as_mut());
    for arms in counters
        .filter_map(|counters| counters.variants.as_mut())
        .filter(|arms| arms.label.is_some())
    {
        arms.canary = asked.canary.clone().or_else(|| arms.canary.clone());
        arms.stable = asked.stable.clone().or_else(|| arms.stable.clone());
    }
    analysis
}

#[cfg(test)]
mod tests;
