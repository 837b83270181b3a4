//! Reads the objects of YAML files, folders and standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;
use serin_convert::remove_server_fields;

use crate::exit::{CliError, Exit};
use crate::manifest::yaml_error;

/// One object and where it was written.
#[derive(Clone, Debug)]
pub struct Document {
    /// The file and the position in it, for messages.
    pub source: String,
    /// The text, without the separator. Empty if the object is an item of a List.
    pub text: String,
    /// The object.
    pub object: Value,
}

/// The objects of all files, and the problems of files that are not YAML.
#[derive(Debug, Default)]
pub struct Documents {
    /// The objects, in order.
    pub objects: Vec<Document>,
    /// One message for each document that cannot be read.
    pub problems: Vec<String>,
}

/// Reads files, folders (all `.yaml`, `.yml` and `.json` files in them) and `-`, standard input.
///
/// # Errors
/// A file cannot be opened.
pub fn read(paths: &[PathBuf]) -> Result<Documents, CliError> {
    let mut documents = Documents::default();
    for path in paths {
        for file in files(path)? {
            let text = text_of(&file)?;
            documents.parse(&text, &file.display().to_string());
        }
    }
    Ok(documents)
}

fn files(path: &Path) -> Result<Vec<PathBuf>, CliError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    let entries = std::fs::read_dir(path).map_err(|error| unreadable(path, &error))?;
    let mut entries: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    for entry in entries {
        let is_hidden = entry
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let extension = entry.extension().and_then(|extension| extension.to_str());
        if entry.is_dir() {
            // Links could lead around in circles.
            if !is_hidden && !entry.is_symlink() {
                found.extend(files(&entry)?);
            }
        } else if matches!(extension, Some("yaml" | "yml" | "json")) {
            found.push(entry);
        }
    }
    Ok(found)
}

fn text_of(file: &Path) -> Result<String, CliError> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| unreadable(file, &error))?;
        return Ok(text);
    }
    std::fs::read_to_string(file).map_err(|error| unreadable(file, &error))
}

fn unreadable(path: &Path, error: &std::io::Error) -> CliError {
    CliError::new(
        Exit::Usage,
        format!("-f {}: cannot be read: {error}", path.display()),
    )
}

impl Documents {
    /// Adds the documents of a text. `source` is its name in messages.
    pub fn parse(&mut self, text: &str, source: &str) {
        for (line, chunk) in chunks(text) {
            // Empty lines in front keep the line numbers of errors right.
            let padded = format!("{}{chunk}", "\n".repeat(line));
            let parsed: Result<Vec<Value>, _> = serde_saphyr::from_multiple(&padded);
            match parsed {
                Ok(values) => {
                    for value in values {
                        self.add(value, &chunk, &format!("{source}:{}", line + 1));
                    }
                }
                Err(error) => {
                    let problem = format!("{source}: {}", yaml_error(&error));
                    self.problems.push(problem);
                }
            }
        }
    }

    /// Adds an object that was read from the API server. `source` is its name in messages.
    pub fn add_object(&mut self, mut object: Value, source: &str) {
        remove_server_fields(&mut object);
        self.objects.push(Document {
            source: source.to_owned(),
            text: String::new(),
            object,
        });
    }

    fn add(&mut self, mut value: Value, text: &str, source: &str) {
        if value["kind"] == "List"
            && let Some(Value::Array(items)) = value.get_mut("items").map(Value::take)
        {
            for mut item in items {
                remove_server_fields(&mut item);
                self.objects.push(Document {
                    source: source.to_owned(),
                    text: String::new(),
                    object: item,
                });
            }
        } else if value.is_object() {
            let has_server_fields = remove_server_fields(&mut value);
            self.objects.push(Document {
                source: source.to_owned(),
                text: if has_server_fields {
                    String::new()
                } else {
                    text.to_owned()
                },
                object: value,
            });
        }
    }
}

/// The documents of a text, each with the number of lines before it.
fn chunks(text: &str) -> Vec<(usize, String)> {
    let mut chunks = vec![(0, String::new())];
    for (number, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            let rest = line.trim_start_matches('-').trim();
            let is_comment = rest.is_empty() || rest.starts_with('#');
            let first = if is_comment {
                String::new()
            } else {
                format!("{rest}\n")
            };
            chunks.push((number + usize::from(is_comment), first));
        } else if let Some((_, chunk)) = chunks.last_mut() {
            chunk.push_str(line);
            chunk.push('\n');
        }
    }
    let has_content = |chunk: &str| {
        let mut lines = chunk.lines().map(str::trim);
        lines.any(|line| !line.is_empty() && !line.starts_with('#'))
    };
    chunks.retain(|(_, chunk)| has_content(chunk));
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_read_one_by_one_with_their_lines() {
        let mut documents = Documents::default();
        documents.parse(
            "# a\nkind: A\n---\n# only a comment\n---\nkind: [B\n---\nkind: C\n",
            "f.yaml",
        );
        let kinds: Vec<&str> = documents
            .objects
            .iter()
            .filter_map(|document| document.object["kind"].as_str())
            .collect();
        assert_eq!(kinds, ["A", "C"]);
        assert_eq!(documents.objects[1].source, "f.yaml:8");
        assert!(documents.objects[0].text.starts_with("# a\n"));
        assert_eq!(documents.problems.len(), 1);
        assert!(
            documents.problems[0].contains("invalid YAML"),
            "{:?}",
            documents.problems
        );
    }

    #[test]
    fn the_items_of_a_list_have_no_fields_of_the_server() {
        let mut documents = Documents::default();
        let list =
            "kind: List\nitems:\n- kind: A\n  metadata: {name: a, uid: x}\n  status: {b: 1}\n";
        documents.parse(list, "-");
        let expected = serde_json::json!({"kind": "A", "metadata": {"name": "a"}});
        assert_eq!(documents.objects[0].object, expected);
    }
}
