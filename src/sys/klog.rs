//! The kernel's log, to find out whom the kernel has killed for want of memory.
//!
//! /dev/kmsg is opened once, at its end, and read when somebody has died of a SIGKILL: what is
//! new then is mostly nothing, one system call. (klogctl(3) copies the end of the log at any
//! time, but goes through all of it: 0.2 ms with 500 messages, and a restart waits for that.)
//! Only when more is new than `NEW` messages the end is read that way. Neither waits for anything.
//!
//! Reading needs CAP_SYSLOG where `kernel.dmesg_restrict` is set, and is not possible in most
//! containers: then nobody is found.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// So many new messages are read one by one.
const NEW: usize = 64;

/// The longest message (CONSOLE_EXT_LOG_MAX).
const RECORD: usize = 8192;

/// How much of the end of the log is looked at otherwise.
const TAIL: usize = 32 * 1024;

/// Kills that are remembered: two services may have died before anybody looks.
const KILLS: usize = 32;

/// SYSLOG_ACTION_READ_ALL (syslog(2)).
const READ_ALL: libc::c_int = 3;

/// The kernel's log, from the time of opening on.
#[derive(Debug, Default)]
pub struct Klog {
    /// None where it cannot be read.
    file: Option<File>,
    kills: Vec<Kill>,
}

/// A process that was killed, and when, in seconds after boot, if that was said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Kill {
    pid: i32,
    at: Option<u64>,
}

impl Klog {
    /// Opens it at its end. Where that is not allowed, nobody will be found.
    pub fn open() -> Klog {
        let file = super::file::open(Path::new("/dev/kmsg"), libc::O_NONBLOCK, 0)
            .and_then(|mut file| file.seek(SeekFrom::End(0)).map(|_| file));
        Klog {
            file: file.ok(),
            kills: Vec::new(),
        }
    }

    /// Whether the kernel has killed this process for want of memory, not earlier than
    /// `since` (seconds of CLOCK_MONOTONIC, which is nearly what the kernel writes; numbers
    /// of processes come back).
    pub fn has_killed(&mut self, pid: i32, since: u64) -> bool {
        self.read_new();
        let is_it = |k: &Kill| k.pid == pid && k.at.is_none_or(|at| at >= since);
        self.kills.iter().any(is_it)
    }

    fn read_new(&mut self) {
        let Some(file) = &mut self.file else {
            return;
        };
        let mut record = [0_u8; RECORD];
        let mut found = Vec::new();
        let mut is_all = false;
        for _ in 0..NEW {
            match file.read(&mut record) {
                Ok(n) if n > 0 => {
                    let text = String::from_utf8_lossy(record.get(..n).unwrap_or_default());
                    found.extend(in_record(&text));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    is_all = true;
                    break;
                }
                // EPIPE: the log has gone round, what was next is lost.
                Ok(_) | Err(_) => break,
            }
        }
        if !is_all {
            found.extend(tail().lines().filter_map(in_line));
            file.seek(SeekFrom::End(0)).ok(); // it was possible before
        }
        self.kills.extend(found);
        let more = self.kills.len().saturating_sub(KILLS);
        self.kills.drain(..more);
    }
}

/// The last 32 KiB of the log.
fn tail() -> String {
    let mut buffer = vec![0_u8; TAIL];
    let length = libc::c_int::try_from(buffer.len()).unwrap_or(0);
    // SAFETY: klogctl(3) with SYSLOG_ACTION_READ_ALL writes at most as many bytes as it is
    // told, which is the length of the buffer.
    let n = unsafe { libc::klogctl(READ_ALL, buffer.as_mut_ptr().cast(), length) };
    let read = usize::try_from(n).unwrap_or(0).min(buffer.len());
    String::from_utf8_lossy(buffer.get(..read).unwrap_or_default()).into_owned()
}

/// `3,1234,5678901234,-;Out of memory: Killed process 4711 (name) ...`: priority, number,
/// microseconds (Documentation/ABI/testing/dev-kmsg).
fn in_record(record: &str) -> Option<Kill> {
    let (head, message) = record.split_once(';')?;
    let micros: Option<u64> = head.split(',').nth(2).and_then(|t| t.parse().ok());
    Some(Kill {
        pid: in_message(message)?,
        at: micros.map(|t| t / 1_000_000),
    })
}

/// `<3>[  123.456789] Out of memory: Killed process 4711 (name) ...`
fn in_line(line: &str) -> Option<Kill> {
    let line = line.split_once('>').map_or(line, |(_, rest)| rest);
    let (at, message) = match line.strip_prefix('[').and_then(|l| l.split_once("] ")) {
        Some((time, message)) => (time.trim().split('.').next()?.parse().ok(), message),
        None => (None, line),
    };
    Some(Kill {
        pid: in_message(message)?,
        at,
    })
}

/// A message that begins like that; what follows the pid is the process's own choice.
fn in_message(message: &str) -> Option<i32> {
    let rest = message
        .strip_prefix("Out of memory: ")
        .or_else(|| message.strip_prefix("Memory cgroup out of memory: "))
        .or_else(|| message.strip_prefix("Out of memory (oom_kill_allocating_task): "))?;
    let rest = rest.strip_prefix("Killed process ")?;
    rest.split_once(" (")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_for_want_of_memory_is_read_from_both_forms_of_the_log() {
        let kill = |pid, at| Some(Kill { pid, at });
        let record = "3,991,2001123456,-;Out of memory: Killed process 4711 (caddy) total-vm:1kB\n";
        assert_eq!(in_record(record), kill(4711, Some(2001)));
        let cgroup =
            "3,1,5,-;Memory cgroup out of memory: Killed process 99 (x Killed process 7 ()";
        assert_eq!(in_record(cgroup), kill(99, Some(0)));
        let line = "<3>[ 2001.123456] Out of memory: Killed process 4711 (caddy) total-vm:1kB";
        assert_eq!(in_line(line), kill(4711, Some(2001)));
        let timeless = "<3>Out of memory: Killed process 12 (old) total-vm:1kB";
        assert_eq!(in_line(timeless), kill(12, None));
        for other in [
            "6,1,5,-;evil: Out of memory: Killed process 8 (x)",
            "6,1,5,-;Out of memory: Killed process 8",
            "6,1,5,-;Out of memory: Killed process eight (x)",
            "6,1,5,-;oom_reaper: reaped process 8 (x)",
            "",
        ] {
            assert_eq!(in_record(other), None, "{other}");
        }
    }

    #[test]
    fn a_number_that_came_back_is_not_the_one_that_was_killed() {
        let at = |at| Klog {
            file: None,
            kills: vec![Kill { pid: 7, at }],
        };
        assert!(at(Some(100)).has_killed(7, 100));
        assert!(!at(Some(100)).has_killed(7, 101) && !at(Some(100)).has_killed(8, 0));
        assert!(at(None).has_killed(7, 101), "no time, no doubt");
    }

    #[test]
    fn garbage_and_the_real_log_do_no_harm() {
        let mut seed = 3_u32;
        let words = [
            "<3>[",
            "] ",
            "12.",
            "Out of memory: ",
            "Killed process 1 (",
            "\n",
            "é[",
            ";",
            ",",
        ];
        for _ in 0..5_000 {
            let mut text = String::new();
            for _ in 0..12 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                text.push_str(words[(seed >> 16) as usize % words.len()]);
            }
            in_record(&text);
            in_line(&text);
        }
        assert!(tail().len() <= 4 * TAIL);
        let mut log = Klog::open();
        assert!(!log.has_killed(-1, 0));
        assert!(log.kills.len() <= KILLS);
    }
}
