//! Reproducible `.tar.gz` files.

use std::io::Write;

use anyhow::Result;
use flate2::{Compression, GzBuilder};
use serin_cluster::append_file;

/// A `.tar.gz` file in memory, without times and owners.
pub(crate) struct Archive {
    tar: tar::Builder<flate2::write::GzEncoder<Vec<u8>>>,
}

impl Default for Archive {
    fn default() -> Self {
        let gzip = GzBuilder::new()
            .mtime(0)
            .write(Vec::new(), Compression::best());
        Self {
            tar: tar::Builder::new(gzip),
        }
    }
}

impl Archive {
    /// Adds a file. The order of the calls is the order in the archive.
    pub(crate) fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        append_file(&mut self.tar, name, mode, content)
    }

    /// The content of the file.
    pub(crate) fn finish(self) -> Result<Vec<u8>> {
        let mut gzip = self.tar.into_inner()?;
        gzip.flush()?;
        Ok(gzip.finish()?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn pack() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.add("a", 0o644, b"one").unwrap();
        archive.add("b/c", 0o755, b"two").unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn an_archive_has_its_files_and_nothing_of_the_machine() {
        let content = pack();
        assert_eq!(content, pack());
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&content[..]));
        let mut files = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let header = entry.header();
            let owner = (header.uid().unwrap(), header.mtime().unwrap());
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            files.push((path, header.mode().unwrap(), owner, text));
        }
        assert_eq!(
            files,
            [
                ("a".to_owned(), 0o644, (0, 0), "one".to_owned()),
                ("b/c".to_owned(), 0o755, (0, 0), "two".to_owned()),
            ]
        );
    }
}
