//! Cuts a stream of bytes into lines, wherever the chunks happen to end.

use super::LINE_CAP;

/// The beginning of a line whose end has not come yet.
#[derive(Default)]
pub struct Splitter {
    partial: Vec<u8>,
    /// What follows is the end of a line that was forgotten.
    is_inside: bool,
}

impl Splitter {
    /// One that has had the beginning of a line.
    pub fn kept(partial: Vec<u8>) -> Splitter {
        Splitter {
            partial,
            is_inside: false,
        }
    }

    /// Takes a chunk; each complete line goes to `line`, without its newline and without
    /// a carriage return before it. Lines over [`LINE_CAP`] come in pieces.
    pub fn push(&mut self, chunk: &[u8], line: &mut dyn FnMut(&[u8])) {
        let mut rest = chunk;
        if self.is_inside {
            let end = memchr::memchr(b'\n', chunk);
            // One that is longer than a line is shown after all.
            self.is_inside = end.is_none() && chunk.len() < LINE_CAP;
            rest = match end {
                Some(end) => chunk.get(end + 1..).unwrap_or_default(),
                None if self.is_inside => &[],
                None => chunk,
            };
        }
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (head, tail) = rest.split_at_checked(end).unwrap_or((rest, &[]));
            rest = tail.get(1..).unwrap_or_default();
            if self.partial.is_empty() {
                whole(head, line);
            } else {
                self.extend(head, line);
                whole(&self.partial, line);
                self.partial.clear();
            }
        }
        self.extend(rest, line);
        if self.partial.is_empty() && self.partial.capacity() > 0 {
            self.partial = Vec::new();
        }
    }

    /// What is left counts as a line, and what follows is another one.
    pub fn finish(&mut self, line: &mut dyn FnMut(&[u8])) {
        let partial = std::mem::take(&mut self.partial);
        self.is_inside = false;
        if !partial.is_empty() {
            whole(&partial, line);
        }
    }

    /// What is left, for a superd that becomes another program.
    pub fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// What is left is thrown away, and what comes up to the end of its line.
    pub fn forget(&mut self) {
        self.partial = Vec::new();
        self.is_inside = true;
    }

    /// Adds to the partial line. A full piece goes out once it is sure that more than a
    /// carriage return follows it.
    fn extend(&mut self, bytes: &[u8], line: &mut dyn FnMut(&[u8])) {
        let mut rest = bytes;
        while self.partial.len() + rest.len() > LINE_CAP + 1 {
            let room = LINE_CAP.saturating_sub(self.partial.len());
            let (head, tail) = rest.split_at_checked(room).unwrap_or((rest, &[]));
            self.partial.extend_from_slice(head);
            rest = tail;
            line(self.partial.get(..LINE_CAP).unwrap_or_default());
            self.partial.drain(..LINE_CAP.min(self.partial.len()));
        }
        self.partial.extend_from_slice(rest);
    }
}

fn whole(text: &[u8], line: &mut dyn FnMut(&[u8])) {
    let mut text = match text {
        [text @ .., b'\r'] => text, // `strip_suffix` is a call for each line
        text => text,
    };
    while let Some((piece, after)) = text.split_at_checked(LINE_CAP) {
        if after.is_empty() {
            break;
        }
        line(piece);
        text = after;
    }
    line(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let mut s = Splitter::default();
        for c in chunks {
            s.push(c, &mut |l| out.push(l.to_vec()));
        }
        s.finish(&mut |l| out.push(l.to_vec()));
        out
    }

    #[test]
    fn what_was_forgotten_leaves_no_part_of_a_line() {
        let mut out: Vec<Vec<u8>> = Vec::new();
        let mut s = Splitter::default();
        let mut push = |s: &mut Splitter, text: &[u8]| s.push(text, &mut |l| out.push(l.to_vec()));
        push(&mut s, b"one\ntw");
        s.forget();
        push(&mut s, b"");
        push(&mut s, b"o");
        push(&mut s, b"o\nthree\nfo");
        push(&mut s, b"ur\n");
        s.forget();
        push(&mut s, &[b'x'; LINE_CAP]);
        push(&mut s, b"\n");
        assert_eq!(
            out[..3],
            [b"one".to_vec(), b"three".to_vec(), b"four".to_vec()]
        );
        assert_eq!(out[3..], [vec![b'x'; LINE_CAP]]);
    }

    #[test]
    fn however_it_is_cut_the_lines_are_the_same() {
        let mut text = b"one\n\ntwo\r\n\0three\xff\n".to_vec();
        text.extend_from_slice(&[b'x'; LINE_CAP]);
        text.push(b'\n');
        text.extend_from_slice(&[b'w'; LINE_CAP]);
        text.extend_from_slice(b"\r\n");
        text.extend_from_slice(&[b'v'; LINE_CAP + 1]);
        text.push(b'\n');
        text.extend_from_slice(&[b'y'; 2 * LINE_CAP + 7]);
        text.extend_from_slice(b"\nend");
        let whole = lines(&[&text]);
        assert_eq!(whole.len(), 4 + 1 + 1 + 2 + 3 + 1);
        assert!(whole.iter().all(|l| l.len() <= LINE_CAP));
        let mut seed = 1_u32;
        for _ in 0..300 {
            let mut chunks: Vec<&[u8]> = Vec::new();
            let mut rest = text.as_slice();
            while !rest.is_empty() {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let max = if seed & 4 == 0 { 5_000 } else { 9 };
                let n = ((seed >> 16) as usize % max + 1).min(rest.len());
                chunks.push(&rest[..n]);
                rest = &rest[n..];
            }
            assert_eq!(lines(&chunks), whole);
        }
    }
}
