//! Requests and Jobs of checks: what is to be done now, and what came of it.
//!
//! The name of a Job follows from the attempt, the position and the number of failures. All of them
//! are in the status, so that a restarted controller finds the Job that it has created.

use std::time::Duration;

use serin_crds::analysis::CheckPhase;

use super::{Check, CheckContext, CheckSource, HttpRequest, JobTemplate};
use crate::checkpoint::previous_ended_second;
use crate::counter_selectors::AnalysisError;
use crate::fingerprint::fingerprint;
use crate::request::AnalysisRequest;

/// Maximum number of characters of the Rollout's and of the check's name in the name of a Job, which
/// has at most 63.
const ROLLOUT_CHARS: usize = 24;
const CHECK_CHARS: usize = 20;

/// A request or a Job of a check.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// A request that is repeated.
    Http {
        /// The request.
        request: HttpRequest,
        /// Time between two requests.
        interval: Duration,
    },
    /// A Job that runs once.
    Job(Box<JobRun>),
}

/// A Job that runs once.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRun {
    /// Name of the Job.
    pub name: String,
    /// Name of the check.
    pub check: String,
    /// The Job.
    pub template: JobTemplate,
}

/// What came of a request or a Job.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeOutcome {
    /// The endpoint responded.
    Response {
        /// Status code.
        status: u16,
        /// The body.
        body: String,
    },
    /// The endpoint could not be reached or did not respond in time, for this reason.
    Unreachable(String),
    /// The request or the Job is not possible until somebody changes something.
    Refused(AnalysisError),
    /// The Job is running. A message for operators.
    JobRunning(String),
    /// The Job has succeeded. A message for operators.
    JobSucceeded(String),
    /// The Job has failed. A message for operators.
    JobFailed(String),
}

/// The attempt to release a revision, which is a part of the names of Jobs.
#[derive(Clone, Debug)]
pub(super) struct JobOwner {
    rollout: String,
    attempt: String,
}

impl JobOwner {
    pub(super) fn new(request: &AnalysisRequest) -> Self {
        let second = previous_ended_second(request.previous_ended_at);
        Self {
            rollout: request.rollout.name.clone(),
            attempt: format!("{}|{}|{second}", request.uid, request.revision),
        }
    }
}

impl Check {
    /// What is to be requested or run now. `None` for queries, and if nothing is due.
    pub(super) fn probe(&self, owner: &JobOwner, at: &CheckContext) -> Option<Probe> {
        if !self.is_active(at) {
            return None;
        }
        match &self.source {
            CheckSource::Query(_) => None,
            CheckSource::Http(request) => Some(Probe::Http {
                request: request.clone(),
                interval: self.interval,
            }),
            CheckSource::Job(template) => {
                let has_ended = self.has_succeeded(at) || self.state.failures > self.failure_limit;
                (!has_ended).then(|| {
                    Probe::Job(Box::new(JobRun {
                        name: self.job_name(owner, at),
                        check: self.name.clone(),
                        template: template.clone(),
                    }))
                })
            }
        }
    }

    fn job_name(&self, owner: &JobOwner, at: &CheckContext) -> String {
        let position = match self.phase {
            CheckPhase::Step | CheckPhase::BeforeTraffic => {
                let since_ms = at.awaited_since_ms(&self.name).unwrap_or_default();
                since_ms.div_euclid(1_000).to_string()
            }
            phase => format!("{phase:?}"),
        };
        let (attempt, identity) = (&owner.attempt, &self.state.fingerprint);
        let failures = self.state.failures;
        let run = fingerprint(&format!("{attempt}|{identity}|{position}|{failures}"));
        let rollout = dns_part(&owner.rollout, ROLLOUT_CHARS);
        format!("{rollout}-{}-{run}", dns_part(&self.name, CHECK_CHARS))
    }
}

/// The start of a name, as a part of a DNS label. Never empty.
fn dns_part(name: &str, max_chars: usize) -> String {
    let lower = name.chars().take(max_chars).map(|c| c.to_ascii_lowercase());
    let part: String = lower
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let part = part.trim_matches('-');
    if part.is_empty() {
        "check".to_owned()
    } else {
        part.to_owned()
    }
}
