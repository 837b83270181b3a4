//! Builds images from static binaries without a container engine.
//!
//! An archive is a tar file of an OCI image layout
//! (<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>), which containerd,
//! Podman, skopeo, crane and kind import. Archives are reproducible: the same binaries give the same
//! digest.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::host::{command, run};
use crate::instance::hex;

/// The user id of the image: not root, as the restricted pod security standard requires.
const USER_ID: u32 = 65532;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image of one program.
#[derive(Clone, Debug)]
pub struct Image {
    /// Name and tag as in pod specs, for example `sample:v1`.
    pub reference: String,
    /// The program for each architecture.
    pub binaries: Vec<ImageBinary>,
}

/// A program of an image. It must not depend on other files than its libraries, and becomes
/// `/<file name>`, the entry point.
#[derive(Clone, Debug)]
pub struct ImageBinary {
    /// Architecture as OCI calls it: `amd64` or `arm64`.
    pub architecture: &'static str,
    /// The file.
    pub path: PathBuf,
    /// The libraries that the program loads. Each has the same absolute path in the image. Empty for
    /// a static program.
    pub libraries: Vec<PathBuf>,
}

/// The files of an image.
#[derive(Clone, Debug)]
pub struct ImageContent {
    /// Digest of the image: of its manifest, or of the index of several architectures.
    pub digest: String,
    /// Media type of the image.
    pub media_type: String,
    /// All files, also the manifests, by their digests.
    pub blobs: BTreeMap<String, Vec<u8>>,
}

impl Image {
    /// An image for the architecture of this machine.
    pub fn local(reference: impl Into<String>, binary: PathBuf) -> Self {
        let architecture = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        };
        Self {
            reference: reference.into(),
            binaries: vec![ImageBinary {
                architecture,
                path: binary,
                libraries: Vec::new(),
            }],
        }
    }

    /// Like [`Image::local`], with the libraries of this machine that the program loads.
    ///
    /// # Errors
    /// If `ldd` fails, or if a library is missing on this machine.
    pub async fn local_with_libraries(
        reference: impl Into<String>,
        binary: PathBuf,
    ) -> Result<Self> {
        let list = run(command("ldd").arg(&binary)).await?;
        let libraries = parse_libraries(&list)?;
        let mut image = Self::local(reference, binary);
        for program in &mut image.binaries {
            program.libraries.clone_from(&libraries);
        }
        Ok(image)
    }

    /// Writes the archive. Returns the digest of the image, for example `sha256:0123...`. With
    /// several architectures, it is the digest of their index.
    ///
    /// # Errors
    /// If a binary cannot be read, if there is none, or if `archive` cannot be written.
    pub fn write(&self, archive: &Path) -> Result<String> {
        let (mut image, layout) = self.layout()?;
        // containerd takes the name from its own annotation, other tools from that of OCI.
        image["annotations"] = json!({
            "io.containerd.image.name": full_name(&self.reference),
            "org.opencontainers.image.ref.name": self.reference,
        });
        layout.write(&image, archive)?;
        let digest = image["digest"].as_str().unwrap_or_default();
        Ok(digest.to_owned())
    }

    /// The files of the image, to be pushed to a registry.
    ///
    /// # Errors
    /// If a binary cannot be read, or if there is none.
    pub fn content(&self) -> Result<ImageContent> {
        let (image, layout) = self.layout()?;
        let text = |field: &str| image[field].as_str().unwrap_or_default().to_owned();
        let blobs = layout.blobs.into_iter().map(|(path, content)| {
            let hex = path.rsplit('/').next().unwrap_or_default();
            (format!("sha256:{hex}"), content)
        });
        Ok(ImageContent {
            digest: text("digest"),
            media_type: text("mediaType"),
            blobs: blobs.collect(),
        })
    }

    /// The descriptor of the image, and its files.
    fn layout(&self) -> Result<(Value, Layout)> {
        ensure!(!self.binaries.is_empty(), "an image needs a binary");
        let mut layout = Layout::default();
        let manifests = self
            .binaries
            .iter()
            .map(|binary| layout.add_program(binary))
            .collect::<Result<Vec<_>>>()?;
        let image = match <[Value; 1]>::try_from(manifests) {
            Ok([manifest]) => manifest,
            Err(manifests) => layout.add_json(
                INDEX,
                &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}),
            ),
        };
        Ok((image, layout))
    }
}

/// The files of a layout by path.
#[derive(Default)]
struct Layout {
    blobs: BTreeMap<String, Vec<u8>>,
}

impl Layout {
    /// Adds the layer, the configuration and the manifest of a program. Returns the descriptor of
    /// the manifest.
    fn add_program(&mut self, binary: &ImageBinary) -> Result<Value> {
        let name = binary
            .path
            .file_name()
            .and_then(OsStr::to_str)
            .with_context(|| format!("{} has no usable name", binary.path.display()))?;
        let content = std::fs::read(&binary.path)
            .with_context(|| format!("cannot read {}", binary.path.display()))?;
        let mut layer = tar::Builder::new(Vec::new());
        append_file(&mut layer, name, 0o755, &content)?;
        for library in &binary.libraries {
            let content = std::fs::read(library)
                .with_context(|| format!("cannot read {}", library.display()))?;
            let path = library.to_string_lossy();
            append_file(&mut layer, path.trim_start_matches('/'), 0o755, &content)?;
        }
        let layer = self.add(LAYER, layer.into_inner()?);
        let config = json!({
            "architecture": binary.architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": [format!("/{name}")],
                // A pod may name the program without its path.
                "Env": ["PATH=/"],
                "User": format!("{USER_ID}:{USER_ID}"),
                "WorkingDir": "/",
            },
            // The layer is not compressed, so that both digests are the same.
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "serin-cluster"}],
        });
        let config = self.add_json(CONFIG, &config);
        let mut manifest = self.add_json(
            MANIFEST,
            &json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": config,
                "layers": [layer],
            }),
        );
        manifest["platform"] = json!({"architecture": binary.architecture, "os": "linux"});
        Ok(manifest)
    }

    fn add_json(&mut self, media_type: &str, content: &Value) -> Value {
        self.add(media_type, content.to_string().into_bytes())
    }

    /// Adds a file. Returns its descriptor.
    fn add(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let digest = sha256_hex(&content);
        let descriptor = json!({
            "mediaType": media_type,
            "digest": format!("sha256:{digest}"),
            "size": content.len(),
        });
        self.blobs.insert(format!("blobs/sha256/{digest}"), content);
        descriptor
    }

    fn write(&self, image: &Value, archive: &Path) -> Result<()> {
        let file =
            File::create(archive).with_context(|| format!("cannot write {}", archive.display()))?;
        let mut out = tar::Builder::new(BufWriter::new(file));
        let layout = json!({"imageLayoutVersion": "1.0.0"}).to_string();
        append_file(&mut out, "oci-layout", 0o644, layout.as_bytes())?;
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [image]});
        append_file(&mut out, "index.json", 0o644, index.to_string().as_bytes())?;
        for (path, content) in &self.blobs {
            append_file(&mut out, path, 0o644, content)?;
        }
        out.into_inner()?.flush()?;
        Ok(())
    }
}

/// The paths of the libraries in the output of `ldd`.
fn parse_libraries(list: &str) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in list.lines() {
        ensure!(
            !line.contains("not found"),
            "a library is missing: {}",
            line.trim()
        );
        // `name => path (address)`, or `path (address)` for the loader. The kernel's own library has
        // no path.
        let path = line.split_whitespace().find(|word| word.starts_with('/'));
        libraries.extend(path.map(PathBuf::from));
    }
    Ok(libraries)
}

/// The SHA-256 digest in hexadecimal digits.
pub fn sha256_hex(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

/// Adds a file whose metadata depends on nothing but its mode.
///
/// # Errors
/// If the archive cannot be written.
pub fn append_file(
    archive: &mut tar::Builder<impl Write>,
    name: &str,
    mode: u32,
    content: &[u8],
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, name, content)?;
    Ok(())
}

/// The full name of an image in containerd, including the registry that short names omit.
pub(crate) fn full_name(reference: &str) -> String {
    match reference.split_once('/') {
        None => format!("docker.io/library/{reference}"),
        Some((first, _)) if first == "localhost" || first.contains(['.', ':']) => {
            reference.to_owned()
        }
        Some(_) => format!("docker.io/{reference}"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn entries(archive: impl Read) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let mut found = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            found.insert(name, content);
        }
        found
    }

    fn pack(folder: &Path, content: &[u8]) -> Vec<u8> {
        let binary = folder.join("sample");
        std::fs::write(&binary, content).unwrap();
        let archive = folder.join("sample.tar");
        Image::local("sample:v1", binary).write(&archive).unwrap();
        std::fs::read(archive).unwrap()
    }

    /// The file that a descriptor names. Its size and digest must be those of the descriptor.
    fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
        let digest = descriptor["digest"].as_str().unwrap();
        let hash = digest.strip_prefix("sha256:").unwrap();
        let content = &files[&format!("blobs/sha256/{hash}")];
        assert_eq!(sha256_hex(content), hash);
        assert_eq!(descriptor["size"], content.len());
        content
    }

    fn json_blob(files: &BTreeMap<String, Vec<u8>>, descriptor: &Value) -> Value {
        serde_json::from_slice(blob(files, descriptor)).unwrap()
    }

    #[test]
    fn index_manifest_config_and_layer_refer_to_each_other_by_digest() {
        let folder = tempfile::tempdir().unwrap();
        let files = entries(&pack(folder.path(), b"binary")[..]);
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let descriptor = &index["manifests"][0];
        assert_eq!(
            descriptor["annotations"]["io.containerd.image.name"],
            "docker.io/library/sample:v1"
        );
        let manifest = json_blob(&files, descriptor);
        let config = json_blob(&files, &manifest["config"]);
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            manifest["layers"][0]["digest"]
        );
        assert_eq!(config["config"]["Entrypoint"][0], "/sample");
        let layer = blob(&files, &manifest["layers"][0]);
        assert_eq!(entries(layer)["sample"], b"binary");
    }

    #[test]
    fn several_architectures_share_one_index() {
        let folder = tempfile::tempdir().unwrap();
        let binaries = ["amd64", "arm64"].map(|architecture| {
            let path = folder.path().join(architecture).join("sample");
            std::fs::create_dir(path.parent().unwrap()).unwrap();
            std::fs::write(&path, architecture).unwrap();
            ImageBinary {
                architecture,
                path,
                libraries: Vec::new(),
            }
        });
        let image = Image {
            reference: "sample:v1".into(),
            binaries: binaries.to_vec(),
        };
        let archive = folder.path().join("sample.tar");
        let digest = image.write(&archive).unwrap();
        let files = entries(&std::fs::read(archive).unwrap()[..]);
        let layout: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        assert_eq!(layout["manifests"][0]["digest"], digest);
        let index = json_blob(&files, &layout["manifests"][0]);
        for (number, architecture) in ["amd64", "arm64"].into_iter().enumerate() {
            let descriptor = &index["manifests"][number];
            assert_eq!(descriptor["platform"]["architecture"], architecture);
            let manifest = json_blob(&files, descriptor);
            let config = json_blob(&files, &manifest["config"]);
            assert_eq!(config["architecture"], architecture);
            let layer = blob(&files, &manifest["layers"][0]);
            assert_eq!(entries(layer)["sample"], architecture.as_bytes());
        }
    }

    #[test]
    fn libraries_have_the_same_path_in_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("lib/libexample.so.1");
        std::fs::create_dir(library.parent().unwrap()).unwrap();
        std::fs::write(&library, b"library").unwrap();
        let binary = folder.path().join("sample");
        std::fs::write(&binary, b"binary").unwrap();
        let mut image = Image::local("sample:v1", binary);
        image.binaries[0].libraries.push(library.clone());
        let archive = folder.path().join("sample.tar");
        image.write(&archive).unwrap();
        let files = entries(&std::fs::read(archive).unwrap()[..]);
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let manifest = json_blob(&files, &index["manifests"][0]);
        let layer = entries(blob(&files, &manifest["layers"][0]));
        let path = library.strip_prefix("/").unwrap().to_str().unwrap();
        assert_eq!(layer[path], b"library");
    }

    #[test]
    fn libraries_are_parsed_and_a_missing_one_is_an_error() {
        let list = "\tlinux-vdso.so.1 (0x00007ffd)\n\
            \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f4a)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f4b)\n";
        let libraries = parse_libraries(list).unwrap();
        let expected = [
            "/lib/x86_64-linux-gnu/libm.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(libraries, expected.map(PathBuf::from));
        let error = parse_libraries("\tlibz.so.1 => not found\n").unwrap_err();
        assert!(error.to_string().contains("libz.so.1"), "{error}");
    }

    #[test]
    fn an_image_without_a_binary_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let image = Image {
            reference: "sample:v1".into(),
            binaries: Vec::new(),
        };
        let error = image.write(&folder.path().join("sample.tar")).unwrap_err();
        assert_eq!(error.to_string(), "an image needs a binary");
    }

    #[test]
    fn short_image_names_get_the_default_registry() {
        assert_eq!(full_name("sample:v1"), "docker.io/library/sample:v1");
        assert_eq!(full_name("serin/sample:v1"), "docker.io/serin/sample:v1");
        assert_eq!(full_name("serin.local/pause:1"), "serin.local/pause:1");
        assert_eq!(full_name("localhost/a:1"), "localhost/a:1");
    }

    #[test]
    fn the_archive_depends_on_the_binary_only() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = pack(one.path(), b"binary");
        assert_eq!(first, pack(two.path(), b"binary"));
        assert_ne!(first, pack(two.path(), b"changed"));
        let left: Vec<_> = std::fs::read_dir(one.path()).unwrap().collect();
        assert_eq!(left.len(), 2, "only the binary and its archive");
    }
}
