//! Text of tenants is parsed only where its cost is bounded.

use std::fs;
use std::path::{Path, PathBuf};

/// Calls that parse PromQL or compile a regular expression without bounds.
const UNBOUNDED: [&str; 7] = [
    "parser::parse(",
    "promql_parser::parser::parse",
    "Regex::new(",
    "RegexBuilder::new(",
    "RegexSet::new(",
    "Matcher::new_matcher(",
    "cel::",
];

/// Source folders of the programs that read what tenants write.
const FOLDERS: [&str; 3] = ["controller", "crds/src", "kubectl/src"];

/// The module that bounds the cost of the calls.
const BOUNDED: &str = "crds/src/check/promql";

/// Calls elsewhere whose text is not of a tenant.
const TRUSTED: [&str; 1] = [
    // `kubectl serin lint` evaluates the rules of the CRDs, which are part of the program, over a
    // file of its user.
    "kubectl/src/lint/schema.rs calls cel::",
];

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Whether a file only contains tests.
fn is_test(path: &Path) -> bool {
    let is_test_name = |name: &str| ["tests", "tests.rs", "fuzz.rs", "benches"].contains(&name);
    path.components()
        .any(|part| part.as_os_str().to_str().is_some_and(is_test_name))
}

#[test]
fn promql_and_regular_expressions_of_tenants_are_parsed_in_one_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for folder in FOLDERS {
        rust_files(&root.join(folder), &mut files);
    }
    let mut found = Vec::new();
    let mut checked = 0;
    for file in files {
        let path = file.strip_prefix(&root).unwrap();
        if is_test(path) {
            continue;
        }
        checked += 1;
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
        for call in UNBOUNDED.iter().filter(|call| code.contains(**call)) {
            found.push(format!("{} calls {call}", path.display()));
        }
    }
    assert!(checked > 100, "only {checked} files were checked");
    let (bounded, elsewhere): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|call| call.starts_with(BOUNDED));
    assert!(bounded.len() >= 2, "{bounded:?}");
    assert_eq!(
        elsewhere, TRUSTED,
        "use parse_promql, parse_composed_promql or compile_regex of serin_crds::check"
    );
}
