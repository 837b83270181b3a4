//! `kubectl serin simulate`: estimates the outcome of a release before it is shipped, without a
//! cluster.

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
use serin_simulation::SimulationOptions;
use serin_simulation::release_simulation::{
    ReleaseOutcome, ReleaseScenario, SimulatedPace, SimulatedStep, simulate_releases,
};
use serin_simulation::scenario::{CanaryEffect, Conditions, Scenario};

use crate::cli::SimulateArgs;
use crate::display::DisplayContext;
use crate::exit::{CliError, Exit};
use crate::manifest::{self, Manifest};

mod baseline;
mod render;

/// Placeholder for a missing Prometheus address; no query is sent.
const UNUSED_PROMETHEUS: &str = "http://unused.invalid";

/// Number of runs with which the total time is estimated.
const TIMING_RUNS: u32 = 8;
/// Estimated time above which a warning is printed.
const SLOW_RUN_SECONDS: f64 = 20.0;

/// Input of a simulation, with the assumptions made.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulationInput {
    /// The Rollout's name.
    pub name: String,
    /// The simulated objective.
    pub objective: ObjectiveSpec,
    /// The release.
    pub release: ReleaseScenario,
    /// Assumptions and warnings, one sentence each.
    pub notes: Vec<String>,
}

/// Simulates and prints the result. Warns on `aside` if it will take long.
///
/// # Errors
/// Fails if the file or an argument is wrong, or the output cannot be written.
pub fn simulate(
    args: &SimulateArgs,
    display: &DisplayContext,
    out: &mut dyn Write,
    aside: &mut dyn Write,
) -> Result<(), CliError> {
    let input = build_input(&manifest::read(&args.file, &args.policies)?, args)?;
    let options = SimulationOptions {
        runs: args.runs,
        seed: args.seed,
    };
    let run = |options: SimulationOptions| {
        simulate_releases(options, &input.release).map_err(|error| {
            CliError::new(
                Exit::Usage,
                format!("this analysis cannot be simulated: {error}"),
            )
        })
    };
    let started = Instant::now();
    run(SimulationOptions {
        runs: TIMING_RUNS.min(options.runs),
        ..options
    })?;
    if let Some(warning) = slow_run_warning(started.elapsed().as_secs_f64(), options.runs) {
        writeln!(aside, "{warning}")?;
    }
    let started = Instant::now();
    let ended = run(options)?;
    let took = render::SimulationTiming {
        seconds: started.elapsed().as_secs_f64(),
        cores: thread::available_parallelism().map_or(1, usize::from),
    };
    out.write_all(render::render(&input, &ended, options, &took, display).as_bytes())?;
    if args.svg.file.is_some() {
        render::chart(&input, &ended).write_svg(&args.svg)?;
    }
    Ok(())
}

/// Warns of a long simulation, estimated from the time of the first runs.
fn slow_run_warning(first_seconds: f64, runs: u32) -> Option<String> {
    let seconds = first_seconds * f64::from(runs) / f64::from(TIMING_RUNS.min(runs).max(1));
    (seconds > SLOW_RUN_SECONDS).then(|| {
        let fewer = (f64::from(runs) * SLOW_RUN_SECONDS / seconds)
            .max(f64::from(TIMING_RUNS))
            .round();
        format!(
            "This takes about {}. --runs {fewer} is faster but less precise.",
            duration(seconds)
        )
    })
}

/// Builds the input from a manifest and the arguments.
///
/// # Errors
/// Fails if the manifest cannot be simulated or an argument is wrong.
pub fn build_input(manifest: &Manifest, args: &SimulateArgs) -> Result<SimulationInput, CliError> {
    let wrong = |message: String| CliError::new(Exit::Usage, message);
    if manifest.plan.is_blue_green() {
        let problem = format!(
            "Rollout {} is blue/green: its two sides never have traffic at the same time, so there \
             is no comparison to simulate",
            manifest.name
        );
        return Err(wrong(problem).hint(
            "Use `kubectl serin simulate` for a canary. After a switch the new revision is judged \
             by the error rate before it, for spec.analysis.bakeTime.",
        ));
    }
    let Some(analysis) = &manifest.spec.analysis else {
        return Err(
            wrong(format!("Rollout {} has no spec.analysis", manifest.name))
                .hint("Add at least one objective to spec.analysis.objectives."),
        );
    };
    let mut notes = Vec::new();
    let objective = select_objective(analysis, args, &mut notes)?;
    let planned = &manifest.plan.canary().pace;
    let evidence_pace = match planned {
        Planned::Evidence(pace) => Some(pace),
        Planned::Steps(_) => None,
    };
    let settings = Settings::new(analysis, evidence_pace, Server::with_url(UNUSED_PROMETHEUS))
        .map_err(|error| wrong(error.message))?;
    let tick_seconds = scrape_seconds(settings.scrape_interval.as_secs_f64(), &mut notes);
    let window_seconds = slo_window(objective)
        .map_err(|error| wrong(error.message))?
        .as_secs_f64();
    let budget_fraction = 1.0 - objective.objective / 100.0;
    let requests = args.rps * window_seconds;
    let stable_rate = args.error_rate.0;
    let budget = ServiceBudget::new(budget_fraction, requests, stable_rate * requests);
    let allotment = budget.allotment(&settings.allotment_share);
    let mut evidence = settings
        .objective(objective, usual_rate(stable_rate, requests), true)
        .evidence;
    evidence.warm_up_seconds = settings.warm_up.as_secs_f64();
    let pace = match planned {
        Planned::Evidence(_) => SimulatedPace::Evidence,
        Planned::Steps(steps) => SimulatedPace::Steps(simulated_steps(steps, args, &mut notes)),
    };
    let compared_stable = baseline::compared_stable(&manifest.plan);
    notes.extend(baseline::note(&compared_stable));
    let feasibility = feasibility::FeasibilityInput {
        target: objective.objective / 100.0,
        margin_of_budget: evidence.delta1 / budget_fraction,
        stable_rate,
        requests_per_second: args.rps,
        max_weight: settings.analysis.steps.max_weight,
        compared_stable: compared_stable.last().map_or(1.0, |(_, part)| *part),
        beta: settings.analysis.beta,
        max_duration_seconds: settings.max_duration.as_secs_f64(),
        allotment: Some(allotment),
    };
    let infeasible = feasibility.message();
    notes.extend((!infeasible.is_empty()).then_some(infeasible));
    if allotment <= 0.0 {
        notes.push(format!(
            "At an error rate of {}, stable alone exhausts the error budget of {} %. Releases are frozen until it recovers, except one that is proven to be the fix.",
            percent(stable_rate),
            objective.objective
        ));
    }
    let release = ReleaseScenario {
        scenario: Scenario {
            requests_per_second: args.rps,
            tick_seconds,
            stable_rate,
            effect: CanaryEffect::Fraction(args.canary_error_rate.0),
            conditions: Conditions::Plain,
        },
        evidence,
        analysis: settings.analysis,
        pace,
        allotment,
        max_duration_seconds: settings.max_duration.as_secs_f64(),
        compared_stable,
    };
    Ok(SimulationInput {
        name: manifest.name.clone(),
        objective: objective.clone(),
        release,
        notes,
    })
}

fn select_objective<'a>(
    analysis: &'a AnalysisSpec,
    args: &SimulateArgs,
    notes: &mut Vec<String>,
) -> Result<&'a ObjectiveSpec, CliError> {
    let names: Vec<&str> = analysis
        .objectives
        .iter()
        .map(|objective| objective.name.as_str())
        .collect();
    if names.is_empty() {
        return Err(CliError::new(
            Exit::Usage,
            "spec.analysis.objectives: is empty, and checks cannot be simulated",
        )
        .hint("Add at least one objective, for example {name: availability, objective: 99.9, indicator: traefik}."));
    }
    let none = || {
        let requested = args.objective.as_deref().unwrap_or_default();
        CliError::new(
            Exit::Usage,
            format!("--objective {requested}: the Rollout has no such objective"),
        )
        .hint(format!("Use one of {}.", names.join(", ")))
    };
    let found = match &args.objective {
        Some(name) => analysis
            .objectives
            .iter()
            .find(|objective| objective.name == *name),
        None => analysis.objectives.first(),
    };
    let found = found.ok_or_else(none)?;
    if names.len() > 1 {
        notes.push(format!(
            "Only objective {} of {} is simulated. Use --objective to select another one.",
            found.name,
            names.join(", ")
        ));
    }
    Ok(found)
}

/// Rounds the scrape interval to whole seconds.
fn scrape_seconds(interval_seconds: f64, notes: &mut Vec<String>) -> u32 {
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

/// The error rate that the controller would have measured before the release. `None` if there are
/// too few requests.
fn usual_rate(stable_rate: f64, requests: f64) -> Option<f64> {
    const LEAST_HISTORY: f64 = 1_000.0;
    (requests >= LEAST_HISTORY)
        .then(|| ((stable_rate * requests + 0.5) / (requests + 1.0)).min(0.99))
}

/// The simulated steps. Pods start at once, and people react after `--person-after`.
fn simulated_steps(
    steps: &[plan::Step],
    args: &SimulateArgs,
    notes: &mut Vec<String>,
) -> Vec<SimulatedStep> {
    if steps
        .iter()
        .any(|step| matches!(step, plan::Step::Pause(None)))
    {
        notes.push(format!(
            "At a pause without a duration, a person promotes after {}. Use --person-after to change that.",
            duration(args.person_after.as_secs_f64())
        ));
    }
    if !steps
        .iter()
        .any(|step| matches!(step, plan::Step::SetWeight(weight) if !weight.is_zero()))
    {
        notes.push(
            "No step sends traffic to the canary before promotion, so there is no evidence."
                .to_owned(),
        );
    }
    let step = |step: &plan::Step| match step {
        plan::Step::SetWeight(weight) => {
            Some(SimulatedStep::SetWeight(weight.as_percent() / 100.0))
        }
        plan::Step::Pause(Some(wait)) => Some(SimulatedStep::Pause(wait.as_secs_f64())),
        plan::Step::Pause(None) | plan::Step::Gate(_) => {
            Some(SimulatedStep::Pause(args.person_after.as_secs_f64()))
        }
        plan::Step::Analysis(wait) => {
            Some(SimulatedStep::Analysis(wait.map(|wait| wait.as_secs_f64())))
        }
        // Only checks, which are not simulated.
        plan::Step::Require(required) if required.objectives.is_empty() => None,
        // Every objective must have sufficient evidence here.
        plan::Step::Require(_) => Some(SimulatedStep::Analysis(None)),
        plan::Step::SetCanaryScale(_) | plan::Step::SetManagedRoute(_) => None,
    };
    steps.iter().filter_map(step).collect()
}

/// The quantile `part` of sorted values.
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

fn sorted(ended: &[&ReleaseOutcome], value: impl Fn(&ReleaseOutcome) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = ended.iter().map(|ended| value(ended)).collect();
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests;
