//! superd's init scripts, under busybox ash, with a small rc.common and a small procd of the
//! tests' own in the place of OpenWrt's. What these two do is what procd was seen to do: one
//! TERM to one pid, again with each further stop, KILL to that pid alone when term_timeout is
//! over, no waiting, a start that is queued until the old one has ended, a respawn whatever
//! the exit status.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;

use crate::support::*;

const RC_COMMON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/procd/rc.common");

/// What a script has told of an instance: keys in order, each as often as it came.
type Told = Vec<(String, String)>;

fn value<'a>(told: &'a Told, key: &str) -> Option<&'a str> {
    let found = told.iter().find(|(k, _)| k == key);
    found.map(|(_, v)| v.as_str())
}

fn values(told: &Told, key: &str) -> Vec<String> {
    let all = told.iter().filter(|(k, _)| k == key);
    all.map(|(_, v)| v.clone()).collect()
}

/// An instance of procd's.
struct Instance {
    told: Told,
    child: Option<Child>,
    /// When it ends, this is started (`restart`), or nothing is (`stop`).
    next: Option<Option<Told>>,
    kill_at: Option<Instant>,
    respawn_at: Option<Instant>,
}

#[derive(Default)]
struct State {
    instances: BTreeMap<String, Instance>,
    /// Main processes that were started, oldest first.
    started: Vec<i32>,
    killed: usize,
}

/// A router: a place with superd's scripts, and a procd.
pub struct Router {
    pub place: Place,
    state: Arc<Mutex<State>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// How long procd waits before it starts again what has ended by itself. On a router it
    /// is what the script says, 5 s.
    respawn: Duration,
}

impl Router {
    pub fn new(toml: &str) -> Router {
        Router::with_respawn(toml, Duration::from_millis(20))
    }

    /// None where there is no busybox; the test is skipped then.
    pub fn or_skip(name: &str, toml: &str) -> Option<Router> {
        program_or_skip(name, "busybox").then(|| Router::new(toml))
    }

    pub fn with_respawn(toml: &str, respawn: Duration) -> Router {
        let place = Place::new();
        place.configure(Flavour::NoCgroups, toml);
        fs::create_dir(place.file("init.d")).unwrap();
        fs::create_dir(place.file("bin")).unwrap();
        fs::create_dir(place.file("procd")).unwrap();
        for fifo in ["procd/ask", "procd/answer"] {
            nix::unistd::mkfifo(&place.file(fifo), Mode::S_IRWXU).unwrap();
        }
        put_program(&place.file("bin/superd"), Path::new(SUPERD));
        let mut router = Router {
            place,
            state: Arc::default(),
            end: Arc::default(),
            thread: None,
            respawn,
        };
        router.install("superd", "superd");
        router.thread = Some(router.play_procd());
        router
    }

    /// Puts init.d/FROM of the repository there as NAME, with this place's paths in it.
    pub fn install(&self, from: &str, name: &str) -> PathBuf {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("init.d");
        let text = fs::read_to_string(dir.join(from)).unwrap();
        let at = |name: &str| self.place.file(name).display().to_string();
        let text = text
            .replace("/usr/sbin/superd\n", &format!("{}\n", at("bin/superd")))
            .replace("/usr/sbin/superctl\n", &format!("{SUPERCTL}\n"))
            .replace("/etc/superd/superd.toml", &at("superd.toml"));
        let path = self.place.file("init.d").join(name);
        fs::write(&path, text).unwrap();
        path
    }

    pub fn script(&self, name: &str, action: &[&str]) -> Command {
        self.script_at(&self.place.file("init.d").join(name), action)
    }

    pub fn script_at(&self, path: &Path, action: &[&str]) -> Command {
        let mut command = Command::new("busybox");
        command
            .args(["ash", RC_COMMON])
            .arg(path)
            .args(action)
            .env("PROCD", self.place.file("procd"))
            .env("SUPERCTL_SOCKET", self.place.socket())
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, name: &str, action: &[&str]) -> Said {
        run(&mut self.script(name, action))
    }

    /// Must succeed.
    pub fn ok(&self, name: &str, action: &[&str]) -> Said {
        let said = self.run(name, action);
        assert_eq!(
            said.code,
            0,
            "{name} {action:?}: {said:?}\n{}",
            self.place.log()
        );
        said
    }

    pub fn spawn(&self, name: &str, action: &[&str]) -> Child {
        let mut command = self.script(name, action);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// superctl, by hand.
    pub fn ctl(&self, args: &[&str]) -> Said {
        let mut command = Command::new(SUPERCTL);
        run(command
            .args(args)
            .env("SUPERCTL_SOCKET", self.place.socket()))
    }

    pub fn state_of(&self, service: &str) -> String {
        let said = self.ctl(&["--json", "status", service]);
        let first = said.json().into_iter().next().unwrap_or_default();
        first["status"]["state"]
            .as_str()
            .unwrap_or("none")
            .to_owned()
    }

    pub fn pid_of(&self, service: &str) -> i32 {
        let said = self.ctl(&["--json", "status", service]);
        let first = said.json().into_iter().next().unwrap_or_default();
        first["status"]["pid"].as_i64().unwrap_or(0) as i32
    }

    pub fn wait_up(&self, service: &str) {
        wait_until("it is up", || self.state_of(service) == "up");
    }

    /// What scripts have called, a line each, with tabs.
    pub fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.place.file("procd/calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub fn calls_of(&self, what: &str) -> usize {
        let is_it = |c: &&String| c.split('\t').next() == Some(what);
        self.calls().iter().filter(is_it).count()
    }

    pub fn started(&self) -> Vec<i32> {
        self.state.lock().unwrap().started.clone()
    }

    /// The main process that procd watches.
    pub fn main_pid(&self, name: &str) -> Option<i32> {
        let state = self.state.lock().unwrap();
        let child = state.instances.get(name)?.child.as_ref()?;
        Some(child.id() as i32)
    }

    fn killed(&self) -> usize {
        self.state.lock().unwrap().killed
    }

    fn play_procd(&self) -> JoinHandle<()> {
        let (state, end) = (self.state.clone(), self.end.clone());
        let respawn = self.respawn;
        let dir = self.place.file("procd");
        let starter = Starter {
            mark: self.place.mark.clone(),
            log: self.place.file("superd.log"),
            socket: self.place.socket(),
        };
        // Both ends, so that neither open(2) nor read(2) waits for a script.
        let open = |name: &str| {
            let mut options = fs::File::options();
            options.read(true).write(true).open(dir.join(name)).unwrap()
        };
        let (ask, mut answer) = (open("ask"), open("answer"));
        thread::spawn(move || {
            let fd = ask.as_raw_fd();
            let mut ask = BufReader::new(ask);
            while !end.load(Ordering::Relaxed) {
                let mut poll = libc::pollfd {
                    fd,
                    events: libc::POLLIN,
                    revents: 0,
                };
                // SAFETY: one pollfd, which is ours.
                let ready = unsafe { libc::poll(&mut poll, 1, 5) };
                let mut procd = state.lock().unwrap();
                if ready > 0 {
                    let mut line = String::new();
                    ask.read_line(&mut line).unwrap();
                    let said = procd.hear(line.trim_end_matches('\n'), &starter);
                    answer.write_all(format!("{said}\n").as_bytes()).unwrap();
                }
                procd.turn(respawn, &starter);
            }
            let mut procd = state.lock().unwrap();
            for (_, mut instance) in std::mem::take(&mut procd.instances) {
                if let Some(mut child) = instance.child.take() {
                    kill(child.id() as i32, libc::SIGQUIT);
                    child.wait().unwrap();
                }
            }
        })
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(ended.is_none_or(|e| e.is_ok()), "procd has failed");
        }
    }
}

/// Puts a program there, as a package manager does: another file takes the name.
pub fn put_program(path: &Path, from: &Path) {
    let fresh = path.with_extension("fresh");
    fs::copy(from, &fresh).unwrap();
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
    // What another test has just forked may hold it open for writing, and then it cannot be
    // executed: a lease is given when nobody does.
    let file = fs::File::open(&fresh).unwrap();
    wait_until("nobody writes to it", || {
        // SAFETY: fcntl(2) with a descriptor that is open, and numbers.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) == 0 }
    });
    drop(file);
    fs::rename(fresh, path).unwrap();
}

struct Starter {
    mark: String,
    log: PathBuf,
    socket: PathBuf,
}

impl Starter {
    /// As procd does: SIGPIPE ignored, nothing on standard input, in procd's own session.
    fn start(&self, told: &Told) -> Child {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log);
        let log = log.unwrap();
        let args = values(told, "command");
        let mut command = Command::new(&args[0]);
        command
            .args(&args[1..])
            .env("E2E_MARK", &self.mark)
            .env("SUPERCTL_SOCKET", &self.socket)
            .env("LD_PRELOAD", "") // where procd has its library
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        // SAFETY: prctl(2) and signal(2) are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGQUIT);
                libc::signal(libc::SIGPIPE, libc::SIG_IGN);
                Ok(())
            });
        }
        command.spawn().unwrap()
    }
}

impl State {
    fn hear(&mut self, line: &str, starter: &Starter) -> &'static str {
        let mut parts = line.split('\t');
        let (verb, name) = (parts.next().unwrap(), parts.next().unwrap().to_owned());
        let told: Told = parts
            .map(|p| p.split_once('=').unwrap_or((p, "")))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        match verb {
            "running" => match self.instances.get(&name).is_some_and(|i| i.child.is_some()) {
                true => "yes",
                false => "no",
            },
            "delete" => match self.instances.get_mut(&name) {
                None => "not found",
                Some(instance) => {
                    instance.stop(None);
                    "yes"
                }
            },
            "set" if told.is_empty() => "yes", // a service without instances
            "set" => {
                match self.instances.get_mut(&name) {
                    // Nothing has changed.
                    Some(i) if i.told == told && i.next.is_none() && i.child.is_some() => {}
                    Some(instance) if instance.child.is_some() && instance.next.is_some() => {
                        instance.next = Some(Some(told));
                    }
                    Some(instance) if instance.child.is_some() => instance.stop(Some(told)),
                    _ => {
                        let child = starter.start(&told);
                        self.started.push(child.id() as i32);
                        let instance = Instance {
                            told,
                            child: Some(child),
                            next: None,
                            kill_at: None,
                            respawn_at: None,
                        };
                        self.instances.insert(name, instance);
                    }
                }
                "yes"
            }
            other => panic!("{other}"),
        }
    }

    fn turn(&mut self, respawn: Duration, starter: &Starter) {
        let now = Instant::now();
        let mut gone = Vec::new();
        for (name, i) in &mut self.instances {
            if let Some(child) = &mut i.child {
                if child.try_wait().unwrap().is_some() {
                    i.child = None;
                    i.kill_at = None;
                    match i.next.take() {
                        Some(None) => gone.push(name.clone()),
                        Some(Some(told)) => {
                            i.told = told;
                            i.respawn_at = Some(now);
                        }
                        None => i.respawn_at = Some(now + respawn),
                    }
                } else if i.kill_at.is_some_and(|at| at <= now) {
                    kill(child.id() as i32, libc::SIGKILL);
                    i.kill_at = None;
                    self.killed += 1;
                }
            }
            if i.child.is_none() && i.respawn_at.is_some_and(|at| at <= now) {
                let child = starter.start(&i.told);
                self.started.push(child.id() as i32);
                i.child = Some(child);
                i.respawn_at = None;
            }
        }
        for name in gone {
            self.instances.remove(&name);
        }
    }
}

impl Instance {
    /// TERM, each time; and each time the clock begins anew.
    fn stop(&mut self, next: Option<Told>) {
        self.next = Some(next);
        self.respawn_at = None;
        match &self.child {
            None => self.child = None,
            Some(child) => {
                kill(child.id() as i32, libc::SIGTERM);
                let seconds = value(&self.told, "term_timeout").map_or(5, |s| s.parse().unwrap());
                self.kill_at = Some(Instant::now() + Duration::from_secs(seconds));
            }
        }
    }
}

const WEB: &str = "[service.web]\ncommand = [$TWIN:web, \"obey\"]\n";

/// A server that ends when a gate is there, or by a KILL.
fn slow(gate: &str, wait: &str) -> String {
    format!(
        "[service.web]\ncommand = [$TWIN:web, \"slow-stop\", \"0\", \"--gate\", \"$DIR/{gate}\"]\n\
         stop = [{{ signal = \"TERM\", wait = \"{wait}\" }}]\n"
    )
}

fn router(name: &str, toml: &str) -> Option<Router> {
    Router::or_skip(name, toml)
}

/// One line of calls as the parameters of an instance.
fn set_of(router: &Router) -> Told {
    let calls = router.calls();
    let set = calls.iter().find(|c| c.starts_with("set\t")).unwrap();
    let parts = set.split('\t').skip(2);
    parts
        .map(|p| p.split_once('=').unwrap())
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

#[test]
fn every_parameter_is_as_procd_needs_it() {
    let toml = format!("{WEB}stop = [{{ signal = \"TERM\", wait = \"41s\" }}]\n");
    let Some(r) = router("every_parameter", &toml) else {
        return;
    };
    r.ok("superd", &["boot"]);
    let told = set_of(&r);
    let longest: u64 = r
        .ctl(&["plan", "--max-stop-seconds"])
        .out
        .trim()
        .parse()
        .unwrap();
    assert!(longest > 41);
    let at = |name: &str| r.place.file(name).display().to_string();
    let command = [at("bin/superd"), "--config".into(), at("superd.toml")];
    assert_eq!(values(&told, "command"), command);
    assert_eq!(values(&told, "respawn"), ["3600", "5", "0"]);
    assert_eq!(
        value(&told, "term_timeout"),
        Some(&*(longest + 5).to_string())
    );
    assert_eq!(value(&told, "stderr"), Some("1"));
    assert_eq!(told.len(), 3 + 3 + 3, "and nothing else: {told:?}");
    r.ok("superd", &["stop"]);
}

/// Issue 7: the package starts superd without a service; the first ones come by a reload, which
/// can tell procd nothing.
#[test]
fn there_is_time_for_the_first_services_that_a_reload_brings() {
    let Some(r) = router("there_is_time", "") else {
        return;
    };
    r.ok("superd", &["start"]);
    let told: u64 = value(&set_of(&r), "term_timeout").unwrap().parse().unwrap();
    r.place.configure(Flavour::NoCgroups, WEB);
    r.ok("superd", &["reload"]);
    let longest = r.ctl(&["plan", "--max-stop-seconds"]).out;
    let longest: u64 = longest.trim().parse().unwrap();
    assert!(told >= longest + 5, "{told}, but {longest}");
    r.ok("superd", &["stop"]);
}

#[test]
fn a_configuration_with_a_problem_is_told_and_procd_is_told_nothing() {
    let Some(r) = router("a_configuration_with_a_problem", "[service.web]\n") else {
        return;
    };
    for action in ["start", "boot"] {
        let said = r.run("superd", &[action]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains("superd.toml"), "{said:?}");
    }
    assert_eq!(r.run("superd", &["check"]).code, 1);
    assert_eq!(r.calls_of("set"), 0);
    // One that runs stays as it is.
    r.place.configure(Flavour::NoCgroups, WEB);
    r.ok("superd", &["start"]);
    r.wait_up("web");
    let pid = r.pid_of("web");
    r.place.configure(Flavour::NoCgroups, "[service.web]\n");
    r.ok("superd", &["start"]);
    let said = r.run("superd", &["reload"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert_eq!(r.pid_of("web"), pid);
    assert_eq!(r.started().len(), 1);
    r.place.configure(Flavour::NoCgroups, WEB);
    r.ok("superd", &["reload"]);
    assert_eq!(r.pid_of("web"), pid);
    r.ok("superd", &["stop"]);
}

#[test]
fn start_stop_restart_and_the_rest_return_what_they_have_done() {
    let Some(r) = router("start_stop_restart", WEB) else {
        return;
    };
    // Nothing runs.
    r.ok("superd", &["stop"]);
    assert_eq!(r.run("superd", &["reload"]).code, 7);
    assert_eq!(r.run("superd", &["status"]).code, 3);
    r.ok("superd", &["start"]);
    r.place.wait_record("web", "start", 1);
    r.wait_up("web");
    r.ok("superd", &["start"]);
    r.ok("superd", &["status"]);
    for (action, says) in [
        ("services", "web"),
        ("plan", "web"),
        ("check", "good"),
        ("upgrade", "upgraded from"),
    ] {
        let said = r.ok("superd", &[action]);
        assert!(said.out.contains(says), "{action}: {said:?}");
    }
    assert_eq!(r.started().len(), 1, "once");
    r.ok("superd", &["restart"]);
    r.place.wait_record("web", "start", 2);
    assert_eq!(r.started().len(), 2);
    r.wait_up("web");
    r.ok("superd", &["stop"]);
    assert_eq!(r.main_pid("superd"), None, "stopped means stopped");
    r.ok("superd", &["stop"]);
    let record = r.place.record("web");
    assert_eq!((record.count("start"), record.count("signal TERM")), (2, 2));
    assert_eq!(r.killed(), 0);
    assert!(r.place.processes().is_empty());
}

#[test]
fn stop_returns_when_everything_is_stopped_and_meanwhile_superctl_answers() {
    let Some(r) = router("stop_returns_when", &slow("gate", "10m")) else {
        return;
    };
    r.ok("superd", &["start"]);
    r.place.wait_record("web", "start", 1);
    r.wait_up("web");
    // Stops, a restart's first half and a TERM to superd's pid, all at once.
    let stops: Vec<Child> = (0..3).map(|_| r.spawn("superd", &["stop"])).collect();
    r.place.wait_record("web", "signal TERM", 1);
    let by_hand = r.ctl(&["stop", "--no-wait", "web"]);
    assert_eq!(by_hand.code, 0, "{by_hand:?}");
    assert_eq!(r.ctl(&["status", "web"]).code, 0);
    fs::write(r.place.file("gate"), "").unwrap();
    for stop in stops {
        let said = finish(stop);
        assert_eq!(said.code, 0, "{said:?}");
    }
    assert_eq!(r.place.record("web").count("signal TERM"), 1);
    assert!(r.place.processes().is_empty());
    assert_eq!(
        r.started().len(),
        1,
        "procd did not start it again meanwhile"
    );
}

#[test]
fn at_shutdown_the_script_is_in_time_and_the_stop_goes_on() {
    let Some(r) = router("at_shutdown", &slow("gate", "10m")) else {
        return;
    };
    // The real 14 s would be sat out.
    let script = r.place.file("init.d/superd");
    let text = fs::read_to_string(&script).unwrap();
    assert!(text.contains("\nAT_SHUTDOWN=14\n"));
    fs::write(&script, text.replace("AT_SHUTDOWN=14", "AT_SHUTDOWN=1")).unwrap();
    r.ok("superd", &["boot"]);
    r.place.wait_record("web", "start", 1);
    r.wait_up("web");
    let said = r.run("superd", &["shutdown"]);
    assert_eq!(said.code, 124, "{said:?}");
    // procd's TERM to superd, and TERM to everybody as soon as the last script is done.
    let superd = r.main_pid("superd").unwrap();
    for pid in r.place.processes() {
        if pid != superd {
            kill(pid, libc::SIGTERM);
        }
    }
    kill(superd, libc::SIGTERM);
    fs::write(r.place.file("gate"), "").unwrap();
    wait_until("superd ends", || r.main_pid("superd").is_none());
    // superd has sent one; the other one is procd's.
    assert_eq!(r.place.record("web").count("signal TERM"), 2);
    assert_eq!(r.place.record("web").count("start"), 1);
    assert_eq!(r.started().len(), 1);
    assert!(r.place.processes().is_empty());
}

#[test]
fn a_reboot_does_not_start_again_what_its_term_has_ended() {
    let toml =
        format!("{WEB}[service.two]\ncommand = [$TWIN:two, \"obey\"]\nrestart-delay = \"1ms\"\n");
    let Some(r) = router("a_reboot", &toml) else {
        return;
    };
    r.ok("superd", &["boot"]);
    for name in ["web", "two"] {
        r.place.wait_record(name, "start", 1);
        r.wait_up(name);
    }
    // The script stops all of them; what comes after it meets nobody.
    r.ok("superd", &["shutdown"]);
    assert!(
        r.place.processes().is_empty(),
        "1 s later there is KILL for everybody"
    );
    for name in ["web", "two"] {
        let record = r.place.record(name);
        assert_eq!(
            (record.count("start"), record.count("signal TERM")),
            (1, 1),
            "{name}"
        );
    }
}

#[test]
fn sysupgrade_is_one_stop_and_nothing_comes_back() {
    let Some(r) = router("sysupgrade", &slow("gate", "10m")) else {
        return;
    };
    r.ok("superd", &["boot"]);
    r.place.wait_record("web", "start", 1);
    r.wait_up("web");
    // No script: procd TERMs what it watches, and waits for nobody.
    let superd = r.main_pid("superd").unwrap();
    r.state.lock().unwrap().hear(
        "delete\tsuperd",
        &Starter {
            mark: String::new(),
            log: PathBuf::new(),
            socket: PathBuf::new(),
        },
    );
    r.place.wait_record("web", "signal TERM", 1);
    // The next stage: TERM for every process; superd's own is absorbed.
    let web = r.place.processes();
    kill(superd, libc::SIGTERM);
    for pid in web.iter().filter(|p| **p != superd) {
        kill(*pid, libc::SIGTERM);
    }
    fs::write(r.place.file("gate"), "").unwrap();
    wait_until("superd ends", || r.main_pid("superd").is_none());
    assert!(r.place.processes().is_empty());
    let record = r.place.record("web");
    assert_eq!(record.count("start"), 1);
    assert_eq!(
        record.count("signal TERM"),
        2,
        "one of them is sysupgrade's own"
    );
    assert_eq!(r.started().len(), 1);
}

#[test]
fn procd_kills_superd_and_nobody_else_and_the_next_one_goes_on() {
    let toml = format!("{WEB}[service.two]\ncommand = [$TWIN:two, \"tree\"]\n");
    let Some(r) = router("procd_kills_superd", &toml) else {
        return;
    };
    r.ok("superd", &["start"]);
    for name in ["web", "two"] {
        r.wait_up(name);
    }
    let pids = ["web", "two"].map(|n| r.pid_of(n));
    for round in 1..=3 {
        let superd = r.main_pid("superd").unwrap();
        kill(superd, libc::SIGKILL);
        wait_until("procd starts the next one", || {
            r.main_pid("superd").is_some_and(|p| p != superd)
        });
        // A start at this moment is no second one.
        r.ok("superd", &["start"]);
        wait_until("it has them", || {
            ["web", "two"].map(|n| r.pid_of(n)) == pids
        });
        assert_eq!(r.started().len(), 1 + round);
    }
    r.ok("superd", &["stop"]);
    assert_eq!(r.place.record("web").count("start"), 1);
    assert!(r.place.processes().is_empty());
}

/// Issue 7: until procd has started the next one, a stop found nobody to ask, said 0, and took
/// superd away from procd: the services ran on for ever.
#[test]
fn a_stop_after_superd_was_killed_stops_what_runs_on() {
    if !program_or_skip("a_stop_after_superd_was_killed", "busybox") {
        return;
    }
    let toml = format!("{WEB}[service.two]\ncommand = [$TWIN:two, \"tree\"]\n");
    let r = Router::with_respawn(&toml, Duration::from_secs(3600));
    let killed = |r: &Router| {
        r.ok("superd", &["start"]);
        for name in ["web", "two"] {
            r.wait_up(name);
        }
        kill(r.main_pid("superd").unwrap(), libc::SIGKILL);
        wait_until("procd knows", || r.main_pid("superd").is_none());
    };
    for (round, action) in (1..).zip(["stop", "shutdown", "restart"]) {
        killed(&r);
        let said = r.ok("superd", &[action]);
        assert!(said.out.contains("stopped"), "{said:?}");
        assert_eq!(r.place.record("web").count("signal TERM"), round);
        if action != "restart" {
            assert_eq!(r.main_pid("superd"), None);
            assert!(r.place.processes().is_empty());
        }
    }
    // It cannot be started, so nobody is asked: that is no success, and procd tries no more.
    killed(&r);
    r.place.configure(Flavour::NoCgroups, "[service.web]\n");
    let said = r.run("superd", &["stop"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("superd.toml"), "{said:?}");
    assert!(r.calls().last().unwrap().starts_with("delete"), "{said:?}");
    r.place.configure(Flavour::NoCgroups, &toml);
    r.ok("superd", &["start"]);
    r.ok("superd", &["stop"]);
    assert!(r.place.processes().is_empty());
}

#[test]
fn a_package_upgrade_that_only_starts_becomes_the_new_program_in_place() {
    let Some(r) = router("a_package_upgrade", WEB) else {
        return;
    };
    r.ok("superd", &["start"]);
    r.place.wait_record("web", "start", 1);
    r.wait_up("web");
    let (superd, web) = (r.main_pid("superd").unwrap(), r.pid_of("web"));
    let exe = |pid: i32| fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    // Nothing new: nothing happens.
    let said = r.ok("superd", &["start"]);
    let wanted = "superd: running already; its program has not changed\n";
    assert_eq!(said.out, wanted, "{said:?}");
    put_program(&r.place.file("bin/superd"), Path::new(SUPERD));
    assert!(exe(superd).display().to_string().ends_with("(deleted)"));
    // The configuration has changed, and with it what the script would tell procd.
    r.place.configure(Flavour::NoCgroups, &slow("gate", "5m"));
    let said = r.ok("superd", &["start"]);
    assert!(said.out.contains("upgraded from"), "{said:?}");
    assert_eq!(exe(superd), r.place.file("bin/superd"));
    assert_eq!(r.main_pid("superd"), Some(superd));
    assert_eq!(r.pid_of("web"), web);
    assert_eq!(r.started(), [superd]);
    // opkg stops first, in vain.
    let mut stop = r.script("superd", &["stop"]);
    assert_eq!(run(stop.env("PKG_UPGRADE", "1")).code, 0);
    put_program(&r.place.file("bin/superd"), Path::new(SUPERD));
    let said = r.ok("superd", &["start"]);
    assert!(said.out.contains("upgraded from"), "{said:?}");
    assert_eq!((r.main_pid("superd"), r.pid_of("web")), (Some(superd), web));
    // A new one that cannot be: the old one goes on, and the script says why.
    put_program(&r.place.file("bin/superd"), Path::new("/bin/false"));
    let said = r.run("superd", &["start"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("not upgraded"), "{said:?}");
    assert_eq!((r.main_pid("superd"), r.pid_of("web")), (Some(superd), web));
    r.ok("superd", &["stop"]);
}

#[test]
fn a_start_beside_a_superd_that_was_started_by_hand_fails_and_says_so() {
    let Some(r) = router("a_start_beside_a_superd", WEB) else {
        return;
    };
    let mut by_hand = Command::new(r.place.file("bin/superd"))
        .arg("--config")
        .arg(r.place.file("superd.toml"))
        .env("E2E_MARK", &r.place.mark) // a test that fails leaves it to the place
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    r.wait_up("web");
    let said = r.run("superd", &["start"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("did not start"), "{said:?}");
    assert_eq!(r.started().len(), 0, "procd was told nothing");
    assert_eq!(r.ctl(&["shutdown"]).code, 0);
    by_hand.wait().unwrap();
    r.ok("superd", &["start"]);
    r.wait_up("web");
    r.ok("superd", &["stop"]);
}

#[test]
fn a_start_while_it_stops_comes_after_the_stop() {
    let Some(r) = router("a_start_while_it_stops", &slow("gate", "10m")) else {
        return;
    };
    r.ok("superd", &["start"]);
    r.place.wait_record("web", "start", 1);
    r.wait_up("web");
    let superd = r.main_pid("superd").unwrap();
    // As sysupgrade or `ubus call service delete` does: no script, and so no lock.
    let nobody = Starter {
        mark: String::new(),
        log: PathBuf::new(),
        socket: PathBuf::new(),
    };
    r.state.lock().unwrap().hear("delete\tsuperd", &nobody);
    r.place.wait_record("web", "signal TERM", 1);
    r.ok("superd", &["start"]);
    assert_eq!(r.main_pid("superd"), Some(superd), "it is still stopping");
    fs::write(r.place.file("gate"), "").unwrap();
    wait_until("the next one", || r.started().len() == 2);
    r.place.wait_record("web", "start", 2);
    r.ok("superd", &["stop"]);
}
