//! What the end-to-end tests share: a directory with a superd in it, its clients, the
//! records of the twins, and looking at /proc.
//!
//! Nothing here sleeps to make something true: it waits for published states, with a limit.
//! Only processes are killed that a test has started, or that carry its mark.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once, RwLock, RwLockReadGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

/// How many times slower than usual the machine is that the tests are built for: an emulated
/// one (tests/vm). Every limit is multiplied by it.
pub const SLOWNESS: u64 = match option_env!("SUPERD_TEST_SLOWNESS") {
    None => 1,
    Some(text) => match u64::from_str_radix(text, 10) {
        Ok(slowness) => slowness,
        Err(_) => panic!("SUPERD_TEST_SLOWNESS: not a number"),
    },
};

/// For whatever should happen soon. Long, because the machine may be busy with other things.
pub const LIMIT: Duration = Duration::from_secs(40 * SLOWNESS);

/// Between two looks at something that has no event.
const PAUSE: Duration = Duration::from_millis(2);

/// The environment variable by which the processes of a test are found.
const MARK: &str = "E2E_MARK";

pub const SUPERD: &str = env!("CARGO_BIN_EXE_superd");
pub const SUPERCTL: &str = env!("CARGO_BIN_EXE_superctl");

/// The twins, which cargo builds beside the programs.
pub fn twin() -> PathBuf {
    let path = Path::new(SUPERD).parent().unwrap().join("examples/twin");
    assert!(
        path.exists(),
        "{}: not built: run `cargo test`, or `cargo build --examples` first",
        path.display()
    );
    path
}

// ---- waiting ----

/// Waits until `get` has something.
pub fn wait_for<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + LIMIT;
    loop {
        if let Some(got) = get() {
            return got;
        }
        assert!(Instant::now() < until, "waited in vain: {what}");
        thread::sleep(PAUSE);
    }
}

/// Waits until `is_so`.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    wait_for(what, || is_so().then_some(()));
}

/// CLOCK_MONOTONIC in nanoseconds, as the twins record it.
pub fn monotonic() -> u64 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: clock_gettime(2) writes to a timespec that is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Sleeps until this time of [`monotonic`]. Only for measuring what a sleep is worth here.
pub fn sleep_until(at: u64) {
    let t = libc::timespec {
        tv_sec: (at / 1_000_000_000) as libc::time_t,
        tv_nsec: (at % 1_000_000_000) as libc::c_long,
    };
    let absolute = libc::TIMER_ABSTIME;
    // SAFETY: the timespec is ours, and the remainder is not asked for.
    unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, absolute, &t, std::ptr::null_mut()) };
}

// ---- skipping ----

static SKIPPED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Says, past the test harness's capture, that something was not tested; and again at the end.
pub fn skip(name: &str, why: &str) {
    static AT_EXIT: Once = Once::new();
    extern "C" fn list() {
        let skipped = SKIPPED.lock().unwrap();
        let mut err = std::io::stderr();
        writeln!(err, "{} skipped:", skipped.len()).ok(); // nobody reads it
        for line in skipped.iter() {
            writeln!(err, "skipped: {line}").ok(); // nobody reads it
        }
    }
    // SAFETY: the function takes nothing and cannot unwind but for a poisoned lock.
    AT_EXIT.call_once(|| unsafe {
        libc::atexit(list);
    });
    let line = format!("{name}: {why}");
    tell(&format!("skipped: {line}"));
    SKIPPED.lock().unwrap().push(line);
}

/// A result that people want to see, past the capture. Where each test is a process of its own,
/// whose output nobody sees when it passes, it goes to the file `SUPERD_TEST_TOLD`, too.
pub fn tell(text: &str) {
    writeln!(std::io::stderr(), "{text}").ok(); // nobody reads it
    if let Some(told) = std::env::var_os("SUPERD_TEST_TOLD") {
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(told)
            .unwrap();
        writeln!(file, "{text}").unwrap();
    }
}

/// The letter of proc(5): `S`, `T`, `Z` ...; none when it is gone.
pub fn state_of(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// A row of the table of tests/servers/table.py: a server, what was done to it, in how many of
/// the rounds that went badly with superd, and the longest stop (or time away).
///
/// `without` are the arguments of baseline.py for the same without superd, "-" for nothing to compare.
pub fn row(
    server: &str,
    trigger: &str,
    without: &str,
    bad: usize,
    rounds: usize,
    longest: Duration,
) {
    let row = json!({"server": server, "trigger": trigger, "without": without, "bad": bad,
        "rounds": rounds, "longest": longest.as_secs_f64()});
    tell(&format!("row {row}"));
}

/// How long something took, round for round, against what it may take.
///
/// A machine that does other things as well may be late now and then. In the table each late
/// round counts, and table.py, which has the machine for itself, lets none pass; a test
/// fails when most are.
pub struct Times {
    limit: Duration,
    all: Vec<Duration>,
}

impl Times {
    pub fn within(limit: Duration) -> Times {
        let all = Vec::new();
        Times { limit, all }
    }

    pub fn add(&mut self, took: Duration) {
        self.all.push(took);
    }

    pub fn longest(&self) -> Duration {
        self.all.iter().max().copied().unwrap_or_default()
    }

    /// The shortest and the median.
    pub fn usual(&self) -> (Duration, Duration) {
        let mut all = self.all.clone();
        all.sort();
        let at = |n: usize| all.get(n).copied().unwrap_or_default();
        (at(0), at(all.len() / 2))
    }

    pub fn late(&self) -> usize {
        self.all.iter().filter(|t| **t > self.limit).count()
    }

    /// For times of a few milliseconds, which are longer than the turns that other programs
    /// take on a machine that has much to do: one of twenty is undisturbed even there. Where
    /// more wants to run than there are processors for it, not even that: then it is skipped.
    pub fn assert_in_time_when_undisturbed(&self, name: &str) {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load: f64 = load.split(' ').next().map_or(0.0, |l| l.parse().unwrap());
        let processors = thread::available_parallelism().unwrap().get();
        match self.late() < self.all.len() {
            false if load > 1.5 * processors as f64 => {
                skip(
                    name,
                    &format!("the machine has too much to do: load {load}"),
                );
            }
            in_time => assert!(in_time, "{:?}", self.all),
        }
    }

    pub fn assert_mostly_in_time(&self) {
        assert!(self.late() * 2 < self.all.len(), "{:?}", self.all);
    }
}

/// A duration of the protocol.
pub fn duration(value: &Value) -> Duration {
    serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{e}: {value}"))
}

/// The service definition etc/services.d/NAME.toml with this command, and with this schedule
/// when there is one. What belongs to the real program's own files is left out.
pub fn shipped(name: &str, command: &str, stop: Option<&str>) -> String {
    let path = format!("etc/services.d/{name}.toml");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let mut text = fs::read_to_string(path).unwrap();
    for key in ["command", "environment", "directory", "reload", "check"] {
        text = without_key(&text, key);
    }
    text.push_str(&format!("command = {command}\n"));
    if let Some(stop) = stop {
        text = without_key(&text, "stop");
        text.push_str(&format!("stop = {stop}\n"));
    }
    text
}

/// The same without a key that has one line.
pub fn without_key(text: &str, key: &str) -> String {
    let is_it = |l: &&str| !l.starts_with(&format!("{key} = "));
    text.lines()
        .filter(is_it)
        .map(|l| format!("{l}\n"))
        .collect()
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// True as root; else says that the test is skipped.
pub fn root_or_skip(name: &str) -> bool {
    if !is_root() {
        skip(name, "needs root");
    }
    is_root()
}

/// Whether a program is installed; else says that the test is skipped.
pub fn program_or_skip(name: &str, program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|d| d.join(program).exists());
    if !found {
        skip(name, &format!("needs {program}"));
    }
    found
}

// ---- containment ----

/// How superd is told to find the processes of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    /// By cgroup.
    Cgroups,
    /// By session, ancestry and mark.
    NoCgroups,
}

impl Flavour {
    fn word(self) -> &'static str {
        match self {
            Flavour::Cgroups => "auto",
            Flavour::NoCgroups => "off",
        }
    }
}

/// Our own directory of a cgroup v2 mount.
pub fn own_cgroup() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let place = left.split(' ').nth(4)?;
        right.starts_with("cgroup2 ").then(|| PathBuf::from(place))
    })?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|l| l.strip_prefix("0::/"))?;
    Some(mount.join(own))
}

/// Whether cgroups can be made here; else says that the test is skipped.
pub fn cgroups_or_skip(name: &str) -> bool {
    let Some(dir) = own_cgroup() else {
        skip(name, "needs cgroup v2");
        return false;
    };
    let probe = dir.join(format!(
        "superd-e2e-probe-{}-{}",
        std::process::id(),
        number()
    ));
    match fs::create_dir(&probe) {
        Ok(()) => {
            fs::remove_dir(&probe).unwrap();
            true
        }
        Err(e) => {
            skip(name, &format!("needs root: cgroup v2 is not writable: {e}"));
            false
        }
    }
}

/// A test that is run with cgroups and without.
#[macro_export]
macro_rules! in_both_flavours {
    ($(fn $name:ident($flavour:ident: Flavour) $body:block)*) => {$(
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn body($flavour: $crate::support::Flavour) $body

            #[test]
            fn without_cgroups() {
                body($crate::support::Flavour::NoCgroups);
            }

            #[test]
            fn with_cgroups() {
                let name = concat!(stringify!($name), "::with_cgroups");
                if $crate::support::cgroups_or_skip(name) {
                    body($crate::support::Flavour::Cgroups);
                }
            }
        }
    )*};
}

// ---- a place for a test ----

fn number() -> u32 {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// Tests that measure have the machine for themselves, as far as this program goes.
static MACHINE: RwLock<()> = RwLock::new(());

thread_local! {
    /// The share in the machine of the test that this thread runs, and how many hold it.
    static SHARE: RefCell<(usize, Option<RwLockReadGuard<'static, ()>>)> =
        const { RefCell::new((0, None)) };
}

/// A share in the machine, one for all the places of a test.
struct Share;

impl Share {
    fn take() -> Share {
        SHARE.with_borrow_mut(|(holders, guard)| {
            if *holders == 0 {
                *guard = MACHINE.read().ok(); // a test that failed while measuring: go on
            }
            *holders += 1;
        });
        Share
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        SHARE.with_borrow_mut(|(holders, guard)| {
            *holders -= 1;
            if *holders == 0 {
                *guard = None;
            }
        });
    }
}

/// Runs a test that measures, while no other test runs.
pub fn alone(test: impl FnOnce()) {
    let held = MACHINE.write();
    SHARE.with_borrow_mut(|(holders, _)| *holders += 1);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
    SHARE.with_borrow_mut(|(holders, _)| *holders -= 1);
    drop(held);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// A directory of a test's own. What it has started is gone when this is dropped.
pub struct Place {
    /// The directory.
    pub dir: PathBuf,
    /// What the processes of this test carry in their environment.
    pub mark: String,
    /// An address on loopback that no other test has.
    pub host: String,
    _share: Share,
}

impl Place {
    pub fn new() -> Place {
        let share = Share::take();
        let n = number();
        let mark = format!("superd-e2e-{}-{n}", std::process::id());
        let dir = std::env::temp_dir().join(&mark);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let pid = std::process::id();
        let host = format!("127.{}.{}.{}", pid >> 8 & 127 | 128, pid & 255, n % 250 + 2);
        Place {
            dir,
            mark,
            host,
            _share: share,
        }
    }

    /// Starts a superd where there was one before, and waits until it answers.
    pub fn resume(self) -> Superd {
        let command = self.command(&self.superd_args());
        Superd::launch(self, command)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/superd.sock")
    }

    /// Replaces `$TWIN:NAME` by the twin's command with a record called NAME, `$DIR`, `$HOST`.
    pub fn expand(&self, text: &str) -> String {
        let dir = self.dir.display().to_string();
        let twin = twin().display().to_string();
        let mut parts = text.split("$TWIN:");
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let ends = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_');
            let end = part.find(ends).unwrap_or(part.len());
            let (name, rest) = part.split_at(end);
            out.push_str(&format!(
                "{twin:?}, \"--record\", \"{dir}/{name}.record\"{rest}"
            ));
        }
        out.replace("$DIR", &dir).replace("$HOST", &self.host)
    }

    /// Writes `superd.toml`: `[daemon]` for this place, then what is given. Lines before the
    /// first section belong to `[daemon]`.
    pub fn configure(&self, flavour: Flavour, toml: &str) {
        let says_log = toml.lines().any(|l| l.trim_start().starts_with("log = "));
        let log = if says_log { "" } else { "log = \"stderr\"\n" };
        // No test writes below /etc.
        let says_crashes = toml
            .lines()
            .any(|l| l.trim_start().starts_with("crash-dir = "));
        let crashes = match says_crashes {
            true => "",
            false => "crash-dir = \"$DIR/crashes\"\nknown-faults = \"$DIR/known-faults.toml\"\n",
        };
        let head = format!(
            "[daemon]\nrun-dir = \"$DIR/run\"\ncgroup = \"{}\"\n{log}{crashes}",
            flavour.word()
        );
        let text = self.expand(&format!("{head}{toml}"));
        let fresh = self.file("superd.toml.fresh");
        fs::write(&fresh, text).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o644)).unwrap();
        fs::rename(fresh, self.file("superd.toml")).unwrap();
    }

    /// The command line of superd over this place's configuration.
    pub fn superd_args(&self) -> Vec<String> {
        let config = self.file("superd.toml").display().to_string();
        vec![
            SUPERD.to_owned(),
            "--config".to_owned(),
            config,
            "--foreground".to_owned(),
        ]
    }

    /// A command of this place: marked, and with its output in `superd.log`.
    pub fn command(&self, args: &[String]) -> Command {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.file("superd.log"))
            .unwrap();
        let mut command = Command::new(&args[0]);
        command
            .args(&args[1..])
            .env(MARK, &self.mark)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        // When the whole test program is killed nobody is left to clear up: superd does.
        // SAFETY: prctl(2) is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGQUIT);
                Ok(())
            });
        }
        command
    }

    pub fn log(&self) -> String {
        let bytes = fs::read(self.file("superd.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn record(&self, name: &str) -> Record {
        Record::read(&self.file(&format!("{name}.record")))
    }

    /// Waits until the record has `n` events that begin with `what`.
    pub fn wait_record(&self, name: &str, what: &str, n: usize) -> Record {
        wait_for(&format!("{n} x {name}: {what}"), || {
            let record = self.record(name);
            (record.count(what) >= n).then_some(record)
        })
    }

    /// The processes that carry the mark, zombies not among them.
    pub fn processes(&self) -> BTreeSet<i32> {
        let mark = format!("{MARK}={}", self.mark);
        all_pids()
            .filter(|pid| {
                let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environ.split(|b| *b == 0).any(|v| v == mark.as_bytes())
            })
            .collect()
    }

    /// Directories in the cgroup tree that belong to this place.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let Some(own) = own_cgroup() else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let entries = fs::read_dir(own).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains(&format!("{}%2Frun", self.mark)) {
                found.push(entry.path());
            }
        }
        found
    }

    /// For a test that fails: the processes, and the TCP sockets at the place's address as
    /// /proc/net/tcp has them, those in TIME_WAIT (06) left out.
    fn tell_what_there_is(&self) {
        for pid in self.processes() {
            let wchan = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
            tell(&format!("{} {wchan}", describe(&BTreeSet::from([pid]))));
        }
        let Ok(host) = self.host.parse::<std::net::Ipv4Addr>() else {
            return;
        };
        let host = format!("{:08X}:", u32::from_ne_bytes(host.octets()));
        let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        let is_here = |line: &&str| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next().is_some_and(|local| local.starts_with(&host))
                && fields.nth(1) != Some("06")
        };
        let lines: Vec<&str> = table.lines().filter(is_here).take(20).collect();
        tell(&lines.join("\n"));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = self.processes();
        for pid in &left {
            kill(*pid, libc::SIGKILL);
        }
        if !left.is_empty() {
            let until = Instant::now() + Duration::from_secs(5);
            while !self.processes().is_empty() && Instant::now() < until {
                thread::sleep(PAUSE);
            }
        }
        for dir in self.cgroups() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    fs::remove_dir(entry.path()).ok(); // what is left is seen by eye
                }
            }
            fs::remove_dir(&dir).ok(); // as above
        }
        if thread::panicking() {
            tell(&format!(
                "--- {} ---\n{}",
                self.mark,
                last_lines(&self.log(), 40)
            ));
            for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|e| e == "record") {
                    let text = fs::read_to_string(entry.path()).unwrap_or_default();
                    let name = entry.file_name();
                    tell(&format!(
                        "--- {} ---\n{}",
                        name.display(),
                        last_lines(&text, 20)
                    ));
                }
            }
        }
        fs::remove_dir_all(&self.dir).ok(); // a mount point may be left in it
    }
}

fn last_lines(text: &str, n: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let cut = |l: &&str| l.chars().take(300).collect::<String>();
    let from = lines.len().saturating_sub(n);
    lines[from..].iter().map(cut).collect::<Vec<_>>().join("\n")
}

// ---- a running superd ----

/// A superd in the foreground, and its place.
pub struct Superd {
    pub place: Place,
    child: Child,
    /// Its pid.
    pub pid: i32,
    /// It was waited for already.
    ended: Option<ExitStatus>,
    /// Whether the services must be gone when superd is: not after a KILL.
    orderly: bool,
}

impl Superd {
    /// Starts superd over these services, without cgroups, and waits until it answers.
    pub fn start(toml: &str) -> Superd {
        Superd::start_in(Flavour::NoCgroups, toml)
    }

    pub fn start_in(flavour: Flavour, toml: &str) -> Superd {
        let place = Place::new();
        place.configure(flavour, toml);
        let command = place.command(&place.superd_args());
        Superd::launch(place, command)
    }

    /// Starts a command that becomes (or has as its child) superd, and waits until it answers.
    pub fn launch(place: Place, command: Command) -> Superd {
        Superd::launch_unheard(place, command).heard()
    }

    fn heard(mut self) -> Superd {
        wait_until("superd answers", || {
            let status = self.child.try_wait().unwrap();
            assert!(status.is_none(), "superd ended: {status:?}");
            Raw::connect(&self.place.socket())
                .ok()
                .and_then(|mut raw| raw.try_ask(&json!({"do": "status"})))
                .is_some()
        });
        self
    }

    /// Kills superd, and starts the next one before anybody has waited for its end.
    pub fn followed(mut self) -> Superd {
        let mut next = self.place.command(&self.place.superd_args());
        self.signal(libc::SIGKILL);
        let next = next.spawn().unwrap();
        let mut new = Superd {
            place: Place::new(),
            pid: next.id() as i32,
            child: next,
            ended: None,
            orderly: true,
        };
        std::mem::swap(&mut new.place, &mut self.place);
        self.kill();
        new.heard()
    }

    /// The same without waiting: a superd that may have no socket.
    pub fn launch_unheard(place: Place, mut command: Command) -> Superd {
        let child = command.spawn().unwrap();
        let pid = child.id() as i32;
        Superd {
            place,
            child,
            pid,
            ended: None,
            orderly: true,
        }
    }

    /// superctl with these arguments.
    pub fn ctl(&self, args: &[&str]) -> Said {
        let mut command = self.ctl_command(args);
        run(&mut command)
    }

    pub fn ctl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(SUPERCTL);
        command
            .arg("--socket")
            .arg(self.place.socket())
            .args(args)
            .env_remove("SUPERCTL_SOCKET");
        command
    }

    /// superctl, which must succeed.
    pub fn ok(&self, args: &[&str]) -> String {
        let said = self.ctl(args);
        assert_eq!(said.code, 0, "superctl {args:?}: {said:?}");
        said.out
    }

    /// Stops it by superctl, which says how that went by its status; afterwards it is down.
    pub fn stop(&self, name: &str) {
        let said = self.ctl(&["stop", name]);
        // Emulated, superd is at a tree of hundreds for so long that superctl gives it up.
        if SLOWNESS > 1 && said.code == 124 {
            self.wait_state(name, "down");
        }
        let state = self.state(name);
        assert_eq!(state, "down", "superctl stop {name}: {said:?}");
    }

    pub fn raw(&self) -> Raw {
        Raw::connect(&self.place.socket()).unwrap()
    }

    /// Asks and returns every line of the answer.
    pub fn ask(&self, request: Value) -> Vec<Value> {
        self.raw().ask(&request)
    }

    pub fn status(&self, service: &str) -> Value {
        let lines = self.ask(json!({"do": "status", "service": service}));
        lines[0]["status"].clone()
    }

    pub fn state(&self, service: &str) -> String {
        self.status(service)["state"]
            .as_str()
            .unwrap_or("none")
            .to_owned()
    }

    pub fn wait_state(&self, service: &str, state: &str) {
        wait_until(&format!("{service} is {state}"), || {
            self.state(service) == state
        });
    }

    /// The main process.
    pub fn pid_of(&self, service: &str) -> i32 {
        self.status(service)["pid"].as_i64().unwrap_or(0) as i32
    }

    /// What happened to the service, oldest first.
    pub fn events(&self, service: &str) -> Vec<Value> {
        let request = json!({"do": "events", "service": service, "lines": 1000});
        let lines = self.ask(request);
        lines
            .iter()
            .filter(|l| l["event"].is_object())
            .map(|l| l["event"].clone())
            .collect()
    }

    /// The reports about the ends of its instances, oldest first.
    pub fn ends(&self, service: &str) -> Vec<Value> {
        let mut events = self.events(service);
        events.retain(|e| e["event"] == "ended");
        events
    }

    /// The last such report, which must be there.
    pub fn last_end(&self, service: &str) -> Value {
        self.ends(service).pop().expect("an end")
    }

    pub fn verdict(&self, service: &str) -> String {
        self.last_end(service)["verdict"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub fn wait_record(&self, name: &str, what: &str, n: usize) -> Record {
        self.place.wait_record(name, what, n)
    }

    pub fn record(&self, name: &str) -> Record {
        self.place.record(name)
    }

    /// So many starts, no more. The last may not have been written down yet: superd counts from the exec.
    #[track_caller]
    pub fn assert_starts(&self, name: &str, n: usize) {
        assert_eq!(
            self.wait_record(name, "start", n).count("start"),
            n,
            "{name}"
        );
    }

    /// From now on it knows the faults of the shipped file.
    pub fn know_faults(&self) {
        let file = self.place.file("known-faults.toml");
        fs::write(&file, include_str!("../../etc/known-faults.toml")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        self.ok(&["reload"]);
    }

    pub fn signal(&self, signal: i32) {
        assert!(self.ended.is_none());
        kill(self.pid, signal);
    }

    /// Kills superd, and superd alone.
    pub fn kill(&mut self) {
        self.orderly = false;
        self.signal(libc::SIGKILL);
        self.wait();
    }

    /// Kills superd; its services stay, and so does the place.
    pub fn abandon(mut self) -> Place {
        self.kill();
        std::mem::replace(&mut self.place, Place::new())
    }

    /// A tracer has killed it and waited for it.
    pub fn killed(mut self) -> Place {
        use std::os::unix::process::ExitStatusExt;
        self.ended = Some(ExitStatus::from_raw(libc::SIGKILL));
        self.orderly = false;
        std::mem::replace(&mut self.place, Place::new())
    }

    /// It has been told to end without its services, and does.
    pub fn ended(mut self) -> Place {
        self.orderly = false;
        assert_eq!(self.wait().code(), Some(0), "superd's own exit status");
        std::mem::replace(&mut self.place, Place::new())
    }

    /// Kills superd and starts another one in its place.
    pub fn succeed(self) -> Superd {
        self.abandon().resume()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        if let Some(status) = self.ended {
            return status;
        }
        let mut got = None;
        wait_until("superd ends", || {
            got = self.child.try_wait().unwrap();
            got.is_some()
        });
        self.ended = got;
        got.unwrap()
    }

    /// Asks it to end and waits; nothing may be left.
    pub fn end(mut self) -> Place {
        if self.ended.is_none() {
            self.signal(libc::SIGTERM);
            let status = self.wait();
            assert_eq!(status.code(), Some(0), "superd's own exit status");
        }
        self.assert_nothing_left();
        self.orderly = false;
        std::mem::replace(&mut self.place, Place::new())
    }

    /// No process of a service is left, not even as a zombie of superd's.
    pub fn assert_nothing_left(&self) {
        let mut left = self.place.processes();
        left.remove(&self.pid);
        assert!(left.is_empty(), "left: {}", describe(&left));
        if self.ended.is_none() {
            let children = children_of(self.pid);
            assert!(children.is_empty(), "not reaped: {}", describe(&children));
        }
    }

    pub fn is_alive(&mut self) -> bool {
        self.ended.is_none() && self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Superd {
    fn drop(&mut self) {
        if thread::panicking() {
            self.place.tell_what_there_is();
        }
        if self.is_alive() {
            kill(self.pid, libc::SIGQUIT);
            let until = Instant::now() + Duration::from_secs(10);
            while self.is_alive() && Instant::now() < until {
                thread::sleep(PAUSE);
            }
            if self.is_alive() {
                kill(self.pid, libc::SIGKILL);
                self.child.wait().ok(); // it is ours, and it has had a KILL
                if !thread::panicking() {
                    panic!("superd did not end by QUIT");
                }
            }
        }
        if self.orderly && !thread::panicking() {
            let left = self.place.processes();
            assert!(left.is_empty(), "left by superd: {}", describe(&left));
            assert_eq!(self.place.cgroups(), Vec::<PathBuf>::new());
        }
    }
}

// ---- programs ----

/// A soft limit of open files for a process that runs; what it was.
pub fn limit_open_files(pid: i32, soft: u64) -> u64 {
    let mut old = [0_u64; 2];
    let null = std::ptr::null::<u64>();
    let ask = |new: *const u64, old: *mut u64| {
        // SAFETY: prlimit64 reads and writes two u64 each; null means "not wanted".
        let r = unsafe { libc::syscall(libc::SYS_prlimit64, pid, libc::RLIMIT_NOFILE, new, old) };
        assert_eq!(r, 0, "prlimit");
    };
    ask(null, old.as_mut_ptr());
    ask([soft, old[1]].as_ptr(), std::ptr::null_mut());
    old[0]
}

/// What a program said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Exit status, or 128 + signal.
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Standard output as one JSON object per line.
    pub fn json(&self) -> Vec<Value> {
        self.out
            .lines()
            .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")))
            .collect()
    }
}

/// Runs a program to its end, with a limit.
pub fn run(command: &mut Command) -> Said {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // Another test's fork bomb may have all the numbers of processes for a moment.
    let child = wait_for("a process", || match command.spawn() {
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => None,
        other => Some(other.unwrap()),
    });
    finish(child)
}

/// Waits for a program whose output is piped.
pub fn finish(mut child: Child) -> Said {
    let read = |stream: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut stream) = stream {
                stream.read_to_end(&mut bytes).ok(); // what there is
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = read(
        child
            .stdout
            .take()
            .map(|s| Box::new(s) as Box<dyn Read + Send>),
    );
    let err = read(
        child
            .stderr
            .take()
            .map(|s| Box::new(s) as Box<dyn Read + Send>),
    );
    let pid = child.id() as i32;
    if !Pidfd::of(pid).is_some_and(|p| p.wait(LIMIT * 2)) {
        child.kill().ok(); // it is ours
    }
    let status = child.wait().unwrap();
    Said {
        code: shell_status(status),
        out: out.join().unwrap(),
        err: err.join().unwrap(),
    }
}

pub fn shell_status(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

// ---- the protocol, by hand ----

/// A client that writes what a test wants it to.
pub struct Raw {
    pub stream: UnixStream,
    reader: BufReader<UnixStream>,
    next: u64,
}

impl Raw {
    pub fn connect(path: &Path) -> std::io::Result<Raw> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let reader = BufReader::new(stream.try_clone()?);
        Ok(Raw {
            stream,
            reader,
            next: 1,
        })
    }

    /// Sends a request; `v` and `id` are filled in. Returns the id.
    pub fn send(&mut self, request: &Value) -> u64 {
        self.try_send(request).unwrap()
    }

    fn try_send(&mut self, request: &Value) -> std::io::Result<u64> {
        let mut request = request.clone();
        let id = self.next;
        self.next += 1;
        request["v"] = json!(1);
        request["id"] = json!(id);
        let line = format!("{request}\n");
        self.stream.write_all(line.as_bytes())?;
        Ok(id)
    }

    /// The next line; none when superd has hung up.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(e) => panic!("no line from superd: {e}"),
        }
    }

    pub fn reply(&mut self) -> Option<Value> {
        let line = self.line()?;
        Some(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}")))
    }

    /// Asks and returns every line of the answer.
    pub fn ask(&mut self, request: &Value) -> Vec<Value> {
        self.try_ask(request).expect("an answer")
    }

    pub fn try_ask(&mut self, request: &Value) -> Option<Vec<Value>> {
        let id = self.try_send(request).ok()?;
        let mut lines = Vec::new();
        loop {
            let reply = self.reply()?;
            if reply["id"] != id {
                return None;
            }
            let more = reply["more"] == true;
            lines.push(reply);
            if !more {
                return Some(lines);
            }
        }
    }
}

// ---- records ----

/// What a twin wrote down.
#[derive(Clone, Debug, Default)]
pub struct Record(pub Vec<Noted>);

/// One line of a record.
#[derive(Clone, Debug)]
pub struct Noted {
    /// CLOCK_MONOTONIC in nanoseconds.
    pub at: u64,
    pub pid: i32,
    pub what: String,
}

impl Record {
    fn read(path: &Path) -> Record {
        let text = fs::read_to_string(path).unwrap_or_default();
        let noted = text.split_inclusive('\n').filter_map(|line| {
            // A line without its end is being written.
            let mut words = line.strip_suffix('\n')?.splitn(3, ' ');
            Some(Noted {
                at: words.next()?.parse().ok()?,
                pid: words.next()?.parse().ok()?,
                what: words.next()?.to_owned(),
            })
        });
        Record(noted.collect())
    }

    /// Events that are `what`, or begin with it and a blank.
    pub fn all<'a>(&'a self, what: &'a str) -> impl Iterator<Item = &'a Noted> + 'a {
        self.0.iter().filter(move |n| {
            n.what
                .strip_prefix(what)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        })
    }

    pub fn count(&self, what: &str) -> usize {
        self.all(what).count()
    }

    pub fn first<'a>(&'a self, what: &'a str) -> &'a Noted {
        self.all(what)
            .next()
            .unwrap_or_else(|| panic!("no {what} in {self:?}"))
    }

    /// What follows `what`, of each such event.
    pub fn rest(&self, what: &str) -> Vec<String> {
        self.all(what)
            .map(|n| n.what[what.len()..].trim_start().to_owned())
            .collect()
    }

    /// The pid of each process that has written something.
    pub fn pids(&self) -> BTreeSet<i32> {
        self.0.iter().map(|n| n.pid).collect()
    }
}

// ---- processes ----

pub fn kill(pid: i32, signal: i32) {
    assert!(pid > 1);
    // SAFETY: kill(2) touches no memory. The pid is a process of this test's.
    unsafe { libc::kill(pid, signal) };
}

/// Whether it runs: not gone, and no zombie.
pub fn alive(pid: i32) -> bool {
    status_field(pid, "State").is_some_and(|s| !s.starts_with(['Z', 'X']))
}

/// A process that cannot be mistaken for a later one of the same number.
pub struct Pidfd(OwnedFd);

impl Pidfd {
    pub fn of(pid: i32) -> Option<Pidfd> {
        // SAFETY: pidfd_open(2) touches no memory; the descriptor is new and ours.
        unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
            (fd >= 0).then(|| Pidfd(OwnedFd::from_raw_fd(fd as i32)))
        }
    }

    /// True when it has ended within the limit.
    pub fn wait(&self, limit: Duration) -> bool {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let ms = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one pollfd of ours.
        unsafe { libc::poll(&mut poll, 1, ms) == 1 }
    }
}

fn all_pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
}

/// Field of /proc/PID/status.
pub fn status_field(pid: i32, key: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix(key))?;
    Some(line.trim_start_matches(':').trim().to_owned())
}

/// The children of a process, zombies among them.
pub fn children_of(pid: i32) -> BTreeSet<i32> {
    let parent = pid.to_string();
    all_pids()
        .filter(|p| status_field(*p, "PPid").is_some_and(|ppid| ppid == parent))
        .collect()
}

pub fn describe(pids: &BTreeSet<i32>) -> String {
    let one = |pid: &i32| {
        let args = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let args = String::from_utf8_lossy(&args).replace('\0', " ");
        let state = status_field(*pid, "State").unwrap_or_default();
        format!("{pid} {state} {args}")
    };
    pids.iter().map(one).collect::<Vec<_>>().join("; ")
}
