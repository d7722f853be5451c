//! A full file made smaller by a program (`compress`): FILE.1 becomes FILE.1.gz. Only the
//! files; the program is `packer.rs`'s.
//!
//! What the program writes has another name until it has ended well. Then the new file gets
//! its name, and only then the old one goes: whoever is killed anywhere leaves the old file, or
//! both, and what is half done under the other name, which is removed before the next try. Files
//! may be turned over meanwhile: the file that was read is known by what it is, not by its number.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::fcntl::renameat;

use super::place::Place;

/// One that is under way.
pub struct Packing {
    place: Place,
    /// The full file.
    pub from: File,
    /// What becomes of it.
    pub into: File,
    length: u64,
}

impl Packing {
    /// Of the newest full file that is as it was; none: there is none.
    ///
    /// # Errors
    /// Of opening both.
    pub fn begin(place: Place, keep: u32) -> io::Result<Option<Packing>> {
        place.remove(&place.part()); // of an earlier superd
        for n in 1..=keep {
            let (plain, packed) = (place.numbered(n), place.packed(n));
            if !place.holds(&plain) {
                continue;
            }
            if place.holds(&packed) {
                place.remove(&plain); // superd was killed right before this
                continue;
            }
            let from = place.open_full(&plain)?;
            let into = place.create(&place.part())?;
            let length = from.metadata()?.len();
            return Ok(Some(Packing {
                place,
                from,
                into,
                length,
            }));
        }
        Ok(None)
    }

    /// Whether it is a file of the one at this path.
    pub fn is_at(&self, path: &str) -> bool {
        self.place.path() == Path::new(path)
    }

    /// Bytes of the full file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The program has ended well: what it has written takes the place of what it has read.
    ///
    /// # Errors
    /// Of renameat(2); and if it has written nothing. Then the full file stays.
    pub fn finish(self, keep: u32) -> io::Result<()> {
        let place = &self.place;
        if self.into.metadata()?.len() == 0 {
            self.abandon();
            return Err(io::Error::other("it has written nothing"));
        }
        let is_it = |n: &u32| place.is_named(&place.numbered(*n), &self.from);
        let Some(n) = (1..=keep).find(is_it) else {
            self.abandon(); // it was the last one, and is gone
            return Ok(());
        };
        if let Err(e) = renameat(place.dir(), &*place.part(), place.dir(), &*place.packed(n)) {
            self.abandon();
            return Err(e.into());
        }
        place.remove(&place.numbered(n));
        Ok(())
    }

    /// Nothing becomes of it: the full file stays as it is.
    pub fn abandon(&self) {
        self.place.remove(&self.place.part());
    }
}
