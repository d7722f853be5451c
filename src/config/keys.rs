//! The keys of the configuration, each declared once.
//!
//! The checks, the suggestions for mistyped keys and the tests that hold superd.toml(5)
//! and `etc/superd.toml` to the truth all read these lists.

/// The top level of the main file.
pub const TOP: &[&str] = &["daemon", "defaults", "service", "include"];

/// `[daemon]`.
pub const DAEMON: &[&str] = &[
    "run-dir",
    "log",
    "control-group",
    "status-group",
    "shutdown-deadline",
    "cgroup",
    "ring",
    "crash-reports",
    "crash-dir",
    "crash-keep",
    "crash-pause",
    "known-faults",
];

/// `[service.NAME]`.
pub const SERVICE: &[&str] = &[
    "command",
    "type",
    "remain",
    "every",
    "at",
    "after",
    "requires",
    "wants",
    "restart-with",
    "conflicts",
    "wait-for",
    "user",
    "group",
    "groups",
    "umask",
    "nice",
    "oom-score-adj",
    "environment",
    "environment-file",
    "directory",
    "limits",
    "notify",
    "output",
    "autostart",
    "ready",
    "ready-after",
    "start-timeout",
    "health",
    "watchdog",
    "stop",
    "leftover-grace",
    "restart",
    "restart-delay",
    "max-delay",
    "stable",
    "crash-loop",
    "success-exit",
    "reload",
    "check",
    "check-timeout",
    "watch",
    "on-change",
    "pre-start",
    "post-start",
    "pre-stop",
    "post-stop",
    "on-crash",
    "max-connections",
    "sockets",
    "memory-max",
    "memory-high",
    "pids-max",
    "cpu-weight",
    "cpu-max",
    "io-weight",
    "capabilities",
    "no-new-privileges",
    "private-tmp",
    "read-only-paths",
    "writable-paths",
    "network-namespace",
    "optional",
];

/// Keys of a service that may stand in its `optional`.
pub const OPTIONAL: &[&str] = &[
    "memory-max",
    "memory-high",
    "pids-max",
    "cpu-weight",
    "cpu-max",
    "io-weight",
    "capabilities",
    "no-new-privileges",
    "private-tmp",
    "read-only-paths",
    "writable-paths",
    "network-namespace",
];

/// Keys of a service that make no sense in `[defaults]`.
pub const NOT_IN_DEFAULTS: &[&str] = &[
    "command",
    "type",
    "remain",
    "every",
    "at",
    "after",
    "requires",
    "wants",
    "restart-with",
    "conflicts",
    "sockets",
];

/// A step of `stop`.
pub const STEP: &[&str] = &[
    "signal", "run", "http", "drain", "ports", "idle", "to", "until", "wait", "settle",
];

/// `ready`.
pub const READY: &[&str] = &[
    "notify",
    "notify-fd",
    "tcp",
    "http",
    "status",
    "exec",
    "log",
    "file",
    "interval",
    "timeout",
];

/// `wait-for`.
pub const WAIT_FOR: &[&str] = &["interface", "path", "address", "time", "timeout", "then"];

/// `health`.
pub const HEALTH: &[&str] = &[
    "tcp", "http", "status", "exec", "memory", "interval", "timeout", "failures", "action", "run",
];

/// `output`, where it is a file.
pub const OUTPUT: &[&str] = &["file", "max-size", "keep", "timestamps", "compress"];

/// `crash-loop`.
pub const CRASH_LOOP: &[&str] = &["burst", "within", "retry"];

/// `max-connections`.
pub const MAX_CONNECTIONS: &[&str] = &["high", "low"];

/// `reload`.
pub const RELOAD: &[&str] = &["signal", "run", "http", "wait"];

/// `pre-start` and the other hooks.
pub const HOOK: &[&str] = &["run", "timeout"];

/// `[[fault]]` of the file of known faults.
pub const FAULT: &[&str] = &[
    "name",
    "program",
    "versions",
    "text",
    "frame",
    "what",
    "fixed",
    "meanwhile",
    "source",
];

/// Words that people bring along from elsewhere, and what they are called here.
pub const ELSEWHERE: &[(&str, &str)] = &[
    ("args", "command"),
    ("argv", "command"),
    ("cmd", "command"),
    ("exec", "command"),
    ("program", "command"),
    ("cwd", "directory"),
    ("workdir", "directory"),
    ("working-directory", "directory"),
    ("depends", "requires"),
    ("waits-for", "wants"),
    ("part-of", "restart-with"),
    ("binds-to", "requires"),
    ("remain-after-exit", "remain"),
    ("depends-on", "requires"),
    ("env", "environment"),
    ("env-file", "environment-file"),
    ("exit-codes", "success-exit"),
    ("grace", "wait"),
    ("timeout", "wait"),
    ("respawn", "restart"),
    ("services", "service"),
    ("memory-limit", "memory-max"),
    ("tasks-max", "pids-max"),
    ("cpu-quota", "cpu-max"),
    ("ambient-capabilities", "capabilities"),
    ("read-only", "read-only-paths"),
    ("read-write-paths", "writable-paths"),
    ("netns", "network-namespace"),
    ("no-new-privs", "no-new-privileges"),
    ("target", "to"),
    ("watch-files", "watch"),
    ("watch-paths", "watch"),
    ("exec-start-pre", "pre-start"),
    ("exec-start-post", "post-start"),
    ("exec-stop-post", "post-stop"),
    ("start-pre", "pre-start"),
    ("start-post", "post-start"),
    ("stop-pre", "pre-stop"),
    ("stop-post", "post-stop"),
    ("on-failure", "on-crash"),
];
