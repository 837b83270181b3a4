//! Runs the parsed command.

use std::io::{self, BufRead, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use jiff::Timestamp;
use serin_crds::command::CommandVerb;

use crate::cli::{Format, Invocation, RequestsTask, SetTask, StatusArgs, Task};
use crate::command::CommandRequest;
use crate::connect::{Connection, connect};
use crate::display::DisplayContext;
use crate::exit::{CliError, Exit};
use crate::request::execute;
use crate::view::render;
use crate::{
    audit, complete, convert, effective, evaluate, explain, history, lint, list, placebo, replay,
    report, requests, resources, set_image, simulate, undo, verdict, watch,
};

/// Starts the runtime, connects to the API server if necessary, and runs the command.
///
/// # Errors
/// Returns the problem with its exit code.
pub fn start(invocation: &Invocation, color: ColorChoice) -> Result<Exit, CliError> {
    if let Task::Evaluate(args) = &invocation.task {
        let mut out = AutoStream::new(io::stdout(), color);
        evaluate::run(
            args,
            io::stdin().lock(),
            &mut out,
            &mut AutoStream::new(io::stderr(), color),
        )?;
        return Ok(Exit::Done);
    }
    if let Task::Simulate(args) = &invocation.task {
        let mut out = AutoStream::new(io::stdout(), color);
        simulate::simulate(
            args,
            &DisplayContext::from_terminal(),
            &mut out,
            &mut AutoStream::new(io::stderr(), color),
        )?;
        return Ok(Exit::Done);
    }
    if let Task::Completion(args) = &invocation.task {
        io::stdout().write_all(complete::script(args.program).as_bytes())?;
        return Ok(Exit::Done);
    }
    if let Task::Lint(args) = &invocation.task {
        return lint::run(args, &mut AutoStream::new(io::stdout(), color));
    }
    if let Task::Requests {
        task: RequestsTask::Convert(args),
    } = &invocation.task
    {
        let mut out = AutoStream::new(io::stdout(), color);
        let mut aside = AutoStream::new(io::stderr(), color);
        requests::convert(args, io::stdin().lock(), &mut out, &mut aside)?;
        return Ok(Exit::Done);
    }
    // rustls panics at run time if no TLS provider or more than one is installed.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        return Err(CliError::new(
            Exit::Usage,
            "cannot start: a TLS provider is already installed",
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::new(Exit::Usage, format!("cannot start: {error}")))?;
    runtime.block_on(start_async(invocation, color))
}

/// The same for commands that read from the network.
async fn start_async(invocation: &Invocation, color: ColorChoice) -> Result<Exit, CliError> {
    let connect_if = async |is_needed: bool| {
        if is_needed {
            connect(&invocation.options).await.map(Some)
        } else {
            Ok(None)
        }
    };
    let namespace = invocation.options.namespace.as_deref();
    match &invocation.task {
        Task::Convert(args) => {
            let connection = connect_if(!args.from_cluster.is_empty()).await?;
            let mut out = AutoStream::new(io::stdout(), color);
            let mut aside = AutoStream::new(io::stderr(), color);
            return convert::run(args, connection.as_ref(), &mut out, &mut aside).await;
        }
        Task::Audit(args) => {
            let connection = connect_if(args.files.is_empty()).await?;
            let mut out = AutoStream::new(io::stdout(), color);
            return audit::audit(connection.as_ref(), args, Timestamp::now(), &mut out).await;
        }
        Task::Effective(args) => {
            let connection = connect_if(args.files.is_empty()).await?;
            let mut out = AutoStream::new(io::stdout(), color);
            return effective::effective(connection.as_ref(), args, &mut out).await;
        }
        Task::Complete(args) => {
            complete::complete(&args.words, &mut io::stdout()).await?;
            return Ok(Exit::Done);
        }
        Task::Replay(args) => {
            let connection = connect_if(args.file.is_none()).await?;
            let mut out = AutoStream::new(io::stdout(), color);
            let mut aside = AutoStream::new(io::stderr(), color);
            let display = DisplayContext::from_terminal();
            let connection = connection.as_ref();
            replay::run(args, namespace, connection, &display, &mut out, &mut aside).await?;
            return Ok(Exit::Done);
        }
        Task::Placebo(args) => {
            let connection = connect_if(args.name.is_some()).await?;
            let mut out = AutoStream::new(io::stdout(), color);
            let mut aside = AutoStream::new(io::stderr(), color);
            let display = DisplayContext::from_terminal();
            let connection = connection.as_ref();
            placebo::run(args, namespace, connection, &display, &mut out, &mut aside).await?;
            return Ok(Exit::Done);
        }
        _ => {}
    }
    let connection = connect(&invocation.options).await?;
    if let Task::Status(args) = &invocation.task
        && args.watch
    {
        return watch::watch(&connection, args, color).await;
    }
    let mut out = AutoStream::new(io::stdout(), color);
    run(
        &connection,
        &invocation.task,
        &confirm_on_terminal,
        &mut out,
    )
    .await
}

/// Runs a command that ends by itself and writes its output.
///
/// # Errors
/// Returns the problem with its exit code.
pub async fn run(
    connection: &Connection,
    task: &Task,
    confirm: crate::request::Confirm<'_>,
    out: &mut (dyn Write + Send),
) -> Result<Exit, CliError> {
    match command_request(task) {
        Some(request) => execute(connection, &request, confirm, out).await?,
        None => match task {
            Task::List(args) => list::list(connection, args, Timestamp::now(), out).await?,
            Task::Status(args) => status(connection, args, out).await?,
            Task::Verdict(args) => {
                let exit = verdict::verdict(connection, args, out).await?;
                out.flush()?;
                return Ok(exit);
            }
            Task::Explain(args) => {
                explain::explain(connection, args, &DisplayContext::from_terminal(), out).await?;
            }
            Task::History(args) => {
                history::history(connection, args, Timestamp::now(), out).await?;
            }
            Task::Undo(args) => undo::undo(connection, args, out).await?,
            Task::Set {
                task: SetTask::Image(args),
            } => set_image::set_image(connection, args, out).await?,
            _ => {}
        },
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// The command request of a task, `None` if the task only reads.
fn command_request(task: &Task) -> Option<CommandRequest> {
    match task {
        Task::Status(_)
        | Task::Verdict(_)
        | Task::List(_)
        | Task::Explain(_)
        | Task::Simulate(_)
        | Task::Replay(_)
        | Task::Placebo(_)
        | Task::Evaluate(_)
        | Task::Convert(_)
        | Task::Effective(_)
        | Task::Lint(_)
        | Task::Audit(_)
        | Task::History(_)
        | Task::Undo(_)
        | Task::Set { .. }
        | Task::Completion(_)
        | Task::Complete(_)
        | Task::Requests { .. } => None,
        Task::Promote(args) => Some(args.command_request()),
        Task::Abort(args) => Some(args.command_request(CommandVerb::Abort)),
        Task::Retry(args) => Some(args.command_request(CommandVerb::Retry)),
        Task::Pause(args) => Some(args.command_request(CommandVerb::Pause)),
        Task::Resume(args) => Some(args.command_request(CommandVerb::Resume)),
        Task::SkipStep(args) => Some(args.command_request(CommandVerb::SkipStep)),
        Task::Override(args) => Some(args.command_request()),
        Task::GiveBack(args) => Some(args.command_request(CommandVerb::GiveBack)),
        Task::Restart(args) => Some(args.command_request(CommandVerb::Restart)),
    }
}

async fn status(
    connection: &Connection,
    args: &StatusArgs,
    out: &mut (dyn Write + Send),
) -> Result<(), CliError> {
    let resources = resources::read_resources(connection, &args.name).await?;
    let display = DisplayContext::from_terminal();
    let report = report::report(&resources, display.now);
    let text = match args.output {
        None => render(&report, &display),
        Some(Format::Json) => {
            serde_json::to_string_pretty(&report).map_err(|error| print_error(&error))? + "\n"
        }
        Some(Format::Yaml) => {
            serde_saphyr::to_string(&report).map_err(|error| print_error(&error))?
        }
    };
    out.write_all(text.as_bytes())?;
    Ok(())
}

fn print_error(error: &dyn std::error::Error) -> CliError {
    CliError::new(Exit::Usage, format!("cannot print the report: {error}"))
}

/// Asks for confirmation. `None` if stdin or stderr is not a terminal.
fn confirm_on_terminal(prompt: &str) -> Option<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return None;
    }
    let mut answer = String::new();
    let mut terminal = io::stderr().lock();
    write!(terminal, "{prompt} [y/N] ")
        .and_then(|()| terminal.flush())
        .ok()?;
    io::stdin().lock().read_line(&mut answer).ok()?;
    Some(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
