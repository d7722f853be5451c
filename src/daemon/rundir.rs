//! The run directory: made, checked, locked. One superd per run directory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// A run directory that this process holds the lock of, until it ends.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl RunDir {
    /// Makes the directory if it is not there (0755) and takes its lock.
    ///
    /// # Errors
    /// One line that says what, where, why and what to do.
    pub fn take(path: &Path) -> Result<RunDir, String> {
        let shown = path.display();
        match DirBuilder::new().mode(0o755).recursive(true).create(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(format!(
                    "run-dir {shown}: {}; choose a writable one with `run-dir` in [daemon]",
                    plain(&e)
                ));
            }
            _ => {}
        }
        check(path)?;
        // The lock is on the directory itself: it needs no space on a full disk and no
        // right to write on a read-only one.
        let dir = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_DIRECTORY)
            .open(path)
            .map_err(|e| format!("run-dir {shown}: {}", plain(&e)))?;
        // For people, and for the message below: who holds it.
        let pid_path = path.join("pid");
        match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(held) => {
                fs::write(&pid_path, format!("{}\n", std::process::id())).ok();
                Ok(RunDir {
                    path: path.to_owned(),
                    _lock: held,
                })
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                let holder = fs::read_to_string(&pid_path).unwrap_or_default();
                let holder = match holder.trim().parse::<u32>() {
                    Ok(pid) => format!(" (pid {pid})"),
                    Err(_) => String::new(),
                };
                Err(format!(
                    "another superd{holder} runs on {shown}; stop it first (`superctl \
                     shutdown`), or use another `run-dir`"
                ))
            }
            Err((_, e)) => Err(format!("run-dir {shown}: locking: {}", e.desc())),
        }
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// As root, a directory that others can write is refused: they could replace the socket.
fn check(path: &Path) -> Result<(), String> {
    let meta = fs::metadata(path).map_err(|e| format!("{}: {}", path.display(), plain(&e)))?;
    if !meta.is_dir() {
        return Err(format!("run-dir {}: it is not a directory", path.display()));
    }
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
        return Err(format!(
            "run-dir {}: users other than root can write to it; `chown root` it and `chmod go-w` it",
            path.display()
        ));
    }
    Ok(())
}

/// An I/O error without the number in brackets.
pub fn plain(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(n) => crate::sys::strerror(n).to_owned(),
        None => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_superd_on_the_same_directory_is_told_who_holds_it() {
        let dir = std::env::temp_dir().join(format!("superd-rundir-{}", std::process::id()));
        let held = RunDir::take(&dir).unwrap();
        let refused = RunDir::take(&dir).unwrap_err();
        assert!(
            refused.contains(&format!("(pid {})", std::process::id())),
            "{refused}"
        );
        drop(held);
        assert!(RunDir::take(&dir).is_ok(), "the lock goes with its holder");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_file_in_the_place_of_the_directory_is_one_clear_line() {
        let path = std::env::temp_dir().join(format!("superd-rundir-file-{}", std::process::id()));
        fs::write(&path, "x").unwrap();
        let refused = RunDir::take(&path).unwrap_err();
        assert!(
            !refused.contains('\n') && refused.contains("run-dir"),
            "{refused}"
        );
        fs::remove_file(&path).unwrap();
    }
}
