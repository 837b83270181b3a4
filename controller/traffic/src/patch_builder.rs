//! Builds the JSON Patch of a route whose backends are listed in rules.

use json_patch::jsonptr::PointerBuf;
use json_patch::{
    AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation, TestOperation,
};
use serde_json::Value;

use crate::backend::{Backend, Rule, malformed};
use crate::error::{RouteError, RouteName};

/// Builds a patch: tests, changes in place, and removals. Removals come last, so that no index of
/// another operation shifts.
#[derive(Default)]
pub(crate) struct PatchBuilder {
    tests: Vec<PatchOperation>,
    edits: Vec<PatchOperation>,
    removals: Vec<PatchOperation>,
}

impl PatchBuilder {
    /// Sets the weight of a backend, or removes the field if `None`.
    pub(crate) fn set_weight(
        &mut self,
        rule: &Rule<'_>,
        backend: &Backend<'_>,
        weight: Option<u64>,
    ) {
        if backend.identity.weight == weight {
            return;
        }
        self.test_backend(rule, backend);
        let path = backend_path(rule, backend).with_trailing_token("weight");
        let has_weight = backend.object.get("weight").is_some();
        self.edits.push(match weight {
            None => PatchOperation::Remove(RemoveOperation { path }),
            Some(w) if has_weight => PatchOperation::Replace(ReplaceOperation {
                path,
                value: w.into(),
            }),
            Some(w) => PatchOperation::Add(AddOperation {
                path,
                value: w.into(),
            }),
        });
    }

    pub(crate) fn replace(&mut self, rule: &Rule<'_>, backend: &Backend<'_>, value: Value) {
        if *backend.object == value {
            return;
        }
        self.test_backend(rule, backend);
        let path = backend_path(rule, backend);
        self.edits
            .push(PatchOperation::Replace(ReplaceOperation { path, value }));
    }

    pub(crate) fn append(&mut self, rule: &Rule<'_>, beside: &Backend<'_>, value: Value) {
        self.test_backend(rule, beside);
        let path = rule.list.backends_path(rule.index, rule.layout);
        let path = path.with_trailing_token("-");
        self.edits
            .push(PatchOperation::Add(AddOperation { path, value }));
    }

    pub(crate) fn remove(&mut self, rule: &Rule<'_>, backend: &Backend<'_>) {
        self.test_backend(rule, backend);
        let path = backend_path(rule, backend);
        self.removals
            .push(PatchOperation::Remove(RemoveOperation { path }));
    }

    /// Adds a test that the backend at this index is still the same.
    fn test_backend(&mut self, rule: &Rule<'_>, backend: &Backend<'_>) {
        let identity = rule.layout.identity;
        let path = backend_path(rule, backend).with_trailing_token(identity);
        let value = backend.object[identity].clone();
        let test = PatchOperation::Test(TestOperation { path, value });
        if !self.tests.contains(&test) {
            self.tests.push(test);
        }
    }

    /// The patch, or an empty patch without changes.
    pub(crate) fn into_patch(self, route: &Value, name: &RouteName) -> Result<Patch, RouteError> {
        if self.edits.is_empty() && self.removals.is_empty() {
            return Ok(Patch(Vec::new()));
        }
        let operations = std::iter::once(test_version(route, name)?)
            .chain(self.tests)
            .chain(self.edits)
            .chain(self.removals);
        Ok(Patch(operations.collect()))
    }
}

/// The test that the object has not changed since it was read.
pub(crate) fn test_version(route: &Value, name: &RouteName) -> Result<PatchOperation, RouteError> {
    let version = route
        .pointer("/metadata/resourceVersion")
        .filter(|v| v.is_string());
    let Some(version) = version else {
        return Err(malformed(
            name,
            "/metadata/resourceVersion".into(),
            "a string",
        ));
    };
    Ok(PatchOperation::Test(TestOperation {
        path: PointerBuf::from_tokens(["metadata", "resourceVersion"]),
        value: version.clone(),
    }))
}

fn backend_path(rule: &Rule<'_>, backend: &Backend<'_>) -> PointerBuf {
    let path = rule.list.backends_path(rule.index, rule.layout);
    path.with_trailing_token(backend.index.to_string())
}
