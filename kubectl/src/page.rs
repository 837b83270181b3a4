//! Text layout for a terminal. Text is wrapped before it is styled, so escape sequences do not
//! count as width.

use crate::style;

/// A function that styles text.
pub type Style = fn(&str) -> String;

/// Text of a given width, written from top to bottom.
pub struct Page {
    width: usize,
    text: String,
}

impl Page {
    /// Creates an empty page. The width is at least 40 columns; a narrower terminal wraps by
    /// itself.
    pub fn new(width: usize) -> Self {
        Self {
            width: width.max(40),
            text: String::new(),
        }
    }

    /// Returns the text.
    pub fn finish(self) -> String {
        self.text
    }

    /// Adds an empty line unless the page is empty.
    pub fn gap(&mut self) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
    }

    /// Adds a heading, separated by an empty line.
    pub fn heading(&mut self, heading: &str) {
        self.gap();
        self.line(&style::bold(heading));
    }

    /// Adds a styled line without wrapping.
    pub fn line(&mut self, styled: &str) {
        self.text.push_str(styled);
        self.text.push('\n');
    }

    /// Adds wrapped text after the prefix `first`. Further lines start with `rest`, which has the
    /// same width.
    ///
    /// The prefixes are styled already; `columns` is their width.
    pub fn wrapped(
        &mut self,
        (first, rest, columns): (&str, &str, usize),
        text: &str,
        style: Style,
    ) {
        let options =
            textwrap::Options::new(self.width.saturating_sub(columns).max(20)).break_words(false);
        for (index, line) in textwrap::wrap(text, options).iter().enumerate() {
            let prefix = if index == 0 { first } else { rest };
            self.line(&format!("{prefix}{}", style(line)));
        }
    }

    /// Adds a label and its text, wrapped beside the label.
    pub fn field(&mut self, label: &str, text: &str, style: Style) {
        const LABEL: usize = 11;
        let first = format!(
            "{}{}",
            style::dimmed(label),
            " ".repeat(LABEL.saturating_sub(label.len()))
        );
        self.wrapped((&first, &" ".repeat(LABEL), LABEL), text, style);
    }
}
