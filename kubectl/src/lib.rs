//! The kubectl plugin of Serin: inspects releases and sends commands to the controller.
//!
//! One program with three names: `kubectl-serin`, `kubectl-promote` and `kubectl-abort`. The last
//! two provide `kubectl promote NAME` and `kubectl abort NAME`. The plugin reads objects,
//! creates RolloutCommands, and changes pod templates (`undo`, `set image`), nothing else. The
//! controller executes the commands; the API server decides who may create them.
//!
//! Output is produced in two pure steps: [`report::report`] turns the objects into a
//! [`report::Report`], and [`view::render`] turns that into text.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

pub mod audit;
pub mod chart;
pub mod cli;
mod cluster_objects;
pub mod command;
pub mod complete;
pub mod connect;
pub mod convert;
pub mod display;
mod display_text;
pub mod documents;
pub mod effective;
pub mod evaluate;
pub mod exit;
pub mod explain;
pub mod history;
mod json_line;
mod line_diff;
pub mod lint;
pub mod list;
pub mod manifest;
mod namespace_labels;
pub mod options;
pub(crate) mod page;
pub mod placebo;
pub mod replay;
pub mod report;
pub mod request;
pub mod requests;
pub mod resources;
pub mod revisions;
pub mod rollout_summary;
pub mod set_image;
pub mod simulate;
pub mod status_value;
pub mod style;
mod template_owner;
pub mod traffic_share;
pub mod undo;
mod values;
pub mod verdict;
pub mod view;
pub mod watch;

mod dispatch;

pub use dispatch::run;

/// Entry point of all three programs. The name of the executable selects the command line.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let name = arguments.first().map_or_else(String::new, |first| {
        Path::new(first)
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    });
    let invocation = match cli::parse(&name, arguments) {
        Ok(invocation) => invocation,
        Err(usage) => return exit::report_usage(&usage),
    };
    let color = if invocation.options.no_color {
        anstream::ColorChoice::Never
    } else {
        anstream::ColorChoice::Auto
    };
    match dispatch::start(&invocation, color) {
        Ok(exit) => exit.into(),
        Err(failure) => exit::report_error(&failure, color).into(),
    }
}
