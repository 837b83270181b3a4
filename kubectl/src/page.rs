//! Lines that fit: text is wrapped first and painted after, so that colours never count as width.

use crate::paint;

/// How text of a line is painted.
pub type Paint = fn(&str) -> String;

/// A page of a given width that is written from top to bottom.
pub struct Page {
    width: usize,
    text: String,
}

impl Page {
    /// An empty page. Narrower than 40 columns nothing can be laid out, so such a terminal wraps by
    /// itself.
    pub fn new(width: usize) -> Self {
        Self {
            width: width.max(40),
            text: String::new(),
        }
    }

    /// The page as text.
    pub fn finish(self) -> String {
        self.text
    }

    /// An empty line, unless the page is empty.
    pub fn gap(&mut self) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
    }

    /// A heading, set apart from what comes before.
    pub fn heading(&mut self, heading: &str) {
        self.gap();
        self.line(&paint::strong(heading));
    }

    /// A painted line that is short enough.
    pub fn line(&mut self, painted: &str) {
        self.text.push_str(painted);
        self.text.push('\n');
    }

    /// Text behind a prefix, wrapped; further lines stand behind `rest`, which is as wide.
    ///
    /// The prefixes are painted already; `columns` is their width.
    pub fn wrapped(
        &mut self,
        (first, rest, columns): (&str, &str, usize),
        text: &str,
        paint: Paint,
    ) {
        let options =
            textwrap::Options::new(self.width.saturating_sub(columns).max(20)).break_words(false);
        for (index, line) in textwrap::wrap(text, options).iter().enumerate() {
            let prefix = if index == 0 { first } else { rest };
            self.line(&format!("{prefix}{}", paint(line)));
        }
    }

    /// A label and its text, wrapped beside the label.
    pub fn field(&mut self, label: &str, text: &str, paint: Paint) {
        const LABEL: usize = 11;
        let first = format!(
            "{}{}",
            paint::dim(label),
            " ".repeat(LABEL.saturating_sub(label.len()))
        );
        self.wrapped((&first, &" ".repeat(LABEL), LABEL), text, paint);
    }
}
