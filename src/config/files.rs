//! Getting the text of the files, from a disk that cannot be trusted or from memory.
//!
//! Nothing here looks into the text.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::map::Map;

/// The largest file.
pub const FILE_CAP: usize = 1 << 20;
/// All files together.
pub const TOTAL_CAP: usize = 4 << 20;

/// Where configuration files come from.
pub trait Files {
    /// The bytes of a file, at most `cap` of them; a larger file is an error. Errors are
    /// one line that follows the file's name.
    fn read(&mut self, path: &Path, cap: usize) -> Result<Vec<u8>, String>;

    /// The names in a directory, in any order; none when there is no such directory.
    fn list(&mut self, directory: &Path) -> Result<Vec<OsString>, String>;
}

/// The real file system. As root, files and directories that somebody else could write
/// are refused: whoever writes the configuration is root.
#[derive(Debug, Default)]
pub struct Disk;

impl Files for Disk {
    fn read(&mut self, path: &Path, cap: usize) -> Result<Vec<u8>, String> {
        let (file, meta) = open(path)?;
        trusted(&meta, path)?;
        trusted_directory(path)?;
        let bytes = read(file, &meta, cap.saturating_add(1))?;
        fits(bytes.len(), cap)?;
        Ok(bytes)
    }

    fn list(&mut self, directory: &Path) -> Result<Vec<OsString>, String> {
        let failed = |e: std::io::Error| {
            format!(
                "cannot read the directory {}: {}",
                directory.display(),
                reason(&e)
            )
        };
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(e)),
        };
        let meta = std::fs::metadata(directory).map_err(failed)?;
        trusted(&meta, directory)?;
        entries
            .map(|entry| entry.map(|e| e.file_name()).map_err(failed))
            .collect()
    }
}

/// The first `cap` bytes of a regular file that anybody may have written; none where there is
/// no such file, or it cannot be read.
pub fn contents(path: &Path, cap: usize) -> Option<Vec<u8>> {
    let (file, meta) = open(path).ok()?;
    read(file, &meta, cap).ok()
}

/// Opens a regular file, and nothing else that has this name.
fn open(path: &Path) -> Result<(File, Metadata), String> {
    // O_NONBLOCK: opening a FIFO must not wait for a writer.
    let file = crate::sys::file::open(path, libc::O_NONBLOCK | libc::O_NOCTTY, 0)
        .map_err(|e| format!("cannot open: {}", reason(&e)))?;
    let meta = file
        .metadata()
        .map_err(|e| format!("cannot stat: {}", reason(&e)))?;
    if meta.is_dir() {
        return Err("is a directory, not a file".to_owned());
    }
    match meta.is_file() {
        true => Ok((file, meta)),
        false => Err("is not a regular file".to_owned()),
    }
}

fn read(file: File, meta: &Metadata, most: usize) -> Result<Vec<u8>, String> {
    // A byte more than it has: then the end is seen without another growing.
    let length = usize::try_from(meta.len()).unwrap_or(most).min(most);
    let mut bytes = Vec::with_capacity(length.saturating_add(1));
    file.take(u64::try_from(most).unwrap_or(u64::MAX))
        .read_to_end(&mut bytes)
        .map_err(|e| format!("cannot read: {}", reason(&e)))?;
    Ok(bytes)
}

/// A configuration in memory, for tests and fuzzing.
impl Files for Map<PathBuf, Vec<u8>> {
    fn read(&mut self, path: &Path, cap: usize) -> Result<Vec<u8>, String> {
        let bytes = self
            .get(path)
            .ok_or("cannot open: No such file or directory")?;
        fits(bytes.len(), cap)?;
        Ok(bytes.clone())
    }

    fn list(&mut self, directory: &Path) -> Result<Vec<OsString>, String> {
        Ok(self
            .keys()
            .filter(|path| path.parent() == Some(directory))
            .filter_map(|path| path.file_name().map(OsStr::to_os_string))
            .collect())
    }
}

fn fits(length: usize, cap: usize) -> Result<(), String> {
    match length > cap {
        true if cap < FILE_CAP => Err("all files together are larger than 4 MiB".to_owned()),
        true => Err("is larger than 1 MiB".to_owned()),
        false => Ok(()),
    }
}

/// The error without Rust's `(os error 2)`.
fn reason(e: &std::io::Error) -> String {
    let text = e.to_string();
    match text.split_once(" (os error") {
        Some((reason, _)) => reason.to_owned(),
        None => text,
    }
}

/// Root does not act on what others can write (DESIGN 7).
fn trusted(meta: &Metadata, path: &Path) -> Result<(), String> {
    match trusted_by_root(meta.uid(), meta.mode(), path) {
        Err(_) if !nix::unistd::geteuid().is_root() => Ok(()),
        said => said,
    }
}

/// Nor on what others can put in its place.
fn trusted_directory(path: &Path) -> Result<(), String> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    match std::fs::metadata(directory) {
        // Where the sticky bit is, nobody can take away what is root's.
        Ok(meta) if meta.uid() == 0 && meta.mode() & libc::S_ISVTX != 0 => Ok(()),
        Ok(meta) => trusted(&meta, directory),
        Err(e) => Err(format!(
            "cannot stat {}: {}",
            directory.display(),
            reason(&e)
        )),
    }
}

fn trusted_by_root(uid: u32, mode: u32, path: &Path) -> Result<(), String> {
    let path = path.display();
    if uid != 0 {
        return Err(format!(
            "refused: {path} belongs to user {uid}, and superd runs as root (chown root {path})"
        ));
    }
    if mode & 0o022 != 0 {
        return Err(format!(
            "refused: others than root can write {path} (chmod go-w {path})"
        ));
    }
    Ok(())
}

/// Whether a file's name matches a pattern of `*` (any text) and `?` (one byte). A name
/// that begins with a dot is matched by a pattern that does.
pub(super) fn matches(pattern: &OsStr, name: &OsStr) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    if name.first() == Some(&b'.') && pattern.first() != Some(&b'.') {
        return false;
    }
    // Where to go on when the text behind the last `*` does not fit: one byte later.
    let (mut p, mut n, mut again) = (0, 0, None);
    while let Some(byte) = name.get(n) {
        match pattern.get(p) {
            Some(b'*') => {
                again = Some((p, n));
                p += 1;
            }
            Some(b'?') => (p, n) = (p + 1, n + 1),
            Some(same) if same == byte => (p, n) = (p + 1, n + 1),
            _ => match again {
                Some((star, at)) => {
                    again = Some((star, at + 1));
                    (p, n) = (star + 1, at + 1);
                }
                None => return false,
            },
        }
    }
    pattern
        .get(p..)
        .unwrap_or_default()
        .iter()
        .all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_names_and_no_hidden_ones() {
        let m = |p: &str, n: &str| matches(OsStr::new(p), OsStr::new(n));
        assert!(m("*.toml", "caddy.toml"));
        assert!(m("*a*b*", "xxaxxaxbx"));
        assert!(m("?.toml", "a.toml"));
        assert!(m("*", "x"));
        assert!(!m("*.toml", "caddy.toml~"));
        assert!(!m("*.toml", ".caddy.toml"));
        assert!(!m("*.toml", "caddy.toml.bak"));
        assert!(!m("", "x"));
    }

    #[test]
    fn root_refuses_what_others_can_write_and_says_what_to_do() {
        let at = Path::new("/etc/superd/x.toml");
        assert!(trusted_by_root(0, 0o100_644, at).is_ok());
        let e = trusted_by_root(0, 0o100_664, at).unwrap_err();
        assert!(e.contains("chmod go-w /etc/superd/x.toml"), "{e}");
        assert!(trusted_by_root(0, 0o100_646, at).is_err());
        let e = trusted_by_root(1000, 0o100_644, at).unwrap_err();
        assert!(e.contains("user 1000") && e.contains("chown root"), "{e}");
    }
}
