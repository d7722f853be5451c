//! Memory that was needed once goes back to the kernel.

/// So much stack below the caller stays: it is about to be used.
const MARGIN: usize = 16 * 1024;
/// So much is looked at below that. The kernel maps nothing within 1 MiB below a stack
/// (`stack_guard_gap`), so no memory of anybody else's is reached.
const REACH: usize = 256 * 1024;

/// To be called when the command line and the configuration have been read. That takes deep
/// stack and much heap once; what superd keeps of it would be copied, page by page, with
/// every fork. Costs some ten microseconds. Does nothing but on the main thread.
pub fn give_back() {
    if nix::unistd::gettid() != nix::unistd::getpid() {
        return; // other stacks have neighbours
    }
    give_back_stack();
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes a number, and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[inline(never)]
fn give_back_stack() {
    let here = std::hint::black_box(0_u8);
    let page = super::proc::page_size() as usize;
    let top = (std::ptr::from_ref(&here).addr() - MARGIN) / page * page;
    let bottom = top.saturating_sub(REACH);
    // SAFETY: the stack grows downwards, and this range lies below all that is in use: more
    // than a signal handler needs below this frame, and above whatever else is mapped. What
    // of it is not mapped gives ENOMEM, which is as good.
    unsafe {
        libc::madvise(
            std::ptr::with_exposed_provenance_mut(bottom),
            top - bottom,
            libc::MADV_DONTNEED,
        );
    }
}
