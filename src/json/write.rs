//! Writing superd's own types as JSON: byte for byte what serde_json writes of them with serde's
//! derive, which a test compares.
//!
//! As for reading, a type is a list: the keys in one text, and for each a pointer to its value and
//! to the function that writes it. serde's derive makes a writer of every type instead.
//!
//! Everything is appended to a buffer, where it can be looked at and taken back: what is left out
//! where it is nothing has been written when that is seen.
//!
//! A little long: an impl for each type of std.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::{Fault, MARKS};
use crate::map::Map;

/// Can be written as JSON.
pub trait ToJson {
    /// Appends it.
    fn write(&self, to: &mut Writer<'_>);
}

/// Appends something to a buffer.
///
/// # Errors
/// JSON has no text for it; nothing is appended then.
pub fn append(to: &mut Vec<u8>, value: &dyn ToJson) -> Result<(), Fault> {
    let from = to.len();
    let mut writer = Writer { to, fault: None };
    value.write(&mut writer);
    match writer.fault {
        None => Ok(()),
        Some(what) => {
            to.truncate(from);
            Err(Fault::new(what))
        }
    }
}

/// The text of something.
///
/// # Errors
/// JSON has no text for it.
pub fn to_string(value: &dyn ToJson) -> Result<String, Fault> {
    let mut text = Vec::new();
    append(&mut text, value)?;
    String::from_utf8(text).map_err(|_| Fault::new("it is not UTF-8"))
}

/// Where it is appended.
pub struct Writer<'a> {
    to: &'a mut Vec<u8>,
    fault: Option<&'static str>,
}

impl Writer<'_> {
    /// The text of a string.
    #[inline(never)]
    pub fn text(&mut self, text: &str) {
        self.to.push(b'"');
        let mut rest = text.as_bytes();
        let is_special = |b: &u8| matches!(b, 0..0x20 | b'"' | b'\\');
        while let Some((plain, (special, behind))) = rest
            .iter()
            .position(is_special)
            .and_then(|n| Some((rest.get(..n)?, rest.get(n..)?.split_first()?)))
        {
            self.to.extend_from_slice(plain);
            self.escaped(*special);
            rest = behind;
        }
        self.to.extend_from_slice(rest);
        self.to.push(b'"');
    }

    #[inline(never)]
    fn escaped(&mut self, byte: u8) {
        let short = match byte {
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            b'"' | b'\\' => byte,
            _ => return self.display(format_args!("\\u{byte:04x}")),
        };
        self.to.extend_from_slice(&[b'\\', short]);
    }

    /// Something whose text needs no escapes and no quotes.
    #[inline(never)]
    fn display(&mut self, text: fmt::Arguments<'_>) {
        self.write_fmt(text).ok(); // a buffer takes everything
    }

    /// One of the names with a space between.
    #[inline(never)]
    pub fn variant(&mut self, names: &str, index: usize) {
        self.text(names.split(' ').nth(index).unwrap_or_default());
    }

    /// A whole number.
    #[inline(never)]
    fn number(&mut self, mut n: u64) {
        let from = self.to.len();
        loop {
            self.to.push(b'0' + (n % 10) as u8);
            n /= 10;
            if n == 0 {
                break;
            }
        }
        if let Some(digits) = self.to.get_mut(from..) {
            digits.reverse();
        }
    }

    /// An object of these members. `keys` has, with a space between, the key of each value:
    ///
    /// - `key` and `key~`: always there
    /// - `key?`: not there if the value is null
    /// - `key!`: not there if it is an empty string or list, false, or 0
    /// - `key=text`: this text; there is no value for it
    /// - `*`: the members of the value, which is an object
    #[inline(never)]
    pub fn members(&mut self, keys: &str, values: &[&dyn ToJson]) {
        let (start, mut values) = (self.to.len(), values.iter());
        for key in keys.split(' ') {
            let from = self.to.len();
            let before = if from == start { b'{' } else { b',' };
            if let Some((key, text)) = key.split_once('=') {
                self.key(before, key);
                self.text(text);
                continue;
            }
            let Some(value) = values.next() else { break };
            if key != "*" {
                self.key(before, key.trim_end_matches(MARKS));
            }
            let at = self.to.len();
            value.write(self);
            let written = self.to.get_mut(at..).unwrap_or_default();
            let is_left_out = match (key.as_bytes().last(), &*written) {
                (Some(b'?'), b"null") => true,
                (Some(b'!'), b"\"\"" | b"[]" | b"false" | b"0") => true,
                (Some(b'*'), b"{}") => true,
                (Some(b'*'), _) => {
                    if let Some(open) = written.first_mut() {
                        *open = before;
                    }
                    self.to.pop();
                    false
                }
                _ => false,
            };
            if is_left_out {
                self.to.truncate(from);
            }
        }
        if self.to.len() == start {
            self.to.push(b'{');
        }
        self.to.push(b'}');
    }

    /// A key needs no escapes.
    fn key(&mut self, before: u8, key: &str) {
        self.to.extend_from_slice(&[before, b'"']);
        self.to.extend_from_slice(key.as_bytes());
        self.to.extend_from_slice(b"\":");
    }

    /// Makes a key of the value that was written last: a number is a string as one.
    #[inline(never)]
    fn end_key(&mut self, from: usize) {
        if self.to.get(from) != Some(&b'"') {
            self.to.insert(from, b'"');
            self.to.push(b'"');
        }
        self.to.push(b':');
    }

    /// A list of things of different types.
    #[inline(never)]
    pub fn list(&mut self, values: &[&dyn ToJson]) {
        self.each(values);
    }

    /// A list of things of one type.
    #[inline(always)] // a part of its callers, which stand where packaging/hot.txt wants them
    fn each<'a, T: ToJson + 'a>(&mut self, values: impl IntoIterator<Item = &'a T>) {
        self.byte(b'[');
        for value in values {
            value.write(self);
            self.byte(b',');
        }
        self.end(b']');
    }

    #[inline(never)]
    fn byte(&mut self, byte: u8) {
        self.to.push(byte);
    }

    /// The end of a list or an object with a comma behind each of its elements.
    #[inline(never)]
    fn end(&mut self, bracket: u8) {
        if self.to.last() == Some(&b',') {
            self.to.pop();
        }
        self.to.push(bracket);
    }
}

impl Write for Writer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.to.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Members, as [`Writer::members`] takes them.
pub struct Members<'a>(pub &'a str, pub &'a [&'a dyn ToJson]);

impl ToJson for Members<'_> {
    fn write(&self, to: &mut Writer<'_>) {
        to.members(self.0, self.1);
    }
}

/// Values, as [`Writer::list`] takes them.
pub struct Values<'a>(pub &'a [&'a dyn ToJson]);

impl ToJson for Values<'_> {
    fn write(&self, to: &mut Writer<'_>) {
        to.list(self.0);
    }
}

// ---- types that are not ours ----

macro_rules! numbers {
    ($($type:ty)*) => { $(
        impl ToJson for $type {
            fn write(&self, to: &mut Writer<'_>) {
                to.number(*self as u64);
            }
        }
    )* };
}
numbers! { u8 u16 u32 u64 usize }

impl ToJson for i64 {
    fn write(&self, to: &mut Writer<'_>) {
        if *self < 0 {
            to.byte(b'-');
        }
        to.number(self.unsigned_abs());
    }
}

impl ToJson for i32 {
    fn write(&self, to: &mut Writer<'_>) {
        i64::from(*self).write(to);
    }
}

impl ToJson for bool {
    fn write(&self, to: &mut Writer<'_>) {
        let text: &[u8] = if *self { b"true" } else { b"false" };
        to.to.extend_from_slice(text);
    }
}

impl ToJson for str {
    fn write(&self, to: &mut Writer<'_>) {
        to.text(self);
    }
}

impl ToJson for String {
    fn write(&self, to: &mut Writer<'_>) {
        to.text(self);
    }
}

impl ToJson for char {
    fn write(&self, to: &mut Writer<'_>) {
        to.text(self.encode_utf8(&mut [0; 4]));
    }
}

impl ToJson for Path {
    fn write(&self, to: &mut Writer<'_>) {
        match self.to_str() {
            Some(text) => to.text(text),
            None => to.fault = Some("path contains invalid UTF-8 characters"),
        }
    }
}

impl ToJson for PathBuf {
    fn write(&self, to: &mut Writer<'_>) {
        self.as_path().write(to);
    }
}

impl ToJson for IpAddr {
    fn write(&self, to: &mut Writer<'_>) {
        to.display(format_args!("\"{self}\""));
    }
}

impl ToJson for SocketAddr {
    fn write(&self, to: &mut Writer<'_>) {
        to.display(format_args!("\"{self}\""));
    }
}

impl ToJson for Duration {
    fn write(&self, to: &mut Writer<'_>) {
        to.members("secs nanos", &[&self.as_secs(), &self.subsec_nanos()]);
    }
}

impl<T: ToJson + ?Sized> ToJson for &T {
    fn write(&self, to: &mut Writer<'_>) {
        (**self).write(to);
    }
}

impl<T: ToJson + ?Sized> ToJson for Box<T> {
    fn write(&self, to: &mut Writer<'_>) {
        (**self).write(to);
    }
}

impl<T: ToJson + ?Sized> ToJson for Rc<T> {
    fn write(&self, to: &mut Writer<'_>) {
        (**self).write(to);
    }
}

impl<T: ToJson + Copy> ToJson for Cell<T> {
    fn write(&self, to: &mut Writer<'_>) {
        self.get().write(to);
    }
}

impl<T: ToJson> ToJson for Option<T> {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Some(value) => value.write(to),
            None => to.to.extend_from_slice(b"null"),
        }
    }
}

impl<T: ToJson> ToJson for [T] {
    fn write(&self, to: &mut Writer<'_>) {
        to.each(self);
    }
}

impl<T: ToJson> ToJson for Vec<T> {
    fn write(&self, to: &mut Writer<'_>) {
        self.as_slice().write(to);
    }
}

impl<T: ToJson> ToJson for VecDeque<T> {
    fn write(&self, to: &mut Writer<'_>) {
        to.each(self);
    }
}

impl<K: ToJson, V: ToJson> ToJson for Map<K, V> {
    fn write(&self, to: &mut Writer<'_>) {
        to.byte(b'{');
        for (key, value) in self {
            let from = to.to.len();
            key.write(to);
            to.end_key(from);
            value.write(to);
            to.byte(b',');
        }
        to.end(b'}');
    }
}

macro_rules! tuples {
    ($(($($type:ident $n:tt)*))*) => { $(
        impl<$($type: ToJson),*> ToJson for ($($type,)*) {
            fn write(&self, to: &mut Writer<'_>) {
                to.list(&[$(&self.$n),*]);
            }
        }
    )* };
}
tuples! { (A 0 B 1) (A 0 B 1 C 2) (A 0 B 1 C 2 D 3) }

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use serde::Serialize;
    use superd_derive::ToJson;

    use super::*;

    /// What may be left out, in every form that superd has.
    #[derive(Clone, Default, Serialize, ToJson)]
    struct Left {
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        flag: bool,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        text: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        list: Vec<Option<u8>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        maybe: Option<bool>,
        #[serde(default, skip_serializing_if = "Duration::is_zero")]
        time: Duration,
    }

    #[derive(Serialize, ToJson)]
    struct Flat {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        first: Option<u8>,
        #[serde(flatten)]
        left: Left,
        #[serde(flatten)]
        kind: Kind,
    }

    #[derive(Clone, Serialize, ToJson)]
    #[serde(tag = "kind", rename_all = "kebab-case")]
    enum Kind {
        NoneYet,
        Left(Left),
        Two { at: (i32, PathBuf), left: Left },
    }

    #[test]
    fn what_is_left_out_is_what_serde_leaves_out() {
        let some = Left {
            flag: true,
            text: "null".into(),
            list: vec![None, Some(0)],
            maybe: Some(false),
            time: Duration::from_nanos(1),
        };
        for left in [Left::default(), some.clone()] {
            let at = (-1, "/".into());
            let two = Kind::Two {
                at,
                left: some.clone(),
            };
            for kind in [
                Kind::NoneYet,
                Kind::Left(some.clone()),
                Kind::Left(Left::default()),
                two,
            ] {
                for first in [None, Some(0)] {
                    let (left, kind) = (left.clone(), kind.clone());
                    let flat = Flat { first, left, kind };
                    let theirs = serde_json::to_string(&flat).unwrap();
                    assert_eq!(to_string(&flat).unwrap(), theirs);
                    let theirs = serde_json::to_string(&flat.left).unwrap();
                    assert_eq!(to_string(&flat.left).unwrap(), theirs);
                }
            }
        }
    }

    #[test]
    fn of_what_has_no_text_nothing_is_appended() {
        let mut to = b"{}".to_vec();
        let path = PathBuf::from(OsStr::from_bytes(b"/\xff"));
        let theirs = serde_json::to_string(&(String::from("a"), &path)).unwrap_err();
        let ours = append(&mut to, &(String::from("a"), &path)).unwrap_err();
        assert_eq!(ours.to_string(), theirs.to_string());
        assert_eq!(to, b"{}");
    }
}
