//! The tasks that follow the services of an analysis: their error budgets and, without a release,
//! placebo releases.

use serin_metrics_analysis::counter_selectors::AnalysisError;
use serin_metrics_analysis::idle_placebo::{DatedPlacebo, IdlePlacebo};
use serin_metrics_analysis::objective_analysis::ObjectivePlan;
use serin_metrics_analysis::service_slo::{self, Cadence, ServiceSlo, SloQueries};
use serin_metrics_analysis::settings::{Settings, slo_window};
use serin_metrics_analysis::{AnalysisRequest, ReleasePhase};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::AnalysisDeps;

/// Follows the service of each objective until it is dropped.
#[derive(Debug)]
pub(super) struct ServiceFollowers {
    /// The service data of each objective, in the order of the spec.
    pub services: Vec<watch::Receiver<ServiceSlo>>,
    _tasks: JoinSet<()>,
}

impl ServiceFollowers {
    /// Starts with the data in `known` and in the request.
    pub(super) fn start(
        deps: &AnalysisDeps,
        request: &watch::Receiver<AnalysisRequest>,
        settings: &Settings,
        plans: &[ObjectivePlan],
        known: &[watch::Receiver<ServiceSlo>],
    ) -> Result<Self, AnalysisError> {
        let mut tasks = JoinSet::new();
        let mut services = Vec::with_capacity(plans.len());
        let is_idle = request.borrow().phase == ReleasePhase::Idle;
        let cadence = if is_idle {
            Cadence::IDLE
        } else {
            Cadence::RELEASE
        };
        for (index, plan) in plans.iter().enumerate() {
            let queries = SloQueries::new(&plan.counters, slo_window(&plan.spec)?);
            let current = known.get(index).map(|service| service.borrow().clone());
            let service = current
                .unwrap_or_else(|| stored_service(&request.borrow(), settings, &plan.spec.name));
            let (sender, receiver) = watch::channel(service);
            if is_idle {
                let placebo = IdlePlacebo {
                    poller: deps.poller.clone(),
                    settings: settings.clone(),
                    request: request.clone(),
                    index,
                };
                let clock = deps.clock.clone();
                tasks.spawn(placebo.keep_current(sender.clone(), move || clock.now()));
            }
            tasks.spawn(service_slo::keep_current(
                deps.poller.clone(),
                settings.server.clone(),
                queries,
                cadence,
                sender,
            ));
            services.push(receiver);
        }
        Ok(Self {
            services,
            _tasks: tasks,
        })
    }
}

/// What the status contains about the service of an objective.
fn stored_service(request: &AnalysisRequest, settings: &Settings, objective: &str) -> ServiceSlo {
    let objectives = &request.analysis.objectives;
    let spec = objectives.iter().find(|spec| spec.name == objective);
    let placebo = spec.and_then(|spec| {
        let status = request.placebos.get(objective)?;
        DatedPlacebo::from_status(status, spec, settings)
    });
    ServiceSlo::with_placebo(placebo)
}
