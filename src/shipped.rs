//! Files that are made from declarations in the code and shipped: a test holds each to what
//! it would be now, and writes it anew when it is told to.

use std::path::Path;

/// The file has this text. With `SUPERD_WRITE=1` it gets it.
pub fn assert_is(path: &Path, text: &str) {
    if std::env::var_os("SUPERD_WRITE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Another test may be reading it.
        let fresh = path.with_extension("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }
    let is = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        is == text,
        "{} is out of date: SUPERD_WRITE=1 cargo test --lib shipped",
        path.display()
    );
}
