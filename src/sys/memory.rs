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
    if nix::unistd::gettid().as_raw() != super::own_pid() {
        return; // other stacks have neighbours
    }
    give_back_stack();
    #[cfg(target_env = "musl")]
    give_back_program();
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes a number, and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A third of the code that an idle superd has run is for its command line and its configuration, and
/// nobody comes back to it before a reload. Nothing is mapped after this; what is needed comes back
/// from the page cache, in pieces of 64 KB (packaging/link.sh has put the rest elsewhere), and what is
/// not can leave that cache first. Only in programs for routers: what a loader has written into code, as
/// some do elsewhere, would be undone.
#[cfg(target_env = "musl")]
fn give_back_program() {
    extern "C" {
        // Of the linker: where the program's headers are, and where its code ends.
        static __executable_start: u8;
        static etext: u8;
    }
    let page = super::proc::page_size() as usize;
    let bottom = std::ptr::addr_of!(__executable_start).addr() / page * page;
    let length = std::ptr::addr_of!(etext).addr().saturating_sub(bottom) / page * page;
    // SAFETY: nothing writes between these addresses: constants and code, as they are in the file that
    // is mapped there, and from which they are read again. A gap between the two gives ENOMEM, after
    // both were done.
    unsafe {
        libc::madvise(
            std::ptr::with_exposed_provenance_mut(bottom),
            length,
            libc::MADV_DONTNEED,
        );
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
