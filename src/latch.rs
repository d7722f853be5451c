//! The latch: the one atomic state word.
