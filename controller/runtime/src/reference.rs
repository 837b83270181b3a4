//! The conditions and Events of a Rollout with their reasons, for the reference. A test compares the
//! tables with the source code.

/// A reason of a condition or an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReasonReference {
    /// A CamelCase word. For a group of reasons, what they are, in words.
    pub reason: &'static str,
    /// The status of the condition or the type of the Event: True, False, Unknown; Normal, Warning.
    pub value: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

/// A condition of a Rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConditionReference {
    /// The type.
    pub name: &'static str,
    /// What it means if it is True.
    pub meaning: &'static str,
    /// All reasons.
    pub reasons: &'static [ReasonReference],
}

const fn row(reason: &'static str, value: &'static str, meaning: &'static str) -> ReasonReference {
    ReasonReference {
        reason,
        value,
        meaning,
    }
}

/// The reasons of conditions that describe whether somebody must act on the Rollout itself.
const INCOMPATIBLE: ReasonReference = row(
    "IncompatibleStatus",
    "False",
    "Another version of the controller wrote the status. Only an abort works.",
);
const QUARANTINED: ReasonReference = row(
    "Quarantined",
    "False",
    "An internal error. The Rollout is not reconciled for a while; its traffic stays.",
);

/// All conditions, in the order of the status.
pub const CONDITIONS: &[ConditionReference] = &[
    ConditionReference {
        name: "Available",
        meaning: "Enough pods of all revisions are available, up to `maxUnavailable`.",
        reasons: &[
            row(
                "MinimumReplicasAvailable",
                "True",
                "Enough pods are available.",
            ),
            row(
                "MinimumReplicasUnavailable",
                "False",
                "Too few pods are available.",
            ),
        ],
    },
    ConditionReference {
        name: "Progressing",
        meaning: "A release or the first deployment is in progress and not paused.",
        reasons: &[
            row(
                "a stage",
                "True",
                "`FirstDeploy`, `Progressing` or `Promoting`.",
            ),
            row("Paused", "False", "The release is paused."),
            row("Completed", "False", "The current revision is stable."),
            row("an abort cause", "False", "The release was aborted."),
            row(
                "Aborted",
                "False",
                "The release was aborted, and no cause is recorded.",
            ),
        ],
    },
    ConditionReference {
        name: "Paused",
        meaning: "The release waits for a time or a person.",
        reasons: &[
            row(
                "a pause reason",
                "True",
                "`Step`, `Command` or `Inconclusive`.",
            ),
            row("Spec", "True", "`spec.paused` is true."),
            row("NotPaused", "False", "The release is not paused."),
        ],
    },
    ConditionReference {
        name: "Completed",
        meaning: "The current revision is the stable one.",
        reasons: &[
            row("Stable", "True", "The current revision is stable."),
            row(
                "NotStable",
                "False",
                "A release is in progress or was aborted.",
            ),
        ],
    },
    ConditionReference {
        name: "Healthy",
        meaning: "The current revision is stable and complete.",
        reasons: &[row(
            "a phase",
            "True",
            "`Healthy` if True, otherwise the phase.",
        )],
    },
    ConditionReference {
        name: "RouteReady",
        meaning: "The router has applied the routes. Missing without a router.",
        reasons: &[
            row(
                "Programmed",
                "True",
                "Every parent has applied the current generation.",
            ),
            row(
                "RouteUnusable",
                "False",
                "A route is missing, or Serin cannot use it.",
            ),
            row(
                "NotProgrammed",
                "False",
                "A parent has not applied the route yet.",
            ),
            row(
                "Unverified",
                "Unknown",
                "The router does not report what it has applied.",
            ),
        ],
    },
    ConditionReference {
        name: "MetricsReady",
        meaning: "The metrics of the release are available and fresh. Missing without an analysis.",
        reasons: &[
            row(
                "Fresh",
                "True",
                "The metrics are fresh. The message may have a note.",
            ),
            row("a hold code of metrics", "False", "What is missing."),
            row("NothingToAnalyze", "Unknown", "No release is analyzed."),
        ],
    },
    ConditionReference {
        name: "Frozen",
        meaning: "The error budget stops the release. Missing without an analysis.",
        reasons: &[
            row(
                "a hold code of the budget",
                "True",
                "`BudgetSpent` or `ServiceBurning`.",
            ),
            row(
                "Overridden",
                "False",
                "Somebody lifted the freeze for this release.",
            ),
            row(
                "NotFrozen",
                "False",
                "The error budget does not stop the release.",
            ),
        ],
    },
    ConditionReference {
        name: "Feasible",
        meaning: "The traffic suffices to analyze a release in time, and the rule would not have rolled back stable's own pods. Missing before it is known.",
        reasons: &[
            row("Feasible", "True", "Nothing speaks against it."),
            row(
                "NotFeasible",
                "False",
                "The traffic is too low for an objective, or stable's own pods would have been rolled back in the last day more often than the bound allows.",
            ),
        ],
    },
    ConditionReference {
        name: "RoutedPerRequest",
        meaning: "Whether each request is assigned to a side. Missing if so, or without an analysis.",
        reasons: &[
            row(
                "ByClient",
                "False",
                "A Service or a route keeps clients on one side.",
            ),
            row(
                "ByConnection",
                "False",
                "Without a router, connections stay on one side.",
            ),
            row(
                "ByMatch",
                "False",
                "A step sends chosen requests to the canary, or copies them, while the sides are compared.",
            ),
        ],
    },
    ConditionReference {
        name: "GuardrailsPassed",
        meaning: "The revision of the spec meets every guardrail. Missing if no guardrail is on.",
        reasons: &[
            row("Passed", "True", "Every guardrail is met."),
            row(
                "Warnings",
                "True",
                "Some are not met and only reported: their mode is Warn, or an exception applies.",
            ),
            row(
                "a guardrail code",
                "False",
                "The [hold](holds.md) of the first guardrail that holds the release. Unknown while \
                 it waits.",
            ),
        ],
    },
    ConditionReference {
        name: "InvalidSpec",
        meaning: "The spec has a field that Serin cannot use. The last valid spec stays in effect.",
        reasons: &[
            row("InvalidSpec", "True", "The message names the field."),
            row("Valid", "False", "The spec is valid."),
        ],
    },
    ConditionReference {
        name: "Ready",
        meaning: "The current revision is stable and complete (kstatus).",
        reasons: &[
            row("a phase", "True", "`Healthy` if True, otherwise the phase."),
            row(
                "InvalidSpec",
                "False",
                "The spec is invalid, and nothing is deployed yet.",
            ),
            INCOMPATIBLE,
            QUARANTINED,
        ],
    },
    ConditionReference {
        name: "Reconciling",
        meaning: "The controller is working on the Rollout (kstatus).",
        reasons: &[
            row(
                "a stage",
                "True",
                "The stage. If False: `Aborted` or `Stable`.",
            ),
            row(
                "EffectFailing",
                "True",
                "A change of an object fails repeatedly.",
            ),
            row(
                "InvalidSpec",
                "False",
                "The spec is invalid, and nothing is deployed yet.",
            ),
        ],
    },
    ConditionReference {
        name: "Stalled",
        meaning: "Nothing will change until somebody acts (kstatus).",
        reasons: &[
            row(
                "InvalidSpec",
                "True",
                "The spec has a field that Serin cannot use.",
            ),
            row("an abort cause", "True", "The release was aborted."),
            row("Degraded", "True", "See the message of the status."),
            row("IncompatibleStatus", "True", INCOMPATIBLE.meaning),
            row("Quarantined", "True", QUARANTINED.meaning),
            row("NotStalled", "False", "Nobody needs to act."),
        ],
    },
];

/// All Events, sorted by reason, except those of holds: pods that cannot run, Services or routes that
/// cannot be written, and guardrails that are not met have an Event with the code of the hold.
pub const EVENTS: &[ReasonReference] = &[
    row(
        "AnalysisAdopted",
        "Warning",
        "Somebody applied the edited analysis to the release in progress.",
    ),
    row(
        "AnalysisEdited",
        "Warning",
        "The analysis was edited during a release. The edit counts from the next release.",
    ),
    row(
        "AssumptionBroken",
        "Warning",
        "Errors cluster far more than before the release: no bound on false rollbacks is claimed.",
    ),
    row(
        "Baking",
        "Normal",
        "The canary has all of the traffic and is observed.",
    ),
    row(
        "FirstDeploy",
        "Normal",
        "The first revision is being deployed, without steps.",
    ),
    row(
        "FirstDeployed",
        "Normal",
        "The first revision is available and stable.",
    ),
    row(
        "FreezeLifted",
        "Warning",
        "Somebody lifted the freeze for a release.",
    ),
    row(
        "GateApproved",
        "Normal",
        "Somebody approved the gate of a step.",
    ),
    row(
        "GiveBackStarted",
        "Normal",
        "A command gives the pods back to their Deployment.",
    ),
    row(
        "GuardrailWarning",
        "Warning",
        "A release starts that does not meet a guardrail whose mode is Warn, or that has an exception.",
    ),
    row("IncompatibleStatus", "Warning", INCOMPATIBLE.meaning),
    row(
        "Inconclusive",
        "Warning",
        "The analysis reached its maximum duration.",
    ),
    row(
        "InvalidSpec",
        "Warning",
        "The spec is invalid, and nothing is deployed yet.",
    ),
    row(
        "NotFeasible",
        "Warning",
        "The traffic is too low to analyze a release in time, or placebo releases refute the bound on false rollbacks.",
    ),
    row(
        "ObservedReleaseEnded",
        "Normal",
        "With `mode: Observe`: the release of the other controller is over.",
    ),
    row(
        "ObservedReleaseStarted",
        "Normal",
        "With `mode: Observe`: the other controller releases a revision.",
    ),
    row(
        "OrphansAdopted",
        "Normal",
        "A new Rollout found pods that serve already: their revision is stable.",
    ),
    row(
        "ProgressDeadlineExceeded",
        "Warning",
        "The release has made no progress in time. It is not aborted, as `progressDeadlineAbort` says.",
    ),
    row("Promoted", "Normal", "The revision is stable now."),
    row(
        "PromotedWithoutTraffic",
        "Warning",
        "`spec.replicas` is 0: nothing was analyzed.",
    ),
    row(
        "PromotingFull",
        "Normal",
        "A command skipped the remaining steps.",
    ),
    row("Quarantined", "Warning", QUARANTINED.meaning),
    row(
        "ReleaseStarted",
        "Normal",
        "A release begins: the canary is created.",
    ),
    row(
        "ReplicasKept",
        "Normal",
        "`spec.replicas` was removed. The number of pods stays.",
    ),
    row(
        "Restarted",
        "Normal",
        "A restart is complete: all pods have been replaced.",
    ),
    row(
        "Restarting",
        "Normal",
        "The command `restart` or `spec.restartAt` begins to replace the pods.",
    ),
    row(
        "RestoreAbandoned",
        "Warning",
        "A deleted Rollout could not restore an object.",
    ),
    row(
        "RollbackWindow",
        "Normal",
        "The revision was promoted recently: without steps.",
    ),
    row(
        "RolledBack",
        "Warning",
        "The release was aborted. The message has the cause.",
    ),
    row(
        "RouteDrift",
        "Warning",
        "Somebody changed the split of a route. Serin sets it back.",
    ),
    row(
        "SteppedDown",
        "Warning",
        "The canary's share was reduced because of its metrics.",
    ),
    row(
        "StepsEdited",
        "Normal",
        "The steps were edited during the release: they restart.",
    ),
    row(
        "Superseded",
        "Normal",
        "A newer revision replaced the release.",
    ),
    row(
        "TakenOver",
        "Normal",
        "The pods of a Deployment belong to the Rollout now. None was restarted.",
    ),
    row(
        "TakeoverStarted",
        "Normal",
        "The Rollout takes over the pods of a Deployment.",
    ),
    row(
        "WeightRaised",
        "Normal",
        "The evidence permits a higher share.",
    ),
    row(
        "WeightRestored",
        "Normal",
        "The metrics are fresh again: the share is restored.",
    ),
    row(
        "WorkloadGivenBack",
        "Normal",
        "The pods belong to their Deployment again.",
    ),
    row(
        "WouldPromote",
        "Normal",
        "With `mode: Observe`: the evidence suffices to promote the release.",
    ),
    row(
        "WouldRollBack",
        "Warning",
        "With `mode: Observe`: Serin would have rolled the release back.",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use serin_core::assignment_unit::AssignmentUnit;
    use serin_core::hold::HoldCode;

    use super::*;

    /// The Rust files below `folder`, relative to this crate, without those of tests.
    fn sources(folder: &str) -> Vec<String> {
        let mut texts = Vec::new();
        let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|found| found == "rs") && name != "tests.rs"
                {
                    let text = std::fs::read_to_string(path).unwrap();
                    texts.push(text.split("#[cfg(test)]").next().unwrap().to_owned());
                }
            }
        }
        texts
    }

    /// The string literals that directly follow `prefix`.
    fn literals_after(text: &str, prefix: &str) -> Vec<String> {
        let arguments = text.split(prefix).skip(1);
        let literal = |argument: &str| {
            let (literal, _) = argument.trim_start().strip_prefix('"')?.split_once('"')?;
            Some(literal.to_owned())
        };
        arguments.filter_map(literal).collect()
    }

    #[test]
    fn every_event_of_the_code_is_in_the_table_and_no_other() {
        let mut published = BTreeSet::new();
        for text in sources("../core/src").iter().chain(&sources("src")) {
            for prefix in [".normal(", ".warning(", "code: "] {
                published.extend(literals_after(text, prefix));
            }
        }
        let listed: BTreeSet<_> = EVENTS.iter().map(|event| event.reason.to_owned()).collect();
        assert_eq!(published, listed);
        assert!(EVENTS.is_sorted_by_key(|event| event.reason));
    }

    #[test]
    fn every_condition_of_the_code_is_in_the_table_and_no_other() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/status/conditions.rs");
        let text = std::fs::read_to_string(path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        let is_reason = |word: &&str| {
            word.starts_with(|first: char| first.is_ascii_uppercase())
                && word.chars().all(|letter| letter.is_ascii_alphabetic())
        };
        let values = ["True", "False", "Unknown"];
        let literals = text.split('"').skip(1).step_by(2).filter(is_reason);
        let units = [
            AssignmentUnit::Client { why: String::new() },
            AssignmentUnit::Connection { why: String::new() },
            AssignmentUnit::ChosenRequests { why: String::new() },
        ];
        let of_units = units.iter().filter_map(AssignmentUnit::reason);
        let literals = literals
            .filter(|word| !values.contains(word))
            .map(ToOwned::to_owned);
        let used: BTreeSet<String> = literals.chain(of_units.map(ToOwned::to_owned)).collect();
        let reasons = CONDITIONS.iter().flat_map(|condition| condition.reasons);
        let reasons = reasons.map(|row| row.reason).filter(is_reason);
        let names = CONDITIONS.iter().map(|condition| condition.name);
        let listed = names.chain(reasons).map(ToOwned::to_owned);
        assert_eq!(used, listed.collect());
    }

    #[test]
    fn every_reason_has_a_value_and_a_sentence() {
        let of_conditions = CONDITIONS.iter().flat_map(|condition| condition.reasons);
        let values = ["True", "False", "Unknown"];
        for row in of_conditions {
            assert!(
                values.contains(&row.value) && row.meaning.ends_with('.'),
                "{row:?}"
            );
        }
        for row in EVENTS {
            let code = row.reason.parse::<HoldCode>();
            assert!(
                !code.is_ok_and(HoldCode::is_pod_problem),
                "{row:?}: listed with the holds"
            );
            assert!(["Normal", "Warning"].contains(&row.value) && row.meaning.ends_with('.'));
        }
    }
}
