//! From a service's definition to a process: environment, limits, and errors in words.
//!
//! What the child does, and in which order, is `sys::spawn`'s business. Nothing here waits:
//! whether the program could be executed is read from the status pipe later.
//!
//! Longer than a file should be: an error of each step of a start has its words here.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::hash::{BuildHasher, Hasher};
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;

use crate::config::confine::CAPABILITIES;
use crate::config::model::{Confine, Program};
use crate::machine::report::{SpawnError, Stage};
use crate::sys::cgroup::Group;
use crate::sys::limits::{self, Limit};
use crate::sys::spawn::{self, Child, Plan, SpawnFault, Status, StatusPipe, Step, Variables, Why};
use crate::sys::{self, errno_of, strerror};

/// The variable that marks every process of an instance.
pub const INSTANCE: &str = "SUPERD_INSTANCE";
/// An environment file may be this long.
const FILE_CAP: u64 = 64 * 1024;

/// What every child inherits unless its definition says otherwise: as superd was started.
#[derive(Clone, Debug)]
pub struct Base {
    /// `NAME=value`, without what was meant for superd alone.
    environment: Vec<Rc<CStr>>,
    /// Open files as they were before superd raised its own limit.
    open_files: Option<Limit>,
    /// Whether they are killed when superd is, see [`Plan::goes_along`].
    goes_along: bool,
    /// Marks of this life of superd.
    nonce: u64,
    /// Instances marked so far.
    count: u64,
}

impl Base {
    /// Reads superd's own environment, and raises superd's own limit of open files to the
    /// hard one. Once, at the start.
    pub fn of_this_process() -> Base {
        let own = std::env::vars_os().map(|(k, v)| (k.into_vec(), v.into_vec()));
        let own = own.filter(|(name, _)| is_inherited(name));
        let open_files = limits::raise_open_files();
        // The standard library seeds its hash tables from getrandom(2) without blocking.
        let mut random = std::collections::hash_map::RandomState::new().build_hasher();
        random.write_i32(sys::own_pid());
        Base {
            // The environment of a process holds no NUL.
            environment: own
                .filter_map(|(n, v)| Some(joined(&n, &v).ok()?.into()))
                .collect(),
            open_files: open_files.ok(), // it stays as it is: nothing to give back
            goes_along: false,
            nonce: random.finish(),
            count: 0,
        }
    }

    /// From now on they are killed when superd is.
    pub fn go_along(&mut self) {
        self.goes_along = true;
    }

    /// In a superd that has become another program: its limit of open files was raised by the
    /// one before, and this is what it had been.
    pub fn with_open_files(self, open_files: Option<Limit>) -> Base {
        Base { open_files, ..self }
    }

    /// Open files as they were before superd raised its own limit.
    pub fn open_files(&self) -> Option<Limit> {
        self.open_files
    }

    /// A mark that no other instance has, of this superd or another: `SCOPE:NAME:NONCE-N`.
    /// The scope is superd's run directory, by which the next superd finds what is its own.
    pub fn new_cookie(&mut self, scope: &str, name: &str) -> String {
        self.count += 1;
        format!("{scope}:{name}:{:016x}-{}", self.nonce, self.count)
    }
}

/// Not inherited: procd's preloaded library, other supervisors' addresses, our own marks.
fn is_inherited(name: &[u8]) -> bool {
    let exact: [&[u8]; 2] = [b"LD_PRELOAD", b"NOTIFY_SOCKET"];
    let prefixes: [&[u8]; 4] = [b"WATCHDOG_", b"LISTEN_", b"SUPERD_", b"SUPERCTL_"];
    !exact.contains(&name) && !prefixes.iter().any(|p| name.starts_with(p))
}

/// What a start needs besides the definition.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Name of the service, which it finds in SERVICE.
    pub service: &'a str,
    /// Its mark, from [`Base::new_cookie`].
    pub cookie: &'a str,
    /// Standard output; none: /dev/null.
    pub stdout: Option<BorrowedFd<'a>>,
    /// Standard error; none: /dev/null.
    pub stderr: Option<BorrowedFd<'a>>,
    /// Both are the service's own pipe.
    pub is_pipe: bool,
    /// The address of the notify socket, if it gets one.
    pub notify_socket: Option<&'a Path>,
    /// The descriptor by which it says that it is ready, and its number there.
    pub ready: Option<(BorrowedFd<'a>, i32)>,
    /// Listening sockets that it gets as 3, 4 ...
    pub sockets: &'a [BorrowedFd<'a>],
    /// Stays open until it executes the program.
    pub until_exec: Option<BorrowedFd<'a>>,
    /// Its cgroup, if it has one.
    pub cgroup: Option<&'a Group>,
    /// What has happened, for a hook.
    pub news: &'a [(&'static str, String)],
}

/// Starts these programs, each with its own result. [`outcome`] tells whether one could be
/// executed.
pub fn start_all(
    starts: &[(&Program, Context<'_>)],
    base: &Base,
) -> Vec<Result<Child, SpawnError>> {
    let plans: Vec<_> = starts
        .iter()
        .map(|(program, ctx)| plan(program, &program.command, base, ctx))
        .collect();
    let possible: Vec<&Plan<'_>> = plans.iter().flatten().collect();
    let mut made = spawn::spawn_all(&possible).into_iter();
    let result = |(plan, (program, _)): (&Result<_, SpawnError>, &(&Program, _))| {
        plan.as_ref().map_err(Clone::clone)?;
        match made.next() {
            Some(made) => made.map_err(|fault| in_words(fault, program, &program.command)),
            None => Err(error(Stage::Fork, "", 0, "nothing was tried")), // as many as plans
        }
    };
    plans.iter().zip(starts).map(result).collect()
}

/// Runs another command (a stop step, a reload) as the same user, with the same limits and
/// environment. Give it a cookie of its own, and its instance's cgroup or none.
pub fn run(
    program: &Program,
    command: &[String],
    base: &Base,
    ctx: &Context<'_>,
) -> Result<Child, SpawnError> {
    let plan = plan(program, command, base, ctx)?;
    spawn::spawn(&plan).map_err(|fault| in_words(fault, program, command))
}

/// What the status pipe says: none as long as nothing is known, then once whether the
/// program is executing. What it has to do without, because that was optional, is added to
/// `without`.
pub fn outcome(
    pipe: &StatusPipe,
    program: &Program,
    command: &[String],
    without: &mut Vec<SpawnError>,
) -> Option<Result<(), SpawnError>> {
    // A start has a few steps that are optional.
    for _ in 0..16 {
        match pipe.read() {
            Status::Pending => return None,
            Status::Execed => return Some(Ok(())),
            Status::Failed(fault) => return Some(Err(in_words(fault, program, command))),
            Status::Without(fault) => without.push(in_words(fault, program, command)),
        }
    }
    None
}

fn plan<'a>(
    program: &'a Program,
    command: &[String],
    base: &'a Base,
    ctx: &Context<'a>,
) -> Result<Plan<'a>, SpawnError> {
    let nul = |stage, thing: &str| error(stage, thing, libc::EINVAL, "contains a NUL byte");
    let argv = command
        .iter()
        .map(|word| CString::new(word.as_bytes()).map_err(|_| nul(Stage::Exec, word)));
    let mut plan = Plan::new(argv.collect::<Result<_, _>>()?);
    let (env, env_last) = environment(program, base, ctx)?;
    let open_files = base.open_files.map(|limit| (limits::NOFILE, limit));
    let configured = program.limits.iter().map(|l| {
        let (soft, hard) = (l.soft, l.hard);
        (l.resource, Limit { soft, hard })
    });
    plan.env = env;
    plan.env_last = env_last;
    plan.stdout = ctx.stdout;
    plan.stderr = ctx.stderr;
    plan.give_output = ctx.is_pipe;
    plan.extra = ctx.ready;
    plan.sockets = ctx.sockets.to_vec();
    plan.until_exec = ctx.until_exec;
    plan.cgroup = ctx.cgroup;
    plan.goes_along = base.goes_along;
    plan.umask = program.umask;
    // The configured ones first: their position is what a fault names.
    plan.limits = configured.collect();
    if !plan.limits.iter().any(|(r, _)| *r == limits::NOFILE) {
        plan.limits.extend(open_files);
    }
    plan.nice = program.nice;
    plan.oom_score_adj = program.oom_score_adj;
    plan.user = program.user.as_deref();
    plan.group = program.group.as_deref();
    plan.groups = program.groups.as_deref();
    if let Some(path) = program.directory.as_deref() {
        let path = CString::new(path).map_err(|_| nul(Stage::Directory, path))?;
        plan.directory = Cow::Owned(path);
    }
    if !program.confine.is_nothing() {
        let run_dir = ctx.notify_socket.and_then(Path::parent);
        plan.confine = Some(Box::new(confine(&program.confine, run_dir)?));
    }
    Ok(plan)
}

/// Where namespaces have their names (ip-netns(8)); on OpenWrt /run may be missing.
const NAMESPACES: [&str; 2] = ["/var/run/netns", "/run/netns"];

/// Seen also by those who have a /tmp of their own: on OpenWrt, /var is in /tmp.
const KEPT: [&str; 3] = ["/var/run", "/etc/resolv.conf", "/etc/localtime"];

fn confine(from: &Confine, run_dir: Option<&Path>) -> Result<sys::confine::Confine, SpawnError> {
    let nul = |stage| move |_| error(stage, "", libc::EINVAL, "contains a NUL byte");
    let places = |stage, paths: &[String]| -> Result<Vec<_>, SpawnError> {
        let place = |path: &String| {
            let (path, may_be_missing) = optional_path(path);
            Ok((CString::new(path).map_err(nul(stage))?, may_be_missing))
        };
        paths.iter().map(place).collect()
    };
    let namespace = |name: &String| {
        let file = |dir| CString::new(format!("{dir}/{name}")).map_err(nul(Stage::Network));
        NAMESPACES.into_iter().map(file).collect::<Result<_, _>>()
    };
    let in_tmp = |path: &Path| {
        let real = path.canonicalize().ok()?;
        real.starts_with("/tmp/").then_some(real)
    };
    let kept = KEPT.iter().map(Path::new).chain(run_dir);
    let kept = kept.filter(|_| from.private_tmp).filter_map(in_tmp);
    let steps = from.optional.iter().filter_map(|key| step_of(key));
    let network = from.network_namespace.as_ref().map(namespace);
    let writable = from.writable_paths.as_ref();
    let writable = writable.map(|paths| places(Stage::Writable, paths));
    Ok(sys::confine::Confine {
        network: network.transpose()?.unwrap_or_default(),
        private_tmp: from.private_tmp,
        kept_in_tmp: kept.collect(),
        read_only: places(Stage::ReadOnly, &from.read_only_paths)?,
        writable: writable.transpose()?,
        capabilities: from.capabilities,
        no_new_privileges: from.no_new_privileges,
        optional: steps.collect(),
    })
}

/// The path, and whether it may be missing.
fn optional_path(configured: &str) -> (&str, bool) {
    match configured.strip_prefix('-') {
        Some(path) => (path, true),
        None => (configured, false),
    }
}

fn step_of(key: &str) -> Option<Step> {
    Some(match key {
        "network-namespace" => Step::Network,
        "private-tmp" => Step::PrivateTmp,
        "read-only-paths" => Step::ReadOnly,
        "writable-paths" => Step::Writable,
        "capabilities" => Step::Capabilities,
        "no-new-privileges" => Step::NoNewPrivileges,
        _ => return None, // a limit of the cgroup: before there is a child
    })
}

/// Later ones win: superd's own, the environment file, `environment`, what superd sets.
/// The mark is the very last variable: a program that overwrites its arguments to show
/// another name (setproctitle) gets there last.
fn environment<'a>(
    program: &Program,
    base: &'a Base,
    ctx: &Context<'_>,
) -> Result<(Variables<'a>, Vec<CString>), SpawnError> {
    let mut all = Variables::Borrowed(&base.environment);
    if program.user.is_some() {
        // The child sets them from the user's entry; superd's own would be root's.
        remove(&mut all, &["HOME", "USER", "LOGNAME", "SHELL"]);
    }
    if let Some(file) = &program.environment_file {
        for (name, value) in read_environment_file(file)? {
            set(&mut all, &name, &value)?;
        }
    }
    for (name, value) in &program.environment {
        set(&mut all, name.as_bytes(), value.as_bytes())?;
    }
    if let Some(address) = ctx.notify_socket {
        set(&mut all, b"NOTIFY_SOCKET", address.as_os_str().as_bytes())?;
        if let Some(every) = program.watchdog {
            let us = every.as_micros().to_string();
            set(&mut all, b"WATCHDOG_USEC", us.as_bytes())?;
        }
    }
    for (name, value) in ctx.news {
        set(&mut all, name.as_bytes(), value.as_bytes())?;
    }
    let ours = [("SERVICE", ctx.service), (INSTANCE, ctx.cookie)];
    remove(&mut all, &ours.map(|(name, _)| name));
    let own = ours.map(|(n, v)| joined(n.as_bytes(), v.as_bytes()));
    Ok((all, own.into_iter().collect::<Result<_, _>>()?))
}

/// In most environments there is none of them, and superd's own serves as it is.
fn remove(all: &mut Variables<'_>, names: &[&str]) {
    let is_one = |v: &Rc<CStr>| names.iter().any(|name| is_named(v, name.as_bytes()));
    if all.iter().any(is_one) {
        all.to_mut().retain(|v| !is_one(v));
    }
}

fn set(all: &mut Variables<'_>, name: &[u8], value: &[u8]) -> Result<(), SpawnError> {
    let new = Rc::from(joined(name, value)?);
    let all = all.to_mut();
    match all.iter_mut().find(|v| is_named(v, name)) {
        Some(old) => *old = new,
        None => all.push(new),
    }
    Ok(())
}

fn is_named(variable: &CStr, name: &[u8]) -> bool {
    let rest = variable.to_bytes().strip_prefix(name);
    rest.is_some_and(|rest| rest.starts_with(b"="))
}

/// `NAME=value`
fn joined(name: &[u8], value: &[u8]) -> Result<CString, SpawnError> {
    let mut text = Vec::with_capacity(name.len() + value.len() + 2);
    text.extend_from_slice(name);
    text.push(b'=');
    text.extend_from_slice(value);
    CString::new(text).map_err(|_| {
        let name = String::from_utf8_lossy(name);
        error(Stage::Exec, &name, libc::EINVAL, "contains a NUL byte")
    })
}

fn error(stage: Stage, thing: &str, errno: i32, cause: &str) -> SpawnError {
    SpawnError {
        stage,
        thing: thing.to_owned(),
        errno,
        cause: cause.to_owned(),
    }
}

/// A fault of `sys` with the names that only the definition knows.
fn in_words(fault: SpawnFault, program: &Program, command: &[String]) -> SpawnError {
    let index = usize::from(fault.index);
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let path = |list: &[String]| {
        list.get(index)
            .map_or(String::new(), |p| optional_path(p).0.to_owned())
    };
    let (stage, thing) = match fault.step {
        Step::Pipe => (Stage::Pipe, String::new()),
        Step::Cgroup => (Stage::Cgroup, String::new()),
        Step::Fork => (Stage::Fork, String::new()),
        Step::Session => (Stage::Session, String::new()),
        Step::Stdio => (Stage::Stdio, String::new()),
        Step::Limits => {
            let name = program.limits.get(index).map_or("nofile", |l| l.name);
            (Stage::Limits, name.to_owned())
        }
        Step::Nice => (Stage::Nice, number(program.nice)),
        Step::OomScore => (Stage::OomScore, number(program.oom_score_adj)),
        Step::User => (Stage::User, text(&program.user)),
        Step::Group => {
            let extra = program.groups.as_ref().zip(index.checked_sub(1));
            let named = extra
                .and_then(|(list, i)| list.get(i))
                .or(program.group.as_ref());
            (
                Stage::Group,
                text(&named.or(program.user.as_ref()).cloned()),
            )
        }
        Step::Directory => (Stage::Directory, text(&program.directory)),
        Step::Exec => (Stage::Exec, text(&command.first().cloned())),
        Step::Network => (Stage::Network, text(&program.confine.network_namespace)),
        Step::PrivateTmp => (Stage::PrivateTmp, String::new()),
        Step::ReadOnly => (Stage::ReadOnly, path(&program.confine.read_only_paths)),
        Step::Writable => {
            let paths = program.confine.writable_paths.as_deref();
            let thing = match fault.errno {
                // These are about all of it.
                libc::ENOSYS | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT => String::new(),
                _ => path(paths.unwrap_or_default()),
            };
            (Stage::Writable, thing)
        }
        Step::Capabilities => {
            let name = CAPABILITIES.get(index).copied().unwrap_or_default();
            (Stage::Capabilities, name.to_owned())
        }
        Step::NoNewPrivileges => (Stage::NoNewPrivileges, String::new()),
    };
    let cause = match (fault.why, stage) {
        (Why::Errno, stage) => lack(stage, &thing, fault.errno).unwrap_or(strerror(fault.errno)),
        (Why::Unknown, Stage::Group) => "no such group",
        (Why::Unknown, _) => "no such user",
        (Why::NoGroup, _) => "has no entry, so `group` must be set too",
        (Why::Interpreter, _) => "its interpreter or dynamic loader does not exist",
    };
    error(stage, &thing, fault.errno, cause)
}

/// What the kernel or superd lacks, where the errno does not say it.
fn lack(stage: Stage, thing: &str, errno: i32) -> Option<&'static str> {
    Some(match (stage, errno) {
        (Stage::Network, libc::ENOENT) => "there is no such namespace (see ip netns list)",
        (Stage::Network | Stage::PrivateTmp | Stage::ReadOnly, libc::EPERM) => {
            "superd may not: it needs CAP_SYS_ADMIN"
        }
        (Stage::Network, libc::EINVAL) => {
            "it is no network namespace, or the kernel has none (CONFIG_NET_NS)"
        }
        (Stage::PrivateTmp, libc::ENODEV) => "the kernel has no tmpfs (CONFIG_TMPFS)",
        (Stage::ReadOnly, libc::ENOSYS) => {
            "the kernel has no mount_setattr(2), which came with Linux 5.12"
        }
        (Stage::Writable, libc::ENOSYS) => {
            "the kernel has no Landlock (Linux 5.13, CONFIG_SECURITY_LANDLOCK)"
        }
        (Stage::Writable, libc::EOPNOTSUPP) => {
            "Landlock is switched off: boot with lsm=landlock,..."
        }
        (Stage::Writable, libc::EPROTONOSUPPORT) => {
            "the kernel's Landlock does not know of truncate(2): that came with Linux 6.2"
        }
        (Stage::Capabilities, libc::EPERM) if thing.is_empty() => {
            "superd may not take any away: it needs CAP_SETPCAP"
        }
        (Stage::Capabilities, libc::EPERM) => "superd itself does not have it",
        (Stage::Capabilities, libc::EINVAL) => "this kernel does not know it",
        _ => return None,
    })
}

fn number(n: Option<i32>) -> String {
    n.map(|n| n.to_string()).unwrap_or_default()
}

/// Name and value.
pub type Variable = (Vec<u8>, Vec<u8>);

/// Reads an environment file. With a leading `-` it may be missing. As root it must belong
/// to root, and nobody else may write it: its content decides what root executes.
fn read_environment_file(configured: &str) -> Result<Vec<Variable>, SpawnError> {
    let (path, optional) = optional_path(configured);
    let fail = |errno, cause: &str| error(Stage::EnvironmentFile, path, errno, cause);
    let io = |e: std::io::Error| fail(errno_of(&e), strerror(errno_of(&e)));
    // Non-blocking: opening a FIFO without a writer would wait for one.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = match sys::file::open(Path::new(path), flags, 0) {
        Err(e) if optional && e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io)?,
    };
    let about = file.metadata().map_err(io)?;
    if !about.is_file() {
        return Err(fail(0, "not a regular file"));
    }
    if nix::unistd::geteuid().is_root() {
        if about.uid() != 0 {
            let cause = format!("owned by uid {}, not by root", about.uid());
            return Err(fail(0, &cause));
        }
        if about.mode() & 0o022 != 0 {
            let cause = format!("others can write it (mode {:04o})", about.mode() & 0o7777);
            return Err(fail(0, &cause));
        }
    }
    let mut text = Vec::new();
    file.take(FILE_CAP + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > FILE_CAP {
        return Err(fail(0, "longer than 64 KiB"));
    }
    parse_environment(&text).map_err(|(line, what)| fail(0, &format!("line {line}: {what}")))
}

/// Parses `NAME=value` lines as systemd.exec(5) describes EnvironmentFile=: `#` and `;`
/// begin comments, values may be quoted, in single quotes everything is literal, in double
/// quotes a backslash escapes `"`, `\`, `` ` ``, `$`, outside of quotes everything; a
/// backslash at the end of a line joins the next. Unlike systemd, which ignores them, lines
/// that say nothing are errors: their number, and what is wrong.
pub fn parse_environment(text: &[u8]) -> Result<Vec<Variable>, (usize, &'static str)> {
    let mut found = Vec::new();
    let mut input = Input {
        rest: text,
        line: 1,
    };
    loop {
        input.skip(u8::is_ascii_whitespace);
        match input.peek() {
            None => return Ok(found),
            Some(b'#' | b';') => input.skip(|b| *b != b'\n'),
            Some(_) => found.push(input.assignment()?),
        }
    }
}

struct Input<'a> {
    rest: &'a [u8],
    line: usize,
}

impl Input<'_> {
    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        self.line += usize::from(*first == b'\n');
        Some(*first)
    }

    fn skip(&mut self, f: impl Fn(&u8) -> bool) {
        while self.rest.first().is_some_and(&f) {
            self.next();
        }
    }

    fn assignment(&mut self) -> Result<Variable, (usize, &'static str)> {
        let line = self.line;
        let mut name = Vec::new();
        loop {
            match self.next() {
                Some(b'=') => break,
                Some(b'\n') | None => return Err((line, "no `=`")),
                Some(b) => name.push(b),
            }
        }
        let name = name.trim_ascii_end().to_vec();
        let is_first = |b: u8| b.is_ascii_alphabetic() || b == b'_';
        let is_rest = |b: u8| is_first(b) || b.is_ascii_digit();
        match name.split_first() {
            Some((first, rest)) if is_first(*first) && rest.iter().all(|b| is_rest(*b)) => {}
            _ => return Err((line, "not a variable name before `=`")),
        }
        let value = self.value().map_err(|what| (line, what))?;
        match name.contains(&0) || value.contains(&0) {
            true => Err((line, "contains a NUL byte")),
            false => Ok((name, value)),
        }
    }

    fn value(&mut self) -> Result<Vec<u8>, &'static str> {
        self.skip(|b| matches!(b, b' ' | b'\t'));
        let mut value = Vec::new();
        // Blanks at the end are cut, but not those that were quoted or escaped.
        let mut solid = 0;
        loop {
            match self.next() {
                None | Some(b'\n') => break,
                Some(b'\r') if matches!(self.peek(), None | Some(b'\n')) => {}
                Some(b'\\') => {
                    match self.next() {
                        None | Some(b'\n') => {}
                        Some(b) => value.push(b),
                    }
                    solid = value.len();
                }
                Some(quote @ (b'\'' | b'"')) => {
                    self.quoted(quote, &mut value)?;
                    solid = value.len();
                }
                Some(b) => {
                    value.push(b);
                    if !b.is_ascii_whitespace() {
                        solid = value.len();
                    }
                }
            }
        }
        value.truncate(solid);
        Ok(value)
    }

    fn quoted(&mut self, quote: u8, value: &mut Vec<u8>) -> Result<(), &'static str> {
        loop {
            match self.next() {
                None => return Err("a quote is not closed"),
                Some(b) if b == quote => return Ok(()),
                Some(b'\\') if quote == b'"' => match self.next() {
                    None => return Err("a quote is not closed"),
                    Some(b'\n') => {}
                    Some(b @ (b'"' | b'\\' | b'`' | b'$')) => value.push(b),
                    Some(b) => value.extend([b'\\', b]),
                },
                Some(b) => value.push(b),
            }
        }
    }
}

#[cfg(test)]
mod tests;
