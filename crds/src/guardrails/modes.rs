//! Which guardrails are on, and which of them a release in progress has.

use serin_core::guardrail::GuardrailKind;

use super::{GuardrailMode, GuardrailOptions, Guardrails};

/// Implements what differs between the guardrails in nothing but the field.
macro_rules! for_each_guardrail {
    ($($field:ident: $kind:ident),+) => {
        impl Guardrails {
            /// The guardrails that a release in progress has: those of its start, and of the current
            /// ones those that apply to releases in progress.
            #[must_use]
            pub fn during_release(&self, at_start: &Self) -> Self {
                let mut effective = at_start.clone();
                $(if self.$field.as_ref().is_some_and(GuardrailOptions::applies_to_ongoing) {
                    effective.$field.clone_from(&self.$field);
                })+
                for custom in self.custom.iter().filter(|custom| custom.applies_to_ongoing()) {
                    effective.custom.retain(|own| own.name != custom.name);
                    effective.custom.push(custom.clone());
                }
                effective
            }

            /// The mode of a guardrail. That of [`GuardrailKind::Custom`] is the strictest of all
            /// custom ones.
            pub fn mode(&self, kind: GuardrailKind) -> GuardrailMode {
                match kind {
                    $(GuardrailKind::$kind => {
                        self.$field.as_ref().map(GuardrailOptions::mode).unwrap_or_default()
                    })+
                    GuardrailKind::Custom => {
                        let modes = self.custom.iter().map(GuardrailOptions::mode);
                        modes.max().unwrap_or_default()
                    }
                }
            }
        }
    };
}

for_each_guardrail! {
    resources: Resources,
    image_pinned: ImagePinned,
    image_signature: ImageSignature,
    probes: Probes,
    network_policy: NetworkPolicy,
    pod_security: PodSecurity,
    secrets_manager: SecretsManager,
    vulnerabilities: Vulnerabilities,
    policy_reports: PolicyReports,
    observability: Observability,
    disruption_budget: DisruptionBudget,
    spread: Spread,
    priority: Priority
}

impl Guardrails {
    /// Whether a guardrail is evaluated.
    pub fn is_on(&self, kind: GuardrailKind) -> bool {
        self.mode(kind) != GuardrailMode::Off
    }

    /// Whether no guardrail is evaluated.
    pub fn is_off(&self) -> bool {
        GuardrailKind::ALL.iter().all(|kind| !self.is_on(*kind))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CustomGuardrail, ResourcesGuardrail};
    use super::*;

    fn resources(mode: GuardrailMode) -> ResourcesGuardrail {
        ResourcesGuardrail {
            mode,
            ..ResourcesGuardrail::default()
        }
    }

    #[test]
    fn the_mode_of_custom_guardrails_is_the_strictest() {
        let custom = |mode| CustomGuardrail {
            mode,
            ..CustomGuardrail::default()
        };
        let guardrails = Guardrails {
            custom: vec![
                custom(GuardrailMode::Warn),
                custom(GuardrailMode::Enforce),
                custom(GuardrailMode::Off),
            ],
            ..Guardrails::default()
        };
        let mode = guardrails.mode(GuardrailKind::Custom);
        assert_eq!(mode, GuardrailMode::Enforce);
        assert!(!guardrails.is_off() && Guardrails::default().is_off());
    }

    #[test]
    fn an_edited_policy_reaches_a_release_in_progress_only_if_it_says_so() {
        let at_start = Guardrails {
            resources: Some(resources(GuardrailMode::Warn)),
            ..Guardrails::default()
        };
        let mut edited = Guardrails {
            resources: Some(resources(GuardrailMode::Enforce)),
            ..Guardrails::default()
        };
        assert_eq!(edited.during_release(&at_start), at_start);
        if let Some(resources) = &mut edited.resources {
            resources.apply_to_ongoing = Some(true);
        }
        assert_eq!(edited.during_release(&at_start), edited);
    }
}
