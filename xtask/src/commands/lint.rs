//! `cargo xtask lint words`: finds names and phrases that the style guide has replaced.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use regex::Regex;
use serde::Deserialize;

/// The word list, relative to the workspace root. It is not searched itself.
const WORD_LIST: &str = "xtask/words.yaml";

/// Extensions of the files that are searched.
const EXTENSIONS: [&str; 4] = ["rs", "md", "yaml", "tpl"];

/// What to check.
#[derive(Subcommand)]
pub(crate) enum LintCommand {
    /// Report replaced names and phrases in source files, pages and manifests.
    Words,
}

/// Runs one lint.
pub(crate) fn run(command: &LintCommand) -> Result<()> {
    match command {
        LintCommand::Words => words(),
    }
}

/// Searches every tracked file and prints one line for each hit.
///
/// # Errors
/// If a file has a hit that is not allowed, or if an allow entry matches nothing.
pub(crate) fn words() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask is not inside the workspace")?;
    let list = fs::read_to_string(root.join(WORD_LIST))
        .with_context(|| format!("cannot read {WORD_LIST}"))?;
    let list: WordList = serde_saphyr::from_str(&list)
        .with_context(|| format!("{WORD_LIST} is not a valid word list"))?;
    let rules = list.rules()?;
    let mut unused_allows: Vec<&Allow> = list.allow.iter().collect();
    let mut hit_count = 0_usize;
    for path in searched_files(root)? {
        // A file that is tracked may be deleted in the working tree.
        let Ok(text) = fs::read_to_string(root.join(&path)) else {
            continue;
        };
        let hits = list.file_name_hit(&path).into_iter();
        for hit in hits.chain(find_hits(&rules, &path, &text)) {
            if list.allow.iter().any(|allow| allow.covers(&path, &hit)) {
                unused_allows.retain(|allow| !allow.covers(&path, &hit));
                continue;
            }
            println!("{path}:{}: `{}`: {}", hit.line, hit.found, hit.advice);
            hit_count += 1;
        }
    }
    for allow in &unused_allows {
        println!(
            "{WORD_LIST}: `{}` does not occur in {}: remove the allow entry",
            allow.word, allow.path
        );
    }
    if hit_count + unused_allows.len() > 0 {
        bail!(
            "{hit_count} replaced words and {} unused allow entries: use the suggested words, or \
             add an allow entry with a reason to {WORD_LIST}",
            unused_allows.len()
        );
    }
    Ok(())
}

/// The content of [`WORD_LIST`]. Each map leads from a replaced word to the suggestion.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WordList {
    /// Rust types: where they are defined, and in backticks in any file.
    types: BTreeMap<String, String>,
    /// Names of Rust functions.
    functions: BTreeMap<String, String>,
    /// Names of Rust files, without the extension.
    files: BTreeMap<String, String>,
    /// Whole words in any file. A trailing `*` matches the rest of an identifier.
    words: BTreeMap<String, String>,
    /// Phrases in any file, regardless of case and line breaks.
    phrases: BTreeMap<String, String>,
    allow: Vec<Allow>,
}

/// A word that one file may use.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Allow {
    path: String,
    word: String,
    reason: String,
}

impl Allow {
    fn covers(&self, path: &str, hit: &Hit) -> bool {
        self.path == path && self.word == hit.word
    }
}

/// One replaced word and how to find it.
struct Rule {
    word: String,
    advice: String,
    pattern: Regex,
    only_rust: bool,
}

/// One occurrence of a replaced word.
#[derive(Debug, PartialEq, Eq)]
struct Hit {
    /// Counted from 1.
    line: usize,
    /// The key in the word list.
    word: String,
    /// The text in the file.
    found: String,
    advice: String,
}

impl WordList {
    fn rules(&self) -> Result<Vec<Rule>> {
        let mut rules = Vec::new();
        for (word, advice) in &self.types {
            let pattern = format!(r"\b(?:struct|enum|trait|type)\s+{word}\b|`{word}`");
            rules.push(Rule::new(word, advice, &pattern, false)?);
        }
        for (word, advice) in &self.functions {
            rules.push(Rule::new(word, advice, &format!(r"\bfn\s+{word}\b"), true)?);
        }
        for (word, advice) in &self.words {
            rules.push(Rule::new(word, advice, &whole_word(word), false)?);
        }
        for (word, advice) in &self.phrases {
            let pattern = format!("(?i){}", whole_word(word));
            rules.push(Rule::new(word, advice, &pattern, false)?);
        }
        for Allow { path, word, reason } in &self.allow {
            ensure!(
                reason.len() >= 10,
                "{WORD_LIST}: the allow entry for `{word}` in {path} needs a reason"
            );
        }
        Ok(rules)
    }

    /// The hit of a file whose own name is replaced.
    fn file_name_hit(&self, path: &str) -> Option<Hit> {
        let path = Path::new(path);
        let name = path.file_stem()?.to_str()?;
        let advice = self.files.get(name)?;
        (path.extension()? == "rs").then(|| Hit {
            line: 1,
            word: name.to_owned(),
            found: format!("{name}.rs"),
            advice: format!("name the file {advice}"),
        })
    }
}

impl Rule {
    fn new(word: &str, advice: &str, pattern: &str, only_rust: bool) -> Result<Self> {
        Ok(Self {
            word: word.to_owned(),
            advice: format!("use {advice}"),
            pattern: Regex::new(pattern)
                .with_context(|| format!("{WORD_LIST}: `{word}` cannot be searched for"))?,
            only_rust,
        })
    }
}

/// A pattern for a word or phrase that is not part of a longer one.
fn whole_word(word: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (stem, tail) = match word.strip_suffix('*') {
        Some(stem) => (stem, r"\w+"),
        None if word.ends_with(is_word) => (word, r"\b"),
        None => (word, ""),
    };
    let parts: Vec<String> = stem.split(' ').map(regex::escape).collect();
    let head = if stem.starts_with(is_word) { r"\b" } else { "" };
    format!("{head}{}{tail}", parts.join(r"\s+"))
}

fn find_hits(rules: &[Rule], path: &str, text: &str) -> Vec<Hit> {
    let is_rust = Path::new(path)
        .extension()
        .is_some_and(|extension| extension == "rs");
    let (joined, line_starts) = join_lines(text);
    let mut hits = Vec::new();
    for rule in rules.iter().filter(|rule| is_rust || !rule.only_rust) {
        for found in rule.pattern.find_iter(&joined) {
            hits.push(Hit {
                line: line_starts.partition_point(|start| *start <= found.start()),
                word: rule.word.clone(),
                found: found.as_str().to_owned(),
                advice: rule.advice.clone(),
            });
        }
    }
    hits.sort_by_key(|hit| hit.line);
    hits
}

/// The text without indentation and comment markers, its lines joined by spaces, so that a phrase
/// is found across a line break; and the offset at which each line starts.
fn join_lines(text: &str) -> (String, Vec<usize>) {
    let (mut joined, mut line_starts) = (String::new(), Vec::new());
    for line in text.lines() {
        line_starts.push(joined.len());
        let line = line.trim_start();
        let markers = ["//!", "///", "//", "# "];
        let content = markers.iter().find_map(|marker| line.strip_prefix(marker));
        joined.push_str(content.unwrap_or(line).trim());
        joined.push(' ');
    }
    (joined, line_starts)
}

/// The files that are searched, by path from the workspace root.
fn searched_files(root: &Path) -> Result<Vec<String>> {
    let is_searched = |path: &String| {
        let extension = Path::new(path).extension().and_then(|found| found.to_str());
        path != WORD_LIST && extension.is_some_and(|found| EXTENSIONS.contains(&found))
    };
    let mut paths = tracked_files(root)?;
    paths.retain(is_searched);
    Ok(paths)
}

/// Tracked and new files, by path from the workspace root.
///
/// # Errors
/// Git cannot list them.
pub(crate) fn tracked_files(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot run git")?;
    ensure!(
        output.status.success(),
        "git ls-files: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let paths = String::from_utf8(output.stdout).context("a path is not UTF-8")?;
    Ok(paths.lines().map(Into::into).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(allow: &str) -> WordList {
        let text = format!(
            "types: {{Oldtype: Newtype}}\n\
             functions: {{oldly: newly}}\n\
             files: {{oldfile: newfile.rs}}\n\
             words: {{old_word: new_word, oldprefix_*: newprefix_*, 'oldfield:': newfield}}\n\
             phrases: {{'old saying': new phrase}}\n\
             allow: {allow}\n"
        );
        serde_saphyr::from_str(&text).unwrap()
    }

    fn hits(path: &str, text: &str) -> Vec<(usize, String)> {
        let rules = list("[]").rules().unwrap();
        let hits = find_hits(&rules, path, text).into_iter();
        hits.map(|hit| (hit.line, hit.word)).collect()
    }

    #[test]
    fn whole_words_are_found_with_their_line() {
        let found = hits("a.md", "fine\nan old_word here\nold_words, my_old_word\n");
        assert_eq!(found, [(2, "old_word".to_owned())]);
    }

    #[test]
    fn a_trailing_star_matches_the_rest_of_an_identifier() {
        let found = hits("a.md", "oldprefix_x\noldprefix_\n");
        assert_eq!(found, [(1, "oldprefix_*".to_owned())]);
    }

    #[test]
    fn a_field_is_found_with_its_colon_only() {
        let found = hits("a.yaml", "oldfield\n  oldfield: 3\n");
        assert_eq!(found, [(2, "oldfield:".to_owned())]);
    }

    #[test]
    fn types_and_functions_are_found_where_they_are_defined() {
        let text = "// Oldtype\npub struct Oldtype;\nfn oldly() {}\nlet x = \"oldly\";\n";
        let found = hits("a.rs", text);
        assert_eq!(found, [(2, "Oldtype".to_owned()), (3, "oldly".to_owned())]);
        let found = hits("a.md", "fn oldly, an Oldtype and an `Oldtype`");
        assert_eq!(found, [(1, "Oldtype".to_owned())]);
    }

    #[test]
    fn a_phrase_is_found_across_comment_lines_and_in_any_case() {
        let found = hits("a.rs", "fn f() {\n    /// An Old\n    /// saying.\n}\n");
        assert_eq!(found, [(2, "old saying".to_owned())]);
    }

    #[test]
    fn a_replaced_file_name_is_reported_for_rust_files_only() {
        let list = list("[]");
        assert!(list.file_name_hit("src/oldfile.rs").is_some());
        assert!(list.file_name_hit("docs/oldfile.md").is_none());
        assert!(list.file_name_hit("src/newfile.rs").is_none());
    }

    #[test]
    fn an_allow_entry_covers_one_word_in_one_file_and_needs_a_reason() {
        let allowed = list("[{path: a.md, word: old_word, reason: the change log quotes it}]");
        let rules = allowed.rules().unwrap();
        let hit = &find_hits(&rules, "a.md", "old_word")[0];
        assert!(allowed.allow[0].covers("a.md", hit));
        assert!(!allowed.allow[0].covers("b.md", hit));
        let unexplained = list("[{path: a.md, word: old_word, reason: ''}]");
        assert!(unexplained.rules().is_err());
    }

    #[test]
    fn the_word_list_is_valid() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("words.yaml");
        let list: WordList = serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        assert!(list.rules().unwrap().len() > 50);
    }
}
