//! Builds images from one static binary without a container engine.
//!
//! The archive has the format of `docker save`, which containerd imports: a layer, a configuration
//! and a manifest. Archives are reproducible: the same binary gives the same image id.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::instance::hex;

/// The user id of the image: not root, as the restricted pod security standard requires.
const USER_ID: u32 = 65532;

/// An image of one static binary.
#[derive(Clone, Debug)]
pub struct Image {
    /// Name and tag as in pod specs, for example `sample:v1`.
    pub reference: String,
    /// The binary, which must not depend on libraries or files. It becomes `/<file name>`, the
    /// entry point.
    pub binary: PathBuf,
}

impl Image {
    /// Writes the archive.
    ///
    /// # Errors
    /// If the binary cannot be read or `archive` cannot be written.
    pub fn write(&self, archive: &Path) -> Result<()> {
        let name = self
            .binary
            .file_name()
            .and_then(OsStr::to_str)
            .with_context(|| format!("{} has no usable name", self.binary.display()))?;
        let mut layer = anonymous_file_next_to(archive)?;
        let digest = self.write_layer(name, &mut layer)?;
        let layer_bytes = layer.stream_position()?;
        layer.seek(SeekFrom::Start(0))?;

        let config = config(name, &digest).to_string();
        let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
        let layer_name = format!("{digest}/layer.tar");
        let manifest = json!([{
            "Config": config_name,
            "RepoTags": [self.reference],
            "Layers": [layer_name],
        }])
        .to_string();

        let out =
            File::create(archive).with_context(|| format!("cannot write {}", archive.display()))?;
        let mut out = tar::Builder::new(std::io::BufWriter::new(out));
        append(
            &mut out,
            &config_name,
            0o644,
            config.len() as u64,
            config.as_bytes(),
        )?;
        append(&mut out, &layer_name, 0o644, layer_bytes, &mut layer)?;
        append(
            &mut out,
            "manifest.json",
            0o644,
            manifest.len() as u64,
            manifest.as_bytes(),
        )?;
        out.into_inner()?.flush()?;
        Ok(())
    }

    /// Writes the layer. Returns its hex digest.
    fn write_layer(&self, name: &str, out: &mut File) -> Result<String> {
        let binary = File::open(&self.binary)
            .with_context(|| format!("cannot read {}", self.binary.display()))?;
        let bytes = binary.metadata()?.len();
        let mut writer = DigestWriter {
            out: std::io::BufWriter::new(out),
            digest: Sha256::new(),
        };
        let mut layer = tar::Builder::new(&mut writer);
        append(&mut layer, name, 0o755, bytes, binary)?;
        layer.finish()?;
        drop(layer);
        writer.out.flush()?;
        Ok(hex(&writer.digest.finalize()))
    }
}

fn config(name: &str, layer_digest: &str) -> serde_json::Value {
    json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Entrypoint": [format!("/{name}")],
            "User": format!("{USER_ID}:{USER_ID}"),
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "serin-cluster"}],
    })
}

fn append(
    archive: &mut tar::Builder<impl Write>,
    name: &str,
    mode: u32,
    bytes: u64,
    content: impl Read,
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes);
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

/// A temporary file that is deleted on close, on the same disk as the archive.
fn anonymous_file_next_to(archive: &Path) -> Result<File> {
    let path = archive.with_extension("layer");
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// A writer that forwards its input and computes its digest.
struct DigestWriter<W> {
    out: W,
    digest: Sha256,
}

impl<W: Write> Write for DigestWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.digest.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
        let image = Image {
            reference: "sample:v1".into(),
            binary: folder.join("sample"),
        };
        std::fs::write(&image.binary, content).unwrap();
        let archive = folder.join("sample.tar");
        image.write(&archive).unwrap();
        std::fs::read(archive).unwrap()
    }

    #[test]
    fn manifest_config_and_layer_refer_to_each_other_by_digest() {
        let folder = tempfile::tempdir().unwrap();
        let files = entries(&pack(folder.path(), b"binary")[..]);
        let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "sample:v1");
        let config_name = manifest[0]["Config"].as_str().unwrap();
        let digest = hex(&Sha256::digest(&files[config_name]));
        assert_eq!(config_name, format!("{digest}.json"));
        let layer = &files[manifest[0]["Layers"][0].as_str().unwrap()];
        let config: serde_json::Value = serde_json::from_slice(&files[config_name]).unwrap();
        let expected = format!("sha256:{}", hex(&Sha256::digest(layer)));
        assert_eq!(config["rootfs"]["diff_ids"][0], expected);
        assert_eq!(config["config"]["Entrypoint"][0], "/sample");
        assert_eq!(entries(&layer[..])["sample"], b"binary");
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
