//! Crash reports on the disk: their names, reading one, writing one whole or not at all. How
//! many there may be and when one is written is not decided here.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::super::rundir::plain;
use crate::control::crash::{CrashReport, VERSION};
use crate::json;

/// The largest file that is read, and more than any that is written.
pub const FILE_CAP: usize = 128 * 1024;

/// Service and fingerprint of a file's name.
pub fn parts(name: &str) -> Option<(&str, &str)> {
    let (service, fingerprint) = name.strip_suffix(".json")?.rsplit_once('.')?;
    let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let good = fingerprint.len() == 16 && fingerprint.bytes().all(is_hex);
    (good && crate::config::service_name(service).is_ok()).then_some((service, fingerprint))
}

/// Reads a report that must be the one its name says.
///
/// # Errors
/// Why it cannot be read or believed.
pub fn open(path: &Path, service: &str, fingerprint: &str) -> Result<CrashReport, String> {
    // Neither a FIFO nor a symbolic link that somebody has put there.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|e| plain(&e))?;
    let meta = file.metadata().map_err(|e| plain(&e))?;
    if !meta.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(FILE_CAP as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| plain(&e))?;
    if bytes.len() > FILE_CAP {
        return Err("is larger than any that superd writes".to_owned());
    }
    if bytes.is_empty() {
        return Err("is empty".to_owned());
    }
    let report: CrashReport = json::from_slice(&bytes).map_err(|e| format!("is damaged: {e}"))?;
    if report.v != VERSION {
        return Err(format!("is of version {}, not {VERSION}", report.v));
    }
    if report.service != service || report.fingerprint != fingerprint {
        return Err("is about another crash than its name says".to_owned());
    }
    Ok(report)
}

/// How the names of files begin that are being written.
pub const TEMPORARY: &str = ".superd-";

/// Writes it under another name, then gives it its own. Nobody ever sees half of it.
///
/// # Errors
/// What could not be done, and why.
pub fn save(dir: &Path, report: &CrashReport) -> Result<(), String> {
    let mut bytes = Vec::new();
    json::append(&mut bytes, report).map_err(|e| e.to_string())?;
    bytes.push(b'\n');
    if bytes.len() > FILE_CAP {
        return Err(format!("a report of {} bytes is too large", bytes.len()));
    }
    make_dir(dir)?;
    let temporary = dir.join(format!("{TEMPORARY}{}", std::process::id()));
    let name = format!("{}.{}.json", report.service, report.fingerprint);
    let written = write_new(&temporary, &bytes).and_then(|()| {
        fs::rename(&temporary, dir.join(&name)) // the one before goes with this
    });
    written.map_err(|e| {
        fs::remove_file(&temporary).ok(); // it may not have come into being
        format!("writing {name}: {}", plain(&e))
    })
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::remove_file(path).ok(); // of an earlier try
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)?;
    file.write_all(bytes)
}

/// Output may hold secrets, and names are predictable: nobody else may read or write there.
/// What is above it is not superd's alone.
fn make_dir(dir: &Path) -> Result<(), String> {
    let make = |dir: &Path, mode| DirBuilder::new().recursive(true).mode(mode).create(dir);
    let above = dir.parent().map_or(Ok(()), |above| make(above, 0o755));
    above
        .and_then(|()| make(dir, 0o700))
        .map_err(|e| format!("making the directory: {}", plain(&e)))?;
    check_dir(dir)
}

/// What others can write there is not to be believed either.
///
/// # Errors
/// When others can write there; not when it cannot be looked at.
pub fn check_dir(dir: &Path) -> Result<(), String> {
    let Ok(meta) = fs::metadata(dir) else {
        return Ok(()); // whoever uses it will say why it cannot be used
    };
    let own = nix::unistd::geteuid().as_raw();
    if meta.mode() & 0o022 != 0 || (meta.uid() != own && meta.uid() != 0) {
        return Err("refused: others than superd's user can write there".to_owned());
    }
    Ok(())
}
