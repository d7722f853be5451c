use super::*;
use crate::machine::event::{Event, Instance, Pid};
use crate::machine::report::Origin;
use crate::machine::supervisor::{Ending, Supervisor};
use crate::machine::time::Tick;

fn head() -> Head {
    Head {
        version: VERSION,
        boot: "b-1".to_owned(),
        pids: "pid:[1]".to_owned(),
        reapers: vec![7],
    }
}

const TOML: &str = r#"
[service.web]
command = ["/usr/sbin/webd", "--port", "8080"]
user = "www"
limits = { nofile = 4096 }
stop = [
  { http = "POST http://127.0.0.1:2019/stop", wait = "10s" },
  { run = ["/bin/true"], until = "done", wait = "1s" },
  { signal = "QUIT", to = "tree", until = "ports-closed", wait = "2s", settle = "3ms" },
]
reload = { run = ["/bin/kill", "-HUP"], wait = "3s" }

[service.dns]
command = ["/usr/sbin/dnsd"]
requires = ["web"]
"#;

fn defs() -> Map<String, ServiceDef> {
    let file = std::env::temp_dir().join(format!(
        "superd-journal-{}-{:?}.toml",
        std::process::id(),
        std::thread::current().id()
    ));
    fs::write(&file, TOML).unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let config = crate::config::load(&file);
    fs::remove_file(&file).unwrap();
    config.unwrap().services
}

/// Both services in the middle of a stop, as a superd would write them.
fn entries() -> Vec<(ServiceId, ServiceDef, Entry)> {
    let defs = defs();
    let ids = |n: &str| match n {
        "dns" => Some(ServiceId(0)),
        "web" => Some(ServiceId(1)),
        _ => None,
    };
    let mut machine = Supervisor::new(1, Ending::WhenAsked);
    let mut effects = Vec::new();
    let mut now = Tick(5);
    let mut hear = |event| {
        now = now + std::time::Duration::from_millis(1);
        machine.handle(now, event, &mut effects);
    };
    let change = crate::machine::event::Change::New;
    let spec = |n: &str| (ids(n).unwrap(), std::rc::Rc::new(defs[n].spec(ids)), change);
    hear(Event::Configure {
        changed: vec![spec("dns"), spec("web")],
        gone: Vec::new(),
        by: Origin::Config,
    });
    for id in [ServiceId(1), ServiceId(0)] {
        hear(Event::Spawned(id, Instance(1), Pid(100 + id.0 as i32)));
        hear(Event::Execed(id, Instance(1)));
    }
    hear(Event::Shutdown {
        force: false,
        by: Origin::Policy,
        absorbed: 3,
    });
    hear(Event::Exited {
        service: ServiceId(0),
        instance: Instance(1),
        exit: crate::machine::report::Exit::Code(3),
        crash: None,
        left: Some(2),
    });
    let place = Place {
        main: Some(Process {
            pid: 101,
            start: Some(77),
        }),
        leader: 101,
        cookie: "/run:web:1-1".to_owned(),
        group: Some(PathBuf::from("/sys/fs/cgroup/superd.x/web.service")),
        ports: vec![(
            Some(PathBuf::from("net:[1]")),
            Listener {
                transport: crate::sys::proc::Transport::Tcp,
                port: 8080,
                inode: 9,
            },
        )],
    };
    let entry = |s: &crate::machine::service::Service| {
        let name = s.spec.name.to_string();
        let entry = Entry {
            name: name.clone(),
            memory: Memory::of(s),
            place: Some(place.clone()),
            commands: vec![Running {
                action: ActionId(4),
                program: "/bin/true".to_owned(),
                place: place.clone(),
            }],
        };
        (s.id, defs[&name].clone(), entry)
    };
    machine.services().map(entry).collect()
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let dir =
            std::env::temp_dir().join(format!("superd-journal-{}-{name}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Scratch(dir)
    }

    fn file(&self) -> PathBuf {
        self.0.join("journal")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn write(journal: &mut Journal, of: &[(ServiceId, ServiceDef, Entry)]) -> Option<String> {
    let all = journal.wants_all();
    let items = of.iter().map(|(id, def, entry)| Item {
        id: *id,
        def,
        entry: entry.clone(),
    });
    let is_news = journal.write(items, all);
    let why = journal.failing().map(str::to_owned);
    why.filter(|_| is_news)
}

fn left(path: &Path) -> Left {
    match read(path, &head()) {
        Found::Left(left) => left,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_written_is_read_and_the_last_word_counts() {
    let scratch = Scratch::new("words");
    let mut journal = Journal::new(scratch.file(), head());
    let mut all = entries();
    assert_eq!(write(&mut journal, &all), None);
    let found = left(&scratch.file());
    assert_eq!(found.reapers, [7]);
    assert_eq!(found.services.len(), 2);
    for (_, def, entry) in &all {
        let (got_def, got) = &found.services[&entry.name];
        assert_eq!(got_def, def);
        // As text: when to look again is not written down.
        let text = |e: &Entry| crate::json::to_string(e).unwrap();
        assert_eq!(text(got), text(entry));
    }
    // Nothing new: nothing is written.
    let length = fs::metadata(scratch.file()).unwrap().len();
    assert_eq!(write(&mut journal, &all), None);
    assert_eq!(fs::metadata(scratch.file()).unwrap().len(), length);
    all[1].2.place = None;
    assert_eq!(write(&mut journal, &all), None);
    assert_eq!(left(&scratch.file()).services["web"].1.place, None);
    journal.forget(ServiceId(0), "dns");
    assert_eq!(write(&mut journal, &[]), None);
    let found = left(&scratch.file());
    assert_eq!(found.services.keys().collect::<Vec<_>>(), ["web"]);
    // What somebody has removed is written anew, and whole.
    fs::remove_file(scratch.file()).unwrap();
    assert!(journal.wants_all());
    assert_eq!(write(&mut journal, &all[1..]), None);
    assert_eq!(left(&scratch.file()).services.len(), 1);
    journal.remove();
    assert!(matches!(read(&scratch.file(), &head()), Found::Nothing));
}

/// The third run of "web" is about to start.
fn begin() -> Begin {
    let mut service = crate::machine::service::Service::new(
        ServiceId(1),
        std::rc::Rc::new(defs()["web"].spec(|_| None)),
        Tick(9),
    );
    let run = r#"{"Starting":{"instance":3,"pid":null,"began":9,"stopping_seen":0,
        "exec_error":null,"ready":"NotTold","reloading":false,"refused":null}}"#;
    service.state = crate::json::from_str(run).unwrap();
    service.want = crate::machine::service::Want::Up;
    service.restarts = 2;
    Begin {
        name: "web".into(),
        begun: Begun::of(&service, Instance(3)).unwrap(),
        place: Place {
            main: None,
            leader: 0,
            cookie: "/run:web:1-3".to_owned(),
            group: None,
            ports: Vec::new(),
        },
        program: Some(5),
    }
}

#[test]
fn a_start_is_one_short_line() {
    let scratch = Scratch::new("starts");
    let ids = || std::iter::once(ServiceId(1));
    let started = |e: &Entry| {
        assert!(e.memory.is_unborn());
        assert_eq!(e.memory.instance(), Instance(3));
        let place = e.place.as_ref().unwrap();
        assert_eq!((place.main, place.cookie.as_str()), (None, "/run:web:1-3"));
    };
    // The first of all: a definition there is none yet.
    let mut journal = Journal::new(scratch.file(), head());
    assert!(journal.begin(&[begin()], ids()));
    let length = fs::metadata(scratch.file()).unwrap().len();
    assert!(length < 400, "{length}");
    let found = left(&scratch.file());
    assert!(found.services.is_empty());
    started(&found.begun[0].0);
    assert_eq!(found.begun[0].1, Some(5));
    assert!(journal.begin(&[begin()], ids()), "a second batch");
    // What runs is written whole, with all the others.
    assert!(journal.is_unsaved() && journal.wants_all());
    let all = entries();
    assert_eq!(write(&mut journal, &all), None);
    let found = left(&scratch.file());
    assert!(found.begun.is_empty());
    assert!(!found.services["web"].1.memory.is_unborn());
    // The next start of one that is known.
    assert!(!journal.wants_all());
    assert!(journal.begin(&[begin()], ids()));
    let found = left(&scratch.file());
    assert_eq!(found.services.len(), 2);
    started(&found.services["web"].1);
    // The same as before it is not the last word any more.
    assert_eq!(write(&mut journal, &all), None);
    let found = left(&scratch.file());
    assert!(!found.services["web"].1.memory.is_unborn());
    // With a new definition, or where the file is gone, it is not enough.
    journal.redefine(ServiceId(1));
    assert!(!journal.begin(&[begin()], ids()));
    assert_eq!(write(&mut journal, &all), None);
    fs::remove_file(scratch.file()).unwrap();
    assert!(!journal.begin(&[begin()], ids()));
    // Nor for who has to write down what another superd has left.
    let mut journal = Journal::new(scratch.file(), head());
    journal.inherit();
    assert!(!journal.begin(&[begin()], ids()));
    // Nor where nothing can be written.
    let mut journal = Journal::new(scratch.0.join("none/journal"), head());
    assert!(!journal.begin(&[begin()], ids()));
    assert!(write(&mut journal, &all).is_some());
}

#[test]
fn it_does_not_grow_without_bound() {
    let scratch = Scratch::new("bound");
    let mut journal = Journal::new(scratch.file(), head());
    let mut all = entries();
    for n in 0..3000 {
        all[0].2.commands[0].action = ActionId(n);
        assert_eq!(write(&mut journal, &all), None);
    }
    let length = fs::metadata(scratch.file()).unwrap().len();
    assert!(length < 2 * SLACK, "{length}");
    let entry = &left(&scratch.file()).services[&all[0].2.name].1;
    assert_eq!(entry.commands[0].action, ActionId(2999));
}

#[test]
fn a_line_that_was_being_written_is_not_read() {
    let scratch = Scratch::new("torn");
    let mut journal = Journal::new(scratch.file(), head());
    let mut all = entries();
    write(&mut journal, &all);
    let whole = fs::read(scratch.file()).unwrap();
    all[0].2.place = None;
    write(&mut journal, &all);
    let more = fs::read(scratch.file()).unwrap();
    for end in whole.len()..more.len() {
        let got = parse(&more[..end], &head()).unwrap();
        assert!(got.services[&all[0].2.name].1.place.is_some(), "{end}");
    }
    assert!(parse(&more, &head()).unwrap().services[&all[0].2.name]
        .1
        .place
        .is_none());
}

#[test]
fn what_is_of_another_boot_or_version_or_damaged_is_refused_in_words() {
    let scratch = Scratch::new("refused");
    let mut journal = Journal::new(scratch.file(), head());
    write(&mut journal, &entries());
    let text = fs::read(scratch.file()).unwrap();
    let why = |own: Head, text: &[u8]| parse(text, &own).unwrap_err();
    let boot = Head {
        boot: "b-2".to_owned(),
        ..head()
    };
    assert_eq!(why(boot, &text), "it is of another boot");
    let pids = Head {
        pids: "pid:[2]".to_owned(),
        ..head()
    };
    assert_eq!(why(pids, &text), "it is of another container");
    let newer = String::from_utf8(text.clone()).unwrap();
    let newer = newer.replacen("\"superd-journal\":1", "\"superd-journal\":2", 1);
    assert_eq!(why(head(), newer.as_bytes()), "it is of version 2, not 1");
    assert_eq!(why(head(), b"hello\n"), "it does not begin like a journal");
    let mut torn = text.clone();
    let middle = text.len() / 2;
    torn[middle..middle + 40].fill(0);
    assert!(why(head(), &torn).starts_with("line "));
    fs::write(scratch.file(), "").unwrap();
    assert!(matches!(read(&scratch.file(), &head()), Found::Lost));
    fs::write(scratch.file(), "x\n").unwrap();
    assert!(matches!(read(&scratch.file(), &head()), Found::Bad(_)));
    let aside = set_aside(&scratch.file()).unwrap();
    assert_eq!(aside, scratch.0.join("journal.bad"));
    fs::create_dir(scratch.file()).unwrap();
    assert!(matches!(read(&scratch.file(), &head()), Found::Bad(_)));
    fs::remove_dir(scratch.file()).unwrap();
    std::os::unix::fs::symlink(&aside, scratch.file()).unwrap();
    let found = read(&scratch.file(), &head());
    assert!(matches!(found, Found::Bad(why) if why == "it is a symbolic link"));
}

#[test]
fn one_that_cannot_be_written_is_emptied_and_said_once() {
    let scratch = Scratch::new("full");
    let mut journal = Journal::new(scratch.file(), head());
    let mut all = entries();
    assert_eq!(write(&mut journal, &all), None);
    // /dev/full takes nothing (full(4)).
    journal.file = Some(
        fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap(),
    );
    journal.length = 0;
    all[0].2.place = None;
    let items = || {
        all.iter().map(|(id, def, entry)| Item {
            id: *id,
            def,
            entry: entry.clone(),
        })
    };
    assert!(journal.write(items(), false));
    assert_eq!(journal.failing(), Some("No space left on device"));
    assert!(journal.wants_all());
    fs::set_permissions(
        &scratch.0,
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    assert_eq!(write(&mut journal, &all), None, "as soon as there is room");
    assert_eq!(left(&scratch.file()).services.len(), 2);
}

/// Whatever the bytes are: no panic, neither here nor in the machine that goes on from them.
#[test]
fn garbage_in_a_journal_is_no_panic() {
    let scratch = Scratch::new("garbage");
    let mut journal = Journal::new(scratch.file(), head());
    write(&mut journal, &entries());
    assert!(journal.begin(&[begin()], std::iter::once(ServiceId(1))));
    let text = fs::read(scratch.file()).unwrap();
    let mut seed = 11_u64;
    let mut roll = |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % n
    };
    let digits: Vec<usize> = (0..text.len())
        .filter(|i| text[*i].is_ascii_digit())
        .collect();
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = text.clone();
        for _ in 0..1 + roll(3) {
            match roll(5) {
                0 => bytes[roll(text.len())] = b"09-{}[]\",:en\n\xff"[roll(14)],
                1 => bytes.truncate(roll(text.len())),
                2 | 3 => {
                    // Numbers are what passes the parser and overflows later.
                    let at = digits[roll(digits.len())];
                    if at < bytes.len() && bytes.len() == text.len() {
                        bytes.splice(at..=at, *b"18446744073709551615");
                    }
                }
                _ => {
                    let at = digits[roll(digits.len())];
                    if at < bytes.len() {
                        bytes[at] = b'0' + roll(10) as u8;
                    }
                }
            }
            if bytes.is_empty() {
                break;
            }
            bytes.resize(bytes.len().max(text.len()), b'\n');
        }
        let Ok(left) = parse(&bytes, &head()) else {
            refused += 1;
            continue;
        };
        taken += 1;
        go_on_from(left, roll(2) == 0);
    }
    assert!(taken > 1000 && refused > 1000, "{taken} {refused}");
}

/// A machine takes it up and is left alone for a day.
fn go_on_from(left: Left, running: bool) {
    use crate::machine::event::{Adopted, Effect, Presence};
    let mut machine = Supervisor::new(1, Ending::WhenAsked);
    let mut effects = Vec::new();
    let mut now = Tick(1_000_000_000);
    for (n, (_, (def, entry))) in (0..).zip(left.services) {
        let found = match running {
            true => Presence::Running(Pid(200 + n as i32)),
            false => Presence::Gone {
                crash: None,
                left: Some(n),
            },
        };
        let adopted = Adopted {
            service: ServiceId(n),
            spec: std::rc::Rc::new(def.spec(|_| None)),
            memory: entry.memory,
            found,
        };
        machine.handle(now, Event::Adopt(Box::new(adopted)), &mut effects);
    }
    machine.handle(
        now,
        Event::Configure {
            changed: Vec::new(),
            gone: Vec::new(),
            by: Origin::Config,
        },
        &mut effects,
    );
    for _ in 0..50 {
        for effect in std::mem::take(&mut effects) {
            let answer = match effect {
                Effect::Check(s, i, check) => {
                    Event::Checked(s, i, check, crate::machine::event::Found(0))
                }
                Effect::Spawn(s, i) => Event::Spawned(s, i, Pid(300)),
                _ => continue,
            };
            machine.handle(now, answer, &mut effects);
        }
        now = now + std::time::Duration::from_secs(2000);
        machine.handle_timeout(now, &mut effects);
    }
}
