//! The kubectl plugin of Serin: see what a release does and why, and ask for what people decide.
//!
//! One program by three names: `kubectl-serin`, and `kubectl-promote` and `kubectl-abort`, so that
//! `kubectl promote NAME` and `kubectl abort NAME` work. It reads objects and creates
//! RolloutCommands, nothing else: what happens is decided by the controller, who may ask for it by
//! the API server.
//!
//! What is shown is made in two pure steps: [`report::report`] turns the objects that were read
//! into a [`report::Report`], [`view::render`] turns that into text.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

pub mod chart;
pub mod cli;
pub mod connect;
pub mod evaluate;
pub mod exit;
pub mod explain;
pub mod facts;
mod json_line;
pub mod list;
pub mod look;
pub mod manifest;
pub mod options;
pub(crate) mod page;
pub mod paint;
pub mod picture;
pub mod replay;
pub mod report;
pub mod request;
pub mod simulate;
mod values;
pub mod view;
pub mod watch;
pub mod wish;

mod dispatch;

pub use dispatch::run;

/// Runs the program: the name that it was started by and its arguments say what for.
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
        Err(usage) => return exit::after_usage(&usage),
    };
    let colour = if invocation.options.no_color {
        anstream::ColorChoice::Never
    } else {
        anstream::ColorChoice::Auto
    };
    match dispatch::start(&invocation, colour) {
        Ok(exit) => exit.into(),
        Err(failure) => exit::told(&failure, colour).into(),
    }
}
