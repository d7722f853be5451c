//! Output that goes to a file of its own: bounded, whole, and nothing lost or there twice
//! when superd is killed.

use crate::support::*;
use std::fs;
use std::io::Write;

/// Says what it is told by the FIFO `say`.
const PARROT: &str = "[service.parrot]\ncommand = [\"/bin/bash\", \"-c\", \"mkfifo $DIR/say; \
    exec 3<>$DIR/say; echo begun; while read -r line <&3; do echo $line; done\"]\n";

/// Counts.
fn counter(lines: usize, output: &str) -> String {
    format!(
        "[service.count]\ncommand = [\"/bin/bash\", \"-c\", \"for ((n = 0; n < {lines}; n++)); do \
         echo number $n of this service; done; echo over; exec sleep 1000\"]\n\
         output = {output}\n"
    )
}

fn text(superd: &Superd, name: &str) -> String {
    fs::read_to_string(superd.place.file(name)).unwrap_or_default()
}

#[test]
fn a_flood_into_a_file_is_bounded_and_keeps_its_end() {
    let output = "{ file = \"$DIR/count.log\", max-size = \"16KiB\", keep = 2 }";
    let superd = Superd::start(&counter(5_000, output));
    wait_until("the end of the flood", || {
        text(&superd, "count.log").ends_with("over\n")
    });
    let files = ["count.log.2", "count.log.1", "count.log"];
    let all: String = files.map(|name| text(&superd, name)).concat();
    assert!(files
        .iter()
        .all(|name| text(&superd, name).len() <= 16 << 10));
    assert!(!superd.place.file("count.log.3").exists());
    let lines: Vec<&str> = all.lines().collect();
    let from = 5_000 + 1 - lines.len();
    for (n, line) in lines.iter().take(lines.len() - 1).enumerate() {
        assert_eq!(*line, format!("number {} of this service", from + n));
    }
    assert!(lines.len() > 1_000);
    // The ring is kept beside it.
    assert!(superd.ok(&["logs", "-n", "1", "count"]).contains("over"));
    let found = superd.ok(&["logs", "--since", "1h", "--grep", "r 4999 o", "count"]);
    assert!(found.trim_end().ends_with("number 4999 of this service"));
    assert_eq!(found.lines().count(), 1);
    assert_eq!(superd.ok(&["logs", "--grep", "no such", "count"]), "");
}

#[test]
fn no_line_in_a_file_is_lost_or_there_twice_when_superd_is_killed() {
    for stamps in ["", ", timestamps = true"] {
        const LINES: usize = 60_000;
        let output =
            format!("{{ file = \"$DIR/count.log\", max-size = \"256KiB\", keep = 50{stamps} }}");
        let mut superd = Superd::start(&counter(LINES, &output));
        let mut seen = 0;
        for _ in 0..6 {
            wait_until("some more of it", || {
                let names = (1..50).map(|n| format!("count.log.{n}"));
                let size =
                    |name: &str| fs::metadata(superd.place.file(name)).map_or(0, |m| m.len());
                let all = names.map(|n| size(&n)).sum::<u64>() + size("count.log");
                let is_more = all > seen + 50_000 || text(&superd, "count.log").contains("over\n");
                if is_more {
                    seen = all;
                }
                is_more
            });
            superd = superd.succeed();
        }
        wait_until("the end", || text(&superd, "count.log").ends_with("over\n"));
        let mut all = String::new();
        for n in (1..=50).rev() {
            all += &text(&superd, &format!("count.log.{n}"));
        }
        all += &text(&superd, "count.log");
        let mut n = 0;
        for line in all.lines() {
            let said = match stamps {
                "" => line,
                _ => line.split_once("Z ").unwrap().1,
            };
            match n {
                LINES => assert_eq!(said, "over"),
                n => assert_eq!(said, format!("number {n} of this service"), "{line}"),
            }
            n += 1;
        }
        assert_eq!(n, LINES + 1);
    }
}

#[test]
fn a_log_file_that_is_moved_is_made_again_and_a_missing_directory_is_said() {
    let output = "output = { file = \"$DIR/logs/parrot.log\" }\n";
    let superd = Superd::start(&(PARROT.to_owned() + output));
    wait_until("that it is said", || {
        superd
            .place
            .log()
            .contains("parrot.log: its directory: No such file")
    });
    let say = |line: &str| {
        let mut fifo = fs::OpenOptions::new()
            .write(true)
            .open(superd.place.file("say"));
        fifo.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    };
    fs::create_dir(superd.place.file("logs")).unwrap();
    wait_until("that it is written again", || {
        say("again\n");
        text(&superd, "logs/parrot.log").contains("again\n")
    });
    assert!(superd.place.log().contains("lines were dropped"));
    fs::rename(
        superd.place.file("logs/parrot.log"),
        superd.place.file("old"),
    )
    .unwrap();
    superd.ok(&["reload"]);
    say("after\n");
    wait_until("the new file", || {
        text(&superd, "logs/parrot.log").ends_with("after\n")
    });
    assert!(!text(&superd, "old").contains("after"));
}
