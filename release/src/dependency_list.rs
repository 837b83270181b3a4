//! The list of dependencies inside of each program, in the format of `cargo auditable`
//! (<https://github.com/rust-secure-code/cargo-auditable/blob/master/PARSING.md>). Scanners of images
//! read it, for example `trivy`, `grype` and `cargo audit bin`.
//!
//! It is JSON, compressed with zlib, in the section `.dep-v0`. The assembler of the C compiler makes an
//! object file of it, which is linked into the programs.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde_json::{Value, json};
use serin_cluster::sha256_hex;
use tokio::process::Command;

use crate::bill_of_materials::{Metadata, linked_packages};

const SECTION: &str = ".dep-v0";
/// The symbol that keeps the linker from dropping the section. `cargo auditable` has the same.
pub(crate) const SYMBOL: &str = "AUDITABLE_VERSION_INFO";

/// A list, ready to be linked.
pub(crate) struct DependencyList {
    /// The object file. Its name contains a digest, so that Cargo links again if the list changes.
    pub(crate) object: PathBuf,
    compressed: Vec<u8>,
}

impl DependencyList {
    /// The list of `package` as it is built for `target`, assembled by `compiler` in `folder`.
    pub(crate) async fn build(
        checkout: &Path,
        package: &str,
        target: &str,
        compiler: &str,
        folder: &Path,
    ) -> Result<Self> {
        let metadata = Metadata::read(checkout, target).await?;
        let list = list(&metadata, package)?;
        let compressed = compress(list.to_string().as_bytes())?;
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let digest = sha256_hex(&compressed);
        let short = digest.get(..12).unwrap_or(&digest);
        let path = |extension: &str| folder.join(format!("{package}-{target}-{short}.{extension}"));
        let (content, assembly, object) = (path("zlib"), path("s"), path("o"));
        crate::write(&content, &compressed)?;
        crate::write(&assembly, assembly_of(&content).as_bytes())?;
        let output = Command::new(compiler)
            .arg("-c")
            .arg(&assembly)
            .arg("-o")
            .arg(&object)
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("cannot start {compiler}"))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            bail!(
                "{compiler} cannot assemble {}: {}",
                assembly.display(),
                text.trim()
            );
        }
        Ok(Self { object, compressed })
    }

    /// Checks that a program contains the list.
    pub(crate) fn ensure_in(&self, program: &Path) -> Result<()> {
        let content =
            std::fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
        let contains = |part: &[u8]| content.windows(part.len()).any(|window| window == part);
        ensure!(
            contains(SECTION.as_bytes()) && contains(&self.compressed),
            "{} does not contain its list of dependencies in the section {SECTION}",
            program.display()
        );
        Ok(())
    }
}

/// An assembly file whose section has the content of a file. The stack of the program stays not
/// executable.
fn assembly_of(content: &Path) -> String {
    format!(
        ".section {SECTION},\"a\"\n.globl {SYMBOL}\n{SYMBOL}:\n.incbin \"{}\"\n\
         .section .note.GNU-stack,\"\",%progbits\n",
        content.display()
    )
}

fn compress(content: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content)?;
    Ok(encoder.finish()?)
}

/// The packages that are linked into the programs of `root`, by name and version, each with the
/// indexes of its dependencies.
fn list(metadata: &Metadata, root: &str) -> Result<Value> {
    let linked = linked_packages(metadata, &[root]);
    let mut packages: Vec<_> = metadata
        .packages
        .iter()
        .filter(|package| linked.contains(package.id.as_str()))
        .collect();
    ensure!(
        packages.iter().any(|package| package.name == root),
        "there is no package {root}"
    );
    packages.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
    let indexes: BTreeMap<&str, usize> = packages
        .iter()
        .enumerate()
        .map(|(index, package)| (package.id.as_str(), index))
        .collect();
    let entries = packages.iter().map(|package| {
        let dependencies = metadata.normal_dependencies(&package.id);
        let mut indexes: Vec<usize> = dependencies
            .filter_map(|id| indexes.get(id).copied())
            .collect();
        indexes.sort_unstable();
        let source = package.source.as_deref().map_or("local", |source| {
            if source.contains("crates.io-index") {
                "crates.io"
            } else {
                "registry"
            }
        });
        let mut entry = json!({
            "name": package.name, "version": package.version, "source": source,
        });
        if !indexes.is_empty() {
            entry["dependencies"] = json!(indexes);
        }
        if package.name == root {
            entry["root"] = json!(true);
        }
        entry
    });
    Ok(json!({"packages": entries.collect::<Vec<_>>()}))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::ZlibDecoder;

    use super::*;

    fn metadata() -> Metadata {
        let package = |name: &str, source: Option<&str>| json!({"id": name, "name": name, "version": "1.0.0", "license": "MIT", "source": source});
        let crates_io = Some("registry+https://github.com/rust-lang/crates.io-index");
        let dependency =
            |name: &str, kind: Option<&str>| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        serde_json::from_value(json!({
            "packages": [package("program", None), package("below", crates_io),
                package("linked", crates_io), package("tests", crates_io)],
            "resolve": {"nodes": [
                {"id": "program", "deps": [dependency("linked", None), dependency("tests", Some("dev"))]},
                {"id": "linked", "deps": [dependency("below", None)]},
                {"id": "below", "deps": []},
                {"id": "tests", "deps": []},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn the_list_has_what_is_linked_with_its_dependencies() {
        assert_eq!(
            list(&metadata(), "program").unwrap(),
            json!({"packages": [
                {"name": "below", "version": "1.0.0", "source": "crates.io"},
                {"name": "linked", "version": "1.0.0", "source": "crates.io", "dependencies": [0]},
                {"name": "program", "version": "1.0.0", "source": "local", "dependencies": [1], "root": true},
            ]})
        );
        assert!(list(&metadata(), "other").is_err());
    }

    #[test]
    fn a_scanner_can_decompress_the_list() {
        let compressed = compress(b"{\"packages\":[]}").unwrap();
        let mut text = String::new();
        ZlibDecoder::new(&*compressed)
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "{\"packages\":[]}");
    }

    #[test]
    fn the_section_is_kept_and_the_stack_is_not_executable() {
        let text = assembly_of(Path::new("/tmp/list.zlib"));
        for part in [
            ".section .dep-v0,\"a\"",
            ".incbin \"/tmp/list.zlib\"",
            ".note.GNU-stack",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_program_without_the_list_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        let list = DependencyList {
            object: PathBuf::new(),
            compressed: b"compressed".to_vec(),
        };
        std::fs::write(&program, b"\x7fELF ... .dep-v0").unwrap();
        assert!(list.ensure_in(&program).is_err());
        std::fs::write(&program, b"\x7fELF compressed .dep-v0").unwrap();
        list.ensure_in(&program).unwrap();
    }
}
