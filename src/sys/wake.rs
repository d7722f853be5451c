//! One byte into a self-pipe, from a signal handler.

/// Writes one byte. A full pipe or a closed descriptor is no error worth telling: the
/// reader is awake, or gone. Async-signal-safe.
pub fn write_byte(fd: i32) {
    let byte = 1_u8;
    // SAFETY: write(2) reads one byte from a valid pointer; it is async-signal-safe
    // (signal-safety(7)).
    unsafe { libc::write(fd, std::ptr::from_ref(&byte).cast(), 1) };
}
