//! `convert` on the examples of Argo Rollouts and Flagger, from their Go modules.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test, outside its functions"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use serin_cluster::module_sources;
use serin_convert::{Options, Outcome, convert};
use serin_kubectl::documents;
use serin_kubectl::lint;

const DOCS: &str = include_str!("../../docs/how-to/convert-manifests.md");

/// A folder with examples.
struct Samples {
    /// As in the table of the documentation.
    name: &'static str,
    /// The folder with the `go.mod` that pins the version.
    pins: &'static str,
    module: &'static str,
    folder: &'static str,
    /// Group and kind of what is converted.
    kind: (&'static str, &'static str),
}

const ARGO: Samples = Samples {
    name: "Argo Rollouts 1.10.1, `examples`",
    pins: "argo-rollouts",
    module: "github.com/argoproj/argo-rollouts",
    folder: "examples",
    kind: ("argoproj.io", "Rollout"),
};
const FLAGGER: Samples = Samples {
    name: "Flagger 1.41.0, `artifacts/examples`",
    pins: "flagger",
    module: "github.com/fluxcd/flagger",
    folder: "artifacts/examples",
    kind: ("flagger.app", "Canary"),
};

/// Numbers of converted objects: whole, with notes, not at all.
type Counts = [usize; 3];

/// The folders below `root` that contain YAML files.
fn folders(root: &Path, found: &mut BTreeMap<PathBuf, Vec<PathBuf>>) {
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let is_yaml = path
            .extension()
            .is_some_and(|kind| kind == "yaml" || kind == "yml");
        if path.is_dir() {
            folders(&path, found);
        } else if is_yaml {
            found.entry(root.to_owned()).or_default().push(path);
        }
    }
}

fn group_and_kind(object: &Value) -> (&str, &str) {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let group = version.split_once('/').map_or("", |(group, _)| group);
    (group, object["kind"].as_str().unwrap_or_default())
}

/// The objects of one file with what other files of the folder define: analysis templates of that
/// folder can be used by all of them.
fn sets(folder: &Path, files: &[PathBuf], kind: (&str, &str)) -> Vec<Vec<Value>> {
    let read = |file: &PathBuf| {
        // Templates of Helm are no YAML.
        let documents = documents::read(std::slice::from_ref(file)).unwrap();
        let objects = documents.objects.into_iter();
        objects.map(|document| document.object).collect::<Vec<_>>()
    };
    let by_file: Vec<Vec<Value>> = files.iter().map(read).collect();
    let is_template = |object: &&Value| group_and_kind(object).1.contains("Template");
    let templates: Vec<Value> = by_file
        .iter()
        .flatten()
        .filter(is_template)
        .cloned()
        .collect();
    let with_kind = by_file.iter().filter(|objects| {
        let mut objects = objects.iter();
        objects.any(|object| group_and_kind(object) == kind)
    });
    let sets = with_kind.map(|objects| {
        let named = |object: &Value| (object["kind"].clone(), object["metadata"]["name"].clone());
        let own: Vec<(Value, Value)> = objects.iter().map(named).collect();
        let others = templates
            .iter()
            .filter(|template| !own.contains(&named(template)));
        objects.iter().chain(others).cloned().collect()
    });
    let sets: Vec<Vec<Value>> = sets.collect();
    assert!(sets.len() <= files.len(), "{}", folder.display());
    sets
}

/// Converts all samples, and checks that lint accepts every result.
async fn count(samples: &Samples, options: &Options) -> Counts {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/scale/tools");
    let module = module_sources(&tools.join(samples.pins), samples.module).await;
    let mut found = BTreeMap::new();
    folders(&module.unwrap().join(samples.folder), &mut found);
    let mut counts = [0; 3];
    let mut refusals = BTreeSet::new();
    for (folder, files) in &found {
        for set in sets(folder, files, samples.kind) {
            let conversions = convert(&set, options);
            for (object, conversion) in set.iter().zip(&conversions) {
                for output in &conversion.outputs {
                    let is_own = output["apiVersion"] == "serin.dev/v1alpha1";
                    let errors = if is_own {
                        lint::errors(output)
                    } else {
                        Vec::new()
                    };
                    assert_eq!(errors, Vec::<String>::new(), "{output:#}");
                }
                if group_and_kind(object) != samples.kind {
                    continue;
                }
                let index = match conversion.outcome {
                    Outcome::Whole => 0,
                    Outcome::WithNotes => 1,
                    Outcome::NotConverted => 2,
                    other => panic!("{other:?}: {:?}", conversion.source),
                };
                counts[index] += 1;
                if index == 2 {
                    refusals.extend(conversion.notes.first().map(|note| note.message.clone()));
                }
            }
        }
    }
    eprintln!("{}: {counts:?}, refused: {refusals:?}", samples.name);
    counts
}

fn with_gateway() -> Options {
    Options {
        gateway: Some("infra/public".to_owned()),
        indicator: Some("traefik".to_owned()),
        ..Options::default()
    }
}

/// At least as many as before are converted, and the documentation has the numbers.
async fn assert_counts(samples: &Samples, options: Options, how: &str, floor: Counts) {
    let counts = count(samples, &options).await;
    let [whole, with_notes, refused] = counts;
    let [least_whole, least_notes, most_refused] = floor;
    assert!(whole >= least_whole, "{counts:?}");
    assert!(
        whole + with_notes >= least_whole + least_notes,
        "{counts:?}"
    );
    assert!(refused <= most_refused, "{counts:?}");
    let row = format!(
        "| {} | {how} | {whole} | {with_notes} | {refused} |",
        samples.name
    );
    assert!(
        DOCS.contains(&row),
        "docs/how-to/convert-manifests.md: {row}"
    );
}

#[tokio::test]
#[ignore = "needs Go: cargo xtask test"]
async fn the_examples_of_argo_rollouts_are_converted() {
    assert_counts(&ARGO, Options::default(), "as they are", [5, 10, 6]).await;
    assert_counts(&ARGO, with_gateway(), "`--gateway`", [5, 16, 0]).await;
}

#[tokio::test]
#[ignore = "needs Go: cargo xtask test"]
async fn the_examples_of_flagger_are_converted() {
    assert_counts(&FLAGGER, Options::default(), "as they are", [0, 2, 7]).await;
    assert_counts(&FLAGGER, with_gateway(), "`--gateway`", [0, 7, 2]).await;
}
