//! Reads an object field by field, and notes every field that nobody read.

use serde_json::{Map, Value};

use crate::note::{NoteLevel, Notes};

/// The fields of an object that are still to be read. A field that is left at the end becomes a
/// note, so that nothing is dropped silently.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    path: String,
    map: Map<String, Value>,
}

/// Fields without a counterpart in any of the sources: name, level, why and what to do. A field that
/// is not listed is reported as unknown.
const WITHOUT_COUNTERPART: [(&str, NoteLevel, &str, &str); 21] = {
    use NoteLevel::{Lost, NotYet};
    [
        (
            "pingPong",
            Lost,
            "Serin switches the stable Service while no traffic uses it, so it needs no pair of Services",
            "remove it",
        ),
        (
            "scaleDownDelayRevisionLimit",
            NotYet,
            "the number of old revisions with pods is not limited",
            "shorten scaleDownDelaySeconds",
        ),
        (
            "measurementRetention",
            Lost,
            "Serin stores no measurements; `kubectl serin explain --prometheus` reads them again",
            "remove it",
        ),
        (
            "analysisRunMetadata",
            Lost,
            "Serin has no AnalysisRun objects",
            "remove it",
        ),
        (
            "inconclusiveLimit",
            Lost,
            "without a usable number the release is held",
            "remove it",
        ),
        (
            "consecutiveErrorLimit",
            Lost,
            "errors of Prometheus hold the release and then reduce the weight, but never abort it",
            "remove it",
        ),
        (
            "consecutiveSuccessLimit",
            NotYet,
            "a number of consecutive successes is not required",
            "use an analysis step with a duration",
        ),
        (
            "alerts",
            NotYet,
            "Serin sends no notifications yet",
            "alert on the metrics and Events of the controller",
        ),
        (
            "sessionAffinity",
            NotYet,
            "cookies that keep a user on one side are not supported",
            "configure session persistence in the Gateway",
        ),
        (
            "mirror",
            NotYet,
            "mirroring is not supported",
            "add a RequestMirror filter to the HTTPRoute",
        ),
        (
            "mirrorWeight",
            NotYet,
            "mirroring is not supported",
            "add a RequestMirror filter to the HTTPRoute",
        ),
        (
            "match",
            NotYet,
            "routing by header or cookie (A/B testing) is not supported",
            "route by header with a rule of your own in the HTTPRoute",
        ),
        (
            "matches",
            NotYet,
            "routing by header or cookie is not supported",
            "route by header with a rule of your own in the HTTPRoute",
        ),
        (
            "primaryReadyThreshold",
            NotYet,
            "all pods are waited for",
            "remove it",
        ),
        (
            "canaryReadyThreshold",
            NotYet,
            "all pods are waited for",
            "remove it",
        ),
        (
            "stepWeightPromotion",
            Lost,
            "the pods of the canary become stable, so there is no second rollout",
            "remove it",
        ),
        (
            "revertOnDeletion",
            Lost,
            "deleting the Rollout gives the pods back to the Deployment",
            "remove it",
        ),
        (
            "trafficPolicy",
            Lost,
            "it belongs to the router",
            "write it into your DestinationRule or its counterpart",
        ),
        (
            "failureThreshold",
            NotYet,
            "all pods of a step are waited for",
            "remove it",
        ),
        (
            "enableExtraWorkloadForCanary",
            Lost,
            "with a router the canary always has pods of its own",
            "remove it",
        ),
        (
            "trafficDistribution",
            Lost,
            "it belongs to the Service",
            "set it in the stable Service; the canary Service copies it",
        ),
    ]
};

impl Fields {
    /// The fields of `value`, which is at `path`. No fields if it is not an object.
    pub fn new(path: impl Into<String>, value: Value) -> Self {
        let map = match value {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        Self {
            path: path.into(),
            map,
        }
    }

    /// The path of a field.
    pub fn path(&self, field: &str) -> String {
        format!("{}.{field}", self.path)
    }

    pub fn has(&self, field: &str) -> bool {
        self.map.get(field).is_some_and(|value| !value.is_null())
    }

    pub fn take(&mut self, field: &str) -> Option<Value> {
        self.map.remove(field).filter(|value| !value.is_null())
    }

    pub fn text(&mut self, field: &str) -> Option<String> {
        match self.take(field)? {
            Value::String(text) => Some(text),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            _ => None,
        }
    }

    pub fn flag(&mut self, field: &str) -> bool {
        self.take(field) == Some(Value::Bool(true))
    }

    pub fn number(&mut self, field: &str) -> Option<f64> {
        match self.take(field)? {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// The fields of an object in this object. `None` if there is none.
    pub fn object(&mut self, field: &str) -> Option<Self> {
        let value = self.take(field)?;
        Some(Self::new(self.path(field), value))
    }

    /// The items of a list of objects.
    pub fn objects(&mut self, field: &str) -> Vec<Self> {
        let path = self.path(field);
        let items = match self.take(field) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        };
        let items = items.into_iter().enumerate();
        items
            .map(|(index, item)| Self::new(format!("{path}[{index}]"), item))
            .collect()
    }

    /// Drops a field that needs no note.
    pub fn ignore(&mut self, fields: &[&str]) {
        for field in fields {
            self.map.remove(*field);
        }
    }

    /// Notes every field that was not read.
    pub fn finish(self, notes: &mut Notes) {
        for (field, value) in &self.map {
            if is_empty(value) {
                continue;
            }
            let path = self.path(field);
            let known = WITHOUT_COUNTERPART.iter().find(|(name, ..)| name == field);
            match known {
                Some((_, level, message, fix)) => notes.add(*level, path, *message, *fix),
                None => notes.lost(
                    path,
                    "the converter does not know this field",
                    "check whether the release needs it, and set its counterpart by hand",
                ),
            }
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_that_nobody_reads_becomes_a_note() {
        let mut notes = Notes::default();
        let mut fields = Fields::new("spec", json!({"a": 1, "pingPong": {"x": 1}, "new": 2}));
        assert_eq!(fields.number("a"), Some(1.0));
        fields.finish(&mut notes);
        let text = format!("{notes:?}");
        assert!(
            text.contains("spec.pingPong") && text.contains("spec.new"),
            "{text}"
        );
        assert!(!text.contains("\"spec.a\""), "{text}");
    }
}
