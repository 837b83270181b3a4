//! From the arguments to the task.

use std::io::{self, BufRead, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use jiff::Timestamp;
use serin_crds::command::CommandVerb;

use crate::cli::{Format, Invocation, StatusArgs, Task};
use crate::connect::{Connection, connect};
use crate::exit::{Exit, Failure};
use crate::look::Look;
use crate::request::carry_out;
use crate::view::render;
use crate::wish::Wish;
use crate::{evaluate, explain, list, picture, replay, report, simulate, watch};

/// Starts the runtime, connects and runs the task.
///
/// # Errors
/// What went wrong, with its exit code.
pub fn start(invocation: &Invocation, colour: ColorChoice) -> Result<Exit, Failure> {
    if let Task::Evaluate(args) = &invocation.task {
        let mut out = AutoStream::new(io::stdout(), colour);
        evaluate::run(
            args,
            io::stdin().lock(),
            &mut out,
            &mut AutoStream::new(io::stderr(), colour),
        )?;
        return Ok(Exit::Done);
    }
    if let Task::Simulate(args) = &invocation.task {
        let mut out = AutoStream::new(io::stdout(), colour);
        simulate::simulate(
            args,
            &Look::now(),
            &mut out,
            &mut AutoStream::new(io::stderr(), colour),
        )?;
        return Ok(Exit::Done);
    }
    // Two TLS providers in one program panic at run time, and none does too: ours is the one.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        return Err(Failure::new(
            Exit::Usage,
            "a TLS provider was installed before ours",
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Usage, format!("cannot start: {error}")))?;
    runtime.block_on(async {
        if let Task::Replay(args) = &invocation.task {
            let mut out = AutoStream::new(io::stdout(), colour);
            let connection = if args.file.is_some() {
                None
            } else {
                Some(connect(&invocation.options).await?)
            };
            let namespace = invocation.options.namespace.as_deref();
            replay::run(args, namespace, connection.as_ref(), &Look::now(), &mut out).await?;
            return Ok(Exit::Done);
        }
        let connection = connect(&invocation.options).await?;
        if let Task::Status(args) = &invocation.task
            && args.watch
        {
            return watch::watch(&connection, args, colour).await;
        }
        let mut out = AutoStream::new(io::stdout(), colour);
        run(&connection, &invocation.task, &ask_on_terminal, &mut out).await
    })
}

/// Runs a task that ends by itself and writes what it has to say.
///
/// # Errors
/// What went wrong, with its exit code.
pub async fn run(
    connection: &Connection,
    task: &Task,
    confirm: crate::request::Confirm<'_>,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    match wish(task) {
        Some(wish) => carry_out(connection, &wish, confirm, out).await?,
        None => match task {
            Task::List(args) => list::list(connection, args, Timestamp::now(), out).await?,
            Task::Status(args) => status(connection, args, out).await?,
            Task::Explain(args) => explain::explain(connection, args, &Look::now(), out).await?,
            _ => {}
        },
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// The request that a task makes, if it is one.
fn wish(task: &Task) -> Option<Wish> {
    match task {
        Task::Status(_)
        | Task::List(_)
        | Task::Explain(_)
        | Task::Simulate(_)
        | Task::Replay(_)
        | Task::Evaluate(_) => None,
        Task::Promote(args) => Some(args.wish()),
        Task::Abort(args) => Some(args.wish(CommandVerb::Abort)),
        Task::Retry(args) => Some(args.wish(CommandVerb::Retry)),
        Task::Pause(args) => Some(args.wish(CommandVerb::Pause)),
        Task::Resume(args) => Some(args.wish(CommandVerb::Resume)),
        Task::SkipStep(args) => Some(args.wish(CommandVerb::SkipStep)),
        Task::Override(args) => Some(args.wish(CommandVerb::Override)),
    }
}

async fn status(
    connection: &Connection,
    args: &StatusArgs,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let picture = picture::read(connection, &args.name).await?;
    let look = Look::now();
    let report = report::report(&picture, look.now);
    let text = match args.output {
        None => render(&report, &look),
        Some(Format::Json) => {
            serde_json::to_string_pretty(&report).map_err(|error| unprintable(&error))? + "\n"
        }
        Some(Format::Yaml) => {
            serde_saphyr::to_string(&report).map_err(|error| unprintable(&error))?
        }
    };
    out.write_all(text.as_bytes())?;
    Ok(())
}

fn unprintable(error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Usage, format!("cannot print the report: {error}"))
}

/// Asks back where a person sits at the terminal.
fn ask_on_terminal(question: &str) -> Option<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return None;
    }
    let mut answer = String::new();
    let mut terminal = io::stderr().lock();
    write!(terminal, "{question} [y/N] ")
        .and_then(|()| terminal.flush())
        .ok()?;
    io::stdin().lock().read_line(&mut answer).ok()?;
    Some(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
