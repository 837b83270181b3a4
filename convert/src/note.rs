//! Notes: what a conversion changed or lost, with the field and what to do.

use serde::Serialize;
use serde_json::Value;

use crate::{Conversion, ObjectId, Outcome};

/// How much of the meaning is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoteLevel {
    /// The meaning is the same, but it is written in another way.
    Kept,
    /// The result behaves differently.
    Changed,
    /// There is no counterpart, and the field has no effect any more.
    Lost,
    /// Serin does not support it yet.
    NotYet,
}

impl NoteLevel {
    /// The word for people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Changed => "changed",
            Self::Lost => "lost",
            Self::NotYet => "not yet",
        }
    }
}

/// One field whose meaning changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// How much of the meaning is left.
    pub level: NoteLevel,
    /// Path of the field in the source.
    pub field: String,
    /// What happened to it.
    pub message: String,
    /// What to do. Empty if nothing has to be done.
    pub fix: String,
}

/// The notes of a conversion in progress.
#[derive(Debug, Default)]
pub(crate) struct Notes(Vec<Note>);

impl Notes {
    pub fn add(
        &mut self,
        level: NoteLevel,
        field: impl Into<String>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let note = Note {
            level,
            field: field.into(),
            message: message.into(),
            fix: fix.into(),
        };
        if !self.0.contains(&note) {
            self.0.push(note);
        }
    }

    pub fn kept(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.add(NoteLevel::Kept, field, message, "");
    }

    pub fn changed(
        &mut self,
        field: impl Into<String>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.add(NoteLevel::Changed, field, message, fix);
    }

    pub fn lost(
        &mut self,
        field: impl Into<String>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.add(NoteLevel::Lost, field, message, fix);
    }

    pub fn not_yet(
        &mut self,
        field: impl Into<String>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.add(NoteLevel::NotYet, field, message, fix);
    }
}

/// The result of one converter.
#[derive(Debug, Default)]
pub(crate) struct Translation {
    /// The objects. Empty if the source cannot be converted.
    pub outputs: Vec<Value>,
    pub notes: Notes,
}

impl Translation {
    /// A source that is not converted.
    pub fn refused(field: &str, message: &str, fix: &str) -> Self {
        let mut notes = Notes::default();
        notes.not_yet(field, message, fix);
        Self {
            outputs: Vec::new(),
            notes,
        }
    }

    pub fn into_conversion(self, source: ObjectId) -> Conversion {
        let notes = self.notes.0;
        let is_same = notes.iter().all(|note| note.level == NoteLevel::Kept);
        let outcome = match (self.outputs.is_empty(), is_same) {
            (true, _) => Outcome::NotConverted,
            (false, true) => Outcome::Whole,
            (false, false) => Outcome::WithNotes,
        };
        Conversion {
            source,
            outcome,
            outputs: self.outputs,
            notes,
        }
    }
}
