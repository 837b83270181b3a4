//! The pinned programs and CustomResourceDefinitions of the benchmark.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;
use serin_cluster::{
    GoModule, ProgramFiles, Progress, build_cluster_programs, build_programs, module_sources,
};

use crate::product::{Product, ProductKind};

const CONTROL_PLANE: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

const KWOK: GoModule = GoModule {
    name: "kwok",
    version: "kwok 0.7.0",
    linker: "",
    programs: &[("kwok", "sigs.k8s.io/kwok/cmd/kwok")],
};
const ARGO_ROLLOUTS: GoModule = GoModule {
    name: "argo-rollouts",
    version: "Argo Rollouts 1.10.1",
    linker: "-X github.com/argoproj/argo-rollouts/utils/version.version=v1.10.1",
    programs: &[(
        "rollouts-controller",
        "github.com/argoproj/argo-rollouts/cmd/rollouts-controller",
    )],
};
const FLAGGER: GoModule = GoModule {
    name: "flagger",
    version: "Flagger 1.41.0",
    linker: "",
    programs: &[("flagger", "github.com/fluxcd/flagger/cmd/flagger")],
};

/// Built programs and read definitions.
pub(crate) struct Tools {
    programs: ProgramFiles,
    definitions: BTreeMap<ProductKind, Vec<Value>>,
}

impl Tools {
    /// Builds what is missing in the cache for the products.
    ///
    /// # Errors
    /// If Go is missing, or if a program does not build.
    pub(crate) async fn prepare(checkout: &Path, products: &[Product]) -> Result<Self> {
        let progress = Progress::detect();
        let sources = checkout.join("e2e/scale/tools");
        let mut programs = build_cluster_programs(checkout, &CONTROL_PLANE, progress).await?;
        let mut definitions = BTreeMap::new();
        let mut modules = vec![KWOK];
        for product in products {
            let kind = product.kind();
            if definitions.contains_key(&kind) {
                continue;
            }
            let folder = match kind {
                ProductKind::Serin => checkout.join("crds/yaml"),
                ProductKind::Argo => {
                    modules.push(ARGO_ROLLOUTS);
                    let pins = sources.join(ARGO_ROLLOUTS.name);
                    let module = module_sources(&pins, "github.com/argoproj/argo-rollouts").await?;
                    module.join("manifests/crds")
                }
                ProductKind::Flagger => {
                    modules.push(FLAGGER);
                    let pins = sources.join(FLAGGER.name);
                    let module = module_sources(&pins, "github.com/fluxcd/flagger").await?;
                    module.join("artifacts/flagger")
                }
            };
            definitions.insert(kind, read_definitions(&folder)?);
        }
        programs.extend(build_programs(&sources, &modules, progress).await?);
        Ok(Self {
            programs,
            definitions,
        })
    }

    /// The file of a program.
    pub(crate) fn program(&self, name: &str) -> Result<&PathBuf> {
        let file = self.programs.get(name);
        file.with_context(|| format!("{name} is not pinned"))
    }

    /// The CustomResourceDefinitions of a product.
    pub(crate) fn definitions(&self, kind: ProductKind) -> &[Value] {
        self.definitions.get(&kind).map_or(&[], Vec::as_slice)
    }
}

/// The CustomResourceDefinitions in the YAML files of a folder.
fn read_definitions(folder: &Path) -> Result<Vec<Value>> {
    let mut definitions = Vec::new();
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("cannot read the definitions in {}", folder.display()))?;
    for entry in entries {
        let file = entry?.path();
        if file
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let text = std::fs::read_to_string(&file)?;
            let objects: Vec<Value> = serde_saphyr::from_multiple(&text)
                .with_context(|| format!("cannot parse {}", file.display()))?;
            let is_definition = |object: &Value| object["kind"] == "CustomResourceDefinition";
            definitions.extend(objects.into_iter().filter(is_definition));
        }
    }
    Ok(definitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_is_pinned_at_its_displayed_version() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools");
        for module in [KWOK, ARGO_ROLLOUTS, FLAGGER] {
            let pins = std::fs::read_to_string(sources.join(module.name).join("go.mod")).unwrap();
            let number = module.version.rsplit(' ').next().unwrap();
            let (_, package) = module.programs[0];
            assert!(pins.contains(&format!("tool {package}\n")), "{package}");
            let is_pinned = |line: &str| {
                let mut words = line.split_whitespace().filter(|word| *word != "require");
                let path = words.next().unwrap_or_default();
                !path.is_empty()
                    && package.starts_with(path)
                    && words.next() == Some(&format!("v{number}"))
            };
            assert!(pins.lines().any(is_pinned), "{} {number}", module.name);
            assert!(sources.join(module.name).join("go.sum").is_file());
        }
    }

    #[test]
    fn the_definitions_of_serin_are_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds/yaml");
        let definitions = read_definitions(&folder).unwrap();
        let name = |definition: &Value| definition["metadata"]["name"].as_str().map(str::to_owned);
        let mut names: Vec<_> = definitions.iter().filter_map(name).collect();
        names.sort();
        let expected = [
            "analysistemplates",
            "rolloutcommands",
            "rolloutpolicies",
            "rollouts",
        ];
        assert_eq!(names, expected.map(|plural| format!("{plural}.serin.dev")));
    }
}
