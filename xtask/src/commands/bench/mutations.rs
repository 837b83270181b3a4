//! `cargo xtask bench mutations`: takes each protection against a known attack away, and expects that
//! its test fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;

use super::{TESTING, cargo, environment, write_section};
use crate::commands::lint::tracked_files;

/// The mutations, relative to the workspace root.
const LIST: &str = "xtask/mutations.yaml";
/// The copy of the workspace that is changed, and what is built from it.
const FOLDER: &str = "target/mutations";
/// Maximum duration of a test. A test that does not end has failed.
const TEST_TIMEOUT: Duration = Duration::from_secs(300);

/// Which mutations to try.
#[derive(Args)]
pub(crate) struct MutationArguments {
    /// Try only the mutations whose finding, file or test contains TEXT. The result is not written
    /// into the documentation.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// A change that takes a protection away.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Mutation {
    /// The finding of the security review that the protection answers.
    finding: String,
    /// What is taken away, for the documentation.
    without: String,
    /// The file, relative to the workspace root.
    file: String,
    /// Text that occurs once in the file.
    find: String,
    /// What replaces it.
    replace: String,
    /// Package of the test.
    package: String,
    /// Integration test program of the package. If unset, the test is inside of the library.
    program: Option<String>,
    /// Path of the test that must fail.
    test: String,
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TestResult {
    Passed,
    Failed,
    /// There is no such test, or it was not built.
    NotRun,
}

/// A built test program.
struct TestProgram {
    path: PathBuf,
    /// The folder of its package.
    folder: PathBuf,
}

/// Tries the mutations. Writes the documentation if all are tried and every test fails.
///
/// # Errors
/// A test passes without its protection, or fails with it.
pub(super) async fn run(root: &Path, arguments: &MutationArguments) -> Result<()> {
    let is_chosen = |mutation: &Mutation| {
        let texts = [&mutation.finding, &mutation.file, &mutation.test];
        let only = arguments.only.as_deref();
        only.is_none_or(|only| texts.iter().any(|text| text.contains(only)))
    };
    let mutations: Vec<Mutation> = read_list(root)?.into_iter().filter(is_chosen).collect();
    ensure!(!mutations.is_empty(), "--only selects no mutation");
    let copy = root.join(FOLDER).join("source");
    copy_workspace(root, &copy)?;
    // All of one program follow each other, so that little is built again.
    let mut programs: BTreeMap<_, Vec<&Mutation>> = BTreeMap::new();
    for mutation in &mutations {
        let program = (&mutation.package, &mutation.program);
        programs.entry(program).or_default().push(mutation);
    }
    let mut problems = Vec::new();
    for of_program in programs.into_values() {
        let mut passing = Vec::new();
        for mutation in of_program {
            match try_test(&copy, mutation).await? {
                TestResult::Passed => passing.push(mutation),
                result => problems.push(format!("{}: {result:?} unchanged", mutation.test)),
            }
        }
        for mutation in passing {
            let result = try_mutation(&copy, mutation).await?;
            let Mutation { without, test, .. } = mutation;
            println!(
                "{}: without {without}: {test}: {result:?}",
                mutation.finding
            );
            if result != TestResult::Failed {
                problems.push(format!("{test}: {result:?} without {without}"));
            }
        }
    }
    ensure!(
        problems.is_empty(),
        "a test must pass, and fail without the protection that it tests:\n{}",
        problems.join("\n")
    );
    if arguments.only.is_none() {
        let text = table(&mutations, &environment(root).await?);
        write_section(&root.join(TESTING), "mutations", &text)?;
    }
    Ok(())
}

fn table(mutations: &[Mutation], environment: &str) -> String {
    let mut text = format!(
        "`cargo xtask bench mutations` saw each of these tests fail without the protection, and \
         pass with it. {environment}\n\n| finding | without | fails |\n|---|---|---|\n"
    );
    for mutation in mutations {
        let name = mutation.test.rsplit("::").next().unwrap_or_default();
        text.push_str(&format!(
            "| {} | {} | `{name}` |\n",
            mutation.finding, mutation.without
        ));
    }
    text
}

/// The mutations of the list, of which each can be applied.
fn read_list(root: &Path) -> Result<Vec<Mutation>> {
    let text =
        fs::read_to_string(root.join(LIST)).with_context(|| format!("cannot read {LIST}"))?;
    let mutations: Vec<Mutation> =
        serde_saphyr::from_str(&text).with_context(|| format!("{LIST} is not valid"))?;
    for mutation in &mutations {
        mutated(root, mutation)?;
    }
    Ok(mutations)
}

/// The text of the file before and after the mutation.
fn mutated(root: &Path, mutation: &Mutation) -> Result<(String, String)> {
    let Mutation { file, find, .. } = mutation;
    let text =
        fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {file}"))?;
    let count = text.matches(find.as_str()).count();
    ensure!(
        count == 1,
        "{LIST}: {:?} occurs {count} times in {file}",
        find.trim()
    );
    let after = text.replacen(find, &mutation.replace, 1);
    Ok((text, after))
}

/// Runs the test of a mutation in the changed copy.
async fn try_mutation(copy: &Path, mutation: &Mutation) -> Result<TestResult> {
    let (before, after) = mutated(copy, mutation)?;
    let file = copy.join(&mutation.file);
    fs::write(&file, after)?;
    let result = try_test(copy, mutation).await;
    fs::write(&file, before)?;
    result
}

async fn try_test(copy: &Path, mutation: &Mutation) -> Result<TestResult> {
    let Some(program) = build(copy, mutation).await? else {
        return Ok(TestResult::NotRun);
    };
    let mut command = Command::new(&program.path);
    command
        .args(["--exact", &mutation.test])
        .current_dir(&program.folder)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let Ok(ended) = tokio::time::timeout(TEST_TIMEOUT, command.output()).await else {
        return Ok(TestResult::Failed);
    };
    let ended = ended?;
    let printed = String::from_utf8_lossy(&ended.stdout);
    Ok(if printed.contains("running 0 tests") {
        TestResult::NotRun
    } else if ended.status.success() {
        TestResult::Passed
    } else {
        TestResult::Failed
    })
}

/// Builds the program of a test. `None` if it does not compile.
async fn build(copy: &Path, mutation: &Mutation) -> Result<Option<TestProgram>> {
    let package = ["--package", &mutation.package];
    let mut command = cargo(copy, &["test", "--no-run"]);
    command
        .args(["--message-format", "json-render-diagnostics"])
        .args(package)
        .env("CARGO_TARGET_DIR", copy.with_file_name("target"));
    match &mutation.program {
        Some(program) => command.args(["--test", program]),
        None => command.arg("--lib"),
    };
    let built = command.stderr(Stdio::inherit()).output().await?;
    if !built.status.success() {
        return Ok(None);
    }
    let printed = String::from_utf8(built.stdout)?;
    let messages = printed.lines().map(serde_json::from_str::<Value>);
    let artifact = messages
        .filter_map(Result::ok)
        .find(|message| message["profile"]["test"] == true && message["executable"].is_string());
    let artifact = artifact.with_context(|| format!("no test program in {package:?}"))?;
    let path = |field: &str| artifact[field].as_str().map(PathBuf::from);
    let (Some(executable), Some(manifest)) = (path("executable"), path("manifest_path")) else {
        bail!("{artifact} names no program");
    };
    Ok(Some(TestProgram {
        path: executable,
        folder: manifest.parent().unwrap_or(copy).to_owned(),
    }))
}

/// Makes the copy equal to the tracked files. Files that are equal already keep their time, so that
/// they are not built again.
fn copy_workspace(root: &Path, copy: &Path) -> Result<()> {
    let mut kept = BTreeSet::new();
    for file in tracked_files(root)? {
        // A file that is tracked may be deleted in the working tree.
        let Ok(content) = fs::read(root.join(&file)) else {
            continue;
        };
        let target = copy.join(&file);
        if fs::read(&target).is_ok_and(|existing| existing == content) {
            kept.insert(target);
            continue;
        }
        fs::create_dir_all(target.parent().unwrap_or(copy))?;
        fs::write(&target, content)?;
        kept.insert(target);
    }
    remove_others(copy, &kept)
}

fn remove_others(folder: &Path, kept: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(&path, kept)?;
        } else if !kept.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutation_can_be_applied_and_names_a_test() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let sources: Vec<String> = tracked_files(root)
            .unwrap()
            .iter()
            .filter(|file| Path::new(file).extension().is_some_and(|end| end == "rs"))
            .filter_map(|file| fs::read_to_string(root.join(file)).ok())
            .collect();
        let mutations = read_list(root).unwrap();
        for mutation in &mutations {
            let name = mutation.test.rsplit("::").next().unwrap();
            let declared = format!("fn {name}(");
            let exists = sources.iter().any(|source| source.contains(&declared));
            assert!(exists, "{LIST}: there is no test {}", mutation.test);
            assert_ne!(mutation.find, mutation.replace, "{}", mutation.test);
        }
        let has = |finding: &str| mutations.iter().any(|one| one.finding == finding);
        let high = (1..=6).map(|number| format!("H{number}"));
        let medium = (1..=11).map(|number| format!("M{number}"));
        let missing: Vec<String> = high.chain(medium).filter(|finding| !has(finding)).collect();
        assert_eq!(missing, Vec::<String>::new());
    }
}
