//! The guardrails, one file each.

mod custom;
mod disruption_budget;
mod image_pinned;
mod image_signature;
mod network_policy;
mod observability;
mod pod_security;
mod policy_reports;
mod priority;
mod probes;
mod resources;
mod secrets_manager;
mod signature_keys;
mod spread;
mod vulnerabilities;

use serin_core::guardrail::GuardrailKind;
use serin_crds::guardrails::Guardrails;

use crate::evaluation::Report;
use crate::facts::Facts;

pub(crate) use custom::{custom, parse_custom_expression};

/// Evaluates one of the guardrails that are not custom.
pub(crate) fn built_in(
    kind: GuardrailKind,
    guardrails: &Guardrails,
    facts: &Facts,
    report: &mut Report,
) {
    /// Evaluates a guardrail with its options, if it has any.
    macro_rules! run {
        ($field:ident) => {
            if let Some(options) = &guardrails.$field {
                $field::check(options, facts, report);
            }
        };
    }
    match kind {
        GuardrailKind::Resources => run!(resources),
        GuardrailKind::ImagePinned => run!(image_pinned),
        GuardrailKind::ImageSignature => run!(image_signature),
        GuardrailKind::Probes => run!(probes),
        GuardrailKind::NetworkPolicy => run!(network_policy),
        GuardrailKind::PodSecurity => run!(pod_security),
        GuardrailKind::SecretsManager => run!(secrets_manager),
        GuardrailKind::Vulnerabilities => run!(vulnerabilities),
        GuardrailKind::PolicyReports => run!(policy_reports),
        GuardrailKind::Observability => run!(observability),
        GuardrailKind::DisruptionBudget => run!(disruption_budget),
        GuardrailKind::Spread => run!(spread),
        GuardrailKind::Priority => run!(priority),
        GuardrailKind::Custom => {}
    }
}

#[cfg(test)]
mod test_facts;
