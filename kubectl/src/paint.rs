//! Colours by meaning. Text is always painted; where colours are not wanted, the output stream
//! takes them out.

use owo_colors::OwoColorize;

/// As it should be.
pub fn good(text: &str) -> String {
    text.green().to_string()
}

/// Trouble.
pub fn bad(text: &str) -> String {
    text.red().bold().to_string()
}

/// Worth a look.
pub fn warn(text: &str) -> String {
    text.yellow().to_string()
}

/// In passing.
pub fn dim(text: &str) -> String {
    text.dimmed().to_string()
}

/// The words that matter on a line.
pub fn strong(text: &str) -> String {
    text.bold().to_string()
}

/// As it is.
pub fn plain(text: &str) -> String {
    text.to_owned()
}
