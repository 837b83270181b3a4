//! JSON schemas of the state, for the CustomResourceDefinition.
//!
//! Enums are plain strings in it, so that an API server with the CustomResourceDefinition of an
//! older version accepts the status of a newer controller.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::command::{CommandResult, Verb};
use crate::hold::{Blocks, HoldCode, HoldEnd, HoldSource};
use crate::observation::HypotheticalResult;
use crate::state::{AbortCause, PauseReason, Phase, ReleaseResult, Stage, WorkloadPhase};
use crate::text::Text;
use crate::units::{Revision, Weight};

/// Schema of an object with any fields.
pub fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// Schema of a string with any value.
pub fn any_string(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string" })
}

macro_rules! string_schema {
    ($($type:ident),+ $(,)?) => {$(
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                any_string(generator)
            }
        }
    )+};
}

string_schema!(
    AbortCause,
    Blocks,
    CommandResult,
    HoldCode,
    HoldSource,
    HypotheticalResult,
    PauseReason,
    Phase,
    ReleaseResult,
    Revision,
    Stage,
    Verb,
    WorkloadPhase,
);

impl<const MAX: usize> JsonSchema for Text<MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Text{MAX}").into()
    }

    // Without a maximum length: the API server must never refuse a status.
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        any_string(generator)
    }
}

impl JsonSchema for Weight {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Weight".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        f64::json_schema(generator)
    }
}

impl JsonSchema for HoldEnd {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "HoldEnd".into()
    }

    // One object for all variants: a structural schema has no `oneOf` with types.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "required": ["by"],
            "properties": {
                "by": {
                    "type": "string",
                    "description": "Itself, Time, Command, Override or SpecChange.",
                },
                "at": {
                    "type": "string",
                    "format": "date-time",
                    "description": "Time at which the hold ends. Set if `by` is Time.",
                },
                "command": {
                    "type": "string",
                    "description": "Verb of the command that ends the hold. Set if `by` is Command.",
                },
            },
        })
    }
}
