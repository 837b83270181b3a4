//! Guardrails: what a release must meet before it gets traffic, and what was found.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::hold::HoldCode;
use crate::text::{Message, Name};
use crate::units::Revision;

/// Declares [`GuardrailKind`]: one row per guardrail with its name in the API and what it means that
/// a release does not meet it.
macro_rules! guardrail_kinds {
    ($($kind:ident, $name:literal, $meaning:literal;)+) => {
        /// A guardrail of a RolloutPolicy.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub enum GuardrailKind {
            $(#[doc = $meaning] #[serde(rename = $name)] $kind,)+
        }

        impl GuardrailKind {
            /// All guardrails, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// The name of the field in a RolloutPolicy.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $name),+ }
            }

            /// What the guardrail checks.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$kind => $meaning),+ }
            }
        }
    };
}

guardrail_kinds! {
    Resources, "resources", "Every container has resource requests and limits.";
    ImagePinned, "imagePinned", "Every image has a digest or a version tag.";
    ImageSignature, "imageSignature", "Every image is signed.";
    Probes, "probes", "Every serving container has a readiness probe.";
    NetworkPolicy, "networkPolicy", "A network policy selects the pods.";
    PodSecurity, "podSecurity", "The namespace enforces a Pod Security Standard.";
    SecretsManager, "secretsManager", "Secrets come from a secrets manager.";
    Vulnerabilities, "vulnerabilities", "The images have no more known vulnerabilities than allowed.";
    PolicyReports, "policyReports", "No policy report has a violation.";
    Observability, "observability", "The metrics of the workload are scraped.";
    DisruptionBudget, "disruptionBudget", "A PodDisruptionBudget selects the pods.";
    Spread, "spread", "The replicas are spread over nodes.";
    Priority, "priority", "The pods have a priority class.";
    Custom, "custom", "A CEL expression of the platform is true.";
}

impl fmt::Display for GuardrailKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a finding does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FindingMode {
    /// It is reported.
    Warn,
    /// It holds the release.
    Enforce,
}

/// One way in which a release does not meet a guardrail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The guardrail.
    pub guardrail: GuardrailKind,
    /// Name of a custom guardrail. Unset for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// What the finding does.
    pub mode: FindingMode,
    /// What was found: the code of the hold.
    pub code: HoldCode,
    /// The object and the part of it that has the problem, for example `container app`.
    pub object: Name,
    /// The problem, in a sentence without its end.
    pub problem: Message,
    /// How to correct it, in a sentence without its end.
    pub fix: Message,
    /// When the exception ends because of which the finding is only reported. Unset if there is no
    /// exception.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

impl Finding {
    /// Whether it holds a release.
    pub fn is_holding(&self) -> bool {
        self.mode == FindingMode::Enforce && self.expires.is_none()
    }

    /// The name of the guardrail as in an exception: that of its field, or `custom/NAME`.
    pub fn guardrail_name(&self) -> String {
        match &self.name {
            Some(name) => format!("{}/{name}", self.guardrail),
            None => self.guardrail.as_str().to_owned(),
        }
    }
}

/// `OBJECT: PROBLEM. FIX`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}. {}", self.object, self.problem, self.fix)
    }
}

/// What the guardrails found about a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardrailReport {
    /// The revision. `None` if no guardrail is on.
    pub revision: Option<Revision>,
    /// What was found, in the order of the guardrails.
    pub findings: Vec<Finding>,
    /// When the findings change although nothing else does, for example because an exception ends.
    pub next_change: Option<Timestamp>,
    /// Whether the revision was evaluated now. If not, nothing is to be released, and what was found
    /// last stays in the status.
    pub is_current: bool,
}

impl GuardrailReport {
    /// The findings that hold a release.
    pub fn holding(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.is_holding())
    }

    /// The findings that are only reported.
    pub fn reported(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| !finding.is_holding())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guardrail_has_the_name_of_its_field() {
        for kind in GuardrailKind::ALL {
            let json = serde_json::to_value(kind).unwrap();
            assert_eq!(json, kind.as_str());
            assert!(kind.meaning().ends_with('.'), "{kind}");
        }
    }
}
