//! Where a log file is: its directory, held open, and its name there.
//!
//! superd is root, and a directory on the way may belong to somebody who is not. So a link is
//! only followed where nobody but root and superd's own user could have put it, and from then
//! on everything is done relative to the directory that was found.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{openat, readlinkat, AtFlags, OFlag};
use nix::sys::stat::{fstat, fstatat, FileStat, Mode, SFlag};
use nix::unistd::{unlinkat, UnlinkatFlags};

/// Links on the way (path_resolution(7) has the same bound).
const LINKS: u32 = 40;

/// Of what is made here.
const MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR).union(Mode::S_IRGRP);

/// The place.
pub struct Place {
    path: PathBuf,
    dir: OwnedFd,
    name: OsString,
}

impl Place {
    /// Goes to the directory of this path.
    ///
    /// # Errors
    /// Of openat(2); and if there is a link that somebody else could have made.
    pub fn find(path: &Path) -> io::Result<Place> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::other("not the path of a file"));
        };
        let mut dir = open_root()?;
        let mut left: Vec<OsString> = names(parent);
        let mut links = 0;
        while let Some(next) = left.pop() {
            let stat = fstatat(&dir, &*next, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            if kind(&stat) == SFlag::S_IFLNK {
                links += 1;
                if links > LINKS {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                if !is_ours(&fstat(&dir)?, &stat) {
                    let text = format!("`{}` is a link that others can change", next.display());
                    return Err(io::Error::other(text));
                }
                let target = PathBuf::from(readlinkat(&dir, &*next)?);
                if target.is_absolute() {
                    dir = open_root()?;
                }
                left.extend(names(&target));
                continue;
            }
            let how = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            dir = openat(&dir, &*next, how, Mode::empty())?;
        }
        Ok(Place {
            path: path.to_owned(),
            dir,
            name: name.to_owned(),
        })
    }

    /// The directory.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// As it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Of the file.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// `caddy.log.3`.
    pub fn numbered(&self, n: u32) -> OsString {
        let mut name = self.name.clone();
        name.push(format!(".{n}"));
        name
    }

    /// `caddy.log.3.gz`.
    pub fn packed(&self, n: u32) -> OsString {
        let mut name = self.numbered(n);
        name.push(".gz");
        name
    }

    /// What will be one of these.
    pub fn part(&self) -> OsString {
        let mut name = self.name.clone();
        name.push(".gz-part");
        name
    }

    /// Whether there was something of this name that could be removed.
    pub fn remove(&self, name: &OsStr) -> bool {
        unlinkat(&self.dir, name, UnlinkatFlags::NoRemoveDir).is_ok()
    }

    /// Whether this name is this file's.
    pub fn is_named(&self, name: &OsStr, file: &File) -> bool {
        let there = fstatat(&self.dir, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        match (there, fstat(file)) {
            (Ok(there), Ok(here)) => (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino),
            (Err(_), _) | (_, Err(_)) => false,
        }
    }

    /// A file that is full, for reading.
    ///
    /// # Errors
    /// As [`Place::open`].
    pub fn open_full(&self, name: &OsStr) -> io::Result<File> {
        check(&fstatat(&self.dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?)?;
        let how = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.dir, name, how, Mode::empty())?);
        check(&fstat(&file)?)?;
        Ok(file)
    }

    /// A file that is not there yet.
    ///
    /// # Errors
    /// Of openat(2).
    pub fn create(&self, name: &OsStr) -> io::Result<File> {
        let how = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        Ok(openat(&self.dir, name, how, MODE)?.into())
    }

    /// Whether there is something of this name.
    pub fn holds(&self, name: &OsStr) -> bool {
        fstatat(&self.dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    }

    /// Whether this is the file that the path leads to.
    pub fn is_of(&self, file: &File) -> bool {
        match (fs::symlink_metadata(&self.path), file.metadata()) {
            (Ok(there), Ok(here)) => (there.dev(), there.ino()) == (here.dev(), here.ino()),
            (Err(_), _) | (_, Err(_)) => false,
        }
    }

    /// The file, which is made if it is not there.
    ///
    /// # Errors
    /// Of openat(2); and if it is a link, has a second name or is no file.
    pub fn open(&self) -> io::Result<File> {
        let how = OFlag::O_RDWR
            | OFlag::O_CREAT
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY
            | OFlag::O_CLOEXEC;
        // Without it: what is not a file at all must not be opened, a device might do something.
        if let Ok(stat) = fstatat(&self.dir, &*self.name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            check(&stat)?;
        }
        let file = File::from(openat(&self.dir, &*self.name, how, MODE)?);
        check(&fstat(&file)?)?;
        Ok(file)
    }
}

fn check(stat: &FileStat) -> io::Result<()> {
    match kind(stat) {
        SFlag::S_IFREG if stat.st_nlink <= 1 => Ok(()),
        SFlag::S_IFREG => Err(io::Error::other(
            "it has another name elsewhere (a hard link)",
        )),
        SFlag::S_IFLNK => Err(io::Error::other("it is a symbolic link, not a file")),
        SFlag::S_IFIFO => Err(io::Error::other("it is a FIFO, not a file")),
        SFlag::S_IFDIR => Err(io::Error::other("it is a directory, not a file")),
        _ => Err(io::Error::other("it is not a regular file")),
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// Nobody but root and superd's user could have made this link in this directory.
fn is_ours(dir: &FileStat, link: &FileStat) -> bool {
    let me = nix::unistd::geteuid().as_raw();
    let ours = |uid: u32| uid == 0 || uid == me;
    let others_write = dir.st_mode & 0o022 != 0;
    let sticky = dir.st_mode & libc::S_ISVTX != 0;
    ours(dir.st_uid) && ours(link.st_uid) && (!others_write || sticky)
}

fn open_root() -> io::Result<OwnedFd> {
    let how = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open("/", how, Mode::empty())?)
}

/// The names of a path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let name = |c: Component<'_>| match c {
        Component::Normal(_) | Component::ParentDir => Some(c.as_os_str().to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(name).collect()
}
