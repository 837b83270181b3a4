//! `kubectl serin requests`: logs of requests for tests of the decision rule, without a cluster.
//!
//! [`access_log`] and [`status_ranges`] have no IO. This module reads and writes the files, one
//! line at a time.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use serin_simulation::request_log::HEADER;

use crate::cli::ConvertArgs;
use crate::exit::{CliError, Exit};

pub mod access_log;
pub mod status_ranges;

use access_log::{ConvertConfig, FieldNames, LineConverter};

/// Maximum length of an input line in bytes.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// First bytes of a file that is compressed with gzip (RFC 1952).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

impl ConvertArgs {
    fn config(&self) -> ConvertConfig {
        ConvertConfig {
            format: self.format,
            fields: FieldNames {
                time: self.time_field.clone(),
                status: self.status_field.clone(),
                client: self.client_field.clone(),
                duration: self.duration_field.clone(),
                route: self.route_field.clone(),
            },
            bad_status: self.bad_status.clone(),
            slower_than_seconds: self.slower_than.map(|limit| limit.as_secs_f64()),
            duration_unit: self.duration_unit,
        }
    }
}

/// Counts of a conversion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Summary {
    requests: u64,
    bad: u64,
    early: u64,
    skipped: u64,
}

/// Converts access logs. Writes the requests to the output file, or to `out`, and a summary to
/// `aside`.
///
/// # Errors
/// The file, the line and the problem of the first invalid line, unless invalid lines are skipped;
/// or a file that cannot be read or written.
pub fn convert(
    args: &ConvertArgs,
    input: impl Read,
    out: &mut dyn Write,
    aside: &mut dyn Write,
) -> Result<(), CliError> {
    // A new key for each run: without it, addresses could be recovered by trying all of them.
    let mut lines = LineConverter::new(args.config(), RandomState::new());
    let summary = match &args.output {
        None => {
            let mut out = BufWriter::new(out);
            let summary = convert_files(args, &mut lines, input, &mut out)?;
            out.flush()?;
            summary
        }
        Some(path) => {
            let mut options = OpenOptions::new();
            options.write(true);
            if args.force {
                options.create(true).truncate(true);
            } else {
                options.create_new(true);
            }
            let file = options.open(path).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    input_error(format!("--output {} exists", path.display()))
                        .hint("Use --force to overwrite it")
                }
                _ => input_error(format!("--output {}: {error}", path.display())),
            })?;
            let written = write_file(path, file, |out| {
                convert_files(args, &mut lines, input, out)
            });
            // A part of a log looks like a log.
            written.inspect_err(|_| drop(fs::remove_file(path)))?
        }
    };
    if summary.requests == 0 {
        return Err(input_error("the log contains no requests".to_owned()));
    }
    #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
    let percent = 100.0 * summary.bad as f64 / summary.requests as f64;
    writeln!(
        aside,
        "{} requests, {} bad ({percent:.3} %), {} lines skipped",
        summary.requests, summary.bad, summary.skipped
    )?;
    if summary.early > 0 {
        writeln!(
            aside,
            "{} requests are older than the first one and begin at 0 s",
            summary.early
        )?;
    }
    Ok(())
}

/// Writes a file, compressed if its name ends in `.gz`.
fn write_file<T>(
    path: &Path,
    file: File,
    write: impl FnOnce(&mut dyn Write) -> Result<T, CliError>,
) -> Result<T, CliError> {
    let is_compressed = path.extension().is_some_and(|extension| extension == "gz");
    let file = BufWriter::new(file);
    if is_compressed {
        let mut encoder = GzEncoder::new(file, Compression::default());
        let result = write(&mut encoder)?;
        encoder.finish()?.flush()?;
        Ok(result)
    } else {
        let mut file = file;
        let result = write(&mut file)?;
        file.flush()?;
        Ok(result)
    }
}

fn convert_files<S: BuildHasher>(
    args: &ConvertArgs,
    lines: &mut LineConverter<S>,
    input: impl Read,
    out: &mut dyn Write,
) -> Result<Summary, CliError> {
    let mut summary = Summary::default();
    writeln!(out, "{HEADER}")?;
    let mut input = Some(input);
    for path in &args.files {
        let name = path.display().to_string();
        if name == "-" {
            let Some(input) = input.take() else {
                return Err(input_error("FILE - can be given once only".to_owned()));
            };
            convert_file(args, &name, lines, BufReader::new(input), out, &mut summary)?;
        } else {
            let file = File::open(path).map_err(|error| {
                input_error(format!("{name}: {error}")).hint("Check the path of the access log")
            })?;
            convert_file(args, &name, lines, BufReader::new(file), out, &mut summary)?;
        }
    }
    Ok(summary)
}

fn convert_file<S: BuildHasher>(
    args: &ConvertArgs,
    name: &str,
    lines: &mut LineConverter<S>,
    mut input: impl BufRead,
    out: &mut dyn Write,
    summary: &mut Summary,
) -> Result<(), CliError> {
    let start = input
        .fill_buf()
        .map_err(|error| input_error(format!("{name}: cannot be read: {error}")))?;
    let mut input: Box<dyn BufRead + '_> = if start.starts_with(&GZIP_MAGIC) {
        Box::new(BufReader::new(MultiGzDecoder::new(input)))
    } else {
        Box::new(input)
    };
    let mut bytes = Vec::new();
    for number in 1_u64.. {
        let fail = |problem: String| input_error(format!("{name}: line {number}: {problem}"));
        bytes.clear();
        let read = (&mut input)
            .take(MAX_LINE_BYTES + 1)
            .read_until(b'\n', &mut bytes)
            .map_err(|error| fail(format!("cannot be read: {error}")))?;
        if read == 0 {
            break;
        }
        if bytes.len() as u64 > MAX_LINE_BYTES {
            return Err(fail(format!("is longer than {MAX_LINE_BYTES} bytes"))
                .hint("Check that the file is an access log with one request per line"));
        }
        // Paths and user agents may contain any bytes.
        let line = String::from_utf8_lossy(&bytes);
        if line.trim().is_empty() {
            continue;
        }
        match lines.convert(&line) {
            Ok(request) => {
                writeln!(
                    out,
                    "{:.3},{},{},{}",
                    request.seconds,
                    request.client,
                    request.endpoint,
                    u8::from(request.is_bad)
                )?;
                summary.requests += 1;
                summary.bad += u64::from(request.is_bad);
                summary.early += u64::from(request.is_early);
            }
            Err(_) if args.skip_invalid => summary.skipped += 1,
            Err(problem) => {
                return Err(fail(problem).hint("Use --skip-invalid to omit such lines"));
            }
        }
    }
    Ok(())
}

fn input_error(message: String) -> CliError {
    CliError::new(Exit::Usage, message)
}

#[cfg(test)]
mod tests;
