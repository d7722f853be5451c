use super::*;
use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("superd-file-{}-{name}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Dir(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn file(&self, max_size: u64, keep: u32) -> LogFile {
        let spec = FileOutput {
            path: self.path("x.log").to_str().unwrap().to_owned(),
            max_size,
            keep,
            timestamps: false,
            compress: Vec::new(),
        };
        LogFile::new("x".into(), spec)
    }

    /// What is in the files, the oldest first.
    fn text(&self, keep: u32) -> Vec<u8> {
        let mut all = Vec::new();
        for n in (1..=keep).rev() {
            all.extend(fs::read(self.path(&format!("x.log.{n}"))).unwrap_or_default());
        }
        all.extend(fs::read(self.path("x.log")).unwrap());
        all
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn sec(n: u64) -> Tick {
    Tick(n * 1_000_000_000)
}

fn pipe() -> (OwnedFd, File) {
    let (read, write) = nix::unistd::pipe().unwrap();
    (read, File::from(write))
}

#[test]
fn however_it_comes_files_have_whole_lines_and_are_bounded() {
    const MAX: u64 = 16 << 10;
    let dir = Dir::new("bounded");
    let mut file = dir.file(MAX, 90);
    let (read, mut write) = pipe();
    let mut seed = 5_u32;
    let mut roll = |n: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % n
    };
    let mut all = Vec::new();
    for n in 0..900 {
        all.extend_from_slice(format!("{n} ").as_bytes());
        all.extend(std::iter::repeat_n(b'z', [0, 10, 100, 4000][roll(4)]));
        all.push(b'\n');
    }
    let mut rest = all.as_slice();
    while !rest.is_empty() {
        let n = [1, 50, 5000, 60_000][roll(4)].min(rest.len());
        write.write_all(&rest[..n]).unwrap();
        file.pass(read.as_fd(), &rest[..n], sec(1));
        rest = &rest[n..];
    }
    let mut files = 0;
    for entry in fs::read_dir(&dir.0).unwrap() {
        let text = fs::read(entry.unwrap().path()).unwrap();
        assert!(text.len() as u64 <= MAX && text.ends_with(b"\n"));
        files += 1;
    }
    assert!(files > 20, "{files}");
    assert!(dir.text(90) == all, "what was written, in its order");
    // Of a line without end each file gets a piece.
    let long = vec![b'y'; 50_000];
    file.write(&long, sec(1));
    assert!(dir.text(90) == [all, long].concat());
    assert_eq!(file.take_said(), Vec::<String>::new());
}

/// Issue 5: what is not looked at, because there is much of it, is in the files like the rest.
#[test]
fn what_nobody_has_looked_at_ends_at_the_end_of_a_line_too() {
    const MAX: u64 = 200_000;
    let dir = Dir::new("unseen");
    let mut file = dir.file(MAX, 30);
    let (read, mut write) = pipe();
    let line = |n: usize| format!("{n} {}\n", "z".repeat(n * 31 % 3000));
    let all: String = (0..2000).map(line).collect();
    let (mut passed, mut unseen) = (0, 0);
    for chunk in all.as_bytes().chunks(60_000) {
        write.write_all(chunk).unwrap();
        let n = file.pass_unseen(read.as_fd(), chunk.len(), sec(1));
        let is_cut = n > 0 && chunk[n - 1] != b'\n';
        assert!(n == 0 || file.open.as_ref().unwrap().at_line != is_cut);
        assert_eq!(file.last(n), chunk[..n]);
        file.pass(read.as_fd(), &chunk[n..], sec(1));
        passed += chunk.len();
        unseen += n;
    }
    assert!(passed == all.len() && unseen > passed / 2);
    assert_eq!(String::from_utf8(dir.text(30)).unwrap(), all);
    for n in 1..=10 {
        let text = fs::read(dir.path(&format!("x.log.{n}"))).unwrap();
        assert!(text.ends_with(b"\n") && text.len() as u64 <= MAX, "{n}");
        assert!(text.len() as u64 > MAX - 2 * LINE_CAP as u64, "{n}");
    }
    // What cannot be written is left for whoever looks at it.
    fs::remove_file(dir.path("x.log")).unwrap();
    fs::create_dir(dir.path("x.log")).unwrap();
    write.write_all(&[b'x'; 60_000]).unwrap();
    assert_eq!(file.pass_unseen(read.as_fd(), 60_000, sec(9)), 0);
    assert_eq!(file.last(10), b"");
    assert_eq!(waiting(&read), 60_000);
}

fn waiting(pipe: &OwnedFd) -> usize {
    crate::sys::shared::waiting_bytes(pipe.as_fd()).unwrap()
}

#[test]
fn the_oldest_goes_and_a_gap_is_closed() {
    let dir = Dir::new("gap");
    let mut file = dir.file(16 << 10, 3);
    let turn = |file: &mut LogFile, text: &str| {
        file.write(format!("{text}{}\n", "x".repeat(16_000)).as_bytes(), sec(1));
    };
    for text in ["a", "b", "c", "d", "e", "f"] {
        turn(&mut file, text);
    }
    let first = |n: &str| fs::read(dir.path(n)).map_or(b'-', |t| t[0]) as char;
    let names = ["x.log", "x.log.1", "x.log.2", "x.log.3", "x.log.4"];
    assert_eq!(names.map(first), ['f', 'e', 'd', 'c', '-']);
    // As a superd leaves it that is killed between two renames; and `keep` was larger.
    fs::rename(dir.path("x.log.1"), dir.path("x.log.4")).unwrap();
    let mut file = dir.file(16 << 10, 3);
    turn(&mut file, "g");
    assert_eq!(names.map(first), ['g', 'f', 'd', 'c', '-']);
    let mut none = dir.file(16 << 10, 0);
    turn(&mut none, "h");
    assert_eq!(names.map(first), ['h', 'f', 'd', 'c', '-']);
}

/// Issue 5: in a flood the numbers are not looked at in each turn, only each second.
#[test]
fn a_full_file_that_somebody_removes_is_no_failure() {
    let dir = Dir::new("removed");
    let mut file = dir.file(16 << 10, 3);
    for text in ["a", "b", "c", "d"] {
        fill(&mut file, text);
    }
    assert_eq!(dir.letters(), "dcba- ----");
    fill(&mut file, "e");
    fs::remove_file(dir.path("x.log.2")).unwrap();
    fill(&mut file, "f");
    assert_eq!(dir.letters(), "fed-- ----");
    fs::remove_file(dir.path("x.log.1")).unwrap();
    file.write(format!("g{}\n", "x".repeat(16_000)).as_bytes(), sec(2));
    assert_eq!(dir.letters(), "gfd-- ----");
    assert_eq!(file.take_said(), Vec::<String>::new());
}

/// Fills a file with one line that begins with this text.
fn fill(file: &mut LogFile, text: &str) {
    file.write(format!("{text}{}\n", "x".repeat(16_000)).as_bytes(), sec(1));
}

impl Dir {
    fn packed(&self, keep: u32) -> LogFile {
        let mut file = self.file(16 << 10, keep);
        file.spec.compress = vec!["gzip".to_owned()];
        file
    }

    /// The first letters of `x.log`, of each full one, and of each that was made smaller.
    fn letters(&self) -> String {
        let first = |name: String| fs::read(self.path(&name)).map_or('-', |t| t[0] as char);
        let plain = (1..=4).map(|n| first(format!("x.log.{n}")));
        let packed = (1..=4).map(|n| first(format!("x.log.{n}.gz")));
        let now = std::iter::once(first("x.log".into()));
        now.chain(plain).chain([' ']).chain(packed).collect()
    }
}

/// As a program does it that makes capital letters.
fn work(packing: &mut Packing) {
    let text = std::io::read_to_string(&packing.from).unwrap();
    packing
        .into
        .write_all(text[..1].to_uppercase().as_bytes())
        .unwrap();
}

#[test]
fn full_files_are_made_smaller_and_move_on_with_the_others() {
    let dir = Dir::new("packed");
    let mut file = dir.packed(3);
    let pack = |file: &mut LogFile| {
        let mut packing = file.begin_packing().unwrap();
        work(&mut packing);
        file.end_packing(packing, Ok(()));
    };
    fill(&mut file, "a");
    assert!(
        file.take_due() && file.begin_packing().is_none(),
        "looked for once"
    );
    assert!(!file.take_due());
    fill(&mut file, "b");
    assert!(file.take_due());
    assert_eq!(dir.letters(), "ba--- ----");
    pack(&mut file);
    assert_eq!(dir.letters(), "b---- A---");
    fill(&mut file, "c");
    assert_eq!(dir.letters(), "cb--- -A--");
    // The newest first; the other one has its turn.
    fill(&mut file, "d");
    assert_eq!(dir.letters(), "dcb-- --A-");
    pack(&mut file);
    assert_eq!(dir.letters(), "d-b-- C-A-");
    assert!(file.take_due());
    pack(&mut file);
    assert_eq!(dir.letters(), "d---- CBA-");
    // The oldest goes.
    fill(&mut file, "e");
    fill(&mut file, "f");
    assert_eq!(dir.letters(), "fed-- --C-");
    // Also where it is none that was made smaller, and where no more are made.
    file.spec.compress = Vec::new();
    file.reopen();
    fill(&mut file, "g");
    assert_eq!(dir.letters(), "gfed- ----");
    fill(&mut file, "h");
    assert_eq!(dir.letters(), "hgfe- ----");
    assert!(!file.take_due());
    assert!(!dir.path("x.log.gz-part").exists());
    assert_eq!(file.take_said(), Vec::<String>::new());
}

#[test]
fn a_file_that_moves_on_while_it_is_made_smaller_keeps_its_number() {
    let dir = Dir::new("moves");
    let mut file = dir.packed(2);
    fill(&mut file, "a");
    fill(&mut file, "b");
    let mut packing = file.begin_packing().unwrap();
    work(&mut packing);
    fill(&mut file, "c");
    assert_eq!(dir.letters(), "cba-- ----");
    file.end_packing(packing, Ok(()));
    assert_eq!(dir.letters(), "cb--- -A--");
    // Or is gone.
    let mut packing = file.begin_packing().unwrap();
    work(&mut packing);
    for text in ["d", "e"] {
        fill(&mut file, text);
    }
    assert_eq!(dir.letters(), "edc-- ----");
    file.end_packing(packing, Ok(()));
    assert_eq!(dir.letters(), "edc-- ----");
    assert!(!dir.path("x.log.gz-part").exists());
    assert_eq!(file.take_said(), Vec::<String>::new());
}

#[test]
fn what_a_killed_superd_has_begun_is_begun_anew_or_ended() {
    let dir = Dir::new("begun");
    let mut file = dir.packed(3);
    fill(&mut file, "a");
    fill(&mut file, "b");
    // While the program writes.
    let packing = file.begin_packing().unwrap();
    (&packing.into).write_all(b"half").unwrap();
    drop(packing);
    assert!(dir.path("x.log.gz-part").exists());
    let mut file = dir.packed(3);
    file.write(b"more\n", sec(1));
    assert!(file.take_due(), "looked for when it is opened");
    assert_eq!(dir.letters(), "mba-- ----");
    for letters in ["m-a-- B---", "m---- BA--"] {
        let mut packing = file.begin_packing().unwrap();
        assert_eq!(packing.length(), 16_002);
        work(&mut packing);
        file.end_packing(packing, Ok(()));
        assert_eq!(dir.letters(), letters);
    }
    // Between the two last steps.
    fs::write(dir.path("x.log.1"), "b").unwrap();
    assert!(file.begin_packing().is_none());
    assert_eq!(dir.letters(), "m---- BA--");
    // Both move on together.
    fs::write(dir.path("x.log.1"), "b").unwrap();
    fill(&mut file, "c");
    assert_eq!(dir.letters(), "cmb-- -BA-");
}

#[test]
fn what_cannot_be_made_smaller_stays_and_is_said_once() {
    let dir = Dir::new("unpacked");
    let mut file = dir.packed(3);
    fill(&mut file, "a");
    fill(&mut file, "b");
    for _ in 0..2 {
        let packing = file.begin_packing().unwrap();
        file.end_packing(packing, Err("it ended with status 1".to_owned()));
    }
    let said = file.take_said();
    assert_eq!(said.len(), 1, "{said:?}");
    let end = "x.log: compressing with gzip: it ended with status 1; full files stay as they are";
    assert!(
        said[0].starts_with("x: log file /") && said[0].ends_with(end),
        "{said:?}"
    );
    // Nothing is not less.
    let packing = file.begin_packing().unwrap();
    file.end_packing(packing, Ok(()));
    assert_eq!(dir.letters(), "ba--- ----");
    assert!(!dir.path("x.log.gz-part").exists());
    // Nothing is read or written by way of a link.
    fs::remove_file(dir.path("x.log.1")).unwrap();
    fs::write(dir.path("other"), "o").unwrap();
    symlink(dir.path("other"), dir.path("x.log.1")).unwrap();
    assert!(file.begin_packing().is_none());
    assert_eq!(fs::read(dir.path("other")).unwrap(), b"o");
}

#[test]
fn a_file_that_is_moved_or_shortened_by_somebody_else_is_noticed() {
    let dir = Dir::new("moved");
    let mut file = dir.file(1 << 20, 3);
    file.write(b"one\n", sec(1));
    fs::rename(dir.path("x.log"), dir.path("old")).unwrap();
    file.write(b"two\n", sec(3));
    assert_eq!(fs::read(dir.path("x.log")).unwrap(), b"two\n");
    fs::remove_file(dir.path("x.log")).unwrap();
    file.reopen();
    file.write(b"three\n", sec(3));
    assert_eq!(fs::read(dir.path("x.log")).unwrap(), b"three\n");
    fs::write(dir.path("x.log"), "").unwrap();
    file.write(b"four\n", sec(3));
    assert_eq!(fs::read(dir.path("x.log")).unwrap(), b"four\n");
    assert_eq!(fs::read(dir.path("old")).unwrap(), b"one\n");
}

#[test]
fn what_is_no_file_is_not_written_to_and_it_is_said_once() {
    let dir = Dir::new("strange");
    let target = dir.path("target");
    fs::write(&target, "precious").unwrap();
    let at = dir.path("x.log");
    type Make = fn(&Path, &Path);
    let kinds: [(Make, &str); 4] = [
        (|t, at| symlink(t, at).unwrap(), "it is a symbolic link"),
        (|t, at| fs::hard_link(t, at).unwrap(), "another name"),
        (|_, at| fs::create_dir(at).unwrap(), "it is a directory"),
        (
            |_, at| nix::unistd::mkfifo(at, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            "it is a FIFO",
        ),
    ];
    for (make, why) in kinds {
        make(&target, &at);
        let mut file = dir.file(1 << 20, 1);
        let (read, mut write) = pipe();
        for n in 1..5 {
            write.write_all(b"a\nb\n").unwrap();
            file.pass(read.as_fd(), b"a\nb\n", sec(n));
        }
        let said = file.take_said();
        assert!(said.len() == 1 && said[0].contains(why), "{said:?}");
        fs::remove_file(&at)
            .or_else(|_| fs::remove_dir(&at))
            .unwrap();
        file.write(b"c\n", sec(5));
        let said = file.take_said().concat();
        assert!(
            said.ends_with("written again; 8 lines were dropped"),
            "{said}"
        );
        assert_eq!(fs::read(&at).unwrap(), b"c\n");
        assert_eq!(crate::sys::shared::waiting_bytes(read.as_fd()).unwrap(), 0);
        fs::remove_file(&at).unwrap();
    }
    assert_eq!(fs::read(&target).unwrap(), b"precious");
}

#[test]
fn a_link_is_followed_only_where_nobody_else_could_have_made_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = Dir::new("links");
    fs::create_dir(dir.path("real")).unwrap();
    symlink("real", dir.path("link")).unwrap();
    let path = dir.path("link/x.log");
    let find = || Place::find(&path).map(|p| p.open().is_ok());
    assert!(find().unwrap());
    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o777)).unwrap();
    let said = find().unwrap_err().to_string();
    assert_eq!(said, "`link` is a link that others can change");
    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o1777)).unwrap();
    assert!(find().unwrap());
    symlink("loop", dir.path("loop")).unwrap();
    let e = Place::find(&dir.path("loop/x.log")).err().unwrap();
    assert_eq!(e.raw_os_error(), Some(libc::ELOOP));
}

#[test]
fn times_are_shown_in_utc() {
    for (s, text) in [
        (0, "1970-01-01T00:00:00.007Z "),
        (951_782_399, "2000-02-28T23:59:59.007Z "),
        (951_782_400, "2000-02-29T00:00:00.007Z "),
        (1_798_761_599, "2026-12-31T23:59:59.007Z "),
        (4_107_542_400, "2100-03-01T00:00:00.007Z "),
    ] {
        assert_eq!(utc(Duration::new(s, 7_000_000)), text);
    }
}

/// A superd that was killed in a write(2): a part is taken away, and what is whole stays.
#[test]
fn a_successor_settles_what_was_begun() {
    let dir = Dir::new("settle");
    let path = dir.path("x.log");
    for (there, is_done, left) in [
        ("one\n", false, "one\n"),
        ("one\ntw", false, "one\n"),
        ("one\ntwo\n", true, "one\ntwo\n"),
    ] {
        fs::write(&path, there).unwrap();
        assert_eq!(settle(path.to_str().unwrap(), 4, 4), is_done);
        assert_eq!(fs::read_to_string(&path).unwrap(), left);
    }
}
