//! Exit statuses of `status` (LSB: Init Script Actions), which init scripts rely on.

/// It runs; or it is a oneshot that is done.
pub const RUNNING: i32 = 0;
/// It is dead, and should not be.
pub const FAILED: i32 = 1;
/// It does not run.
pub const STOPPED: i32 = 3;
/// Nobody can say.
pub const UNKNOWN: i32 = 4;

/// What a state of superd's means to an init script. Whatever has processes is running.
pub fn of_state(state: &str) -> i32 {
    match state {
        "up" | "done" | "starting" | "stopping" | "killing" | "sweeping" => RUNNING,
        "backoff" | "failed" => FAILED,
        "down" | "waiting" | "scheduled" => STOPPED,
        _ => UNKNOWN,
    }
}

/// The one that says more about several services: unknown, failed, stopped, running.
pub fn worse(a: i32, b: i32) -> i32 {
    let weight = |code| match code {
        UNKNOWN => 3,
        FAILED => 2,
        STOPPED => 1,
        _ => 0,
    };
    if weight(b) > weight(a) {
        b
    } else {
        a
    }
}
