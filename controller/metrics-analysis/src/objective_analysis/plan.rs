//! An objective before its evidence begins.

use serin_crds::analysis::ObjectiveSpec;

use crate::counter_selectors::{AnalysisError, CounterSelectors};
use crate::fingerprint::fingerprint;
use crate::request::AnalysisRequest;
use crate::service_slo::ServiceSlo;
use crate::settings::Settings;

/// An objective before its evidence begins.
#[derive(Clone, Debug)]
pub struct ObjectivePlan {
    /// The objective as written in the spec.
    pub spec: ObjectiveSpec,
    /// Selectors of the series.
    pub counters: CounterSelectors,
    /// Error budget and burn rate of the service, across all versions.
    pub service: ServiceSlo,
}

impl ObjectivePlan {
    /// Reads and validates all objectives of a request.
    ///
    /// # Errors
    /// The first invalid field.
    pub fn from_request(request: &AnalysisRequest) -> Result<Vec<Self>, AnalysisError> {
        let prepare = |spec: &ObjectiveSpec| {
            if !(spec.objective > 0.0 && spec.objective < 100.0) {
                let message = format!(
                    "spec.analysis.objectives[{}].objective {} must be above 0 and below 100",
                    spec.name, spec.objective
                );
                return Err(AnalysisError::invalid_spec(message));
            }
            Ok(Self {
                spec: spec.clone(),
                counters: CounterSelectors::new(spec, request)?,
                service: ServiceSlo::default(),
            })
        };
        request.analysis.objectives.iter().map(prepare).collect()
    }
}

/// Identifies the parameters on which the evidence depends. Evidence with another fingerprint is
/// not continued.
pub(super) fn evidence_fingerprint(settings: &Settings, plan: &ObjectivePlan) -> String {
    let ObjectivePlan { spec, counters, .. } = plan;
    let endpoints = spec
        .endpoint_label
        .as_ref()
        .map_or_else(String::new, |label| format!("|{label}"));
    let baseline = if settings.has_baseline {
        "|baseline"
    } else {
        ""
    };
    let calibration = spec.calibration.map_or_else(String::new, |calibration| {
        format!("|calibration {}", calibration.temper)
    });
    let parameters = format!(
        "{}|{}|{}|{}|{}{endpoints}{baseline}{calibration}",
        spec.objective,
        settings.analysis.alpha,
        settings.max_duration.as_secs(),
        counters.total_of_sides,
        counters.errors_of_sides,
    );
    fingerprint(&parameters)
}
