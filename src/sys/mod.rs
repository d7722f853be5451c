//! The kernel's interfaces: thin, named wrappers, and the only unsafe code.
