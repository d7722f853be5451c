//! What superd says of itself to the init system that has started it (sd_notify(3)).

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::*;

/// The socket of an init system.
struct Init {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Init {
    fn new(place: &Place) -> Init {
        let path = place.file("init.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Init { socket, path }
    }

    fn next(&self) -> String {
        let mut bytes = [0; 4096];
        let n = self.socket.recv(&mut bytes).expect("a message");
        String::from_utf8(bytes[..n].to_vec()).unwrap()
    }

    /// The next one that begins so.
    fn wait(&self, what: &str) -> String {
        loop {
            let said = self.next();
            if said.starts_with(what) {
                return said;
            }
        }
    }

    /// What there is, without waiting.
    fn rest(&self) -> Vec<String> {
        self.socket.set_nonblocking(true).unwrap();
        let mut bytes = [0; 4096];
        let mut all = Vec::new();
        while let Ok(n) = self.socket.recv(&mut bytes) {
            all.push(String::from_utf8(bytes[..n].to_vec()).unwrap());
        }
        self.socket.set_nonblocking(false).unwrap();
        all
    }
}

fn announced(toml: &str, more: &[(&str, String)]) -> (Superd, Init) {
    let place = Place::new();
    place.configure(Flavour::NoCgroups, toml);
    let init = Init::new(&place);
    let mut command = place.command(&place.superd_args());
    command.env("NOTIFY_SOCKET", &init.path);
    for (name, value) in more {
        command.env(name, value);
    }
    (Superd::launch(place, command), init)
}

const ONE: &str = "[service.web]\ncommand = [$TWIN:web, \"obey\"]\nnotify = false\n\
    environment = { SHOWS = \"1\" }\n";

#[test]
fn it_says_ready_reloading_status_and_stopping_with_the_time_it_may_take() {
    let toml = format!("{ONE}stop = [{{ signal = \"TERM\", wait = \"20s\" }}]\n");
    let (superd, init) = announced(&toml, &[]);
    assert_eq!(init.next(), "READY=1");
    init.wait("STATUS=1 service: 1 up");
    superd.ok(&["reload"]);
    let reloading = init.wait("RELOADING=1\nMONOTONIC_USEC=");
    let at: u64 = reloading.rsplit('=').next().unwrap().parse().unwrap();
    let now = monotonic() / 1000;
    assert!(at <= now && now - at < 60_000_000, "{at}, {now}");
    assert_eq!(init.wait("READY"), "READY=1");
    // A configuration that is refused ends the reload, too.
    std::fs::write(superd.place.file("superd.toml"), "[service.web]\n").unwrap();
    assert_eq!(superd.ctl(&["reload"]).code, 1);
    init.wait("RELOADING=1");
    assert_eq!(init.wait("READY"), "READY=1");
    superd.signal(libc::SIGTERM);
    superd.signal(libc::SIGTERM);
    let stopping = init.wait("STOPPING=1");
    let longest: u64 = stopping
        .strip_prefix("STOPPING=1\nEXTEND_TIMEOUT_USEC=")
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("{stopping}"));
    assert!((22_000_000..40_000_000).contains(&longest), "{longest}");
    let mut superd = superd;
    assert_eq!(superd.wait().code(), Some(0));
    assert!(!init.rest().iter().any(|m| m.starts_with("STOPPING")));
    superd.end();
}

#[test]
fn it_says_ready_again_after_an_upgrade_and_stopping_when_it_leaves_its_services() {
    let (superd, init) = announced(ONE, &[]);
    assert_eq!(init.wait("READY"), "READY=1");
    superd.ok(&["upgrade"]);
    assert_eq!(init.wait("READY"), "READY=1");
    superd.wait_state("web", "up");
    superd.ok(&["shutdown", "--leave-running"]);
    init.wait("STOPPING=1");
    superd.ended().resume().end();
}

#[test]
fn the_watchdog_is_fed_in_time_and_only_if_it_is_ours() {
    let usec = ("WATCHDOG_USEC", "400000".to_owned());
    let (superd, init) = announced(ONE, std::slice::from_ref(&usec));
    let mut at = Vec::new();
    while at.len() < 6 {
        init.wait("WATCHDOG=1");
        at.push(monotonic());
    }
    let mean = Duration::from_nanos((at[5] - at[0]) / 5);
    assert!(mean > Duration::from_millis(100), "{mean:?}");
    superd.end();
    let other = ("WATCHDOG_PID", "1".to_owned());
    let (superd, init) = announced(ONE, &[usec, other]);
    init.wait("STATUS=1 service: 1 up");
    // A turn of the loop, and another.
    superd.ok(&["status"]);
    superd.ok(&["reload"]);
    init.wait("RELOADING");
    assert!(!init.rest().iter().any(|m| m.starts_with("WATCHDOG")));
    superd.end();
}

#[test]
fn services_get_nothing_of_it() {
    let toml = format!("{ONE}[service.told]\ncommand = [$TWIN:told, \"obey\"]\n");
    let more = ["WATCHDOG_USEC", "WATCHDOG_PID"].map(|n| (n, "60000000".to_owned()));
    let (superd, init) = announced(&toml, &more);
    for name in ["web", "told"] {
        superd.wait_record(name, "start", 1);
    }
    let environ = |name| {
        let pid = superd.pid_of(name);
        let bytes = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    let web = environ("web");
    assert!(web.contains("SHOWS=1"));
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        assert!(!web.contains(name), "{web}");
    }
    let told = environ("told");
    assert!(told.contains("NOTIFY_SOCKET="), "superd's own");
    assert!(!told.contains(init.path.to_str().unwrap()), "{told}");
    assert!(!told.contains("WATCHDOG_"), "{told}");
    superd.end();
}

#[test]
fn an_init_system_that_does_not_listen_holds_nothing_up_and_hears_of_it_later() {
    let place = Place::new();
    place.configure(Flavour::NoCgroups, ONE);
    let init = Init::new(&place);
    // As full as it gets: nobody reads.
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"full", &init.path).is_ok() {}
    let mut command = place.command(&place.superd_args());
    command.env("NOTIFY_SOCKET", &init.path);
    let superd = Superd::launch(place, command);
    superd.wait_state("web", "up");
    for _ in 0..20 {
        superd.ok(&["reload"]);
    }
    init.wait("RELOADING=1");
    assert_eq!(init.wait("READY"), "READY=1");
    superd.end();
}

#[test]
fn an_init_system_that_is_gone_is_no_obstacle() {
    for address in ["/nobody/listens", "vsock:2:1", "@"] {
        let place = Place::new();
        place.configure(Flavour::NoCgroups, ONE);
        let mut command = place.command(&place.superd_args());
        command.env("NOTIFY_SOCKET", address);
        let superd = Superd::launch(place, command);
        superd.wait_state("web", "up");
        superd.ok(&["reload"]);
        superd.end();
    }
}
