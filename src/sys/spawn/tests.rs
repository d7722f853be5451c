//! Real children: what they see of themselves, and what they report.

use std::io::Read;

use super::*;
use crate::sys::cgroup::tests::test_root;
use crate::sys::limits;
use crate::sys::wait::{reap, Ended};

fn words(argv: &[&str]) -> Vec<CString> {
    argv.iter().map(|a| CString::new(*a).unwrap()).collect()
}

fn variables(env: &[&str]) -> Variables<'static> {
    words(env).into_iter().map(Rc::from).collect()
}

fn plan(argv: &[&str]) -> Plan<'static> {
    let mut plan = Plan::new(words(argv));
    plan.env = variables(&["PATH=/usr/bin:/bin"]);
    plan
}

fn status(child: &Child) -> Status {
    loop {
        match child.status.read() {
            Status::Pending => std::thread::yield_now(),
            other => return other,
        }
    }
}

fn end(child: &Child) -> Ended {
    loop {
        if let Some(ended) = reap(child.pid).unwrap() {
            return ended;
        }
        std::thread::yield_now();
    }
}

/// Runs the plan with its output in a pipe and returns what it wrote.
fn output(plan: &Plan<'_>) -> String {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    let mut plan = plan.clone();
    plan.stdout = Some(write.as_fd());
    plan.stderr = Some(write.as_fd());
    let child = spawn(&plan).unwrap();
    drop(plan);
    drop(write);
    let mut text = String::new();
    std::fs::File::from(read).read_to_string(&mut text).unwrap();
    assert_eq!(status(&child), Status::Execed, "{text}");
    assert_eq!(end(&child), Ended::Code(0), "{text}");
    text
}

/// The errno, but for a program that is there and whose interpreter is not.
fn at_exec(fault: &SpawnFault) -> i32 {
    match fault.why {
        Why::Interpreter => libc::ENOEXEC,
        _ => fault.errno,
    }
}

/// Runs a plan that cannot work and returns what it reports.
fn fault(plan: &Plan<'_>) -> SpawnFault {
    let child = spawn(plan).unwrap();
    let told = status(&child);
    let ended = end(&child);
    match told {
        Status::Failed(fault) => {
            let found = fault.step != Step::Exec || matches!(at_exec(&fault), libc::ENOENT);
            assert_eq!(ended, Ended::Code(if found { 127 } else { 126 }));
            fault
        }
        other => panic!("{other:?}"),
    }
}

fn is_root(name: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: {name}: needs root");
    }
    root
}

#[test]
fn a_child_starts_with_a_clean_slate() {
    // 1000 is what procd's scripts leave open; not close-on-exec.
    let null = std::fs::File::open("/dev/null").unwrap();
    // SAFETY: a number that nothing else in the tests uses.
    unsafe { libc::dup2(null.as_raw_fd(), 1000) };
    let script = "cat /proc/self/status; echo fds $(ls /proc/self/fd); readlink /proc/self/fd/0; \
        umask; pwd; cut -d ' ' -f 1,5,6 /proc/$$/stat; echo $$";
    let mut plan = plan(&["sh", "-c", script]);
    plan.umask = 0o027;
    plan.directory = c"/usr".into();
    let text = output(&plan);
    // SAFETY: as above.
    unsafe { libc::close(1000) };
    let has = |line: &str| assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    has("SigBlk:\t0000000000000000");
    has("SigIgn:\t0000000000000000");
    // 3 is the directory that ls reads.
    has("fds 0 1 2 3");
    has("/dev/null");
    has("0027");
    has("/usr");
    // Process group and session are its own.
    let pid = text.lines().last().unwrap();
    has(&format!("{pid} {pid} {pid}"));
}

#[test]
fn one_more_descriptor_is_where_the_program_wants_it() {
    let file = std::fs::File::open("/dev/zero").unwrap();
    let lock = std::fs::File::open("/dev/null").unwrap();
    // Also where it is already, where the lock of a start is, and where nothing is yet.
    for number in [3, file.as_raw_fd(), lock.as_raw_fd(), 200] {
        let script = format!("readlink /proc/$$/fd/{number}; echo /proc/$$/fd/*");
        let mut plan = plan(&["sh", "-c", &script]);
        plan.extra = Some((file.as_fd(), number));
        plan.until_exec = Some(lock.as_fd());
        let text = output(&plan);
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("/dev/zero"), "{number}: {text}");
        // 0, 1, 2, that one, and perhaps the one by which the shell reads the directory.
        let open = lines.next().unwrap().split(' ').count();
        assert!((4..=5).contains(&open), "{number}: {text}");
    }
    // After the sockets, whose numbers may be those of superd's own descriptors.
    let script = "readlink /proc/$$/fd/3 /proc/$$/fd/4 /proc/$$/fd/5";
    let mut plan = plan(&["sh", "-c", script]);
    plan.sockets = vec![lock.as_fd(), lock.as_fd()];
    plan.extra = Some((file.as_fd(), 5));
    plan.until_exec = Some(lock.as_fd());
    assert_eq!(output(&plan), "/dev/null\n/dev/null\n/dev/zero\n");
}

#[test]
fn limits_nice_and_oom_score_are_set() {
    let mut plan = plan(&["sh", "-c", "ulimit -n; nice; cat /proc/self/oom_score_adj"]);
    plan.limits = vec![(limits::NOFILE, Limit { soft: 77, hard: 88 })];
    plan.nice = Some(7);
    plan.oom_score_adj = Some(500);
    assert_eq!(output(&plan), "77\n7\n500\n");
    plan.limits = vec![(libc::RLIMIT_CORE as _, Limit { soft: 2, hard: 1 })];
    let fault = fault(&plan);
    assert_eq!(
        (fault.step, fault.index, fault.errno),
        (Step::Limits, 0, libc::EINVAL)
    );
}

#[test]
fn each_step_reports_its_own_failure() {
    let at = |plan: &Plan<'_>| {
        let f = fault(plan);
        (f.step, f.why, f.errno)
    };
    let missing = plan(&["/nonexistent/program"]);
    assert_eq!(at(&missing), (Step::Exec, Why::Errno, libc::ENOENT));
    let nowhere = plan(&["no-such-program-anywhere"]);
    assert_eq!(at(&nowhere), (Step::Exec, Why::Errno, libc::ENOENT));
    let not_executable = plan(&["/etc/passwd"]);
    assert_eq!(at(&not_executable), (Step::Exec, Why::Errno, libc::EACCES));
    let mut directory = plan(&["true"]);
    directory.directory = c"/nonexistent".into();
    assert_eq!(at(&directory), (Step::Directory, Why::Errno, libc::ENOENT));
    let mut user = plan(&["true"]);
    user.user = Some("no-such-user");
    assert_eq!(at(&user), (Step::User, Why::Unknown, 0));
    user.user = Some("3999999999");
    assert_eq!(at(&user), (Step::User, Why::NoGroup, 0));
    let groups = ["0".to_owned(), "no-such-group".to_owned()];
    let mut group = plan(&["true"]);
    group.groups = Some(&groups);
    assert_eq!(at(&group), (Step::Group, Why::Unknown, 0));
    assert_eq!(fault(&group).index, 2);
    let mut oom = plan(&["true"]);
    oom.oom_score_adj = Some(5000);
    assert_eq!(at(&oom), (Step::OomScore, Why::Errno, libc::EINVAL));
    assert_eq!(spawn(&plan(&[""])).unwrap_err().step, Step::Exec);
}

#[test]
fn path_is_searched_as_a_shell_does() {
    let dir = std::env::temp_dir().join(format!("superd-path-{}", std::process::id()));
    let (first, second) = (dir.join("first"), dir.join("second"));
    for d in [&first, &second] {
        std::fs::create_dir_all(d).unwrap();
    }
    std::fs::write(first.join("program"), "not executable").unwrap();
    let path = format!("PATH={}:{}:relative:", first.display(), second.display());
    let mut plan = plan(&["program", "arg"]);
    plan.env = variables(&[&path]);
    // Only one that may not be executed: that is the reason, not "not found".
    assert_eq!(fault(&plan).errno, libc::EACCES);
    std::os::unix::fs::symlink("/bin/echo", second.join("program")).unwrap();
    assert_eq!(output(&plan), "arg\n");
    let script = second.join("script");
    std::fs::write(&script, "#!/nonexistent/interpreter\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    plan.argv = words(&["script"]);
    assert_eq!(fault(&plan).why, Why::Interpreter);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_user_gets_its_groups_and_its_home() {
    if !is_root("a_user_gets_its_groups_and_its_home") {
        return;
    }
    let script = "id -u; id -g; id -G; echo $HOME $USER $LOGNAME; grep CapEff /proc/self/status";
    let mut plan = plan(&["sh", "-c", script]);
    plan.env.to_mut().push(c"LOGNAME=configured".into());
    plan.user = Some("nobody");
    let entry = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let (uid, gid, home) = (entry.uid, entry.gid, entry.dir.display());
    let who = format!("{home} nobody configured\nCapEff:\t0000000000000000\n");
    assert_eq!(output(&plan), format!("{uid}\n{gid}\n{gid}\n{who}"));
    let groups = ["7".to_owned()];
    plan.group = Some("9");
    plan.groups = Some(&groups);
    assert_eq!(output(&plan), format!("{uid}\n9\n9 7\n{who}"));
    // A directory that only root may enter is not entered as the user.
    plan.directory = c"/root".into();
    let root_only = std::fs::metadata("/root")
        .is_ok_and(|m| std::os::unix::fs::PermissionsExt::mode(&m.permissions()) & 1 == 0);
    if root_only {
        let f = fault(&plan);
        assert_eq!((f.step, f.errno), (Step::Directory, libc::EACCES));
    }
}

#[test]
fn the_last_variables_come_last_and_win_nothing_twice() {
    let mut plan = plan(&["env"]);
    plan.env = variables(&["PATH=/usr/bin:/bin", "A=1"]);
    plan.env_last = words(&["Z=9"]);
    assert_eq!(output(&plan), "PATH=/usr/bin:/bin\nA=1\nZ=9\n");
}

#[test]
fn a_child_enters_its_cgroup_by_itself() {
    let Some(root) = test_root("enter") else {
        return;
    };
    let group = root.group("a").unwrap();
    in_group(&group);
    group.remove().unwrap();
    root.remove().unwrap();
}

fn in_group(group: &Group) {
    let mut plan = plan(&["grep", "^0::", "/proc/self/cgroup"]);
    plan.cgroup = Some(group);
    plan.threads = std::env::var_os(ALONE).is_none();
    let end = group.path().file_name().unwrap().to_str().unwrap();
    let text = output(&plan);
    assert!(text.trim_end().ends_with(end), "{text}");
}

/// Set where a test runs in a process of its own: its harness thread only waits, so no
/// lock is held while clone3(2) copies the process.
const ALONE: &str = "SUPERD_TEST_ALONE";

#[test]
fn a_child_is_born_in_its_cgroup() {
    let name = "sys::spawn::tests::a_child_is_born_in_its_cgroup";
    if std::env::var_os(ALONE).is_none() {
        let program = std::env::current_exe().unwrap();
        let mut alone = std::process::Command::new(program);
        alone.args(["--exact", name, "--test-threads=1", "--nocapture"]);
        assert!(alone.env(ALONE, "1").status().unwrap().success());
        return;
    }
    let Some(root) = test_root("born") else {
        return;
    };
    let group = root.group("a").unwrap();
    in_group(&group);
    let born = !NO_CLONE.load(Ordering::Relaxed);
    println!("born in its cgroup: {born}");
    group.remove().unwrap();
    root.remove().unwrap();
}

#[test]
fn records_that_make_no_sense_are_not_believed() {
    let fault = SpawnFault {
        step: Step::Group,
        why: Why::Unknown,
        index: 513,
        errno: -7,
        skipped: false,
    };
    assert_eq!(SpawnFault::from_bytes(fault.to_bytes()), Some(fault));
    let skipped = fault.skipped();
    assert_eq!(SpawnFault::from_bytes(skipped.to_bytes()), Some(skipped));
    assert_eq!(SpawnFault::from_bytes([18, 0, 0, 0, 0, 0, 0, 0]), None);
    assert_eq!(SpawnFault::from_bytes([0x92, 0, 0, 0, 0, 0, 0, 0]), None);
    assert_eq!(SpawnFault::from_bytes([0, 4, 0, 0, 0, 0, 0, 0]), None);
}

#[test]
fn the_clock_tells_when_a_child_was_made() {
    let mut told = 0;
    for _ in 0..64 {
        let child = spawn(&plan(&["true"])).unwrap();
        let start = proc::stat(child.pid).unwrap().start; // at least a zombie
        if let Some(by_clock) = child.start {
            assert_eq!(by_clock, start);
            told += 1;
        }
        assert_eq!(status(&child), Status::Execed);
        assert_eq!(end(&child), Ended::Code(0));
    }
    assert!(told > 0, "the clock never told");
}
