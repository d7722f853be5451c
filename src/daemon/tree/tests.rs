//! Tests of `tree.rs`.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::AsFd;

use super::*;
use crate::machine::spec::To;
use crate::sys::cgroup::tests::test_root;
use crate::sys::kill::kill;
use crate::sys::proc;
use crate::sys::spawn::{spawn, Plan};
use crate::sys::subreaper::become_subreaper;
use crate::sys::wait::reap;

/// A running instance of a shell script, and what to look at it with.
struct Running {
    forest: Forest,
    tree: Tree,
    main: i32,
    /// What the script and its children printed: their pids.
    pids: Vec<i32>,
    _alone: std::sync::MutexGuard<'static, ()>,
}

/// One at a time: here all have one parent, and who dies may be anybody's orphan.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Starts a script, and says from where it is heard.
fn begin(
    forest: &mut Forest,
    name: &str,
    group: Option<Group>,
    script: &str,
) -> (Tree, i32, std::fs::File) {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let words = ["/bin/sh", "-c", script].map(|w| CString::new(w).unwrap());
    let cookie = format!("test-{}-{name}", std::process::id());
    let mut plan = Plan::new(words.to_vec());
    plan.env = vec![c"PATH=/usr/bin:/bin".into()].into();
    plan.env_last = vec![CString::new(format!("{INSTANCE}={cookie}")).unwrap()];
    plan.stdout = Some(write.as_fd());
    plan.cgroup = group.as_ref();
    let main = spawn(&plan).unwrap().pid;
    drop(plan);
    let tree = Tree::new(forest, Pid(main), &cookie, group);
    (tree, main, read.into())
}

/// Starts a script and waits until it has printed so many pids, one per line.
fn run(name: &str, group: Option<Group>, script: &str, pids: usize) -> Running {
    let alone = ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    become_subreaper().unwrap();
    let mut forest = Forest::new();
    let (tree, main, mut pipe) = begin(&mut forest, name, group, script);
    let mut text = String::new();
    while text.lines().count() < pids || !text.ends_with('\n') {
        let mut byte = [0];
        assert_eq!(pipe.read(&mut byte).unwrap(), 1, "{text}");
        text.push(char::from(byte[0]));
    }
    let pids = text.lines().map(|l| l.parse().unwrap()).collect();
    Running {
        forest,
        tree,
        main,
        pids,
        _alone: alone,
    }
}

/// One child in the group, one in a session of its own, one forked twice into another
/// session with its parents gone; then what the main process does.
fn three(name: &str, group: Option<Group>, then: &str) -> Running {
    let script = format!(
        "sh -c 'echo $$; exec sleep 60' &
             setsid sh -c 'echo $$; exec sleep 60' &
             (setsid sh -c 'sh -c \"echo \\$\\$; exec sleep 60\" & exit 0' &)
             {then}"
    );
    run(name, group, &script, 3)
}

impl Running {
    fn wait_for_zombie(&mut self) {
        while self.forest.stat(self.main).unwrap().is_alive() {
            std::thread::yield_now();
        }
    }

    /// In the middle of execve(2) nobody can be recognized.
    fn wait_for_sleepers(&self) {
        while !self.pids.iter().all(|pid| proc::comm(*pid) == "sleep") {
            std::thread::yield_now();
        }
    }

    /// The tree has exactly so many processes, as soon as those that prepared it are gone.
    fn wait_for_count(&mut self, n: u32) {
        while self.tree.count(&mut self.forest) != Some(n) {
            std::thread::yield_now();
        }
    }

    /// Who is seen alive.
    fn seen(&mut self) -> u32 {
        self.tree.count(&mut self.forest).unwrap_or(0)
    }

    /// KILLs until nothing is left, checks that nothing is, and reaps what became ours.
    fn finish(mut self) {
        let own = self.forest.own;
        while self.seen() > 0 {
            self.tree.kill(&mut self.forest);
            std::thread::yield_now();
        }
        for pid in self.pids.iter().chain([&self.main]) {
            while self.forest.stat(*pid).is_some_and(|s| s.ppid == own) {
                assert!(!self.forest.stat(*pid).unwrap().is_alive());
                reap(*pid).unwrap();
            }
            assert!(!self.forest.stat(*pid).is_some_and(|s| s.is_alive()));
        }
        if let Some(group) = self.tree.group() {
            group.remove().unwrap();
        }
    }
}

/// With a cgroup where there is one, and without.
fn both_ways(name: &str, test: impl Fn(&str, Option<Group>)) {
    test(&format!("{name}-plain"), None);
    let name = format!("{name}-cgroup");
    if let Some(root) = test_root(&name) {
        test(&name, Some(root.group("service").unwrap()));
        root.remove().unwrap();
    }
}

#[test]
fn children_of_every_kind_belong_to_the_tree_and_die_with_it() {
    both_ways("alive", |name, group| {
        let mut r = three(name, group, "exec sleep 60");
        r.wait_for_count(4);
        assert_eq!(r.tree.count_descendants(&mut r.forest), Some(3));
        for pid in r.pids.clone() {
            assert!(r.tree.holds(&mut r.forest, Pid(pid)), "{name}: {pid}");
        }
        assert!(!r.tree.holds(&mut r.forest, Pid(1)));
        let own = Pid(r.forest.own);
        assert!(!r.tree.holds(&mut r.forest, own));
        let usage = r.tree.usage(&mut r.forest);
        assert_eq!(usage.processes, 4);
        assert!(usage.memory_kib > 0);
        r.finish();
    });
}

#[test]
fn children_of_every_kind_are_left_when_the_main_process_ends_at_once() {
    both_ways("ended", |name, group| {
        // Nobody looked while the main process lived.
        let mut r = three(name, group, "kill -STOP $$; exit 0");
        r.wait_for_sleepers();
        while r.forest.stat(r.main).unwrap().state != b'T' {
            std::thread::yield_now();
        }
        kill(r.main, libc::SIGCONT).unwrap();
        r.wait_for_zombie();
        // The two that prepare the third child may still be ending.
        assert!(r.tree.before_reap(&mut r.forest) >= Some(3), "{name}");
        assert_eq!(r.tree.main(), None);
        reap(r.main).unwrap();
        r.wait_for_count(3);
        assert_eq!(r.tree.signal(&mut r.forest, libc::SIGTERM, To::Main), 0);
        r.finish();
    });
}

#[test]
fn a_simple_service_leaves_nothing() {
    both_ways("simple", |name, group| {
        let mut r = run(name, group, "echo $$; exec sleep 60", 1);
        assert_eq!(r.seen(), 1);
        assert_eq!(r.tree.count_descendants(&mut r.forest).unwrap_or(0), 0);
        assert_eq!(r.tree.signal(&mut r.forest, libc::SIGTERM, To::Main), 1);
        r.wait_for_zombie();
        assert_eq!(r.seen(), 0, "{name}: a zombie counts");
        assert_eq!(r.tree.before_reap(&mut r.forest).unwrap_or(0), 0);
        reap(r.main).unwrap();
        r.finish();
    });
}

#[test]
fn a_signal_reaches_whom_it_is_for() {
    both_ways("whom", |name, group| {
        let mut r = three(name, group, "exec sleep 60");
        r.wait_for_count(4);
        // 0 signals nobody and counts everybody.
        assert_eq!(r.tree.signal(&mut r.forest, 0, To::Main), 1);
        assert_eq!(r.tree.signal(&mut r.forest, 0, To::Group), 2, "{name}");
        assert_eq!(r.tree.signal(&mut r.forest, 0, To::Descendants), 3);
        assert_eq!(r.tree.signal(&mut r.forest, 0, To::Tree), 4);
        assert_eq!(
            r.tree.signal(&mut r.forest, libc::SIGTERM, To::Descendants),
            3
        );
        r.wait_for_count(1);
        assert!(r.forest.stat(r.main).unwrap().is_alive());
        r.finish();
    });
}

#[test]
fn a_fork_bomb_within_limits_is_killed() {
    both_ways("bomb", |name, group| {
        // Four sessions that make orphans as fast as they can, 60 each and no more: what
        // nobody reaps stays, and a test must not use up the machine's pids.
        let script = "echo $$; for i in 1 2 3 4; do setsid sh -c \
                'n=0; while [ $n -lt 60 ]; do n=$((n+1)); (sleep 60 &); done; sleep 60' & \
                done; wait";
        let mut r = run(name, group, script, 1);
        while r.seen() < 40 {
            std::thread::yield_now();
        }
        let mut calls = 0;
        while r.seen() > 0 {
            r.tree.kill(&mut r.forest);
            calls += 1;
            assert!(calls < 1000, "{name}: still there");
            std::thread::yield_now();
        }
        r.finish();
    });
}

#[test]
fn a_main_process_may_hand_over_to_one_of_its_tree_only() {
    both_ways("mainpid", |name, group| {
        let script = "sh -c 'echo $$; exec sleep 60' & exec sleep 60";
        let mut r = run(name, group, script, 1);
        let new = Pid(r.pids[0]);
        let mut stranger = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let Ok(other) = PidFd::open(stranger.id() as i32) else {
            println!("skipped: MAINPID: needs pidfds");
            stranger.kill().unwrap();
            stranger.wait().unwrap();
            return r.finish();
        };
        assert!(!r.tree.set_main(&mut r.forest, &other), "a stranger");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        assert_eq!(r.tree.main(), Some(Pid(r.main)));
        let held = PidFd::open(new.0).unwrap();
        assert!(r.tree.set_main(&mut r.forest, &held));
        assert_eq!(r.tree.main(), Some(new));
        r.wait_for_count(2);
        assert_eq!(r.tree.count_descendants(&mut r.forest), Some(1), "{name}");
        assert_eq!(r.tree.signal(&mut r.forest, libc::SIGTERM, To::Main), 1);
        r.wait_for_count(1);
        assert!(r.forest.stat(r.main).unwrap().is_alive());
        r.finish();
    });
}

/// Another script beside the first one, in the same forest; it has printed its pid.
fn beside(r: &mut Running, name: &str, script: &str) -> (Tree, i32) {
    let (tree, main, mut pipe) = begin(&mut r.forest, name, None, script);
    assert_eq!(pipe.read(&mut [0]).unwrap(), 1);
    (tree, main)
}

/// How many scans it takes to count eight trees and note their ports, to kill them, and to bury
/// them, each in a turn of its own.
fn scans_of_eight(r: &mut Running) -> [u64; 3] {
    let sleeper = "echo $$; exec sleep 60";
    let others = (0..8).map(|n| beside(r, &format!("shared-{n}"), sleeper));
    let (mut trees, mains): (Vec<Tree>, Vec<i32>) = others.collect::<Vec<_>>().into_iter().unzip();
    let mut scans = [0; 3];
    let mut turn = |forest: &mut Forest, n: usize, act: &mut dyn FnMut(&mut Forest)| {
        forest.begin_turn();
        let before = forest.scans;
        act(forest);
        scans[n] = forest.scans - before;
    };
    turn(&mut r.forest, 0, &mut |forest| {
        for tree in &mut trees {
            assert_eq!(tree.count(forest), Some(1));
            assert_eq!(tree.note_ports(forest), 0);
        }
    });
    turn(&mut r.forest, 1, &mut |forest| {
        for tree in &mut trees {
            tree.kill(forest);
        }
    });
    for main in &mains {
        while !crate::sys::wait::has_ended(*main) {
            std::thread::yield_now();
        }
    }
    turn(&mut r.forest, 2, &mut |forest| {
        for (tree, main) in trees.iter_mut().zip(&mains) {
            let left = tree.before_reap(forest);
            reap(*main).unwrap();
            // None: somebody else's process was gone before it was looked at.
            assert_eq!(left.unwrap_or(0) + tree.count(forest).unwrap_or(0), 0);
        }
    });
    scans
}

/// A test of this name in a process of its own: zombies that other tests leave may be
/// anybody's. True in that process.
fn is_by_itself(name: &str) -> bool {
    let by_itself = "SUPERD_TEST_BY_ITSELF";
    if std::env::var_os(by_itself).is_some() {
        return true;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("daemon::tree::tests::{name}")]);
    let output = command.env(by_itself, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
    false
}

#[test]
fn one_scan_in_a_turn_tells_of_all_trees() {
    if !is_by_itself("one_scan_in_a_turn_tells_of_all_trees") {
        return;
    }
    let mut r = run("shared", None, "echo $$; exec sleep 60", 1);
    // On a busy machine not each scan is whole, and then another one is needed.
    let mut tries = (0..100).map(|_| scans_of_eight(&mut r));
    assert!(tries.any(|scans| scans == [1, 1, 1]));
    drop(tries);
    r.finish();
}

#[test]
fn a_scan_is_not_believed_about_who_was_begun_or_has_died_after_it() {
    if !is_by_itself("a_scan_is_not_believed_about_who_was_begun_or_has_died_after_it") {
        return;
    }
    let mut r = run("later", None, "echo $$; exec sleep 60", 1);
    r.forest.begin_turn();
    assert_eq!(r.seen(), 1);
    // It says something when it has a session of its own.
    let script = "setsid sh -c 'echo $$; exec sleep 60' & wait";
    let (mut new, main) = beside(&mut r, "later-new", script);
    // Begun after the scan of this turn.
    assert!(new.count(&mut r.forest).is_some_and(|n| n >= 1));
    let scans = r.forest.scans;
    // Its main process dies after the scan that saw it, and leaves a child.
    while new.count_descendants(&mut r.forest) != Some(1) {
        r.forest.begin_turn();
    }
    kill(main, libc::SIGKILL).unwrap();
    while !crate::sys::wait::has_ended(main) {
        std::thread::yield_now();
    }
    assert_eq!(new.before_reap(&mut r.forest), Some(1), "its child lives");
    reap(main).unwrap();
    assert!(
        r.forest.scans > scans,
        "the zombie was looked for before it was seen"
    );
    // Signalled after the scan: it says nothing about what is left.
    let scans = r.forest.scans;
    new.signal(&mut r.forest, libc::SIGKILL, To::Tree);
    while new.count(&mut r.forest) != Some(0) {
        while let Ok(Some((pid, _))) = crate::sys::wait::peek() {
            reap(pid).unwrap();
        }
        r.forest.begin_turn();
    }
    assert!(r.forest.scans > scans);
    r.finish();
}

#[test]
fn a_process_with_the_pid_of_another_one_is_not_signalled() {
    let mut r = run("reuse", None, "echo $$; exec sleep 60", 1);
    let start = r.tree.main_start(&mut r.forest).unwrap();
    let main = Some((Pid(r.main), start + 1));
    let cookie = "test-of-somebody-else";
    let mut other = Tree::adopt(&mut r.forest, main, Pid(r.main), cookie, None);
    assert_eq!(other.signal(&mut r.forest, libc::SIGKILL, To::Main), 0);
    assert_eq!(other.signal(&mut r.forest, libc::SIGKILL, To::Tree), 0);
    other.kill(&mut r.forest);
    assert!(r.forest.stat(r.main).unwrap().is_alive());
    r.finish();
}

#[test]
fn a_tree_is_adopted_with_everything_in_it() {
    let mut r = three("adopt", None, "exec sleep 60");
    r.wait_for_count(4);
    let start = r.tree.main_start(&mut r.forest).unwrap();
    let cookie = format!("test-{}-adopt", std::process::id());
    let main = (Pid(r.main), start);
    r.tree = Tree::adopt(&mut r.forest, Some(main), main.0, &cookie, None);
    assert_eq!(r.seen(), 4);
    r.finish();
}

#[test]
fn ports_are_open_until_their_last_holder_is_gone() {
    let name = "skipped: ports: needs python3";
    if !std::path::Path::new("/usr/bin/python3").exists() {
        println!("{name}");
        return;
    }
    let script = "exec /usr/bin/python3 -c '
import os, socket, time
t = socket.socket(); t.bind((\"127.0.0.1\", 0)); t.listen()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind((\"127.0.0.1\", 0))
print(os.getpid(), flush=True)
time.sleep(60)'";
    let mut r = run("ports", None, script, 1);
    assert_eq!(r.tree.note_ports(&mut r.forest), 2);
    assert_eq!(r.tree.open_ports(&mut r.forest).len(), 2);
    let stuck = r.tree.see_stuck(&mut r.forest, 8);
    assert_eq!((stuck.len(), stuck[0].pid), (1, Pid(r.main)));
    let listens = &stuck[0].listens;
    assert!(
        listens.len() == 2 && listens[0].starts_with("tcp/"),
        "{listens:?}"
    );
    assert!(stuck[0].threads == 1 && stuck[0].name.starts_with("python3"));
    assert_eq!(r.tree.see_stuck(&mut r.forest, 0), []);
    r.tree.kill(&mut r.forest);
    r.wait_for_zombie();
    assert_eq!(r.tree.open_ports(&mut r.forest), []);
    r.finish();
}
