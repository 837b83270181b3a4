//! Styles by meaning. Text is always styled; the output stream removes the escape sequences if
//! colors are disabled.

use owo_colors::OwoColorize;

/// Healthy state or success.
pub fn success(text: &str) -> String {
    text.green().to_string()
}

/// Error or failure.
pub fn error(text: &str) -> String {
    text.red().bold().to_string()
}

/// Warning.
pub fn warning(text: &str) -> String {
    text.yellow().to_string()
}

/// Secondary text.
pub fn dimmed(text: &str) -> String {
    text.dimmed().to_string()
}

/// Emphasized text.
pub fn bold(text: &str) -> String {
    text.bold().to_string()
}

/// Unstyled text.
pub fn plain(text: &str) -> String {
    text.to_owned()
}
