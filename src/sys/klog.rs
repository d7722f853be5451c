//! The last messages of the kernel, to find out whom it has killed for want of memory.
//!
//! klogctl(3) copies the end of the ring in one call, however long that is; /dev/kmsg can only
//! be read from its beginning, a system call for each message. Reading needs CAP_SYSLOG where
//! `kernel.dmesg_restrict` is set, and is not possible in most containers.

/// How much of the end of the kernel's ring is looked at.
const TAIL: usize = 32 * 1024;

/// SYSLOG_ACTION_READ_ALL (syslog(2)).
const READ_ALL: libc::c_int = 3;

/// The last 32 KiB of the kernel's messages; nothing where they may not be read. Does not
/// wait.
pub fn tail() -> String {
    let mut buffer = vec![0_u8; TAIL];
    let length = libc::c_int::try_from(buffer.len()).unwrap_or(0);
    // SAFETY: klogctl(3) with SYSLOG_ACTION_READ_ALL writes at most as many bytes as it is
    // told, which is the length of the buffer.
    let n = unsafe { libc::klogctl(READ_ALL, buffer.as_mut_ptr().cast(), length) };
    let read = usize::try_from(n).unwrap_or(0).min(buffer.len());
    String::from_utf8_lossy(buffer.get(..read).unwrap_or_default()).into_owned()
}

/// Whether these messages say that the kernel has killed this process for want of memory,
/// not earlier than `since` (seconds of CLOCK_MONOTONIC, which is nearly what the kernel
/// prints; numbers of processes come back). A message without its time counts.
pub fn says_out_of_memory(messages: &str, pid: i32, since: u64) -> bool {
    let killed = format!("Killed process {pid} (");
    // "<3>[  123.456789] Out of memory: Killed process 4711 (name) ..."; also "Memory cgroup
    // out of memory: Killed process ...".
    messages.lines().any(|line| {
        let is_kill = line
            .split_once(&killed)
            .is_some_and(|(before, _)| before.to_ascii_lowercase().contains("out of memory: "));
        is_kill && time_of(line).is_none_or(|at| at >= since)
    })
}

/// The seconds in `<3>[  123.456789] ...`.
fn time_of(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once('[')?;
    let (time, _) = rest.split_once(']')?;
    time.trim().split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "<6>[  100.000001] eth0: link up
<3>[ 2001.123456] Out of memory: Killed process 4711 (caddy) total-vm:1234kB, anon-rss:99kB
<3>[ 2050.000000] Memory cgroup out of memory: Killed process 99 (evil: Killed process 7 () total-vm:1kB
<6>[ 2060.000000] evil: Out of memory, says Killed process 8 (x)
<3>Out of memory: Killed process 12 (old) total-vm:1kB
";

    #[test]
    fn who_was_killed_for_want_of_memory_is_found_by_pid_and_time() {
        assert!(says_out_of_memory(LOG, 4711, 2000));
        assert!(
            !says_out_of_memory(LOG, 4711, 2002),
            "another one of that number"
        );
        assert!(says_out_of_memory(LOG, 99, 0));
        assert!(says_out_of_memory(LOG, 12, 5000), "no time, no doubt");
        assert!(!says_out_of_memory(LOG, 471, 0) && !says_out_of_memory(LOG, 11, 0));
        assert!(!says_out_of_memory(LOG, 8, 0));
    }

    #[test]
    fn garbage_and_the_real_log_do_no_harm() {
        let mut seed = 3_u32;
        for _ in 0..5_000 {
            let mut text = String::new();
            for _ in 0..12 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let words = [
                    "<3>[",
                    "]",
                    "12.",
                    "Out of memory: ",
                    "Killed process 1 (",
                    "\n",
                    "é[",
                ];
                text.push_str(words[(seed >> 16) as usize % words.len()]);
            }
            says_out_of_memory(&text, 1, 5);
        }
        assert!(tail().len() <= 4 * TAIL);
    }
}
