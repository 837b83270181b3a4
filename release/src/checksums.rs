//! Checksums in the format of `sha256sum`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serin_cluster::sha256_hex;

const FILE: &str = "SHA256SUMS";

/// Writes `SHA256SUMS` for all files in `folder`. Returns the paths of all files.
pub(crate) fn write(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        paths.push(entry?.path());
    }
    paths.sort();
    let mut text = String::new();
    for path in &paths {
        let content =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        text.push_str(&format!("{}  {name}\n", sha256_hex(&content)));
    }
    let sums = folder.join(FILE);
    crate::write(&sums, text.as_bytes())?;
    paths.push(sums);
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_have_the_format_of_sha256sum() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("b"), "").unwrap();
        std::fs::write(folder.path().join("a"), "abc").unwrap();
        let paths = write(folder.path()).unwrap();
        let names: Vec<_> = paths.iter().map(|path| path.file_name().unwrap()).collect();
        assert_eq!(names, ["a", "b", FILE]);
        // The digests are test vectors of FIPS 180-2.
        assert_eq!(
            std::fs::read_to_string(folder.path().join(FILE)).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a\n\
             e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  b\n"
        );
    }
}
