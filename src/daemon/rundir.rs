//! The run directory: made, checked, locked. One superd per run directory.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::socket::UnixAddr;

use crate::sys::file;
use crate::sys::pidfd::PidFd;
use crate::sys::proc;

/// A run directory that this process holds the lock of, until it ends.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// On the directory itself, which somebody may remove all the same.
    lock: Flock<File>,
    /// Tells of that. None where there is no inotify(7).
    watch: Option<Inotify>,
    /// A superd was there and did not end in order.
    stale: bool,
    /// There is nothing of another superd in it, of one before nor of the program before.
    clean: bool,
}

/// How long a superd that begins waits for what a killed one has left half done: its
/// children hold its locks until they have closed them, and its starts are under way until
/// execve(2).
const HALF_DONE: Duration = Duration::from_secs(2);
/// So long a killed process may still look alive.
const DYING: Duration = Duration::from_millis(100);
/// The file `pid` is not longer.
const PID_CAP: u64 = 32;
/// Between two looks at that.
const LOOK: Duration = Duration::from_millis(1);

/// Tries until it succeeds, or the time of a half done start is over.
pub fn in_time<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + HALF_DONE;
    loop {
        match attempt() {
            None if Instant::now() < until => std::thread::sleep(LOOK),
            got => return got,
        }
    }
}

impl RunDir {
    /// Makes the directory if it is not there (0711) and takes its lock. Nobody else may open
    /// it: whoever can, can hold the lock, and then superd could not start.
    ///
    /// # Errors
    /// One line that says what, where, why and what to do.
    pub fn take(path: &Path) -> Result<RunDir, String> {
        let shown = path.display();
        let make = || DirBuilder::new().mode(0o711).create(path);
        let made = match make() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut above = DirBuilder::new();
                above.mode(0o755).recursive(true);
                let parent = path.parent().map_or(Ok(()), |dir| above.create(dir));
                parent.and_then(|()| make())
            }
            made => made,
        };
        let is_new = match made {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(format!(
                    "run-dir {shown}: {}; choose a writable one with `run-dir` in [daemon]",
                    plain(&e)
                ));
            }
            made => made.is_ok(),
        };
        close(path, &check(path)?);
        // The lock is on the directory itself: it needs no space on a full disk and no
        // right to write on a read-only one.
        let open = || file::open(path, libc::O_DIRECTORY, 0);
        let dir = open().map_err(|e| format!("run-dir {shown}: {}", plain(&e)))?;
        // For people, and for the message below: who holds it.
        let pid_path = path.join("pid");
        let try_lock = |dir| Flock::lock(dir, FlockArg::LockExclusiveNonblock);
        let mut locked = try_lock(dir);
        if locked.is_err() {
            // A superd that was killed just now, or the child that it has just forked, closes it in
            // a moment. One that runs keeps it.
            let soon = Instant::now() + DYING;
            let again = in_time(|| match open().map(try_lock) {
                Ok(Ok(held)) => Some(Some(held)),
                _ if Instant::now() >= soon && is_alive(&pid_path) => Some(None),
                _ => None,
            });
            locked = again.flatten().map_or(locked, Ok);
        }
        match locked {
            Ok(held) => {
                let traces = ["pid", "superd.sock", "notify", "journal"];
                // Nothing is in what was made just now.
                let stale = !is_new && traces.iter().any(|name| path.join(name).exists());
                note_pid(path);
                Ok(RunDir {
                    path: path.to_owned(),
                    lock: held,
                    watch: watch(path).ok(), // it must be done without
                    stale,
                    clean: !stale,
                })
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                let holder = noted_pid(&pid_path).map(|pid| format!(" (pid {pid})"));
                let holder = holder.unwrap_or_default();
                Err(is_taken(path, &holder))
            }
            Err((_, e)) => Err(format!("run-dir {shown}: locking: {}", e.desc())),
        }
    }

    /// In a superd that has become another program: the lock was left to it.
    ///
    /// # Errors
    /// Of flock(2).
    pub fn kept(path: PathBuf, lock: OwnedFd) -> io::Result<RunDir> {
        // Held already by the same open file: this changes nothing.
        let held = Flock::lock(File::from(lock), FlockArg::LockExclusiveNonblock);
        Ok(RunDir {
            watch: watch(&path).ok(), // it must be done without
            path,
            lock: held.map_err(|(_, e)| e)?,
            stale: false,
            clean: false,
        })
    }

    /// What is locked.
    pub fn lock(&self) -> &File {
        &self.lock
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether a superd was there that did not end in order.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Whether there is nothing in it to go on from.
    pub fn is_clean(&self) -> bool {
        self.clean
    }

    /// A file with a shared lock, for the children to keep open until execve(2). Waits for
    /// those of a killed superd: until then nobody could tell what they are about to be. One
    /// that hangs there is KILLed, and its pid returned.
    ///
    /// # Errors
    /// Of open(2) and flock(2); what was started then cannot be told from what was not.
    pub fn until_exec(&self) -> io::Result<(Flock<File>, Vec<i32>)> {
        let path = self.file("starting");
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_NOFOLLOW;
        let file = file::open(&path, flags, 0o600)?;
        let mut lock = Some(file);
        let mut killed = Vec::new();
        for patient in [true, false] {
            let mut attempt = || {
                let free = Flock::lock(lock.take()?, FlockArg::LockExclusiveNonblock);
                match free {
                    Ok(held) => Some(held),
                    Err((file, _)) => {
                        lock = Some(file);
                        None
                    }
                }
            };
            if let Some(held) = in_time(&mut attempt) {
                // It belongs to the open file: those that children inherit keep it.
                held.relock(FlockArg::LockSharedNonblock)?;
                return Ok((held, killed));
            }
            if patient {
                killed = kill_holders(&path);
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Whether the directory of that path is still the one that is locked.
    pub fn is_there(&self) -> bool {
        let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        match (fs::metadata(&self.path), self.lock.metadata()) {
            (Ok(a), Ok(b)) => same(a, b),
            _ => false,
        }
    }

    /// Readable when something in it, or it itself, is removed or renamed.
    pub fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(Inotify::as_fd)
    }

    /// Reads what the watch tells: no more than that there is something.
    pub fn drain_watch(&self) {
        if let Some(watch) = &self.watch {
            while watch.read_events().is_ok_and(|events| !events.is_empty()) {}
        }
    }

    /// Writes the file `pid` again if it is gone.
    pub fn note_pid(&self) {
        if !self.file("pid").exists() {
            note_pid(&self.path);
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether the process that this file names runs, and is not on its way out.
fn is_alive(pid_path: &Path) -> bool {
    let stat = noted_pid(pid_path).and_then(proc::stat);
    stat.is_some_and(|s| s.is_alive() && !s.is_exiting)
}

/// What the file `pid` says. Does not wait for what is no file.
fn noted_pid(path: &Path) -> Option<i32> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = file::open(path, flags, 0).ok()?;
    let mut text = String::new();
    file.take(PID_CAP).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// KILLs who has this file open: copies of a killed superd that never became a program.
fn kill_holders(path: &Path) -> Vec<i32> {
    let own = std::process::id().cast_signed();
    let mut killed = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|n| n.parse().ok());
        let Some(pid) = pid.filter(|pid| *pid != own) else {
            continue;
        };
        let Ok(held) = PidFd::open(pid) else { continue };
        let files = fs::read_dir(entry.path().join("fd"));
        let mut files = files.into_iter().flatten().flatten();
        let is_it = |f: fs::DirEntry| fs::read_link(f.path()).is_ok_and(|to| to == path);
        if files.any(is_it) && held.send(libc::SIGKILL).is_ok() {
            killed.push(pid);
        }
    }
    killed
}

fn note_pid(path: &Path) {
    // For people only; on a full disk there is none. Not written into what is there: that
    // may be a symbolic link, or a FIFO.
    let path = path.join("pid");
    let text = format!("{}\n", crate::sys::own_pid());
    if let Ok(mut file) = create_anew(&path, 0o644) {
        file.write_all(text.as_bytes()).ok(); // as said above
    }
}

/// A new file, to be appended to. What has its name is removed, if it is in the way.
///
/// # Errors
/// Of open(2): a directory has this name, among others.
pub fn create_anew(path: &Path, mode: u32) -> io::Result<File> {
    let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_EXCL;
    match file::open(path, flags, mode) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path).ok(); // what cannot be is an error below
            file::open(path, flags, mode)
        }
        opened => opened,
    }
}

/// Another superd is there already. `holder`: ` (pid 12)`, or nothing.
pub fn is_taken(path: &Path, holder: &str) -> String {
    format!(
        "another superd{holder} runs on {}; stop it first (`superctl shutdown`), or use another \
         `run-dir`",
        path.display()
    )
}

/// The kernel says nothing of a directory's own removal while somebody has it open; but
/// what is in it has to go first.
fn watch(path: &Path) -> nix::Result<Inotify> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let what = AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_ONLYDIR;
    inotify.add_watch(path, what)?;
    Ok(inotify)
}

/// Nobody else may open this directory of ours; what is in it can be reached all the same.
fn close(path: &Path, meta: &fs::Metadata) {
    let mode = meta.mode() & 0o7777;
    if mode & 0o044 != 0 && meta.uid() == nix::unistd::geteuid().as_raw() {
        // On a read-only file system it stays open.
        fs::set_permissions(path, fs::Permissions::from_mode(mode & !0o044)).ok();
    }
}

/// As root, a directory that others can write is refused: they could replace the socket.
fn check(path: &Path) -> Result<fs::Metadata, String> {
    let fail = |e| format!("run-dir {}: {}", path.display(), plain(&e));
    let meta = fs::metadata(path).map_err(fail)?;
    if !meta.is_dir() {
        return Err(format!("run-dir {}: it is not a directory", path.display()));
    }
    let is_others = meta.uid() != 0 || meta.mode() & 0o022 != 0;
    if is_others && nix::unistd::geteuid().is_root() {
        return Err(format!(
            "run-dir {}: users other than root can write to it; `chown root` it and `chmod go-w` it",
            path.display()
        ));
    }
    Ok(meta)
}

/// Gives a socket this name. A file that has it is removed: whoever holds the run directory may.
///
/// # Errors
/// Of bind(2) and unlink(2).
pub fn bind_anew(socket: &OwnedFd, path: &Path) -> io::Result<()> {
    let address = UnixAddr::new(path)?;
    let give = || nix::sys::socket::bind(socket.as_raw_fd(), &address);
    match give() {
        Err(nix::errno::Errno::EADDRINUSE) => {}
        given => return Ok(given?),
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    Ok(give()?)
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

    /// Issue 4: superd hung in the first, and overwrote the target of the second.
    #[test]
    fn the_file_pid_is_no_fifo_to_wait_for_and_no_link_to_follow() {
        let dir = std::env::temp_dir().join(format!("superd-rundir-pid-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let (pid, other) = (dir.join("pid"), dir.join("other"));
        let mode = nix::sys::stat::Mode::S_IRWXU;
        nix::unistd::mkfifo(&pid, mode).unwrap();
        let (told, tell) = std::sync::mpsc::channel();
        let at = dir.clone();
        std::thread::spawn(move || told.send(RunDir::take(&at).map(drop)).ok());
        let limit = Duration::from_secs(40);
        assert_eq!(tell.recv_timeout(limit).expect("it does not wait"), Ok(()));
        assert_eq!(noted_pid(&pid), Some(std::process::id().cast_signed()));
        fs::remove_file(&pid).unwrap();
        fs::write(&other, "precious").unwrap();
        std::os::unix::fs::symlink(&other, &pid).unwrap();
        assert_eq!(noted_pid(&pid), None);
        drop(RunDir::take(&dir).unwrap());
        assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
        fs::remove_dir_all(&dir).unwrap();
    }

    /// Issue 4: any user could hold the lock of a directory that any user could open.
    #[test]
    fn nobody_else_can_open_the_directory_and_hold_its_lock() {
        let dir = std::env::temp_dir().join(format!("superd-rundir-mode-{}", std::process::id()));
        let mode = || fs::metadata(&dir).unwrap().mode() & 0o7777;
        drop(RunDir::take(&dir).unwrap());
        assert_eq!(mode(), 0o711);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        drop(RunDir::take(&dir).unwrap());
        assert_eq!(mode(), 0o711, "one that was there before");
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
