//! `cargo xtask bench scale`: thousands of rollouts beside other controllers.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{ArgAction, Args};
use serin_e2e::interrupt::Interrupts;
use serin_scale::{Phase, Product, Results, ScaleOptions, markdown};

use super::{BENCHMARKS, capture_stdout, cargo, environment, format_seconds, write_section};

/// The raw figures.
const FIGURES: &str = "docs/benchmarks-scale.json";

/// What to measure.
#[derive(Args)]
pub(crate) struct ScaleArguments {
    /// Products, each on a fresh control plane: serin, argo, argo-raised, flagger.
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "serin,argo-raised"
    )]
    products: Vec<Product>,
    /// Numbers of rollouts. Each adds to those that exist.
    #[arg(
        long,
        value_name = "COUNTS",
        value_delimiter = ',',
        default_value = "1000,3000"
    )]
    rollouts: Vec<u32>,
    /// Phases: create, idle, update, partial, churn, abort-flood, failover, start. Create and
    /// update run with each number of rollouts, the others with the largest one only.
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "create,update"
    )]
    phases: Vec<Phase>,
    /// Program of Serin's controller. If not set, it is built with the release profile.
    #[arg(long, value_name = "PATH")]
    controller: Option<PathBuf>,
    /// Number of aborts during an update.
    #[arg(long, default_value_t = 50)]
    aborts: u32,
    /// Number of takeovers after SIGKILL, and as many after SIGTERM.
    #[arg(long, default_value_t = 3)]
    takeovers: u32,
    /// Seconds after a phase for which writes still count to it.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    settle: u64,
    /// Updates per second in the phase churn.
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    churn_per_second: u32,
    /// Seconds of the phases idle and churn.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    quiet_time: u64,
    /// Maximum time of the measurement in minutes. Phases that do not fit are left out.
    #[arg(long, value_name = "MINUTES", default_value_t = 120)]
    max_minutes: u64,
    /// Keep the results of other products, phases and numbers in docs/benchmarks-scale.json.
    #[arg(long)]
    merge: bool,
    /// Keep the logs in .local/scale, including the audit log.
    #[arg(long)]
    keep: bool,
    /// Print the tables, and write neither docs/benchmarks.md nor docs/benchmarks-scale.json.
    #[arg(long, action = ArgAction::SetTrue)]
    dry_run: bool,
}

/// Measures and rewrites the section and the figures.
pub(super) async fn run(root: &Path, arguments: ScaleArguments) -> Result<()> {
    ensure!(
        arguments.rollouts.iter().all(|count| *count > 0) && !arguments.rollouts.is_empty(),
        "--rollouts has no positive number: set for example --rollouts 1000"
    );
    let mut interrupts = Interrupts::listen()?;
    tokio::select! {
        result = Box::pin(measure(root, &arguments)) => result,
        () = interrupts.next() => bail!("interrupted"),
    }
}

async fn measure(root: &Path, arguments: &ScaleArguments) -> Result<()> {
    let options = options(root, arguments).await?;
    let began = Instant::now();
    let mut results = Box::pin(serin_scale::run(&options)).await?;
    let took = began.elapsed().as_secs_f64();
    if arguments.dry_run {
        println!("{}", markdown(&results));
        return Ok(());
    }
    let figures = root.join(FIGURES);
    if arguments.merge && figures.is_file() {
        let text = fs::read_to_string(&figures)?;
        let older: Results = serde_json::from_str(&text)
            .with_context(|| format!("cannot read {}", figures.display()))?;
        results = older.merged(results);
    }
    let mut text = serde_json::to_string_pretty(&results)?;
    text.push('\n');
    fs::write(&figures, text)?;
    let section = format!(
        "`{}` wrote this section in {}. Raw figures: [{}]({}).\n\n{}",
        command_line(arguments),
        format_seconds(took),
        FIGURES.trim_start_matches("docs/"),
        FIGURES.trim_start_matches("docs/"),
        markdown(&results),
    );
    write_section(&root.join(BENCHMARKS), "scale", &section)
}

async fn options(root: &Path, arguments: &ScaleArguments) -> Result<ScaleOptions> {
    let controller = match &arguments.controller {
        Some(path) => path
            .canonicalize()
            .with_context(|| format!("--controller {}: no such program", path.display()))?,
        None if arguments.products.contains(&Product::Serin) => {
            let build = ["build", "--release", "--package", "serin-controller"];
            capture_stdout(&mut cargo(root, &build)).await?;
            root.join("target/release/serin-controller")
        }
        None => PathBuf::new(),
    };
    Ok(ScaleOptions {
        checkout: root.to_owned(),
        controller,
        products: arguments.products.clone(),
        rollouts: arguments.rollouts.clone(),
        phases: arguments.phases.clone(),
        aborts: arguments.aborts,
        takeovers: arguments.takeovers,
        settle: Duration::from_secs(arguments.settle),
        churn_per_second: arguments.churn_per_second,
        quiet_time: Duration::from_secs(arguments.quiet_time),
        max_duration: Duration::from_secs(arguments.max_minutes.saturating_mul(60)),
        keep: arguments.keep,
        environment: environment(root).await?,
    })
}

/// The command that repeats the measurement.
fn command_line(arguments: &ScaleArguments) -> String {
    let list = |names: Vec<String>| names.join(",");
    let products = arguments.products.iter().map(ToString::to_string);
    let rollouts = arguments.rollouts.iter().map(ToString::to_string);
    let phases = arguments.phases.iter().map(ToString::to_string);
    format!(
        "cargo xtask bench scale --products {} --rollouts {} --phases {}{}",
        list(products.collect()),
        list(rollouts.collect()),
        list(phases.collect()),
        if arguments.merge { " --merge" } else { "" },
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: ScaleArguments,
    }

    fn parse(arguments: &[&str]) -> Result<ScaleArguments, clap::Error> {
        let line = Line::try_parse_from([&["scale"], arguments].concat());
        line.map(|line| line.arguments)
    }

    #[test]
    fn the_command_line_repeats_the_measurement() {
        let arguments = parse(&["--products", "serin,flagger", "--rollouts", "20"]).unwrap();
        let line = command_line(&arguments);
        let expected = "cargo xtask bench scale --products serin,flagger --rollouts 20 --phases \
            create,update";
        assert_eq!(line, expected);
        let words: Vec<&str> = line.split(' ').skip(4).collect();
        assert_eq!(parse(&words).unwrap().products, arguments.products);
    }

    #[test]
    fn unknown_products_and_phases_are_refused() {
        let error = parse(&["--products", "argos"]).err().unwrap().to_string();
        assert!(error.contains("argo-raised"), "{error}");
        assert!(parse(&["--phases", "abort"]).is_err());
    }
}
