//! `kubectl serin convert`: translates the manifests of other controllers, without a cluster.

use std::io::Write;

use serde_json::{Value, json};
use serin_convert::{Conversion, NoteLevel, Options, Outcome, convert};

use crate::cli::{ConvertFormat, ManifestConvertArgs};
use crate::cluster_objects;
use crate::connect::Connection;
use crate::display_text::{escaped_json, printable};
use crate::documents::{self, Documents};
use crate::exit::{CliError, Exit};
use crate::lint::infeasible_objectives;

/// Converts the files and objects of the arguments. Prints the objects or the report on `out`, and a
/// summary on `aside`. `connection` is needed to read objects of a cluster.
///
/// Returns [`Exit::Refused`] if an object was not converted or a document is not readable.
///
/// # Errors
/// A file cannot be opened, or the output cannot be written.
pub async fn run(
    args: &ManifestConvertArgs,
    connection: Option<&Connection>,
    out: &mut dyn Write,
    aside: &mut dyn Write,
) -> Result<Exit, CliError> {
    let mut documents = documents::read(&args.files)?;
    if let Some(connection) = connection {
        cluster_objects::read(connection, &args.from_cluster, &mut documents).await?;
    }
    print(args, &documents, out, aside)
}

/// Converts the documents and prints the result.
fn print(
    args: &ManifestConvertArgs,
    documents: &Documents,
    out: &mut dyn Write,
    aside: &mut dyn Write,
) -> Result<Exit, CliError> {
    let objects: Vec<Value> = documents
        .objects
        .iter()
        .map(|document| document.object.clone())
        .collect();
    let options = Options {
        inline: args.inline,
        gateway: args.gateway.clone(),
        indicator: args.indicator.clone(),
    };
    let conversions = convert(&objects, &options);
    if objects.is_empty() && documents.problems.is_empty() {
        return Err(CliError::new(Exit::Usage, "the input contains no objects"));
    }
    match (args.output, args.report) {
        (ConvertFormat::Json, _) => print_json(documents, &conversions, args, out)?,
        (ConvertFormat::Yaml, true) => print_report(documents, &conversions, args, out)?,
        (ConvertFormat::Yaml, false) => print_yaml(documents, &conversions, out)?,
    }
    for problem in &documents.problems {
        writeln!(aside, "{}", printable(problem))?;
    }
    if !args.report {
        writeln!(aside, "{}", summary(&conversions))?;
    }
    let is_refused = |conversion: &Conversion| conversion.outcome == Outcome::NotConverted;
    if !documents.problems.is_empty() || conversions.iter().any(is_refused) {
        return Ok(Exit::Refused);
    }
    Ok(Exit::Done)
}

/// The sources of an outcome.
fn count(conversions: &[Conversion], outcome: Outcome) -> usize {
    let same = conversions
        .iter()
        .filter(|conversion| conversion.outcome == outcome);
    same.count()
}

fn summary(conversions: &[Conversion]) -> String {
    format!(
        "{} converted whole, {} with notes, {} not converted, {} part of another object, {} unchanged",
        count(conversions, Outcome::Whole),
        count(conversions, Outcome::WithNotes),
        count(conversions, Outcome::NotConverted),
        count(conversions, Outcome::Absorbed),
        count(conversions, Outcome::Unchanged),
    )
}

/// The objects as YAML documents. An object that stays as it is keeps its text with its comments; an
/// object that is converted keeps the comments above it.
fn print_yaml(
    documents: &Documents,
    conversions: &[Conversion],
    out: &mut dyn Write,
) -> Result<(), CliError> {
    for (document, conversion) in documents.objects.iter().zip(conversions) {
        // A line break in a name would end the comment.
        let source = describe(conversion);
        let source = printable(&source);
        match conversion.outcome {
            Outcome::Absorbed if conversion.notes.is_empty() => continue,
            Outcome::Absorbed => writeln!(out, "---\n# {source} was left out:")?,
            Outcome::Unchanged if document.text.is_empty() => {
                write!(out, "---\n{}", yaml(&document.object)?)?;
                continue;
            }
            Outcome::Unchanged => {
                write!(out, "---\n{}\n", document.text.trim_matches('\n'))?;
                continue;
            }
            Outcome::NotConverted => {
                writeln!(out, "---\n# {source} was not converted:")?;
            }
            Outcome::Whole | Outcome::WithNotes => {
                writeln!(out, "---")?;
                for comment in leading_comments(&document.text) {
                    writeln!(out, "{}", printable(comment))?;
                }
                writeln!(out, "# Converted from {source}.")?;
            }
        }
        for note in &conversion.notes {
            writeln!(out, "# {}", printable(&describe_note(note)))?;
        }
        for (index, output) in conversion.outputs.iter().enumerate() {
            let separator = if index == 0 { "" } else { "---\n" };
            write!(out, "{separator}{}", yaml(output)?)?;
        }
    }
    Ok(())
}

fn leading_comments(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().skip_while(|line| line.trim().is_empty());
    lines.take_while(|line| line.starts_with('#'))
}

fn yaml(object: &Value) -> Result<String, CliError> {
    let text = serde_saphyr::to_string(object);
    let mut text =
        text.map_err(|error| CliError::new(Exit::Usage, format!("cannot print YAML: {error}")))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

fn describe_note(note: &serin_convert::Note) -> String {
    let fix = match note.fix.as_str() {
        "" => String::new(),
        fix => format!("; {fix}"),
    };
    format!(
        "{}: {}: {}{fix}",
        note.level.word(),
        note.field,
        note.message
    )
}

fn describe(conversion: &Conversion) -> String {
    let source = &conversion.source;
    let group = source.group_and_kind().0;
    let kind = match group {
        "" => source.kind.clone(),
        group => format!("{}.{group}", source.kind),
    };
    match &source.namespace {
        Some(namespace) => format!("{kind} {namespace}/{}", source.name),
        None => format!("{kind} {}", source.name),
    }
}

const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Whole => "whole",
        Outcome::WithNotes => "with notes",
        Outcome::NotConverted => "not converted",
        Outcome::Unchanged => "unchanged",
        Outcome::Absorbed => "part of another object",
    }
}

fn print_json(
    documents: &Documents,
    conversions: &[Conversion],
    args: &ManifestConvertArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let entries = documents
        .objects
        .iter()
        .zip(conversions)
        .map(|(document, conversion)| {
            let source = &conversion.source;
            let outputs = match conversion.outcome {
                Outcome::Unchanged => vec![document.object.clone()],
                _ => conversion.outputs.clone(),
            };
            json!({
                "source": document.source,
                "kind": source.kind,
                "apiVersion": source.api_version,
                "namespace": source.namespace,
                "name": source.name,
                "outcome": word(conversion.outcome),
                "notes": conversion.notes,
                "traffic": feasibility(conversion, args),
                "objects": if args.report { Vec::new() } else { outputs },
            })
        });
    let result = json!({
        "objects": entries.collect::<Vec<_>>(),
        "unreadable": documents.problems,
    });
    writeln!(out, "{}", escaped_json(&format!("{result:#}")))?;
    Ok(())
}

fn feasibility(conversion: &Conversion, args: &ManifestConvertArgs) -> Vec<String> {
    let outputs = conversion.outputs.iter();
    outputs
        .flat_map(|output| infeasible_objectives(output, &args.traffic))
        .collect()
}

/// How much of the input converts, by object, with the reasons.
fn print_report(
    documents: &Documents,
    conversions: &[Conversion],
    args: &ManifestConvertArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    writeln!(out, "{}\n", summary(conversions))?;
    for (document, conversion) in documents.objects.iter().zip(conversions) {
        let is_replaced = conversion.outcome == Outcome::Absorbed && conversion.notes.is_empty();
        if is_replaced || conversion.outcome == Outcome::Unchanged {
            continue;
        }
        let line = format!(
            "{}: {}: {}",
            document.source,
            describe(conversion),
            word(conversion.outcome)
        );
        writeln!(out, "{}", printable(&line))?;
        for note in conversion
            .notes
            .iter()
            .filter(|note| note.level != NoteLevel::Kept)
        {
            writeln!(out, "  {}", printable(&describe_note(note)))?;
        }
        for sentence in feasibility(conversion, args) {
            writeln!(out, "  traffic: {}", printable(&sentence))?;
        }
    }
    let unknown = rollouts_without_rate(conversions, args);
    if unknown > 0 {
        writeln!(
            out,
            "\nThe traffic of {unknown} Rollouts is not known. Give it with --rps NAME=NUMBER to see \
             which objectives it can prove."
        )?;
    }
    Ok(())
}

/// The number of Rollouts with objectives whose traffic was not given.
fn rollouts_without_rate(conversions: &[Conversion], args: &ManifestConvertArgs) -> usize {
    let outputs = conversions
        .iter()
        .flat_map(|conversion| &conversion.outputs);
    let unknown = outputs.filter(|output| {
        let has_objectives = output["spec"]["analysis"]["objectives"].is_array();
        let name = &output["metadata"]["name"];
        has_objectives && args.traffic.rates.iter().all(|rate| *name != *rate.name)
    });
    unknown.count()
}
