//! `kubectl serin simulate`: the odds of a release before it is shipped, without a cluster.

use std::io::Write;
use std::thread;
use std::time::Instant;

use serin_analysis::budget::ServiceBudget;
use serin_analysis::explain::{duration, percent};
use serin_analysis::feasibility;
use serin_core::plan::{self, Pace as Planned};
use serin_crds::analysis::{AnalysisSpec, ObjectiveSpec};
use serin_metrics_analysis::prometheus::Server;
use serin_metrics_analysis::settings::{Settings, slo_window};
use serin_simulation::Options;
use serin_simulation::odds::{Ended, Pace, Release, Step, odds};
use serin_simulation::world::{Effect, Scenario, Weather};

use crate::cli::SimulateArgs;
use crate::exit::{Exit, Failure};
use crate::look::Look;
use crate::manifest::{self, Manifest};

mod told;

/// Stands where a spec names no Prometheus: nothing is asked here.
const NOBODY: &str = "http://nobody.invalid";

/// As many runs tell how long all will take.
const FIRST_RUNS: u32 = 8;
/// A person who waits for longer is told so.
const LONG_SECONDS: f64 = 20.0;

/// What is simulated, and what was assumed for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The Rollout's name.
    pub name: String,
    /// The objective that judges.
    pub objective: ObjectiveSpec,
    /// The release.
    pub release: Release,
    /// What the file does not say, in sentences.
    pub notes: Vec<String>,
}

/// Simulates and tells; on `aside`, before it begins, that it takes long, where it does.
///
/// # Errors
/// The file or an argument is wrong, or the output cannot be written.
pub fn simulate(
    args: &SimulateArgs,
    look: &Look,
    out: &mut dyn Write,
    aside: &mut dyn Write,
) -> Result<(), Failure> {
    let case = case(&manifest::read(&args.file)?, args)?;
    let options = Options {
        runs: args.runs,
        seed: args.seed,
    };
    let odds = |options: Options| {
        odds(options, &case.release).map_err(|error| {
            Failure::new(
                Exit::Usage,
                format!("this analysis cannot be simulated: {error}"),
            )
        })
    };
    let started = Instant::now();
    odds(Options {
        runs: FIRST_RUNS.min(options.runs),
        ..options
    })?;
    if let Some(warning) = takes_long(started.elapsed().as_secs_f64(), options.runs) {
        writeln!(aside, "{warning}")?;
    }
    let started = Instant::now();
    let ended = odds(options)?;
    let took = told::Took {
        seconds: started.elapsed().as_secs_f64(),
        cores: thread::available_parallelism().map_or(1, usize::from),
    };
    out.write_all(told::told(&case, &ended, options, &took, look).as_bytes())?;
    if let Some(file) = &args.svg {
        told::chart(&case, &ended).write_svg(file)?;
    }
    Ok(())
}

/// That a person waits for long, judged by how long the first runs took.
fn takes_long(first_seconds: f64, runs: u32) -> Option<String> {
    let seconds = first_seconds * f64::from(runs) / f64::from(FIRST_RUNS.min(runs).max(1));
    (seconds > LONG_SECONDS).then(|| {
        let fewer = (f64::from(runs) * LONG_SECONDS / seconds)
            .max(f64::from(FIRST_RUNS))
            .round();
        format!(
            "This takes about {}. With --runs {fewer} it is faster, and tells less.",
            duration(seconds)
        )
    })
}

/// What a file and the arguments ask for.
///
/// # Errors
/// What is wrong with them.
pub fn case(manifest: &Manifest, args: &SimulateArgs) -> Result<Case, Failure> {
    let wrong = |message: String| Failure::new(Exit::Usage, message);
    let Some(analysis) = &manifest.spec.analysis else {
        return Err(wrong(format!(
            "Rollout {} has no spec.analysis, so nothing would judge the release",
            manifest.name
        ))
        .hint("Write at least one objective under spec.analysis.objectives."));
    };
    let mut notes = Vec::new();
    let objective = objective(analysis, args, &mut notes)?;
    let planned = &manifest.plan.canary().pace;
    let evidence_pace = match planned {
        Planned::Evidence(pace) => Some(pace),
        Planned::Steps(_) => None,
    };
    let settings = Settings::new(analysis, evidence_pace, Server::at(NOBODY))
        .map_err(|trouble| wrong(trouble.message))?;
    let tick_seconds = whole_seconds(settings.scrape_interval.as_secs_f64(), &mut notes);
    let window_seconds = slo_window(objective)
        .map_err(|trouble| wrong(trouble.message))?
        .as_secs_f64();
    let budget_fraction = 1.0 - objective.objective / 100.0;
    let requests = args.rps * window_seconds;
    let stable_rate = args.error_rate.0;
    let budget = ServiceBudget::new(budget_fraction, requests, stable_rate * requests);
    let allotment = budget.allotment(&settings.share);
    let mut evidence = settings
        .objective(objective, usual_rate(stable_rate, requests), true)
        .evidence;
    evidence.warm_up_seconds = settings.warm_up.as_secs_f64();
    let pace = match planned {
        Planned::Evidence(_) => Pace::Evidence,
        Planned::Steps(steps) => Pace::Steps(written(steps, args, &mut notes)),
    };
    let asked = feasibility::Question {
        target: objective.objective / 100.0,
        margin_of_budget: evidence.delta1 / budget_fraction,
        stable_rate,
        requests_per_second: args.rps,
        max_weight: settings.judge.steps.max_weight,
        beta: settings.judge.beta,
        longest_seconds: settings.longest.as_secs_f64(),
        allotment: Some(allotment),
    };
    let infeasible = asked.told();
    notes.extend((!infeasible.is_empty()).then_some(infeasible));
    if allotment <= 0.0 {
        notes.push(format!(
            "At {} errors stable itself uses up the whole budget of {} %: until it recovers, releases are frozen, but for one that is shown to be the cure.",
            percent(stable_rate),
            objective.objective
        ));
    }
    let release = Release {
        scenario: Scenario {
            requests_per_second: args.rps,
            tick_seconds,
            stable_rate,
            effect: Effect::Fraction(args.canary_error_rate.0),
            weather: Weather::Plain,
        },
        evidence,
        judge: settings.judge,
        pace,
        allotment,
        longest_seconds: settings.longest.as_secs_f64(),
    };
    Ok(Case {
        name: manifest.name.clone(),
        objective: objective.clone(),
        release,
        notes,
    })
}

fn objective<'a>(
    analysis: &'a AnalysisSpec,
    args: &SimulateArgs,
    notes: &mut Vec<String>,
) -> Result<&'a ObjectiveSpec, Failure> {
    let names: Vec<&str> = analysis
        .objectives
        .iter()
        .map(|of| of.name.as_str())
        .collect();
    if names.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "spec.analysis.objectives: there is none, and what checks find cannot be simulated",
        )
        .hint("Write at least one objective, for example {name: availability, objective: 99.9, indicator: traefik}."));
    }
    let none = || {
        let asked = args.objective.as_deref().unwrap_or_default();
        Failure::new(
            Exit::Usage,
            format!("--objective {asked}: the Rollout has no such objective"),
        )
        .hint(format!("Use one of {}.", names.join(", ")))
    };
    let found = match &args.objective {
        Some(name) => analysis.objectives.iter().find(|of| of.name == *name),
        None => analysis.objectives.first(),
    };
    let found = found.ok_or_else(none)?;
    if names.len() > 1 {
        notes.push(format!(
            "Simulated for objective {} alone, of {}: choose another with --objective.",
            found.name,
            names.join(", ")
        ));
    }
    Ok(found)
}

/// Simulated scrapes are whole seconds apart.
fn whole_seconds(interval_seconds: f64, notes: &mut Vec<String>) -> u32 {
    let whole = interval_seconds.round().clamp(1.0, 3_600.0);
    if (whole - interval_seconds).abs() > 1e-9 {
        notes.push(format!(
            "Simulated with a scrape every {whole} s instead of every {interval_seconds} s."
        ));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 1 to 3,600, as just clamped"
    )]
    {
        whole as u32
    }
}

/// What the controller would have read of how often the service failed before; of too few requests
/// it reads nothing.
fn usual_rate(stable_rate: f64, requests: f64) -> Option<f64> {
    const LEAST_HISTORY: f64 = 1_000.0;
    (requests >= LEAST_HISTORY)
        .then(|| ((stable_rate * requests + 0.5) / (requests + 1.0)).min(0.99))
}

/// The steps as they are simulated: pods take no time, and people as long as was said.
fn written(steps: &[plan::Step], args: &SimulateArgs, notes: &mut Vec<String>) -> Vec<Step> {
    if steps
        .iter()
        .any(|step| matches!(step, plan::Step::Pause(None)))
    {
        notes.push(format!(
            "Where a pause waits for a person, that person promotes after {}: say another time with --person-after.",
            duration(args.person_after.as_secs_f64())
        ));
    }
    if !steps
        .iter()
        .any(|step| matches!(step, plan::Step::SetWeight(weight) if !weight.is_zero()))
    {
        notes.push(
            "No step gives the canary any traffic before it takes over, so nothing can be judged."
                .to_owned(),
        );
    }
    let step = |step: &plan::Step| match step {
        plan::Step::SetWeight(weight) => Some(Step::SetWeight(weight.as_percent() / 100.0)),
        plan::Step::Pause(Some(wait)) => Some(Step::Pause(wait.as_secs_f64())),
        plan::Step::Pause(None) => Some(Step::Pause(args.person_after.as_secs_f64())),
        plan::Step::Analysis(wait) => Some(Step::Analysis(wait.map(|wait| wait.as_secs_f64()))),
        // Until the evidence suffices, which is asked of every objective here. What checks say is
        // not simulated.
        plan::Step::Require(_) => Some(Step::Analysis(None)),
        plan::Step::SetCanaryScale(_) => None,
    };
    steps.iter().filter_map(step).collect()
}

/// The value that so many of the sorted values are below.
fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index below the number of runs"
    )]
    let index = (sorted.len() as f64 * part) as usize;
    sorted
        .get(index.min(sorted.len().saturating_sub(1)))
        .copied()
}

fn sorted(ended: &[&Ended], of: impl Fn(&Ended) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = ended.iter().map(|ended| of(ended)).collect();
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests;
